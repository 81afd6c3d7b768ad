-- torch_file.lua - what PyTorch's containers have in common: the allow-list, storages, and tensors
-- that refer to them.
--
-- A session belongs to one file. While its pickle runs, tensors are only noted: which storage,
-- where in it, which sizes and strides. When it is known where the storages lie, resolve() reads
-- each needed storage once and puts tensors in the place of the notes. A storage with one row-major
-- tensor goes straight into that tensor; several views, or other strides, share one flat tensor of
-- the storage's bytes.

local F = require 'dlv3.core.ffi'
local bytes = require 'dlv3.io.bytes'
local dict = require 'dlv3.core.dict'
local opaque = require 'dlv3.io.opaque'
local pickle = require 'dlv3.io.pickle'
local zip = require 'dlv3.io.zip'
local C, fault, none = F.C, bytes.fault, dict.none

local M = {}

local Storage, Note = {}, {} -- metatables: a storage (or a part of one), a tensor to be

-- -- Dtypes ---------------------------------------------------------------------------------------

-- PyTorch's dtypes: ours, the bytes of an element in the file, and the C type where it is widened
-- to ours.
local dtypes = {
  float32 = {'f32', 4}, float64 = {'f64', 8}, float16 = {'f16', 2}, bfloat16 = {'bf16', 2}, int64 = {'i64', 8},
  int32 = {'i32', 4},
  int16 = {'i32', 2, 'int16_t'}, int8 = {'i32', 1, 'int8_t'}, uint8 = {'u8', 1}, bool = {'bool', 1},
  -- opaque
  complex32 = {false, 4}, complex64 = {false, 8}, complex128 = {false, 16}, quint8 = {false, 1}, qint32 = {false, 4},
  float = {'f32', 4}, double = {'f64', 8}, half = {'f16', 2}, long = {'i64', 8}, int = {'i32', 4},
  short = {'i32', 2, 'int16_t'},
}
local storages = {
  Float = 'float32', Double = 'float64', Half = 'float16', BFloat16 = 'bfloat16', Long = 'int64', Int = 'int32',
  Short = 'int16',
  Char = 'int8', Byte = 'uint8', Bool = 'bool', Untyped = 'uint8', ComplexHalf = 'complex32',
  ComplexFloat = 'complex64', ComplexDouble = 'complex128',
  QUInt8 = 'quint8', QInt8 = 'quint8', QUInt4x2 = 'quint8', QUInt2x4 = 'quint8', QInt32 = 'qint32',
}
M.storage_type = {f32 = 'FloatStorage', f64 = 'DoubleStorage', f16 = 'HalfStorage', bf16 = 'BFloat16Storage',
                  i64 = 'LongStorage',
                  i32 = 'IntStorage', u8 = 'ByteStorage', bool = 'BoolStorage'}

local function is_count(n) return type(n) == 'number' and n >= 0 and n == math.floor(n) and n <= 2 ^ 53 end

-- -- Notes of tensors -----------------------------------------------------------------------------

local MAX_DIMS = tonumber(C.DLV3_MAX_DIMS)

local function check_geometry(offset, size, stride, numel)
  if type(size) ~= 'table' or getmetatable(size) or type(stride) ~= 'table' or getmetatable(stride)
      or #size ~= #stride then
    fault 'a tensor without sizes and strides'
  end
  if #size > MAX_DIMS then fault('a tensor has %d dimensions; at most %d are supported', #size, MAX_DIMS) end
  if not is_count(offset) then fault('a tensor begins at element %s of its storage', bytes.shown(offset)) end
  local count, reach = 1, 0
  for i = 1, #size do
    if not is_count(size[i]) or not is_count(stride[i]) then
      fault('a tensor has size %s with stride %s', bytes.shown(size[i]), bytes.shown(stride[i]))
    end
    count = count * size[i]
    reach = reach + (size[i] - 1) * stride[i]
  end
  if count > 2 ^ 53 then fault('a tensor of %s has more elements than can be counted', table.concat(size, 'x')) end
  if count > 0 and offset + reach >= numel then
    fault('a tensor of sizes {%s}, strides {%s} from element %.0f on reaches past its storage of %.0f',
          table.concat(size, ', '), table.concat(stride, ', '), offset, numel)
  end
  return count
