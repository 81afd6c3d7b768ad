-- init.lua - what the scripts share: evaluation, checkpoints that remember their options, models from files.

local F = require 'dlv3.core.ffi'
local dlv3 = require 'dlv3'
local models = require 'models'
local checkpoint = require 'dlv3.io.checkpoint'
local data = require 'dlv3.data'
local dict = require 'dlv3.core.dict'
local log = require 'dlv3.train.log'
local metrics = require 'dlv3.vision.metrics'
local files = require 'dlv3.io.files'
local expect = require 'dlv3.core.expect'
local misfit = require 'dlv3.cli.options'.misfit
local init = require 'dlv3.nn.initialise'

local M = {}

M.weights_key_doc = "the part of the --weights file to take, such as model_ema (without it: the first of model, state_dict, ... with weights)"
M.precisions = {'f32', 'bf16', 'f16'}
M.model_names = {'deeplabv3_resnet50', 'deeplabv3_resnet101', 'deeplabv3_mobilenet_v3_large'}

-- The figures of a model over a loader of single, uncropped images (metrics.lua's table, and finite: whether every output was);
-- nil when a caught signal came. quiet: no progress line; log: the reference's `Test:` lines; compile: replay the network.
function M.evaluate(model, loader, num_classes, options)
  options = options or {}
  local confusion = metrics.confusion(num_classes, options.device)
  local progress = log.progress{label = 'validate', total = #loader, unit = 'images', quiet = options.quiet}
  local batches = loader:epoch(0)
  if options.log then
    local logger = log.logger{write = function(line) progress:done() log.line(line) end}
    batches = logger:every({total = #loader, print_freq = 100, header = 'Test:'}, batches)
  end
  local found_inf = dlv3.zeros({}, {device = options.device})
  local function classes_of(x)
    local logits = model:logits(x, {aux = false}).out
    found_inf:amp_non_finite_check_(logits)
    return logits:upsample_argmax{size = {x:size(3), x:size(4)}}
  end
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
  local figures = confusion:compute()
  figures.finite = found_inf:item() == 0
  return figures
end

-- The option of the scripts that train and validate, and what it does: a data set without its damaged files, which are listed.
M.skip_damaged_option = {
  'skip-damaged', false, 'leave out photos and masks that are damaged, and list them: every file is decoded once before the start',
}

function M.skip_damaged(set, workers)
  print(('%s: decoding %d samples to find damaged ones'):format(set.list, set.size))
  local rest, messages = data.skip_damaged(set, {workers = workers})
  if #messages > 0 then
    print(F.printable(('%d of %d samples are damaged and left out:\n  %s'):format(#messages, set.size, table.concat(messages, '\n  '))))
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

-- What every checkpoint to resume from has, and what one of dlv3 has beside: it resumes to the step.
local optional, count = expect.optional, expect.whole(0)
local group = expect.fields{
  {'lr', expect.finite}, {'momentum', expect.finite}, {'weight_decay', expect.finite}, {'initial_lr', optional(expect.finite)},
  {'nesterov', optional(expect.flag)}, {'dampening', optional(expect.finite)}, {'maximize', optional(expect.flag)}, {'params', expect.list_of(count)},
}
local optimizer = expect.fields{{'param_groups', expect.list_of(group)}, {'state', expect.map_of(expect.fields{{'momentum_buffer', optional(expect.tensor)}})}}
local whole_epochs = expect.fields{
  {'model', expect.map_of(expect.tensor)}, {'optimizer', optimizer}, {'epoch', optional(expect.whole(-1))},
  {'scaler', optional(expect.map_of(expect.finite))},
}
local figures = expect.fields{{'epoch', count}, {'loss', expect.number_or_nan}, {'miou', expect.number_or_nan}}
local steps = expect.fields{
  {'epoch', count}, {'next_epoch', count}, {'next_step', count}, {'steps_per_epoch', expect.whole(1)}, {'loss_sum', expect.finite}, {'best', expect.number_or_nan},
  {'history', expect.list_of(figures)}, {'args', expect.map_of(expect.any)}, {'rng', optional(expect.list_of(expect.whole(), 2))},
}

local function is_there(v) return v ~= nil and v ~= dict.none end
local function is_own(saved) return saved.next_epoch ~= nil end

-- The checkpoint of a training to go on from, dlv3's or the reference's, with all its values checked: what restore and inherit take.
function M.load(path)
  local saved = checkpoint.load(path)
  if not is_there(saved.optimizer) then
    F.raise(path .. ': has no state of an optimiser to go on from: start a new training with it (--weights)')
  end
  local message = is_own(saved) and steps(saved) or whole_epochs(saved)
  if not message and is_own(saved) and saved.next_step > saved.steps_per_epoch then
    message = ('next_step: expected at most %d, the steps_per_epoch, got %d'):format(saved.steps_per_epoch, saved.next_step)
  end
  if message then F.raise(('%s: %s; resume with another checkpoint, or start a new training with the weights in it (--weights)'):format(path, message)) end
  return saved
end

-- The options that a file remembers, without those that are None.
local function args_of(value)
  local args = dict.new()
  for name, v in dict.items(dict.is(value) and dict.is(value.args) and value.args or args) do
    if v ~= dict.none then args[name] = v end
  end
  return args
end

-- Options of a resumed run are the saved ones where the command line does not give others. spec: the script's, which they must fit.
function M.inherit(opt, given, saved, spec)
  local args = args_of(saved)
  local own = {resume = true, overwrite = true, max_steps = true, quiet = true, start_epoch = true, weights_key = true,
               device = not is_own(saved)} -- a reference's 'cuda' is not ours
  for name, value in dict.items(args) do
    if opt[name] ~= nil and not given[name] and not own[name] then
      local message = misfit(spec, name, value)
      if message then F.raise(('%s was saved with options that do not fit: %s; give the option beside --resume'):format(opt.resume, message)) end
      opt[name] = value
    end
  end
  if not given.aux and args.aux == nil then -- another's option may have another name; the weights tell
    opt.aux = false
    for name in dict.items(saved.model) do opt.aux = opt.aux or tostring(name):find 'aux_classifier%.' ~= nil end
  end
end

-- fn(...), with the file's name in front of what it raises.
local function about(path, fn, ...)
  local ok, result = pcall(fn, ...)
  if ok then return result end
  F.raise(path .. ': ' .. F.without_place(result))
end

-- Sets the model to the weights of a checkpoint.
function M.restore_model(model, saved, path)
  local weights = checkpoint.without_prefix(saved.model)
  about(path, model.load_state_dict, model, weights)
end

-- Sets state, optimiser, loss scale (if any) and random numbers to where a checkpoint left them. What the command line gives goes before:
-- rates, momentum and weight decay, and --start-epoch.
function M.restore(state, sgd, saved, opt, given, scaler)
  about(opt.resume, sgd.load_state_dict, sgd, saved.optimizer)
  local scale = scaler and dict.is(saved.scaler) and next(saved.scaler) and saved.scaler -- a GradScaler that is off has an empty state
  if scale then about(opt.resume, scaler.load_state_dict, scaler, scale) end
  for i, parameters in ipairs(sgd.groups) do
    if given.lr then parameters.initial_lr = i == 3 and opt.lr * 10 or opt.lr end
    if given.momentum then parameters.momentum = opt.momentum end
    if given.weight_decay then parameters.weight_decay = opt.weight_decay end
  end
  state.next_epoch = (type(saved.epoch) == 'number' and saved.epoch or -1) + 1 -- the reference's checkpoints are of whole epochs
  for _, key in ipairs(is_own(saved) and {'epoch', 'next_epoch', 'next_step', 'loss_sum', 'best', 'history'} or {}) do state[key] = saved[key] end
  if is_own(saved) and is_there(saved.rng) then dlv3.set_rng_state(saved.rng) end
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

local function holds_non_finite(tensors)
  if #tensors == 0 then return false end
  local found = dlv3.zeros({}, {device = tensors[1].device})
  for _, t in ipairs(tensors) do found:amp_non_finite_check_(t) end
  return found:item() ~= 0
end

-- Which tensors of a model hold nan or infinity, as text; nil: none.
function M.non_finite(model)
  local floats, names = {}, {}
  for _, t in dict.items(model:state_dict()) do if t.dtype:find 'f' then floats[#floats + 1] = t end end
  if not holds_non_finite(floats) then return nil end
  for name, t in dict.items(model:state_dict()) do
    if t.dtype:find 'f' and holds_non_finite{t} then names[#names + 1] = name end
  end
  return ('%d of its tensors (%s%s)'):format(#names, table.concat(names, ', ', 1, math.min(#names, 4)), #names > 4 and ', ...' or '')
end

-- Raises where weights of a model, from the file at path, are not numbers: they would make every picture background.
function M.check_finite(model, path)
  local bad = M.non_finite(model)
  if not bad then return end
  F.raise(('%s: nan or infinity in %s; the training that made it diverged: take an earlier checkpoint, or train again with a smaller --lr'):format(path, bad))
end

-- What is used of the options that a file of weights remembers.
local model_args = expect.fields{
  {'output_stride', optional(expect.whole(1))}, {'atrous_rates', optional(expect.list_of(expect.whole(1)))}, {'base_size', optional(expect.whole(8))},
}
local MAX_CLASSES = 256

-- The architecture that tensors of these names and sizes are of: its name, the number of classes, whether it has the auxiliary head.
-- value: all that the file at path holds.
local function architecture(weights, path, value)
  local name, head, aux
  local blocks = 0
  for key, t in dict.items((checkpoint.without_prefix(weights))) do
    if key:find '^backbone%.layer3%.%d+%.conv1%.weight$' then blocks = blocks + 1
    elseif key == 'backbone.0.0.weight' then name = 'deeplabv3_mobilenet_v3_large'
    elseif key == 'classifier.4.weight' then head = t
    elseif key == 'aux_classifier.4.weight' then aux = true end
  end
  if blocks > 0 then name = blocks > 6 and 'deeplabv3_resnet101' or 'deeplabv3_resnet50' end
  if not name then F.raise(path .. ': these are not the weights of a DeepLabV3, whose names begin with backbone. and classifier.; the file has '
                              .. checkpoint.first_names(weights) .. '\n  --weights-key NAME takes another part of it; ' .. checkpoint.keys_text(value)) end
  if head == nil then
    F.raise(path .. ": no 'classifier.4.weight' among the names, so the head is not DeepLabV3's: a script of your own can load it into a model with that head (checkpoint.load_weights)")
  end
  local classes = F.is_tensor(head) and head:dim() == 4 and head:size(1) or 0
  if classes < 1 or classes > MAX_CLASSES then
    F.raise(('%s: classifier.4.weight: expected sizes [classes, 256, 1, 1] with 1 to %d classes (a pixel of a class map is a byte), got %s; '
             .. 'a script of your own can load other heads (checkpoint.load_weights)'):format(path, MAX_CLASSES, expect.shown(head)))
  end
  return name, classes, aux or false
end

local function read_model(path, given, weights_key)
  local value = files.load(path)
  local args = args_of(value)
  for key in pairs(given or {}) do args[key] = nil end
  local message = model_args(args, 'args')
  if message then
    F.raise(('%s: %s; %sor save the weights alone, as in torch.save(torch.load(path)["model"], "weights.pth")'):format(
            path, message, message:find 'base_size' and 'give --base-size, ' or ''))
  end
  local weights = checkpoint.unwrap(value, path, weights_key)
  local name, classes, aux = architecture(weights, path, value)
  local model = init.skipped(function() -- neither filled nor copied to: the weights are in memory once
    return about(path, models[name], {num_classes = classes, aux = aux, output_stride = args.output_stride, atrous_rates = args.atrous_rates})
  end)
  local report = checkpoint.load_weights(model, value, {name = path, take = true, key = weights_key})
  if #report.missing + #report.skipped > 0 then F.raise(('%s: not the weights of a whole %s, and no result could be trusted\n%s'):format(path, name, report:text())) end
  M.check_finite(model, path)
  if report.mapping then print(report) end
  return model, args, classes, name
end

-- A model from any weights file: the architecture, the number of classes and the auxiliary head are read off its
-- names, or from the options a checkpoint remembers. given: which options the command line gives, which go before those;
-- weights_key: the part of the file to take (load_weights' key).
-- Returns the model, the options of the checkpoint (an empty dict for bare weights), the number of classes, the architecture's name.
function M.model_from(path, given, weights_key)
  local model, args, classes, name = read_model(path, given, weights_key)
  collectgarbage() -- what else was in the file, such as momenta, goes back to the system
  F.C.dlv3_memory_flush(0)
  return model, args, classes, name
end

return M
