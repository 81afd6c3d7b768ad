-- module_path.lua - where in a model the program is: the modules being called, outermost first.
--
-- Module.__call pushes and, on the way back, resets; the text goes into error messages ("in
-- backbone.layer2.1.conv1"). Names are looked up only when a message needs them: a module's name is
-- its place below the module that called it. An error unwinds past the resets. Whoever catches it
-- (the REPL, a test, no_grad) puts the depth back; what others leave behind is recognised by its
-- call not being on Lua's stack any more.

local module_path = {}

local stack, depth = {}, 0

-- Enters a module; returns the depth to reset to.
function module_path.push(module)
  depth = depth + 1
  stack[depth] = module
  return depth - 1
end

-- The number of modules that are being called now, to pass to reset.
function module_path.depth() return depth end

-- Forgets everything pushed since depth was d (default: all).
function module_path.reset(d)
  d = d or 0
  for i = depth, d + 1, -1 do stack[i] = nil end
  if depth > d then depth = d end
end

-- The name of a module as seen from the one that called it, or nil where it is no part of that.
local function name_within(outer, module) return outer:path_to(module) end

-- How many calls of modules are going on: module_path.frame is the function they pass through.
local function live_calls()
  local n = 0
  for level = 3, 250 do
    local info = debug.getinfo(level, 'f')
    if not info then break end
    if info.func == module_path.frame then n = n + 1 end
  end
  return math.min(n, depth)
end

-- "backbone.layer2.1.conv1", or nil outside of any module. The outermost is the model itself and
-- has no name, unless it was called as a part of a larger one.
function module_path.text()
  local text
  local first = depth - live_calls() + 1
  for i = depth, first, -1 do
    local name = i > first and name_within(stack[i - 1], stack[i])
    local outermost = not name
    if outermost then name = rawget(stack[i], '_name') or '' end
    if name ~= '' then text = text and name .. '.' .. text or name end
    if outermost then break end
  end
  return text
end

return module_path
