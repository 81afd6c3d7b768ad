-- finite.lua - whether the weights of a model are numbers.

local F = require 'dlv3.core.ffi'
local dict = require 'dlv3.core.dict'
local tensor = require 'dlv3.core.tensor'

local M = {}

-- tensors: all on one device.
local function holds_non_finite(tensors)
  if #tensors == 0 then return false end
  local found = tensor.zeros({}, {device = tensors[1].device})
  for _, t in ipairs(tensors) do found:amp_non_finite_check_(t) end
  return found:item() ~= 0
end

local function is_float(t) return t.dtype:find 'f' ~= nil end

-- Which tensors of a model hold nan or infinity, as text, "2 of its tensors (conv.weight, ...)";
-- nil: none.
function M.non_finite(model)
  local floats, names = {}, {}
  for _, t in dict.items(model:state_dict()) do
    if is_float(t) then floats[#floats + 1] = t end
  end
  if not holds_non_finite(floats) then return nil end
  for name, t in dict.items(model:state_dict()) do
    if is_float(t) and holds_non_finite{t} then names[#names + 1] = name end
  end
  local some = table.concat(names, ', ', 1, math.min(#names, 4))
  return ('%d of its tensors (%s%s)'):format(#names, some, #names > 4 and ', ...' or '')
end

-- Raises where weights of a model, from the file at path, are not numbers: they would make every
-- picture background.
function M.check_finite(model, path)
  local bad = M.non_finite(model)
  if not bad then return end
  F.raise(('%s: nan or infinity in %s; the training that made it diverged: take an earlier checkpoint, or train '
           .. 'again with a smaller --lr'):format(path, bad))
end

return M
