-- loop.lua - the loop of a training: its epochs and steps, and what is printed and saved after
-- each. Methods of a run (run.lua).

local dlv3 = require 'dlv3'
local log = require 'dlv3.train.log'
local metrics = require 'dlv3.vision.metrics'
local text = require 'dlv3.core.text'
local train = require 'dlv3.train'

local Loop = {}

-- The number of steps done, over all epochs.
function Loop:steps_done() return self.state.next_epoch * self.state.steps_per_epoch + self.state.next_step end

-- Whether --max-steps are done.
function Loop:is_finished() return self.opt.max_steps > 0 and self:steps_done() >= self.opt.max_steps end

-- for epoch in run:epochs() do: the numbers of the epochs that are left, from 0; an interrupted one
-- first.
function Loop:epochs()
  local state = self.state
  return function()
    if state.next_epoch < self.opt.epochs and not self:is_finished() then return state.next_epoch end
  end
end

-- A Logger of learning rate and loss, whose lines do not mix with the progress line.
local function logger_of(progress)
  local function write(line)
    progress:done()
    log.line(line)
  end
  local logger = log.logger{write = write}
  logger:add('lr', {window = 1, format = '{value:%.6f}'})
  logger:add('loss')
  return logger
end

-- The losses of an epoch, which are read late: summed, shown, and checked.
local function losses_of(self, epoch, progress)
  local state, logger = self.state, self.logger
  local read = state.next_step
  return train.late(self.opt.device, function(loss)
    read = read + 1
    state.loss_sum = state.loss_sum + loss
    logger:update('loss', loss)
    progress:step(('loss %.4f'):format(loss))
    if loss - loss ~= 0 then
      self:diverged(('the loss is %s at step %d of epoch %d'):format(text.number('%g', loss), read, epoch))
    end
  end)
end

-- for batch in run:batches(epoch) do: the batches of an epoch that are left, for run:step. The
-- model is in training mode then; a line is printed every --print-freq steps. At the end losses and
-- weights are checked.
function Loop:batches(epoch)
  local state, opt, loader = self.state, self.opt, self.loader
  state.epoch = epoch
  self.model:train()
  local progress = log.progress{
    label = ('epoch %d'):format(epoch), total = #loader - state.next_step, unit = 'steps', quiet = opt.quiet,
  }
  self.logger = logger_of(progress)
  local batches = loader:epoch(epoch, {skip = state.next_step})
  self.losses = losses_of(self, epoch, progress)
  local next_batch = self.logger:every({
    total = #loader, print_freq = opt.print_freq, header = ('Epoch: [%d]'):format(epoch), first = state.next_step,
  }, function() return not self:is_finished() and batches() or nil end)
  return function()
    local batch = next_batch()
    if batch then return batch end
    progress:done()
    self:check()
  end
end

-- The learning rates of the next step.
local function set_rates(self)
  local factor = self.schedule(self:steps_done())
  for _, group in ipairs(self.sgd.groups) do group.lr = group.initial_lr * factor end
end

-- One step: loss = fn(image, target), which changes the weights, with a batch on the device; then a
-- checkpoint where
-- --save-every says so, and the end of the script where a signal asked for it.
function Loop:step(fn, batch)
  local state, opt = self.state, self.opt
  set_rates(self)
  self.savable = false
  local loss = dlv3.scope(function()
    return fn(batch.image:to(opt.device), batch.target:to(opt.device)):item_later()
  end)
  self.savable = true
  batch.image:release()
  batch.target:release()
  state.next_step = state.next_step + 1
  set_rates(self)
  self.logger:update('lr', self.sgd.groups[1].lr)
  self.losses.put(loss)
  self:stop_on_signal()
  if opt.save_every > 0 and state.next_step % opt.save_every == 0 then self:save 'last.pth' end
end

local function check_figures(self, figures)
  if not figures then self:stop_on_signal() end -- which ended the evaluation
  if figures.finite then return end
  self:diverged(('nan or infinity in the outputs of the evaluation after step %d of epoch %d'):format(
                self.state.next_step, self.state.epoch))
end

-- Prints the figures and appends them to the results file and to the history.
local function report(self, figures)
  local state = self.state
  local lines, mean_loss = metrics.reference_text(figures), state.loss_sum / math.max(1, state.next_step)
  print(lines)
  if figures.present == 0 then
    print('no pixel of the validation masks counts: no weights are best')
  elseif figures.present < #figures.ious then
    print(('mean IoU of the %d classes that occur: %.1f'):format(figures.present, figures.mean_present))
  end
  log.append_results(self.folder:file(self.results), state.epoch, mean_loss, self.sgd.groups[1].lr, lines)
  train.note(state.history, {epoch = state.epoch, loss = mean_loss, miou = figures.mean_present})
end

-- The end of an epoch, or of what --max-steps leave of it, with the figures of train.evaluate (nil:
-- a signal ended it): they are printed and saved, then best.pth where they are the best, last.pth
-- and the curves.
function Loop:finish_epoch(figures)
  local state, folder = self.state, self.folder
  check_figures(self, figures)
  report(self, figures)
  if state.next_step >= state.steps_per_epoch then
    state.next_epoch, state.next_step, state.loss_sum = state.epoch + 1, 0, 0
  end
  local score = figures.mean_present
  if score == score and not (folder.has_best and score <= state.best) then -- the first epoch of a folder is its best
    state.best = score
    self:save 'best.pth' -- before last.pth: killed in between, the epoch is done again
  end
  self:save 'last.pth'
  self:draw_curves()
  self:stop_on_signal()
end

return Loop
