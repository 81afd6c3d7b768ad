-- files.lua - dlv3.load and dlv3.save: PyTorch's .pth in its three containers, and safetensors.
--
-- Also what the scripts share about paths: which file a path names, so that no output replaces an
-- input, and what lies in a folder.
--
-- load goes by content, not by name; nothing in a file is executed (pickle.lua). dicts come back as
-- dicts (dict.lua), lists and tuples as arrays, None as dlv3.none, a Namespace as a dict, tensors
-- on the cpu in their own dtype, objects of other classes as opaque values: using one is an error.
-- save writes a zip that torch.load reads, also with weights_only=True, or safetensors where the
-- name ends so; at any moment the path holds the old file or the new one.

local F = require 'dlv3.core.ffi'
local bytes = require 'dlv3.io.bytes'
local dict = require 'dlv3.core.dict'
local legacy = require 'dlv3.io.legacy'
local opaque = require 'dlv3.io.opaque'
local pickle = require 'dlv3.io.pickle'
local safetensors = require 'dlv3.io.safetensors'
local torch_file = require 'dlv3.io.torch_file'
local zip = require 'dlv3.io.zip'
local fault = bytes.fault

local M = {none = dict.none}

-- -- Reading --------------------------------------------------------------------------------------

-- The folder of the archive that PyTorch wrote into: 'archive', or the file's own first name.
local function top_of(members, path)
  local top
  for name in pairs(members) do
    local folder = name:match '^(.-)data%.pkl$'
    if folder and (folder == '' or folder:sub(-1) == '/') and (not top or #folder < #top) then top = folder end
  end
  if not top then fault "a zip archive without data.pkl: not one of torch.save" end
  if members[top .. 'constants.pkl'] then
    fault('a TorchScript program, not weights; %s', opaque.conversion(path, 'torch.jit.load'))
  end
  return top
end

local function read_zip(file)
  local members = zip.members(file)
  local top = top_of(members, file.path)
  local order = members[top .. 'byteorder']
  if order and order.size < 16 and zip.read(file, order) ~= 'little' then
    fault 'was written on a big-endian machine, which is not supported'
  end
  local session = torch_file.session(function(root)
    local member = members[top .. 'data/' .. root.key]
    if not member then fault("the storage '%s' is not in the archive", bytes.shown(root.key)) end
    if member.size < root.numel * root.dtype[2] then
      fault("the storage '%s' has %.0f bytes where its tensors expect %.0f", bytes.shown(root.key), member.size,
            root.numel * root.dtype[2])
    end
    root.at, root.member = zip.place(file, member), member
  end)
  local data = members[top .. 'data.pkl']
  if data.size > pickle.MAX_BYTES then fault('a pickle of %.0f bytes', data.size) end
  local text, at = zip.read(file, data)
  return torch_file.resolve(session, file, pickle.read(text, session.handlers, at))
end

-- What else people try to load.
local function reason_of(head)
  if head:find '^%s*<' then return 'an HTML or XML page, not weights: the download went wrong' end
  if head:sub(1, 3) == '\255\216\255' or head:sub(1, 4) == '\137PNG' then return 'a picture, not weights' end
  if head:sub(1, 2) == '\31\139' then return 'packed with gzip: unpack it first (gunzip)' end
  if head:sub(1, 4) == '\137HDF' then return 'an HDF5 file: not supported' end
  if head:find '^version https://git%-lfs' then return 'a pointer of Git LFS, not the file itself: git lfs pull' end
  return 'neither a .pth file of PyTorch nor a safetensors file'
end

local function read_any(file)
  if file.size == 0 then fault 'is empty' end
  local head = file:read(0, math.min(file.size, 512))
  if head:sub(1, 2) == 'PK' then return read_zip(file) end
  if legacy.is_tar(file) then return legacy.read_tar(file) end
  if safetensors.is(file) then return safetensors.read(file) end
  if head:byte() == 0x80 then return legacy.read_stream(file) end
  fault(reason_of(head))
end

local function check_path(what, path)
  if type(path) ~= 'string' or path == '' then
    F.raise_unexpected(what, "a file's name", path)
  end
  if path:find '%z' then F.raise(what .. ": a file's name can not hold a zero byte") end
end

-- Runs fn, closes the file whatever happens, and names it in what is wrong with its content.
local function with_file(file, path, fn, ...)
  local ok, result = pcall(fn, file, ...)
  file:close()
  if ok then return result end
  if bytes.is_fault(result) then F.raise(path .. ': ' .. result.text) end
  error(result, 0)
end

-- What the file at path holds: PyTorch's .pth in any of its containers, or safetensors, by content.
-- dicts come back ordered (dlv3.items), lists and tuples as arrays, None as dlv3.none, tensors on
-- the cpu in their own dtype. An object of another class than those is opaque: it has its class's
-- name as text, and using it is an error.
function M.load(path)
  check_path('load', path)
  return with_file(bytes.open(path), path, read_any)
end

-- -- Writing --------------------------------------------------------------------------------------

-- The storage of a tensor, each once in `storages`: tensors that are the same elements share one.
local function storage_of(storages, t)
  if t:is_released() then fault('a tensor was released before it could be saved') end
  local id = table.concat({t.dtype, tostring(F.C.dlv3_tensor_address(t.p)), table.concat(t:size(), ','),
                           table.concat(t:stride(), ',')}, ' ')
  local found = t:numel() > 0 and storages.known[id]
  if not found then
    local list = storages.list
    found = {key = tostring(#list), type = torch_file.storage_type[t.dtype], numel = t:numel(), tensor = t,
             size = t:numel() * F.width[t.dtype]}
    list[#list + 1], storages.known[id] = found, found
  end
  return found
end

local function put_text(file, text) file:write(text) end
local function put_tensor(file, t) file:write_tensor(t:to('cpu')) end

local function write_zip(file, value)
  local storages = {list = {}, known = {}}
  local text = pickle.write(value, {is_tensor = F.is_tensor, storage_of = storage_of, context = storages})
  local archive = zip.create(file)
  archive:add('archive/data.pkl', #text, put_text, text)
  archive:add('archive/byteorder', 6, put_text, 'little')
  for _, s in ipairs(storages.list) do archive:add('archive/data/' .. s.key, s.size, put_tensor, s.tensor) end
  archive:add('archive/version', 2, put_text, '3\n')
  archive:finish()
end

local function write_and_commit(file, value, write)
  write(file, value)
  file:commit()
end

-- Saves a dict, a table, a tensor, a number, ...: tables that are arrays become lists, others
-- (empty ones too) dicts with sorted names; whole numbers become ints, a dict of tensors an
-- OrderedDict, text that is not UTF-8 bytes. Tensors are saved as plain tensors without
-- requires_grad. A path that ends in .safetensors takes a dict of tensors.
function M.save(path, value)
  check_path('save', path)
  if value == nil then F.raise('save: nothing to save: the value is nil') end
  local write = write_zip
  if path:find '%.safetensors$' then
    if type(value) ~= 'table' or value == dict.none then
      F.raise('save: ' .. path .. ': a safetensors file holds a dict of tensors')
    end
    write = safetensors.write
  end
  with_file(bytes.create(path), path, write_and_commit, value, write)
end

-- -- Paths ----------------------------------------------------------------------------------------

local text_out = F.new 'char *[1]'

local function take_text(status)
  F.check(status)
  local text = F.string(text_out[0])
  F.C.dlv3_text_free(text_out[0])
  return text
end

-- Equal texts for the same file, whatever path leads to it (a link, '..', other letter case on some
-- file systems): device and inode of what exists; of what does not, those of its folder, and its
-- name.
function M.identity(path) return take_text(F.C.dlv3_path_identity(text_out, path)) end

-- The identities of paths as a set: identity -> path. paths: a list that may have gaps.
function M.identities(paths)
  local set = {}
  for _, path in pairs(paths) do set[M.identity(path)] = path end
  return set
end

-- Raises where writing to path, which `option` names, would replace one of the input files (a list
-- that may have gaps).
function M.check_output(path, inputs, option)
  local input = M.identities(inputs)[M.identity(path)]
  if not input then return end
  F.raise(("'%s' would be written over the input '%s': choose another %s"):format(path, input, option))
end

-- Files that a system puts beside the user's own, under names that may end in .jpg: macOS's ._x.jpg
-- is no photo.
function M.is_system_file(name)
  return name:find '^%._' ~= nil or name == '.DS_Store' or name:lower() == 'thumbs.db' or name:lower() == 'desktop.ini'
end

-- The names in a folder, sorted, without a system's own files.
function M.names_in(folder)
  local names = {}
  for name in take_text(F.C.dlv3_list_dir(text_out, folder)):gmatch '[^\n]+' do
    if not M.is_system_file(name) then names[#names + 1] = name end
  end
  return names
end

-- name .. ending, with the name cut between UTF-8 characters where a file in the folder can not
-- have so long a name. more: bytes to leave free besides.
function M.fit_name(folder, name, ending, more)
  local room = tonumber(F.C.dlv3_name_max(folder)) - #ending - (more or 0)
  if #name <= room then return name .. ending end
  while room > 1 and name:find('^[\128-\191]', room + 1) do room = room - 1 end
  return name:sub(1, room) .. ending
end

-- fn(...), with the file's name in front of what it raises.
function M.about(path, fn, ...)
  local ok, result = pcall(fn, ...)
  if ok then return result end
  F.raise(path .. ': ' .. F.without_place(result))
end

-- Text as a file, atomically.
function M.save_text(path, text)
  check_path('save_text', path)
  with_file(bytes.create(path), path, write_and_commit, text, put_text)
end

return M
