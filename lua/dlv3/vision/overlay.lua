-- overlay.lua - a photo with its classes painted over it, and a legend of those that occur.

local F = require 'dlv3.core.ffi'
local image = require 'dlv3.vision.image'
local cairo = require 'dlv3.vision.cairo'

local M = {}

-- photo u8 [3,h,w], mask u8 [h,w] -> u8 [3,h + legend,w]. names[i]: of class i - 1; strength: of
-- the paint, 0..1.
function M.draw(photo, mask, names, strength)
  strength = strength or 0.55
  local h, w = photo:size(2), photo:size(3)
  local plane = h * w
  local photo_bytes, mask_bytes = photo:tobytes(), mask:tobytes() -- strings: kept while the pointers are used
  local p, m = F.cast('const uint8_t *', photo_bytes), F.cast('const uint8_t *', mask_bytes)
  local red, green, blue, counts = F.new 'uint8_t[256]', F.new 'uint8_t[256]', F.new 'uint8_t[256]',
      F.new 'int32_t[256]'
  for i = 0, 255 do red[i], green[i], blue[i] = image.voc_color(i) end
  for i = 0, plane - 1 do counts[m[i]] = counts[m[i]] + 1 end

  local classes = {}
  for i = 1, 255 do if counts[i] > 0 then classes[#classes + 1] = i end end
  local size = math.max(11, math.floor(w / 40))
  local line = size + 8
  local places, x, rows = {}, 6, #classes > 0 and 1 or 0
  local measure = cairo.canvas(1, 1)
  for _, i in ipairs(classes) do
    local label = ('%s  %.1f%%'):format(names and names[i + 1] or 'class ' .. i, counts[i] / plane * 100)
    local width = size + 6 + measure:text_width(label, size) + 14
    if x + width > w and x > 6 then x, rows = 6, rows + 1 end
    places[#places + 1] = {i, label, x, rows}
    x = x + width
  end

  local canvas = cairo.canvas(w, h + rows * line)
  canvas:pixels(w, h, function(px, py)
    local at = py * w + px
    local i = m[at]
    if i == 0 or i == 255 then return p[at], p[plane + at], p[2 * plane + at] end
    return p[at] * (1 - strength) + red[i] * strength, p[plane + at] * (1 - strength) + green[i] * strength,
        p[2 * plane + at] * (1 - strength) + blue[i] * strength
  end)
  for _, place in ipairs(places) do
    local i, label, left, row = unpack(place)
    local top = h + (row - 1) * line + 4
    canvas:area(left, top, size, size, {red[i] / 255, green[i] / 255, blue[i] / 255})
    canvas:text(left + size + 6, top + size - 2, label, size)
  end
  return canvas:tensor()
end

return M
