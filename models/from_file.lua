-- from_file.lua - a model from a file of weights: its architecture is recognised by the names and
-- sizes in it.

local F = require 'dlv3.core.ffi'
local checkpoint = require 'dlv3.checkpoint'
local dict = require 'dlv3.core.dict'
local expect = require 'dlv3.core.expect'
local files = require 'dlv3.io.files'
local finite = require 'dlv3.train.finite'
local init = require 'dlv3.nn'.init
local models = require 'models'
local runtime = require 'dlv3.core.runtime'

local M = {}

local MAX_CLASSES = 256

-- The number of classes that the last convolution of a head, [classes, 256, 1, 1], has.
local function classes_of(head, path)
  if head == nil then
    F.raise(path .. ": no 'classifier.4.weight' among the names, so the head is not DeepLabV3's: a script of your "
                    .. "own can "
            .. 'load it into a model with that head (checkpoint.load_weights)')
  end
  local classes = F.is_tensor(head) and head:dim() == 4 and head:size(1) or 0
  if classes < 1 or classes > MAX_CLASSES then
    F.raise(('%s: classifier.4.weight: expected sizes [classes, 256, 1, 1] with 1 to %d classes (a pixel of a '
             .. 'class map is a byte), got %s; a script of your own can load other heads '
             .. '(checkpoint.load_weights)'):format(
            path, MAX_CLASSES, expect.shown(head)))
  end
  return classes
end

-- recognise(weights, path, value): the architecture that a dict of tensors is of: its name, the
-- number of classes (with the background), whether it has the auxiliary head. path, value: the file
-- and all that it holds, for messages.
function M.recognise(weights, path, value)
  local name, head, blocks, has_aux = nil, nil, 0, false
  for key, t in dict.items((checkpoint.without_prefix(weights))) do
    if key:find '^backbone%.layer3%.%d+%.conv1%.weight$' then
      blocks = blocks + 1
    elseif key == 'backbone.0.0.weight' then
      name = 'deeplabv3_mobilenet_v3_large'
    elseif key == 'classifier.4.weight' then
      head = t
    elseif key == 'aux_classifier.4.weight' then
      has_aux = true
    end
  end
  if blocks > 0 then name = blocks > 6 and 'deeplabv3_resnet101' or 'deeplabv3_resnet50' end
  if not name then
    F.raise(path .. ': these are not the weights of a DeepLabV3, whose names begin with backbone. and classifier.; '
            .. 'the file has ' .. checkpoint.first_names(weights) .. '\n  --weights-key NAME takes another part of it; '
            .. checkpoint.keys_text(value))
  end
  return name, classes_of(head, path), has_aux
end

-- What is used of the options that a file of weights remembers.
local model_args = expect.fields{
  {'output_stride', expect.optional(expect.whole(1))},
  {'atrous_rates', expect.optional(expect.list_of(expect.whole(1)))},
  {'base_size', expect.optional(expect.whole(8))},
}

local function read_model(path, given, key)
  local value = files.load(path)
  local args = checkpoint.options_of(value)
  for name in pairs(given or {}) do args[name] = nil end
  local message = model_args(args, 'args')
  if message then
    F.raise(('%s: %s; %sor save the weights alone, as in torch.save(torch.load(path)["model"], "weights.pth")'):format(
            path, message, message:find 'base_size' and 'give --base-size, ' or ''))
  end
  local weights = checkpoint.unwrap(value, path, key)
  local name, classes, aux = M.recognise(weights, path, value)
  local model = init.skipped(function() -- neither filled nor copied to: the weights are in memory once
    return files.about(path, models[name], {
      num_classes = classes, aux = aux, output_stride = args.output_stride, atrous_rates = args.atrous_rates,
    })
  end)
  local report = checkpoint.load_weights(model, value, {name = path, take = true, key = key})
  if #report.missing + #report.skipped > 0 then
    F.raise(('%s: not the weights of a whole %s, and no result could be trusted\n%s'):format(path, name, report:text()))
  end
  finite.check_finite(model, path)
  if report.mapping then print(report) end
  return model, args, classes, name
end

-- load(path, given, key): a model from any file of weights. The architecture, the number of classes
-- and the auxiliary head are read off its names and sizes, and options that a checkpoint remembers
-- are taken, except those that the command line gives (given, by name). key: the part of the file
-- to take (load_weights' key).
-- Returns the model, the options of the checkpoint (an empty dict for bare weights), the number of
-- classes with the background, and the architecture's name.
function M.load(path, given, key)
  local model, args, classes, name = read_model(path, given, key)
  collectgarbage() -- what else was in the file, such as momenta, goes back to the system
  runtime.flush 'cpu'
  return model, args, classes, name
end

return M
