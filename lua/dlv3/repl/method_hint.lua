-- method_hint.lua - adds to what LuaJIT says of a method that is not there: the nearest one that
-- modules have.

local suggest = require 'dlv3.core.suggest'

-- A message with the nearest method of modules, where it says that there is no such method; else
-- the message itself.
return function(message)
  local name = message:match "attempt to call method '([%w_]+)' %(a nil value%)"
  local module, names = package.loaded['dlv3.nn.module'], {}
  for method in pairs(name and module or {}) do names[#names + 1] = method end
  return name and message .. suggest.text(name, names) or message
end
