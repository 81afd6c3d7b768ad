-- bytes.lua - little-endian numbers in strings, files as Lua sees them, and the faults of a file's
-- content.
--
-- Readers of formats raise faults without the file's name (they may not know it); files.lua puts it
-- in front. Every read is checked against the file's size before anything is allocated.

local F = require 'dlv3.core.ffi'
local bit = require 'bit'
local C = F.C

local M = {}

-- -- Faults ---------------------------------------------------------------------------------------

local fault_mt = {__tostring = function(e) return e.text end}

-- Raises a fault: what is wrong with the content.
function M.fault(format, ...)
  error(setmetatable({text = select('#', ...) > 0 and format:format(...) or format}, fault_mt), 0)
end

-- Whether an error that was caught is a fault of a content.
function M.is_fault(e) return type(e) == 'table' and getmetatable(e) == fault_mt end

-- Bytes of a file in a message, on one line: what can not be shown is escaped, long text is cut.
function M.shown(s)
  s = type(s) == 'table' and 'a list or an object' or tostring(s)
  if #s > 80 then s = s:sub(1, 77) .. '...' end
  return (F.printable(s):gsub('[\n\t]', {['\n'] = '\\n', ['\t'] = '\\t'}))
end

-- -- Numbers --------------------------------------------------------------------------------------

-- The unsigned number in 2 little-endian bytes of s from position i (from 1).
function M.u16(s, i)
  local a, b = s:byte(i, i + 1)
  return a + b * 256
end

-- The same of 4 bytes.
function M.u32(s, i)
  local a, b, c, d = s:byte(i, i + 3)
  return a + b * 256 + c * 65536 + d * 16777216
end

-- The signed number in 4 little-endian bytes of s from position i.
function M.i32(s, i)
  local n = M.u32(s, i)
  return n >= 2147483648 and n - 4294967296 or n
end

-- Exact up to 2^53; beyond, still large, so that a check against a file's size refuses it.
function M.u64(s, i) return M.u32(s, i) + M.u32(s, i + 4) * 4294967296 end

local buffer = F.new [[union {
  uint8_t b[8]; double f64; float f32; int64_t i64; uint64_t u64; int32_t i32; int16_t i16; int8_t i8; uint8_t u8;
}]]

-- Whether the little-endian bytes of an f64 or f32 are those of a nan.
local function is_nan(s, type)
  local low, high = s:byte(-2, -1)
  local exponent = type == 'f64' and 0xF0 or 0x80
  return high % 128 == 127 and low >= exponent and (low > exponent or s:sub(1, -3):find '[^%z]' ~= nil)
end

