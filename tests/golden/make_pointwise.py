"""make_pointwise.py - writes pointwise.pth: results of PyTorch for elementwise ops, reductions, shapes and SGD.

Run under a Python with PyTorch: python3 tests/golden/make_pointwise.py. A key is case.tensor; tests/unit/test_pointwise.lua
has the same cases with the same names. Gradients are of sum(y * g). f64 where nothing else is said.
"""
import math
import os
import torch
import torch.nn.functional as F

torch.manual_seed(0)
out = {}


def put(case, **tensors):
    for name, t in tensors.items():
        if not torch.is_tensor(t):
            t = torch.tensor(t)
        out[case + '.' + name] = t.detach().contiguous().clone()


def randn(*size):
    # values with few digits: the same in f32, so that both precisions start from equal inputs
    return torch.round(torch.randn(size, dtype=torch.float64) * 256) / 256


def rand(low, high, *size):
    return low + torch.round(torch.rand(size, dtype=torch.float64) * (high - low) * 256) / 256


def case(name, fn, *inputs, grad=True):
    inputs = [x.detach().clone().requires_grad_(grad and x.is_floating_point()) for x in inputs]
    y = fn(*inputs)
    put(name, y=y, **{'x%d' % i: x for i, x in enumerate(inputs, 1)})
    if not grad:
        return
    g = randn(*y.shape)
    y.backward(g)
    put(name, g=g, **{'grad%d' % i: x.grad for i, x in enumerate(inputs, 1) if x.grad is not None})


# -- Of one tensor

x = torch.cat([randn(40) * 4, torch.tensor([-3.5, -2.5, -0.5, 0.5, 1.5, 2.5, 5.5, 6.5], dtype=torch.float64)])
for name, fn in dict(relu=F.relu, relu6=F.relu6, hardswish=F.hardswish, hardsigmoid=F.hardsigmoid, sigmoid=torch.sigmoid,
                     tanh=torch.tanh, neg=torch.neg, abs=torch.abs, exp=torch.exp, square=torch.square, sin=torch.sin, cos=torch.cos).items():
    case(name, fn, x)
for name, fn in dict(log=torch.log, sqrt=torch.sqrt).items():
    case(name, fn, rand(.1, 9, 20))
for name, fn in dict(sign=torch.sign, floor=torch.floor, ceil=torch.ceil, round=torch.round).items():
    case(name, fn, x, grad=False)
case('clamp', lambda v: v.clamp(-1.5, 2), x)
case('clamp_min', lambda v: v.clamp(min=.25), x)
case('sigmoid_wide', torch.sigmoid, torch.tensor([-800., -100, -90, -20, 20, 40, 90, 800], dtype=torch.float64))
case('tanh_wide', torch.tanh, torch.tensor([-800., -20, -9, -1e-3, 0, 1e-3, 9, 20, 800], dtype=torch.float64))
case('exp_wide', torch.exp, torch.tensor([-800., -100, -87, -1e-3, 0, 1e-3, 20, 80], dtype=torch.float64))

# -- Of two tensors, broadcast

shapes = dict(same=((5, 4), (5, 4)), row=((3, 4), (4,)), both=((3, 1), (1, 4)), channels=((2, 3, 4, 2), (3, 1, 1)),
              scale=((2, 5, 3, 4), (2, 5, 1, 1)), scalar=((), (2, 3)), empty=((0, 3), (1, 3)))
binary = dict(add=torch.add, sub=torch.sub, mul=torch.mul, div=torch.div, maximum=torch.maximum, minimum=torch.minimum)
for s, (a, b) in shapes.items():
    for name, fn in binary.items():
        case(name + '_' + s, fn, randn(*a), rand(.5, 3, *b))
