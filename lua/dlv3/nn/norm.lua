-- norm.lua - normalisation layers.

local F = require 'dlv3.core.ffi'
local Module = require 'dlv3.nn.module'
local Parameter = require 'dlv3.nn.parameter'
local expect = require 'dlv3.core.expect'
local recompute = require 'dlv3.core.recompute'
local tensor = require 'dlv3.core.tensor'

local M = {}

local spec = {
  eps = {1e-5, expect.number(0)}, momentum = {0.1, expect.number(0, 1)},
  activation = {'none', expect.one_of{'none', 'relu', 'relu6', 'hardswish', 'hardsigmoid'}},
}

-- BatchNorm2d(channels, {eps = 1e-5, momentum = 0.1, activation = 'none'})
-- x [n, channels, h, w] -> the same sizes. activation (none relu relu6 hardswish hardsigmoid) and a
-- residual,
-- bn(x, residual), are computed in the same pass. In a model that is to be fused the residual is
-- given to bn:after(conv, x, residual).
M.BatchNorm2d = Module.class('BatchNorm2d', function(self, channels, options)
  local o = expect.options('BatchNorm2d', spec, options)
  expect.argument('BatchNorm2d', 'the number of channels', channels, expect.whole(1))
  self.channels, self.eps, self.momentum, self.activation = channels, o.eps, o.momentum, o.activation
  self.weight = Parameter(tensor.ones{channels})
  self.bias = Parameter(tensor.zeros{channels})
  self:buffer('running_mean', tensor.zeros{channels})
  self:buffer('running_var', tensor.ones{channels})
  self:buffer('num_batches_tracked', tensor.zeros({}, {dtype = 'i64'}))
end)

-- x and residual [n, channels, h, w]. In training the running statistics move, once a batch.
function M.BatchNorm2d:forward(x, residual)
  self:input(x)
  if self.folded then
    if residual then
      F.raise('BatchNorm2d: it was folded into its convolution, which has to add the residual: write '
              .. 'bn:after(conv, x, residual) for bn(conv(x), residual)')
    end
    return x
  end
  local is_update = not (self.training and recompute.again)
  if self.training and is_update then self.num_batches_tracked:add_(1) end
  return x:batch_norm(self.weight, self.bias, is_update and self.running_mean or nil,
                      is_update and self.running_var or nil, residual,
                      {training = self.training, momentum = self.momentum, eps = self.eps,
                       activation = self.activation})
end

-- The result of conv(x), normalised, with the residual added; in a fused model the convolution does
-- all of it. scale, in inference: factors of x's channels.
function M.BatchNorm2d:after(conv, x, residual, scale)
  if self.folded then return conv(x, residual, scale) end
  return self(conv(x, nil, scale), residual)
end

-- What print shows of the layer.
function M.BatchNorm2d:extra()
  if self.folded then return 'folded' end
  local activation = self.activation ~= 'none' and ', ' .. self.activation or ''
  return ('%d, eps = %g, momentum = %g%s'):format(self.channels, self.eps, self.momentum, activation)
end

return M
