-- setup.lua - what comes before the loop of a training: options that fit together, data sets, the
-- weights to start from.

local F = require 'dlv3.core.ffi'
local checkpoint = require 'dlv3.io.checkpoint'
local data = require 'dlv3.data'
local look = require 'dlv3.data.look'
local metrics = require 'dlv3.vision.metrics'
local options = require 'dlv3.cli.options'
local train = require 'dlv3.train'

local M = {}

-- The options of a training script: options.parse's two results, and the checkpoint of --resume
-- (train.load), whose options are taken where the command line does not give others; nil without
-- it. Ends the script where options contradict each other.
function M.parse(spec, arg)
  local opt, given = options.parse(spec, arg)
  if opt.weights_key and not opt.weights then
    options.fail('--weights-key says which part of the --weights file to take: give --weights too', arg)
  end
  if opt.resume and (opt.weights or opt.weights_backbone) then
    options.fail('--resume brings its own weights: leave out --weights and --weights-backbone', arg)
  end
  local resumed = opt.resume and train.load(opt.resume)
  if resumed then train.inherit(opt, given, resumed, spec) end
  if opt.batch_size == 1 then
    options.fail('--batch-size 1 can not train: batch norm after the image pooling needs two values a channel; at '
                 .. 'least 2', arg)
  end
  F.memory_advice = 'a smaller --batch-size or --crop-size, or --checkpoint-activations, needs less memory; '
                    .. 'in the evaluation a smaller --base-size'
  return opt, given, resumed
end

-- The training set and the validation set of the options data_path, year, skip_damaged and
-- num_classes. Raises where nothing can be learned from them, and warns where that is likely.
function M.data_sets(opt)
  local sets = {}
  for i, split in ipairs {'train', 'val'} do
    sets[i] = data.voc{root = opt.data_path, year = opt.year, split = split}
  end
  if opt.skip_damaged then
    for i = 1, 2 do sets[i] = train.skip_damaged(sets[i], opt.workers) end
  end
  metrics.class_names(sets[1], opt.num_classes + 1) -- a wrong number of them is an error
  look.check(sets[1], sets[2])
  if sets[1].size == 1 then
    F.raise(sets[1].list .. ': a single image can not train: batches of two or more are needed')
  end
  return sets[1], sets[2]
end

-- Sets a model to the weights that the options name: of the checkpoint `resumed`, or of
-- --weights-backbone and --weights, whose reports are printed; without these it stays as it is.
-- Raises where they are not numbers.
function M.load_weights(model, opt, resumed)
  if resumed then train.restore_model(model, resumed, opt.resume) end
  if opt.weights_backbone then print(checkpoint.load_weights(model, opt.weights_backbone)) end
  if opt.weights then print(checkpoint.load_weights(model, opt.weights, {key = opt.weights_key})) end
  local origin = opt.resume or opt.weights or opt.weights_backbone
  if origin then train.check_finite(model, origin) end
end

return M
