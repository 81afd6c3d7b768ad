-- nn - modules and layers, with PyTorch's names; options in a table: nn.Conv2d(16, 32, 3, {padding
-- = 1, bias = false}).

local Module = require 'dlv3.nn.module'
local names = require 'dlv3.core.names'

local nn = {
  Module = Module, module = Module.class, is_module = Module.is,
  Parameter = require 'dlv3.nn.parameter',
  init = require 'dlv3.nn.initialise',
}

for _, family in ipairs {
  'conv', 'norm', 'linear', 'activation', 'flatten', 'dropout', 'pool', 'upsample', 'loss', 'container',
} do
  for name, class in pairs(require('dlv3.nn.' .. family)) do nn[name] = class end
end

return names.strict(nn, "nn has no '%s'")
