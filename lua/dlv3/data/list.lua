-- list.lua - text files with an entry a line, as editors and shells of all systems write them:
-- lists of samples, names of classes.

local F = require 'dlv3.core.ffi'
local bit = require 'bit'
local bytes = require 'dlv3.io.bytes'

local M = {}

local most_bytes = 2 ^ 28

-- -- UTF-16, which PowerShell's > writes ----------------------------------------------------------

local function units_to_utf8(text, first, second)
  local pending -- the first half of a surrogate pair
  return (text:gsub('..', function(unit)
    local code = unit:byte(first) + unit:byte(second) * 256
    local high = bit.band(code, 0xFC00) == 0xD800
    local low = bit.band(code, 0xFC00) == 0xDC00
    local pair = low and pending and 0x10000 + (pending - 0xD800) * 1024 + code - 0xDC00
    pending = high and code or nil
    return high and '' or bytes.utf8(pair or code)
  end))
end

-- text without the mark of its encoding, UTF-16 as UTF-8. UTF-16 without a mark is known by zeros
-- beside its first character.
local function decode(text)
  if text:sub(1, 3) == '\239\187\191' then return text:sub(4) end
  local mark = text:sub(1, 2)
  local little = mark == '\255\254' or mark:find '^%Z%z$' ~= nil
  local big = mark == '\254\255' or mark:find '^%z%Z$' ~= nil
  if not (little or big) then return text end
  if mark:byte(1) >= 254 then text = text:sub(3) end
  if #text % 2 == 1 then text = text:sub(1, -2) end
  local ascii, n = text:gsub(little and '(%Z)%z' or '%z(%Z)', '%1') -- a long list in no time
  if n * 2 == #text then return ascii end
  return units_to_utf8(text, little and 1 or 2, little and 2 or 1)
end

-- The text of the file at path, as UTF-8 where it says that it is UTF-16, else its own bytes.
function M.read(path)
  local file = bytes.open(path)
  local size = file.size
  if size > most_bytes then
    file:close()
    F.raise(('%s: %.0f bytes are too many for a list (at most %d)'):format(path, size, most_bytes))
  end
  local text = file:read(0, size)
  file:close()
  return decode(text)
end

-- Iterates over the lines that are not blank, without the space around them. Lines end with LF, CR
-- LF or CR.
function M.lines(text)
  local next_line = text:gmatch '[^\r\n]+'
  return function()
    for line in next_line do
      if line:find '^%s' or line:find '%s$' then line = line:match '^%s*(.-)%s*$' end
      if line ~= '' then return line end
    end
  end
end

-- The numbers in the file of some of the lines that M.lines gives: wanted, their places in rising
-- order.
function M.line_numbers(text, wanted)
  local numbers, number, n = {}, 0, 0
  if text:find '\r' then text = text:gsub('\r\n?', '\n') end
  for line in (text .. '\n'):gmatch '(.-)\n' do
    number = number + 1
    if line:find '%S' then n = n + 1 end
    while wanted[#numbers + 1] == n do numbers[#numbers + 1] = number end
    if #numbers == #wanted then return numbers end
  end
  return numbers
end

return M
