-- test_pointwise.lua - elementwise ops, reductions, shapes, SGD and random numbers against
-- PyTorch's numbers (golden/pointwise.pth, made by golden/make_pointwise.py), Philox against its
-- published vectors, and what threads, strides and overlapping operands must not change.

local dlv3 = require 'dlv3'
local runtime = require 'dlv3.core.runtime'
local F = require 'dlv3.core.ffi'

return function(t)
  local golden
  local function fixture(name)
    golden = golden or dlv3.load(t.directory .. '/golden/pointwise.pth')
    return golden[name]
  end
  local tolerance = {f64 = {1e-12, 1e-13}, f32 = {2e-5, 1e-5}}

  -- fn on the inputs x1, x2 of a case: its value and gradients, in f64 and f32.
  local function case(name, fn, n)
    t.case(name, function()
      for dtype, tol in pairs(tolerance) do
        local x = {}
        for i = 1, n or 1 do x[i] = fixture(name .. '.x' .. i):to(dtype):clone() end
        local g = fixture(name .. '.g')
        for i = 1, #x do if g then x[i]:requires_grad_() end end
        local y = fn(unpack(x))
        local want = fixture(name .. '.y')
        if want.dtype == 'bool' then t.eq(y, want) else t.close(y, want, tol[1], tol[2], dtype .. ' y') end
        if g then
          y:backward(g:to(dtype))
          for i = 1, #x do
            t.close(x[i].grad, fixture(name .. '.grad' .. i), tol[1], tol[2], dtype .. ' gradient ' .. i)
          end
        end
      end
    end, {leaks = true}) -- the fixtures stay
  end

  -- fn on the inputs as they are; equal to the last bit, dtypes too.
  local function exact(name, fn, n, any_zero)
    t.case(name, function()
      local x = {}
      for i = 1, n or 1 do x[i] = fixture(name .. '.x' .. i) end
      local y, want = fn(unpack(x)), fixture(name .. '.y')
      t.eq(y.dtype, want.dtype)
      t.eq(y:size(), want:size())
      if not y.dtype:find 'f' then return t.eq(y, want) end
      t.close(y, want, 0, 0) -- any nan equals any other
      if any_zero then return end
      local zero = want:eq(0)
      t.eq(dlv3.where(zero, (1 / y), y * 0):lt(0), dlv3.where(zero, (1 / want), want * 0):lt(0), 'signs of zeros')
    end, {leaks = true})
  end
  local function method(op, ...)
    local rest = {...}
    return function(x, y)
      if y then return x[op](x, y, unpack(rest)) end
      return x[op](x, unpack(rest))
    end
  end

  -- -- Elementwise --------------------------------------------------------------------------------

  for _, op in ipairs{'relu', 'relu6', 'hardswish', 'sigmoid', 'tanh', 'neg', 'abs', 'exp', 'square', 'sin', 'cos',
                      'log', 'sqrt',
                      'sign', 'floor', 'ceil', 'round', 'hardsigmoid'} do case(op, method(op)) end
  case('clamp', method('clamp', {min = -1.5, max = 2}))
  case('clamp_min', method('clamp', {min = .25}))
  for _, op in ipairs{'sigmoid', 'tanh', 'exp'} do case(op .. '_wide', method(op)) end

  for _, op in ipairs{'add', 'sub', 'mul', 'div', 'maximum', 'minimum'} do
    for _, shape in ipairs{'same', 'row', 'both', 'channels', 'scale', 'scalar', 'empty'} do
      case(op .. '_' .. shape, method(op), 2)
    end
  end
  case('maximum_equal', method 'maximum', 2)
  case('pow', method 'pow', 2)
  for _, op in ipairs{'eq', 'ne', 'lt', 'le', 'gt', 'ge', 'logical_and', 'logical_or'} do case(op, method(op), 2) end
  local first_and_last = dlv3.tensor({{1}, {0}, {1}}, {dtype = 'bool'})
  case('where', function(a, b) return dlv3.where(first_and_last, a, b) end, 2)

  t.case('pow by the base, where base or exponent is 0', function()
    local a, b = fixture 'pow_zero.x1':clone():requires_grad_(), fixture 'pow_zero.x2'
    local y = a:pow(b)
    y:backward(fixture 'pow_zero.g')
    t.close(y, fixture 'pow_zero.y', 0, 0)
    t.close(a.grad, fixture 'pow_zero.grad1', 1e-15, 0)
  end, {leaks = true})

  -- -- Edges --------------------------------------------------------------------------------------

  for _, op in ipairs{'relu6', 'hardsigmoid', 'neg', 'abs', 'square', 'sqrt', 'floor', 'ceil', 'round', 'isfinite',
                      'logical_not'} do
    exact('edge_' .. op, method(op))
  end
  exact('edge_clamp', method('clamp', {min = -1, max = 2}))
  for _, dtype in ipairs{'bf16', 'f16', 'f64', 'bool'} do exact('edge_to_' .. dtype, method('cast', dtype)) end
  for _, op in ipairs{'maximum', 'minimum', 'eq', 'ne', 'lt', 'ge', 'add', 'mul', 'div'} do
    exact('edge_' .. op, method(op), 2, op:find 'imum')
  end
  exact('to_i64', method('cast', 'i64'))
  exact('to_u8', method('cast', 'u8'))

  t.case('floats that do not fit an integer saturate, nan gives 0', function()
    local x = dlv3.tensor{0 / 0, 1 / 0, -1 / 0, 1e30, -1e30, 300, -1}
    t.eq(x:cast 'u8':totable(), {0, 255, 0, 255, 0, 255, 0})
    t.eq(x:cast 'i32':totable(), {0, 2 ^ 31 - 1, -2 ^ 31, 2 ^ 31 - 1, -2 ^ 31, 300, -1})
    t.eq(x:cast 'i64':totable(), {0, 2 ^ 63, -2 ^ 63, 2 ^ 63, -2 ^ 63, 300, -1})
  end)

  t.case('integers wrap', function()
    local x = dlv3.tensor({0, 1, 200}, {dtype = 'u8'})
    t.eq((x - 1):totable(), {255, 0, 199}) -- labels counted from 1: what was 0 is ignored
    t.eq((x + x):totable(), {0, 2, 144})
    t.eq((x * x):totable(), {0, 1, 64})
    t.eq((-x):totable(), {0, 255, 56})
    t.eq(dlv3.tensor({-1, 300, 2 ^ 40 + 7}, {dtype = 'i64'}):cast 'u8':totable(), {255, 44, 7})
    t.eq(dlv3.tensor({2 ^ 31, 2 ^ 40 + 7}, {dtype = 'i64'}):cast 'i32':totable(), {-2 ^ 31, 7})
    t.eq((dlv3.tensor({2 ^ 31 - 1}, {dtype = 'i32'}) + dlv3.tensor({1}, {dtype = 'i32'})):totable(), {-2 ^ 31})
    local half = dlv3.tensor({-2 ^ 62}, {dtype = 'i64'})
    local least = half + half
    t.eq((least - 1):totable(), {2 ^ 63}) -- as the nearest double
    t.eq((-least):eq(least):item(), 1)
    t.eq(least:abs():eq(least):item(), 1)
  end)

  for _, dtype in ipairs{'bf16', 'f16'} do
    for _, op in ipairs{'add', 'sub', 'mul', 'div', 'maximum', 'lt'} do exact(dtype .. '_' .. op, method(op), 2) end
    exact(dtype .. '_abs', method 'abs')
    exact(dtype .. '_sum', method('sum', 1))
  end
  exact('bf16_relu', method 'relu')
  exact('bf16_with_f32', method 'mul', 2)

  for _, dtype in ipairs{'i64', 'i32'} do
    for _, op in ipairs{'add', 'sub', 'mul', 'div', 'maximum', 'minimum', 'eq', 'lt', 'ge'} do
      exact(dtype .. '_' .. op, method(op), 2)
    end
  end
  for _, op in ipairs{'add', 'sub', 'maximum', 'minimum', 'eq', 'ne', 'lt', 'gt'} do -- beyond what f64 holds
    exact('big_' .. op, method(op), 2)
    exact('big1_' .. op, method(op), 2)
  end
  exact('big_mul', method 'mul', 2)
  exact('big_neg', method 'neg')
  exact('big_abs', method 'abs')
  local every_other = dlv3.tensor({1, 0, 1, 0}, {dtype = 'bool'})
  exact('big_where', function(a, b) return dlv3.where(every_other, a, b) end, 2)
  exact('big_sum', function(x) return x:narrow(1, 1, 3):sum() end)
  exact('big_sum_rows', method('sum', 1))
  exact('u8_sum', method('sum', 2))
  exact('bool_sum', method 'sum')

  -- -- Reductions ---------------------------------------------------------------------------------

  for _, op in ipairs{'sum', 'mean', 'var'} do
    case(op .. '_all', method(op))
    case(op .. '_2', method(op, {axes = 2}))
    case(op .. '_13', method(op, {axes = {1, 3}, keepdim = true}))
    case(op .. '_hw', method(op, {axes = {3, 4}}))
    case(op .. '_nhw', method(op, {axes = {1, 3, 4}}))
    case(op .. '_c', method(op, {axes = 2}))
    case(op .. '_t', function(x)
      x = x:permute(3, 1, 2)
      return x[op](x, {axes = 1})
    end)
  end
  case('var_0', method('var', {axes = 3, correction = 0}))
  case('var_few', method('var', {axes = 1, correction = 5}))
  case('mean_none', method 'mean')
  case('max_c', function(x) return (x:max_dim{axis = 2}) end)
  case('min_c', function(x) return (x:min_dim{axis = 2}) end)
  exact('max_index', function(x) return (select(2, x:max_dim{axis = 3})) end)
  exact('max_nan', function(x) return (select(2, x:max_dim{axis = 2})) end)

  t.case('sums of many f32 lose nothing to their order', function()
    local x = dlv3.randn({1000003}):add_(100)
    t.close(x:sum(), x:to 'f64':sum(), 1e-7, 0)
    t.close(x:narrow(1, 1, 1000000):reshape(1000, 1000):sum(1),
            x:narrow(1, 1, 1000000):to 'f64':reshape(1000, 1000):sum(1), 1e-7, 0)
  end)

  t.case('reductions of views: expanded, stepped, with axes of size 0', function()
    local x = dlv3.randn({3, 1, 4}, {dtype = 'f64'})
    local wide = x:expand(3, 5, 4)
    t.close(wide:sum(), x:sum() * 5, 1e-12, 0)
    t.close(wide:sum(2), x:squeeze(2) * 5, 1e-12, 0)
    t.close(wide:var{axes = {2, 3}, correction = 0}, x:var{axes = {2, 3}, correction = 0}, 1e-12, 0)
    local y = dlv3.randn({2, 9, 7, 6}, {dtype = 'f64'})
    local part = y:narrow(2, 2, 4, 2):narrow(4, 2, 2, 3)
    for _, axes in ipairs{{1}, {2}, {3}, {4}, {1, 4}, {2, 3}, {1, 2, 3, 4}} do
      t.close(part:sum{axes = axes}, part:clone():reshape(2, 4, 7, 2):sum{axes = axes}, 1e-12, 1e-13)
    end
    t.eq(dlv3.zeros{0, 3}:sum(2):size(), {0})
    t.eq(dlv3.zeros{2, 0, 3}:sum(2):totable(), {{0, 0, 0}, {0, 0, 0}})
    t.eq(dlv3.zeros{0}:sum():item(), 0)
  end)

  -- -- Shapes -------------------------------------------------------------------------------------

  case('reshape', method('reshape', 5, 12))
  case('reshape_4d', method('reshape', 6, 30))
  case('reshape_to_4d', method('reshape', 2, 5, 3, 2))
  case('reshape_t', function(x) return x:permute(3, 1, 2):reshape(6, 10) end)
  case('permute', method('permute', 4, 1, 3, 2))
  case('narrow', method('narrow', {axis = 2, start = 2, length = 2, step = 2}))
  case('expand', method('expand', 2, 3, 4))
  case('cat', function(a, b) return dlv3.cat({a, b}, 2) end, 2)
  case('pad', method('pad', {before = {0, -1, 1}, after = {0, 2, 0}, value = .5}))
  case('flip', method('flip', {axes = {1, 3}}))
  case('gather', function(x) return x:gather(fixture 'gather.index', {axis = 2}) end)
  case('index_select', function(x) return x:index_select(fixture 'index_select.index', {axis = 2}) end)
  exact('one_hot', method('one_hot', 5))

  t.case('reshape of any view is reshape of its dense copy', function()
    dlv3.manual_seed(11)
    local function shuffled(n)
      local list = {}
      for i = 1, n do list[i] = i end
      for i = n, 2, -1 do
        local k = dlv3.randint(1, i + 1, {1}):item()
        list[i], list[k] = list[k], list[i]
      end
      return list
    end
    local sizes = {{24}, {2, 12}, {3, 8}, {2, 3, 4}, {2, 1, 3, 4}, {1, 2, 2, 3, 2}, {4, 6}, {6, 4}, {2, 2, 2, 3},
                   {1, 24}, {24, 1, 1, 1}}
    for _, from in ipairs(sizes) do
      for _, to in ipairs(sizes) do
        local x = dlv3.arange(1, 24):reshape(from):permute(shuffled(#from))
        local flat = dlv3.tensor(x:reshape(24):totable())
        local y = x:reshape(to)
        t.eq(y:size(), to)
        t.eq(dlv3.tensor(y:reshape(24):totable()), flat)
        local nested = x:totable() -- row-major by definition
        while type(nested[1]) == 'table' do
          local joined = {}
          for _, row in ipairs(nested) do for _, v in ipairs(row) do joined[#joined + 1] = v end end
          nested = joined
        end
        t.eq(flat:totable(), nested)
      end
    end
  end)

  t.case('in place: overlapping operands are read as they were, expanded ones refused', function()
    local x = dlv3.arange(0, 8):reshape(3, 3):to 'f32':clone()
    x:add_(x:transpose(1, 2))
    t.eq(x:totable(), {{0, 4, 8}, {4, 8, 12}, {8, 12, 16}})
    local n = 100000
    local y = dlv3.arange(1, n):to 'f32':clone()
    y:narrow(1, 2, n - 1):add_(y:narrow(1, 1, n - 1))
    t.eq({y:narrow(1, 1, 1):item(), y:narrow(1, 2, 1):item(), y:narrow(1, n, 1):item()}, {1, 3, 2 * n - 1})
    y:add_(y)
    t.eq(y:narrow(1, n, 1):item(), 4 * n - 2)
    t.error(function() dlv3.ones{4, 1}:expand(4, 3):mul_(2) end,
            'mul_: x is changed in place, but some of its elements are the same memory')
    local part = dlv3.zeros{4, 6}
    part:narrow(2, 1, 3, 2):fill_(1) -- a stepped view is fine
    t.eq(part:sum():item(), 12)
  end)

  -- -- SGD ----------------------------------------------------------------------------------------

  t.case('sgd_ takes the steps of torch.optim.SGD', function()
    local options = {plain = {}, decay = {weight_decay = .1}, momentum = {momentum = .9, weight_decay = 1e-2},
                     nesterov = {momentum = .9, weight_decay = 1e-2, nesterov = true}}
    local lr = dlv3.tensor({.05}, {dtype = 'f64'})
    for name, attrs in pairs(options) do
      for dtype, tol in pairs{f64 = 1e-15, f32 = 4e-7} do
        local case_name = 'sgd_' .. name .. '_' .. dtype
        local p, buffer = fixture(case_name .. '.p'):clone(), attrs.momentum and dlv3.zeros({37}, {dtype = dtype})
            or nil
        for k = 1, 5 do p:sgd_(fixture(case_name .. '.grads'):select(1, k), buffer, lr, attrs) end
        t.close(p, fixture(case_name .. '.y'), tol, tol, case_name)
      end
    end
  end, {leaks = true})

  -- -- Random numbers -----------------------------------------------------------------------------

  -- The vectors of the paper's authors (Random123 kat_vectors): counter, key, the first two words
  -- as 53 bits.
  t.case('Philox 4x32-10 gives its published numbers', function()
    local function first(key, low, high) return runtime.random(1, key, high, low)[0] end
    local function of_words(a, b) return (a * 2 ^ 21 + math.floor(b / 2 ^ 11)) / 2 ^ 53 end
    t.eq(first(0, 0, 0), of_words(0x6627e8d5, 0xe169c58d))
    t.eq(first(-1ULL, -1ULL, -1ULL), of_words(0x408f276d, 0x41c83b0e))
    t.eq(first(0x299f31d0a4093822ULL, 0x85a308d3243f6a88ULL, 0x0370734413198a2eULL), of_words(0xd16cfe09, 0x94fdcceb))
    local state = dlv3.zeros({2}, {dtype = 'i64'})
    local x = dlv3.zeros({6}, {dtype = 'i64'})
    require('dlv3.core.call').raw.uniform_(dlv3.zeros{1}, {}) -- the default generator is another one
    local attr = F.new('dlv3_attr[2]')
    attr[0].i, attr[1].i = 0, 2 ^ 32
    local pair = F.new('dlv3_tensor *[2]', {F.ptr(x), F.ptr(state)})
    F.check(F.C.dlv3_call(dlv3.ops.randint_.id, pair, 2, attr, nil))
    local words = x:totable()
    t.eq({words[1], words[2], words[3], words[4]}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8})
    t.eq(state:totable(), {0, 2})
  end)

  t.case('random numbers stay below the upper end in every dtype', function()
    for _, dtype in ipairs{'f64', 'f32', 'bf16', 'f16'} do
      for _, range in ipairs{{0, 1}, {5, 6}, {-3, -1}} do
        local x = dlv3.empty({200000}, {dtype = dtype}):uniform_(range[1], range[2])
        t.ok(x:min():item() >= range[1], dtype)
        t.ok(x:max():item() < range[2], dtype .. ': ' .. x:max():item() .. ' came from below ' .. range[2])
        t.close(x:to 'f64':mean(), (range[1] + range[2]) / 2, 0, .02)
      end
    end
    local x = dlv3.randint(-3, 4, {100000})
    t.eq({x:min():item(), x:max():item()}, {-3, 3})
    local z = dlv3.randn({400000}, {dtype = 'f64'})
    t.close(z:mean(), 0, 0, .01)
    t.close(z:var(), 1, 0, .01)
    t.close((z * z * z * z):mean(), 3, 0, .1)
  end)

  t.case('fills and dropout: by seed and position alone, whatever layout, dtype, threads', function()
    local threads = dlv3.num_threads()
    local function all()
      dlv3.manual_seed(9)
      local x = dlv3.randn{2, 5, 67, 31}
      local y = x:dropout{p = .3}
      return {x, y, y:gt(0), dlv3.rand{100001}, dlv3.randint(0, 1000, {5, 7, 13}), x:sum(), x:mean{axes = {3, 4}},
              x:var{axes = 2}}
    end
    dlv3.num_threads(1)
    local one = all()
    for _, n in ipairs{2, 5} do
      dlv3.num_threads(n)
      local several = all()
      for i = 1, #one do t.eq(several[i], one[i], 'result ' .. i) end
    end
    dlv3.num_threads(threads)
    dlv3.manual_seed(9)
    t.eq(dlv3.empty{2, 31, 67, 5}:permute(1, 4, 3, 2):normal_():clone(), one[1], 'a strided view, the same numbers')
    local function mask(dtype)
      dlv3.manual_seed(4)
      return dlv3.ones({77, 13}, {dtype = dtype}):dropout{p = .25}:gt(0)
    end
    for _, dtype in ipairs{'f64', 'bf16', 'f16'} do t.eq(mask(dtype), mask 'f32') end
    for _, n in ipairs{1, 511, 100003} do -- drawn as vectors, the numbers that are drawn one by one
      dlv3.manual_seed(12)
      local uniform = dlv3.rand{n}
      dlv3.manual_seed(12)
      t.eq(dlv3.ones{n}:dropout{p = .25}:gt(0), uniform:ge(.25))
    end
  end)

  t.case('dropout: share, scale, and the gradient has the mask', function()
    for _, dtype in ipairs{'f32', 'bf16'} do
      local x = dlv3.ones({100000}, {dtype = dtype, requires_grad = true})
      local y = x:dropout{p = .1}
      y:backward(dlv3.ones({100000}, {dtype = dtype}))
      t.eq(x.grad, y:detach())
      t.close(y:detach():gt(0):sum():item() / 1e5, .9, 0, .01)
      t.close(y:detach():max(), 1 / .9, 4e-3, 0)
    end
    local x = dlv3.ones{9}
    t.eq(x:dropout{p = 1}:sum():item(), 0)
    t.eq(x:dropout{p = 0}, x)
    t.ok(x:dropout{p = .5} ~= x:dropout{p = .5})
  end)
end
