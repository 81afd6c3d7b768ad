-- path.lua - where in a model the program is: the names of the modules being called, outermost first.
--
-- Module.__call pushes and pops; the text goes into error messages ("in backbone.layer2.1.conv1"). An error unwinds
-- past the pops, so whoever catches it (the REPL, a test, no_grad) puts the depth back with path.reset.

local path = {}

local names, depth = {}, 0

function path.push(name)
  depth = depth + 1
  names[depth] = name
end

function path.pop()
  names[depth] = nil
  depth = depth - 1
end

function path.depth() return depth end

-- Forgets everything pushed since depth was d (default: all).
function path.reset(d)
  d = d or 0
  for i = depth, d + 1, -1 do names[i] = nil end
  if depth > d then depth = d end
end

-- "backbone.layer2.1.conv1", or nil outside of any module. Names of "" (the outermost module) are left out.
function path.text()
  local parts = {}
  for i = 1, depth do
    if names[i] ~= '' then parts[#parts + 1] = names[i] end
  end
  return parts[1] and table.concat(parts, '.') or nil
end

return path
