"""The names of torchvision's models, and figures of them with weights made by a formula: keys.txt and models.lua.

    /usr/bin/python3 tests/golden/make_models.py

Weights, inputs and labels are functions of their position in whole-number arithmetic (value() below and in
test_golden.lua), so no weights need to be stored. Everything is computed in f64.
"""
import os

import numpy
import torch
import torchvision

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = ('deeplabv3_mobilenet_v3_large', 'deeplabv3_resnet50', 'deeplabv3_resnet101')
CLASSES = 5
BATCH_NORM = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')


def build(name, classes):
    return getattr(torchvision.models.segmentation, name)(weights=None, weights_backbone=None, num_classes=classes, aux_loss=True)


# -- Names ------------------------------------------------------------------------------------------------------

def key_lines(model):
    """name sizes, in order; the five entries of a batch norm are one line."""
    lines = []
    modules = dict(model.named_modules())
    for key, tensor in model.state_dict().items():
        prefix, last = key.rsplit('.', 1)
        if isinstance(modules[prefix], torch.nn.BatchNorm2d):
            if last == 'weight':
                lines.append('%s batch_norm %d' % (prefix, tensor.numel()))
            assert last in BATCH_NORM
        else:
            lines.append('%s %s' % (key, 'x'.join(map(str, tensor.shape))))
    return lines


# -- Figures ----------------------------------------------------------------------------------------------------

def value(entry, shape):
    """Pseudorandom numbers in [0, 1) from the entry's number and the row-major position."""
    i = numpy.arange(int(numpy.prod(shape)), dtype=numpy.int64)
    a = (i * 1103515 + entry * 12345 + 7) % 65521
    return torch.from_numpy((((a * a + i) % 65521) / 65521.0).reshape(shape))


def fill(model):
    modules = dict(model.named_modules())
    for entry, (key, tensor) in enumerate(model.state_dict().items()):
        prefix, last = key.rsplit('.', 1)
        if last == 'num_batches_tracked':
            continue
        u = value(entry, tuple(tensor.shape))
        if isinstance(modules[prefix], torch.nn.BatchNorm2d):
            v = {'weight': 0.5 + u, 'bias': u - 0.5, 'running_mean': 0.2 * u - 0.1, 'running_var': 0.5 + u}[last]
        elif last == 'weight':
            v = (2 * u - 1) * (6.0 / numpy.prod(tensor.shape[1:])) ** 0.5
        else:
            v = u - 0.5
        tensor.copy_(v.float().to(tensor.dtype))
    for module in modules.values():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def batch(h, w):
    x = (2 * value(1000, (2, 3, h, w)) - 1).float().double()
    target = (value(1001, (2, h, w)) * (CLASSES + 1)).floor().long()
    target[target == CLASSES] = 255
    return x, target


def numbers(tensor):
    return '{' + ', '.join('%.11g' % v for v in tensor.flatten().tolist()) + '}'


def picked(tensor):
    """Eight elements spread over a tensor, and its largest magnitude."""
    flat = tensor.flatten()
    at = [k * (flat.numel() - 1) // 7 for k in range(8)]
    return 'largest = %.11g,\n       values = %s' % (flat.abs().max(), numbers(flat[at]))


def figures(name, h, w, train):
    model = build(name, CLASSES).double()
    fill(model)
    x, target = batch(h, w)
    with torch.no_grad():
        out = model.eval()(x)
    lines = ['  {model = %r, h = %d, w = %d,' % (name, h, w)]
    for head in ('out', 'aux'):
        lines.append('    %s = {%s},' % (head, picked(out[head])))
    if train:
        out = model.train()(x)
        loss = sum(f * torch.nn.functional.cross_entropy(out[head], target, ignore_index=255) for head, f in (('out', 1.0), ('aux', 0.5)))
        loss.backward()
        lines.append('    loss = %.15g,' % loss)
        parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
        lines.append('    gradients = {')
        for key in list(parameters)[::9]:
            grad = parameters[key].grad
            lines.append('      {%r, norm = %.11g, %s},' % (key, grad.norm(), picked(grad)))
        lines.append('    },')
        lines.append('    statistics = {')
        for key in [k for k in buffers if 'running' in k][::9]:
            lines.append('      {%r, %s},' % (key, picked(buffers[key])))
        lines.append('    },')
    lines.append('  },')
    return lines


def main():
    with open(os.path.join(HERE, 'keys.txt'), 'w') as file:
        for name in NAMES:
            model = build(name, 21)
            lines = key_lines(model)
            file.write('# %s: %d entries, %d parameters\n' % (name, len(model.state_dict()), sum(p.numel() for p in model.parameters())))
            file.write('\n'.join(lines) + '\n')
    with open(os.path.join(HERE, 'models.lua'), 'w') as file:
        file.write('-- models.lua - made by make_models.py from torchvision in f64: figures of models whose weights are a formula.\nreturn {\n')
        file.write('\n'.join(figures(NAMES[0], 33, 41, True) + figures(NAMES[1], 33, 25, False)).replace("'", '"') + '\n}\n')


if __name__ == '__main__':
    main()
