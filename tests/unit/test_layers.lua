-- test_layers.lua - batch norm, pooling, upsampling and cross entropy against PyTorch's numbers
-- (golden/layers.pth, made by golden/make_layers.py), in f64 and in f32; fused forms against
-- composed ones; numbers at the edges.

local dlv3 = require 'dlv3'

return function(t)
  local golden
  local tolerance = {f64 = {1e-11, 1e-12}, f32 = {3e-5, 3e-5}}

  -- The tensors of a case in a dtype: case('ce').x; labels stay u8. Names in `leaves` want
  -- gradients.
  local function fixture(case, dtype, leaves)
    golden = golden or dlv3.load(t.directory .. '/golden/layers.pth')
    return setmetatable({}, {__index = function(self, name)
      local x = golden[case .. '.' .. name]
      if not x then return nil end
      if x.dtype == 'f64' then x = x:to(dtype):clone() end
      if (leaves or ''):find(name, 1, true) then x:requires_grad_() end
      self[name] = x
      return x
    end})
  end

  local function close(got, want, dtype, what)
    t.close(got, want, tolerance[dtype][1], tolerance[dtype][2], what .. ' ' .. dtype)
  end

  -- fn(fixture, dtype, close) in both precisions; golden tensors are kept between cases.
  local function both(case, leaves, fn)
    t.case(case, function()
      for _, dtype in ipairs{'f64', 'f32'} do
        local f = fixture(case, dtype, leaves)
        fn(f, function(got, name) close(got, f[name], dtype, case .. '.' .. name) end, dtype)
      end
    end, {leaks = true})
  end

  -- PyTorch's gradient of hardsigmoid has 1/6 rounded to f32 in f64 too.
  local function rough(f, case)
    return function(got, name) t.close(got, f[name], 1e-7, 1e-7, case .. '.' .. name) end
  end

  -- -- Batch norm ---------------------------------------------------------------------------------

  local function batch_norm(case, attrs)
    both(case, 'x w b r', function(f, check, dtype)
      local y = f.x:batch_norm(f.w, f.b, f.mean, f.var, f.r, attrs)
      y:backward(f.g)
      check(y, 'y')
      if attrs.activation == 'hardsigmoid' and dtype == 'f64' then check = rough(f, case) end
      t.close(f.mean, golden[case .. '.new_mean'], 1e-6, 1e-6, case .. ' running mean')
      t.close(f.var, golden[case .. '.new_var'], 1e-6, 1e-6, case .. ' running var')
      check(f.x.grad, 'grad_x')
      check(f.w.grad, 'grad_w')
      check(f.b.grad, 'grad_b')
      if f.r then check(f.r.grad, 'grad_r') end
    end)
  end
  batch_norm('bn_train', {training = true})
  batch_norm('bn_eval', {training = false})
  batch_norm('bn_relu', {training = true, activation = 'relu'})
  batch_norm('bn_hardswish', {training = true, momentum = 0.01, eps = 1e-3, activation = 'hardswish'})
  batch_norm('bn_hardsigmoid', {training = false, momentum = 0.01, eps = 1e-3, activation = 'hardsigmoid'})
  batch_norm('bn_relu6', {training = true, momentum = 0.01, eps = 1e-3, activation = 'relu6'})

  t.case('batch norm: a mean far from zero costs no accuracy', function()
    local x = dlv3.randn({4, 3, 33, 35}, {dtype = 'f32'}) + 1000
    local mean, var = dlv3.zeros{3}, dlv3.ones{3}
    local y = x:batch_norm(nil, nil, mean, var, nil, {training = true, momentum = 1, eps = 0})
    local x64 = x:to('f64')
    t.close(var, x64:var({1, 3, 4}), 1e-6, 0)
    t.close(y:mean{1, 3, 4}, {0, 0, 0}, 0, 1e-4)
    local constant = dlv3.full({2, 3, 5, 5}, 1e4)
    t.eq(constant:batch_norm(nil, nil, mean, var, nil, {training = true}):abs():max():item(), 0)
    t.eq(var:totable()[1] < 1, true)
  end)

  t.case('batch norm: frozen parameters get no gradient, and accumulate where they are not', function()
    local x = dlv3.randn{2, 3, 4, 4}
    local w, b = dlv3.ones({3}, {requires_grad = true}), dlv3.zeros{3}
    for _ = 1, 2 do x:batch_norm(w, b, nil, nil, nil, {training = true}):square():sum():backward() end
    t.eq(b.grad, nil)
    t.eq(x.grad, nil)
    local twice = w.grad:clone()
    w.grad = nil
    x:batch_norm(w, b, nil, nil, nil, {training = true}):square():sum():backward()
    t.close(twice, w.grad * 2, 1e-6, 1e-6)
  end)

  -- -- Pooling and upsampling ---------------------------------------------------------------------

  local function map(case, fn)
    both(case, 'x', function(f, check)
      local y = fn(f.x)
      y:backward(f.g)
      check(y, 'y')
      check(f.x.grad, 'grad_x')
    end)
  end
  map('pool_3s2', function(x) return x:max_pool2d{kernel_size = 3, stride = 2, padding = 1} end)
  map('pool_2', function(x) return x:max_pool2d{kernel_size = 2} end)
  map('pool_odd', function(x) return x:max_pool2d{kernel_size = {3, 2}, stride = {1, 3}, padding = {1, 0},
                                                  dilation = {2, 1}} end)
  map('avg_1', function(x) return x:adaptive_avg_pool2d{size = 1} end)
  map('avg_3x2', function(x) return x:adaptive_avg_pool2d{size = {3, 2}} end)
  for name, size in pairs{x2 = {8, 10}, odd = {13, 11}, one = {4, 6}, down = {4, 3}, row = {1, 20}, same = {3, 4},
                          to_one = {1, 1}} do
    map('up_' .. name, function(x) return x:upsample_bilinear2d{size = size} end)
    map('up_' .. name .. '_align', function(x) return x:upsample_bilinear2d{size = size, align_corners = true} end)
  end

  t.case('upsampling f32: the ratio is rounded to f32', function()
    local f = fixture('up_long', 'f32')
    t.close(f.x_f32:upsample_bilinear2d{size = {1, 1041}}, f.y_f32, 1e-6, 1e-6)
  end, {leaks = true})

  t.case('upsampling of 1x1 is a copy', function()
    local x = dlv3.randn{2, 5, 1, 1}
    local y = x:upsample_bilinear2d{size = {3, 7}}
    t.eq(y, x:expand(2, 5, 3, 7):contiguous())
  end)

  t.case('a maximum of nan is nan', function()
    local x = dlv3.tensor{1, 0 / 0, 3, 2, -math.huge, -math.huge}:reshape(1, 1, 1, 6)
    local y = x:max_pool2d{kernel_size = {1, 2}}:reshape(-1):totable()
    t.ok(y[1] ~= y[1])
    t.eq({y[2], y[3]}, {3, -math.huge})
  end)

  -- -- Cross entropy ------------------------------------------------------------------------------

  local function cross_entropy(case, attrs, fused)
    both(case, 'x', function(f, check, dtype)
      local op = fused and 'upsample_cross_entropy' or 'cross_entropy'
      local loss = f.x[op](f.x, f.target, f.weight, attrs)
      loss:backward()
      check(loss, 'loss')
      check(f.x.grad, 'grad_x')
      if not fused then return end
      local x = f.x:detach():clone():requires_grad_()
      local size = f.target:size()
      local composed = x:upsample_bilinear2d{size = {size[2], size[3]}}:cross_entropy(f.target, f.weight, attrs)
      composed:backward()
      close(loss, composed, dtype, 'fused against composed')
      close(f.x.grad, x.grad, dtype, 'fused gradient against composed')
    end)
  end
  cross_entropy('ce', {})
  cross_entropy('ce_ignore', {})
  cross_entropy('ce_weight', {})
  cross_entropy('ce_smooth', {label_smoothing = .1})
  cross_entropy('ce_all', {label_smoothing = .2})
  cross_entropy('up_ce', {}, true)
  cross_entropy('up_ce_all', {label_smoothing = .1}, true)

  t.case('cross entropy: no pixel counts', function()
    for _, dtype in ipairs{'f64', 'f32', 'bf16'} do
      for _, op in ipairs{'cross_entropy', 'upsample_cross_entropy'} do
        local x = dlv3.randn({2, 3, 4, 5}):to(dtype):clone():requires_grad_()
        local loss = x[op](x, dlv3.full({2, 4, 5}, 255, {dtype = 'u8'}), nil, {label_smoothing = .1})
        loss:backward()
        t.eq(loss:item(), 0)
        t.eq(x.grad:abs():max():item(), 0, op .. ' ' .. dtype)
      end
    end
  end)

  t.case('cross entropy: large logits, exact zeros where nothing counts', function()
    for _, dtype in ipairs{'f64', 'f32'} do
      local x = dlv3.tensor{{1e4, -1e4, 0}, {-3e38, 3e38, 0}, {100, 100, 100},
                            {1, 2, 3}}:to(dtype):clone():requires_grad_()
      local loss = x:cross_entropy(dlv3.tensor({0, 0, 2, 255}, {dtype = 'u8'}))
      loss:backward()
      local g = x.grad:totable()
      t.close(g[1], {0, 0, 0}, 0, 0)
      t.close(g[3], {1 / 9, 1 / 9, -2 / 9}, 1e-6, 0)
      t.eq(g[4], {0, 0, 0})
    end
  end)

  t.case('upsample_argmax is argmax of the upsampled map', function()
    local x = dlv3.randn{2, 21, 9, 11}
    local _, index = x:upsample_bilinear2d{size = {67, 85}}:max_dim{axis = 2}
    t.eq(x:upsample_argmax{size = {67, 85}}:to('i64'), index)
  end)

  t.case('upsample_argmax of areas of one class, with values that are not finite', function()
    for _, odd in ipairs {0, 0 / 0, 1 / 0, -1 / 0} do
      local source = dlv3.rand{2, 5, 6, 40}
      source:narrow(2, 2, 1):narrow(4, 1, 30):add_(1)
      source:narrow(2, 4, 1):narrow(4, 31, 10):add_(2)
      source:narrow(2, 3, 1):narrow(3, 5, 1):narrow(4, 7, 2):fill_(odd)
      for _, dtype in ipairs {'f32', 'bf16'} do
        local x, size = source:to(dtype), {size = {48, 640}}
        local _, index = x:to('f32'):upsample_bilinear2d(size):max_dim{axis = 2}
        t.eq(x:upsample_argmax(size):to('i64'), index, dtype .. ' ' .. odd)
      end
    end
  end)

  t.case('bf16 activations, f32 loss and parameters', function()
    local x = dlv3.randn({2, 3, 9, 9}):to('bf16'):clone():requires_grad_()
    local w = dlv3.ones({3}, {requires_grad = true})
    local y = x:batch_norm(w, nil, nil, nil, nil, {training = true, activation = 'relu'})
    local loss = y:upsample_cross_entropy(dlv3.zeros({2, 30, 33}, {dtype = 'u8'}))
    loss:backward()
    t.eq({y.dtype, loss.dtype, x.grad.dtype, w.grad.dtype}, {'bf16', 'f32', 'bf16', 'f32'})
  end)

  t.case('results do not depend on the number of threads', function()
    local threads = dlv3.num_threads()
    local function everything()
      dlv3.manual_seed(5)
      local x = dlv3.randn({2, 19, 37, 41}, {requires_grad = true})
      local w = dlv3.ones({19}, {requires_grad = true})
      local target = dlv3.randint(0, 19, {2, 150, 170}, {dtype = 'u8'})
      local mean, var = dlv3.zeros{19}, dlv3.ones{19}
      local y = x:batch_norm(w, nil, mean, var, nil, {training = true, activation = 'hardswish'})
      local z = y:max_pool2d{kernel_size = 3, stride = 2,
                             padding = 1}:upsample_bilinear2d{size = {37, 41}} + y:adaptive_avg_pool2d{size = 1}
      local loss = z:upsample_cross_entropy(target, nil, {label_smoothing = .1})
      loss:backward()
      local hist = dlv3.zeros({19, 19}, {dtype = 'i64'})
      dlv3.no_grad(function() z:upsample_argmax{size = {150, 170}}:confusion_matrix(target, hist) end)
      return {loss:detach(), x.grad, w.grad, mean, var, hist}
    end
    dlv3.num_threads(1)
    local one = everything()
    for _, n in ipairs{2, 5} do
      dlv3.num_threads(n)
      local several = everything()
      for i = 1, #one do t.eq(several[i], one[i], 'result ' .. i .. ' with ' .. n .. ' threads') end
    end
    dlv3.num_threads(threads)
    t.eq(one[6]:sum():item(), 2 * 150 * 170)
  end)
end