-- The number of a C type ('f64', 'f32', 'i64', ...) whose bytes are s; i64 and u64 come as 64-bit
-- cdata. A nan of a file is never loaded as it is: LuaJIT takes the bits of some for other values,
-- objects at any address among them.
function M.number(s, type)
  if (type == 'f64' or type == 'f32') and is_nan(s, type) then return 0 / 0 end
  F.copy(buffer.b, s, #s)
  return buffer[type]
end

-- The 8 bytes of a number as f64.
function M.f64_bytes(x)
  buffer.f64 = x
  return F.string(buffer.b, 8)
end

-- The 8 bytes of a whole number as i64.
function M.i64_bytes(x)
  buffer.i64 = x
  return F.string(buffer.b, 8)
end

-- 2 little-endian bytes of a whole number from 0.
function M.le16(n) return string.char(n % 256, math.floor(n / 256) % 256) end
-- 4 little-endian bytes.
function M.le32(n) return M.le16(n % 65536) .. M.le16(math.floor(n / 65536)) end
-- 8 little-endian bytes, of numbers to 2^53.
function M.le64(n) return M.le32(n % 4294967296) .. M.le32(math.floor(n / 4294967296)) end

-- -- Text -----------------------------------------------------------------------------------------

-- The UTF-8 bytes of a code point.
function M.utf8(code)
  local char = string.char
  if code < 0x80 then return char(code) end
  if code < 0x800 then return char(0xC0 + bit.rshift(code, 6), 0x80 + code % 64) end
  if code < 0x10000 then return char(0xE0 + bit.rshift(code, 12), 0x80 + bit.rshift(code, 6) % 64, 0x80 + code % 64) end
  return char(0xF0 + bit.rshift(code, 18), 0x80 + bit.rshift(code, 12) % 64, 0x80 + bit.rshift(code, 6) % 64,
              0x80 + code % 64)
end

-- The length in bytes of the UTF-8 character at i, or nil.
local function utf8_length(s, i)
  local a, b, c, d = s:byte(i, i + 3)
  local function tail(x) return x and x >= 0x80 and x < 0xC0 end
  if a < 0x80 then return 1 end
  if a < 0xC2 then return nil end
  if a < 0xE0 then return tail(b) and 2 or nil end
  if a < 0xF0 then
    if not (tail(b) and tail(c)) or a == 0xE0 and b < 0xA0 or a == 0xED and b >= 0xA0 then return nil end
    return 3
  end
  if a > 0xF4 or not (tail(b) and tail(c) and tail(d)) or a == 0xF0 and b < 0x90 or a == 0xF4 and b >= 0x90 then
    return nil
  end
  return 4
end

-- Whether a string is valid UTF-8.
function M.is_utf8(s)
  local i = s:find '[\128-\255]'
  while i and i <= #s do
    local n = utf8_length(s, i)
    if not n then return false end
    i = i + n
  end
  return true
end

-- -- Files ----------------------------------------------------------------------------------------

local Reader, Writer = {}, {}
Reader.__index, Writer.__index = Reader, Writer

local file_out = F.new 'dlv3_file *[1]'

local function owned(status, path, class)
  F.check(status)
  return setmetatable({path = path, p = F.gc(file_out[0], C.dlv3_file_close)}, class)
end

-- A file to read: .size, read(offset, n) -> string, read_tensor(t, offset), close(). Offsets count
-- from 0. crc(): of what was read since its last call, skim(offset, n) reads for that alone.
function M.open(path)
  local f = owned(C.dlv3_file_open(file_out, path), path, Reader)
  f.size = tonumber(C.dlv3_file_size(f.p))
  return f
end

-- A file to write: nothing is at the path before commit(); close() without it leaves what was
-- there.
function M.create(path) return owned(C.dlv3_file_create(file_out, path), path, Writer) end

local function close(f)
  if f.p then C.dlv3_file_close(F.gc(f.p, nil)) end
  f.p = nil
end
Reader.close, Writer.close = close, close

-- what names the part of the file that is read, for the message.
function Reader:check(offset, n, what)
  if not (offset >= 0 and n >= 0 and offset <= self.size and n <= self.size - offset) then
    M.fault('truncated: %s of %.0f bytes at %.0f ends past the end of the file (%.0f bytes)', what, n, offset,
            self.size)
  end
end

-- n bytes from offset (from 0) on, as a string; what: how a message calls the part. A fault where
-- the file ends before.
function Reader:read(offset, n, what)
  self:check(offset, n, what or 'a part')
  local bytes = F.new('uint8_t[?]', math.max(n, 1))
  F.check(C.dlv3_file_read(self.p, bytes, offset, n))
  return F.string(bytes, n)
end

-- Reads n bytes from offset on, for crc alone.
function Reader:skim(offset, n) F.check(C.dlv3_file_read(self.p, nil, offset, n)) end
-- The CRC-32 of what was read since the last call.
function Reader:crc() return C.dlv3_file_crc(self.p) end
-- Fills a tensor with little-endian elements of its dtype from offset on, in row-major order.
function Reader:read_tensor(t, offset) F.check(C.dlv3_file_read_tensor(self.p, t.p, offset)) end

-- Appends a string.
function Writer:write(s) F.check(C.dlv3_file_write(self.p, s, #s)) end
-- Appends a tensor's elements, little-endian, in row-major order.
function Writer:write_tensor(t) F.check(C.dlv3_file_write_tensor(self.p, t.p)) end
-- The number of bytes written so far.
function Writer:position() return tonumber(C.dlv3_file_position(self.p)) end
-- The CRC-32 of what was written since the last call.
function Writer:crc() return C.dlv3_file_crc(self.p) end
-- Writes a string over what was written at offset.
function Writer:patch(offset, s) F.check(C.dlv3_file_patch(self.p, offset, s, #s)) end
-- Syncs the file and renames it to its path: from now on it is there, whole.
function Writer:commit() F.check(C.dlv3_file_commit(self.p)) end

return M
