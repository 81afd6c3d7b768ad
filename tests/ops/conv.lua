-- Samples of the conv family: odd channel counts and maps, one-pixel-high maps, strides that leave
-- a rest, dilation larger than the map, groups, depthwise, batches that are not multiples of
-- anything.

local samples = {}
local function add(s)
  -- on CUDA it takes a group at a time; few groups show the same
  if s.attrs and (s.attrs.groups or 1) > 8 then s.except = {direct = true} end
  samples[#samples + 1] = s
end

-- One convolution gives samples of the three ops. x {n,c,h,w}, kernel {k,r,s}, attrs of conv2d, and
-- the size of y.
local function conv(x, kernel, out, attrs, grad, slack)
  local n, c, k = x[1], x[2], kernel[1]
  attrs = attrs or {}
  local w = {k, c / (attrs.groups or 1), kernel[2], kernel[3]}
  local y = {n, k, out[1], out[2]}
  -- f32, and f64 where the activations are; of values that bf16 holds, so that rounding them
  -- changes nothing
  local function parameter(sizes)
    return function(dtype)
      local dlv3 = require 'dlv3'
      return dlv3.randn(sizes):to('bf16'):to(dtype == 'f64' and 'f64' or 'f32')
    end
  end
  local with_size = {size = {x[3], x[4]}}
  for name, v in pairs(attrs) do with_size[name] = v end
  -- of an f32 sum of so many products of normal numbers
  local function error_of(terms) return 3e-6 * math.sqrt(terms) * (slack or 1) end
  local atol, atol_x, atol_w = error_of(w[2] * w[3] * w[4]), error_of(k * w[3] * w[4]), error_of(n * out[1] * out[2])
  add{op = 'conv2d', inputs = {x, parameter(w), parameter{k}}, attrs = attrs, atol = atol, grad = grad}
  add{op = 'conv2d', inputs = {x, parameter(w)}, attrs = attrs, atol = atol, grad = false}
  add{op = 'conv2d_backward_input', inputs = {y, parameter(w)}, attrs = with_size, atol = atol_x}
  add{op = 'conv2d_backward_input', inputs = {y, parameter(w), x}, attrs = with_size, atol = atol_x}
  add{op = 'conv2d_backward_weight', inputs = {x, y, parameter(w), parameter{k}}, attrs = attrs, atol = atol_w}
  add{op = 'conv2d_backward_weight', inputs = {x, y, parameter(w)}, attrs = attrs, atol = atol_w, dtypes = {'f32'}}
end

conv({2, 5, 7, 6}, {4, 3, 3}, {7, 6}, {padding = 1})
conv({1, 1, 1, 9}, {1, 1, 3}, {1, 7})
conv({1, 3, 1, 9}, {2, 3, 3}, {1, 9}, {padding = 1})
conv({3, 2, 8, 5}, {3, 3, 2}, {4, 3}, {stride = 2, padding = {1, 1}})
conv({2, 3, 9, 7}, {2, 3, 3}, {3, 2}, {stride = {3, 4}, padding = {0, 1}})
conv({5, 17, 4, 4}, {35, 1, 1}, {4, 4}, nil, false)
conv({1, 8, 5, 5}, {16, 1, 1}, {3, 3}, {stride = 2}, false)
conv({2, 4, 5, 5}, {3, 3, 3}, {5, 5}, {padding = 6, dilation = 6})           -- only the centre tap meets the map
conv({1, 3, 6, 5}, {4, 3, 3}, {6, 5}, {padding = {4, 2}, dilation = {4, 2}}) -- taps partly on padding
conv({1, 2, 3, 3}, {2, 3, 3}, {9, 9}, {padding = 5, dilation = 2}, false)    -- outputs that see padding alone
conv({1, 2, 4, 4}, {2, 3, 3}, {12, 12}, {padding = 7, dilation = 3}, false)
conv({2, 6, 5, 4}, {4, 3, 3}, {5, 4}, {padding = 1, groups = 2})
conv({1, 6, 5, 4}, {9, 3, 2}, {3, 2}, {stride = 2, padding = {1, 0}, groups = 3})
conv({2, 7, 6, 5}, {7, 3, 3}, {6, 5}, {padding = 1, groups = 7})
conv({1, 24, 9, 9}, {24, 5, 5}, {5, 5}, {stride = 2, padding = 2, groups = 24}, false)
conv({3, 40, 7, 8}, {40, 5, 5}, {7, 8}, {padding = 8, dilation = 4, groups = 40}, false)
conv({1, 510, 2, 3}, {510, 3, 3}, {2, 3}, {padding = 1, groups = 510}, false) -- groups of channels, the last one larger
conv({1, 20, 5, 60}, {20, 3, 3}, {5, 60}, {padding = 1, groups = 20}, false)  -- wide: few lanes at once
-- rows of taps longer than a thread takes on CUDA
conv({2, 16, 11, 13}, {16, 7, 7}, {4, 7}, {stride = {3, 2}, padding = 3, groups = 16}, false)
-- inputs that no tap meets
conv({1, 8, 9, 10}, {8, 3, 4}, {5, 4}, {stride = 2, padding = 2, dilation = 2, groups = 8}, false)
conv({2, 8, 2, 3}, {8, 1, 1}, {1, 1}, {stride = 5, groups = 8}, false)        -- a stride larger than the map
conv({1, 136, 12, 9}, {136, 3, 3}, {12, 9}, {padding = 1, groups = 136}, false) -- sums over pixels in parts
conv({1, 4, 4, 3}, {8, 3, 3}, {4, 3}, {padding = 1, groups = 4})             -- two outputs a channel
conv({2, 33, 12, 11}, {50, 3, 3}, {12, 11}, {padding = 3, dilation = 3}, false)
conv({2, 3, 21, 19}, {16, 7, 7}, {11, 10}, {stride = 2, padding = 3}, false)
conv({0, 3, 4, 4}, {2, 3, 3}, {4, 4}, {padding = 1}, false)
-- Channels and maps large enough for tiles of Winograd, whose largest error is some times the
-- direct sum's: rests in every direction, phases of unequal size, little padding.
conv({1, 32, 12, 16}, {64, 3, 3}, {12, 16}, {padding = 1}, false, 4)
conv({2, 37, 15, 13}, {35, 3, 3}, {13, 11}, nil, false, 4)
conv({1, 40, 19, 17}, {33, 3, 3}, {19, 17}, {padding = 2, dilation = 2}, false, 4)
conv({1, 33, 34, 30}, {40, 3, 3}, {36, 32}, {padding = 5, dilation = 4}, false, 4)
-- Grids of 5 x 5, and of 5 and 4: tiles of 5 x 5 outputs, whose error is twice that of the others.
conv({1, 40, 20, 20}, {33, 3, 3}, {20, 20}, {padding = 4, dilation = 4}, false, 8)
conv({2, 33, 19, 18}, {37, 3, 3}, {19, 18}, {padding = 4, dilation = 4}, false, 8)

-- Dilation large against the map: the kernel that leaves out taps by tiles of 4 x 4 pixels. Tiles
-- all inside or outside; odd channels and maps, tiles partly on padding; every outer tap on
-- padding; several blocks in either direction, a tap that one row of tiles in three needs; padding
-- unlike the dilation, and more than twice it.
conv({2, 40, 12, 12}, {24, 3, 3}, {12, 12}, {padding = 8, dilation = 8}, false)
conv({2, 37, 13, 10}, {35, 3, 3}, {13, 10}, {padding = 7, dilation = 7}, false)
conv({1, 64, 9, 9}, {16, 3, 3}, {9, 9}, {padding = 12, dilation = 12}, false)
conv({3, 8, 12, 20}, {136, 3, 3}, {12, 20}, {padding = {4, 12}, dilation = {4, 12}}, false)
conv({1, 136, 16, 15}, {9, 3, 3}, {12, 17}, {padding = {6, 9}, dilation = 8}, false)
conv({1, 16, 4, 5}, {8, 3, 3}, {24, 25}, {padding = 16, dilation = 6}, false)

-- The epilogue: y = act(conv + b + residual).
local function epilogue(x, w, y, attrs, bias, residual, grad)
  local function parameter(sizes)
    return function(dtype) return require 'dlv3'.randn(sizes):to('bf16'):to(dtype == 'f64' and 'f64' or 'f32') end
  end
  add{op = 'conv2d', inputs = {x, parameter(w), bias and parameter{w[1]} or false, residual and y or false},
      attrs = attrs, atol = 1e-4,
      grad = attrs.activation == nil and grad ~= false}
end
for i, act in ipairs {'relu', 'relu6', 'hardswish', 'hardsigmoid'} do
  epilogue({1, 33, 18, 18}, {36, 33, 3, 3}, {1, 36, 18, 18}, {padding = 1, activation = act}, i % 2 == 0, i > 2)
  epilogue({2, 5, 7, 6}, {4, 5, 3, 3}, {2, 4, 7, 6}, {padding = 1, activation = act}, i % 2 == 0, i > 2)
  epilogue({1, 40, 9, 9}, {33, 40, 1, 1}, {1, 33, 9, 9}, {activation = act}, true, i % 2 == 1)
  epilogue({2, 24, 9, 7}, {24, 1, 3, 3}, {2, 24, 9, 7}, {padding = 1, groups = 24, activation = act}, true, i % 2 == 0)
end
epilogue({2, 16, 10, 12}, {24, 16, 3, 3}, {2, 24, 10, 12}, {padding = 8, dilation = 8, activation = 'hardswish'}, true,
         true)
epilogue({1, 11, 9, 7}, {13, 11, 3, 3}, {1, 13, 9, 7}, {padding = 9, dilation = 9, activation = 'relu'}, false, true)
epilogue({2, 6, 5, 4}, {4, 3, 3, 3}, {2, 4, 5, 4}, {padding = 1, groups = 2, activation = 'relu'}, false, true)
epilogue({1, 3, 6, 5}, {4, 3, 3, 3}, {1, 4, 6, 5}, {padding = 1}, true, true)
epilogue({1, 32, 24, 24}, {64, 32, 3, 3}, {1, 64, 24, 24}, {padding = 1, activation = 'hardswish'}, true, true)
epilogue({1, 510, 2, 3}, {510, 1, 3, 3}, {1, 510, 2, 3}, {padding = 1, groups = 510, activation = 'relu'}, true, true)
for i = 0, 7 do -- 1x1: every mix of activation, bias and residual
  epilogue({2, 7, 3, 4}, {9, 7, 1, 1}, {2, 9, 3, 4}, {activation = i >= 4 and 'relu' or nil}, i % 2 == 1, i % 4 >= 2)
end
-- 1x1, many pixels: columns that end in half a vector, or anywhere; too large for gradcheck
for i, k in ipairs {24, 28, 34, 44, 72, 104} do
  epilogue({1, 2 * i + 4, 23, 29}, {k, 2 * i + 4, 1, 1}, {1, k, 23, 29},
           {activation = i % 2 == 0 and 'hardswish' or nil}, i > 2, i % 3 > 0, false)
end

-- A scale of the input: 1x1, in pixels and images that are no multiple of a tile; padding, stride,
-- groups, few channels. Weights are small, since the scaled ones are rounded, to bf16 too.
local function scaled(x, w, y, attrs, bias, residual)
  local function parameter(sizes)
    return function(dtype) return (require 'dlv3'.randn(sizes) / 16):to('bf16'):to(dtype == 'f64' and 'f64'
        or 'f32') end
  end
  local scale = {x[1], x[2], 1, 1}
  add{op = 'conv2d', inputs = {x, parameter(w), bias and parameter{w[1]} or false, residual and y or false, scale},
      attrs = attrs, atol = 1e-4, grad = false}
end
scaled({2, 40, 5, 7}, {33, 40, 1, 1}, {2, 33, 5, 7}, {activation = 'relu'}, true, true)
scaled({3, 17, 4, 4}, {9, 17, 1, 1}, {3, 9, 4, 4}, {}, false, false)
scaled({1, 600, 6, 5}, {48, 600, 1, 1}, {1, 48, 6, 5}, {activation = 'hardswish'}, true, true)
scaled({2, 12, 7, 6}, {10, 12, 3, 3}, {2, 10, 4, 3}, {stride = 2, padding = 1}, true, false)
scaled({2, 32, 24, 24}, {64, 32, 3, 3}, {2, 64, 24, 24}, {padding = 1}, true, false)
scaled({2, 3, 7, 6}, {4, 3, 3, 3}, {2, 4, 7, 6}, {padding = 1}, true, false)
scaled({2, 24, 9, 7}, {24, 1, 3, 3}, {2, 24, 9, 7}, {padding = 1, groups = 24}, true, false)
scaled({2, 6, 5, 4}, {4, 3, 3, 3}, {2, 4, 5, 4}, {padding = 1, groups = 2}, false, false)
add{op = 'conv2d', inputs = {{2, 6, 4, 4}, {4, 6, 1, 1}, false, false, {1, 6, 1, 1}},
    error = 'conv2d: scale must be %[2, 6, 1, 1%]'}
add{op = 'conv2d', inputs = {{1, 6, 4, 4}, {4, 6, 1, 1}, false, false, {1, 6, 1, 1, dtype = 'f64'}},
    error = 'conv2d: scale must be f32, it is f64'}

add{op = 'conv2d', inputs = {{2, 64, 9, 9}, {128, 128, 3, 3}}, attrs = {padding = 1},
    error = 'conv2d: x has 64 channels but w expects 128 %(groups 1%)\n  x %[2, 64, 9, 9%] f32 cpu   w %[128, 128, '
            .. '3, 3%] f32 cpu   stride 1,1  padding 1,1  dilation 1,1'}
add{op = 'conv2d', inputs = {{1, 2, 4, 4}, {3, 2, 3, 3}}, attrs = {dilation = 2},
    error = 'the window, 5 x 5 with dilation, is larger than the padded map, 4 x 4'}
add{op = 'conv2d', inputs = {{1, 6, 4, 4}, {4, 2, 3, 3}}, attrs = {groups = 3},
    error = 'w has 4 output channels, which 3 groups do not divide'}
add{op = 'conv2d', inputs = {{1, 6, 4, 4}, {4, 6, 3, 3, dtype = 'f64'}},
    error = 'w must be f32 where the activations are f32, it is f64'}
add{op = 'conv2d', inputs = {{1, 6, 4, 4}, {4, 6, 3, 3}, false, {1, 4, 4, 4}},
    error = 'conv2d: residual must be %[1, 4, 2, 2%]'}
add{op = 'conv2d', inputs = {{1, 6, 4, 4}, {4, 6, 1, 1}, false, {1, 4, 4, 4, dtype = 'f64'}},
    error = 'conv2d: residual must be f32, it is f64'}
add{op = 'conv2d', inputs = {{1, 6, 4, 4}, {4, 6, 3, 3}}, attrs = {activation = 'gelu'},
    error = 'activation must be none, relu'}
add{op = 'conv2d', inputs = {{1, 6, 4, 4}, {4, 6, 3, 3}}, attrs = {stride = 0},
    error = 'stride must be at least 1, it is 0,0'}
add{op = 'conv2d_backward_input', inputs = {{1, 4, 4, 4}, {4, 6, 3, 3}}, attrs = {size = 4},
    error = 'conv2d_backward_input: grad_y must be %[1, 4, 2, 2%]'}
add{op = 'conv2d_backward_weight', inputs = {{1, 6, 4, 4}, {1, 4, 4, 4}, {4, 6, 3, 3}},
    error = 'conv2d_backward_weight: grad_y must be %[1, 4, 2, 2%]'}

add{op = 'matmul', inputs = {{3, 4}, {4, 5}}}
add{op = 'matmul', inputs = {{4, 3}, {5, 4}}, attrs = {trans_a = true, trans_b = true}}
add{op = 'matmul', inputs = {{2, 3, 4}, {2, 4, 5}}}
add{op = 'matmul', inputs = {{2, 4, 3}, {2, 4, 5}}, attrs = {trans_a = true}}
add{op = 'matmul', inputs = {{2, 3, 4}, {5, 4}}, attrs = {trans_b = true}}
add{op = 'matmul', inputs = {{4, 3}, {2, 4, 5}}, attrs = {trans_a = true}}
add{op = 'matmul', inputs = {{2, 3, 4}, {2, 5, 4}}, attrs = {trans_b = true}}
add{op = 'matmul', inputs = {{3, 3, 4}, {4, 5}}}
add{op = 'matmul', inputs = {{3, 4, 3}, {4, 5}}, attrs = {trans_a = true}}
add{op = 'matmul', inputs = {{1, 3, 4}, {1, 5, 4}}, attrs = {trans_b = true}}
add{op = 'matmul', inputs = {{0, 3, 4}, {0, 4, 5}}, grad = false}
add{op = 'matmul', inputs = {{1, 1}, {1, 1}}}
add{op = 'matmul', inputs = {{37, 65}, {65, 130}}, grad = false, atol = 1e-4}
add{op = 'matmul', inputs = {{65, 37}, {130, 65}}, attrs = {trans_a = true, trans_b = true}, grad = false, atol = 1e-4}
add{op = 'matmul', inputs = {{0, 4}, {4, 3}}, grad = false}
add{op = 'matmul', inputs = {{3, 0}, {0, 2}}, grad = false}
add{op = 'matmul', inputs = {{3, 4}, {5, 6}},
    error = 'matmul: a has 4 columns but b has 5 rows\n  a %[3, 4%] f32 cpu   b %[5, 6%] f32 cpu'}
add{op = 'matmul', inputs = {{2, 3, 4}, {3, 4, 6}}, error = 'matmul: a has 2 matrices but b has 3'}

return samples