case('maximum_equal', torch.maximum, torch.tensor([1., 2, 3]).double(), torch.tensor([1., 3, 3]).double())
case('pow', torch.pow, rand(.2, 3, 4, 3), rand(-2, 3, 3))
case('pow_zero', torch.pow, torch.tensor([0., 0, 0, 2, -2, -2]).double(), torch.tensor([0., 1, 2, 0, 0, 3]).double())
case('where', lambda a, b: torch.where(torch.tensor([[True], [False], [True]]), a, b), randn(3, 4), randn(4))
a, b = torch.round(randn(4, 3) * 2), torch.round(randn(3) * 2)
for name in ('eq', 'ne', 'lt', 'le', 'gt', 'ge', 'logical_and', 'logical_or'):
    case(name, getattr(torch, name), a, b, grad=False)

# -- Edges: nan, infinities, both zeros, subnormals, halves; f32, to the last bit

nan, inf = math.nan, math.inf
edge = torch.tensor([nan, inf, -inf, 0., -0., 1e-40, -1e-40, 1, -1, 3, -3, 6, 0.5, 1.5, 2.5, -0.5, 65504, 65519, 65520, 3.4e38, 1 + 2 ** -8,
                     1 + 3 * 2 ** -8, 2 ** -24, 2 ** -25, 3 * 2 ** -25, 2 ** -14, 6.1e-5, 1e-8, -7.5], dtype=torch.float32)
for name, fn in dict(relu6=F.relu6, hardsigmoid=F.hardsigmoid, neg=torch.neg, abs=torch.abs, square=torch.square, sqrt=torch.sqrt, floor=torch.floor,
                     ceil=torch.ceil, round=torch.round, isfinite=torch.isfinite, logical_not=torch.logical_not,
                     clamp=lambda v: v.clamp(-1, 2), to_bf16=lambda v: v.bfloat16(), to_f16=lambda v: v.half(), to_f64=lambda v: v.double(),
                     to_bool=lambda v: v.bool()).items():
    case('edge_' + name, fn, edge, grad=False)
for name in ('maximum', 'minimum', 'eq', 'ne', 'lt', 'ge', 'add', 'mul', 'div'):
    case('edge_' + name, getattr(torch, name), edge.reshape(-1, 1), torch.tensor([nan, inf, -0., 2.]), grad=False)
case('to_i64', lambda v: v.long(), torch.tensor([-7.9, -0.5, 0.5, 7.9, 2. ** 40]), grad=False)
case('to_u8', lambda v: v.to(torch.uint8), torch.tensor([0., 0.9, 1, 254.9, 255]), grad=False)

# -- Halves: computed in f32, rounded once

for dtype, short in ((torch.bfloat16, 'bf16'), (torch.float16, 'f16')):
    h, k = (randn(7, 5) * 3).to(dtype), rand(.5, 3, 5).to(dtype)
    for name in ('add', 'sub', 'mul', 'div', 'maximum', 'lt'):
        case(short + '_' + name, getattr(torch, name), h, k, grad=False)
    case(short + '_abs', torch.abs, h, grad=False)
    case(short + '_sum', lambda v: v.float().sum(0).to(v.dtype), h, grad=False)
case('bf16_relu', F.relu, (randn(7, 5) * 3).bfloat16(), grad=False)
h, k = randn(2, 3).bfloat16(), randn(3).float()
case('bf16_with_f32', torch.mul, h, k, grad=False)

# -- Integers

i, k = torch.randint(-50, 50, (6, 4)), torch.tensor([1, -2, 3, 7])
for name in ('add', 'sub', 'mul', 'div', 'maximum', 'minimum', 'eq', 'lt', 'ge'):
    case('i64_' + name, getattr(torch, name), i, k, grad=False)
    case('i32_' + name, getattr(torch, name), i.int(), k.int(), grad=False)
big = torch.tensor([2 ** 53, 2 ** 53 + 1, -2 ** 60 - 3, 2 ** 61 + 5])
one = torch.tensor([1, 1, -5, 7])
for name in ('add', 'sub', 'maximum', 'minimum', 'eq', 'ne', 'lt', 'gt'):
    case('big_' + name, getattr(torch, name), big, one + big - 1, grad=False)
    case('big1_' + name, getattr(torch, name), big, one, grad=False)
