-- safetensors.lua - safetensors files: the header's length (u64), a JSON header, then the tensors'
-- bytes.
--
-- Each entry names dtype, shape and the range of its bytes. Ranges are checked against the file and
-- the shape before anything is allocated. Tensors only: metadata of the header is passed over.

local bytes = require 'dlv3.io.bytes'
local dict = require 'dlv3.core.dict'
local json = require 'dlv3.io.json'
local tensor = require 'dlv3.core.tensor'
local F = require 'dlv3.core.ffi'
local fault = bytes.fault

local M = {}

local MAX_HEADER, MAX_COST = 2 ^ 25, 2 ^ 20 -- bytes; json.decode's measure of what they say: some 60,000 tensors

local ours = {F64 = 'f64', F32 = 'f32', F16 = 'f16', BF16 = 'bf16', I64 = 'i64', I32 = 'i32', U8 = 'u8', BOOL = 'bool'}
local theirs = {}
for name, dtype in pairs(ours) do theirs[dtype] = name end
local width = F.width
local narrow = {I8 = {'int8_t', 1}, I16 = {'int16_t', 2}, U16 = {'uint16_t', 2}} -- read as i32

-- Whether the file looks like one: a plausible length, then a '{'.
function M.is(file)
  if file.size < 10 then return false end
  local head = file:read(0, 9)
  return head:sub(9, 9) == '{' and bytes.u64(head, 1) <= math.max(file.size - 8, 2 ^ 32)
end

local function is_count(n) return type(n) == 'number' and n >= 0 and n == math.floor(n) and n <= 2 ^ 53 end

-- Checks one entry; returns dtype, shape, first byte (of the file), element count.
local function entry_of(file, name, entry, data)
  local shown = bytes.shown(name)
  if not dict.is(entry) or type(entry.dtype) ~= 'string' or type(entry.shape) ~= 'table'
      or type(entry.data_offsets) ~= 'table' then
    fault("the header's entry of '%s' is damaged", shown)
  end
  local w = narrow[entry.dtype] and narrow[entry.dtype][2] or width[ours[entry.dtype]]
  if not w then fault("'%s' has the dtype %s, which is not supported", shown, bytes.shown(entry.dtype)) end
  local first, stop = entry.data_offsets[1], entry.data_offsets[2]
  if not is_count(first) or not is_count(stop) or stop < first then fault("'%s' has damaged offsets", shown) end
  local count = 1
  if #entry.shape > 8 then fault("'%s' has %d dimensions; at most 8 are supported", shown, #entry.shape) end
  for _, n in ipairs(entry.shape) do
    if not is_count(n) then fault("'%s' has a size of %s", shown, bytes.shown(n)) end
    count = count * n
  end
  if count * w ~= stop - first then
    fault("'%s' has %.0f bytes; its shape and dtype need %.0f", shown, stop - first, count * w)
  end
  file:check(data + first, stop - first, ("'%s'"):format(shown))
  return entry.dtype, entry.shape, data + first, count
end

local function read_narrow(file, kind, shape, at, count)
  local raw, wide = file:read(at, count * kind[2]), F.new('int32_t[?]', math.max(count, 1))
  local small = F.new(kind[1] .. '[?]', math.max(count, 1))
  F.copy(small, raw, #raw)
  for i = 0, count - 1 do wide[i] = small[i] end
  local t = tensor.empty(shape, {dtype = 'i32'})
  F.check(F.C.dlv3_tensor_from_bytes(t.p, wide, count * 4))
  return t
end

-- The tensors of a safetensors file: a dict by name, in the order of the header.
function M.read(file)
  local length = bytes.u64(file:read(0, 8), 1)
  if length > MAX_HEADER then fault('a header of %.0f bytes; at most %.0f are read', length, MAX_HEADER) end
  local header = json.decode(file:read(8, length, 'the header'), MAX_COST)
  if not dict.is(header) then fault 'the header is no JSON object' end
  local result, read, last = dict.new(), 0, 8 + length
  for name, entry in dict.items(header) do
    if name ~= '__metadata__' then
      local dtype, shape, at, count = entry_of(file, name, entry, 8 + length)
      local kind = narrow[dtype]
      last = math.max(last, at + count * (kind and kind[2] or width[ours[dtype]]))
      read = read + count * (kind and kind[2] or width[ours[dtype]])
      if read > file.size then
        fault("its tensors overlap: '%s' and those before it have more bytes than the file", bytes.shown(name))
      end
      if kind then
        result[name] = read_narrow(file, kind, shape, at, count)
      else
        result[name] = tensor.empty(shape, {dtype = ours[dtype]})
        file:read_tensor(result[name], at)
      end
    end
  end
  if last ~= file.size then
    fault('the file has %.0f bytes, its tensors end at %.0f: it is damaged; copy or download it again', file.size, last)
  end
  return result
end

-- value: a dict or table of tensors by name.
function M.write(file, value)
  local header, at = dict.new(), 0
  for name, t in dict.items(value) do
    if type(name) ~= 'string' or name == '__metadata__' or not bytes.is_utf8(name) then
      fault("a tensor can not be called '%s' in a safetensors file", bytes.shown(name))
    end
    if not F.is_tensor(t) then
      fault("'%s' is a %s: safetensors files hold tensors only (a .pth holds the rest)", bytes.shown(name), type(t))
    end
    local n = t:numel() * width[t.dtype]
    header[name] = dict.from {{'dtype', theirs[t.dtype]}, {'shape', t:size()}, {'data_offsets', {at, at + n}}}
    at = at + n
  end
  local text = json.encode(header)
  text = text .. (' '):rep(-#text % 8)
  file:write(bytes.le64(#text) .. text)
  for _, t in dict.items(value) do file:write_tensor(t:to('cpu')) end
end

return M
