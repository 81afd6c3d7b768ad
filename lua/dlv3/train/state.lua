-- state.lua - checkpoints of a training: what is saved, and how a training goes on from one, to the
-- bit.
--
-- The state of a training is a table: epoch (the last one begun), next_epoch and next_step (where
-- to go on, from 0), steps_per_epoch, loss_sum (of the epoch so far), best (mean IoU, %; -1: none)
-- and history, an entry an epoch.

local F = require 'dlv3.core.ffi'
local tensor = require 'dlv3.core.tensor'
local checkpoint = require 'dlv3.io.checkpoint'
local dict = require 'dlv3.core.dict'
local expect = require 'dlv3.core.expect'
local files = require 'dlv3.io.files'
local misfit = require 'dlv3.cli.options'.misfit
local names = require 'dlv3.core.names'

local M = {}

-- -- Saving ---------------------------------------------------------------------------------------

-- The state of the reference's LambdaLR, which saves no functions.
local function scheduler_state(sgd, state)
  local rates, base, nones = {}, {}, {}
  for i, group in ipairs(sgd.groups) do rates[i], base[i], nones[i] = group.lr, group.initial_lr, dict.none end
  local done = state.next_epoch * state.steps_per_epoch + state.next_step
  return dict.from{
    {'base_lrs', base}, {'last_epoch', done}, {'verbose', false}, {'_step_count', done + 1},
    {'_get_lr_called_within_step', false}, {'_last_lr', rates}, {'lr_lambdas', nones},
  }
end

-- Saves a checkpoint, atomically: the keys of the reference (model, optimizer, lr_scheduler, epoch,
-- args, scaler) and what resuming to the bit needs besides. options: the script's, saved as `args`;
-- scaler: a LossScaler, or nil.
function M.save(path, model, sgd, state, options, scaler)
  local args = dict.new()
  for _, name in ipairs(names.sorted(options)) do args[name] = options[name] end
  local entries = dict.from{
    {'model', model:state_dict()}, {'optimizer', sgd:state_dict()}, {'lr_scheduler', scheduler_state(sgd, state)},
    {'epoch', state.epoch}, {'args', args}, {'next_epoch', state.next_epoch}, {'next_step', state.next_step},
    {'steps_per_epoch', state.steps_per_epoch}, {'loss_sum', state.loss_sum}, {'best', state.best},
    {'history', state.history}, {'rng', tensor.get_rng_state()},
  }
  if scaler then entries.scaler = scaler:state_dict() end
  files.save(path, entries)
end

-- -- Loading --------------------------------------------------------------------------------------

local optional, count, fields, list_of, map_of = expect.optional, expect.whole(0), expect.fields, expect.list_of,
    expect.map_of
local finite = expect.finite

local group = fields{
  {'lr', finite}, {'momentum', finite}, {'weight_decay', finite}, {'initial_lr', optional(finite)},
  {'nesterov', optional(expect.flag)}, {'dampening', optional(finite)}, {'maximize', optional(expect.flag)},
  {'params', list_of(count)},
}
local optimizer = fields{
  {'param_groups', list_of(group)}, {'state', map_of(fields{{'momentum_buffer', optional(expect.tensor)}})},
}

-- What every checkpoint to resume from has, the reference's too: it is of whole epochs.
local whole_epochs = fields{
  {'model', map_of(expect.tensor)}, {'optimizer', optimizer}, {'epoch', optional(expect.whole(-1))},
  {'scaler', optional(map_of(finite))},
}

-- What one of dlv3 has besides: it resumes to the step.
local figures = fields{{'epoch', count}, {'loss', expect.number_or_nan}, {'miou', expect.number_or_nan}}
local steps = fields{
  {'epoch', count}, {'next_epoch', count}, {'next_step', count}, {'steps_per_epoch', expect.whole(1)},
  {'loss_sum', finite},
  {'best', expect.number_or_nan}, {'history', list_of(figures)}, {'args', map_of(expect.any)},
  {'rng', optional(list_of(expect.whole(), 2))},
}

local function is_there(v) return v ~= nil and v ~= dict.none end
local function is_own(saved) return saved.next_epoch ~= nil end

local function misfit_of(saved)
  local message = is_own(saved) and steps(saved) or whole_epochs(saved)
  if message or not is_own(saved) or saved.next_step <= saved.steps_per_epoch then return message end
  return ('next_step: expected at most %d, the steps_per_epoch, got %d'):format(saved.steps_per_epoch, saved.next_step)
