-- options_table.lua - options in a table, laid over their defaults: unknown names are errors with the nearest one.

local F = require 'dlv3.core.ffi'
local suggest = require 'dlv3.core.suggest'

-- options_table('Conv2d', {stride = 1, bias = true}, options): a new table. A default of true or false wants one; options_table.required
-- as a default makes an option that must be there, options_table.optional one that may be anything or absent.
local M = {required = {}, optional = {}}

local function names_of(defaults)
  local names = {}
  for name in pairs(defaults) do names[#names + 1] = name end
  table.sort(names)
  return names
end

function M.merge(what, defaults, options)
  if options ~= nil and type(options) ~= 'table' then
    F.raise(('%s: options stand in a table, as in {%s = ...}; a %s came'):format(what, names_of(defaults)[1] or 'name', type(options)))
  end
  local o = {}
  for name, v in pairs(defaults) do
    if v ~= M.required and v ~= M.optional then o[name] = v end
  end
  for name, v in pairs(options or {}) do
    local default = defaults[name]
    if default == nil then
      local names = names_of(defaults)
      F.raise(("%s: no option '%s'%s (has: %s)"):format(what, tostring(name), suggest.text(tostring(name), names), table.concat(names, ', ')))
    end
    if type(default) == 'boolean' and type(v) ~= 'boolean' then F.raise(('%s: %s must be true or false, %s came'):format(what, name, tostring(v))) end
    if type(default) == 'number' and type(v) ~= 'number' and type(v) ~= 'table' then F.raise(('%s: %s must be a number, %s came'):format(what, name, tostring(v))) end
    o[name] = v
  end
  for _, name in ipairs(names_of(defaults)) do
    if defaults[name] == M.required and o[name] == nil then F.raise(('%s: %s must be given'):format(what, name)) end
  end
  return o
end

-- v when it is a whole number from `least` (default 1) on.
function M.count(what, name, v, least)
  if type(v) ~= 'number' or v < (least or 1) or v ~= math.floor(v) or v == math.huge then
    F.raise(('%s: %s must be a whole number from %d, %s came'):format(what, name, least or 1, tostring(v)))
  end
  return v
end

-- v when it is a number within [low, high].
function M.number(what, name, v, low, high)
  if type(v) ~= 'number' or not (v >= low and v <= high) then
    F.raise(('%s: %s must be a number from %g%s, %s came'):format(what, name, low, high < math.huge and (' to %g'):format(high) or '', tostring(v)))
  end
  return v
end

-- v when it is one of the names.
function M.one_of(what, name, v, names)
  for _, n in ipairs(names) do if n == v then return v end end
  F.raise(("%s: %s must be one of %s; '%s' came%s"):format(what, name, table.concat(names, ', '), tostring(v), suggest.text(tostring(v), names)))
end

return setmetatable(M, {__call = function(_, ...) return M.merge(...) end})
