-- init.lua - require 'dlv3.vision': the functions of vision.image (read, resize, normalize,
-- write_png, ...), and the other files of this folder as fields, loaded on first use.

local image = require 'dlv3.vision.image'

return setmetatable({image = image}, {__index = function(t, name)
  local value = image[name]
  if value == nil and type(name) == 'string' and package.searchpath('dlv3.vision.' .. name, package.path) then
    value = require('dlv3.vision.' .. name)
  end
  rawset(t, name, value)
  return value
end})
