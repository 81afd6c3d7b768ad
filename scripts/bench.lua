-- bench.lua - times one training step or one inference of a model on random data: median, spread, peak memory.
--
-- bench/torch_peer.py does the same work in PyTorch; bench/compare.sh runs the two alternately.

local dlv3 = require 'dlv3'
local models = require 'models'
local optim = require 'dlv3.optim'
local options = require 'dlv3.options'
local F = require 'dlv3.ffi'

local opt = options.parse({
  usage = 'dlv3 scripts/bench.lua [options]',
  title = 'Times a training step or an inference on random data.',
  {'model', 'deeplabv3_mobilenet_v3_large', 'model to time', choices = {'deeplabv3_resnet50', 'deeplabv3_resnet101', 'deeplabv3_mobilenet_v3_large'}},
  {'work', 'train', 'train (forward, backward, SGD step, aux head) or infer (to the class map)', choices = {'train', 'infer'}},
  {'size', 240, 'height and width of the images'},
  {'batch', 4, 'images at once'},
  {'precision', 'f32', 'f32 or bf16', choices = {'f32', 'bf16'}},
  {'runs', 5, 'timed runs, after one to warm up'},
  {'threads', 0, 'threads, 0 for all'},
}, arg)

if opt.threads > 0 then dlv3.num_threads(opt.threads) end
dlv3.manual_seed(0)
local training = opt.work == 'train'
local model = models[opt.model]{num_classes = 21, aux = training}
local size = {opt.size, opt.size}
local x = dlv3.randn{opt.batch, 3, opt.size, opt.size}:to(opt.precision)
local target = dlv3.randint(0, 21, {opt.batch, opt.size, opt.size}, {dtype = 'u8'})

local work
if training then
  model:train()
  local sgd = optim.SGD({{params = model:parameters()}}, {lr = 1e-4, momentum = 0.9, weight_decay = 1e-4})
  function work()
    sgd:zero_grad()
    local out = model:logits(x)
    local loss = out.out:upsample_cross_entropy(target) + out.aux:upsample_cross_entropy(target) * 0.5
    loss:backward()
    sgd:step()
    return loss:item()
  end
else
  model:eval():fuse()
  function work()
    return dlv3.no_grad(function() return model:logits(x).out:upsample_argmax(size):release() end)
  end
end

local times = {}
for run = 0, opt.runs do
  local begin = dlv3.now()
  dlv3.scope(work)
  if run > 0 then times[run] = dlv3.now() - begin end
end
table.sort(times)
local median = (times[math.floor((opt.runs + 1) / 2)] + times[math.ceil((opt.runs + 1) / 2)]) / 2
print(('dlv3 %s %s: %.3f s (%.3f to %.3f), peak %.0f MiB, tensors %.0f MiB'):format(
      dlv3.version, opt.precision, median, times[1], times[#times], tonumber(F.C.dlv3_peak_rss()) / 2 ^ 20, dlv3.memory().peak / 2 ^ 20))
