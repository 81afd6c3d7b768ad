-- activation.lua - nn.ReLU, ReLU6, Hardswish, Hardsigmoid, Sigmoid, Tanh: modules around the ops of
-- these names.

local Module = require 'dlv3.nn.module'

local M = {}

local ops = {
  ReLU = 'relu', ReLU6 = 'relu6', Hardswish = 'hardswish', Hardsigmoid = 'hardsigmoid', Sigmoid = 'sigmoid',
  Tanh = 'tanh',
}

for name, op in pairs(ops) do
  -- A function of every element: x -> the same sizes. It takes no options; ?relu, ?hardswish, ...
  -- describe the ops.
  M[name] = Module.class(name, function() end)
  -- x -> the same sizes.
  M[name].forward = function(self, x) return self:input(x)[op](x) end
end

return M
