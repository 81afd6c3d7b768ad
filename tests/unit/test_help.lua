-- test_help.lua - every public function has a text that ?name prints in the REPL.

local call = require 'dlv3.core.call'
local help = require 'dlv3.repl.help'
local strict = require 'dlv3.core.strict'
local tensor = require 'dlv3.core.tensor'

-- The exported function that a line of source begins, or nil. Metamethods (__tostring, ...) are not
-- called by name.
local function exported(line)
  local name = line:match '^function ([%w_%.]+[%.:][%w_]+)%s*%(' or line:match '^([%w_%.]+%.[%w_]+) = function%f[%W]'
               or line:match '^return function%('
  return name and not name:find '[%.:]__' and name
end

-- Lines of a file that begin an exported function without a comment above, and the number of
-- exported functions.
local function undocumented(path)
  local missing, count, before, number = {}, 0, '', 0
  for line in io.lines(path) do
    number = number + 1
    if exported(line) then
      count = count + 1
      if not before:find '^%-%- ' then missing[#missing + 1] = ('%s:%d: %s'):format(path, number, line) end
    end
    before = line
  end
  return missing, count
end

-- Whether a text of help says more than a name and a place.
local function describes(text)
  local lines = 0
  for line in text:gmatch '[^\n]+' do
    if not line:find '^%s*%S+%.lua:%d+$' then lines = lines + 1 end
  end
  return lines > 1
end

return function(t)
  local root = t.directory .. '/..'

  t.case('every exported function of the library and of the models has a comment above', function()
    local missing, count = {}, 0
    for path in t.run(("find '%s/lua' '%s/models' -name '*.lua'"):format(root, root)):gmatch '[^\n]+' do
      local list, n = undocumented(path)
      for _, entry in ipairs(list) do missing[#missing + 1] = entry end
      count = count + n
    end
    t.ok(count > 400, count)
    t.eq(#missing, 0, table.concat(missing, '\n'))
  end)

  t.case('every method and property of a tensor answers to ?name and ?x:name', function()
    for name in pairs(tensor.methods) do
      t.ok(describes(help.text('x:' .. name)), help.text('x:' .. name))
      if not rawget(_G, name) then t.ok(describes(help.text(name)), help.text(name)) end
    end
    for name in pairs(tensor.properties) do t.ok(help.text(name):find '%a: %a.*; a property of every tensor', name) end
    t.ok(help.text 'x:reshape':find(call.ops.reshape.doc, 1, true))
    t.ok(help.text 'x:vieww':find "nothing is called 'x:vieww'")
  end)

  t.case('every function of the modules that the REPL offers answers to ?module.name', function()
    local checked = 0
    local function check(name, value)
      if type(value) ~= 'function' and not (type(value) == 'table' and rawget(value, 'class_name')) then return end
      checked = checked + 1
      local text = help.text(name)
      t.ok(describes(text), text)
    end
    for short, module in pairs(strict.modules) do
      local value = require(module)
      rawset(_G, short, value)
      for name, member in pairs(value) do check(short .. '.' .. tostring(name), member) end
    end
    for name, fn in pairs(require 'dlv3.nn'.init) do check('nn.init.' .. name, fn) end
    for name, fn in pairs(require 'dlv3.nn'.Module) do check('nn.Module.' .. name, fn) end
    for short in pairs(strict.modules) do rawset(_G, short, nil) end
    t.ok(checked > 90, checked)
  end)
end
