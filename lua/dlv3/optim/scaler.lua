-- scaler.lua - optim.LossScaler: the loss scale that training in f16 needs.
--
-- Small gradients vanish in f16, so the loss is multiplied by a scale before the backward pass, and the optimiser divides
-- by it. A step with an infinite gradient or a nan is left out, and the scale falls; it grows after many good steps.
-- The rule and the state are those of PyTorch's GradScaler. Scale, counter and verdict are tensors that only ops touch:
-- a step is recorded as it is (dlv3.compile), whichever way it goes. No clipping in between: gradients stay scaled.

local F = require 'dlv3.core.ffi'
local tensor = require 'dlv3.core.tensor'
local autograd = require 'dlv3.core.autograd'
local compile = require 'dlv3.core.compile'
local dict = require 'dlv3.core.dict'
local options_table = require 'dlv3.core.options_table'
local raise = F.raise

local LossScaler = {}
LossScaler.__index = LossScaler

local defaults = {init = 65536, growth = 2, backoff = 0.5, interval = 2000, device = 'cpu'}
local smallest, largest = 1e-6, 1e38

local function check_factors(o)
  options_table.number('LossScaler', 'growth', o.growth, 1, largest)
  options_table.number('LossScaler', 'backoff', o.backoff, smallest, 1)
  options_table.count('LossScaler', 'interval', o.interval)
end

-- optim.LossScaler{init = 65536, growth = 2, backoff = 0.5, interval = 2000, device = 'cpu'}: after interval good steps in
-- a row the scale is multiplied by growth, after a bad one by backoff. device: where the loss is. A step is
--   scaler:scale(loss):backward()
--   scaler:step(sgd)
local function make(options)
  local o = options_table('LossScaler', defaults, options)
  options_table.number('LossScaler', 'init', o.init, smallest, largest)
  check_factors(o)
  return setmetatable({
    growth = o.growth, backoff = o.backoff, interval = o.interval,
    factor = tensor.full({}, o.init, {dtype = 'f32', device = o.device}),
    growth_tracker = tensor.zeros({}, {dtype = 'i32', device = o.device}),
    found_inf = tensor.zeros({}, {dtype = 'f32', device = o.device}),
  }, LossScaler)
end

-- loss times the scale.
function LossScaler:scale(loss)
  if not F.is_tensor(loss) then raise('LossScaler: scale takes the loss, a tensor; a ' .. type(loss) .. ' came') end
  if loss.device ~= self.factor.device then
    raise(("LossScaler: the loss is on %s, the scale on %s: make it with optim.LossScaler{device = '%s'}"):format(loss.device, self.factor.device, loss.device))
  end
  return loss * self.factor
end

-- The optimiser's step with the gradients as they would be without the scale, or none; then the scale moves.
function LossScaler:step(sgd)
  if type(sgd) ~= 'table' or not sgd.gradients then raise('LossScaler: step takes an optimiser, as in scaler:step(sgd)') end
  local growth, backoff, interval = self.growth, self.backoff, self.interval
  autograd.no_grad(function()
    local gradients = sgd:gradients()
    if #gradients == 0 then raise('LossScaler: no parameter has a gradient: scaler:scale(loss):backward() comes before step') end
    self.found_inf:fill_(0)
    for _, grad in ipairs(gradients) do self.found_inf:amp_non_finite_check_(grad) end
    sgd:step{grad_scale = self.factor, found_inf = self.found_inf}
    compile.refresh(function() return growth == self.growth and backoff == self.backoff and interval == self.interval end)
    self.factor:amp_update_scale_(self.growth_tracker, self.found_inf, {growth_factor = growth, backoff_factor = backoff, growth_interval = interval})
  end)
end

-- The scale as a number, which waits for the device.
function LossScaler:get_scale() return self.factor:item() end

-- -- State, in PyTorch's form ---------------------------------------------------------------------------------------

function LossScaler:state_dict()
  return dict.from{{'scale', self.factor:item()}, {'growth_factor', self.growth}, {'backoff_factor', self.backoff}, {'growth_interval', self.interval},
                   {'_growth_tracker', self.growth_tracker:item()}}
end

-- Takes over a state as from state_dict or from PyTorch's GradScaler.
function LossScaler:load_state_dict(sd)
  local names = {'scale', 'growth_factor', 'backoff_factor', 'growth_interval', '_growth_tracker'}
  for _, name in ipairs(names) do
    if type(sd) ~= 'table' or type(sd[name]) ~= 'number' then raise('LossScaler: this is no state of a scaler (' .. table.concat(names, ', ') .. ')') end
  end
  local o = {growth = sd.growth_factor, backoff = sd.backoff_factor, interval = sd.growth_interval}
  check_factors(o)
  self.growth, self.backoff, self.interval = o.growth, o.backoff, o.interval
  self.factor:fill_(sd.scale)
  self.growth_tracker:fill_(sd._growth_tracker)
end

return make
