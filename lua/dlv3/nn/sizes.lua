-- sizes.lua - sizes, strides and paddings of layers: a number, or {height, width}.

local expect = require 'dlv3.core.expect'

local M = {}

-- A number or {h, w} as {h, w}.
function M.pair(v)
  if type(v) == 'table' then return {v[1], v[2]} end
  return {v, v}
end

-- An argument of a layer as {h, w}; name: what messages call it; low: the least value (1).
function M.argument(what, name, v, low) return M.pair(expect.argument(what, name, v, expect.pair(low or 1))) end

-- "3", or "{3, 5}" where the two differ.
function M.text(v)
  if v[1] == v[2] then return tostring(v[1]) end
  return '{' .. v[1] .. ', ' .. v[2] .. '}'
end

-- ", stride = 2": those of the options (by name, as {h, w}) whose text is not their default's.
function M.options_text(o, names, defaults)
  local text = ''
  for i, name in ipairs(names) do
    local shown = M.text(o[name])
    if shown ~= defaults[i] then text = text .. ', ' .. name .. ' = ' .. shown end
  end
  return text
end

return M
