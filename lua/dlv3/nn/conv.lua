-- conv.lua - convolution layers.

local F = require 'dlv3.core.ffi'
local Module = require 'dlv3.nn.module'
local Parameter = require 'dlv3.nn.parameter'
local expect = require 'dlv3.core.expect'
local initialise = require 'dlv3.nn.initialise'
local sizes = require 'dlv3.nn.sizes'
local tensor = require 'dlv3.core.tensor'

local M = {}

local spec = {
  stride = {1, expect.pair(1)}, padding = {0, expect.pair(0)}, dilation = {1, expect.pair(1)},
  groups = {1, expect.whole(1)}, bias = true,
}

-- Conv2d(input channels, output channels, kernel_size, {stride = 1, padding = 0, dilation = 1,
-- groups = 1, bias = true}) x [n, in, h, w] -> [n, out, h', w']; kernel_size, stride, padding and
-- dilation are a number or {h, w}. weight [out, in / groups, h, w], bias [out], initialised as
-- PyTorch does.
M.Conv2d = Module.class('Conv2d', function(self, cin, cout, kernel_size, options)
  if kernel_size == nil then
    F.raise('Conv2d: expected nn.Conv2d(input channels, output channels, kernel_size, {options}), got no kernel_size')
  end
  local o = expect.options('Conv2d', spec, options)
  expect.argument('Conv2d', 'the number of input channels', cin, expect.whole(1))
  expect.argument('Conv2d', 'the number of output channels', cout, expect.whole(1))
  if cin % o.groups ~= 0 or cout % o.groups ~= 0 then
    F.raise(('Conv2d: %d groups do not divide %d and %d channels'):format(o.groups, cin, cout))
  end
  local k = sizes.argument('Conv2d', 'kernel_size', kernel_size)
  self.channels, self.kernel_size = {cin, cout}, k
  self.options = {
    stride = sizes.pair(o.stride), padding = sizes.pair(o.padding), dilation = sizes.pair(o.dilation),
    groups = o.groups,
  }
  self.weight = Parameter(tensor.empty{cout, cin / o.groups, k[1], k[2]})
  initialise.kaiming_uniform_(self.weight, math.sqrt(5))
  if o.bias then
    local bound = 1 / math.sqrt((initialise.fans(self.weight)))
    self.bias = Parameter(tensor.empty{cout})
    initialise.uniform_(self.bias, -bound, bound)
  end
end)

-- residual [n, out, h', w'] is added to the result; scale [n, in, 1, 1] multiplies x. Fused models
-- give them.
function M.Conv2d:forward(x, residual, scale)
  return self:input(x):conv2d(self.weight, self.bias, residual, scale, self.options)
end

-- "3, 16, kernel_size = 3, padding = 1": what print shows of the layer.
function M.Conv2d:extra()
  local o = self.options
  return ('%d, %d, kernel_size = %s'):format(self.channels[1], self.channels[2], sizes.text(self.kernel_size))
         .. sizes.options_text(o, {'stride', 'padding', 'dilation'}, {'1', '0', '1'})
         .. (o.groups > 1 and ', groups = ' .. o.groups or '')
         .. (self.bias and '' or ', bias = false')
         .. (o.activation and ', ' .. o.activation or '')
end

return M
