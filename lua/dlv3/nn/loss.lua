-- loss.lua - losses as modules.

local Module = require 'dlv3.nn.module'
local expect = require 'dlv3.core.expect'

local M = {}

local spec = {
  ignore_index = {255, expect.whole()}, label_smoothing = {0, expect.number(0, 1)},
  weight = expect.optional(expect.tensor),
}

-- CrossEntropyLoss{ignore_index = 255, label_smoothing = 0, weight = a factor per class, f32
-- [classes]}
-- loss(logits [n, classes, h, w], labels u8 or i64 [n, h, w]) -> the mean over the labels that
-- count, a tensor of one element.
M.CrossEntropyLoss = Module.class('CrossEntropyLoss', function(self, options)
  local o = expect.options('CrossEntropyLoss', spec, options)
  self.options = {ignore_index = o.ignore_index, label_smoothing = o.label_smoothing}
  if o.weight then self:buffer('weight', o.weight) end
end)

-- logits [n, classes, h, w], labels [n, h, w] -> a tensor of one element.
function M.CrossEntropyLoss:forward(x, target)
  return self:input(x):cross_entropy(target, self.weight, self.options)
end

return M
