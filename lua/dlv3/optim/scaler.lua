-- scaler.lua - optim.LossScaler: the loss scale that training in f16 needs.
--
-- Small gradients vanish in f16, so the loss is multiplied by a scale before the backward pass, and
-- the optimiser divides by it. A step with an infinite gradient or a nan is skipped, and the scale
-- falls; it grows after many good steps. The rule and the state are those of PyTorch's GradScaler.
-- Scale, counter and found_inf are tensors that only ops change: a step is recorded once
-- (dlv3.compile), whether it is skipped or not. No clipping in between: gradients stay scaled.

local F = require 'dlv3.core.ffi'
local tensor = require 'dlv3.core.tensor'
local autograd = require 'dlv3.core.autograd'
local compile = require 'dlv3.core.compile'
local dict = require 'dlv3.core.dict'
local expect = require 'dlv3.core.expect'
local raise = F.raise

local LossScaler = {}
LossScaler.__index = LossScaler

local smallest, largest = 1e-6, 1e38

local factors = {
  growth = {2, expect.number(1, largest)}, backoff = {0.5, expect.number(smallest, 1)},
  interval = {2000, expect.whole(1)},
}
local spec = {init = {65536, expect.number(smallest, largest)}, device = {'cpu', expect.text}}
for name, entry in pairs(factors) do spec[name] = entry end

-- optim.LossScaler{init = 65536, growth = 2, backoff = 0.5, interval = 2000, device = 'cpu'}
-- After interval good steps in a row the scale is multiplied by growth, after a skipped one by
-- backoff. device: where the loss is. A step is
--   scaler:scale(loss):backward()
--   scaler:step(sgd)
local function new(options)
  local o = expect.options('LossScaler', spec, options)
  return setmetatable({
    growth = o.growth, backoff = o.backoff, interval = o.interval,
    factor = tensor.full({}, o.init, {dtype = 'f32', device = o.device}),
    growth_tracker = tensor.zeros({}, {dtype = 'i32', device = o.device}),
    found_inf = tensor.zeros({}, {dtype = 'f32', device = o.device}),
  }, LossScaler)
end

-- loss (a tensor) times the scale, on the tape.
function LossScaler:scale(loss)
  expect.argument('LossScaler', 'loss', loss, expect.tensor)
  if loss.device ~= self.factor.device then
    raise(("LossScaler: the loss is on %s, the scale on %s: make it with optim.LossScaler{device = '%s'}"):format(
          loss.device, self.factor.device, loss.device))
  end
  return loss * self.factor
end

-- The optimiser's step with the gradients divided by the scale, skipped where one is infinite or
-- nan; then the scale is updated.
function LossScaler:step(sgd)
  if type(sgd) ~= 'table' or not sgd.gradients then
    raise('LossScaler: step: expected an optimiser, as in scaler:step(sgd), got ' .. expect.shown(sgd))
  end
  local growth, backoff, interval = self.growth, self.backoff, self.interval
  autograd.no_grad(function()
    local gradients = sgd:gradients()
    if #gradients == 0 then
      raise('LossScaler: no parameter has a gradient: call scaler:scale(loss):backward() before step')
    end
    self.found_inf:fill_(0)
    for _, grad in ipairs(gradients) do self.found_inf:amp_non_finite_check_(grad) end
    sgd:step{grad_scale = self.factor, found_inf = self.found_inf}
    compile.refresh(function()
      return growth == self.growth and backoff == self.backoff and interval == self.interval
    end)
    self.factor:amp_update_scale_(self.growth_tracker, self.found_inf,
                                  {growth_factor = growth, backoff_factor = backoff, growth_interval = interval})
  end)
end

-- The scale as a number, which waits for the device.
function LossScaler:get_scale() return self.factor:item() end

-- -- State, in PyTorch's form ---------------------------------------------------------------------

-- {scale, growth_factor, backoff_factor, growth_interval, _growth_tracker}: numbers, which waits
-- for the device.
function LossScaler:state_dict()
  return dict.from{
    {'scale', self.factor:item()}, {'growth_factor', self.growth}, {'backoff_factor', self.backoff},
    {'growth_interval', self.interval}, {'_growth_tracker', self.growth_tracker:item()},
  }
end

-- Takes over a state as from state_dict or from PyTorch's GradScaler.
function LossScaler:load_state_dict(sd)
  local names = {'scale', 'growth_factor', 'backoff_factor', 'growth_interval', '_growth_tracker'}
  for _, name in ipairs(names) do
    if type(sd) ~= 'table' or type(sd[name]) ~= 'number' then
      raise('LossScaler: load_state_dict: expected numbers ' .. table.concat(names, ', ') .. ', got '
            .. expect.shown(sd))
    end
  end
  local given = {growth = sd.growth_factor, backoff = sd.backoff_factor, interval = sd.growth_interval}
  local o = expect.options('LossScaler', factors, given)
  self.growth, self.backoff, self.interval = o.growth, o.backoff, o.interval
  self.factor:fill_(sd.scale)
  self.growth_tracker:fill_(sd._growth_tracker)
end

return new
