-- pool.lua - pooling layers.

local Module = require 'dlv3.nn.module'
local expect = require 'dlv3.core.expect'
local sizes = require 'dlv3.nn.sizes'

local M = {}

local spec = {
  stride = expect.optional(expect.pair(1)), padding = {0, expect.pair(0)}, dilation = {1, expect.pair(1)},
}

-- MaxPool2d(kernel_size, {stride = kernel_size, padding = 0, dilation = 1}): x [n, c, h, w] -> [n,
-- c, h', w']; all are a number or {h, w}.
M.MaxPool2d = Module.class('MaxPool2d', function(self, kernel_size, options)
  local o = expect.options('MaxPool2d', spec, options)
  local k = sizes.argument('MaxPool2d', 'kernel_size', kernel_size)
  self.options = {
    kernel_size = k, stride = sizes.pair(o.stride or k), padding = sizes.pair(o.padding),
    dilation = sizes.pair(o.dilation),
  }
end)

-- x [n, c, h, w] -> [n, c, h', w'].
function M.MaxPool2d:forward(x) return self:input(x):max_pool2d(self.options) end

-- What print shows of the layer.
function M.MaxPool2d:extra()
  return 'kernel_size = ' .. sizes.text(self.options.kernel_size)
         .. sizes.options_text(self.options, {'stride', 'padding', 'dilation'}, {'', '0', '1'})
end

-- AdaptiveAvgPool2d(size): x [n, c, h, w] -> [n, c, size]; size: a number or {h, w}.
M.AdaptiveAvgPool2d = Module.class('AdaptiveAvgPool2d', function(self, size)
  self.size = sizes.argument('AdaptiveAvgPool2d', 'size', size)
end)

-- x [n, c, h, w] -> [n, c, size].
function M.AdaptiveAvgPool2d:forward(x) return self:input(x):adaptive_avg_pool2d{size = self.size} end

-- What print shows of the layer.
function M.AdaptiveAvgPool2d:extra() return sizes.text(self.size) end

return M
