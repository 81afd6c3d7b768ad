-- test_compile.lua - dlv3.compile: replays equal eager calls to the last bit, and what can not be
-- replayed says so.

local dlv3 = require 'dlv3'
local nn = require 'dlv3.nn'
local optim = require 'dlv3.optim'
local models = require 'models'

return function(t)
  local training_step = dofile(t.directory .. '/training.lua')

  -- Losses, parameters, statistics and random state after five steps of two sizes with a falling
  -- rate.
  local function trained(name, precision, compiled, aux, checkpointed)
    return dlv3.scope(function()
      dlv3.manual_seed(1)
      local model = models[name]{num_classes = 4, aux = aux}
      if checkpointed then model:checkpoint_activations() end
      local groups = {{params = model.backbone:parameters()}, {params = model.classifier:parameters(), lr = 0.02},
                      aux and {params = model.aux_classifier:parameters()} or nil}
      local sgd = optim.SGD(groups, {lr = 0.01, momentum = 0.9, weight_decay = 1e-4})
      local step = training_step(model, sgd, aux)
      if compiled then step = dlv3.compile(step) end
      local losses = {}
      for i, size in ipairs {33, 33, 17, 33, 17} do
        local x, target = dlv3.randn{2, 3, size, size}:to(precision), dlv3.randint(0, 4, {2, size, size},
            {dtype = 'u8'})
        for _, group in ipairs(sgd.groups) do group.lr = group.initial_lr / i end
        losses[i] = step(x, target):item()
      end
      local state = {}
      for key, x in dlv3.items(model:state_dict()) do state[#state + 1] = {key, x:tobytes()} end
      return {losses = losses, state = state, rng = dlv3.get_rng_state()}
    end)
  end

  for _, case in ipairs {{'deeplabv3_mobilenet_v3_large', 'f32'}, {'deeplabv3_mobilenet_v3_large', 'bf16'},
                         {'deeplabv3_resnet50', 'f32'}, {'deeplabv3_resnet101', 'f32'}} do
    t.case(('%s, %s: training is the same to the last bit'):format(case[1], case[2]), function()
      local want, got = trained(case[1], case[2], false, true), trained(case[1], case[2], true, true)
      t.eq(got.losses, want.losses)
      t.eq(got.rng, want.rng)
      for i, entry in ipairs(want.state) do t.ok(entry[2] == got.state[i][2], entry[1]) end
    end)
  end

  for _, case in ipairs {{'deeplabv3_mobilenet_v3_large', 'f32'}, {'deeplabv3_mobilenet_v3_large', 'bf16'},
                         {'deeplabv3_resnet50', 'f32'}, {'deeplabv3_resnet50', 'bf16'}} do
    t.case(('%s, %s: training that makes its activations again is the same to the last bit, plain and compiled'):format(
        case[1], case[2]), function()
      local want = trained(case[1], case[2], false, false)
      for _, compiled in ipairs {false, true} do
        local got = trained(case[1], case[2], compiled, false, true)
        t.eq(got.losses, want.losses)
        t.eq(got.rng, want.rng)
        for i, entry in ipairs(want.state) do t.ok(entry[2] == got.state[i][2], entry[1]) end
      end
    end)
  end

  t.case('checkpoint holds less, draws the same numbers, and says what it takes', function()
    local function peak_of(checkpointed)
      return dlv3.scope(function()
        dlv3.manual_seed(3)
        local layers = nn.Sequential()
        for i = 1, 12 do layers[i] = nn.Conv2d(4, 4, 3, {padding = 1}) end
        local block = function(x) return layers(x):dropout{p = 0.5} end
        local x = dlv3.randn({1, 4, 64, 64}, {requires_grad = true})
        dlv3.memory{reset = true}
        local before = dlv3.memory().live
        local y = x * 1
        for _ = 1, 4 do y = checkpointed and dlv3.recompute(block, y) or block(y) end
        y:sum():backward()
        collectgarbage()
        return {peak = dlv3.memory().peak - before, grad = x.grad:tobytes(), after = dlv3.randn{3}:tobytes()}
      end)
    end
    local plain, again = peak_of(false), peak_of(true)
    t.ok(again.grad == plain.grad and again.after == plain.after)
    t.ok(again.peak < plain.peak * 0.7, ('%d bytes against %d'):format(again.peak, plain.peak))
    local x = dlv3.randn({2}, {requires_grad = true})
    t.error(function() dlv3.recompute(function(y) return y end) end, 'expected a function and a tensor')
    t.error(function() dlv3.recompute(function() return 1 end, x * 1) end,
            'must return one tensor, it returned a number')
    t.error(function() dlv3.recompute(function(y) return y, y end, x * 1) end,
            'must return one tensor, it returned more')
    t.error(function() dlv3.recompute(function(y) return y end, x, x) end, 'a function of one tensor, got more')
  end)

  for _, name in ipairs {'deeplabv3_mobilenet_v3_large', 'deeplabv3_resnet50', 'deeplabv3_resnet101'} do
    t.case(name .. ': inference is the same to the last bit, plain and fused', function()
      local model = models[name]{num_classes = 4, aux = true}:eval()
      for round = 1, 2 do
        local infer, kept = dlv3.compile(model), {}
        for i, size in ipairs {33, 17, 33} do
          local x = dlv3.randn{i, 3, size, size + 8}
          local want, got = dlv3.no_grad(model, x), dlv3.no_grad(infer, x)
          kept[i] = {want, got}
        end
        for i = 1, 3 do -- results of earlier calls are not written over
          t.eq(kept[i][2].out, kept[i][1].out, 'round ' .. round)
          t.eq(kept[i][2].aux, kept[i][1].aux)
        end
        model:fuse()
      end
    end)
  end

  t.case('backward does not go on through what an argument was computed from', function()
    local w, scale = dlv3.randn({2, 3, 1, 1}, {requires_grad = true}), dlv3.ones({3}, {requires_grad = true})
    w.grad = dlv3.zeros_like(w)
    local f = dlv3.compile(function(y) y:conv2d(w):sum():backward() end)
    local function map()
      return dlv3.randn{2, 3, 4, 4}:batch_norm(scale, nil, nil, nil, nil, {training = true, activation = 'relu'})
    end
    t.error(function() f(map()) end, 'the result of batch_norm, which the loss was computed from, was made before: '
                                     .. 'make it inside of the function too, or detach%(%) it')
    for _ = 1, 2 do
      local y = map():detach()
      w.grad:zero_()
      f(y)
      local v = w:detach():clone():requires_grad_()
      y:conv2d(v):sum():backward()
      t.eq(w.grad, v.grad)
    end
    t.error(function() f(map()) end, 'was made before') -- after a program for one without a tape too
  end)

  t.case('random numbers advance as eager ones do, with eager ones between', function()
    local function noise(x) return x:dropout{p = 0.5} + dlv3.rand_like(x) end
    local fast = dlv3.compile(noise)
    local x = dlv3.ones{7, 5}
    dlv3.manual_seed(3)
    local want = {noise(x), dlv3.rand{4}, noise(x), noise(x)}
    local state = dlv3.get_rng_state()
    dlv3.manual_seed(3)
    local got = {fast(x), dlv3.rand{4}, fast(x), noise(x)}
    for i = 1, 4 do t.eq(got[i], want[i], 'draw ' .. i) end
    t.eq(dlv3.get_rng_state(), state)
    t.ok(not got[1]:equal(got[3]))
  end)

  t.case('arguments and results of many kinds', function()
    local calls = 0
    local fast = dlv3.compile(function(batch, k, name, flag)
      calls = calls + 1
      return {sum = batch.a + batch[1] * k, list = {batch.a, name}}, flag, nil, batch.a:narrow(1, 1, 1)
    end)
    local a, b = dlv3.randn{3, 2}, dlv3.randn{3, 2}
    local r, flag, nothing, part = fast({a = a, b}, 2, 'x', true)
    t.eq({flag, nothing}, {true})
    t.eq(r.sum, a + b * 2)
    t.eq(r.list[1], a)
    t.eq(r.list[2], 'x')
    t.eq(part, a:narrow(1, 1, 1))
    t.eq(fast({a = b, a}, 2, 'x', true).sum, b + a * 2)
    t.eq(calls, 1)
    t.eq(fast({a = b, a}, 3, 'x', true).sum, b + a * 3)
    t.eq(calls, 2)
    t.eq(fast({a = a, a}, 2, 'x', true).sum, a + a * 2, 'the same tensor twice')
    t.eq(fast({a = a, b}, 2, 'x', true).sum, a + b * 2)
    t.eq(calls, 3)
    local minus, x = dlv3.compile(function(p, q) return p - q end), dlv3.arange(0, 6):float()
    t.eq(minus(x:narrow(1, 1, 3), x:narrow(1, 4, 3)), dlv3.full({3}, -3), 'in one storage')
    t.eq(minus(dlv3.full({3}, 9), dlv3.full({3}, 2)), dlv3.full({3}, 7), 'and in two')
    local m = dlv3.randn{2, 3}
    t.eq(fast({a = m:permute{2, 1}, b}, 2, 'x', true).sum, m:permute{2, 1} + b * 2)
    t.eq(calls, 4)
    t.eq(select('#', dlv3.compile(function() end)()), 0)
    t.eq(dlv3.compile(function() return 1, nil end)(), 1)
  end)

  t.case('what changes outside: contents, places, modes, grad mode, an optimiser', function()
    local calls = 0
    local layer, bn = nn.Linear(4, 3), nn.BatchNorm2d(3)
    local function plain(x)
      calls = calls + 1
      return bn(layer(x):reshape(-1, 3, 1, 1))
    end
    local fast, x = dlv3.compile(plain), dlv3.randn{5, 4}
    local function same(what)
      local stats = bn.running_mean:clone()
      local want = dlv3.no_grad(plain, x)
      bn.running_mean:copy_(stats)
      t.eq(dlv3.no_grad(fast, x), want, what)
    end
    bn:eval()
    same 'at first'
    dlv3.no_grad(function() layer.weight:mul_(2) end)
    local before = calls
    same 'another content'
    t.eq(calls, before + 1)
    layer:to 'f64'
    bn:to 'f64'
    x = x:to 'f64'
    same 'another dtype'
    bn:train()
    same 'training mode'
    t.ok(bn.num_batches_tracked:item() > 0)
    bn:eval()
    same 'back in evaluation'
    layer:to 'f32'
    layer:to 'f64'
    same 'parameters that were moved'
    local sgd = optim.SGD({{params = layer:parameters()}}, {lr = 0.1, momentum = 0.9})
    same 'parameters in an arena'
    local step = dlv3.compile(function(v)
      sgd:zero_grad()
      layer(v):square():mean():backward()
      sgd:step()
    end)
    step(x)
    local w = layer.weight:clone()
    sgd.groups[1].lr = 0
    step(x)
    t.eq(layer.weight, w, 'a rate of 0')
    sgd.groups[1].momentum, sgd.groups[1].lr = 0.5, 0.1
    step(x)
    t.ok(not layer.weight:equal(w))
    t.close(layer.weight, w - sgd.groups[1].arena.momentum:narrow(1, 1, 12):reshape(3, 4) * 0.1, 1e-9, 1e-9)
  end)

  t.case('a Lua function, a scope and another compiled function inside', function()
    local twice = dlv3.Function{forward = function(ctx, x) ctx.x = x return x * 2 end,
                                backward = function(ctx, g) return g * 2 + ctx.x * 0 end}
    local inner = dlv3.compile(function(x) return x:relu() end)
    local w = dlv3.randn{6}:requires_grad_()
    w.grad = dlv3.zeros{6}
    local function step(x, relu)
      return dlv3.scope(function()
        local loss = relu(twice(w) * x):sum()
        loss:backward()
        return loss
      end)
    end
    local fast = dlv3.compile(step)
    local x = dlv3.randn{6}
    local want = step(x, x.relu):item()
    local grad = w.grad:clone()
    t.eq(fast(x, inner):item(), want)
    t.eq(w.grad, grad * 2)
    t.eq(dlv3.scope(fast, x, inner):item(), want)
    t.eq(fast(x, inner):item(), want)
    t.eq(w.grad, grad * 4)
  end)

  t.case('memory: intermediates share it, nothing is left', function()
    local function chain(x)
      for _ = 1, 40 do x = x * 1.01 end
      return x
    end
    local x = dlv3.randn{100000}
    collectgarbage()
    collectgarbage()
    local before = dlv3.memory{reset = true}.live
    do
      local fast = dlv3.compile(chain)
      t.eq(fast(x), chain(x))
      collectgarbage()
      dlv3.memory{reset = true}
      for _ = 1, 5 do fast(x):release() end
      t.ok(dlv3.memory().peak - before < 5 * 400000, 'three maps at once, not forty')
    end
    collectgarbage()
    collectgarbage()
    t.ok(dlv3.memory().live <= before)
  end)

  t.case('memory: gradients of batch norm are written over what it reads for the last time', function()
    local MAP = 4 * 2 * 8 * 100 * 125
    for _, activation in ipairs {'none', 'relu', 'hardswish'} do
      local x, leaves = dlv3.randn{2, 8, 100, 125}, {scale = dlv3.ones{8}, bias = dlv3.zeros{8},
                                                     factor = dlv3.ones{2, 8, 1, 1}}
      for _, leaf in pairs(leaves) do
        leaf.requires_grad = true
        leaf.grad = leaf:detach() * 0
      end
      local function step(image)
        local y, residual = image * leaves.factor, image:exp() * leaves.factor
        local loss = y:batch_norm(leaves.scale, leaves.bias, nil, nil, residual,
                                  {training = true, activation = activation}):square():mean()
        loss:backward()
        return loss
      end
      local function gradients(fn)
        for _, leaf in pairs(leaves) do leaf.grad:zero_() end
        local loss = dlv3.scope(function() return fn(x):item() end)
        return {loss, leaves.scale.grad:tobytes(), leaves.bias.grad:tobytes(), leaves.factor.grad:tobytes()}
      end
      local want = gradients(step)
      collectgarbage()
      collectgarbage()
      local before, fast = dlv3.memory().live, dlv3.compile(step)
      t.eq(gradients(fast), want)
      collectgarbage()
      collectgarbage()
      t.ok(dlv3.memory().live - before < 6 * MAP, ('%s: %.2f maps at once'):format(
          activation, (dlv3.memory().live - before) / MAP))
    end
  end)

  t.case('what can not be recorded is an error at the line', function()
    local x = dlv3.ones{3}
    t.error(function() dlv3.compile(function(v) return v:sum():item() end)(x) end,
            'test_compile.lua:%d+: item: no value can be read or written on the host while dlv3.compile records')
    t.error(function() dlv3.compile(function(v) return v:totable() end)(x) end, 'totable: no value')
    t.error(function() dlv3.compile(function(v) return tostring(v) end)(x) end, 'no value can be read')
    t.error(function() dlv3.compile(function(v) return v + dlv3.tensor{1, 2, 3} end)(x) end, 'tensor: no value')
    t.error(function() dlv3.compile(function(v) return v:equal(v) end)(x) end, 'item: no value')
    t.error(function() dlv3.compile(function() return require 'dlv3.vision.image'.resize(dlv3.zeros({3, 4, 4},
        {dtype = 'u8'}), 8) end)() end, 'no value can be read')
    t.error(function() dlv3.compile(function(v) return v:matmul(dlv3.ones{2, 2}) end)(x) end,
            'test_compile.lua:%d+: matmul')
    t.error(function() dlv3.compile(function() error('mine', 0) end)(x) end, '^mine$')
    t.error(function() dlv3.compile(3) end, 'compile: takes a function')
    local kept = {}
    t.error(function() dlv3.compile(function(v) kept[1] = v * 2 return v end)(x) end,
            'test_compile.lua:%d+: compile: the function keeps a tensor that it makes, %[3%] f32 cpu')
    t.error(function() return kept[1] + 1 end, 'was released')
    local later = dlv3.compile(function(v) if v:size(1) == 4 then kept[1] = v * 2 end return v * 3 end)
    t.eq(later(x), x * 3)
    t.eq(later(dlv3.ones{4}), dlv3.ones{4} * 3, 'kept only at another size')
    t.error(function() return kept[1] + 1 end, 'was released')
    local w = dlv3.ones{3}:requires_grad_()
    t.error(function() dlv3.compile(function(v) (w * v):sum():backward() end)(x) end, 'the function keeps a tensor')
    w.grad = nil
    t.error(function() dlv3.compile(function(v) return w * v end)(x) end, 'compile: result 1 needs its tape')
    local target = dlv3.zeros({1, 2, 2}, {dtype = 'u8'})
    local loss = dlv3.compile(function(v, y) return v:cross_entropy(y) end)
    local scores = dlv3.randn{1, 2, 2, 2}
    t.eq(loss(scores, target), scores:cross_entropy(target))
    t.error(function() loss(scores, target + 7) end, 'test_compile.lua:%d+: cross_entropy')
    t.eq(loss(scores, target), scores:cross_entropy(target), 'after an error')
    local other = dlv3.ones{3}
    local add = dlv3.compile(function(v) return v + other end)
    add(x)
    other:release()
    t.error(function() add(x) end, 'b was released since dlv3.compile recorded the call')
    t.eq(x + 1, dlv3.full({3}, 2), 'nothing is being recorded any more')
  end)

  t.case('a weight that is made inside is packed anew in every run', function()
    for _, case in ipairs {{{1, 40, 9, 9}, {48, 40, 3, 3}, {padding = 1}},
                           {{1, 32, 9, 9}, {32, 1, 3, 3}, {groups = 32}}, {{1, 5, 9, 9}, {7, 5, 1, 1}, {}}} do
      local x = dlv3.randn(case[1])
      local function plain(v, k)
        v = v:clone():requires_grad_()
        local y = v:conv2d(k * 2, case[3])
        y:backward(y:detach())
        return y:detach(), v.grad
      end
      local fast = dlv3.compile(plain)
      for run = 1, 4 do
        local k = dlv3.randn(case[2])
        local want_y, want_x = plain(x, k)
        local y, grad_x = fast(x, k)
        t.eq(y, want_y, 'run ' .. run)
        t.eq(grad_x, want_x, 'run ' .. run)
      end
    end
  end)

  t.case('numbers that differ in their last digit, tensors without elements, memory beside an argument or shared '
         .. 'by two', function()
    local add = dlv3.compile(function(x, n) return x + n end)
    local zeros = dlv3.zeros({2}, {dtype = 'i64'})
    add(zeros, 1e15)
    t.eq(add(zeros, 1e15 + 1):totable(), {1e15 + 1, 1e15 + 1})
    t.eq(dlv3.compile(function(x) return x:relu():sum() end)(dlv3.zeros{0, 3}):item(), 0)
    local both = dlv3.arange(1, 8)
    local w = both:narrow(1, 5, 4)
    local times = dlv3.compile(function(x) return x * w end)
    times(both:narrow(1, 1, 4))
    t.eq(times(dlv3.ones{4}), w:clone())
    local accumulate = dlv3.compile(function(a, b) return a:add_(b) end)
    accumulate(dlv3.ones{4}, dlv3.ones{4})
    local x = dlv3.arange(1, 5)
    accumulate(x:narrow(1, 2, 4), x:narrow(1, 1, 4))
    t.eq(x:totable(), {1, 3, 5, 7, 9})
  end)

  t.case('a parameter that is frozen or set free is recorded anew', function()
    local a, b = dlv3.ones({1}, {requires_grad = true}), dlv3.ones({1}, {requires_grad = true})
    local sgd = optim.SGD({a, b}, {lr = 0.1})
    local step = dlv3.compile(function(x)
      sgd:zero_grad();
      (a * b * x):sum():backward()
      sgd:step()
    end)
    local x = dlv3.ones{1}
    step(x)
    a.requires_grad = false
    local before = a:item()
    step(x)
    t.eq(a:item(), before)
    a.requires_grad = true
    step(x)
    t.ok(a:item() < before)
  end)
end
