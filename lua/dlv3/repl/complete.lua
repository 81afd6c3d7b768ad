-- complete.lua - what Tab offers in the REPL: globals, fields, members of modules, tensor methods,
-- op names after ?, files inside of quotes. Nothing the user wrote is run for it: no calls, no
-- __index functions.

local F = require 'dlv3.core.ffi'
local strict = require 'dlv3.core.strict'
local C = F.C

local M = {}

local keywords = {
  'and', 'break', 'do', 'else', 'elseif', 'end', 'false', 'for', 'function', 'if', 'in', 'local', 'nil', 'not', 'or',
  'repeat',
  'return', 'then', 'true', 'until', 'while',
}

-- Methods and properties of tensors; the gradients of ops are there but rarely meant.
local function tensor_names(names, calls_only)
  local tensor = require 'dlv3.core.tensor'
  for name in pairs(tensor.methods) do
    if not name:find '_backward' then names[name] = true end
  end
  if not calls_only then for name in pairs(tensor.properties) do names[name] = true end end
end

-- The names of value's fields; calls_only: after a colon.
local function field_names(value, names, calls_only, depth)
  if F.is_tensor(value) then return tensor_names(names, calls_only) end
  if type(value) == 'string' then value = string end
  if type(value) ~= 'table' then return end
  for k, v in pairs(value) do
    if type(k) == 'string' and k:find '^[%a_][%w_]*$' and (not calls_only or type(v) == 'function') then
      names[k] = true
    end
  end
  local mt = getmetatable(value)
  local index = type(mt) == 'table' and rawget(mt, '__index')
  if type(index) == 'table' and depth < 8 then field_names(index, names, calls_only, depth + 1) end
  local listed = type(mt) == 'table' and rawget(mt, '__names') -- a module that loads its members when they are used
  for _, name in ipairs(type(listed) == 'table' and listed or {}) do names[name] = true end
end

local function global(name)
  local value = rawget(_G, name)
  if value == nil and strict.offered[name] then
    local ok, module = pcall(function() return _G[name] end)
    value = ok and module or nil
  end
  return value
end

local function raw_field(value, name)
  for _ = 1, 8 do
    if type(value) ~= 'table' then return nil end
    local found = rawget(value, name)
    if found ~= nil then return found end
    local mt = getmetatable(value)
    value = type(mt) == 'table' and rawget(mt, '__index') or nil
  end
end

-- The value of "a.b.c", looked up without running anything; nil where that is not possible.
local function resolve(path)
  local value
  for name in path:gmatch '[^%.]+' do
    if value == nil then value = global(name) else value = raw_field(value, name) end
    if value == nil then return nil end
  end
  return value
end

local function global_names(names)
  for name in pairs(_G) do if type(name) == 'string' then names[name] = true end end
  for name in pairs(strict.offered) do names[name] = true end
end

local function matching(names, word)
  local list = {}
  local hidden = word:sub(1, 1) ~= '_'
  for name in pairs(names) do
    if name:sub(1, #word) == word and not (hidden and name:sub(1, 1) == '_') then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

local function file_names(word)
  local folder, start = word:match '^(.*/)([^/]*)$'
  if not folder then folder, start = '', word end
  local path = folder == '' and '.' or folder
  if path:sub(1, 2) == '~/' then path = (os.getenv 'HOME' or '~') .. path:sub(2) end
  local out = F.new 'char *[1]'
  if C.dlv3_list_dir(out, path) ~= C.DLV3_OK then return 0, {} end
  local list = {}
  for name in F.string(out[0]):gmatch '[^\n]+' do
    if name:sub(1, #start) == start and (start ~= '' or name:sub(1, 1) ~= '.') then
      list[#list + 1] = C.dlv3_path_kind(path .. '/' .. name) == 2 and name .. '/' or name
    end
  end
  C.dlv3_text_free(out[0])
  return #start, list
end

-- The text of an open string at the end of line, or nil.
local function open_string(line)
  local quote, from
  for i = 1, #line do
    local c = line:sub(i, i)
    if quote then if c == quote and line:sub(i - 1, i - 1) ~= '\\' then quote = nil end
    elseif c == '"' or c == "'" then quote, from = c, i + 1 end
  end
  return quote and line:sub(from) or nil
end

-- The line up to the cursor -> how many bytes of it are to be completed, and what they may become.
function M.complete(line)
  if line:find '^%s*%?' then
    local names, word = {}, line:match '([%w_%.]*)$'
    if not word:find('.', 1, true) then
      tensor_names(names)
      global_names(names)
      return #word, matching(names, word)
    end
  end
  local quoted = open_string(line)
  if quoted then return file_names(quoted) end
  local names = {}
  local base, mark, word = line:match '([%a_][%w_%.]*)([%.:])([%w_]*)$'
  if base and not line:sub(1, #line - #base - #mark - #word):find '[%.:%)%]]%s*$' then
    field_names(resolve(base), names, mark == ':', 0)
    return #word, matching(names, word)
  end
  -- the result of something: most likely a tensor
  word = line:match '[%)%]}]%s*[%.:]([%w_]*)$' or line:match '[%.:]([%w_]*)$'
  if word and not line:find '%.%.[%w_]*$' then
    tensor_names(names, line:sub(-#word - 1, -#word - 1) == ':')
    return #word, matching(names, word)
  end
  word = line:match '([%a_][%w_]*)$'
  if not word then return 0, {} end
  global_names(names)
  for _, k in ipairs(keywords) do names[k] = true end
  return #word, matching(names, word)
end

return M