end

-- The checkpoint of a training to go on from, dlv3's or the reference's, with all its values
-- checked: what restore, restore_model and inherit take.
function M.load(path)
  local saved = checkpoint.load(path)
  if not is_there(saved.optimizer) then
    F.raise(path .. ': has no state of an optimiser to go on from: start a new training with it (--weights)')
  end
  local message = misfit_of(saved)
  if message then
    F.raise(('%s: %s; resume with another checkpoint, or start a new training with the weights in it '
             .. '(--weights)'):format(path, message))
  end
  return saved
end

-- -- Going on -------------------------------------------------------------------------------------

-- Options that belong to one call of the script, not to the training.
local own_options = {
  resume = true, overwrite = true, max_steps = true, quiet = true, start_epoch = true, weights_key = true,
}

-- Options of a resumed run (opt, changed here) are the saved ones where the command line does not
-- give others (given).
-- spec: the script's, which the saved values must fit.
function M.inherit(opt, given, saved, spec)
  local args = checkpoint.options_of(saved)
  for name, value in dict.items(args) do
    local is_theirs = name == 'device' and not is_own(saved) -- the reference's 'cuda' is not ours
    if opt[name] ~= nil and not given[name] and not own_options[name] and not is_theirs then
      local message = misfit(spec, name, value)
      if message then
        F.raise(('%s was saved with options that do not fit: %s; give the option beside --resume'):format(opt.resume,
            message))
      end
      opt[name] = value
    end
  end
  if given.aux or args.aux ~= nil then return end
  opt.aux = false -- the option of another program may have another name: the weights show it
  for name in dict.items(saved.model) do opt.aux = opt.aux or tostring(name):find 'aux_classifier%.' ~= nil end
end

-- Sets the model to the weights of a checkpoint.
function M.restore_model(model, saved, path)
  local weights = checkpoint.without_prefix(saved.model)
  files.about(path, model.load_state_dict, model, weights)
end

local function restore_optimiser(sgd, saved, opt, given)
  local rates = {}
  for i, parameters in ipairs(sgd.groups) do rates[i] = parameters.initial_lr end
  files.about(opt.resume, sgd.load_state_dict, sgd, saved.optimizer)
  for i, parameters in ipairs(sgd.groups) do
    if given.lr then parameters.initial_lr = rates[i] end
    if given.momentum then parameters.momentum = opt.momentum end
    if given.weight_decay then parameters.weight_decay = opt.weight_decay end
  end
end

-- Sets state, optimiser, loss scale (scaler, or nil) and random numbers to where a checkpoint left
-- them. Options that the command line gives win: --momentum, --weight-decay, --start-epoch, and
-- --lr, which is that of the groups sgd was made of.
function M.restore(state, sgd, saved, opt, given, scaler)
  restore_optimiser(sgd, saved, opt, given)
  -- of a GradScaler that is off: empty
  local scale = scaler and dict.is(saved.scaler) and next(saved.scaler) and saved.scaler
  if scale then files.about(opt.resume, scaler.load_state_dict, scaler, scale) end
  state.next_epoch = (type(saved.epoch) == 'number' and saved.epoch or -1) + 1 -- the reference's: of whole epochs
  if is_own(saved) then
    for _, key in ipairs {'epoch', 'next_epoch', 'next_step', 'loss_sum', 'best', 'history'} do
      state[key] = saved[key]
    end
    if is_there(saved.rng) then tensor.set_rng_state(saved.rng) end
  end
  if given.start_epoch then state.next_epoch, state.next_step, state.loss_sum = opt.start_epoch, 0, 0 end
  if state.next_step > 0 and saved.steps_per_epoch ~= state.steps_per_epoch then
    F.raise(('%s: was saved after step %d of an epoch of %d steps, an epoch has %d now: resume with the same '
             .. '--data-path and --batch-size, or begin an epoch anew with --start-epoch %d'):format(
            opt.resume, state.next_step, saved.steps_per_epoch, state.steps_per_epoch, state.next_epoch))
  end
end

-- Adds the entry of an epoch, {epoch, loss, miou}, to the history; the second part of an
-- interrupted one replaces the first.
function M.note(history, entry)
  local last = history[#history]
  history[last and last.epoch == entry.epoch and #history or #history + 1] = entry
end

return M
