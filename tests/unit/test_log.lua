-- test_log.lua - the lines of training and evaluation, character by character.

local log = require 'dlv3.train.log'
local text = require 'dlv3.core.text'

local function clock(times)
  local i = 0
  return function()
    i = i + 1
    return times[i] or times[#times]
  end
end

return function(t)
  t.case('meters', function()
    local m = log.meter{window = 3}
    for _, v in ipairs {1, 2, 3, 10} do m:update(v) end
    t.eq(tostring(m), '10.0000 (4.0000)')
    t.eq(m:avg(), 5)
    t.eq(m:median(), 3)
    t.eq(m:max(), 10)
    local weighted = log.meter{}
    weighted:update(1, 3)
    weighted:update(5, 1)
    t.eq(weighted:global_avg(), 2)
    local bad = log.meter{}
    bad:update(0 / 0)
    t.eq(tostring(bad), 'nan (nan)')
  end)

  t.case('the line of a training step', function()
    local lines = {}
    -- every look at the clock takes half a second
    local now = -0.5
    local logger = log.logger{write = function(s) lines[#lines + 1] = s end,
                              now = function() now = now + 0.5 return now end}
    logger:add('lr', {window = 1, format = '{value:%.6f}'})
    local n, seen = 0, {}
    local function iterator()
      n = n + 1
      if n <= 12 then return n, n * 2 end
    end
    for a, b in logger:every({total = 366, print_freq = 10, header = 'Epoch: [0]'}, iterator) do
      seen[#seen + 1] = a + b
      logger:update('loss', 1 / a, 'lr', a * 1e-6)
    end
    t.eq(#seen, 12)
    t.eq(seen[12], 36)
    t.eq(lines, {
      'Epoch: [0]  [  0/366]  eta: 0:06:06  lr: 0.000001  loss: 1.0000 (1.0000)  time: 1.0000  data: 0.5000',
      'Epoch: [0]  [ 10/366]  eta: 0:05:56  lr: 0.000011  loss: 0.0909 (0.2745)  time: 1.0000  data: 0.5000',
      'Epoch: [0] Total time: 0:00:18',
    })
  end)

  t.case('evaluation has an empty field where the meters are', function()
    local lines = {}
    local logger = log.logger{write = function(s) lines[#lines + 1] = s end, now = clock{0}}
    for _ in logger:every({total = 2, print_freq = 100, header = 'Test:', memory = function() return 1234.4 end},
                          ipairs{7, 8}) do
      t.ok(true)
    end
    t.eq(lines[1], 'Test:  [0/2]  eta: 0:00:00    time: 0.0000  data: 0.0000  max mem: 1234')
    t.eq(lines[2], 'Test: Total time: 0:00:00')
  end)

  t.case('results file', function()
    local path = t.folder() .. '/results.txt'
    local metrics = log.metrics(94.7, {97.04, 93.96}, {93.9, 0 / 0}, 76.85)
    log.append_results(path, 0, 0.70981, 1e-4, metrics)
    log.append_results(path, 1, 0.5, 0, metrics)
    local file = io.open(path)
    local content = file:read '*a'
    file:close()
    local four = "global correct: 94.7\naverage row correct: ['97.0', '94.0']\nIoU: ['93.9', 'nan']\nmean IoU: 76.8\n\n"
    t.eq(content, '[epoch: 0]\ntrain_loss: 0.7098\nlr: 0.000100\n' .. four
         .. '[epoch: 1]\ntrain_loss: 0.5000\nlr: 0.000000\n' .. four)
    t.error(function() log.append_results('/nowhere/results.txt', 0, 0, 0, metrics) end,
            '/nowhere/results.txt: No such file')
    t.ok(log.results_path('out'):match '^out/results%d%d%d%d%d%d%d%d%-%d%d%d%d%d%d%.txt$')
  end)

  t.case('progress line', function()
    local written = {}
    local p = log.progress{label = 'predict', total = 4, unit = 'photos', now = clock{0, 2, 2.01, 4, 8},
                           write = function(s) written[#written + 1] = s end}
    p:step('a.jpg')
    p:step('b.jpg') -- too soon after the last
    p:step('c.jpg')
    p:step('d.jpg')
    p:done()
    t.eq(written, {'\r\27[Kpredict  1/4  0.5 photos/s  0:00:06 left  a.jpg',
                   '\r\27[Kpredict  3/4  0.8 photos/s  0:00:01 left  c.jpg',
                   '\r\27[Kpredict  4/4  0.5 photos/s  0:00:00 left  d.jpg', '\r\27[K'})
  end)

  t.case('numbers and tables as text', function()
    t.eq(text.duration(312.9), '0:05:12')
    t.eq(text.duration(86400 * 2 + 3600), '2 days, 1:00:00')
    t.eq(text.duration(86400 + 3723), '1 day, 1:02:03')
    t.eq(text.duration(0 / 0), '?')
    t.eq(text.bytes(1536), '1.5 KiB')
    t.eq(text.bytes(100), '100 B')
    t.eq(text.thousands(1234567), '1,234,567')
    t.eq(text.thousands(-123), '-123')
    t.eq(text.columns({{'name', 'IoU'}, {'aéroplane', '93.9'}, {'bus', '7.0'}}, 'lr'),
         'name        IoU\naéroplane  93.9\nbus         7.0\n')
  end)
end
