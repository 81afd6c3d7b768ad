-- loss.lua - samples of cross entropy (alone and fused with upsampling), softmax and the confusion
-- matrix.

local dlv3 = require 'dlv3'

-- Labels 0..classes-1, every `period`-th of them 255.
local function labels(sizes, classes, dtype, period)
  return function()
    local n = 1
    for _, s in ipairs(sizes) do n = n * s end
    local values = {}
    for i = 1, n do values[i] = (i % (period or 1e9) == 0) and 255 or (i * 7 + math.floor(i / 5)) % classes end
    return dlv3.tensor(values, {dtype = dtype or 'u8'}):reshape(sizes)
  end
end

local function weights(n)
  return function(dtype) return dlv3.empty({n}, {dtype = 'f32'}):uniform_(0.2,
      2):to(dtype == 'f64' and 'f64' or 'f32') end
end

local function like(sizes, low, high) -- f32, or f64 with f64
  return function(dtype) return dlv3.empty(sizes, {dtype = 'f32'}):uniform_(low,
      high):to(dtype == 'f64' and 'f64' or 'f32') end
end

local function total(value) return function() return dlv3.full({}, value, {dtype = 'f64'}) end end

local samples = {}
local function add(s) samples[#samples + 1] = s end
local wrt = {1}

add{op = 'cross_entropy', inputs = {{2,5,3,4}, labels({2,3,4}, 5)}, wrt = wrt}
add{op = 'cross_entropy', inputs = {{2,5,3,4}, labels({2,3,4}, 5, 'u8', 3), weights(5)},
    attrs = {label_smoothing = 0.1}, wrt = wrt}
add{op = 'cross_entropy', inputs = {{2,5,3,4}, labels({2,3,4}, 5, 'i64', 4)}, attrs = {label_smoothing = 0.3},
    wrt = wrt}
add{op = 'cross_entropy', inputs = {{7,4}, labels({7}, 4, 'i64')}, wrt = wrt}
add{op = 'cross_entropy', inputs = {{1,1,1,9}, labels({1,1,9}, 1)}, wrt = wrt}
-- none counts
add{op = 'cross_entropy', inputs = {{1,3,1,5}, labels({1,1,5}, 3, 'u8', 1), weights(3)},
    attrs = {label_smoothing = 0.2}, wrt = wrt}
add{op = 'cross_entropy', inputs = {{3,21,9,11}, labels({3,9,11}, 21, 'u8', 5), weights(21)}, dtypes = {'f32', 'bf16'},
    grad = false}
add{op = 'cross_entropy', inputs = {{1,2,70,2}, labels({1,70,2}, 2)}, attrs = {ignore_index = 1},
    dtypes = {'f32', 'bf16'}, grad = false}
local function bad() local t = dlv3.zeros({2,3,4}, {dtype = 'u8'}); t[{2, 3, 1}] = 5; return t end
add{op = 'cross_entropy', inputs = {{2,5,3,4}, bad},
    error = 'target has the label 5 at n 2, y 3, x 1 %(counted from 1%); labels must be 0 to 4, or 255'}
add{op = 'cross_entropy', inputs = {{2,5,3,4}, labels({2,3,5}, 5)}, error = 'target must be %[2, 3, 4%]'}
add{op = 'cross_entropy', inputs = {{2,5,3,4}, labels({2,3,4}, 5, 'i32')},
    error = 'target must hold class ids as u8 or i64, it is i32'}

add{op = 'cross_entropy_backward', inputs = {like({}, 0.5, 2), {2,5,3,4}, labels({2,3,4}, 5, 'u8', 3), weights(5),
                                             like({2,3,4}, 0.1, 3),
    total(7.5)}, attrs = {label_smoothing = 0.1}}
add{op = 'cross_entropy_backward', inputs = {like({}, 0.5, 2), {2,5,3,4}, labels({2,3,4}, 5), false,
                                             like({2,3,4}, 0.1, 3), total(0)}}
add{op = 'cross_entropy_backward', inputs = {like({}, 0.5, 2), {9,3}, labels({9}, 3, 'i64'), false, like({9}, 0.1, 3),
                                             total(9)}}
add{op = 'cross_entropy_backward', inputs = {like({}, 0.5, 2), {9,3}, labels({9}, 3), false, like({8}, 0.1, 3),
                                             total(9)}, error = 'nll must be %[9%]'}

local fused = {op = 'upsample_cross_entropy'}
local function add_fused(x, size, period, weighted, attrs, extra)
  local s = {op = fused.op, inputs = {x, labels({x[1], size[1], size[2]}, x[2], 'u8', period),
                                      weighted and weights(x[2]) or false}, attrs = attrs, wrt = wrt}
  for k, v in pairs(extra or {}) do s[k] = v end
  add(s)
  local b = {op = 'upsample_cross_entropy_backward',
             inputs = {like({}, 0.5, 2), x, s.inputs[2], s.inputs[3], like({x[1], size[1], size[2]}, 0.1, 3),
    total(11)}, attrs = attrs, dtypes = s.dtypes}
  add(b)
end
add_fused({2,5,3,4}, {7,9}, 3, false)
add_fused({2,5,3,4}, {7,9}, 3, true, {label_smoothing = 0.1})
add_fused({1,2,1,1}, {4,5}, nil, false)
add_fused({1,1,2,2}, {3,3}, 2, false)
add_fused({1,3,2,5}, {2,5}, nil, true)
add_fused({1,3,4,7}, {3,2}, nil, false)            -- smaller: the fast form declines
add_fused({2,3,2,2}, {5,6}, 1, true)               -- no pixel counts
add_fused({2,21,9,11}, {65,81}, 7, true, {label_smoothing = 0.1}, {dtypes = {'f32', 'bf16'}, grad = false})
add_fused({1,3,2,67}, {4,131}, 7, false, nil, {dtypes = {'f32', 'bf16'}, grad = false})
-- more classes than lanes of a warp, also pixels of a patch
add_fused({2,35,2,3}, {19,40}, 5, true, {label_smoothing = 0.2}, {grad = false})
add{op = 'upsample_cross_entropy', inputs = {{2,5,3,4}, labels({1,6,8}, 5)}, error = 'target must be %[2,h,w%]'}
add{op = 'upsample_cross_entropy_backward', inputs = {like({2}, 0.5, 2), {2,5,3,4}, labels({2,6,8}, 5), false,
                                                      like({2,6,8}, 0.1, 3),
    total(11)}, error = 'grad_loss must have one element'}

local function classes(sizes, n, dtype) local t = {unpack(sizes)} t.dtype, t.low, t.high = dtype, 0, n return t end
local function hist(n) return classes({n, n}, 100, 'i64') end
add{op = 'confusion_matrix', inputs = {classes({2,7,9}, 5, 'u8'), labels({2,7,9}, 5, 'u8', 4), hist(5)}}
add{op = 'confusion_matrix', inputs = {classes({2,7,9}, 5, 'i64'), classes({2,7,9}, 8, 'i64'), hist(5)}}
add{op = 'confusion_matrix', inputs = {classes({3}, 2, 'u8'), labels({3}, 2, 'i64'), hist(2)}}
add{op = 'confusion_matrix', inputs = {classes({40}, 9, 'u8'), labels({40}, 5, 'u8'), hist(5)},
    error = 'pred has the class %d at element %d+, hist has the classes 0 to 4'}

for _, name in ipairs{'softmax', 'log_softmax'} do
  add{op = name, inputs = {{2,5,3,4}}, attrs = {axis = 2}}
  add{op = name, inputs = {{4,7}}, attrs = {axis = -1}}
  add{op = name, inputs = {{3,1,2}}, attrs = {axis = 1}}
  add{op = name, inputs = {{3,4}}, attrs = {axis = 3}, error = 'no axis 3 in a tensor of 2 dimensions'}
  add{op = name .. '_backward', inputs = {{2,5,3,4}, {2,5,3,4}}, attrs = {axis = 2}}
  add{op = name .. '_backward', inputs = {{4,7}, {4,7}}, attrs = {axis = 1}}
  add{op = name .. '_backward', inputs = {{4,7}, {4,6}}, attrs = {axis = 1}, error = 'y must be %[4, 7%]'}
end

return samples
