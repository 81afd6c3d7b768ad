-- ffi.lua - the only door to C: the runtime's functions, status to error, tensor handles.
--
-- The declarations come from the binary itself (dlv3.h, preprocessed and embedded at build time),
-- so they can not drift. Nothing in the API calls back into Lua. A handle is a struct around a
-- dlv3_tensor pointer and owns one reference to it; its methods are attached by tensor.lua.

local ffi = require 'ffi'
local suggest = require 'dlv3.core.suggest'
local module_path = require 'dlv3.core.module_path'

assert(ffi.abi('64bit') and ffi.abi('gc64'), 'dlv3 needs a 64-bit LuaJIT with GC64 (package luajit 2.1)')

ffi.cdef 'extern const char dlv3_cdef_text[];'
ffi.cdef(ffi.string(ffi.C.dlv3_cdef_text))
ffi.cdef 'typedef struct { dlv3_tensor *p; } dlv3_handle;'

local C = ffi.C
local M = {
  C = C,
  new = ffi.new, string = ffi.string, cast = ffi.cast, copy = ffi.copy, fill = ffi.fill, sizeof = ffi.sizeof,
  typeof = ffi.typeof, istype = ffi.istype, load = ffi.load, gc = ffi.gc, cdef = ffi.cdef,
}

-- -- Errors ---------------------------------------------------------------------------------------

local root = debug.getinfo(1, 'S').source:match('^@(.*)lua/dlv3/core/ffi%.lua$') or ''

M.root = root -- where lua/, models/ and scripts/ are, with a slash at the end

-- A chunk's name as people read it: a file below the root without the root, "line" for "=line".
function M.short(source)
  local file = source:match('^[@=](.*)$') or '(code)'
  return file:sub(1, #root) == root and file:sub(#root + 1) or file
end

-- "models/deeplabv3.lua:58" of the first caller that is not the library itself, or nil.
function M.user_line()
  for level = 3, 60 do
    local info = debug.getinfo(level, 'Sl')
    if not info then return nil end
    local source = info.source
    local library = source:find('lua/dlv3/', 1, true) or source:find('models/init.lua', 1, true)
                    or source:find('models/from_file.lua', 1, true)
    if info.currentline > 0 and not library then
      return M.short(source) .. ':' .. info.currentline
    end
  end
end

-- A text that may hold anything, such as a name from a file, for a message: what a terminal would
-- obey and what is no UTF-8 as \xNN.
function M.printable(s)
  if not s:find '[%c\127-\255]' then return s end
  local out = ffi.new('char[?]', 4 * #s + 1)
  return ffi.string(out, C.dlv3_printable(out, 4 * #s + 1, s, #s))
end

-- Raises message at the user's line with the module path in front, its unprintable bytes escaped.
-- Messages are data, never formats.
function M.raise(message)
  local line, where = M.user_line(), module_path.text()
  module_path.reset() -- the error leaves all modules that are being called
  error((line and line .. ': ' or '') .. (where and 'in ' .. where .. ': ' or '') .. M.printable(message), 0)
end

-- Raises "what: expected ..., got ..." at the user's line. expected: how a message calls a value
-- that fits; v: what was given.
function M.raise_unexpected(what, expected, v)
  M.raise(('%s: expected %s, got %s'):format(what, expected, require 'dlv3.core.expect'.shown(v)))
end

-- A message that was caught, without the place in the code that raise put in front.
function M.without_place(message) return (tostring(message):gsub('^[^\n]-%.lua:%d+: ', '')) end

-- The message of the runtime's last error, of this thread.
function M.last_error() return ffi.string(C.dlv3_last_error()) end

-- Raises the runtime's last error unless status is DLV3_OK.
function M.check(status)
  if status ~= C.DLV3_OK then M.raise(M.last_error()) end
end

-- What needs less memory: a script names its own options.
M.memory_advice = 'a smaller batch or crop needs less; dlv3.memory() counts'

-- Calls fn, which returns a status. Out of memory is retried once, after what nobody needs is gone.
function M.retry(fn, ...)
  local status = fn(...)
  if status ~= C.DLV3_ERR_OOM then return status end
  collectgarbage()
  collectgarbage()
  for d = 0, C.dlv3_device_open_count() - 1 do C.dlv3_memory_flush(d) end
  status = fn(...)
  if status ~= C.DLV3_ERR_OOM then return status end
  M.raise(M.last_error() .. '\n  largest live tensors: ' .. ffi.string(C.dlv3_memory_largest(-1)) ..
          '\n  ' .. M.memory_advice)
end

-- The collector does not see a tensor's bytes: when many of them are held, it is run.
function M.relieve()
  if C.dlv3_memory_pressure() == 1 then collectgarbage() end
end

-- -- Handles --------------------------------------------------------------------------------------

local handle_type = ffi.typeof('dlv3_handle')
local metatable = {__gc = function(h) if h.p ~= nil then C.dlv3_tensor_free(h.p) end end}

-- The handle type gets its methods once, from tensor.lua, before the first handle is made.
function M.seal(methods)
  for name, fn in pairs(methods) do metatable[name] = fn end
  ffi.metatype(handle_type, metatable)
end

-- A handle that takes over one reference.
function M.wrap(pointer) return handle_type(pointer) end

-- A place for the tensor that a C function returns; take gives its handle.
function M.tensor_out() return ffi.new('dlv3_tensor *[1]') end

-- A handle for what an out-parameter received.
function M.take(out) return handle_type(out[0]) end

-- Whether x is a tensor.
function M.is_tensor(x) return type(x) == 'cdata' and ffi.istype(handle_type, x) end

-- The C pointer of a tensor; an error at the user's line where x is none. Keep x alive while the
-- pointer is used.
function M.ptr(x)
  if not M.is_tensor(x) then
    M.raise('expected a tensor, got ' .. require 'dlv3.core.expect'.shown(x))
  end
  return x.p
end

-- -- Dtypes ---------------------------------------------------------------------------------------

M.dtypes = {'bool', 'u8', 'i32', 'i64', 'f16', 'bf16', 'f32', 'f64'} -- in the order of dlv3.h
M.width = {bool = 1, u8 = 1, i32 = 4, i64 = 8, f16 = 2, bf16 = 2, f32 = 4, f64 = 8} -- bytes of an element
M.dtype_id = {}
for i, name in ipairs(M.dtypes) do M.dtype_id[name] = i - 1 end

-- What PyTorch calls them.
M.dtype_elsewhere = {
  float16 = 'f16', half = 'f16', bfloat16 = 'bf16', float32 = 'f32', float = 'f32', float64 = 'f64', double = 'f64',
  uint8 = 'u8', byte = 'u8',
  int32 = 'i32', int = 'i32', int64 = 'i64', long = 'i64', boolean = 'bool',
}

-- Why there is no dtype of this name, with the one that is meant.
function M.no_dtype(name)
  name = tostring(name)
  local meant = M.dtype_elsewhere[name:match '[^.]*$']
  return ("no dtype is called '%s'%s (there are: %s)"):format(name,
      meant and (": it is '%s' here"):format(meant) or suggest.text(name, M.dtypes), table.concat(M.dtypes, ' '))
end

return M
