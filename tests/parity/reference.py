"""What torchvision makes of a model: weights, inputs, logits, gradients, parameters after some steps, in one file.

    /usr/bin/python3 tests/parity/reference.py logits deeplabv3_resnet50 OUT.pth 65x49 33x80 ...
    /usr/bin/python3 tests/parity/reference.py train  deeplabv3_resnet50 OUT.pth 65x49 STEPS

logits: eval mode, f32, aux on. train: batch 2, dropout off, SGD as in the recipe, in f64 and in f32.
"""
import sys

import torch
import torchvision

CLASSES = 6


def build(name, dtype):
    torch.manual_seed(1)
    model = getattr(torchvision.models.segmentation, name)(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics and scales that are not 0 and 1
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.to(dtype)


def copy(state):
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def logits(name, path, sizes):
    model = build(name, torch.float32).eval()
    result = {'weights': copy(model.state_dict()), 'cases': []}
    for size in sizes:
        h, w = map(int, size.split('x'))
        x = torch.randn(2, 3, h, w, generator=torch.Generator().manual_seed(h * 1000 + w))
        with torch.no_grad():
            out = model(x)
        result['cases'].append({'x': x, 'out': out['out'], 'aux': out['aux']})
    torch.save(result, path)


def train(name, path, size, steps):
    h, w = map(int, size.split('x'))
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(steps, 2, 3, h, w, generator=generator, dtype=torch.float64).float()
    target = torch.randint(0, CLASSES + 1, (steps, 2, h, w), generator=generator)
    target[target == CLASSES] = 255
    result = {'weights': copy(build(name, torch.float32).state_dict()), 'x': x, 'target': target.to(torch.uint8), 'classes': CLASSES}
    for key, dtype in (('f64', torch.float64), ('f32', torch.float32)):
        model = build(name, dtype).train()
        groups = [{'params': list(model.backbone.parameters())}, {'params': list(model.classifier.parameters())},
                  {'params': list(model.aux_classifier.parameters()), 'lr': 0.001}]
        sgd = torch.optim.SGD(groups, lr=0.0001, momentum=0.9, weight_decay=1e-4)
        losses = []
        for step in range(steps):
            out = model(x[step].to(dtype))
            loss = sum(weight * torch.nn.functional.cross_entropy(out[head], target[step], ignore_index=255)
                       for head, weight in (('out', 1.0), ('aux', 0.5)))
            sgd.zero_grad()
            loss.backward()
            if step == 0:
                grads = {parameter: tensor.grad.clone() for parameter, tensor in model.named_parameters()}
            sgd.step()
            losses.append(loss.item())
        result[key] = {'grads': grads, 'state': copy(model.state_dict()), 'losses': torch.tensor(losses, dtype=torch.float64)}
    torch.save(result, path)


def schedule(path):
    """The reference's LambdaLR factors for several runs, in f64."""
    def factor(x, steps, epochs, warmup, warmup_factor=1e-3):
        if warmup > 0 and x <= warmup * steps:
            alpha = float(x) / (warmup * steps)
            return warmup_factor * (1 - alpha) + alpha
        return (1 - (x - warmup * steps) / ((epochs - warmup) * steps)) ** 0.9
    cases = []
    for steps, epochs, warmup in ((7, 3, 1), (366, 30, 1), (91, 12, 1), (10, 4, 0)):
        values = [factor(x, steps, epochs, warmup) for x in range(steps * epochs + 1)]
        cases.append({'steps': steps, 'epochs': epochs, 'warmup': warmup, 'values': torch.tensor(values, dtype=torch.float64)})
    torch.save({'cases': cases}, path)


if __name__ == '__main__':
    kind = sys.argv[1]
    if kind == 'logits':
        logits(sys.argv[2], sys.argv[3], sys.argv[4:])
    elif kind == 'train':
        train(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
    else:
        schedule(sys.argv[2])
