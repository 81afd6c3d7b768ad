-- legacy.lua - PyTorch's two older containers: the pickle stream (up to 1.5 by default) and the tar
-- of 2016.
--
-- Stream: five pickles (a magic number, a version, facts about the machine, the object, the
-- storages' keys), then for each key its count of elements (i64) and its bytes. Tar: members
-- 'storages' and 'tensors' with pickles and bytes in turn, and 'pickle', which refers to the
-- tensors by number.

local bytes = require 'dlv3.io.bytes'
local dict = require 'dlv3.core.dict'
local pickle = require 'dlv3.io.pickle'
local torch_file = require 'dlv3.io.torch_file'
local fault = bytes.fault

local M = {}

local MAGIC = 0x1950a86a20f9 * 2 ^ 32 + 0x469cfc6c -- 80 bits, rounded as the reader rounds them

-- An i64 count of elements at `at`, whose bytes lie behind it and before stop; returns where those
-- end.
local function counted(file, root, at, stop)
  local n = bytes.u64(file:read(at, 8, 'the size of a storage'), 1)
  if n ~= root.numel then
    fault("the storage '%s' has %.0f elements where its tensors expect %.0f", bytes.shown(root.key), n, root.numel)
  end
  root.at = at + 8
  local behind = root.at + n * root.dtype[2]
  if behind > stop then
    fault("truncated: the storage '%s' ends at %.0f, past the end at %.0f", bytes.shown(root.key), behind, stop)
  end
  return behind
end

-- -- The stream -----------------------------------------------------------------------------------

local function check_machine(info)
  if dict.is(info) and info.little_endian == false then
    fault 'was written on a big-endian machine, which is not supported'
  end
end

-- The value of a legacy stream, PyTorch's format before 1.6: several pickles, then the storages.
function M.read_stream(file)
  local magic, version, info, value, keys, session
  local at = 0
  magic, at = pickle.read_file(file, at)
  if type(magic) ~= 'number' or magic ~= MAGIC then
    fault 'a plain pickle, not a file of torch.save: load it in Python and torch.save its tensors'
  end
  version, at = pickle.read_file(file, at)
  if version ~= 1001 then fault('version %s of the old PyTorch format is not known (1001 is)', bytes.shown(version)) end
  info, at = pickle.read_file(file, at)
  check_machine(info)
  value, at = pickle.read_file(file, at, function()
    session = torch_file.session()
    return session.handlers
  end)
  keys, at = pickle.read_file(file, at)
  if type(keys) ~= 'table' or getmetatable(keys) then fault 'the list of storages is damaged' end
  for _, key in ipairs(keys) do
    local root = session.roots[tostring(key)]
    if not root then fault("the storage '%s' is listed but no tensor is known to use it", bytes.shown(key)) end
    if root.at then fault("the storage '%s' is listed twice", bytes.shown(key)) end
    at = counted(file, root, at, file.size)
  end
  return torch_file.resolve(session, file, value)
end

-- -- The tar --------------------------------------------------------------------------------------

-- Whether a file is a tar, PyTorch's first format.
function M.is_tar(file)
  return file.size >= 512 and file:read(257, 5) == 'ustar'
end

local function octal(s)
  local digits = s:match '^%s*([0-7]+)'
  return digits and tonumber(digits, 8)
end

-- The members by name: {at =, size =}.
local function tar_members(file)
  local members, at = {}, 0
  while at + 512 <= file.size do
    local header = file:read(at, 512)
    local name = header:match '^%Z*'
    if name == '' then break end
    local size = octal(header:sub(125, 136))
    if not size then fault('a damaged tar header at byte %.0f', at) end
    file:check(at + 512, size, ("'%s'"):format(bytes.shown(name)))
    members[name:match '^%./(.*)$' or name] = {at = at + 512, size = size, stop = at + 512 + size}
    at = at + 512 + math.ceil(size / 512) * 512
  end
  return members
end

local function whole_count(n, what)
  if type(n) ~= 'number' or n < 0 or n ~= math.floor(n) or n > 1e6 then
    fault('a tar with %s %s', bytes.shown(n), what)
  end
  return n
end

local function is_list(v, n) return type(v) == 'table' and getmetatable(v) == nil and (not n or #v == n) end

local function key_text(key)
  if type(key) == 'cdata' then return (tostring(key):gsub('U?LL$', '')) end
  return tostring(key)
end

-- 'storages': a count; for each (key, location, type), then its elements; then views on them.
local function read_storages(file, member, session, found)
  local handlers = function() return session.handlers end
  local n, at = pickle.read_file(file, member.at, handlers, member.stop)
  for _ = 1, whole_count(n, 'storages') do
    local about
    about, at = pickle.read_file(file, at, handlers, member.stop)
    local dtype = is_list(about, 3) and type(about[3]) == 'table' and getmetatable(about[3]) == pickle.Global
        and about[3].storage
    if not dtype then fault 'a tar with a damaged storage' end
    local count = bytes.u64(file:read(at, 8, 'the size of a storage'), 1)
    local key = key_text(about[1])
    local storage = torch_file.storage(session, key, dtype, count)
    at = counted(file, storage.root, at, member.stop)
    found[key] = storage
  end
  local views = pickle.read_file(file, at, handlers, member.stop)
  if not is_list(views) then fault 'a tar with damaged views' end
  for _, view in ipairs(views) do
    local root = is_list(view, 4) and found[key_text(view[2])]
    if not root then fault 'a tar with a damaged view' end
    found[key_text(view[1])] = torch_file.part(root, view[3], view[4])
  end
end

local function longs(file, at, n, stop)
  if at + 8 * n > stop then fault 'truncated: the tensors of the tar' end
  local s, list = file:read(at, 8 * n), {}
  for i = 1, n do list[i] = bytes.u64(s, 8 * i - 7) end
  return list, at + 8 * n
end

-- 'tensors': a count; for each (key, storage, type), then dimensions (i32, padded to 8 bytes),
-- sizes, strides, offset.
local function read_tensors(file, member, session, storages, found)
  local handlers = function() return session.handlers end
  local n, at = pickle.read_file(file, member.at, handlers, member.stop)
  for _ = 1, whole_count(n, 'tensors') do
    local about, size, stride, offset
    about, at = pickle.read_file(file, at, handlers, member.stop)
    local storage = is_list(about, 3) and storages[key_text(about[2])]
    if not storage then fault 'a tar with a damaged tensor' end
    local ndim = bytes.i32(file:read(at, 8, 'a tensor'), 1)
    if ndim < 0 or ndim > 64 then fault('a tar with a tensor of %d dimensions', ndim) end
    size, at = longs(file, at + 8, ndim, member.stop)
    stride, at = longs(file, at, ndim, member.stop)
    offset, at = longs(file, at, 1, member.stop)
    found[key_text(about[1])] = torch_file.note(storage, offset[1], size, stride)
  end
end

-- Tensors and storages of the tar by their number.
local function persistent(found, id)
  if is_list(id) then id = id[1] end
  local v = (type(id) == 'string' or type(id) == 'number' or type(id) == 'cdata')
      and (found.tensors[key_text(id)] or found.storages[key_text(id)])
  return v or fault('a tensor that is not in the tar: %s', bytes.shown(key_text(id)))
end

-- The value of a tar file: the members pickle, storages and tensors.
function M.read_tar(file)
  local members = tar_members(file)
  for _, name in ipairs {'storages', 'tensors', 'pickle'} do
    if not members[name] then
      fault("a tar archive without '%s': not one of PyTorch, or packed into a tar; unpack it first", name)
    end
  end
  local machine = members.sys_info and pickle.read_file(file, members.sys_info.at, nil, members.sys_info.stop)
  check_machine(machine)
  local session, found = torch_file.session(), {storages = {}, tensors = {}}
  read_storages(file, members.storages, session, found.storages)
  read_tensors(file, members.tensors, session, found.storages, found.tensors)
  local value = pickle.read_file(file, members.pickle.at, function()
    return {globals = session.handlers.globals, persistent = persistent, context = found}
  end, members.pickle.stop)
  return torch_file.resolve(session, file, value)
end

return M
