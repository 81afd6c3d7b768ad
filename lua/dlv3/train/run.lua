-- run.lua - a training under way: how it starts, what of it is saved, and how it ends when it is
-- stopped or diverges.
--
--   local run = require 'dlv3.train.run'.start{opt =, given =, resumed =, folder =, model =, sgd =, ...}
--   run:train(fn)              fn(), with epochs and steps of loop.lua; what fails between two steps is saved first
--   run:save 'last.pth'        a checkpoint in its folder; weights that diverged are never saved
--   run:stop_on_signal()       ends the script where Ctrl-C, kill, a closed terminal or pipe asked for it
--   run.savable                false while a step changes the weights
--   run.losses                 losses that were not read yet (train.late): they are read before weights are saved

local F = require 'dlv3.core.ffi'
local dlv3 = require 'dlv3'
local log = require 'dlv3.train.log'
local loop = require 'dlv3.train.loop'
local system = require 'dlv3.os'
local text = require 'dlv3.core.text'
local train = require 'dlv3.train'

local M = {}

local Run = {}
Run.__index = Run
for name, method in pairs(loop) do Run[name] = method end

local function print_header(self)
  local loader, opt = self.loader, self.opt
  local rest = loader.options.drop_last and ' (the last single image is left out)' or ''
  log.line(('%s, %d classes, %d parameters; %d training and %d validation images; %d steps of %d an epoch%s'):format(
           opt.model, opt.num_classes + 1, self.model:num_parameters(), loader.dataset.size,
           self.val_loader.dataset.size, #loader, opt.batch_size, rest))
end

local function restore(self)
  local state, opt = self.state, self.opt
  train.restore(state, self.sgd, self.resumed, opt, self.given, self.scaler)
  print(('resumed %s: epoch %d, step %d of %d'):format(opt.resume, state.next_epoch, state.next_step,
                                                       state.steps_per_epoch))
  if state.next_epoch >= opt.epochs then
    print(('all %d epochs are done: --epochs with more goes on'):format(opt.epochs))
  end
end

-- start{opt =, given =, resumed =, folder =, model =, sgd =, scaler =, schedule =, loader =,
-- val_loader =}: a run, from the beginning or from where the checkpoint `resumed` left it. opt,
-- given, resumed: from setup.parse; folder: from run_folder.claim; scaler: a LossScaler, or nil;
-- schedule: from the number of steps done to a factor of the rates. From now on a signal ends the
-- script only between two steps.
function M.start(parts)
  local self = setmetatable(parts, Run)
  local opt, folder = self.opt, self.folder
  opt.output_dir = folder.path -- as checkpoints remember it
  self.savable = true
  self.state = {
    epoch = opt.start_epoch, next_epoch = opt.start_epoch, next_step = 0, steps_per_epoch = #self.loader, loss_sum = 0,
    best = -1, history = {},
  }
  if self.resumed then restore(self) end
  folder:clear{opt.weights, opt.weights_backbone, opt.resume}
  self.results = log.start_results(folder.path):match '[^/]*$'
  print_header(self)
  system.catch_signals((system.is_terminal 'stderr' and '\n' or '')
                       .. 'finishing this step, then saving; Ctrl-C again ends without saving\n')
  return self
end

-- The command that goes on with a checkpoint, as this script was called.
local function resume_command(path)
  return ('%s %s --resume %s'):format(text.shell_word(arg[-1] or 'dlv3'), text.shell_word(arg[0]),
                                      text.shell_word(path))
end

-- Raises that the training diverged. what: what shows it, and at which step.
function Run:diverged(what)
  self.savable = false
  local sound, smaller = self.folder.sound, self.opt.lr / 10
  local way = ('No checkpoint was saved before; start again with a smaller learning rate, such as --lr %g'):format(
              smaller)
  if sound then
    way = ('The last checkpoint with finite weights is %s; go on from it with a smaller learning rate, or from an '
           .. 'earlier one if its loss was large already:\n  %s --lr %g'):format(sound, resume_command(sound), smaller)
  end
  F.raise(('the training diverged: %s. These weights are not saved. %s'):format(what, way))
end

-- Raises where the losses or the weights diverged.
function Run:check()
  self.losses.flush()
  local bad, state = train.non_finite(self.model), self.state
  if not bad then return end
  self:diverged(('nan or infinity in the model after step %d of epoch %d: %s'):format(state.next_step, state.epoch,
      bad))
end

-- Saves a checkpoint of this name, and returns its path.
function Run:save(name)
  self:check()
  local path = self.folder:file(name)
  train.save(path, self.model, self.sgd, self.state, self.opt, self.scaler)
  self.folder:saved(name)
  return path
end

-- Saves, and says how to go on, also where nobody reads the log any more.
local function stop(run)
  local path, state = run:save 'last.pth', run.state
  io.stderr:write(F.printable(('stopped after step %d of epoch %d; go on with\n  %s\n')
                              :format(state.next_step, state.next_epoch, resume_command(path))))
end

-- Between two steps: saves, and ends the script with 128 + the signal, where one arrived.
function Run:stop_on_signal()
  local signal = system.pending_signal()
  if not signal then return end
  stop(self)
  os.exit(128 + signal)
end

-- fn(), saving first what was done where it fails: a photo that can not be read, or an evaluation
-- without memory for it, loses no step. Then the time that it took is printed.
function Run:train(fn)
  local begin, before = dlv3.now(), self:steps_done()
  if self:is_finished() then print(('%d steps are done: --max-steps with more goes on'):format(before)) end
  local ok, message = pcall(fn)
  if not ok then
    if self.savable and self:steps_done() > before then pcall(stop, self) end
    error(message, 0)
  end
  local best = ('; best mean IoU %.1f; weights: %s/best.pth'):format(self.state.best, self.folder.path)
  print(('training time %s%s'):format(log.duration(dlv3.now() - begin), self.folder.has_best and best or ''))
end

-- Draws loss.png and miou.png of the epochs so far, into the folder.
function Run:draw_curves()
  local ok, plot = pcall(require, 'dlv3.vision.plot')
  if not ok then return end -- without cairo there are numbers only
  local loss, miou = {name = 'training loss', x = {}, y = {}}, {name = 'validation mean IoU', x = {}, y = {}}
  for i, h in ipairs(self.state.history) do
    loss.x[i], loss.y[i] = h.epoch, h.loss
    miou.x[i], miou.y[i] = h.epoch, h.miou
  end
  local title = self.opt.model
  plot.write(self.folder:file 'loss.png', {loss},
             {title = title, x_label = 'epoch', y_label = 'training loss', y_min = 0})
  plot.write(self.folder:file 'miou.png', {miou},
             {title = title, x_label = 'epoch', y_label = 'mean IoU, %', y_min = 0})
end

return M
