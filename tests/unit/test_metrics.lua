-- test_metrics.lua - figures of a confusion matrix, their formats, absent classes; plots and
-- overlays.

local dlv3 = require 'dlv3'
local metrics = require 'dlv3.vision.metrics'

return function(t)
  local function confusion(prediction, target, n)
    local c = metrics.confusion(n)
    c:update(dlv3.tensor({prediction}, {dtype = 'u8'}), dlv3.tensor({target}, {dtype = 'u8'}))
    return c:compute()
  end

  t.case('the figures of a small matrix', function()
    local r = confusion({{0, 1, 1, 2}, {0, 0, 1, 2}}, {{0, 1, 0, 255}, {0, 1, 1, 2}}, 3)
    t.close(r.correct, 5 / 7 * 100, 1e-6)
    t.close(r.rows, {200 / 3, 200 / 3, 100}, 1e-6)
    t.close(r.ious, {50, 50, 100}, 1e-6)
    t.close(r.mean, 200 / 3, 1e-6)
    t.eq(metrics.reference_text(r), "global correct: 71.4\naverage row correct: ['66.7', '66.7', '100.0']\nIoU: "
                                    .. "['50.0', '50.0', '100.0']\nmean IoU: 66.7")
  end)

  t.case('a class that does not occur is nan to the reference and left out of ours', function()
    local r = confusion({{0, 0, 1, 1}}, {{0, 0, 1, 0}}, 3)
    t.ok(r.mean ~= r.mean)
    t.eq(r.present, 2)
    t.close(r.mean_present, (200 / 3 + 50) / 2, 1e-6)
    t.ok(metrics.reference_text(r):find "'nan'%]\nmean IoU: nan$")
    t.ok(metrics.table_text(r, {'ground', 'cat', 'dog'}):find 'dog +%- +%- +absent')
  end)

  t.case('counts beyond f32 stay exact in the matrix', function()
    local c = metrics.confusion(2)
    for _ = 1, 3 do c:update(dlv3.ones({1, 100, 100}, {dtype = 'u8'}), dlv3.ones({1, 100, 100}, {dtype = 'u8'})) end
    t.eq(c.hist:totable(), {{0, 0}, {0, 30000}})
  end)

  local function cairo_or_skip()
    local ok, plot = pcall(require, 'dlv3.vision.plot')
    if not ok then t.skip(plot) end
    return plot
  end

  t.case('a plot is a picture with a line in it', function()
    local plot = cairo_or_skip()
    local picture = plot.draw({{name = 'a', x = {0, 1, 2}, y = {0, 1, 0 / 0}}},
                              {title = 'title', width = 300, height = 200})
    t.eq(picture:size(), {3, 200, 300})
    t.ok(picture:min():item() < 60 and picture:max():item() == 255)
    plot.draw({{x = {0}, y = {5}}}, {}) -- one point, no range
    plot.draw({}, {})
  end, {leaks = true})

  t.case('bars', function()
    local plot = cairo_or_skip()
    local groups = {{name = 'one', bars = {{name = 'a', value = 1}, {name = 'b', value = 3, text = 'three'}}},
                    {name = 'two', bars = {{name = 'b', value = 2}}}}
    local picture = plot.draw_bars(groups, {title = 'title', mark = 1, width = 600})
    t.eq(picture:size(3), 600)
    local function pixels(color) -- of a's and b's colour, in the place of the bars
      local n, inside = 0, picture:narrow(2, 84, picture:size(2) - 84 - 34)
      local r, g, b = inside[1]:totable(), inside[2]:totable(), inside[3]:totable()
      for y = 1, #r do
        for x = 1, #r[y] do
          local far = math.abs(r[y][x] - color[1]) + math.abs(g[y][x] - color[2]) + math.abs(b[y][x] - color[3])
          if far <= 3 then n = n + 1 end
        end
      end
      return n
    end
    local a, b = pixels{31, 92, 181}, pixels{214, 94, 13}
    t.ok(a > 500 and b > 4.5 * a and b < 5.5 * a, a .. ' ' .. b)
    plot.draw_bars({}, {})
  end, {leaks = true})

  t.case('an overlay has the photo, the paint and a legend', function()
    cairo_or_skip()
    local overlay = require 'dlv3.vision.overlay'
    local photo = dlv3.full({3, 40, 60}, 100, {dtype = 'u8'})
    local mask = dlv3.zeros({40, 60}, {dtype = 'u8'})
    mask[{{1, 10}, {}}] = 1
    local picture = overlay.draw(photo, mask, {'ground', 'aeroplane'})
    t.eq(picture:size(1), 3)
    t.eq(picture:size(3), 60)
    t.ok(picture:size(2) > 40)
    t.eq(picture[{{}, 30, 30}]:totable(), {100, 100, 100})
    t.ok(picture[{1, 5, 30}]:item() > picture[{2, 5, 30}]:item())
    t.eq(overlay.draw(photo, mask * 0):size(2), 40) -- nothing found: no legend
  end, {leaks = true})
end
