-- dropout.lua - dropout layers.

local Module = require 'dlv3.nn.module'
local expect = require 'dlv3.core.expect'

local M = {}

-- Dropout(p = 0.5): in training an element becomes 0 with the probability p, and the others are
-- scaled by 1 / (1 - p).
M.Dropout = Module.class('Dropout', function(self, p)
  self.p = expect.argument('Dropout', 'p', p or 0.5, expect.number(0, 1))
end)

-- x -> the same sizes.
function M.Dropout:forward(x)
  if not self.training or self.p == 0 then return x end
  return self:input(x):dropout{p = self.p}
end

-- What print shows of the layer.
function M.Dropout:extra() return ('p = %g'):format(self.p) end

return M
