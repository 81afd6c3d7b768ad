-- initialise.lua - nn.init: initial values of parameters, written in place and off the tape, with
-- PyTorch's names and formulas.

local F = require 'dlv3.core.ffi'
local autograd = require 'dlv3.core.autograd'
local docs = require 'dlv3.core.docs'
local expect = require 'dlv3.core.expect'

local M = {}

-- Adds fn(t, ...), which fills a tensor, as a function of this name that fills a parameter and
-- returns it; text: for help.
local function in_place(name, text, fn)
  M[name] = docs.describe(function(t, ...)
    expect.argument('init.' .. name, 't', t, expect.tensor)
    if not M.off then autograd.no_grad(fn, t:detach(), ...) end
    return t
  end, text)
end

-- fn(...) without initialising anything: for a model whose weights are all read from a file. Memory
-- that was never written costs nothing.
function M.skipped(fn, ...)
  M.off = true
  local ok, result = pcall(fn, ...)
  M.off = false
  if not ok then error(result, 0) end
  return result
end

-- fan_in, fan_out: connections into and out of one unit of a weight [out, in / groups, h, w];
-- groups do not divide fan_out, as in PyTorch.
function M.fans(t)
  local sizes, window = t:size(), 1
  if #sizes < 2 then
    F.raise(('init: expected a weight of at least 2 dimensions to count its fan, got %d'):format(#sizes))
  end
  for i = 3, #sizes do window = window * sizes[i] end
  return sizes[2] * window, sizes[1] * window
end

-- fan_in (the default) keeps the scale of activations, fan_out that of gradients.
local function fan_of(t, mode)
  local fan_in, fan_out = M.fans(t)
  mode = expect.argument('init', 'mode', mode or 'fan_in', expect.one_of{'fan_in', 'fan_out'})
  return mode == 'fan_out' and fan_out or fan_in
end

in_place('constant_', 'constant_(t, value): all elements value.', function(t, value) t:fill_(value) end)
in_place('zeros_', 'zeros_(t): all elements 0.', function(t) t:fill_(0) end)
in_place('ones_', 'ones_(t): all elements 1.', function(t) t:fill_(1) end)

in_place('normal_', 'normal_(t, mean = 0, std = 1): normal random numbers.', function(t, mean, std)
  t:normal_(mean or 0, std or 1)
end)

in_place('uniform_', 'uniform_(t, low = 0, high = 1): uniform random numbers in [low, high).', function(t, low, high)
  t:uniform_(low or 0, high or 1)
end)

in_place('kaiming_normal_', "kaiming_normal_(t, mode = 'fan_in' or 'fan_out'): normal with std = sqrt(2 / fan), "
                            .. "for layers "
                            .. 'before a ReLU. He et al., 2015.', function(t, mode)
  t:normal_(0, math.sqrt(2 / fan_of(t, mode)))
end)

in_place('kaiming_uniform_', "kaiming_uniform_(t, a = 0, mode = 'fan_in' or 'fan_out'): uniform within sqrt(6 / "
                             .. "((1 + a^2) "
                             .. 'fan)); a = sqrt(5) gives 1 / sqrt(fan_in), the default of layers.',
                                 function(t, a, mode)
  local bound = math.sqrt(6 / ((1 + (a or 0) ^ 2) * fan_of(t, mode)))
  t:uniform_(-bound, bound)
end)

return M
