-- dict.lua - a table that remembers the order in which its keys were set: state dicts, checkpoints,
-- what files hold.
--
-- d[key] reads and writes as with any table; a new key goes to the end, d[key] = nil takes one out.
-- Values lie in the table itself, so reading costs nothing extra; the order lies in its metatable.
-- Keys are strings, numbers or booleans. A dict has no methods, since every name may be a key:
-- dict.items(d) iterates, dict.size(d) counts.

local F = require 'dlv3.core.ffi'
local opaque = require 'dlv3.io.opaque'

local dict = {}

-- Stands for Python's None in what a file held and in what is saved: a nil can not be an element.
dict.none = setmetatable({}, {__tostring = function() return 'none' end,
                              __newindex = function() error('none has no fields', 2) end})

local allowed = {string = true, number = true, boolean = true}

-- The order without the keys that are gone.
local function compact(d, m)
  local keys, position, n = {}, {}, 0
  for i = 1, m.n do
    local k = m.keys[i]
    if m.position[k] == i and rawget(d, k) ~= nil then
      n = n + 1
      keys[n], position[k] = k, n
    end
  end
  m.keys, m.position, m.n, m.stale = keys, position, n, 0
end

-- Lua calls this only for keys that are not there: new ones, and those that were taken out.
local function append(d, key, value)
  if value == nil then return end
  if not allowed[type(key)] then error('a key of a dict: expected a string or a number, got a ' .. type(key), 2) end
  local m = getmetatable(d)
  if m.position[key] then
    m.stale = m.stale + 1
    m.position[key] = nil
    if m.stale > 16 and m.stale > m.n / 2 then compact(d, m) end
  end
  m.n = m.n + 1
  m.keys[m.n], m.position[key] = key, m.n
  rawset(d, key, value)
end

local function text(d)
  local lines, shown = {}, 0
  for k, v in dict.items(d) do
    shown = shown + 1
    if shown > 40 then
      lines[#lines + 1] = '  ... ' .. dict.size(d) .. ' in all'
      break
    end
    local s = type(v) == 'string' and ('%q'):format(v) or dict.is(v) and 'a dict of ' .. dict.size(v)
        or type(v) == 'table' and #v > 0 and 'an array of ' .. #v or
              type(v) == 'cdata' and tostring(v):match('(%[[^%[%]]*%])%s*$') or tostring(v)
    lines[#lines + 1] = '  ' .. tostring(k) .. ' = ' .. s
  end
  return #lines == 0 and '{}' or F.printable('{\n' .. table.concat(lines, '\n') .. '\n}')
end

-- An empty dict.
function dict.new()
  return setmetatable({}, {dict = dict, keys = {}, position = {}, n = 0, stale = 0, __newindex = append,
                           __tostring = text})
end

-- Whether d is a dict.
function dict.is(d)
  if type(d) ~= 'table' then return false end
  local m = getmetatable(d)
  return type(m) == 'table' and rawget(m, 'dict') == dict
end

-- The key and value after `key`. No closure: what a compiled trace keeps alive must not hold the
-- values.
local function following(d, key)
  local m = getmetatable(d)
  local keys, position = m.keys, m.position
  for i = key == nil and 1 or position[key] + 1, m.n do
    local k = keys[i]
    local v = rawget(d, k)
    if v ~= nil and position[k] == i then return k, v end
  end
end

-- for key, value in dict.items(d) do: in order. A plain table gives its array part, then its named
-- fields sorted. Fields may be changed and taken out on the way, not added.
function dict.items(d)
  return following, dict.is(d) and d or dict.from_table(d), nil
end

-- The number of entries of a dict or of a plain table.
function dict.size(d)
  local n = 0
  for _ in dict.items(d) do n = n + 1 end
  return n
end

-- The keys of a dict, in order: a list.
function dict.keys(d)
  local list = {}
  for k in dict.items(d) do list[#list + 1] = k end
  return list
end

-- From a list of {key, value}.
function dict.from(pairs_list)
  local d = dict.new()
  for _, pair in ipairs(pairs_list) do d[pair[1]] = pair[2] end
  return d
end

-- From a plain table: numbers first, then names, each sorted.
function dict.from_table(t)
  if type(t) ~= 'table' then error('expected a dict or a table, got a ' .. type(t), 3) end
  if opaque.is(t) then opaque.use(t) end
  local names = {}
  for k in pairs(t) do names[#names + 1] = k end
  table.sort(names, function(a, b)
    if type(a) == type(b) and type(a) ~= 'boolean' then return a < b end
    return type(a) == 'number' or type(b) ~= 'number' and tostring(a) < tostring(b)
  end)
  local d = dict.new()
  for _, k in ipairs(names) do d[k] = t[k] end
  return d
end

return dict
