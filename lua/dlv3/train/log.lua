-- log.lua - what training and evaluation print: meters, the line every so many steps, a progress
-- line, the results file.
--
-- The formats are those of the reference's scripts, so that its logs and ours can be read by the
-- same tools.

local F = require 'dlv3.core.ffi'
local text = require 'dlv3.core.text'
local C = F.C

local M = {duration = text.duration, list = text.list}

-- -- A value over time ----------------------------------------------------------------------------

local Meter = {}
Meter.__index = Meter

-- Keeps the last `window` values (20) and the sum of all. format: text with {value}, {avg},
-- {global_avg}, {median}, {max}, each with a printf format after a colon: '{value:%.6f}'.
function M.meter(options)
  options = options or {}
  return setmetatable({window = options.window or 20, format = options.format or '{value:%.4f} ({global_avg:%.4f})',
                       values = {}, at = 0, total = 0, count = 0}, Meter)
end

-- value counts n times (an average over n samples).
function Meter:update(value, n)
  n = n or 1
  self.at = self.at % self.window + 1
  self.values[self.at] = value
  self.total, self.count = self.total + value * n, self.count + n
end

-- The last value; nan before the first.
function Meter:value() return self.values[self.at] or 0 / 0 end
-- The mean of all values.
function Meter:global_avg() return self.total / self.count end

-- The mean of the window.
function Meter:avg()
  local sum = 0
  for _, v in ipairs(self.values) do sum = sum + v end
  return sum / #self.values
end

