-- plot.lua - line plots with axes, ticks and a legend, and groups of bars, as PNG.

local cairo = require 'dlv3.vision.cairo'
local image = require 'dlv3.vision.image'

local M = {}

local colors = {
  {0.12, 0.36, 0.71}, {0.84, 0.37, 0.05}, {0.17, 0.55, 0.2}, {0.7, 0.12, 0.2}, {0.45, 0.3, 0.65}, {0.35, 0.35, 0.35},
  {0.75, 0.6, 0.1}, {0.2, 0.6, 0.65},
}

-- Steps of 1, 2 or 5 times a power of ten, about n of them from low to high.
local function ticks(low, high, n)
  local raw = (high - low) / n
  local power = 10 ^ math.floor(math.log10(raw))
  local step = power * 10
  for _, k in ipairs {1, 2, 5} do
    if power * k >= raw then step = power * k break end
  end
  local list, first = {}, math.ceil(low / step - 1e-9)
  for i = first, math.floor(high / step + 1e-9) do list[#list + 1] = i * step end
  return list, step
end

local function tick_text(v, step)
  if v == 0 then return '0' end
  if math.abs(step) < 1e-3 or math.abs(v) >= 1e6 then return ('%.1e'):format(v):gsub('e([+-])0*', 'e%1') end
  local digits = math.max(0, -math.floor(math.log10(step) + 1e-9))
  return (('%%.%df'):format(digits)):format(v)
end

local function range(series, key)
  local low, high = math.huge, -math.huge
  for _, s in ipairs(series) do
    for _, v in ipairs(s[key]) do
      if v == v and math.abs(v) < math.huge then low, high = math.min(low, v), math.max(high, v) end
    end
  end
  if low > high then low, high = 0, 1 end
  if low == high then low, high = low - 0.5, high + 0.5 end
  return low, high
end

-- options: title, x_label, y_label, y_min, y_max, width, height; series: {{name =, x = {...}, y =
-- {...}}, ...}; nan breaks a line. Returns u8 [3,h,w].
function M.draw(series, options)
  options = options or {}
  local width, height = options.width or 800, options.height or 480
  local left, right, top, bottom = 78, 20, 44, 56
  local canvas = cairo.canvas(width, height)
  local x0, x1 = range(series, 'x')
  local y0, y1 = range(series, 'y')
  y0, y1 = options.y_min or y0, options.y_max or y1 + (y1 - y0) * 0.04
  local function px(x) return left + (x - x0) / (x1 - x0) * (width - left - right) end
  local function py(y) return height - bottom - (y - y0) / (y1 - y0) * (height - top - bottom) end
  local grey, light = {0.25, 0.25, 0.25}, {0.87, 0.87, 0.87}
  local list, step = ticks(y0, y1, 6)
  for _, v in ipairs(list) do
    canvas:line({left, py(v), width - right, py(v)}, light)
    canvas:text(left - 8, py(v) + 4, tick_text(v, step), 12, grey, 1)
  end
  list, step = ticks(x0, x1, 8)
  for _, v in ipairs(list) do
    canvas:line({px(v), height - bottom, px(v), height - bottom + 5}, grey)
    canvas:text(px(v), height - bottom + 20, tick_text(v, step), 12, grey, 0.5)
  end
  canvas:line({left, top, left, height - bottom, width - right, height - bottom}, grey, 1.2)
  if options.title then canvas:text(width / 2, 22, options.title, 15, {0, 0, 0}, 0.5) end
  if options.x_label then canvas:text((left + width - right) / 2, height - 14, options.x_label, 13, grey, 0.5) end
  if options.y_label then canvas:text(20, (top + height - bottom) / 2, options.y_label, 13, grey, 0.5, true) end
  local legend = left + 12
  for i, s in ipairs(series) do
    local c, points = colors[(i - 1) % #colors + 1], {}
    for k, x in ipairs(s.x) do
      local y = s.y[k]
      if y == y then points[#points + 1], points[#points + 2] = px(x), py(math.max(y0, math.min(y1, y)))
      elseif #points > 0 then
        canvas:line(points, c, 1.8)
        points = {}
      end
    end
    if #points == 2 then
      canvas:area(points[1] - 2.5, points[2] - 2.5, 5, 5, c)
    elseif #points > 2 then
      canvas:line(points, c, 1.8)
    end
    if s.name then
      canvas:line({legend, top - 8, legend + 18, top - 8}, c, 3)
      canvas:text(legend + 24, top - 4, s.name, 12, grey)
      legend = legend + 24 + canvas:text_width(s.name, 12) + 22
    end
  end
  return canvas:tensor()
end

-- -- Bars -----------------------------------------------------------------------------------------

-- A colour for each name, in the order in which they occur.
local function colors_of(groups)
  local list, of = {}, {}
  for _, group in ipairs(groups) do
    for _, bar in ipairs(group.bars) do
      if not of[bar.name] then
        list[#list + 1] = bar.name
        of[bar.name] = colors[(#list - 1) % #colors + 1]
      end
    end
  end
  return of, list
end

local function legend(canvas, names, of, x, y)
  local left = x
  for _, name in ipairs(names) do
    local width = 15 + canvas:text_width(name, 12)
    if x + width > canvas.width - 10 then x, y = left, y + 18 end
    canvas:area(x, y - 9, 10, 10, of[name])
    canvas:text(x + 15, y, name, 12, {0.25, 0.25, 0.25})
    x = x + width + 18
  end
end

-- Horizontal bars in groups: {{name =, bars = {{name =, value =, text = (the value)}, ...}}, ...}.
-- options: title, width, mark (a line across all), x_max. Returns u8 [3,h,w].
function M.draw_bars(groups, options)
  options = options or {}
  local width, left, right, top, bar_height = options.width or 900, 300, 60, 84, 13
  local height, most = top + 34, options.x_max or 0
  for _, group in ipairs(groups) do
    height = height + #group.bars * bar_height + 12
    for _, bar in ipairs(group.bars) do most = options.x_max or math.max(most, bar.value) end
  end
  if most <= 0 then most = 1 end
  local canvas = cairo.canvas(width, height)
  local grey, light = {0.25, 0.25, 0.25}, {0.87, 0.87, 0.87}
  local of, names = colors_of(groups)
  local function px(v) return left + v / most * (width - left - right) end
  local list, step = ticks(0, most, 6)
  for _, v in ipairs(list) do
    canvas:line({px(v), top - 6, px(v), height - 28}, light)
    canvas:text(px(v), height - 12, tick_text(v, step), 12, grey, 0.5)
  end
  local y = top
  for _, group in ipairs(groups) do
    canvas:text(left - 10, y + #group.bars * bar_height / 2 + 4, group.name, 12, grey, 1)
    for _, bar in ipairs(group.bars) do
      canvas:area(left, y + 1, px(bar.value) - left, bar_height - 2, of[bar.name])
      canvas:text(px(bar.value) + 4, y + bar_height - 3, bar.text or ('%.2f'):format(bar.value), 10, grey)
      y = y + bar_height
    end
    y = y + 12
  end
  if options.mark then canvas:line({px(options.mark), top - 6, px(options.mark), height - 28}, grey, 1, 4) end
  if options.title then canvas:text(width / 2, 22, options.title, 15, {0, 0, 0}, 0.5) end
  legend(canvas, names, of, 20, 48)
  return canvas:tensor()
end

-- Draws bars (draw_bars) to a PNG at path.
function M.write_bars(path, groups, options) image.write_png(path, M.draw_bars(groups, options)) end

-- Draws curves (draw) to a PNG at path.
function M.write(path, series, options) image.write_png(path, M.draw(series, options)) end

return M
