-- json.lua - reads and writes JSON: headers of safetensors files, results for other programs.
--
-- Objects become dicts (order kept, a key twice is a fault), arrays Lua arrays, null dict.none.
-- Depth and size are limited, since headers come from strangers.

local bytes = require 'dlv3.io.bytes'
local dict = require 'dlv3.core.dict'
local opaque = require 'dlv3.io.opaque'
local fault = bytes.fault

local M = {}

local MAX_DEPTH = 64
local MAX_COST = 4e6 -- of all values: 1 each, an object OBJECT_COST, which is its share of the memory
local OBJECT_COST = 8

local left -- of the cost, while a text is read

local escapes = {b = '\b', f = '\f', n = '\n', r = '\r', t = '\t', ['"'] = '"', ['\\'] = '\\', ['/'] = '/'}

-- \uXXXX at i (of the backslash) -> text, position after it
local function unicode(s, i)
  local hex = s:match('^%x%x%x%x', i + 2) or fault('JSON: \\u without four hex digits at %d', i - 1)
  local code, after = tonumber(hex, 16), i + 6
  if code >= 0xD800 and code < 0xDC00 then
    local low = s:match('^\\u(%x%x%x%x)', after)
    low = low and tonumber(low, 16)
    if not low or low < 0xDC00 or low > 0xDFFF then fault('JSON: half a character at %d', i - 1) end
    return bytes.utf8(0x10000 + (code - 0xD800) * 1024 + low - 0xDC00), after + 6
  elseif code >= 0xDC00 and code < 0xE000 then
    fault('JSON: half a character at %d', i - 1)
  end
  return bytes.utf8(code), after
end

local function read_string(s, i)
  local start, parts = i, {}
  i = i + 1
  while true do
    local stop = s:find('["\\%c]', i)
    local c = stop and s:sub(stop, stop)
    if not stop or (c ~= '"' and c ~= '\\') then fault('JSON: the string at %d does not end', start - 1) end
    parts[#parts + 1] = s:sub(i, stop - 1)
    if c == '"' then return table.concat(parts), stop + 1 end
    local e = s:sub(stop + 1, stop + 1)
    if e == 'u' then
      parts[#parts + 1], i = unicode(s, stop)
    else
      parts[#parts + 1] = escapes[e] or fault('JSON: no escape \\%s at %d', bytes.shown(e), stop - 1)
      i = stop + 2
    end
  end
end

local function skip(s, i) return s:find('[^ \t\r\n]', i) or #s + 1 end

local read_value

local function read_list(s, i, depth)
  local list, n = {}, 0
  i = skip(s, i + 1)
  if s:sub(i, i) == ']' then return list, i + 1 end
  while true do
    n = n + 1
    list[n], i = read_value(s, i, depth)
    i = skip(s, i)
    local c = s:sub(i, i)
    if c == ']' then return list, i + 1 end
    if c ~= ',' then fault("JSON: expected ',' or ']' at %d", i - 1) end
    i = i + 1
  end
end

local function read_object(s, i, depth)
  left = left - OBJECT_COST
  local d = dict.new()
  local key
  i = skip(s, i + 1)
  if s:sub(i, i) == '}' then return d, i + 1 end
  while true do
    i = skip(s, i)
    if s:sub(i, i) ~= '"' then fault('JSON: expected a key at %d', i - 1) end
    key, i = read_string(s, i)
    if d[key] ~= nil then fault("JSON: '%s' is there twice", bytes.shown(key)) end
    i = skip(s, i)
    if s:sub(i, i) ~= ':' then fault("JSON: expected ':' at %d", i - 1) end
    d[key], i = read_value(s, i + 1, depth)
    i = skip(s, i)
    local c = s:sub(i, i)
    if c == '}' then return d, i + 1 end
    if c ~= ',' then fault("JSON: expected ',' or '}' at %d", i - 1) end
    i = i + 1
  end
end

local words = {['true'] = true, ['false'] = false, null = dict.none}

function read_value(s, i, depth)
  if depth > MAX_DEPTH then fault('JSON: nested deeper than %d', MAX_DEPTH) end
  left = left - 1
  if left < 0 then
    fault('JSON: too many values: what stands behind byte %d is more than is read; split the file', i - 1)
  end
  i = skip(s, i)
  local c = s:sub(i, i)
  if c == '{' then return read_object(s, i, depth + 1) end
  if c == '[' then return read_list(s, i, depth + 1) end
  if c == '"' then return read_string(s, i) end
  local number = s:match('^-?%d+%.?%d*[eE]?[+-]?%d*', i)
  if number then
    return tonumber(number) or fault("JSON: '%s' at %d is not a number", bytes.shown(number), i - 1), i + #number
  end
  local word = s:match('^%a+', i)
  if word and words[word] ~= nil then return words[word], i + #word end
  fault('JSON: no value at %d', i - 1)
end

-- The value that the text s is. max_cost: bounds memory and time, see MAX_COST.
function M.decode(s, max_cost)
  left = max_cost or MAX_COST
  local value, i = read_value(s, 1, 1)
  i = skip(s, i)
  if i <= #s then fault('JSON: more text after the value, at %d', i - 1) end
  return value
end

-- -- Writing --------------------------------------------------------------------------------------

local names = {['"'] = '\\"', ['\\'] = '\\\\', ['\n'] = '\\n', ['\r'] = '\\r', ['\t'] = '\\t'}

local function quoted(s)
  return '"' .. s:gsub('[%c"\\]', function(c) return names[c] or ('\\u%04x'):format(c:byte()) end) .. '"'
end

local function write(v, out, depth)
  if depth > MAX_DEPTH then fault('JSON: nested deeper than %d (or in itself)', MAX_DEPTH) end
  if v == dict.none then out[#out + 1] = 'null'
  elseif type(v) == 'string' then out[#out + 1] = quoted(v)
  elseif type(v) == 'boolean' then out[#out + 1] = tostring(v)
  elseif type(v) == 'number' then
    if v ~= v or v == math.huge or v == -math.huge then fault('JSON: %s can not be written', tostring(v)) end
    out[#out + 1] = v == math.floor(v) and math.abs(v) < 2 ^ 53 and ('%.0f'):format(v) or ('%.17g'):format(v)
  elseif opaque.is(v) then fault('JSON: %s can not be written', opaque.text(v))
  elseif type(v) ~= 'table' then fault('JSON: a %s can not be written', type(v))
  elseif not dict.is(v) and (#v > 0 or next(v) == nil) then
    out[#out + 1] = '['
    for i = 1, #v do
      if i > 1 then out[#out + 1] = ',' end
      write(v[i], out, depth + 1)
    end
    out[#out + 1] = ']'
  else
    local between = '{'
    if dict.size(v) == 0 then out[#out + 1] = between end
    for k, x in dict.items(v) do
      out[#out + 1] = between .. quoted(tostring(k)) .. ':'
      write(x, out, depth + 1)
      between = ','
    end
    out[#out + 1] = '}'
  end
end

-- A value as JSON text: dicts and tables with names as objects, lists as arrays, dlv3.none as null.
function M.encode(v)
  local out = {}
  write(v, out, 1)
  return table.concat(out)
end

return M
