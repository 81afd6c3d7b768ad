-- schedule.lua - learning-rate schedules: functions from the number of steps done to a factor of the base rate.
--
-- The operations and their order are those of the reference, so that the factors are equal to the last bit.

local F = require 'dlv3.core.ffi'
local options_table = require 'dlv3.core.options_table'

local M = {}

local function options_of(what, defaults, options)
  what = 'optim.' .. what
  local o = options_table(what, defaults, options)
  if o.steps_per_epoch then options_table.count(what, 'steps_per_epoch', o.steps_per_epoch) end
  if o.epochs then options_table.count(what, 'epochs', o.epochs) end
  if o.warmup_epochs then options_table.number(what, 'warmup_epochs', o.warmup_epochs, 0, o.epochs or math.huge) end
  if o.warmup_factor then options_table.number(what, 'warmup_factor', o.warmup_factor, 0, math.huge) end
  return o
end

-- fn, which is asked for a step from 0 on.
local function of_step(name, fn)
  return function(step)
    if type(step) ~= 'number' then F.raise(('optim.%s: the schedule is a function of the step, a number from 0; %s came'):format(name, step == nil and 'nothing' or 'a ' .. type(step))) end
    return fn(step)
  end
end

-- A line from `factor` to 1 over `steps` steps.
local function warmup(step, steps, factor)
  local alpha = step / steps
  return factor * (1 - alpha) + alpha
end

-- The reference's: warmup, then (1 - done / all) ^ power; 0 past the end.
-- {steps_per_epoch =, epochs =, warmup_epochs = 1, warmup_factor = 1e-3, power = 0.9}
function M.poly(options)
  local o = options_of('poly', {steps_per_epoch = options_table.required, epochs = options_table.required, warmup_epochs = 1, warmup_factor = 1e-3, power = 0.9}, options)
  local first, all = o.warmup_epochs * o.steps_per_epoch, (o.epochs - o.warmup_epochs) * o.steps_per_epoch
  return of_step('poly', function(step)
    if o.warmup_epochs > 0 and step <= first then return warmup(step, first, o.warmup_factor) end
    if step - first >= all then return 0 end
    return (1 - (step - first) / all) ^ o.power
  end)
end

-- gamma times more at each milestone (in epochs).
-- {steps_per_epoch =, milestones =, gamma = 0.1, warmup_epochs = 0, warmup_factor = 1e-3}
function M.multistep(options)
  local o = options_of('multistep', {steps_per_epoch = options_table.required, milestones = options_table.required, gamma = 0.1, warmup_epochs = 0, warmup_factor = 1e-3}, options)
  if type(o.milestones) ~= 'table' then F.raise('optim.multistep: milestones must be a table of epochs, ' .. tostring(o.milestones) .. ' came') end
  for i, epoch in ipairs(o.milestones) do options_table.number('optim.multistep', 'milestone ' .. i, epoch, 0, math.huge) end
  local first = o.warmup_epochs * o.steps_per_epoch
  return of_step('multistep', function(step)
    local factor = step < first and warmup(step, first, o.warmup_factor) or 1
    for _, epoch in ipairs(o.milestones) do
      if step >= epoch * o.steps_per_epoch then factor = factor * o.gamma end
    end
    return factor
  end)
end

-- Half a cosine from 1 to 0 after the warmup.
-- {steps_per_epoch =, epochs =, warmup_epochs = 0, warmup_factor = 1e-3}
function M.cosine(options)
  local o = options_of('cosine', {steps_per_epoch = options_table.required, epochs = options_table.required, warmup_epochs = 0, warmup_factor = 1e-3}, options)
  local first, all = o.warmup_epochs * o.steps_per_epoch, (o.epochs - o.warmup_epochs) * o.steps_per_epoch
  return of_step('cosine', function(step)
    if step < first then return warmup(step, first, o.warmup_factor) end
    if step - first >= all then return 0 end
    return 0.5 * (1 + math.cos(math.pi * ((step - first) / all)))
  end)
end

-- Always 1.
function M.constant(options)
  options_of('constant', {steps_per_epoch = options_table.optional, epochs = options_table.optional}, options)
  return function() return 1 end
end

return M
