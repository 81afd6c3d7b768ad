-- test_golden.lua - models whose weights are a formula against figures that torchvision computed in
-- f64, without either at hand: golden/models.lua, made by golden/make_models.py.

local dlv3 = require 'dlv3'
local runtime = require 'dlv3.core.runtime'
local models = require 'models'
local F = require 'dlv3.core.ffi'

return function(t)
  local classes = 5

  -- Pseudorandom numbers in [0, 1) from an entry's number and the row-major position, scaled:
  -- value() of make_models.py. All products stay below 2^53, so both sides compute the same bits.
  local function fill(x, entry, factor, plus)
    local n = x:numel()
    local flat = F.new('double[?]', n)
    for i = 0, n - 1 do
      local a = (i * 1103515 + entry * 12345 + 7) % 65521
      flat[i] = ((a * a + i) % 65521) / 65521 * factor + plus
    end
    runtime.set_doubles(x, flat)
    return x
  end

  local function fill_model(model)
    local norms = {}
    for name, module in model:named_modules() do norms[name] = module.class_name == 'BatchNorm2d' end
    local entry = -1
    for key, x in dlv3.items(model:state_dict()) do
      entry = entry + 1
      local prefix, last = key:match '^(.*)%.([^.]*)$'
      if last == 'num_batches_tracked' then -- luacheck: ignore
      elseif norms[prefix] then
        if last == 'bias' then
          fill(x, entry, 1, -0.5)
        elseif last == 'running_mean' then
          fill(x, entry, 0.2, -0.1)
        else
          fill(x, entry, 1, 0.5)
        end
      elseif last == 'weight' then
        local sizes = x:size()
        local bound = (6 / (sizes[2] * sizes[3] * sizes[4])) ^ 0.5
        fill(x, entry, 2 * bound, -bound)
      else fill(x, entry, 1, -0.5) end
    end
    model:apply(function(m) if m.class_name == 'Dropout' then m.p = 0 end end)
  end

  -- What make_models.py's picked() says of x.
  local function check(x, want, tolerance, what)
    local flat = x:detach():to('f64'):reshape(-1)
    local got = {}
    for k = 0, 7 do got[k + 1] = flat[math.floor(k * (flat:numel() - 1) / 7) + 1]:item() end
    t.close(got, want.values, 0, tolerance * want.largest + 1e-10, what)
    t.close(flat:abs():max():item(), want.largest, tolerance, 1e-10, what .. ', largest')
  end

  local function batch(h, w)
    local x = fill(dlv3.empty{2, 3, h, w}, 1000, 2, -1)
    local target = fill(dlv3.empty({2, h, w}, {dtype = 'f64'}), 1001, classes + 1, 0):floor()
    return x, dlv3.where(target:eq(classes), dlv3.full({2, h, w}, 255, {dtype = 'f64'}), target):to('u8')
  end

  local function check_logits(model, x, want, tolerance)
    local y = dlv3.no_grad(model:eval(), x)
    check(y.out, want.out, tolerance, 'out')
    check(y.aux, want.aux, tolerance, 'aux')
  end

  local function check_training(model, x, target, want)
    local y = model:train():logits(x)
    local loss = y.out:upsample_cross_entropy(target) + y.aux:upsample_cross_entropy(target) * 0.5
    t.close(loss:item(), want.loss, 1e-11, 0, 'loss')
    loss:backward()
    local parameters, buffers = {}, {}
    for name, p in model:named_parameters() do parameters[name] = p end
    for name, b in model:named_buffers() do buffers[name] = b end
    for _, g in ipairs(want.gradients) do
      local name, grad = g[1], parameters[g[1]].grad
      t.close(grad:square():sum():sqrt():item(), g.norm, 1e-9, 1e-10, 'gradient of ' .. name)
      check(grad, g, 1e-9, 'gradient of ' .. name)
    end
    for _, s in ipairs(want.statistics) do check(buffers[s[1]], s, 1e-9, s[1]) end
  end

  for _, want in ipairs(dofile(t.directory .. '/golden/models.lua')) do
    t.case(want.model .. (want.gradients and ': logits, loss, gradients, running statistics' or ': logits'), function()
      local model = models[want.model]{num_classes = classes, aux = true}
      fill_model(model)
      local x, target = batch(want.h, want.w)
      check_logits(model, x, want, 1e-4) -- PyTorch's own f32 is 9e-5 away: these weights are not a trained model's
      if not want.gradients then return end
      model:to('cpu', 'f64')
      check_logits(model, x:to('f64'), want, 1e-10)
      check_training(model, x:to('f64'), target, want)
    end)
  end
end
