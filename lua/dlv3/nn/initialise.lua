-- initialise.lua - nn.init: fills for parameters, in place and off the tape, with PyTorch's names and formulas.

local autograd = require 'dlv3.autograd'

local M = {}

local function in_place(fn)
  return function(t, ...)
    local args, n = {...}, select('#', ...)
    autograd.no_grad(function() fn(t:detach(), unpack(args, 1, n)) end)
    return t
  end
end

-- Connections into and out of one unit: w [out, in/groups, r, s]; groups do not divide fan_out, as in PyTorch.
function M.fans(t)
  local sizes, window = t:size(), 1
  for i = 3, #sizes do window = window * sizes[i] end
  return sizes[2] * window, sizes[1] * window
end

M.constant_ = in_place(function(t, value) t:fill_(value) end)
M.zeros_ = in_place(function(t) t:fill_(0) end)
M.ones_ = in_place(function(t) t:fill_(1) end)
M.normal_ = in_place(function(t, mean, std) t:normal_(mean or 0, std or 1) end)
M.uniform_ = in_place(function(t, low, high) t:uniform_(low or 0, high or 1) end)

-- Normal with std = sqrt(2 / fan): mode 'fan_in' (default) or 'fan_out'.
M.kaiming_normal_ = in_place(function(t, mode)
  local fan_in, fan_out = M.fans(t)
  t:normal_(0, math.sqrt(2 / (mode == 'fan_out' and fan_out or fan_in)))
end)

-- Uniform within sqrt(6 / ((1 + a^2) fan_in)); a = sqrt(5) gives 1 / sqrt(fan_in), the default of layers.
M.kaiming_uniform_ = in_place(function(t, a)
  local bound = math.sqrt(6 / ((1 + (a or 0) ^ 2) * M.fans(t)))
  t:uniform_(-bound, bound)
end)

return M
