-- test_scaler.lua - training in f16 with a dynamic loss scale.

local dlv3 = require 'dlv3'
local nn = require 'dlv3.nn'
local optim = require 'dlv3.optim'
local models = require 'models'

-- torch.amp.GradScaler's update, in numbers.
local function updated(state, found_inf, o)
  if found_inf then state.scale, state.tracker = state.scale * o.backoff, 0
  elseif state.tracker + 1 == o.interval then state.scale, state.tracker = state.scale * o.growth, 0
  else state.tracker = state.tracker + 1 end
end

local training_step -- of training.lua

-- A model and its step, with a loss scale that is init at first, or none.
local function trainee(name, init, compiled)
  dlv3.manual_seed(1)
  local t = {model = models[name]{num_classes = 4, aux = true}}
  local sgd = optim.SGD({{params = t.model:parameters()}}, {lr = 0.05, momentum = 0.9, weight_decay = 1e-4})
  local scaler = init and optim.LossScaler{init = init, interval = 2}
  t.step = training_step(t.model, sgd, true, scaler)
  if compiled then t.step = dlv3.compile(t.step) end
  t.sgd, t.scaler = sgd, scaler
  return t
end

-- Parameters and momenta.
local function bytes_of(sgd) return sgd.groups[1].arena.p:tobytes() .. sgd.groups[1].arena.momentum:tobytes() end

