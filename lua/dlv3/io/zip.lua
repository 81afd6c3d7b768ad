-- zip.lua - zip archives of stored members, as PyTorch writes them: read by the central directory,
-- written aligned.
--
-- Not a general unzip: compressed members are named and refused. Sizes above 4 GiB use the zip64
-- records. Data begins at multiples of 64 bytes, and the checksums are patched in behind the data,
-- so that members are streamed.

local bytes = require 'dlv3.io.bytes'
local fault, u16, u32, u64 = bytes.fault, bytes.u16, bytes.u32, bytes.u64
local le16, le32, le64 = bytes.le16, bytes.le32, bytes.le64

local M = {}

local MAX_DIRECTORY = 2 ^ 26
local FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF

-- -- Reading --------------------------------------------------------------------------------------

-- Where the central directory lies: offset, bytes, members.
local function find_directory(file)
  local n = math.min(file.size, 65557)
  local start = file.size - n
  local tail = file:read(start, n)
  local at
  for i = #tail - 21, 1, -1 do
    if tail:byte(i) == 0x50 and u32(tail, i) == 0x06054b50 then
      at = i
      break
    end
  end
  if not at then fault 'truncated: a zip archive without its directory (it stands at the end)' end
  local count, size, offset = u16(tail, at + 10), u32(tail, at + 12), u32(tail, at + 16)
  if count == FULL16 or size == FULL32 or offset == FULL32 then
    local locator = at - 20
    if locator < 1 or u32(tail, locator) ~= 0x07064b50 then fault 'a zip archive without its zip64 record' end
    local record = file:read(u64(tail, locator + 8), 56, 'the zip64 record')
    if u32(record, 1) ~= 0x06064b50 then fault 'a zip archive with a damaged zip64 record' end
    count, size, offset = u64(record, 33), u64(record, 41), u64(record, 49)
  end
  if size > MAX_DIRECTORY or count * 46 > size then
    fault('a zip archive with a damaged directory (%.0f members in %.0f bytes)', count, size)
  end
  return offset, size, count
end

