-- work.lua - the works that are timed: a training step (forward, backward, SGD, aux head) or an inference (no aux, to the
-- class map) of a model on random data.

local dlv3 = require 'dlv3'
local models = require 'models'
local optim = require 'dlv3.optim'

local M = {models = {'deeplabv3_resnet50', 'deeplabv3_resnet101', 'deeplabv3_mobilenet_v3_large'}}

function M.median(list)
  local sorted = {}
  for i, v in ipairs(list) do sorted[i] = v end
  table.sort(sorted)
  local n = #sorted
  return (sorted[math.floor((n + 1) / 2)] + sorted[math.ceil((n + 1) / 2)]) / 2, sorted[1], sorted[n]
end

local function training_step(model)
  model:train()
  local sgd = optim.SGD({{params = model:parameters()}}, {lr = 1e-4, momentum = 0.9, weight_decay = 1e-4})
  return function(x, target)
    sgd:zero_grad()
    local out = model:logits(x)
    local loss = out.out:upsample_cross_entropy(target) + out.aux:upsample_cross_entropy(target) * 0.5
    loss:backward()
    sgd:step()
    return loss
  end
end

local function inference(model)
  model:eval():fuse()
  return function(x) return model:logits(x).out:upsample_argmax{size = {x:size(3), x:size(4)}} end
end

-- A function that does the work once. o: model, work, size, batch, precision, compile, checkpoint_activations.
function M.make(o)
  dlv3.manual_seed(0)
  local training = o.work == 'train'
  local model = models[o.model]{num_classes = 21, aux = training}
  local x = dlv3.randn{o.batch, 3, o.size, o.size}:to(o.precision)
  if o.checkpoint_activations then model:checkpoint_activations() end
  local step = training and training_step(model) or inference(model)
  if o.compile then step = dlv3.compile(step) end
  if not training then return function() dlv3.no_grad(step, x) end end
  local target = dlv3.randint(0, 21, {o.batch, o.size, o.size}, {dtype = 'u8'})
  return function() return step(x, target):item() end
end

-- Seconds of each of `runs` runs, after one to warm up.
function M.times(work, runs)
  local times = {}
  for run = 0, runs do
    local begin = dlv3.now()
    dlv3.scope(work)
    if run > 0 then times[run] = dlv3.now() - begin end
  end
  return times
end

return M
