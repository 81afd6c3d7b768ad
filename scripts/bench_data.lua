-- bench_data.lua - how many training samples a second one core makes: decode, resize, flip, crop,
-- normalise, batch.
--
-- The time is the processor's, of all threads together, so that it is per core whatever else the
-- machine does. bench/torch_data.py does the same to the same files with Pillow and torchvision.

local dlv3 = require 'dlv3'
local data = require 'dlv3.data'
local options = require 'dlv3.cli.options'

local opt = options.parse({
  usage = 'dlv3 scripts/bench_data.lua --data-path DIR [options]',
  title = 'Counts the training samples that one core decodes and transforms in a second.',
  {'data-path', nil, 'folder that holds VOCdevkit', value = 'DIR', required = true},
  {'split', 'train', 'the list of images'},
  {'base-size', 520, 'the shorter side is drawn from half to twice of this'},
  {'crop-size', 480, 'height and width of the samples'},
  {'batch-size', 4, 'samples a batch', short = 'b', min = 1},
  {'precision', 'f32', 'of the batch', choices = {'f32', 'bf16'}},
  {'runs', 3, 'timed passes over the list, after one to warm up', min = 1},
}, arg)

dlv3.num_threads(1)
local set = data.voc{root = opt.data_path, split = opt.split}
local loader = data.loader(set, {train = true, workers = 1, batch_size = opt.batch_size, base_size = opt.base_size,
                                 crop_size = opt.crop_size,
                                 precision = opt.precision})
local rates = {}
for run = 0, opt.runs do
  local begin = os.clock()
  for batch in loader:epoch(run) do
    batch.image:release()
    batch.target:release()
  end
  if run > 0 then rates[run] = set.size / (os.clock() - begin) end
end
loader:close()
table.sort(rates)
local median = (rates[math.floor((opt.runs + 1) / 2)] + rates[math.ceil((opt.runs + 1) / 2)]) / 2
print(('dlv3 %s %s: %.1f samples a second and core (%.1f to %.1f)'):format(dlv3.version, opt.precision, median,
    rates[1], rates[#rates]))
