-- work.lua - the works that are timed: a training step (forward, backward, SGD, aux head) or an
-- inference (no aux, to the class map) of a model on random data.

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

function M.on_gpu(device) return device:find '^cuda' ~= nil end

-- A function that does the work once. o: model, work, size, batch, precision, device, compile,
-- checkpoint_activations. On a GPU it queues the work and reads nothing, as a training does that
-- reads its loss a step later.
function M.make(o)
  dlv3.manual_seed(0)
  local training = o.work == 'train'
  local model = models[o.model]{num_classes = 21, aux = training}:to(o.device)
  local x = dlv3.randn{o.batch, 3, o.size, o.size}:to(o.precision):to(o.device)
  if o.checkpoint_activations then model:checkpoint_activations() end
  local step = training and training_step(model) or inference(model)
  if o.compile then step = dlv3.compile(step) end
  if not training then return function() dlv3.no_grad(step, x) end end
  local target = dlv3.randint(0, 21, {o.batch, o.size, o.size}, {dtype = 'u8'}):to(o.device)
  if M.on_gpu(o.device) then return function() step(x, target) end end
  return function() return step(x, target):item() end
end

-- Seconds of the work in each of `runs` runs: of o.steps in a row, which o.device is then waited
-- for. On a GPU the first calls find cuDNN's engines and capture the graph.
function M.times(work, runs, o)
  for _ = 1, M.on_gpu(o.device) and 4 or 1 do dlv3.scope(work) end
  dlv3.synchronize(o.device)
  local times = {}
  for run = 1, runs do
    local begin = dlv3.now()
    for _ = 1, o.steps do dlv3.scope(work) end
    dlv3.synchronize(o.device)
    times[run] = (dlv3.now() - begin) / o.steps
  end
  return times
end

return M
