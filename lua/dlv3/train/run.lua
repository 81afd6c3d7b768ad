-- run.lua - a training under way: what of it is saved, and how it ends when it is stopped or diverges.
--
--   local run = require 'dlv3.train.run'.new{folder =, model =, sgd =, state =, opt =, scaler =}
--   run:save 'last.pth'        a checkpoint in its folder; weights that diverged are never saved
--   run:stop_on_signal()       ends the script where Ctrl-C, kill, a closed terminal or pipe asked for it
--   run:guard(fn)              fn(); what fails between two steps is saved before the error goes on
--   run.savable                false while a step changes the weights
--   run.losses                 losses that were not read yet (train.late): they are read before weights are saved

local F = require 'dlv3.core.ffi'
local text = require 'dlv3.core.text'
local train = require 'dlv3.train'

local M = {}

local Run = {}
Run.__index = Run

-- folder: from run_folder.claim; model, sgd, state, scaler, opt: as train.save takes them.
function M.new(parts)
  parts.savable = true
  return setmetatable(parts, Run)
end

-- The command that goes on with a checkpoint, as this script was called.
local function resume_command(path)
  return ('%s %s --resume %s'):format(text.shell_word(arg[-1] or 'dlv3'), text.shell_word(arg[0]), text.shell_word(path))
end

-- Raises that the training diverged. what: what shows it, and at which step.
function Run:diverged(what)
  self.savable = false
  local sound, smaller = self.folder.sound, self.opt.lr / 10
  local way = ('No checkpoint was saved before; start again with a smaller learning rate, such as --lr %g'):format(smaller)
  if sound then
    way = ('The last checkpoint with finite weights is %s; go on from it with a smaller learning rate, or from an earlier one '
           .. 'if its loss was large already:\n  %s --lr %g'):format(sound, resume_command(sound), smaller)
  end
  F.raise(('the training diverged: %s. These weights are not saved. %s'):format(what, way))
end

-- Raises where the losses or the weights diverged.
function Run:check()
  self.losses.flush()
  local bad, state = train.non_finite(self.model), self.state
  if not bad then return end
  self:diverged(('nan or infinity in the model after step %d of epoch %d: %s'):format(state.next_step, state.epoch, bad))
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

-- Between two steps.
function Run:stop_on_signal()
  local signal = F.C.dlv3_signal_pending()
  if signal == 0 then return end
  stop(self)
  os.exit(128 + signal)
end

-- A photo that can not be read, or an evaluation without memory for it, loses no step.
function Run:guard(fn)
  local state = self.state
  local function steps() return state.next_epoch * state.steps_per_epoch + state.next_step end
  local begun = steps()
  local ok, message = pcall(fn)
  if ok then return end
  if self.savable and steps() > begun then pcall(stop, self) end
  error(message, 0)
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
  plot.write(self.folder:file 'loss.png', {loss}, {title = title, x_label = 'epoch', y_label = 'training loss', y_min = 0})
  plot.write(self.folder:file 'miou.png', {miou}, {title = title, x_label = 'epoch', y_label = 'mean IoU, %', y_min = 0})
end

return M
