-- schema.lua - the fields that a file must have, described once; the first value that does not fit is named.
--
-- A check is a function of a value and its name in the file ("history.3.loss"). It returns nil where the value fits,
-- else a line such as "epoch: expected a whole number from 0, got 'abc'". Larger checks are made of smaller ones.

local F = require 'dlv3.core.ffi'
local bytes = require 'dlv3.io.bytes'
local dict = require 'dlv3.core.dict'
local opaque = require 'dlv3.io.opaque'

local M = {}

-- A value as a message shows it.
function M.shown(v)
  if v == nil then return 'nothing' end
  if v == dict.none then return 'None' end
  if F.is_tensor(v) then return 'a tensor of sizes [' .. table.concat(v:size(), ', ') .. ']' end
  if type(v) == 'string' then return "'" .. bytes.shown(v) .. "'" end
  if dict.is(v) then return 'a dict' end
  if opaque.is(v) then return opaque.text(v) end
  if type(v) == 'table' then return getmetatable(v) and 'an object' or 'a list' end
  return bytes.shown((tostring(v):gsub('U?LL$', '')))
end

local function unexpected(name, what, v) return ('%s: expected %s, got %s'):format(bytes.shown(name), what, M.shown(v)) end

local function is_list(v)
  return type(v) == 'table' and v ~= dict.none and not getmetatable(v) or dict.is(v) and next(v) == nil -- an empty table is saved as a dict
end

-- -- Single values ---------------------------------------------------------------------------------------------------

function M.any() end

-- A whole number within [low, high]; either may be nil.
function M.whole(low, high)
  local what = 'a whole number' .. (low and (' from %.0f'):format(low) or '') .. (high and (' to %.0f'):format(high) or '')
  return function(v, name)
    if type(v) ~= 'number' or v ~= math.floor(v) or math.abs(v) > 2 ^ 53 or v < (low or v) or v > (high or v) then return unexpected(name, what, v) end
  end
end

function M.number(v, name)
  if type(v) ~= 'number' or v - v ~= 0 then return unexpected(name, 'a finite number', v) end
end

-- A result, which is nan where nothing was counted.
function M.number_or_nan(v, name)
  if type(v) ~= 'number' then return unexpected(name, 'a number', v) end
end

function M.flag(v, name)
  if type(v) ~= 'boolean' then return unexpected(name, 'true or false', v) end
end

function M.tensor(v, name)
  if not F.is_tensor(v) then return unexpected(name, 'a tensor', v) end
end

-- -- Made of others --------------------------------------------------------------------------------------------------

-- What the check says of a value that is there and not None.
function M.optional(check)
  return function(v, name)
    if v ~= nil and v ~= dict.none then return check(v, name) end
  end
end

-- A list, of n items where n is given.
function M.list_of(check, n)
  local what = n and ('a list of %d values'):format(n) or 'a list'
  return function(v, name)
    if not is_list(v) or n and #v ~= n then return unexpected(name, what, v) end
    for i = 1, #v do
      local message = check(v[i], name .. '.' .. i)
      if message then return message end
    end
  end
end

-- A dict whose values all pass the check.
function M.map_of(check)
  return function(v, name)
    if not dict.is(v) then return unexpected(name, 'a dict', v) end
    for k, x in dict.items(v) do
      local message = check(x, name .. '.' .. tostring(k))
      if message then return message end
    end
  end
end

-- A dict with these fields, a list of {key, check}; others may be there too. name: nil for the file's outermost value.
function M.fields(list)
  return function(v, name)
    if not dict.is(v) then return unexpected(name or 'the file', 'a dict', v) end
    for _, field in ipairs(list) do
      local message = field[2](v[field[1]], (name and name .. '.' or '') .. field[1])
      if message then return message end
    end
  end
end

return M
