-- inspect.lua - values as the REPL prints them: tensors whole or summarised, tables readable,
-- nothing without end.

local F = require 'dlv3.core.ffi'
local C = F.C

local M = {}

local list_most, width = 30, 100

-- "[f32 cpu 2x3]": a tensor inside of a table.
local function brief(t)
  if C.dlv3_tensor_released(t.p) == 1 then return '[released]' end
  local sizes = t:size()
  return ('[%s %s %s]'):format(t.dtype, t.device, sizes[1] and table.concat(sizes, 'x') or 'scalar')
end

local function is_name(k) return type(k) == 'string' and k:find '^[%a_][%w_]*$' ~= nil end

local function key_text(k)
  if is_name(k) then return k end
  return type(k) == 'string' and '["' .. k .. '"]' or '[' .. tostring(k) .. ']'
end

local function string_text(s)
  return "'" .. s:gsub('[%c\\\']', {['\n'] = '\\n', ['\t'] = '\\t', ['\r'] = '\\r', ['\\'] = '\\\\', ["'"] = "\\'"})
      .. "'"
end

local function function_text(f)
  local info = debug.getinfo(f, 'S')
  if info.what == 'C' then return 'function (built in)' end
  return ('function (%s:%d)'):format(F.short(info.source), info.linedefined)
end

-- Array part first, then names in alphabetical order.
local function sorted_keys(t)
  local keys, n = {}, #t
  for k in pairs(t) do
    if not (type(k) == 'number' and k >= 1 and k <= n and k == math.floor(k)) then keys[#keys + 1] = k end
  end
  table.sort(keys, function(a, b)
    if type(a) ~= type(b) then return type(a) < type(b) end
    if type(a) == 'number' or type(a) == 'string' then return a < b end
    return tostring(a) < tostring(b)
  end)
  return keys, n
end

local text

local function dict_parts(d, depth, seen, most)
  local parts, more = {}, 0
  for k, v in require 'dlv3.core.dict'.items(d) do
    if #parts < most then parts[#parts + 1] = key_text(k) .. ' = ' .. text(v, depth + 1, seen) else more = more + 1 end
  end
  return parts, more
end

local function table_parts(t, depth, seen, most)
  local keys, n = sorted_keys(t)
  local parts = {}
  for i = 1, math.min(n, most) do parts[i] = text(rawget(t, i), depth + 1, seen) end
  for _, k in ipairs(keys) do
    if #parts >= most then break end
    parts[#parts + 1] = key_text(k) .. ' = ' .. text(rawget(t, k), depth + 1, seen)
  end
  return parts, n + #keys - #parts
end

local function is_dict(t)
  local dict = package.loaded['dlv3.core.dict']
  return type(dict) == 'table' and dict.is and dict.is(t)
end

local function table_text(t, depth, seen)
  if seen[t] then return '{...}' end
  local mt = getmetatable(t)
  local dict = is_dict(t)
  if not dict and type(mt) == 'table' and rawget(mt, '__tostring') then return tostring(t) end
  if depth >= 4 then return '{...}' end
  seen[t] = true
  local parts, more = (dict and dict_parts or table_parts)(t, depth, seen, depth == 0 and 200 or list_most)
  seen[t] = nil
  if more > 0 then parts[#parts + 1] = ('... %d more'):format(more) end
  local line = '{' .. table.concat(parts, ', ') .. '}'
  if #line <= width and not line:find '\n' then return line end
  local indent = (' '):rep(2 * depth + 2)
  return '{\n' .. indent .. table.concat(parts, ',\n' .. indent) .. '\n' .. (' '):rep(2 * depth) .. '}'
end

function text(v, depth, seen)
  if F.is_tensor(v) then return depth == 0 and tostring(v) or brief(v) end
  if type(v) == 'string' then return string_text(v) end
  if type(v) == 'table' then return table_text(v, depth, seen) end
  if type(v) == 'function' then return function_text(v) end
  return tostring(v)
end

-- Any value as text, without a newline at the end.
function M.text(v) return text(v, 0, {}) end

return M
