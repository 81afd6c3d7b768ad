-- names.lua - tables whose unknown names are errors with the nearest known one.

local F = require 'dlv3.core.ffi'
local suggest = require 'dlv3.core.suggest'

local M = {}

-- The keys of a table, sorted.
function M.sorted(t)
  local names = {}
  for name in pairs(t) do names[#names + 1] = tostring(name) end
  table.sort(names)
  return names
end

-- Makes reading a name that t lacks an error, and returns t. message: its beginning, with a %s for
-- the name, such as "nn has no '%s'"; the nearest names follow, and where list is true all of them.
function M.strict(t, message, list)
  return setmetatable(t, {__index = function(_, name)
    local names = M.sorted(t)
    local all = list and (' (has: %s)'):format(table.concat(names, ', ')) or ''
    F.raise(message:format(tostring(name)) .. suggest.text(tostring(name), names) .. all)
  end})
end

return M