end

-- A tensor to be; dtype_name overrides the storage's own (a storage of bytes).
local function note(storage, offset, size, stride, dtype)
  if opaque.is(storage) then return storage end
  if getmetatable(storage) ~= Storage then fault 'a tensor without a storage' end
  dtype = dtype or storage.dtype
  if not dtype[1] then
    return opaque.new 'torch.Tensor (complex, quantised or of another dtype that is not supported)'
  end
  local root = storage.root
  root.used = root.used or dtype
  if root.used ~= dtype then fault("the storage '%s' is used with two dtypes", bytes.shown(root.key)) end
  local numel = storage.numel
  if dtype[2] ~= storage.dtype[2] then numel = math.floor(numel * storage.dtype[2] / dtype[2]) end
  local count = check_geometry(offset, size, stride, numel)
  -- copies: what was checked must not be changed by the rest of the pickle
  local n = setmetatable({root = root, offset = storage.offset + offset, size = {unpack(size)},
                          stride = {unpack(stride)}, count = count}, Note)
  root.notes[#root.notes + 1] = n
  return n
end
M.note = note

-- A storage of the session, made on its first mention.
function M.storage(session, key, dtype, numel)
  if type(key) ~= 'string' and type(key) ~= 'number' then fault 'a storage without a name' end
  if not is_count(numel) then fault("the storage '%s' has %s elements", bytes.shown(key), bytes.shown(numel)) end
  key = tostring(key)
  local root = session.roots[key]
  if not root then
    root = {key = key, dtype = dtype, numel = numel, notes = {}}
    session.roots[key] = root
    session.list[#session.list + 1] = root
    if session.place then session.place(root) end
  elseif root.dtype ~= dtype or root.numel ~= numel then
    fault("the storage '%s' is described twice, differently", bytes.shown(key))
  end
  return setmetatable({root = root, offset = 0, numel = numel, dtype = dtype}, Storage)
end

-- A window on a storage: the 'views' of old files.
function M.part(storage, offset, numel)
  if not is_count(offset) or not is_count(numel) or offset + numel > storage.numel then
    fault 'a view reaches past its storage'
  end
  return setmetatable({root = storage.root, offset = storage.offset + offset, numel = numel, dtype = storage.dtype},
                      Storage)
end

-- What persistent ids stand for: ('storage', type, key, location, numel [, view]), or ('module',
-- class, file, source text) in old files.
local function persistent(session, id)
  if type(id) == 'table' and not getmetatable(id) and id[1] == 'module' and type(id[2]) == 'table'
      and getmetatable(id[2]) == pickle.Global then
    return id[2]
  end
  if type(id) ~= 'table' or getmetatable(id) or id[1] ~= 'storage' then
    fault('a reference to %s, which is no storage',
          bytes.shown(type(id) == 'table' and not getmetatable(id) and id[1] or id))
  end
  local global = id[2]
  if type(global) ~= 'table' or getmetatable(global) ~= pickle.Global then fault 'a storage without a type' end
  if not global.storage then return opaque.new(global.name) end
  local storage = M.storage(session, id[3], global.storage, id[5])
  local view = id[6]
  if type(view) == 'table' and not getmetatable(view) then return M.part(storage, view[2], view[3]) end
  return storage
end

-- -- The allow-list -------------------------------------------------------------------------------

local globals = {}
local function allow(names, call, fields)
  for name in names:gmatch '%S+' do
    local g = pickle.global(name, call)
    for k, v in pairs(fields or {}) do g[k] = v end
    globals[name] = g
  end
end

allow('torch._utils._rebuild_tensor_v2 torch._utils._rebuild_tensor',
      function(a) return note(a[1], a[2], a[3], a[4]) end)
allow('torch._utils._rebuild_tensor_v3', function(a)
  return note(a[1], a[2], a[3], a[4], type(a[7]) == 'string' and dtypes[a[7]:match '[%w]+$'] or {false})
end)

local function first_tensor(a)
  if getmetatable(a[1]) ~= Note and not opaque.is(a[1]) then fault 'a parameter without its tensor' end
  return a[1]
end
local function ignore_state() end
allow('torch._utils._rebuild_parameter torch._utils._rebuild_parameter_with_state torch.nn.parameter.Parameter '
      .. 'torch.nn.parameter.Buffer torch.autograd.variable.Variable',
      function(a) return first_tensor(a), ignore_state end)
-- a tensor with attributes: (function, class, arguments, attributes)
allow('torch._tensor._rebuild_from_type_v2', function(a)
  local f = a[1]
  if type(f) ~= 'table' or getmetatable(f) ~= pickle.Global or not f.rebuild or type(a[3]) ~= 'table'
      or getmetatable(a[3]) then
    fault 'a tensor of an unknown kind'
  end
  return f.call(a[3])
end)
for name, g in pairs(globals) do if name:find '_rebuild_tensor' then g.rebuild = true end end
allow('torch.Tensor torch._tensor.Tensor torch._C.TensorBase', function() fault 'a tensor without its content' end)

allow('collections.OrderedDict collections.Counter builtins.dict __builtin__.dict', function(a)
  local d = dict.new()
  if type(a[1]) == 'table' and a[1] ~= none then
    if dict.is(a[1]) then for k, v in dict.items(a[1]) do d[k] = v end
    elseif #a[1] > 0 then
      for _, pair in ipairs(a[1]) do -- as Python 2 wrote them
        if type(pair) ~= 'table' or #pair ~= 2 or type(pair[1]) ~= 'string' and type(pair[1]) ~= 'number' then
          fault 'a dict made of something else than pairs'
        end
        if pair[1] == pair[1] then d[pair[1]] = pair[2] end
      end
    end
  end
  return d
end)
allow('collections.defaultdict', function() return dict.new() end)
allow('argparse.Namespace types.SimpleNamespace', function()
  return dict.new(), function(d, state)
    if not dict.is(state) then fault 'a Namespace without its fields' end
    for k, v in dict.items(state) do d[k] = v end
  end
end)
allow('copyreg._reconstructor copy_reg._reconstructor', function(a)
  if type(a[1]) ~= 'table' or getmetatable(a[1]) ~= pickle.Global then fault 'an object without a class' end
  return a[1].call and a[1].call {} or opaque.new(a[1].name)
end)
allow('builtins.object __builtin__.object builtins.list __builtin__.list builtins.int builtins.float builtins.str', nil)
allow('torch.Size builtins.set builtins.frozenset builtins.tuple __builtin__.set __builtin__.frozenset', function(a)
  if a[1] == nil then return {} end
  if type(a[1]) ~= 'table' or getmetatable(a[1]) then fault 'a set or tuple of something that is no list' end
  local copy = {}
  for i, v in ipairs(a[1]) do copy[i] = v end
  return copy
end)
allow('torch.device', function(a) return tostring(a[1]) .. (type(a[2]) == 'number' and ':' .. a[2] or '') end)
allow('pathlib.PosixPath pathlib.WindowsPath pathlib.PurePosixPath pathlib._local.PosixPath', function(a)
  local n = 0
  for i = 1, #a do
    if type(a[i]) ~= 'string' then fault 'a path that is no text' end
    n = n + #a[i]
  end
  if n > 65536 then fault('a path of %.0f characters', n) end
  return (table.concat(a, '/'):gsub('^//', '/'))
end)
allow('torch.storage._LoadEndianness torch.serialization._get_layout', nil)

-- Bytes as protocol 2 spells them: the text in Latin-1.
allow('_codecs.encode', function(a)
  if type(a[1]) ~= 'string' then fault 'bytes that are no text' end
  return (a[1]:gsub('([\194\195])([\128-\191])',
                    function(x, y) return string.char((x:byte() - 194) * 64 + y:byte()) end))
end)

-- numpy's scalars: results such as a best mIoU are often kept as one.
local NumpyType = {}
allow('numpy.dtype', function(a)
  return setmetatable({code = type(a[1]) == 'string' and a[1]:match '^[<|=]?(%a%d)$'}, NumpyType), function(t, state)
    if type(state) == 'table' and not getmetatable(state) and state[2] == '>' then t.code = nil end
  end
end)
allow('numpy.core.numeric._frombuffer numpy._core.numeric._frombuffer',
      function() return opaque.new 'numpy.ndarray' end)
local numpy_types = {f8 = 'f64', f4 = 'f32', i8 = 'i64', i4 = 'i32', i2 = 'i16', i1 = 'i8', u1 = 'u8', b1 = 'u8'}
allow('numpy.core.multiarray.scalar numpy._core.multiarray.scalar', function(a)
  local code = getmetatable(a[1]) == NumpyType and a[1].code
  if not numpy_types[code] or type(a[2]) ~= 'string' or #a[2] ~= tonumber(code:sub(2)) then
    return opaque.new 'numpy.generic'
  end
  local x = bytes.number(a[2], numpy_types[code])
  if code == 'b1' then return x ~= 0 end
  return tonumber(x)
end)

for name, dtype in pairs(storages) do
  local fields = {storage = dtypes[dtype]}
  allow(('torch.%sStorage torch.cuda.%sStorage'):format(name, name), nil, fields)
  allow(('torch.%sTensor torch.cuda.%sTensor'):format(name, name), nil)
end
allow('torch.storage.UntypedStorage', nil, {storage = dtypes.uint8})

local function lookup(name)
  local dtype = name:match '^torch%.(%w+)$'
  if dtype and dtypes[dtype] then return name end -- a dtype as a value: its name
  return globals[name]
end

-- A session: what a pickle's handlers note. They are no closures: a compiled trace would keep
-- those, and the tensors behind them, alive. place(root): called for each new storage, to find its
-- bytes.
function M.session(place)
  local s = {roots = {}, list = {}, place = place}
  s.handlers = {globals = lookup, persistent = persistent, context = s}
  return s
end

-- -- Reading storages -----------------------------------------------------------------------------

local tensor = require 'dlv3.core.tensor'

local function row_major(n)
  local step = 1
  for i = #n.size, 1, -1 do
    if n.size[i] > 1 and n.stride[i] ~= step then return false end
    step = step * n.size[i]
  end
  return true
end

local function same_geometry(a, b)
  if a.offset ~= b.offset or #a.size ~= #b.size then return false end
  for i = 1, #a.size do if a.size[i] ~= b.size[i] or a.stride[i] ~= b.stride[i] then return false end end
  return true
end

-- numel elements at byte `at` as a new tensor of these sizes.
local function read_elements(file, root, at, sizes)
  local dtype = root.used
  local t = tensor.empty(sizes, {dtype = dtype[1]})
  local n = t:numel()
  if not dtype[3] then
    file:read_tensor(t, at)
    return t
  end
  local raw, wide = file:read(at, n * dtype[2], 'a storage'), F.new('int32_t[?]', math.max(n, 1)) -- int8 and int16
  local narrow = F.new(dtype[3] .. '[?]', math.max(n, 1))
  F.copy(narrow, raw, #raw)
  for i = 0, n - 1 do wide[i] = narrow[i] end
  F.check(C.dlv3_tensor_from_bytes(t.p, wide, n * 4))
  return t
end

local sizes_buf, strides_buf = F.new('int64_t[?]', MAX_DIMS), F.new('int64_t[?]', MAX_DIMS)

local function window(flat, n, first)
  for i = 1, #n.size do sizes_buf[i - 1], strides_buf[i - 1] = n.size[i], n.stride[i] end
  local out = F.tensor_out()
  F.check(C.dlv3_tensor_window(out, flat.p, #n.size, sizes_buf, strides_buf, n.offset - first))
  return F.take(out)
end

-- The elements from first on, of a storage whose archive has a CRC: all of its bytes are read for
-- that, and no others into the tensor.
local function read_checked(file, root, at, n_bytes, sizes)
  if not root.member then return read_elements(file, root, at, sizes) end
  file:crc()
  file:skim(root.at, at - root.at)
  local t = read_elements(file, root, at, sizes)
  file:skim(at + n_bytes, root.at + root.member.size - at - n_bytes)
  zip.check_crc(file:crc(), root.member)
  return t
end

-- The bytes that will be read, counted before: overlapping members could otherwise stand for more
-- than there is.
local function claim(session, file, root, n_bytes)
  session.claimed = (session.claimed or 0) + n_bytes
  if session.claimed > file.size then
    fault("its storages overlap: '%s' and those before it have more bytes than the file", bytes.shown(root.key))
  end
end

local function read_storage(session, file, root)
  local notes, width = {}, root.used[2]
  for _, n in ipairs(root.notes) do
    if n.count == 0 then n.tensor = tensor.empty(n.size, {dtype = root.used[1]}) else notes[#notes + 1] = n end
  end
  if #notes == 0 then return end
  if not root.at then fault("the storage '%s' is not in the file", bytes.shown(root.key)) end
  local first, stop, alone = math.huge, 0, row_major(notes[1])
  for _, n in ipairs(notes) do
    local reach = n.offset + 1
    for i = 1, #n.size do reach = reach + (n.size[i] - 1) * n.stride[i] end
    first, stop = math.min(first, n.offset), math.max(stop, reach)
    alone = alone and same_geometry(n, notes[1])
  end
  local at, n_bytes = root.at + first * width, (stop - first) * width
  file:check(at, n_bytes, ("the storage '%s'"):format(bytes.shown(root.key)))
  claim(session, file, root, root.member and root.member.size or n_bytes)
  if alone then
    notes[1].tensor = read_checked(file, root, at, n_bytes, notes[1].size)
    for i = 2, #notes do notes[i].tensor = notes[1].tensor:detach() end
    return
  end
  local flat = read_checked(file, root, at, n_bytes, {stop - first})
  for _, n in ipairs(notes) do n.tensor = window(flat, n, first) end
end

-- -- Putting tensors in place ---------------------------------------------------------------------

local function resolved(v, state, depth)
  if type(v) ~= 'table' or v == none then return v end
  local mt = getmetatable(v)
  if mt == Note then return v.tensor end
  if opaque.is(v) then return v end
  if mt == Storage then return opaque.new 'torch.Storage' end
  if mt == pickle.Global then return opaque.new(v.name) end
  if mt == NumpyType then return opaque.new 'numpy.dtype' end
  if depth > pickle.MAX_DEPTH then fault('nested deeper than %d', pickle.MAX_DEPTH) end
  if state[v] == 'open' then fault 'a list or dict in it contains itself' end
  if state[v] then return v end
  state[v] = 'open'
  if dict.is(v) then
    for k, x in dict.items(v) do if type(x) == 'table' then v[k] = resolved(x, state, depth + 1) end end
  elseif mt == nil then
    for i = 1, #v do if type(v[i]) == 'table' then v[i] = resolved(v[i], state, depth + 1) end end
  else fault 'expected a value, got an object' end
  state[v] = 'done'
  return v
end

-- value with tensors where notes stood.
function M.resolve(session, file, value)
  if type(value) == 'table' and getmetatable(value) == pickle.Global then value = opaque.new(value.name) end
  if opaque.is(value) then
    fault('holds %s, not a dict of weights; if it is a model, %s', opaque.text(value),
          opaque.conversion(file.path, 'torch.load'))
  end
  for _, root in ipairs(session.list) do
    if #root.notes > 0 then read_storage(session, file, root) end
  end
  return resolved(value, {}, 1)
end

return M
