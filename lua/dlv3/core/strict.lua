-- strict.lua - reading or writing a global that nobody declared is an error: a misspelt name is
-- found at its line.
--
-- On in scripts and tests. A global is declared by rawset(_G, name, value), or, in the REPL, by
-- assigning it.

local suggest = require 'dlv3.core.suggest'

local M = {open = false, offered = {}, lost = {}} -- lost: names of locals of earlier lines of the REPL

-- Modules by the names under which the REPL knows them; a script requires them.
M.modules = {dlv3 = 'dlv3', nn = 'dlv3.nn', optim = 'dlv3.optim', data = 'dlv3.data', image = 'dlv3.vision.image',
             models = 'models'}

local function names()
  local list = {}
  for name in pairs(_G) do list[#list + 1] = name end
  for name in pairs(M.offered) do list[#list + 1] = name end
  return list
end

local function check(name, what)
  local module = M.modules[name]
  local hint = module and (" (local %s = require '%s')"):format(name, module) or suggest.text(tostring(name), names())
  if M.lost[name] then hint = (' (a local ends with its line here: %s = ...)'):format(name) end
  if what == 'sets' and not module then hint = (' (local %s = ...)'):format(tostring(name)) end
  error(('%s a variable that was never declared: %s%s'):format(what, tostring(name), hint), 3)
end

setmetatable(_G, {
  __index = function(t, name)
    local module = M.offered[name]
    if module then
      local value = require(module)
      rawset(t, name, value)
      return value
    end
    check(name, 'reads')
  end,
  __newindex = function(t, name, value)
    -- C code and chunks typed by the user (open) may declare
    if M.open or debug.getinfo(2, 'S').what == 'C' then rawset(t, name, value)
    else check(name, 'sets') end
  end,
})

-- Globals that are modules, loaded on first use: {dlv3 = 'dlv3', nn = 'dlv3.nn'}. For -e and the
-- REPL.
function M.offer(modules)
  for name, module in pairs(modules) do M.offered[name] = module end
end

return M
