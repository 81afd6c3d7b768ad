-- test_parity.lua - the models against torchvision's, run beside them: logits, gradients, five
-- steps of training.
--
-- Skipped where Debian's python3-torch and python3-torchvision are not there; test_golden.lua
-- always runs.

local dlv3 = require 'dlv3'
local models = require 'models'
local optim = require 'dlv3.optim'

return function(t)
  local names = {'deeplabv3_mobilenet_v3_large', 'deeplabv3_resnet50', 'deeplabv3_resnet101'}

  -- Runs reference.py with arguments around an output file and loads that.
  local function reference(before, after)
    local python, reason = t.python('torch', 'torchvision')
    if not python then t.skip(reason) end
    local file = t.folder() .. '/reference.pth'
    local output, status = t.run(('%s "%s/parity/reference.py" %s %s %s'):format(
        python, t.directory, before, file, after or ''))
    t.eq(status, 0, output)
    return dlv3.load(file)
  end

  local function model_of(name, weights, classes)
    local model = models[name]{num_classes = classes or 6, aux = true}
    local missing, unexpected = model:load_state_dict(weights)
    t.eq({#missing, #unexpected}, {0, 0})
    return model
  end

  for _, name in ipairs(names) do
    t.case('logits of ' .. name, function()
      local r = reference('logits ' .. name, name:find '101' and '65x49' or '65x49 33x80 96x97 1x1')
      local model = model_of(name, r.weights):eval()
      for _, case in ipairs(r.cases) do
        dlv3.scope(function()
          local y = dlv3.no_grad(model, case.x)
          for _, head in ipairs {'out', 'aux'} do
            local scale = case[head]:abs():max():item()
            t.close(y[head], case[head], 1e-5, 1e-5 * scale, head .. ' of ' .. case.x:size(3) .. 'x' .. case.x:size(4))
          end
        end)
      end
    end)
  end

  -- Largest difference over the largest value.
  local function error_of(a, exact)
    a, exact = a:to('f64'), exact:to('f64')
    local scale = exact:abs():max():item()
    return (a - exact):abs():max():item() / math.max(scale, 1e-30), scale
  end

  local function run_training(name, r, dtype)
    local model = model_of(name, r.weights):to('cpu', dtype):train()
    model:apply(function(m) if m.class_name == 'Dropout' then rawset(m, 'p', 0) end end)
    local sgd = optim.SGD({{params = model.backbone:parameters()}, {params = model.classifier:parameters()},
                           {params = model.aux_classifier:parameters(), lr = 0.001}},
                          {lr = 1e-4, momentum = 0.9, weight_decay = 1e-4})
    local grads, losses = {}, {}
    for step = 1, r.x:size(1) do
      losses[step] = dlv3.scope(function()
        local y, target = model:logits(r.x[step]:to(dtype)), r.target[step]
        local loss = y.out:upsample_cross_entropy(target) + y.aux:upsample_cross_entropy(target) * 0.5
        sgd:zero_grad()
        loss:backward()
        return loss:item()
      end)
      if step == 1 then
        for parameter, p in model:named_parameters() do grads[parameter] = p.grad:clone() end
      end
      sgd:step()
    end
    return {grads = grads, state = model:state_dict(), losses = losses}
  end

  local function compare(name, size, steps)
    local r = reference('train ' .. name, size .. ' ' .. steps)
    local exact = run_training(name, r, 'f64')
    t.close(exact.losses, r.f64.losses, 1e-9, 0, 'losses')
    local largest = 0
    for _, g in dlv3.items(r.f64.grads) do largest = math.max(largest, g:abs():max():item()) end
    for parameter, g in dlv3.items(r.f64.grads) do
      local e, scale = error_of(exact.grads[parameter], g)
      t.ok(e < 1e-8 or scale * e < 1e-8 * largest * 1e-3, ('f64 gradient of %s: error %.1e'):format(parameter, e))
    end
    for key, value in dlv3.items(r.f64.state) do
      local e = error_of(exact.state[key], value)
      t.ok(e < 1e-8, ('f64 %s after %d steps: error %.1e'):format(key, steps, e))
    end
    -- f32: no worse than twice PyTorch's own f32, over all gradients (their norm) and over the
    -- state
    local single = run_training(name, r, 'f32')
    local function norms(ours, theirs, truth)
      local mine, peer, all = 0, 0, 0
      for key, value in dlv3.items(truth) do
        if value.dtype == 'f64' then
          mine = mine + (ours[key]:to('f64') - value):square():sum():item()
          peer = peer + (theirs[key]:to('f64') - value):square():sum():item()
          all = all + value:square():sum():item()
        end
      end
      return math.sqrt(mine / all), math.sqrt(peer / all)
    end
    for _, what in ipairs {'grads', 'state'} do
      local mine, peer = norms(single[what], r.f32[what], r.f64[what])
      io.write(('      %s, f32 %s against f64: dlv3 %.2e, PyTorch %.2e\n'):format(name, what, mine, peer))
      t.ok(mine <= 2 * peer + 1e-7, ('f32 %s: error %.2e, PyTorch %.2e'):format(what, mine, peer))
    end
  end

  t.case('five steps of deeplabv3_mobilenet_v3_large',
         function() compare('deeplabv3_mobilenet_v3_large', '65x49', 5) end)
  t.case('five steps of deeplabv3_resnet50', function() compare('deeplabv3_resnet50', '49x49', 5) end)

  t.case('the learning rate to the last bit', function()
    local r = reference('schedule')
    for _, case in ipairs(r.cases) do
      local schedule = optim.poly{steps_per_epoch = case.steps, epochs = case.epochs, warmup_epochs = case.warmup}
      local values = {}
      for step = 0, case.steps * case.epochs do values[step + 1] = schedule(step) end
      t.eq(dlv3.tensor(values, {dtype = 'f64'}), case.values)
    end
  end)
end
