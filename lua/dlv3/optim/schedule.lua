-- schedule.lua - learning-rate schedules: functions from the number of steps done to a factor of the base rate.

local F = require 'dlv3.ffi'
local nearest = require 'dlv3.nearest'

local M = {}

-- Defaults in the table, REQUIRED ones as false; unknown and missing options are errors.
local function options_of(what, defaults, given)
  local o, names = {}, {}
  for name, v in pairs(defaults) do o[name], names[#names + 1] = v, name end
  table.sort(names)
  for name, v in pairs(given or {}) do
    if defaults[name] == nil then
      F.raise(("optim.%s: no option '%s'%s (has: %s)"):format(what, tostring(name), nearest.text(tostring(name), names), table.concat(names, ', ')))
    end
    o[name] = v
  end
  for _, name in ipairs(names) do
    if o[name] == false then F.raise(('optim.%s: %s must be given'):format(what, name)) end
  end
  return o
end

-- A line from warmup_factor to 1 over `steps` steps: wf (1 - a) + a.
local function warmup(step, steps, factor)
  local alpha = step / steps
  return factor * (1 - alpha) + alpha
end

-- The reference's: warmup, then (1 - done / all) ^ power; 0 past the end.
function M.poly(options)
  local o = options_of('poly', {steps_per_epoch = false, epochs = false, warmup_epochs = 1, warmup_factor = 1e-3, power = 0.9}, options)
  local first, all = o.warmup_epochs * o.steps_per_epoch, (o.epochs - o.warmup_epochs) * o.steps_per_epoch
  return function(step)
    if o.warmup_epochs > 0 and step <= first then return warmup(step, first, o.warmup_factor) end
    if step - first >= all then return 0 end
    return (1 - (step - first) / all) ^ o.power
  end
end

-- gamma more at each milestone (in epochs).
function M.multistep(options)
  local o = options_of('multistep', {steps_per_epoch = false, milestones = false, gamma = 0.1, warmup_epochs = 0, warmup_factor = 1e-3}, options)
  local first = o.warmup_epochs * o.steps_per_epoch
  return function(step)
    local factor = step < first and warmup(step, first, o.warmup_factor) or 1
    for _, epoch in ipairs(o.milestones) do
      if step >= epoch * o.steps_per_epoch then factor = factor * o.gamma end
    end
    return factor
  end
end

-- Half a cosine from 1 to 0 after the warmup.
function M.cosine(options)
  local o = options_of('cosine', {steps_per_epoch = false, epochs = false, warmup_epochs = 0, warmup_factor = 1e-3}, options)
  local first, all = o.warmup_epochs * o.steps_per_epoch, (o.epochs - o.warmup_epochs) * o.steps_per_epoch
  return function(step)
    if step < first then return warmup(step, first, o.warmup_factor) end
    return 0.5 * (1 + math.cos(math.pi * math.min(1, (step - first) / all)))
  end
end

function M.constant(options)
  options_of('constant', {steps_per_epoch = 1, epochs = 1}, options)
  return function() return 1 end
end

return M
