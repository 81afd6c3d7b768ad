-- run.lua - runs benchmark programs as processes of their own and reads the one line that each
-- prints.
--
-- The line ends with "0.071 s (0.070 to 0.072), peak 316 MiB" or, of the input pipeline, "218
-- samples a second and core (207 to 221)"; what stands before the first colon says what ran, what
-- stands behind a semicolon what is to be known. predict's line, "30 photos in 2.50 s, 12.00
-- photos/s", is read too.

local host = require 'dlv3.host'
local dlv3 = require 'dlv3'

local M = {root = host.root, scratch = host.root .. '/build/bench'}

M.quote = require 'dlv3.core.text'.shell_word

-- dlv3 itself with these words, the first of them a script of this project.
function M.dlv3(words) return M.quote(host.executable) .. ' ' .. words end

-- All that a command printed, and its exit status.
function M.output(command)
  local pipe = assert(io.popen('( ' .. command .. ' ) 2>&1; echo "status $?"'))
  local text = pipe:read '*a'
  pipe:close()
  local body, status = text:match '^(.-)status (%d+)%s*$'
  return body or text, tonumber(status)
end

local function last_line(text)
  local last = 'no output'
  for line in text:gmatch '[^\n]+' do last = line end
  return last
end

-- All that a command printed, and its exit status, after so many seconds at most (nil: as many as
-- it takes). In the foreground: it stays in this group of processes, so that it ends with it.
function M.output_within(command, limit)
  if not limit then return M.output(command) end
  local text, status = M.output(('timeout --foreground -k 10 %d env %s'):format(limit, command))
  if status == 124 or status == 137 then return ('it took longer than %d s'):format(limit), status end
  return text, status
end

local function photos_line(line)
  local what, rate = line:match '^(.-): %d+ photos in [%d.]+ s, ([%d.]+) photos/s'
  rate = tonumber(rate)
  return what and {what = what, value = rate, least = rate, most = rate}
end

-- {what, value, least, most, rss, note} of a command's line, or nil and why it failed.
function M.measure(command, limit)
  local text, status = M.output_within(command, limit)
  if status ~= 0 then return nil, last_line(text) end
  for line in text:gmatch '[^\n]+' do
    local what, value, unit, least, most = line:match '^(.-): ([%d.]+) (%a+).-%(([%d.]+) to ([%d.]+)%)'
    if what and (unit == 's' or unit == 'samples') then
      return {what = what, value = tonumber(value), least = tonumber(least), most = tonumber(most),
              rss = tonumber(line:match 'peak ([%d.]+) MiB'), note = line:match '; (.+)$'}
    end
    local photos = photos_line(line)
    if photos then return photos end
  end
  return nil, last_line(text)
end

-- Seconds that a command takes from its start to its end.
function M.time(command)
  local begin = dlv3.now()
  local _, status = M.output(command)
  local seconds = dlv3.now() - begin
  if status ~= 0 then return nil, 'it failed: ' .. command end
  return {value = seconds, least = seconds, most = seconds}
end

return M
