-- test_metrics.lua - figures of a confusion matrix, their formats, absent classes; plots and overlays.

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
    t.eq(metrics.reference_text(r), "global correct: 71.4\naverage row correct: ['66.7', '66.7', '100.0']\nIoU: ['50.0', '50.0', '100.0']\nmean IoU: 66.7")
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
    local ok, plot = pcall(require, 'dlv3.plot')
    if not ok then t.skip(plot) end
    return plot
  end

  t.case('a plot is a picture with a line in it', function()
    local plot = cairo_or_skip()
    local picture = plot.draw({{name = 'a', x = {0, 1, 2}, y = {0, 1, 0 / 0}}}, {title = 'title', width = 300, height = 200})
    t.eq(picture:size(), {3, 200, 300})
    t.ok(picture:min():item() < 60 and picture:max():item() == 255)
    plot.draw({{x = {0}, y = {5}}}, {}) -- one point, no range
    plot.draw({}, {})
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
