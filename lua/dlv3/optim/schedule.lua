-- schedule.lua - learning-rate schedules: functions from the number of steps done (from 0) to a
-- factor of the base rate.
--
-- The operations and their order are those of the reference, so that the factors are equal to the
-- last bit.

local expect = require 'dlv3.core.expect'

local M = {}

-- The options that schedules share; a schedule adds its own.
local function spec_of(own)
  local spec = {
    steps_per_epoch = expect.whole(1), epochs = expect.whole(1), warmup_epochs = {0, expect.number(0)},
    warmup_factor = {1e-3, expect.number(0)},
  }
  for name, entry in pairs(own) do spec[name] = entry end
  return spec
end

local function options_of(name, spec, options)
  local what = 'optim.' .. name
  local o = expect.options(what, spec, options)
  if o.epochs and o.warmup_epochs then
    expect.argument(what, 'warmup_epochs', o.warmup_epochs, expect.number(0, o.epochs))
  end
  return o
end

-- fn as a schedule, whose step must be a number from 0.
local function of_step(name, fn)
  return function(step)
    expect.argument('optim.' .. name, 'step', step, expect.number(0))
    return fn(step)
  end
end

-- A line from `factor` to 1 over `steps` steps.
local function warmup(step, steps, factor)
  local alpha = step / steps
  return factor * (1 - alpha) + alpha
end

-- The steps of the warmup, and those after it.
local function phases(o)
  return o.warmup_epochs * o.steps_per_epoch, (o.epochs - o.warmup_epochs) * o.steps_per_epoch
end

local poly_spec = spec_of{warmup_epochs = {1, expect.number(0)}, power = {0.9, expect.number()}}

-- poly{steps_per_epoch =, epochs =, warmup_epochs = 1, warmup_factor = 1e-3, power = 0.9}: a linear
-- warmup, then (1 - done / all) ^ power; 0 past the end. The reference's.
function M.poly(options)
  local o = options_of('poly', poly_spec, options)
  local first, all = phases(o)
  return of_step('poly', function(step)
    if o.warmup_epochs > 0 and step <= first then return warmup(step, first, o.warmup_factor) end
    if step - first >= all then return 0 end
    return (1 - (step - first) / all) ^ o.power
  end)
end

local multistep_spec = spec_of{
  epochs = expect.optional(expect.whole(1)), milestones = expect.list_of(expect.number(0)),
  gamma = {0.1, expect.number()},
}

-- multistep{steps_per_epoch =, milestones =, gamma = 0.1, warmup_epochs = 0, warmup_factor = 1e-3}:
-- gamma times more at each milestone, a list of epochs.
function M.multistep(options)
  local o = options_of('multistep', multistep_spec, options)
  local first = o.warmup_epochs * o.steps_per_epoch
  return of_step('multistep', function(step)
    local factor = step < first and warmup(step, first, o.warmup_factor) or 1
    for _, epoch in ipairs(o.milestones) do
      if step >= epoch * o.steps_per_epoch then factor = factor * o.gamma end
    end
    return factor
  end)
end

local cosine_spec = spec_of{}

-- cosine{steps_per_epoch =, epochs =, warmup_epochs = 0, warmup_factor = 1e-3}: half a cosine from
-- 1 to 0 after the warmup.
function M.cosine(options)
  local o = options_of('cosine', cosine_spec, options)
  local first, all = phases(o)
  return of_step('cosine', function(step)
    if step < first then return warmup(step, first, o.warmup_factor) end
    if step - first >= all then return 0 end
    return 0.5 * (1 + math.cos(math.pi * ((step - first) / all)))
  end)
end

local constant_spec = {steps_per_epoch = expect.optional(expect.whole(1)), epochs = expect.optional(expect.whole(1))}

-- constant(): always 1.
function M.constant(options)
  options_of('constant', constant_spec, options)
  return function() return 1 end
end

return M
