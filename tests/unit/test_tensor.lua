-- test_tensor.lua - tensors in Lua: construction, conversion, indexing, printing, dtypes, error
-- texts.

local dlv3 = require 'dlv3'

return function(t)
  t.case('construction', function()
    local x = dlv3.tensor{{1, 2}, {3, 4}}
    t.eq(x:size(), {2, 2})
    t.eq({x.dtype, x.device, x.ndim}, {'f32', 'cpu', 2})
    t.eq(x:totable(), {{1, 2}, {3, 4}})
    t.eq(dlv3.zeros{2, 3}:totable(), {{0, 0, 0}, {0, 0, 0}})
    t.eq(dlv3.ones(2, {dtype = 'u8'}):totable(), {1, 1})
    t.eq(dlv3.full({2}, 1.5, {dtype = 'f64'}):totable(), {1.5, 1.5})
    t.eq(dlv3.arange(1, 4):totable(), {1, 2, 3, 4})
    t.eq(dlv3.arange(0, 1, 0.5):totable(), {0, 0.5, 1})
    t.error(function() dlv3.arange(9) end, 'arange: takes first, last %(included%) and step as numbers; last is '
                                           .. 'missing; 9 numbers from 0 on are arange%(0, 8%)')
    t.error(function() dlv3.arange('a', 2) end, 'first is a string')
    t.eq(dlv3.eye(2):totable(), {{1, 0}, {0, 1}})
    t.eq(dlv3.tensor(3):item(), 3)
    t.eq(dlv3.tensor({true, false}, {dtype = 'bool'}):totable(), {1, 0})
    t.eq(dlv3.tensor{}:size(), {0})
    t.eq(dlv3.zeros{0, 3}:numel(), 0)
    t.eq(dlv3.stack{dlv3.ones{2}, dlv3.zeros{2}}:totable(), {{1, 1}, {0, 0}})
  end)

  t.case('wrong construction', function()
    t.error(function() dlv3.tensor{{1, 2}, {3}} end, 'uneven')
    t.error(function() dlv3.tensor{1, 'a'} end, 'string')
    t.error(function() dlv3.zeros({2}, {dytpe = 'f32'}) end, "no option 'dytpe'.*dtype")
    t.error(function() dlv3.zeros({2}, {dtype = 'f23'}) end, "no dtype is called 'f23'")
    t.error(function() dlv3.zeros{2, -1} end, 'zeros: size 2: expected a whole number from 0 to 2^53, got %-1')
    t.error(function() dlv3.zeros{2 ^ 40, 2 ^ 40} end, 'too large: a tensor may have at most 2%^62 bytes')
    t.error(function() dlv3.zeros{1, 1, 1, 1, 1, 1, 1, 1, 1} end, 'at most 8 dimensions')
    t.error(function() dlv3.zeros({2}, {device = 'cuda:99'}) end, "device 'cuda:99' .*")
    t.error(function() dlv3.zeros({2}, {device = 'gpu'}) end, "no device is called 'gpu'")
  end)

  t.case('the line of the user is in the message', function()
    t.error(function() dlv3.ones{2}:conv2d(dlv3.ones{2}) end, 'test_tensor%.lua:%d+: conv2d: ')
    t.error(function() local _ = dlv3.ones{2}.no_such end, "test_tensor%.lua:%d+: a tensor has no 'no_such'")
    t.error(function() local _ = dlv3.ones{2}.rleu end, "relu")
  end)

  t.case('options of ops', function()
    local x = dlv3.ones{1, 1, 3, 3}
    t.error(function() x:conv2d(x, {strides = 2}) end, "no option 'strides'.*stride")
    t.error(function() x:conv2d() end, 'w must be a tensor, got nothing')
    t.error(function() x:reshape('a') end, 'size must be')
    t.error(function() x:narrow(0, 1, 1) end, 'counted from 1')
    t.error(function() x:narrow(5, 1, 1) end, 'no axis 5')
    t.error(function() x:max_pool2d() end, 'kernel_size must be given')
    t.error(function() x:relu(1) end, 'too many values')
    t.error(function() x:clamp{min = 'a'} end, 'clamp')
  end)

  t.case('conversion', function()
    local x = dlv3.tensor{1.5, -2.5, 300}
    t.eq(x:to('i64'):totable(), {1, -2, 300})
    t.eq(x:to('u8'):totable(), {1, 0, 255})
    t.eq(x:to('bf16'):to('f32'):totable(), {1.5, -2.5, 300})
    t.eq(x:to('f32').p, x.p)
    t.eq(x:to('cpu', 'f64').dtype, 'f64')
    t.eq(dlv3.tensor({0 / 0}):to('i32'):totable(), {0})
    local y = dlv3.randn{2, 3, 4, 5}
    t.eq(dlv3.frombytes(y:tobytes(), {2, 3, 4, 5}), y)
    t.error(function() dlv3.frombytes('abc', {1}) end, '3 bytes do not fill')
    t.error(function() y:item() end, 'one element, it has 120')
  end)

  t.case('promotion', function()
    local i, u, f, b, h = dlv3.ones({2}, {dtype = 'i64'}), dlv3.ones({2}, {dtype = 'u8'}), dlv3.ones{2}, dlv3.ones({2},
        {dtype = 'bf16'}), dlv3.ones({2}, {dtype = 'f16'})
    t.eq((i + u).dtype, 'i64')
    t.eq((u + f).dtype, 'f32')
    t.eq((b + i).dtype, 'bf16')
    t.eq((b + h).dtype, 'f32')
    t.eq((i + 1).dtype, 'i64')
    t.eq((i + 1.5).dtype, 'f32')
    t.eq((b * 2.5).dtype, 'bf16')
    t.eq((i / 2).dtype, 'f32')
    t.eq(f:gt(0).dtype, 'bool')
  end)

  t.case('indexing', function()
    local x = dlv3.arange(0, 23):reshape(2, 3, 4)
    t.eq(x[1]:size(), {3, 4})
    t.eq(x[-1][1][2]:item(), 13)
    t.eq(x[{1, {2, 3}, -1}]:totable(), {7, 11})
    t.eq(x[{{}, 1}]:size(), {2, 4})
    t.eq(x[{1, {1, 3, 2}, 1}]:totable(), {0, 8})
    t.eq(x[{1, dlv3.tensor({2, 0}, {dtype = 'i64'}), 1}]:totable(), {8, 0})
    x[1] = 5
    t.eq(x[1]:sum():item(), 60)
    x[{2, 1}] = dlv3.tensor{1, 2, 3, 4}
    t.eq(x[2][1]:totable(), {1, 2, 3, 4})
    t.error(function() local _ = x[3] end, 'narrow')
    t.error(function() local _ = x[0] end, 'counted from 1')
  end)

  t.case('views share, results do not', function()
    local x = dlv3.zeros{2, 3}
    local v = x:narrow(2, 1, 2)
    v:fill_(1)
    t.eq(x:totable(), {{1, 1, 0}, {1, 1, 0}})
    x:add(1)
    t.eq(x:totable(), {{1, 1, 0}, {1, 1, 0}})
    t.eq(x:t():totable(), {{1, 1}, {1, 1}, {0, 0}})
    t.eq(x:transpose(1, -1):size(), {3, 2})
  end)

  t.case('composites', function()
    local x = dlv3.tensor{{3, 1}, {2, 5}}
    t.eq(x:max():item(), 5)
    local values, at = x:max(2)
    t.eq({values:totable(), at:totable()}, {{3, 5}, {0, 1}})
    t.eq(x:argmin(1):totable(), {1, 0})
    t.eq(x:argmax():item(), 3)
    t.ok(x:equal(x:clone()) and not x:equal(x + 1) and x:allclose(x + 1e-9))
    t.eq(x:tile(2, 2):totable(), {{3, 1, 3, 1}, {2, 5, 2, 5}, {3, 1, 3, 1}, {2, 5, 2, 5}})
    t.eq(#x:split(1, 2), 2)
    t.eq(x:flatten():totable(), {3, 1, 2, 5})
    t.close(x:std(), math.sqrt(((3 - 2.75) ^ 2 + (1 - 2.75) ^ 2 + (2 - 2.75) ^ 2 + (5 - 2.75) ^ 2) / 3), 1e-6)
    t.eq(x:masked_fill(x:gt(2), 0):totable(), {{0, 1}, {2, 0}})
    t.close(x:linear(dlv3.tensor{{1, 1}}, dlv3.tensor{0.5}), {{4.5}, {7.5}})
    t.eq((2 - x):totable(), {{-1, 1}, {0, -3}})
    t.eq((-x / 2):totable(), {{-1.5, -0.5}, {-1, -2.5}})
  end)

  t.case('printing', function()
    t.eq(tostring(dlv3.tensor{1, 2}), '[1., 2.] [f32 cpu 2]')
    t.eq(tostring(dlv3.tensor({{1, 2}, {3, 40}}, {dtype = 'i64'})), '[[ 1,  2],\n [ 3, 40]]\n[i64 cpu 2x2]')
    t.eq(tostring(dlv3.tensor(0.5)), '0.5000 [f32 cpu scalar]')
    t.ok(tostring(dlv3.zeros{2, 3, 513, 513}):find('%[f32 cpu 2x3x513x513%]$'))
    t.ok(#tostring(dlv3.zeros{2, 3, 513, 513}) < 2000)
    t.eq(tostring(dlv3.zeros{0, 2}), '[] [f32 cpu 0x2]')
    t.ok(tostring(dlv3.tensor{0 / 0, 1 / 0}):find('nan') ~= nil)
  end)

  t.case('whole numbers are printed with all their digits', function()
    t.eq(tostring(dlv3.tensor({12345678901, -3}, {dtype = 'i64'})), '[12345678901,          -3] [i64 cpu 2]')
    t.eq(tostring(dlv3.frombytes('\1\0\0\0\0\0\32\0' .. ('\0'):rep(7) .. '\128', {2}, {dtype = 'i64'})),
         '[    9007199254740993, -9223372036854775808] [i64 cpu 2]')
  end)

  t.case('released handles', function()
    local x = dlv3.ones{2}
    x:release()
    t.error(function() return x + 1 end, 'add: a was released')
    t.error(function() x:totable() end, 'was released')
    t.ok(tostring(x):find('released'))
    local out
    dlv3.scope(function() out = dlv3.ones{3} end)
    t.error(function() return out:sum() end, 'sum: x was released')
  end)

  t.case('random numbers', function()
    dlv3.manual_seed(5)
    local a, state = dlv3.randn{100}, dlv3.get_rng_state()
    local b = dlv3.rand{50}
    dlv3.set_rng_state(state)
    t.eq(dlv3.rand{50}, b)
    dlv3.manual_seed(5)
    t.eq(dlv3.randn{100}, a)
    local big = dlv3.randn{20000}
    t.close(big:mean(), 0, 0, 0.03)
    t.close(big:std(), 1, 0, 0.03)
    t.ok(b:min():item() >= 0 and b:max():item() < 1)
    local r = dlv3.randint(3, 6, {1000})
    t.eq({r:min():item(), r:max():item()}, {3, 5})
  end)

  t.case('a number that the labels do not hold is no label', function()
    local labels = dlv3.tensor({0, 255, 3}, {dtype = 'u8'})
    for _, case in ipairs {{'eq', -1, 0}, {'eq', 300, 0}, {'lt', 300, 3}, {'gt', -1, 3}, {'eq', 255, 1}} do
      t.eq(labels[case[1]](labels, case[2]):float():sum():item(), case[3], case[1] .. ' ' .. case[2])
    end
    t.eq(labels:masked_fill(labels:eq(255), -100), dlv3.tensor({0, -100, 3}, {dtype = 'i64'}))
    t.eq(dlv3.where(labels:eq(255), -1, labels), dlv3.tensor({0, -1, 3}, {dtype = 'i64'}))
    t.eq(labels:masked_fill(labels:eq(255), 7), dlv3.tensor({0, 7, 3}, {dtype = 'u8'}))
    t.eq(dlv3.where(labels:eq(255), 1.5, 2), dlv3.tensor{2, 1.5, 2})
    t.eq(dlv3.where(labels:eq(255), 1, 2), dlv3.tensor({2, 1, 2}, {dtype = 'i64'}))
  end)

  t.case('norms, a leaky relu of any slope, and parts of a length', function()
    local x = dlv3.tensor{{3, -4}, {0, 0}}
    t.eq(x:norm(), dlv3.tensor(5))
    t.eq(x:norm(1), dlv3.tensor(7))
    t.eq(x:norm(math.huge), dlv3.tensor(4))
    t.eq(x:norm(2, 2), dlv3.tensor{5, 0})
    t.error(function() return x:norm(3) end, 'norm: p: expected 1, 2 or .*, got 3')
    t.eq(dlv3.tensor{-1, 0, 2}:leaky_relu(2), dlv3.tensor{-2, 0, 2})
    local zero = dlv3.zeros({1}, {requires_grad = true})
    zero:leaky_relu(0.1):sum():backward()
    t.close(zero.grad:item(), 0.1, 1e-7, 0) -- as in PyTorch
    for _, n in ipairs {0, -1, 1.5} do t.error(function() return x:split(n) end, 'split: expected the length') end
    t.error(function() return x:chunk(0) end, 'chunk: expected the number of parts')
  end)

  t.case('arguments of another kind are named', function()
    t.error(function() return dlv3.zeros(nil) end, 'zeros: size 1 is nil')
    t.error(function() return dlv3.zeros(2, nil, 3) end, 'zeros: size 2 is nil')
    t.error(function() return dlv3.randn({2, 3}, 'f16') end, "randn: expected options in a table, .*got 'f16'")
    t.error(function() return dlv3.full(2, 3) end, 'full: expected sizes in a table, .*got 2')
    t.error(function() return dlv3.randint(10, {3}) end, 'randint: expected sizes in a table')
    t.error(function() return dlv3.ones{2}:size 'a' end, "size: expected an axis, a number, got 'a'")
    t.error(function() dlv3.ones{2}.requires_grad = nil end, 'requires_grad: expected true or false, got nothing')
    t.eq(dlv3.tensor(dlv3.ones{2}, {dtype = 'i64'}).dtype, 'i64')
    local x, one = dlv3.ones{2, 3}, dlv3.zeros({2, 3}, {dtype = 'i64'})
    t.error(function() x:to 'float16' end, "no dtype is called 'float16': it is 'f16' here")
    t.error(function() x:to('cpu', 'torch.bfloat16') end, "it is 'bf16' here")
    t.error(function() x:cast 'int64' end, "cast: .*it is 'i64' here")
    t.error(function() return x[{1, 2, 3}] end, '3 indices for a tensor of 2 dimensions')
    t.error(function() return x[1][1][1] end, '1 index for a tensor of 0 dimensions: .*item')
    t.error(function() return x % 2 end, 'tensors have no %%')
    t.error(function() x(1) end, 'a tensor is no function')
    t.error(function() ipairs(x) end, 'ipairs: a tensor is no table')
    t.error(function() pairs(x) end, 'pairs: a tensor is no table')
    t.error(function() x:gather(1, one) end, 'gather: axis must be an integer, got a tensor; tensors come first: '
                                             .. 'x index, then axis')
    t.error(function() x:cross_entropy(dlv3.zeros({2}, {dtype = 'u8'}), {1, 2, 3}) end,
            'weight must be a tensor, got a table: dlv3.tensor')
    t.error(function() dlv3.stack{x, dlv3.ones{2, 4}} end,
            'stack: expected tensors of the same sizes, got {2, 3} first and {2, 4} as number 2')
    t.error(function() dlv3.zeros{2 ^ 60} end, 'size 1: expected a whole number from 0 to 2^53')
  end)

  t.case('sizes are tables with a text', function()
    local x = dlv3.zeros{2, 3}
    t.eq(tostring(x:size()), '{2, 3}')
    t.eq('sizes ' .. x.shape, 'sizes {2, 3}')
    t.eq(require 'dlv3.repl.inspect'.text(x.shape), '{2, 3}')
    local same = dlv3.compile(function(y) return {y * 2, sizes = y:size()} end)
    for _ = 1, 2 do t.eq(same(x).sizes[2], 3) end
  end)
end