-- Sizes and offset of more than 4 GiB stand in the extra field, in this order, where their own
-- field is full.
local function zip64_sizes(extra, member)
  local i = 1
  while i + 3 <= #extra do
    local id, n = u16(extra, i), u16(extra, i + 2)
    if id == 1 then
      local at, stop = i + 4, math.min(i + 3 + n, #extra)
      for _, field in ipairs {'size', 'stored', 'header'} do
        if member[field] == FULL32 then
          if at + 7 > stop then fault("the zip archive's entry of '%s' is damaged", bytes.shown(member.name)) end
          member[field], at = u64(extra, at), at + 8
        end
      end
      return
    end
    i = i + 4 + n
  end
end

-- One entry at i of the directory: the member and where the next one begins.
local function read_entry(directory, i)
  if i + 45 > #directory or u32(directory, i) ~= 0x02014b50 then fault 'a zip archive with a damaged directory' end
  local flags, method = u16(directory, i + 8), u16(directory, i + 10)
  local name_length, extra_length, comment_length = u16(directory, i + 28), u16(directory, i + 30),
      u16(directory, i + 32)
  local name_end = i + 45 + name_length
  if name_end + extra_length + comment_length > #directory then fault 'a zip archive with a damaged directory' end
  local member = {name = directory:sub(i + 46, name_end), crc = u32(directory, i + 16), stored = u32(directory, i + 20),
                  size = u32(directory, i + 24), header = u32(directory, i + 42)}
  zip64_sizes(directory:sub(name_end + 1, name_end + extra_length), member)
  if flags % 2 == 1 then fault("'%s' in the zip archive is encrypted", bytes.shown(member.name)) end
  if method ~= 0 then member.packed = true end
  return member, name_end + extra_length + comment_length + 1
end

-- The members by name: {name =, size =, ...}; `place` finds a member's data.
function M.members(file)
  local offset, size, count = find_directory(file)
  local directory = file:read(offset, size, 'the directory of the zip archive')
  local members, i, member = {}, 1
  for _ = 1, count do
    member, i = read_entry(directory, i)
    if members[member.name] then fault("'%s' is in the zip archive twice", bytes.shown(member.name)) end
    members[member.name] = member
  end
  return members
end

-- The offset of a member's data, which lies within the file.
function M.place(file, member)
  local shown = bytes.shown(member.name)
  if member.packed then
    fault("'%s' in the zip archive is compressed: PyTorch stores its files uncompressed (zip -0)", shown)
  end
  if member.stored ~= member.size then fault("the zip archive's entry of '%s' is damaged", shown) end
  local header = file:read(member.header, 30, ("the header of '%s'"):format(shown))
  if u32(header, 1) ~= 0x04034b50 then fault("the zip archive's entry of '%s' is damaged", shown) end
  local at = member.header + 30 + u16(header, 27) + u16(header, 29)
  file:check(at, member.size, ("'%s'"):format(shown))
  return at
end

-- Raises where the CRC of a member's bytes is not the archive's. 0 stands for none: torch.save can
-- be told to compute none.
function M.check_crc(crc, member)
  if crc ~= member.crc and member.crc ~= 0 then
    fault("'%s' in it is damaged: expected the CRC-32 %08x, got %08x: copy or download the file again, or take "
          .. "another one", bytes.shown(member.name), member.crc, crc)
  end
end

-- The bytes of a member, and where in the file they are.
function M.read(file, member)
  local at = M.place(file, member)
  file:crc()
  local content = file:read(at, member.size)
  M.check_crc(file:crc(), member)
  return content, at
end

-- -- Writing --------------------------------------------------------------------------------------

local ALIGN = 64
local DATE = le16(0) .. le16(0x21) -- midnight of 1980-01-01: equal contents give equal files

-- An archive on a file that was created: add(name, size, put) for each member, then finish().
local Archive = {}
Archive.__index = Archive

-- An archive that is written to a file from bytes.create; add members, then finish.
function M.create(file) return setmetatable({file = file, entries = {}}, Archive) end

-- put(file, content) writes the size bytes of the member.
function Archive:add(name, size, put, content)
  local file, start = self.file, self.file:position()
  local big = size >= FULL32
  local zip64 = big and le16(1) .. le16(16) .. le64(size) .. le64(size) or ''
  local before = start + 30 + #name + #zip64 + 4
  local padding = ('Z'):rep((ALIGN - before % ALIGN) % ALIGN)
  local extra = zip64 .. 'FB' .. le16(#padding) .. padding
  local field = big and FULL32 or size
  file:write('PK\3\4' .. le16(big and 45 or 20) .. le16(0x800) .. le16(0) .. DATE .. le32(0) .. le32(field)
             .. le32(field) .. le16(#name) .. le16(#extra) .. name .. extra)
  file:crc()
  local at = file:position()
  put(file, content)
  local crc = file:crc()
  assert(file:position() - at == size, 'a member has another size than was said')
  file:patch(start + 14, le32(crc))
  self.entries[#self.entries + 1] = {name = name, size = size, crc = crc, start = start}
end

local function central_entry(e)
  local big = e.size >= FULL32
  local zip64 = (big and le64(e.size) .. le64(e.size) or '') .. (e.start >= FULL32 and le64(e.start) or '')
  local extra = #zip64 > 0 and le16(1) .. le16(#zip64) .. zip64 or ''
  local version, field = le16(#extra > 0 and 45 or 20), le32(big and FULL32 or e.size)
  return 'PK\1\2' .. version .. version .. le16(0x800) .. le16(0) .. DATE .. le32(e.crc) .. field .. field
      .. le16(#e.name) .. le16(#extra) ..
         le16(0) .. le16(0) .. le16(0) .. le32(0) .. le32(math.min(e.start, FULL32)) .. e.name .. extra
end

-- Writes the directory of the archive; the file is not committed.
function Archive:finish()
  local file, start, n = self.file, self.file:position(), #self.entries
  for _, e in ipairs(self.entries) do file:write(central_entry(e)) end
  local stop = file:position()
  local size = stop - start
  if n >= FULL16 or start >= FULL32 then
    file:write('PK\6\6' .. le64(44) .. le16(45) .. le16(45) .. le32(0) .. le32(0) .. le64(n) .. le64(n) .. le64(size)
               .. le64(start))
    file:write('PK\6\7' .. le32(0) .. le64(stop) .. le32(1))
  end
  file:write('PK\5\6' .. le16(0) .. le16(0) .. le16(math.min(n, FULL16)) .. le16(math.min(n, FULL16)) .. le32(size)
             .. le32(math.min(start, FULL32)) .. le16(0))
end

return M
