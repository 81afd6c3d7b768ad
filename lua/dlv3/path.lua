-- path.lua - where in a model the program is: the modules being called, outermost first.
--
-- Module.__call pushes and, on the way back, resets; the text goes into error messages ("in backbone.layer2.1.conv1").
-- Names are looked up only when a message needs them: a module's name is its place below the module that called it.
-- An error unwinds past the resets. Whoever catches it (the REPL, a test, no_grad) puts the depth back; entries that
-- were left behind by others are recognised, since what is called after them does not belong to them.

local path = {}

local stack, depth = {}, 0

-- Enters a module (or a name); returns the depth to reset to.
function path.push(module)
  depth = depth + 1
  stack[depth] = module
  return depth - 1
end

function path.depth() return depth end

-- Forgets everything pushed since depth was d (default: all).
function path.reset(d)
  d = d or 0
  for i = depth, d + 1, -1 do stack[i] = nil end
  if depth > d then depth = d end
end

-- The name of an entry as seen from the one before it, or nil where it is no part of that.
local function name_within(outer, entry)
  if type(entry) == 'string' then return entry end
  return type(outer) == 'table' and outer:path_to(entry) or nil
end

-- "backbone.layer2.1.conv1", or nil outside of any module. The outermost is the model itself and has no name, unless
-- it was called as a part of a larger one.
function path.text()
  local text = nil
  for i = depth, 1, -1 do
    local name = i > 1 and name_within(stack[i - 1], stack[i])
    local outermost = not name
    if outermost then name = type(stack[i]) == 'table' and rawget(stack[i], '_name') or type(stack[i]) == 'string' and stack[i] or '' end
    if name ~= '' then text = text and name .. '.' .. text or name end
    if outermost then break end
  end
  return text
end

return path
