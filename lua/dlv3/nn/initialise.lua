-- initialise.lua - nn.init: fills for parameters, in place and off the tape, with PyTorch's names and formulas.

local F = require 'dlv3.core.ffi'
local autograd = require 'dlv3.core.autograd'
local options_table = require 'dlv3.core.options_table'

local M = {}

-- The function as `name` of this table; it fills t, a view that shares the parameter's memory, and returns the parameter.
local function in_place(name, fn)
  return function(t, ...)
    if not F.is_tensor(t) then F.raise(('init.%s: takes a tensor, a %s came'):format(name, type(t))) end
    if not M.off then autograd.no_grad(fn, t:detach(), ...) end
    return t
  end
end

-- fn(...) without any fills: for a model whose weights all come from a file. Memory that nobody wrote costs nothing.
function M.skipped(fn, ...)
  M.off = true
  local ok, result = pcall(fn, ...)
  M.off = false
  if not ok then error(result, 0) end
  return result
end

-- Connections into and out of one unit: w [out, in/groups, r, s]; groups do not divide fan_out, as in PyTorch.
function M.fans(t)
  local sizes, window = t:size(), 1
  if #sizes < 2 then F.raise(('init: the fan of a tensor of %d dimensions is not known; a weight has at least 2'):format(#sizes)) end
  for i = 3, #sizes do window = window * sizes[i] end
  return sizes[2] * window, sizes[1] * window
end

-- fan_in (the default) keeps the scale of activations, fan_out that of gradients.
local function fan_of(t, mode)
  local fan_in, fan_out = M.fans(t)
  return options_table.one_of('init', 'mode', mode or 'fan_in', {'fan_in', 'fan_out'}) == 'fan_out' and fan_out or fan_in
end

M.constant_ = in_place('constant_', function(t, value) t:fill_(value) end)
M.zeros_ = in_place('zeros_', function(t) t:fill_(0) end)
M.ones_ = in_place('ones_', function(t) t:fill_(1) end)
-- normal_(t, mean = 0, std = 1)
M.normal_ = in_place('normal_', function(t, mean, std) t:normal_(mean or 0, std or 1) end)
-- uniform_(t, low = 0, high = 1)
M.uniform_ = in_place('uniform_', function(t, low, high) t:uniform_(low or 0, high or 1) end)

-- kaiming_normal_(t, mode = 'fan_in'): normal with std = sqrt(2 / fan), for layers before a ReLU.
M.kaiming_normal_ = in_place('kaiming_normal_', function(t, mode) t:normal_(0, math.sqrt(2 / fan_of(t, mode))) end)

-- kaiming_uniform_(t, a = 0, mode = 'fan_in'): uniform within sqrt(6 / ((1 + a^2) fan)); a = sqrt(5) gives
-- 1 / sqrt(fan_in), the default of layers.
M.kaiming_uniform_ = in_place('kaiming_uniform_', function(t, a, mode)
  local bound = math.sqrt(6 / ((1 + (a or 0) ^ 2) * fan_of(t, mode)))
  t:uniform_(-bound, bound)
end)

return M
