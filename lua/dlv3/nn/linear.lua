-- linear.lua - fully connected layers.

local Module = require 'dlv3.nn.module'
local Parameter = require 'dlv3.nn.parameter'
local expect = require 'dlv3.core.expect'
local initialise = require 'dlv3.nn.initialise'
local tensor = require 'dlv3.core.tensor'

local M = {}

-- Linear(inputs, outputs, {bias = true}): x [..., inputs] -> [..., outputs]; weight [outputs,
-- inputs], bias [outputs], initialised as PyTorch does.
M.Linear = Module.class('Linear', function(self, cin, cout, options)
  local o = expect.options('Linear', {bias = true}, options)
  expect.argument('Linear', 'the number of inputs', cin, expect.whole(1))
  expect.argument('Linear', 'the number of outputs', cout, expect.whole(1))
  self.weight = Parameter(tensor.empty{cout, cin})
  initialise.kaiming_uniform_(self.weight, math.sqrt(5))
  if o.bias then
    self.bias = Parameter(tensor.empty{cout})
    initialise.uniform_(self.bias, -1 / math.sqrt(cin), 1 / math.sqrt(cin))
  end
end)

-- x [..., inputs] -> [..., outputs].
function M.Linear:forward(x) return self:input(x):linear(self.weight, self.bias) end

-- What print shows of the layer.
function M.Linear:extra()
  return ('%d, %d%s'):format(self.weight:size(2), self.weight:size(1), self.bias and '' or ', bias = false')
end

return M
