-- test_conv.lua - what the samples of tests/ops/conv.lua can not show of convolutions: packed
-- weights that follow the weight, kernels cropped to the taps that meet the map, gradients of
-- frozen layers, numbers of threads.

local dlv3 = require 'dlv3'
local runtime = require 'dlv3.core.runtime'

return function(t)
  local function reference(fn)
    runtime.set_implementation('ref')
    local y = fn()
    runtime.set_implementation('')
    return y
  end

  local function agrees(x, w, attrs, what)
    local function run() return x:conv2d(w, attrs) end
    t.close(run(), reference(run), 1e-4, 1e-4, what)
  end

  for _, dtype in ipairs{'f32', 'f64'} do
    t.case('a packed weight follows every change of the weight, ' .. dtype, function()
      local x = dlv3.randn({2, 8, 5, 5}):to(dtype)
      local w = dlv3.randn({6, 8, 3, 3}):to(dtype)
      agrees(x, w, {padding = 1}, 'at first')
      w:mul_(2)
      agrees(x, w, {padding = 1}, 'changed in place')
      local bytes = dlv3.randn({6, 8, 3, 3}):to(dtype):tobytes()
      runtime.set_bytes(w, bytes)
      agrees(x, w, {padding = 1}, 'read from bytes')
      w:narrow(1, 1, 3):fill_(1)
      agrees(x, w, {padding = 1}, 'changed through a view')
      local arena = dlv3.zeros({1000}, {dtype = dtype})
      runtime.rebase(w, arena, 64)
      agrees(x, w, {padding = 1}, 'moved into an arena')
      arena:add_(0.5)
      agrees(x, w, {padding = 1}, 'changed through its arena')
      w:mul_(3)
      agrees(x, w, {padding = 1}, 'changed within its arena')
    end)

    t.case('views of one weight with other sizes have forms of their own, ' .. dtype, function()
      local w = dlv3.randn({64}):to(dtype)
      for _, size in ipairs{{8, 8, 1, 1}, {4, 16, 1, 1}, {16, 4, 1, 1}, {16, 1, 2, 2}} do
        agrees(dlv3.randn({1, size[2], 6, 6}):to(dtype), w:reshape(size), nil, 'sizes ' .. table.concat(size, ','))
      end
    end)
  end

  t.case('a dilated kernel of which some taps, or none but the centre, meet the map', function()
    for _, rate in ipairs{1, 2, 4, 5, 6, 12, 36} do
      for _, size in ipairs{{6, 6}, {5, 13}, {1, 7}} do
        local x = dlv3.randn{2, 16, size[1], size[2]}:requires_grad_()
        local w = dlv3.randn{8, 16, 3, 3}:requires_grad_()
        local g = dlv3.randn{2, 8, size[1], size[2]}
        local function gradients()
          x.grad, w.grad = nil, nil
          local y = x:conv2d(w, {padding = rate, dilation = rate})
          y:backward(g)
          return {y:detach(), x.grad, w.grad}
        end
        local got, want = gradients(), reference(gradients)
        for i = 1, 3 do t.close(got[i], want[i], 1e-4, 1e-4, 'rate ' .. rate .. ', result ' .. i) end
      end
    end
  end)

  t.case('gradients of frozen layers: the bias alone, the input alone', function()
    for _, dtype in ipairs{'f32', 'bf16', 'f64'} do
      local own = dtype == 'f64' and 'f64' or 'f32'
      local x, w = dlv3.randn({2, 3, 4, 5}):to(dtype), dlv3.randn({4, 3, 1, 1}):to(own)
      local b = dlv3.zeros({4}, {dtype = own}):requires_grad_()
      x:conv2d(w, b):backward(dlv3.ones({2, 4, 4, 5}, {dtype = dtype}))
      t.eq(b.grad, dlv3.full({4}, 40, {dtype = own}))
      t.eq(w.grad, nil)
      x:requires_grad_()
      x:conv2d(w):backward(dlv3.ones({2, 4, 4, 5}, {dtype = dtype}))
      t.eq(x.grad.dtype, dtype)
      t.eq(w.grad, nil)
    end
  end)

  t.case('an activation in the epilogue has no gradient, and says so; a residual has', function()
    local x, w = dlv3.randn{1, 3, 4, 4}, dlv3.randn{2, 3, 1, 1}
    local r = dlv3.randn{1, 2, 4, 4}:requires_grad_()
    t.error(function() x:conv2d(w, nil, r, {activation = 'relu'}):sum():backward() end,
            'conv2d: with an activation it is for inference and has no gradient')
    x:conv2d(w, nil, r):sum():backward()
    t.eq(r.grad, dlv3.ones{1, 2, 4, 4})
    local scale = dlv3.randn{1, 3, 1, 1}:requires_grad_()
    t.error(function() x:conv2d(w, nil, nil, scale):sum():backward() end,
            'conv2d: with a scale it is for inference and has no gradient')
  end)

  t.case('a convolution with a scale is no less precise than one of the scaled map', function()
    for _, dtype in ipairs {'f32', 'bf16'} do
      local x, w, scale = dlv3.randn{2, 400, 9, 7}:to(dtype), dlv3.randn{33, 400, 1, 1},
          dlv3.rand{2, 400, 1, 1}:to(dtype)
      local exact = (x:to 'f64' * scale:to 'f64'):conv2d(w:to 'f64')
      local function distance(y) return (y:to 'f64' - exact):abs():mean():item() end
      t.ok(distance(x:conv2d(w, nil, nil, scale)) < 1.2 * distance((x * scale):conv2d(w)), dtype)
    end
  end)

  t.case('strides and padding far beyond the map take no time', function()
    local begin = dlv3.now()
    for _, groups in ipairs {1, 16} do
      local x, w = dlv3.randn{1, 16, 1, 1}:requires_grad_(), dlv3.randn{16, 16 / groups, 1, 1}
      x:conv2d(w, {stride = 2 ^ 30, groups = groups}):sum():backward()
      t.close(x.grad:reshape(16), w:reshape(16, 16 / groups):sum(groups == 1 and 1 or 2), 1e-5, 1e-6)
    end
    for _, far in ipairs {{2 ^ 29, 2 ^ 30 - 1}, {15000, 30000 - 1}} do
      local x, w = dlv3.randn{1, 16, 1, 1}, dlv3.randn{16, 1, 2, 2}:requires_grad_()
      local y = x:conv2d(w, {stride = 2, padding = far[1], dilation = far[2], groups = 16})
      t.eq(y:size(), {1, 16, 1, 1})
      y:sum():backward()
      t.eq(w.grad, dlv3.zeros{16, 1, 2, 2}) -- no tap meets the map
    end
    t.ok(dlv3.now() - begin < 20)
  end)

  t.case('gradients add up over several calls', function()
    local x, w = dlv3.randn{2, 16, 9, 9}, dlv3.randn{16, 16, 3, 3}:requires_grad_()
    local g = dlv3.randn{2, 16, 9, 9}
    x:conv2d(w, {padding = 1}):backward(g)
    local once = w.grad:clone()
    x:conv2d(w, {padding = 1}):backward(g)
    t.close(w.grad, once * 2, 1e-5, 1e-5) -- products added to a sum round otherwise than a sum added to it
  end)

  -- More tiles than one pass of winograd.c takes, of 4 x 4 and of 5 x 5 outputs, or more channels,
  -- and grids of few pixels, in the three directions, beside the direct sum in f64.
  for _, case in ipairs {{height = 126, width = 131, c = 40, k = 36, dilation = 2, most = 4e-6},
                         {height = 60, width = 60, c = 40, k = 36, dilation = 12, most = 8e-6},
                         {height = 24, width = 21, c = 520, k = 550, dilation = 1, most = 4e-6},
                         {height = 30, width = 44, c = 40, k = 36, dilation = 12, most = 2e-6},
                         {height = 40, width = 40, c = 520, k = 40, dilation = 24, most = 2e-6}} do
    t.case(('winograd, %d channels, dilation %d: error below %g of the norm'):format(
        case.c, case.dilation, case.most), function()
      local function all(impl, dtype)
        runtime.set_implementation(impl)
        dlv3.manual_seed(5)
        local h, w = case.height, case.width
        local x, taps, g = dlv3.randn{2, case.c, h, w}:to(dtype), dlv3.randn{case.k, case.c, 3, 3}:to(dtype),
            dlv3.randn{2, case.k, h, w}:to(dtype)
        local grad_w, attrs = dlv3.zeros_like(taps), {padding = case.dilation, dilation = case.dilation}
        local function ran(op, y)
          t.eq(runtime.chosen(dlv3.ops[op]), impl, op)
          return y
        end
        x:conv2d_backward_weight(g, grad_w, nil, attrs)
        ran('conv2d_backward_weight')
        return {ran('conv2d', x:conv2d(taps, nil, attrs)),
                ran('conv2d_backward_input', g:conv2d_backward_input(taps,
                    {padding = case.dilation, dilation = case.dilation, size = {h, w}})), grad_w}
      end
      local got, expected = all('winograd', 'f32'), all('direct', 'f64')
      for i, what in ipairs{'forward', 'backward-data', 'backward-weights'} do
        local difference = got[i]:to('f64') - expected[i]
        local relative = math.sqrt((difference * difference):sum():item() / (expected[i] * expected[i]):sum():item())
        t.ok(relative < case.most, ('%s: %g'):format(what, relative))
      end
    end)
  end

  t.case('another number of threads gives the same bits', function()
    local threads = dlv3.num_threads()
    -- {x, w, options}: tiles, windows of few channels, Winograd, pixels in parts, atrous, Winograd
    -- of 5 x 5 outputs, strided, depthwise
    local convs = {
      {{2, 24, 17, 15}, {40, 24, 3, 3}, {padding = 1}}, {{2, 3, 33, 31}, {16, 3, 3, 3}, {stride = 2, padding = 1}},
      {{2, 48, 40, 40}, {48, 48, 3, 3}, {padding = 2, dilation = 2}},
      {{4, 20, 30, 30}, {36, 20, 1, 1}, {}}, {{1, 64, 16, 16}, {32, 64, 3, 3}, {padding = 12, dilation = 12}},
      {{1, 64, 31, 30}, {72, 64, 3, 3}, {padding = 12, dilation = 12}},
      {{1, 40, 20, 20}, {33, 40, 3, 3}, {padding = 4, dilation = 4}},
      {{1, 16, 20, 20}, {40, 16, 3, 3}, {stride = 2, padding = 1}},
      {{2, 40, 21, 20}, {40, 1, 5, 5}, {padding = 2, groups = 40}},
      {{2, 24, 21, 20}, {24, 1, 3, 3}, {stride = 2, padding = 1, groups = 24}},
    }
    for _, dtype in ipairs{'f32', 'bf16'} do
      for i, c in ipairs(convs) do
        local x, w = dlv3.randn(c[1]):to(dtype), dlv3.randn(c[2])
        local first
        for _, n in ipairs{1, 3, 2} do
          dlv3.num_threads(n)
          local x2, w2 = x:clone():requires_grad_(), w:clone():requires_grad_()
          local y = x2:conv2d(w2, c[3])
          y:backward(y:detach())
          local results = {y:detach(), x2.grad, w2.grad}
          first = first or results
          for k = 1, 3 do
            t.eq(results[k], first[k], ('%s convolution %d, result %d, %d threads'):format(dtype, i, k, n))
          end
        end
      end
    end
    dlv3.num_threads(threads)
  end)

  t.case('matmul of the same data in every form', function()
    local a, b = dlv3.randn{5, 7, 6}, dlv3.randn{5, 6, 9}
    local whole = a:matmul(b)
    for p = 1, 5 do t.close(a[p]:matmul(b[p]), whole[p], 1e-5, 1e-5) end
    t.close(a:permute{1, 3, 2}:contiguous():matmul(b, {trans_a = true}), whole, 1e-5, 1e-5)
    t.close(a:matmul(b:permute{1, 3, 2}:contiguous(), {trans_b = true}), whole, 1e-5, 1e-5)
    t.close(a:matmul(b[1])[3], a[3]:matmul(b[1]), 1e-5, 1e-5)
    t.close(a[1]:matmul(b)[3], a[1]:matmul(b[3]), 1e-5, 1e-5)
  end)
end
