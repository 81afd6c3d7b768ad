-- train.lua - what the scripts share: evaluation, checkpoints that remember their options, models from files.

local F = require 'dlv3.ffi'
local dlv3 = require 'dlv3'
local models = require 'models'
local checkpoint = require 'dlv3.checkpoint'
local data = require 'dlv3.data'
local dict = require 'dlv3.dict'
local log = require 'dlv3.log'
local metrics = require 'dlv3.vision.metrics'
local files = require 'dlv3.files'
local misfit = require 'dlv3.options'.misfit
local init = require 'dlv3.nn.initialise'

local M = {}

M.precisions = {'f32', 'bf16', 'f16'}
M.model_names = {'deeplabv3_resnet50', 'deeplabv3_resnet101', 'deeplabv3_mobilenet_v3_large'}

-- The figures of a model over a loader of single, uncropped images (metrics.lua's table); nil when a caught signal
-- came. quiet: no progress line; log: the reference's `Test:` lines; compile: replay the network.
function M.evaluate(model, loader, num_classes, options)
  options = options or {}
  local confusion = metrics.confusion(num_classes, options.device)
  local progress = log.progress{label = 'validate', total = #loader, unit = 'images', quiet = options.quiet}
  local batches = loader:epoch(0)
  if options.log then
    local logger = log.logger{write = function(line) progress:done() log.line(line) end}
    batches = logger:every({total = #loader, print_freq = 100, header = 'Test:'}, batches)
  end
  local function classes_of(x) return model:logits(x, {aux = false}).out:upsample_argmax{size = {x:size(3), x:size(4)}} end
  if options.compile then classes_of = dlv3.compile(classes_of) end
  model:eval()
  for batch in batches do
    dlv3.scope(function()
      dlv3.no_grad(function()
        local x, target = batch.image:to(options.device or 'cpu'), batch.target:to(options.device or 'cpu')
        confusion:update(classes_of(x), target)
      end)
    end)
    batch.image:release()
    batch.target:release()
    progress:step()
    if F.C.dlv3_signal_pending() ~= 0 then
      progress:done()
      return nil
    end
  end
  progress:done()
  return confusion:compute()
end

-- The option of the scripts that train and validate, and what it does: a data set without its damaged files, which are listed.
M.skip_damaged_option = {
  'skip-damaged', false, 'leave out photos and masks that are damaged, and list them: every file is decoded once before the start',
}

function M.skip_damaged(set, workers)
  print(('%s: decoding %d samples to find damaged ones'):format(set.list, set.size))
  local rest, messages = data.skip_damaged(set, {workers = workers})
  if #messages > 0 then
    print(('%d of %d samples are damaged and left out:\n  %s'):format(#messages, set.size, table.concat(messages, '\n  ')))
  end
  return rest
end

-- fn(loss) for the loss of each step, a read as x:item_later() gives it: at once on the cpu; on a GPU when the next one comes, so that
-- the host never waits for the step it has just queued. flush: for the last one.
function M.late(device, fn)
  local late, waiting, at_once = {}, nil, dlv3.zeros({1}):to(device).device == 'cpu'
  function late.flush()
    local read = waiting
    waiting = nil
    if read then fn(read()) end
  end
  function late.put(read)
    late.flush()
    waiting = read
    if at_once then late.flush() end
  end
  return late
end

-- -- Checkpoints ----------------------------------------------------------------------------------------------------

-- The keys of the reference (model, optimizer, lr_scheduler, epoch, args, scaler) and what resuming to the bit needs
-- beside. state: epoch, next_epoch, next_step, loss_sum, best, history; options: the script's, saved as `args`; scaler: a
-- LossScaler, or nil.
function M.save(path, model, sgd, state, options, scaler)
  local args = dict.new()
  local keys = {}
  for k in pairs(options) do keys[#keys + 1] = k end
  table.sort(keys)
  for _, k in ipairs(keys) do args[k] = options[k] end
  local lrs, base, nones = {}, {}, {} -- a LambdaLR saves no functions
  for i, group in ipairs(sgd.groups) do lrs[i], base[i], nones[i] = group.lr, group.initial_lr, dict.none end
  local done = state.next_epoch * state.steps_per_epoch + state.next_step
  local entries = dict.from{
    {'model', model:state_dict()}, {'optimizer', sgd:state_dict()},
    {'lr_scheduler', dict.from{{'base_lrs', base}, {'last_epoch', done}, {'verbose', false}, {'_step_count', done + 1},
                               {'_get_lr_called_within_step', false}, {'_last_lr', lrs}, {'lr_lambdas', nones}}},
    {'epoch', state.epoch}, {'args', args}, {'next_epoch', state.next_epoch}, {'next_step', state.next_step}, {'steps_per_epoch', state.steps_per_epoch},
    {'loss_sum', state.loss_sum}, {'best', state.best}, {'history', state.history}, {'rng', dlv3.get_rng_state()},
  }
  if scaler then entries.scaler = scaler:state_dict() end
  files.save(path, entries)
end

-- Options of a resumed run are the saved ones where the command line does not give others. spec: the script's, which they must fit.
function M.inherit(opt, given, saved, spec)
  local args = dict.is(saved.args) and saved.args or dict.new()
  local own = {resume = true, max_steps = true, quiet = true, start_epoch = true, device = saved.next_epoch == nil} -- a reference's 'cuda' is not ours
  for name, value in dict.items(args) do
    if not given[name] and not own[name] and type(value) == type(opt[name]) then
      local message = misfit(spec, name, value)
      if message then F.raise(('%s was saved with options that do not fit: %s; another can be given'):format(opt.resume, message)) end
      opt[name] = value
    end
  end
  if not given.aux and args.aux == nil then -- another's option may have another name; the weights tell
    opt.aux = false
    for name in dict.items(saved.model) do opt.aux = opt.aux or tostring(name):find 'aux_classifier%.' ~= nil end
  end
end

-- Sets state, optimiser, loss scale (if any) and random numbers to where a checkpoint left them. What the command line gives goes before:
-- rates, momentum and weight decay, and --start-epoch.
function M.restore(state, sgd, saved, opt, given, scaler)
  if not dict.is(saved.optimizer) then F.raise(opt.resume .. ': has no state of an optimiser to go on from: start a new training with it (--weights)') end
  sgd:load_state_dict(saved.optimizer)
  if scaler and dict.is(saved.scaler) then scaler:load_state_dict(saved.scaler) end
  for i, group in ipairs(sgd.groups) do
    if given.lr then group.initial_lr = i == 3 and opt.lr * 10 or opt.lr end
    if given.momentum then group.momentum = opt.momentum end
    if given.weight_decay then group.weight_decay = opt.weight_decay end
  end
  state.next_epoch = (saved.epoch or -1) + 1 -- the reference's checkpoints are of whole epochs
  for _, key in ipairs {'epoch', 'next_epoch', 'next_step', 'loss_sum', 'best', 'history'} do
    if saved[key] ~= nil then state[key] = saved[key] end
  end
  if saved.rng then dlv3.set_rng_state(saved.rng) end
  if given.start_epoch then state.next_epoch, state.next_step, state.loss_sum = opt.start_epoch, 0, 0 end
  if state.next_step > 0 and saved.steps_per_epoch ~= state.steps_per_epoch then
    F.raise(('%s: was saved after step %d of an epoch of %d steps, an epoch has %d now: resume with the same --data-path and --batch-size, '
             .. 'or begin an epoch anew with --start-epoch %d'):format(opt.resume, state.next_step, saved.steps_per_epoch, state.steps_per_epoch, state.next_epoch))
  end
end

-- One line of the history an epoch: the second part of an interrupted one replaces the first.
function M.note(history, entry)
  local last = history[#history]
  history[last and last.epoch == entry.epoch and #history or #history + 1] = entry
end

-- Raises where weights of a model, from the file at path, are not numbers: they would make every picture background.
function M.check_finite(model, path)
  local bad = {}
  for name, t in dict.items(model:state_dict()) do
    local sum = t.dtype:find 'f' and t:sum():item() or 0
    -- of numbers that are merely large the sum alone is infinite
    if sum - sum ~= 0 and (t * 0):sum():item() ~= 0 then bad[#bad + 1] = name end
  end
  if #bad == 0 then return end
  F.raise(('%s: nan or infinity in %d of its tensors: %s%s; the training that made it had come apart (a smaller --lr)'):format(
          path, #bad, table.concat(bad, ', ', 1, math.min(#bad, 4)), #bad > 4 and ', ...' or ''))
end

local function read_model(path)
  local value = files.load(path)
  local args = type(value) == 'table' and dict.is(value) and dict.is(value.args) and value.args or {}
  local weights = checkpoint.unwrap(value, path)
  local name, classes, aux
  local blocks = 0
  for key, t in dict.items(weights) do
    local k = checkpoint.bare(tostring(key)):gsub('^model%.', '') -- Lightning's
    if k:find '^backbone%.layer3%.%d+%.conv1%.weight$' then blocks = blocks + 1
    elseif k == 'backbone.0.0.weight' then name = 'deeplabv3_mobilenet_v3_large'
    elseif k == 'classifier.4.weight' and F.is_tensor(t) then classes = t:size(1)
    elseif k == 'aux_classifier.4.weight' then aux = true end
  end
  if blocks > 0 then name = blocks > 6 and 'deeplabv3_resnet101' or 'deeplabv3_resnet50' end
  if not name then F.raise(path .. ': these are not the weights of a DeepLabV3 (no backbone of one among the names)') end
  if not classes then
    F.raise(path .. ": no 'classifier.4.weight' among the names, so the head is not DeepLabV3's: a script of your own can load it into a model with that head (checkpoint.load_weights)")
  end
  local model = init.skipped(function() -- neither filled nor copied to: the weights are in memory once
    return models[name]{num_classes = classes, aux = aux or false, output_stride = args.output_stride, atrous_rates = args.atrous_rates}
  end)
  local report = checkpoint.load_weights(model, weights, {name = path, take = true})
  if #report.missing + #report.skipped > 0 then F.raise(('%s: not the weights of a whole %s, and no result could be trusted\n%s'):format(path, name, report:text())) end
  M.check_finite(model, path)
  return model, args, classes, name
end

-- A model from any weights file: the architecture, the number of classes and the auxiliary head are read off its
-- names, or from the options a checkpoint remembers. Returns the model and those options ({} for bare weights).
function M.model_from(path)
  local model, args, classes, name = read_model(path)
  collectgarbage() -- what else was in the file, such as momenta, goes back to the system
  collectgarbage()
  F.C.dlv3_memory_flush(0)
  return model, args, classes, name
end

return M