-- The lower of the two in the middle, as torch.median.
function Meter:median()
  local sorted = {unpack(self.values)}
  table.sort(sorted)
  return sorted[math.floor((#sorted + 1) / 2)] or 0 / 0
end

-- The largest value of the window.
function Meter:max()
  local most = -math.huge
  for _, v in ipairs(self.values) do most = math.max(most, v) end
  return most
end

function Meter:__tostring()
  return (self.format:gsub('{([%w_]+):?([^}]*)}', function(name, format)
    return text.number(format ~= '' and format or '%.4f', self[name](self))
  end))
end

-- -- The line every print_freq steps --------------------------------------------------------------

local Logger = {}
Logger.__index = Logger

-- write(line): where lines go, stdout without it; now(): seconds.
function M.logger(options)
  options = options or {}
  return setmetatable({meters = {}, order = {}, write = options.write or M.line, now = options.now or C.dlv3_now},
                      Logger)
end

-- One line to stdout, at once: a log is read while it is being written.
function M.line(line)
  io.stdout:write(line, '\n')
  io.stdout:flush()
end

-- Adds a meter of this name at the end of the line, with the options of M.meter; returns it.
function Logger:add(name, options)
  if not self.meters[name] then self.order[#self.order + 1] = name end
  self.meters[name] = M.meter(options)
  return self.meters[name]
end

-- update('loss', 0.7, 'lr', 1e-4): in this order where they are new.
function Logger:update(...)
  for i = 1, select('#', ...), 2 do
    local name, value = select(i, ...)
    local meter = self.meters[name] or self:add(name)
    meter:update(value)
  end
end

function Logger:__tostring()
  local parts = {}
  for _, name in ipairs(self.order) do -- the first loss of a GPU comes a step late
    if self.meters[name].count > 0 then parts[#parts + 1] = name .. ': ' .. tostring(self.meters[name]) end
  end
  return table.concat(parts, '  ')
end

-- for image, target in logger:every({total = n, print_freq = 10, header = 'Epoch: [0]'},
-- loader:epoch(0)) do ... end Passes the iterator's values on and prints after a step when its
-- number (from first, 0) is a multiple of print_freq, and the total time at the end. memory(): MB
-- for "max mem", left out where nil.
function Logger:every(options, iterator, state, control)
  local total, i, header = options.total, options.first or 0, options.header or ''
  local counter = '[%' .. #tostring(total) .. 'd/%d]'
  local times, waits = M.meter{format = '{avg:%.4f}'}, M.meter{format = '{avg:%.4f}'}
  local start = self.now()
  local last, running = start, false

  local function after_step()
    times:update(self.now() - last)
    if i % options.print_freq == 0 then
      local parts = {header, counter:format(i, total), 'eta: ' .. text.duration(times:global_avg() * (total - i)),
                     tostring(self),
                     'time: ' .. tostring(times), 'data: ' .. tostring(waits)}
      if options.memory then parts[#parts + 1] = ('max mem: %.0f'):format(options.memory()) end
      self.write(table.concat(parts, '  '))
    end
    i, last = i + 1, self.now()
  end

  local function pass(...)
    control = ...
    if control == nil then
      self.write(('%s Total time: %s'):format(header, text.duration(self.now() - start)))
      return nil
    end
    waits:update(self.now() - last)
    running = true
    return ...
  end

  return function()
    if running then after_step() end
    return pass(iterator(state, control))
  end
end

-- -- One line that moves, for terminals -----------------------------------------------------------

local Progress = {}
Progress.__index = Progress

local function write_to_stderr(line)
  io.stderr:write(line)
  io.stderr:flush()
end

-- "predict  12/30  5.3 photos/s  0:00:03 left  IMG_12.jpg" on stderr, rewritten in place; nothing
-- where stderr is not a terminal or quiet is set. total may be nil.
function M.progress(options)
  local now = options.now or C.dlv3_now
  return setmetatable({
    label = options.label or '', total = options.total, unit = options.unit or 'steps', n = 0, shown = -1,
    now = now, start = now(), write = options.write or write_to_stderr,
    on = not options.quiet and (options.write ~= nil or C.dlv3_is_terminal(2) == 1),
  }, Progress)
end

local function fit(line, width)
  if #line <= width then return line end
  return line:sub(1, width - 3) .. '...'
end

-- One (or `by`) more is done; note is shown at the end of the line.
function Progress:step(note, by)
  self.n = self.n + (by or 1)
  if not self.on then return end
  local now = self.now()
  if now - self.shown < 0.1 and self.n ~= self.total then return end -- ten times a second is enough for eyes
  self.shown = now
  local parts, rate = {}, self.n / math.max(now - self.start, 1e-9)
  if self.label ~= '' then parts[1] = self.label end
  parts[#parts + 1] = self.total and ('%d/%d'):format(self.n, self.total) or tostring(self.n)
  parts[#parts + 1] = ('%.1f %s/s'):format(rate, self.unit)
  if self.total then parts[#parts + 1] = text.duration((self.total - self.n) / rate) .. ' left' end
  if note then parts[#parts + 1] = F.printable(tostring(note)) end
  self.write('\r\27[K' .. fit(table.concat(parts, '  '), 79))
end

-- Wipes the line; what is printed next starts at the left.
function Progress:done()
  if self.on and self.n > 0 then self.write('\r\27[K') end
end

-- -- The results file -----------------------------------------------------------------------------

-- The four lines of an evaluation, without a newline at the end. All in percent; rows and ious are
-- lists.
function M.metrics(correct, rows, ious, mean)
  return table.concat({
    'global correct: ' .. text.number('%.1f', correct), 'average row correct: ' .. text.list(rows),
    'IoU: ' .. text.list(ious),
    'mean IoU: ' .. text.number('%.1f', mean),
  }, '\n')
end

-- "results20240131-235959.txt" in directory ('.' without).
function M.results_path(directory)
  return (directory and directory ~= '' and directory .. '/' or '') .. os.date 'results%Y%m%d-%H%M%S.txt'
end

-- The same, and the file is there, empty: whether it can be written is known before there is
-- anything to lose.
function M.start_results(directory)
  local path = M.results_path(directory)
  local file, reason = io.open(path, 'a')
  if not file then F.raise('results file: ' .. reason) end
  file:close()
  return path
end

-- Appends one epoch to the file at path. metrics: the text of M.metrics.
function M.append_results(path, epoch, train_loss, lr, metrics)
  local file, reason = io.open(path, 'a')
  if not file then F.raise('results file: ' .. reason) end
  local ok, why = file:write(('[epoch: %d]\ntrain_loss: %s\nlr: %.6f\n%s\n\n'):format(epoch,
      text.number('%.4f', train_loss), lr, metrics))
  local closed, why_not = file:close()
  if not (ok and closed) then
    F.raise(('results file %s can not be written: %s; free some space'):format(path, why or why_not))
  end
end

return M
