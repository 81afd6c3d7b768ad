-- help.lua - `?name` in the REPL. Ops are described from the op table, everything else from the
-- comment above its definition: what is written in the source once is the manual.

local F = require 'dlv3.core.ffi'
local call = require 'dlv3.core.call'
local docs = require 'dlv3.core.docs'
local suggest = require 'dlv3.core.suggest'
local tensor = require 'dlv3.core.tensor'
local text = require 'dlv3.core.text'
local C = F.C

require 'dlv3' -- attaches backward and others

local M = {}

-- -- Ops ------------------------------------------------------------------------------------------

local kinds = {
  pair = 'a number or {h, w}', dims = 'sizes', axes = 'axes, from 1', axis = 'an axis, from 1',
  position = 'a position, from 1',
  int = 'a whole number', real = 'a number', bool = 'true or false', dtype = 'a dtype',
  act = 'none, relu, relu6, hardswish or hardsigmoid',
}

local function wrap(paragraph, indent)
  local lines, line = {}, ''
  for word in paragraph:gmatch '%S+' do
    if #line > 0 and #line + #word + 1 > 100 then lines[#lines + 1], line = line, '' end
    line = #line > 0 and line .. ' ' .. word or word
  end
  lines[#lines + 1] = line
  return indent .. table.concat(lines, '\n' .. indent)
end

local function call_form(op)
  local args, first = {}, op.inputs[1]
  for i = op.variadic and 1 or 2, #op.inputs do
    local input = op.inputs[i]
    if input.name ~= 'rng' then args[#args + 1] = input.optional and '[' .. input.name .. ']' or input.name end
  end
  if #op.attrs > 0 then args[#args + 1] = '{' .. call.attrs_text(op) .. '}' end
  local results = {}
  for _, output in ipairs(op.outputs) do if not output.hidden then results[#results + 1] = output.name end end
  local on = op.variadic and 'dlv3.' or first.name .. ':'
  return ('%s%s(%s)%s'):format(on, op.name, table.concat(args, ', '),
                               results[1] and ' -> ' .. table.concat(results, ', ') or '')
end

local function op_text(op)
  local lines = {call_form(op), wrap(op.doc, '  ')}
  local rows = {}
  for _, a in ipairs(op.attrs) do
    rows[#rows + 1] = {'    ' .. a.name, kinds[a.kind] or a.kind,
                       a.text == 'REQUIRED' and 'must be given' or 'default ' .. a.text}
  end
  if rows[1] then lines[#lines + 1] = text.columns(rows, 'lll'):gsub('\n$', '') end
  local notes = {op.grad and 'has a gradient' or 'no gradient'}
  if op.view then notes[#notes + 1] = 'a view where it can be' end
  local impls = op.view and '' or F.string(C.dlv3_op_impls(op.id, 0))
  if impls ~= '' then notes[#notes + 1] = 'on the cpu by ' .. impls:gsub(' ', ', ') end
  lines[#lines + 1] = '  ' .. table.concat(notes, '; ') .. '.  Table: ' .. op.signature
  return table.concat(lines, '\n')
end

-- -- Source ---------------------------------------------------------------------------------------

local function lines_of(path)
  local file = io.open(path)
  if not file then return nil end
  local lines = {}
  for line in file:lines() do lines[#lines + 1] = line end
  file:close()
  return lines
end

local function uncomment(line) return (line:gsub('^%s*%-%- ?', '  ')) end

-- The function's first line and the comment right above it, or what describes it (docs.lua).
local function function_text(name, f)
  local described = docs.text_of(f)
  if described then return name .. '\n' .. wrap(described, '  ') end
  local info = debug.getinfo(f, 'S')
  if info.what == 'C' then return name .. ': a built-in function of Lua' end
  local path = info.source:match '^@(.*)$'
  local lines = path and lines_of(path)
  if not lines then return ('%s: a function without source (%s)'):format(name, F.short(info.source)) end
  local first, out = info.linedefined, {}
  local at = first - 1
  while at > 0 and lines[at]:find '^%s*%-%-' and not lines[at]:find '%-%-%-%-%-' do at = at - 1 end
  local arguments = (lines[first] or ''):match 'function[^%(]*(%b())' or '(...)'
  if name:find ':' then arguments = arguments:gsub('^%(%w+,? ?', '(') end -- the tensor itself
  arguments = arguments:gsub('^%(self,? ?', '(')
  out[1] = name .. arguments
  for i = at + 1, first - 1 do out[#out + 1] = uncomment(lines[i]) end
  out[#out + 1] = ('  %s:%d'):format(F.short(info.source), first)
  return table.concat(out, '\n')
end

-- Where the module whose table this is was loaded from.
local function module_of(value)
  for name, loaded in pairs(package.loaded) do
    if loaded == value and name ~= '_G' then
      local path = package.searchpath and package.searchpath(name, package.path)
      if path then return name, path end
    end
  end
end

local function sorted_names(t)
  local names = {}
  for k in pairs(t) do if type(k) == 'string' and k:sub(1, 1) ~= '_' then names[#names + 1] = k end end
  table.sort(names)
  return names
end

local function table_text(name, value)
  local module, path = module_of(value)
  local out = {name .. (module and ': the module ' .. module or ': a table')}
  for _, line in ipairs(path and lines_of(path) or {}) do
    if not line:find '^%-%-' then break end
    out[#out + 1] = uncomment(line)
  end
  local names = sorted_names(value)
  if names[1] then out[#out + 1] = wrap('has: ' .. table.concat(names, ', '), '  ') end
  return table.concat(out, '\n')
end

-- What is called when a class is: its constructor.
local function constructor(value)
  local mt = getmetatable(value)
  for _, f in ipairs {rawget(value, 'init'), rawget(value, '__init'), rawget(value, 'new'),
                      type(mt) == 'table' and rawget(mt, '__call') or nil} do
    if type(f) == 'function' then return f end
  end
end

local function value_text(name, value)
  if type(value) == 'function' then return function_text(name, value) end
  if F.is_tensor(value) then return name .. ': a tensor ' .. tostring(value):match '%[[^%[%]]*%]$' end
  if type(value) ~= 'table' then return ('%s: a %s, %s'):format(name, type(value), tostring(value)) end
  local make = not module_of(value) and constructor(value)
  return make and function_text(name, make) or table_text(name, value)
end

-- -- Names ----------------------------------------------------------------------------------------

-- Follows a.b.c or x:method from the globals; ok, value.
local function lookup(path)
  local value = _G
  for name in path:gmatch '[^%.:]+' do
    local ok, next_value = pcall(function() return value[name] end)
    if not ok or next_value == nil then return nil end
    value = next_value
  end
  return value
end

local module_names = sorted_names(require 'dlv3.core.strict'.modules)

local function known_names()
  local names = {}
  for name in pairs(tensor.methods) do names[#names + 1] = name end
  for name in pairs(tensor.properties) do names[#names + 1] = name end
  for _, name in ipairs(module_names) do
    names[#names + 1] = name
    local module = lookup(name)
    for member in pairs(type(module) == 'table' and module or {}) do
      if type(member) == 'string' then names[#names + 1] = name .. '.' .. member end
    end
  end
  return names
end

local function overview()
  local ops, out = {}, {}
  for _, op in ipairs(call.ops) do
    if not op.name:find '_backward' then ops[#ops + 1] = op.name end
  end
  out[#out + 1] = 'Modules (they load when they are used):'
  out[#out + 1] = '  dlv3    tensors, autograd, files, memory      dlv3.randn{2, 3}   dlv3.load(path)'
  out[#out + 1] = '  nn      layers and modules of your own         nn.Conv2d(3, 16, 3)'
  out[#out + 1] = '  optim   SGD and learning-rate schedules        data    data sets and the loader'
  out[#out + 1] = '  models  deeplabv3_resnet50 and others          image   reads, resizes and writes pictures'
  out[#out + 1] = 'Ops, as methods of tensors, x:conv2d(w, b, {stride = 2})'
  out[#out + 1] = wrap(table.concat(ops, ' '), '  ')
  local composed = {}
  for name in pairs(tensor.methods) do if not call.ops[name] then composed[#composed + 1] = name end end
  table.sort(composed)
  out[#out + 1] = 'Methods made of them'
  out[#out + 1] = wrap(table.concat(composed, ' '), '  ')
  out[#out + 1] = 'Help on one: ?conv2d  ?dlv3.load  ?nn.Conv2d  ?optim      Tab completes, Ctrl-C stops, Ctrl-D ends'
  return table.concat(out, '\n')
end

-- The text for `?name`; '' gives the overview.
function M.text(name)
  name = name:match '^%s*(.-)%s*%??$'
  if name == '' then return overview() end
  local short = name:match '^[%w_]+$' and name or name:match '^.*[:%.]([%w_]+)$' or name
  local value = lookup(name)
  local op, method = call.ops[short], tensor.methods[short]
  local stands_alone = name == short or name == 'x:' .. short and value == nil
  if value ~= nil and not (op and F.is_tensor(lookup(name:match '^(.*)[:%.]' or '') or 0)) and name ~= short then
    return value_text(name, value)
  end
  if op and (stands_alone or value ~= nil) then return op_text(op) end
  if method and (stands_alone or value ~= nil) then return function_text('x:' .. short, method) end
  if tensor.properties[short] and name == short then
    return ('x.%s: %s; a property of every tensor'):format(short, tensor.property_docs[short])
  end
  if value ~= nil then return value_text(name, value) end
  for _, module in ipairs(name == short and module_names or {}) do -- ?SGD
    local member = lookup(module .. '.' .. name)
    if member ~= nil then return value_text(module .. '.' .. name, member) end
  end
  return ("nothing is called '%s'%s  (? lists what there is)"):format(name, suggest.text(name, known_names()))
end

return M
