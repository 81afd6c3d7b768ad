-- norm.lua - samples of batch_norm: every activation, with and without residual, training and not.

local function parameter(n, low, high) -- f32 for every activation dtype but f64
  return function(dtype)
    local dlv3 = require 'dlv3'
    return dlv3.empty({n}, {dtype = 'f32'}):uniform_(low or 0.5, high or 1.5):to(dtype == 'f64' and 'f64' or 'f32')
  end
end

local samples = {}
local function add(s) samples[#samples + 1] = s end

local shapes = {{2,5,7,6}, {5,1,1,3}, {1,3,1,9}, {4,2}, {3,4,2,2}}
for _, shape in ipairs(shapes) do
  local c = shape[2]
  for _, training in ipairs{true, false} do
    add{op = 'batch_norm', inputs = {shape, parameter(c), parameter(c, -1, 1), parameter(c, -1, 1), parameter(c)},
        attrs = {training = training}, wrt = {1, 2, 3}, rtol = 1e-4, atol = 1e-4}
  end
end
for _, activation in ipairs{'relu', 'relu6', 'hardswish', 'hardsigmoid'} do
  for _, residual in ipairs{false, {2,5,4,3}} do
    for _, training in ipairs{true, false} do
      add{op = 'batch_norm', inputs = {{2,5,4,3}, parameter(5, 1, 2), parameter(5, -1, 1), parameter(5, -1, 1),
                                       parameter(5), residual},
          attrs = {training = training, activation = activation, momentum = 0.01, eps = 1e-3},
          wrt = residual and {1, 2, 3, 6} or {1, 2, 3}, rtol = 1e-4, atol = 1e-4}
    end
  end
end
add{op = 'batch_norm', inputs = {{3,4,5,2}}, attrs = {training = true}, rtol = 1e-4, atol = 1e-4}
add{op = 'batch_norm', inputs = {{3,4,5,2}, false, parameter(4)}, attrs = {training = true}, rtol = 1e-4, atol = 1e-4}
add{op = 'batch_norm', inputs = {{2,600,9,11}, parameter(600), parameter(600), parameter(600), parameter(600)},
    attrs = {training = true, activation = 'relu'},
    dtypes = {'f32', 'bf16'}, grad = false, rtol = 1e-4, atol = 1e-4}
add{op = 'batch_norm', inputs = {{3,24,41,37}, parameter(24), parameter(24), parameter(24), parameter(24)},
    attrs = {training = true},
    dtypes = {'f32', 'bf16'}, grad = false, rtol = 1e-4, atol = 1e-4}
add{op = 'batch_norm', inputs = {{2,132,5,3}, parameter(132), parameter(132), parameter(132), parameter(132),
                                 {2,132,5,3}},
    attrs = {training = true, activation = 'hardswish'}, dtypes = {'f32', 'bf16', 'f16'}, grad = false, rtol = 1e-4,
    atol = 1e-4}
-- several runs a thread
add{op = 'batch_norm', inputs = {{70,12673}}, attrs = {training = true}, dtypes = {'f32'}, grad = false, rtol = 1e-4,
    atol = 1e-4}
add{op = 'batch_norm', inputs = {{1,3,1,1}, parameter(3), parameter(3), parameter(3), parameter(3)},
    attrs = {training = true},
    error = 'training needs more than one value a channel for a variance; batch size 1 .* Use a batch of at least 2'}
add{op = 'batch_norm', inputs = {{2,3,4,4}, parameter(3), parameter(3)}, attrs = {training = false},
    error = 'expected running_mean and running_var'}
add{op = 'batch_norm', inputs = {{2,3,4,4}, parameter(4)}, attrs = {training = true}, error = 'weight must be %[3%]'}

local function backward(shape, activation, residual, training, extra)
  local c, y = shape[2], training and shape -- or x tells all there is to know
  local s = {op = 'batch_norm_backward',
    inputs = {shape, shape, y, parameter(c), parameter(c), residual and shape, parameter(c, -1, 1), parameter(c),
              parameter(c), parameter(c)},
    attrs = {training = training, activation = activation, need_residual = residual}, rtol = 1e-4, atol = 1e-4}
  for k, v in pairs(extra or {}) do s[k] = v end
  add(s)
end
for _, activation in ipairs{'none', 'relu', 'relu6', 'hardswish', 'hardsigmoid'} do
  backward({2,5,7,6}, activation, true, true)
  backward({2,5,7,6}, activation, false, false)
end
backward({1,1,1,5}, 'relu', false, true)
backward({3,4,6,5}, 'relu', true, false)
backward({5,3}, 'none', false, true)
backward({2,600,5,3}, 'relu', true, true, {dtypes = {'f32', 'bf16'}, atol = 1e-3})
for _, activation in ipairs{'none', 'relu6', 'hardswish', 'hardsigmoid'} do
  backward({2,132,5,3}, activation, true, true, {dtypes = {'f32', 'bf16', 'f16'}, atol = 1e-3})
end
backward({70,12673}, 'relu', false, true, {dtypes = {'f32'}, atol = 1e-3})
backward({2,24,41,37}, 'none', false, true, {dtypes = {'f32', 'bf16'}, atol = 1e-3})
add{op = 'batch_norm_backward', inputs = {{2,3,4,4}, {2,3,4,4}, {2,3,4,5}, false, false, false, parameter(3),
                                          parameter(3), false, false},
    error = 'y must be %[2, 3, 4, 4%]'}

for i, activation in ipairs{'none', 'relu', 'relu6', 'hardswish', 'hardsigmoid'} do
  for _, shape in ipairs{{2,5,7,6}, {3,132,2,1}, {4,3}} do
    local c = shape[2]
    add{op = 'batch_norm_elemt', inputs = {shape, i > 1 and parameter(c), i > 2 and parameter(c, -1, 1),
                                           parameter(c, -1, 1), parameter(c), i % 2 == 0 and shape},
        attrs = {activation = activation}, rtol = 1e-4, atol = 1e-4}
  end
end
add{op = 'batch_norm_elemt', inputs = {{2,3,4,4}, false, false, parameter(3), parameter(4), false},
    error = 'rstd must be %[3%]'}


-- Parts of a batch: sums of the whole, which x is a part of.
local dlv3 = require 'dlv3'
local function sums(c, values)
  return function() return dlv3.cat({dlv3.empty{c}:uniform_(-9, 9), dlv3.empty{c}:uniform_(60, 90),
                                     dlv3.full({1}, values)}, 1):to 'f64' end
end
local positive, centred = {low = 0.5, high = 1.5}, {low = -1, high = 1}
local function channels(n, of) return function(dtype) return parameter(n, of.low, of.high)(dtype) end end
for _, shape in ipairs {{2,5,7,6}, {4,2}, {2,132,5,3}, {0,5,7,6}} do
  local c = shape[2]
  add{op = 'batch_norm_stats', inputs = {shape}, rtol = 1e-5, atol = 1e-4}
  for _, activation in ipairs {'none', 'relu', 'hardswish'} do
    add{op = 'batch_norm', inputs = {shape, channels(c, positive), channels(c, centred), channels(c, centred),
                                     channels(c, positive), shape, sums(c, 50)},
        attrs = {training = true, activation = activation}, grad = false, rtol = 1e-4, atol = 1e-4}
    local inputs = {shape, shape, false, channels(c, positive), channels(c, centred), shape, channels(c, centred),
                    channels(c, positive)}
    local function with(...)
      local list = {}
      for k = 1, 8 do list[k] = inputs[k] end
      for k = 1, select('#', ...) do list[8 + k] = (select(k, ...)) end
      return list
    end
    add{op = 'batch_norm_backward_reduce', inputs = with(channels(c, centred), channels(c, centred)),
        attrs = {activation = activation}, rtol = 1e-4, atol = 1e-3}
    add{op = 'batch_norm_backward', inputs = with(false, false, sums(c, 50)), rtol = 1e-4, atol = 1e-4,
        attrs = {training = true, activation = activation, need_residual = true}}
    add{op = 'batch_norm_backward', inputs = with(false, false, sums(c, 50)), rtol = 1e-4, atol = 1e-4,
        attrs = {training = true, activation = activation}}
  end
end
add{op = 'batch_norm_stats', inputs = {{2, 3, 4}}, error = 'batch_norm_stats: x must be %[n,c,h,w%] or %[n,c%]'}
add{op = 'batch_norm_backward_reduce', inputs = {{2, 3}, {2, 4}, false, false, false, false, {4}, {4}},
    error = 'grad_y must be %[2, 4%]'}
add{op = 'batch_norm', inputs = {{2, 3}, false, false, {3}, {3}, false, sums(3, 9)},
    error = 'sums are of a batch, which counts in training only'}

return samples