case('big_mul', torch.mul, big // 16, torch.tensor([3, 5, 7, 11]), grad=False)
case('big_neg', torch.neg, big, grad=False)
case('big_abs', torch.abs, big, grad=False)
case('big_where', lambda a, b: torch.where(torch.tensor([True, False, True, False]), a, b), big, big + one, grad=False)
case('big_sum', lambda v: v[:3].sum(), big, grad=False)
case('big_sum_rows', lambda v: v.sum(0), (torch.arange(6).reshape(3, 2) + 2 ** 55), grad=False)
case('u8_sum', lambda v: v.sum(1), torch.randint(0, 256, (3, 50), dtype=torch.uint8), grad=False)
case('bool_sum', lambda v: v.sum(), torch.rand(77) < .5, grad=False)

# -- Reductions

r = randn(3, 4, 5)
m = randn(2, 6, 5, 3)
for name, fn in dict(sum=torch.sum, mean=torch.mean, var=torch.var).items():
    case(name + '_all', lambda v: fn(v), r)
    case(name + '_2', lambda v: fn(v, 1), r)
    case(name + '_13', lambda v: fn(v, (0, 2), keepdim=True), r)
    case(name + '_hw', lambda v: fn(v, (2, 3)), m)
    case(name + '_nhw', lambda v: fn(v, (0, 2, 3)), m)
    case(name + '_c', lambda v: fn(v, (1,)), m)
    case(name + '_t', lambda v: fn(v.permute(2, 0, 1), (0,)), r)
case('var_0', lambda v: torch.var(v, 2, unbiased=False), r)
case('var_few', lambda v: torch.var(v, 0, correction=5), r, grad=False)
case('mean_none', torch.mean, torch.zeros(0, dtype=torch.float64), grad=False)
case('max_c', lambda v: v.max(1)[0], m)
case('min_c', lambda v: v.min(1)[0], m)
put('max_index', x1=m, y=m.max(2)[1])
put('max_nan', x1=torch.tensor([[1., nan, 3, nan], [inf, 1, inf, -inf]]), y=torch.tensor([[1., nan, 3, nan], [inf, 1, inf, -inf]]).max(1)[1])

# -- Shapes

case('reshape', lambda v: v.reshape(5, 12), r)
case('reshape_4d', lambda v: v.reshape(6, 30), m)
case('reshape_to_4d', lambda v: v.reshape(2, 5, 3, 2), r)
case('reshape_t', lambda v: v.permute(2, 0, 1).reshape(6, 10), r)
case('permute', lambda v: v.permute(3, 0, 2, 1), m)
case('narrow', lambda v: v[:, 1:4:2], r)
case('expand', lambda v: v.expand(2, 3, 4), randn(3, 1))
case('cat', lambda a, b: torch.cat((a, b), 1), randn(2, 3, 4, 2), randn(2, 5, 4, 2))
case('pad', lambda v: F.pad(v, (1, 0, -1, 2), value=.5), r)
case('flip', lambda v: v.flip(0, 2), r)
index = torch.randint(0, 4, (3, 6, 5))
put('gather', index=index)
case('gather', lambda v: v.gather(1, index), r)
rows = torch.tensor([3, 0, 3, 3, 1])
put('index_select', index=rows)
case('index_select', lambda v: v.index_select(1, rows), r)
put('one_hot', x1=index[0], y=F.one_hot(index[0], 5).to(torch.uint8))

# -- SGD: five steps

for dtype, short in ((torch.float64, 'f64'), (torch.float32, 'f32')):
    for name, options in dict(plain={}, decay=dict(weight_decay=.1), momentum=dict(momentum=.9, weight_decay=1e-2),
                              nesterov=dict(momentum=.9, weight_decay=1e-2, nesterov=True)).items():
        p, grads = randn(37).to(dtype).requires_grad_(), randn(5, 37).to(dtype)
        put('sgd_%s_%s' % (name, short), p=p, grads=grads)
        opt = torch.optim.SGD([p], lr=.05, **options)
        for k in range(5):
            p.grad = grads[k].clone()
            opt.step()
        put('sgd_%s_%s' % (name, short), y=p)

torch.save(out, os.path.join(os.path.dirname(os.path.abspath(__file__)), 'pointwise.pth'), _use_new_zipfile_serialization=False)
