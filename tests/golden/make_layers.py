"""make_layers.py - writes layers.pth: results of PyTorch for batch norm, pooling, upsampling and cross entropy.

Run under a Python with PyTorch: python3 tests/golden/make_layers.py. All in f64 except the keys that end in _f32.
A key is case.tensor; tests/unit/test_layers.lua has the same cases with the same names.
"""
import os
import torch
import torch.nn.functional as F

torch.manual_seed(0)
out = {}


def put(case, **tensors):
    for name, t in tensors.items():
        out[case + '.' + name] = t.detach().contiguous().clone()


def randn(*size):
    # values with few digits: the same in f32, so that both precisions start from equal inputs
    return torch.round(torch.randn(*size, dtype=torch.float64) * 256) / 256


def batch_norm(case, shape, training, momentum, eps, activation=None, residual=False):
    c = shape[1]
    x, w, b = randn(*shape).requires_grad_(), (randn(c) / 4 + 1).requires_grad_(), (randn(c) / 4).requires_grad_()
    mean, var = randn(c) / 4, torch.round((torch.rand(c, dtype=torch.float64) + .5) * 256) / 256
    r = randn(*shape).requires_grad_() if residual else None
    put(case, x=x, w=w, b=b, mean=mean, var=var)
    y = F.batch_norm(x, mean, var, w, b, training, momentum, eps)
    if residual:
        put(case, r=r)
        y = y + r
    y = {None: lambda v: v, 'relu': F.relu, 'relu6': F.relu6, 'hardswish': F.hardswish, 'hardsigmoid': F.hardsigmoid}[activation](y)
    g = randn(*shape)
    y.backward(g)
    put(case, y=y, g=g, new_mean=mean, new_var=var, grad_x=x.grad, grad_w=w.grad, grad_b=b.grad)
    if residual:
        put(case, grad_r=r.grad)


batch_norm('bn_train', (3, 4, 5, 7), True, 0.1, 1e-5)
batch_norm('bn_eval', (2, 5, 3, 4), False, 0.1, 1e-5)
batch_norm('bn_relu', (2, 6, 5, 4), True, 0.1, 1e-5, 'relu', True)
batch_norm('bn_hardswish', (2, 6, 5, 4), True, 0.01, 1e-3, 'hardswish')
batch_norm('bn_hardsigmoid', (2, 3, 5, 4), False, 0.01, 1e-3, 'hardsigmoid')
batch_norm('bn_relu6', (2, 3, 5, 4), True, 0.01, 1e-3, 'relu6')


def max_pool(case, shape, **options):
    x = randn(*shape).requires_grad_()
    y = F.max_pool2d(x, **options)
    g = randn(*y.shape)
    y.backward(g)
    put(case, x=x, y=y, g=g, grad_x=x.grad)


max_pool('pool_3s2', (2, 3, 9, 8), kernel_size=3, stride=2, padding=1)
max_pool('pool_2', (1, 5, 6, 7), kernel_size=2)
max_pool('pool_odd', (1, 2, 9, 11), kernel_size=(3, 2), stride=(1, 3), padding=(1, 0), dilation=(2, 1))


def avg_pool(case, shape, size):
    x = randn(*shape).requires_grad_()
    y = F.adaptive_avg_pool2d(x, size)
    g = randn(*y.shape)
    y.backward(g)
    put(case, x=x, y=y, g=g, grad_x=x.grad)


avg_pool('avg_1', (2, 5, 7, 9), 1)
avg_pool('avg_3x2', (1, 4, 7, 5), (3, 2))


def upsample(case, shape, size, align):
    x = randn(*shape).requires_grad_()
    y = F.interpolate(x, size, mode='bilinear', align_corners=align)
    g = randn(*y.shape)
    y.backward(g)
    put(case, x=x, y=y, g=g, grad_x=x.grad)


for name, shape, size in (('x2', (2, 3, 4, 5), (8, 10)), ('odd', (1, 2, 5, 4), (13, 11)), ('one', (2, 3, 1, 1), (4, 6)),
                          ('down', (1, 2, 9, 8), (4, 3)), ('row', (1, 2, 1, 7), (1, 20)), ('same', (1, 2, 3, 4), (3, 4)), ('to_one', (1, 2, 5, 4), (1, 1))):
    upsample('up_' + name, shape, size, False)
    upsample('up_' + name + '_align', shape, size, True)
x = randn(1, 1, 1, 65).float()
put('up_long', x_f32=x, y_f32=F.interpolate(x, (1, 1041), mode='bilinear', align_corners=False))


def cross_entropy(case, shape, weighted, smoothing, ignored, size=None):
    x = (randn(*shape) * 3).requires_grad_()
    n, c = shape[:2]
    h, w = size or shape[2:]
    t = torch.randint(0, c, (n, h, w))
    t[torch.rand(n, h, w) < ignored] = 255
    weight = torch.round((torch.rand(c, dtype=torch.float64) + .25) * 256) / 256 if weighted else None
    put(case, x=x, target=t.to(torch.uint8))
    if weighted:
        put(case, weight=weight)
    z = F.interpolate(x, size, mode='bilinear', align_corners=False) if size else x
    loss = F.cross_entropy(z, t, weight, ignore_index=255, label_smoothing=smoothing)
    loss.backward()
    put(case, loss=loss, grad_x=x.grad)


cross_entropy('ce', (2, 5, 4, 3), False, 0, 0)
cross_entropy('ce_ignore', (2, 5, 4, 3), False, 0, .3)
cross_entropy('ce_weight', (2, 5, 4, 3), True, 0, .3)
cross_entropy('ce_smooth', (2, 5, 4, 3), False, .1, .3)
cross_entropy('ce_all', (2, 21, 4, 3), True, .2, .3)
cross_entropy('up_ce', (2, 21, 3, 4), False, 0, .2, (17, 25))
cross_entropy('up_ce_all', (2, 5, 4, 5), True, .1, .2, (9, 13))

torch.save(out, os.path.join(os.path.dirname(os.path.abspath(__file__)), 'layers.pth'), _use_new_zipfile_serialization=False)
