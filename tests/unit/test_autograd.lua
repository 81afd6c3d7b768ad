-- test_autograd.lua - the tape: accumulation, views, versions, no_grad, scopes, Lua functions,
-- error texts.

local dlv3 = require 'dlv3'

return function(t)
  t.case('y:backward(x.grad) of a convolution: what is read is not added to meanwhile', function()
    for _, kernel in ipairs {1, 3} do
      local w, g = dlv3.randn({4, 4, kernel, kernel}), dlv3.randn {1, 4, 6, 5}
      local function gradients(own)
        local x, v = dlv3.randn({1, 4, 6, 5}):mul(0):add(1):requires_grad_(), w:clone():requires_grad_()
        x.grad = g:clone()
        x:conv2d(v, nil, {padding = (kernel - 1) / 2}):backward(own and x.grad or g)
        return {x.grad, v.grad}
      end
      local got, want = gradients(true), gradients(false)
      t.close(got[1], want[1], 1e-5, 1e-5)
      t.eq(got[2], want[2])
    end
  end)
  t.case('chain, branch, accumulate', function()
    local x = dlv3.tensor({2, 3}, {requires_grad = true})
    local y = x * x + x * 3
    y:sum():backward()
    t.eq(x.grad:totable(), {7, 9})
    local again = x * 1
    again:sum():backward()
    t.eq(x.grad:totable(), {8, 10})
    x.grad = nil
    t.eq(x.grad, nil)
  end)

  t.case('broadcast, views, reductions', function()
    local a = dlv3.randn({2, 3}, {requires_grad = true})
    local b = dlv3.randn({3, 1}, {requires_grad = true})
    local y = (a:reshape(3, 2) * b):t():narrow(1, 1, 1):mean()
    y:backward()
    t.eq(a.grad:size(), {2, 3})
    t.close(a.grad:reshape(3, 2)[{{}, 1}], b:detach():reshape(3) / 3, 1e-6)
    t.eq(a.grad:reshape(3, 2)[{{}, 2}]:totable(), {0, 0, 0})
    t.close(b.grad:reshape(3), a:detach():reshape(3, 2)[{{}, 1}] / 3, 1e-6)
  end)

  t.case('one gradient for two uses is not mixed up', function()
    local x = dlv3.ones({2}, {requires_grad = true})
    local y = x * 2
    local z = y + y          -- both edges receive the same gradient tensor
    local loss = (z + y:relu()):sum()
    loss:backward()
    t.eq(x.grad:totable(), {6, 6})
  end)

  t.case('no_grad and detach', function()
    local x = dlv3.ones({2}, {requires_grad = true})
    local y = dlv3.no_grad(function() return x * 2 end)
    t.ok(not y.requires_grad and not (x:detach() * 2).requires_grad and (x * 2).requires_grad)
    t.error(function() y:sum():backward() end, 'nothing it was computed from requires grad')
    t.error(function() dlv3.no_grad(function() error('inside', 0) end) end, '^inside$')
    t.ok((x * 2).requires_grad)
  end)

  t.case('misuse is told', function()
    local x = dlv3.ones({2}, {requires_grad = true})
    t.error(function() (x * 2):backward() end, 'must have one element')
    t.error(function() x:add_(1) end, 'requires grad and can not be changed in place')
    local y = x * x
    local loss = y:sum()
    loss:backward()
    t.error(function() loss:backward() end, 'already used')
    local w = x * 1
    local z = (w * w):sum()
    dlv3.no_grad(function() w:detach():fill_(3) end)
    t.error(function() z:backward() end, 'backward of mul: . was changed in place after it was saved')
    t.error(function() dlv3.ones({2}, {dtype = 'i64', requires_grad = true}) end, 'expected a float tensor, got i64')
    t.error(function() (x * 2):requires_grad_(false) end, 'was computed from others')
  end)

  t.case('a batch norm is recomputed for the nodes that need its output, to the bit', function()
    -- through norms with and without a residual, at last norms of norms
    local function gradients(dtype, activation, training, seen)
      dlv3.manual_seed(1)
      local x = dlv3.randn{2, 6, 7, 5}:to(dtype):detach():requires_grad_()
      local leaves = {x}
      for i, size in ipairs{{6}, {6}, {4, 6, 3, 3}, {4, 6, 3, 3}, {6, 6, 1, 1}, {6, 6, 1, 1}, {6, 6, 1, 1}} do
        leaves[i + 1] = dlv3.randn(size, {requires_grad = true})
      end
      local y = seen(x:batch_norm(leaves[2], leaves[3], dlv3.zeros{6}, dlv3.ones{6}, nil,
                                  {training = training, activation = activation}))
      for i, w in ipairs{leaves[6], leaves[7], leaves[8]} do
        y = seen(y:conv2d(w):batch_norm(leaves[2], nil, nil, nil, i == 1 and x or y,
                                        {training = true, activation = activation}))
      end
      for _ = 1, 3 do
        y = seen(y:batch_norm(leaves[2], nil, nil, nil, nil, {training = true, activation = activation}))
      end
      local z = (y * y):conv2d(leaves[4], {padding = 1}) + y:conv2d(leaves[5], {padding = 1})
      z:square():sum():backward()
      local list = {}
      for i, leaf in ipairs(leaves) do list[i] = leaf.grad end
      return list
    end
    local function kept(y) return y:reshape{2, 6, 7, 5} end -- a view, which no batch norm made
    local function made(y) return y end
    -- where y's rounding tells no other slope
    for dtype, activations in pairs{f32 = {'none', 'relu', 'relu6', 'hardswish', 'hardsigmoid'},
                                    bf16 = {'none', 'relu', 'hardswish'}} do
      for _, activation in ipairs(activations) do
        for _, training in ipairs{true, false} do
          local case = ('%s %s %s'):format(dtype, activation, training and 'training' or 'eval')
          local a, b = gradients(dtype, activation, training, kept), gradients(dtype, activation, training, made)
          for i = 1, #a do t.eq(b[i], a[i], case .. ', leaf ' .. i) end
        end
      end
    end
  end)

  t.case('a factor is kept for the gradient of the other one alone', function()
    local map, w = dlv3.randn({4, 16, 64, 64}), dlv3.randn{16, 16, 1, 1}
    local x = dlv3.ones({1}, {requires_grad = true})
    for name, fn in pairs{conv2d = function(y) return y:conv2d(w) end, mul = function(y) return y * 2 end,
                          div = function(y) return y / 2 end} do
      collectgarbage()
      collectgarbage()
      local before = dlv3.memory().live
      local loss = fn(map + x):sum()
      collectgarbage()
      collectgarbage()
      t.ok(dlv3.memory().live - before < 2 ^ 16, name)
      x.grad = nil
      loss:backward()
      t.ok(x.grad:item() ~= 0, name)
    end
  end)

  t.case('a batch norm whose output or input was changed is not recomputed from the changed values', function()
    local x, w = dlv3.randn({2, 3, 4, 4}), dlv3.randn({2, 3, 1, 1}, {requires_grad = true})
    local scale = dlv3.ones({3}, {requires_grad = true})
    local function norm(v) return v:batch_norm(scale, nil, nil, nil, nil, {training = true, activation = 'relu'}) end
    local y = norm(x)
    dlv3.no_grad(function() y:detach():mul_(2) end) -- before the convolution: its input is what it saw
    local seen = y:detach():clone()
    y:conv2d(w):sum():backward()
    local got, v = w.grad, dlv3.randn({2, 3, 1, 1}, {requires_grad = true})
    seen:conv2d(v):sum():backward()
    t.eq(got, v.grad)
    local loss = norm(x):conv2d(w):sum()
    x:add_(1)
    t.error(function() loss:backward() end, 'backward of batch_norm: x was changed in place after it was saved')
    local held = norm(x)
    loss = held:conv2d(w):sum()
    held:release() -- nobody needs it
    loss:backward()
  end)

  t.case('scope frees what was made inside, keeps gradients and results', function()
    local x = dlv3.ones({1000}, {requires_grad = true})
    local kept, inside
    local out, list = dlv3.scope(function()
      inside = x * 2
      local loss = (inside * x):sum()
      loss:backward()
      return loss, {a = x + 1}
    end)
    t.eq(out:item(), 2000)
    t.eq(list.a[1]:item(), 2)
    t.error(function() return inside + 1 end, 'released')
    t.eq(x.grad[1]:item(), 4)
    dlv3.scope(function() (x * 2):sum():backward() end)
    t.eq(x.grad[1]:item(), 6)
    t.error(function() dlv3.scope(function() kept = x * 2 error('oops', 0) end) end, 'oops')
    t.error(function() return kept + 1 end, 'released')
    local v
    dlv3.scope(function() v = x:reshape(10, 100) end) -- a view of something older survives
    t.eq(v[1][1]:item(), 1)
  end)

  t.case('the slopes of norm, std, max and min where they have none are those of PyTorch', function()
    local function slope(fn, values)
      local x = dlv3.tensor(values, {requires_grad = true})
      fn(x):sum():backward()
      return x.grad:totable()
    end
    t.eq(slope(function(x) return x:norm() end, {0, 0}), {0, 0})
    t.close(slope(function(x) return x:norm(2, 2) end, {{0, 0}, {3, 4}}), {{0, 0}, {0.6, 0.8}})
    t.eq(slope(function(x) return x:norm(math.huge) end, {1, -1, 0.5}), {0.5, -0.5, 0})
    t.eq(slope(function(x) return x:std() end, {2, 2, 2}), {0, 0, 0})
    t.close(slope(function(x) return x:std(2) end, {{2, 2}, {1, 3}}), {{0, 0}, {-math.sqrt(0.5), math.sqrt(0.5)}})
    t.eq(slope(function(x) return x:max() * 3 end, {2, 2, 1}), {1.5, 1.5, 0})
    t.eq(slope(function(x) return x:min() end, {{2, 1}, {1, 5}}), {{0, 0.5}, {0.5, 0}})
    t.eq(slope(function(x) return x:max() end, {1, 0 / 0, 3}), {0, 1, 0})
  end)

  t.case('a Lua function as an op', function()
    local double = dlv3.Function{
      forward = function(ctx, x, factor) ctx.factor = factor return x * factor end,
      backward = function(ctx, grad) return grad * ctx.factor end,
    }
    local x = dlv3.ones({3}, {requires_grad = true})
    local y = double(x * 2, 5)
    y:sum():backward()
    t.eq(y:totable(), {10, 10, 10})
    t.eq(x.grad:totable(), {10, 10, 10})
    local wrong = dlv3.Function{forward = function(_, a) return a * 2 end,
                                backward = function() return dlv3.ones{1} end}
    t.error(function() wrong(x):sum():backward() end, 'the gradient of input 1 is')
    local failing = dlv3.Function{forward = function(_, a) return a * 2 end,
                                  backward = function() error('from backward', 0) end}
    t.error(function() failing(x):sum():backward() end, 'from backward')
    t.error(function() dlv3.Function{} end, 'needs {forward')
    local twice = dlv3.Function{forward = function(_, a) local b = a * 2 return b, b end,
                                backward = function(_, a, b) return a + b end}
    t.error(function() twice(dlv3.ones({1}, {requires_grad = true})) end, 'results 2 and 1 are the same tensor')
  end)

  t.case('a long chain neither recurses nor leaks', function()
    local x = dlv3.ones({1}, {requires_grad = true})
    local y = x
    for _ = 1, 20000 do y = y + 0 end
    y:backward()
    t.eq(x.grad:item(), 1)
    local z = x
    for _ = 1, 20000 do z = z + 0 end -- freed without a backward
  end)

  t.case('gradient given by the caller', function()
    local x = dlv3.ones({2}, {requires_grad = true})
    local y = x * 3
    y:backward(dlv3.tensor{1, 10})
    t.eq(x.grad:totable(), {3, 30})
    t.error(function() (x * 3):backward(dlv3.ones{3}) end, 'sizes and dtype of the tensor')
  end)

  t.case('what is written into another tensor would lose its gradient, and is refused', function()
    local w = dlv3.ones({3}, {requires_grad = true})
    local sum = dlv3.zeros{}
    t.error(function() sum:add_((w * 2):sum()) end,
            'add_: .*requires grad, and what is written into another tensor leaves the tape')
    t.error(function() dlv3.zeros{3}:copy_(w) end, 'copy_: .*leaves the tape')
    local row = dlv3.zeros{3}
    t.error(function() row[1] = w[1] end, 'leaves the tape')
    row[1] = w[1]:detach()
    dlv3.no_grad(function() sum:add_(w:sum()) end)
    t.eq(sum:item(), 3)
  end)
end