return function(t)
  training_step = dofile(t.directory .. '/training.lua')

  t.case('the rule of PyTorch: growth, backoff, steps that are left out', function()
    local o = {init = 1024, growth = 2, backoff = 0.5, interval = 3}
    local scaler, want = optim.LossScaler(o), {scale = o.init, tracker = 0}
    local p = nn.Parameter(dlv3.tensor {1, -2, 3})
    local sgd = optim.SGD({p}, {lr = 0.125, momentum = 0.5, weight_decay = 0.25})
    local value, buffer = {1, -2, 3}, {0, 0, 0}
    for step, g in ipairs {1, 2, 3, math.huge, -1, 1, 0 / 0, 2, 1, 1, -math.huge, math.huge} do
      local x, before = dlv3.tensor {1, 1, g}, bytes_of(sgd)
      local found = g - g ~= 0
      sgd:zero_grad()
      scaler:scale((p * x):sum()):backward()
      if not found then t.eq(p.grad:totable(), {want.scale, want.scale, g * want.scale}) end
      scaler:step(sgd)
      if found then t.ok(bytes_of(sgd) == before, 'left out') else
        for i = 1, 3 do
          buffer[i] = 0.5 * buffer[i] + ((i == 3 and g or 1) + 0.25 * value[i])
          value[i] = value[i] - 0.125 * buffer[i]
        end
        t.close(p:totable(), value, 1e-6)
      end
      updated(want, found, o)
      t.eq({scaler:get_scale(), scaler:state_dict()._growth_tracker}, {want.scale, want.tracker}, 'step ' .. step)
    end
    t.eq(want.scale, 256)
  end)

  t.case('scales of powers of two leave the bits of a training in f32 as they are', function()
    local x, target = dlv3.randn{2, 3, 33, 33}, dlv3.randint(0, 4, {2, 33, 33}, {dtype = 'u8'})
    local plain, scaled = trainee('deeplabv3_mobilenet_v3_large'), trainee('deeplabv3_mobilenet_v3_large', 2 ^ 10)
    for seed = 1, 3 do
      dlv3.manual_seed(seed)
      local want = plain.step(x, target):item()
      dlv3.manual_seed(seed)
      t.eq(scaled.step(x, target):item(), want)
    end
    t.ok(bytes_of(scaled.sgd) == bytes_of(plain.sgd))
    t.eq(scaled.scaler:get_scale(), 2 ^ 11)
  end)

  t.case('MobileNetV3 in f16: an overflow is left out, the loss falls, compiled as eager', function()
    local x, target = dlv3.randn({2, 3, 33, 33}):to 'f16', dlv3.full({2, 33, 33}, 3, {dtype = 'u8'})
    local function run(compiled)
      local r = trainee('deeplabv3_mobilenet_v3_large', 2 ^ 22, compiled)
      local losses, scales, at_first = {}, {}, bytes_of(r.sgd)
      for step = 1, 16 do
        dlv3.manual_seed(1)
        losses[step] = dlv3.scope(function() return r.step(x, target):item() end)
        scales[step] = r.scaler:get_scale()
        if step == 1 then t.ok(bytes_of(r.sgd) == at_first, 'left out') end
      end
      return losses, scales, bytes_of(r.sgd)
    end
    local losses, scales, bytes = run(false)
    t.eq(scales[1], 2 ^ 21)
    t.ok(losses[16] < 0.7 * losses[1], ('loss %g, then %g'):format(losses[1], losses[16]))
    local grew = false
    for i = 2, 16 do grew = grew or scales[i] > scales[i - 1] end
    t.ok(grew, 'the scale grew again')
    local compiled_losses, compiled_scales, compiled_bytes = run(true)
    t.eq({compiled_losses, compiled_scales}, {losses, scales}, 'compiled')
    t.ok(compiled_bytes == bytes, 'compiled')
  end)

  for _, name in ipairs {'deeplabv3_mobilenet_v3_large', 'deeplabv3_resnet50', 'deeplabv3_resnet101'} do
    t.case(name .. ': the gradients of f16 reach every parameter, as large as those of f32', function()
      local x, target = dlv3.randn{2, 3, 33, 33}, dlv3.randint(0, 4, {2, 33, 33}, {dtype = 'u8'})
      local function gradients(dtype, scale)
        local r = trainee(name)
        dlv3.manual_seed(2)
        local out = r.model:logits(x:to(dtype))
        local loss = out.out:upsample_cross_entropy(target) + out.aux:upsample_cross_entropy(target) * 0.5
        t.eq({out.out.dtype, loss.dtype}, {dtype, 'f32'});
        (loss * scale):backward()
        return loss:item(), r.sgd.groups[1].arena.grad / scale, r.model
      end
      local want, exact = gradients('f32', 1)
      local loss, grad, model = gradients('f16', 256)
      t.close(loss, want, 1e-2)
      local function norm(v) return v:square():sum():sqrt():item() end
      -- the directions are not close: batches of two values magnify what f16 rounds
      t.close(norm(grad), norm(exact), 0.3)
      for path, p in model:named_parameters() do
        local most = p.grad:abs():max():item()
        t.ok(p.grad.dtype == 'f32' and most > 0 and most < math.huge, path)
      end
    end)
  end

  t.case('state: a run that goes on from it has the same bits', function()
    local x, target = dlv3.randn{2, 3, 6, 6}:to 'f16', dlv3.randint(0, 4, {2, 4, 4}, {dtype = 'u8'})
    local function start()
      dlv3.manual_seed(3)
      local net = nn.Conv2d(3, 4, 3)
      return net, optim.SGD(net:parameters(), {lr = 0.1, momentum = 0.9}), optim.LossScaler{init = 2 ^ 30, interval = 3}
    end
    local function steps(n, net, sgd, scaler)
      for _ = 1, n do
        sgd:zero_grad()
        scaler:scale(net(x):cross_entropy(target)):backward()
        scaler:step(sgd)
      end
    end
    local net, sgd, scaler = start()
    steps(20, net, sgd, scaler)
    local half, half_sgd, half_scaler = start()
    steps(10, half, half_sgd, half_scaler)
    local file = t.folder() .. '/state.pth'
    dlv3.save(file, {model = half:state_dict(), optimizer = half_sgd:state_dict(), scaler = half_scaler:state_dict()})
    local again, again_sgd = start()
    local saved, again_scaler = dlv3.load(file), optim.LossScaler{init = 2}
    again:load_state_dict(saved.model)
    again_sgd:load_state_dict(saved.optimizer)
    again_scaler:load_state_dict(saved.scaler)
    steps(10, again, again_sgd, again_scaler)
    t.eq(again.weight, net.weight)
    t.eq(again_scaler:state_dict(), scaler:state_dict())
    t.ok(scaler:get_scale() < 2 ^ 30)
  end)

  t.case('a state with another rule records a compiled step anew', function()
    local p = nn.Parameter(dlv3.tensor {1})
    local sgd, scaler = optim.SGD({p}, {lr = 0.5}), optim.LossScaler{init = 4, interval = 1}
    local step = dlv3.compile(function(x)
      sgd:zero_grad()
      scaler:scale((p * x):sum()):backward()
      scaler:step(sgd)
    end)
    step(dlv3.tensor {1})
    t.eq({scaler:get_scale(), p:item()}, {8, 0.5})
    step(dlv3.tensor {math.huge})
    t.eq({scaler:get_scale(), p:item()}, {4, 0.5})
    scaler:load_state_dict{scale = 16, growth_factor = 4, backoff_factor = 0.25, growth_interval = 2,
                           _growth_tracker = 1}
    step(dlv3.tensor {1})
    t.eq({scaler:get_scale(), p:item()}, {64, 0})
    step(dlv3.tensor {0 / 0})
    t.eq({scaler:get_scale(), p:item()}, {16, 0})
  end)

  t.case('what can not be scaled says why', function()
    t.error(function() optim.LossScaler{intervall = 3} end,
            "LossScaler: no option 'intervall'; did you mean 'interval'")
    t.error(function() optim.LossScaler{init = 0} end, 'LossScaler: init: expected a number from')
    t.error(function() optim.LossScaler{backoff = 2} end,
            'LossScaler: backoff: expected a number from 1e%-06 to 1, got 2')
    t.error(function() optim.LossScaler{interval = 0} end,
            'LossScaler: interval: expected a whole number from 1, got 0')
    t.error(function() return optim.LosScaler end, "optim has no 'LosScaler'; did you mean 'LossScaler'")
    local p = nn.Parameter(dlv3.tensor {1})
    local sgd, scaler = optim.SGD {p}, optim.LossScaler()
    t.error(function() scaler:scale(3) end, 'LossScaler: loss: expected a tensor, got 3')
    t.error(function() scaler:step(scaler) end, 'LossScaler: step: expected an optimiser')
    t.error(function() scaler:step(sgd) end, 'LossScaler: no parameter has a gradient')
    t.error(function() scaler:load_state_dict {} end, 'LossScaler: load_state_dict: expected numbers')
  end)
end
