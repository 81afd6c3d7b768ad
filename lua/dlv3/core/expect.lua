-- expect.lua - what a value must be, described once: options in tables, command lines, environment,
-- fields of files.
--
-- A check is a function(v, name) that returns nil where v fits, else a line such as
-- "lr: expected a number from 0, got 'abc'". Larger checks are composed of smaller ones.
--
--   expect.argument('Dropout', 'p', p, expect.number(0, 1))       v, or an error at the caller's line
--   expect.options('SGD', {lr = {1e-3, expect.number(0)}, nesterov = false, params = expect.list}, options)

local F = require 'dlv3.core.ffi'
local bytes = require 'dlv3.io.bytes'
local dict = require 'dlv3.core.dict'
local opaque = require 'dlv3.io.opaque'
local suggest = require 'dlv3.core.suggest'

local M = {}

-- A value as a message shows it, on one line.
function M.shown(v)
  if v == nil then return 'nothing' end
  if v == dict.none then return 'None' end
  if F.is_tensor(v) then return 'a tensor of sizes [' .. table.concat(v:size(), ', ') .. ']' end
  if type(v) == 'string' then return "'" .. bytes.shown(v) .. "'" end
  if type(v) == 'function' then return 'a function' end
  if dict.is(v) then return 'a dict' end
  if opaque.is(v) then return opaque.text(v) end
  if type(v) == 'table' and rawget(v, '_kinds') then return 'a module' end
  if type(v) == 'table' and getmetatable(v) then return 'an object' end
  if type(v) == 'table' then return v[1] == nil and next(v) ~= nil and 'a table' or 'a list' end
  return bytes.shown((tostring(v):gsub('U?LL$', '')))
end

-- "name: expected what, got v".
function M.unexpected(name, what, v) return ('%s: expected %s, got %s'):format(bytes.shown(name), what, M.shown(v)) end
local unexpected = M.unexpected

-- An empty table is saved as a dict.
local function is_list(v)
  if dict.is(v) then return next(v) == nil end
  return type(v) == 'table' and v ~= dict.none and not getmetatable(v)
end

-- " from 0 to 1"; either end may be nil.
local function range_text(low, high)
  local function text(bound) return math.abs(bound) < 1e15 and ('%.10g'):format(bound) or ('%g'):format(bound) end
  return (low and ' from ' .. text(low) or '') .. (high and ' to ' .. text(high) or '')
end

-- -- Single values --------------------------------------------------------------------------------

-- A check made of a condition: fits(v) is true where v fits; what: how a message calls such a
-- value.
function M.value(what, fits)
  return function(v, name)
    if not fits(v) then return unexpected(name, what, v) end
  end
end

-- Any value, nil too.
function M.any() end

-- A number within [low, high]; either may be nil. A nan is none.
function M.number(low, high)
  return M.value('a number' .. range_text(low, high), function(v)
    return type(v) == 'number' and v >= (low or -math.huge) and v <= (high or math.huge)
  end)
end

-- A whole number within [low, high]; either may be nil.
function M.whole(low, high)
  return M.value('a whole number' .. range_text(low, high), function(v)
    return type(v) == 'number' and v == math.floor(v) and math.abs(v) <= 2 ^ 53 and v >= (low or v) and v <= (high or v)
  end)
end

-- A number or {h, w} of whole numbers from low on: a size, a stride, a padding.
function M.pair(low)
  local whole = M.whole(low)
  return M.value(('a whole number%s, or {h, w}'):format(range_text(low)), function(v)
    if type(v) == 'table' then return #v == 2 and not whole(v[1], '') and not whole(v[2], '') end
    return not whole(v, '')
  end)
end

-- One of the values of a list.
function M.one_of(list)
  local texts = {}
  for i, v in ipairs(list) do texts[i] = tostring(v) end
  local what = #list <= 2 and table.concat(texts, ' or ') or 'one of ' .. table.concat(texts, ', ')
  return function(v, name)
    for _, allowed in ipairs(list) do
      if allowed == v then return nil end
    end
    return unexpected(name, what, v) .. (type(v) == 'string' and suggest.text(v, texts) or '')
  end
end

M.finite = M.value('a finite number', function(v) return type(v) == 'number' and v - v == 0 end)
-- a result is nan where nothing was counted
M.number_or_nan = M.value('a number', function(v) return type(v) == 'number' end)
M.flag = M.value('true or false', function(v) return type(v) == 'boolean' end)
M.text = M.value('a string', function(v) return type(v) == 'string' end)
M.list = M.value('a list', is_list)
M.callable = M.value('a function', function(v) return type(v) == 'function' end)
M.tensor = M.value('a tensor', F.is_tensor)

-- -- Composed of others ---------------------------------------------------------------------------

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

-- A dict with these fields, a list of {key, check}; it may have others too. name: nil for a file's
-- outermost value.
function M.fields(list)
  return function(v, name)
    if not dict.is(v) then return unexpected(name or 'the file', 'a dict', v) end
    for _, field in ipairs(list) do
      local message = field[2](v[field[1]], (name and name .. '.' or '') .. field[1])
      if message then return message end
    end
  end
end

-- -- Arguments and options ------------------------------------------------------------------------

-- v where it passes the check, else an error "what: name: expected ..., got ..." at the line of the
-- library's caller.
function M.argument(what, name, v, check)
  local message = check(v, name)
  if message then F.raise(what .. ': ' .. message) end
  return v
end

-- The names of a spec, sorted.
local function names_of(spec)
  local names = {}
  for name in pairs(spec) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- The default and the check of an entry of a spec.
local function entry_of(entry)
  if type(entry) == 'function' then return nil, entry end
  if type(entry) == 'boolean' then return entry, M.flag end
  return entry[1], entry[2]
end

-- Options laid over their defaults: a new table. spec: by name {default, check}, a boolean (the
-- default of a flag), or a check alone, which then decides whether the option may be left out.
-- Names that the spec lacks and values that do not fit are errors at the line of the library's
-- caller; what: who takes the options, for messages.
function M.options(what, spec, options)
  options = options == nil and {} or options
  if type(options) ~= 'table' then
    local example = names_of(spec)[1] or 'name'
    F.raise(('%s: expected a table of options, as in {%s = ...}, got %s'):format(what, example, M.shown(options)))
  end
  local o = {}
  for name, v in pairs(options) do
    if spec[name] == nil then
      local names = names_of(spec)
      local hint = suggest.text(tostring(name), names)
      F.raise(("%s: no option '%s'%s (has: %s)"):format(what, tostring(name), hint, table.concat(names, ', ')))
    end
    o[name] = v
  end
  for _, name in ipairs(names_of(spec)) do
    local default, check = entry_of(spec[name])
    if o[name] == nil then o[name] = default end
    M.argument(what, name, o[name], check)
  end
  return o
end

return M
