-- pickle.lua - Python's pickles, read by interpretation of an allow-list and written for
-- torch.load.
--
-- A pickle is a program for a stack machine. This one runs protocols 0 to 5 and calls nothing but
-- what its caller's `globals` hands out: objects of any other class become opaque values
-- (opaque.lua). Lists, tuples and sets become Lua arrays, dicts become dicts (dict.lua), None is
-- dict.none, bytes and text are strings, whole numbers above 2^53 are 64-bit cdata.
-- Written are protocol-2 pickles made of the operations that torch.load(weights_only=True) knows.

local bytes = require 'dlv3.io.bytes'
local dict = require 'dlv3.core.dict'
local opaque = require 'dlv3.io.opaque'
local fault, none = bytes.fault, dict.none

local M = {MAX_BYTES = 2 ^ 28, MAX_OBJECTS = 8e6, MAX_DEPTH = 200}
local DICT, OPAQUE = 16, 8 -- objects that these count as: their share of the memory

-- -- The machine ----------------------------------------------------------------------------------

-- What a name stands for: call(args) runs it; without one, or off the allow-list, calls give opaque
-- values. Never visible outside.
local Global = {}
M.Global = Global
-- What a global name of a pickle stands for; call(args): what calling it gives, nil: an opaque
-- value.
function M.global(name, call) return setmetatable({name = name, call = call}, Global) end

local NEED_MORE = {} -- raised where the text at hand ends before the file does

-- Machine m: text s, next position i, stack and its top, marks, memo, and what the caller gave.

-- The position of n bytes that are passed over.
local function take(m, n)
  local i = m.i
  if i + n - 1 > #m.s then
    if m.more then error(NEED_MORE, 0) end
    fault('truncated: the pickle at byte %.0f ends in the middle', m.base)
  end
  m.i = i + n
  return i
end

local function text(m, n)
  local i = take(m, n)
  return m.s:sub(i, i + n - 1)
end

local function line(m)
  local stop = m.s:find('\n', m.i, true)
  if not stop then take(m, #m.s + 1) end
  local s = m.s:sub(m.i, stop - 1)
  m.i = stop + 1
  return s
end

local function at(m) return m.base + m.i - 2 end -- of the operation that runs, for messages

-- Every object costs, also a copy's elements: what a pickle can make stays in proportion to its
-- size.
local function count(m, n)
  m.objects = m.objects + (n or 1)
  if m.objects > M.MAX_OBJECTS then fault('the pickle makes more than %d objects', M.MAX_OBJECTS) end
end

local function push(m, v)
  m.top = m.top + 1
  m.stack[m.top] = v
end

local function new(m, v)
  count(m)
  return push(m, v)
end

local function floor_of(m) return m.marks[#m.marks] or 0 end

local function pop(m)
  local top = m.top
  if top <= floor_of(m) then fault('the pickle is damaged at byte %.0f: nothing is left on its stack', at(m)) end
  local v = m.stack[top]
  m.stack[top] = nil
  m.top = top - 1
  return v
end

local function peek(m)
  if m.top <= floor_of(m) then fault('the pickle is damaged at byte %.0f: nothing is left on its stack', at(m)) end
  return m.stack[m.top]
end

-- What was pushed since the last mark, as an array.
local function pop_mark(m)
  local mark = table.remove(m.marks) or fault('the pickle is damaged at byte %.0f: no mark on its stack', at(m))
  local items, n = {}, 0
  for k = mark + 1, m.top do
    n = n + 1
    items[n], m.stack[k] = m.stack[k], nil
  end
  m.top = mark
  return items, n
end

local function last(m, n)
  local items = {}
  for k = n, 1, -1 do items[k] = pop(m) end
  return items
end

-- -- Values ---------------------------------------------------------------------------------------

local function kind(v)
  if v == none then return 'None' end
  if type(v) ~= 'table' then return 'a ' .. type(v) end
  if getmetatable(v) == Global then return v.name end
  if opaque.is(v) then return opaque.text(v) end
  if dict.is(v) then return 'a dict' end
  return getmetatable(v) and 'an object' or 'a list'
end

local function is_list(v) return type(v) == 'table' and getmetatable(v) == nil end

local function size_of(v)
  return is_list(v) and #v or dict.is(v) and dict.size(v) or type(v) == 'string' and math.floor(#v / 64) or 0
end

-- Two's complement, little-endian -> a number, 64-bit cdata above 2^53, rounded above 64 bits.
local function whole(s)
  local n = #s
  if n == 0 then return 0 end
  local negative = s:byte(n) >= 128
  if n <= 8 then
    local v = bytes.number(s .. (negative and '\255' or '\0'):rep(8 - n), 'i64')
    local x = tonumber(v)
    if math.abs(x) <= 2 ^ 53 then return x end
    return v
  end
  local x = 0
  for k = n, 1, -1 do x = x * 256 + (negative and 255 - s:byte(k) or s:byte(k)) end
  return negative and -x - 1 or x
end

local function whole_from_text(m, s)
  s = s:gsub('L$', '')
  if not s:find '^[+-]?%d+$' or #s > 40 then
    fault("the pickle is damaged at byte %.0f: '%s' is not a whole number", at(m), bytes.shown(s))
  end
  local x = tonumber(s)
  if math.abs(x) <= 2 ^ 53 or math.abs(x) >= 2 ^ 63 then return x end
  local v = 0LL
  for digit in s:gmatch '%d' do v = v * 10 + tonumber(digit) end
  return s:sub(1, 1) == '-' and -v or v
end

-- Keys that a dict can not have are spelt: None, (1, 2).
local function key_of(m, k)
  local t = type(k)
  if t == 'string' or t == 'boolean' or t == 'number' and k == k then return k end
  if t == 'cdata' then return (tostring(k):gsub('U?LL$', '')) end
  if k == none then return 'None' end
  if is_list(k) and #k <= 16 then
    local parts = {}
    for i, v in ipairs(k) do parts[i] = type(v) == 'table' and '...' or tostring(v):sub(1, 64) end
    return '(' .. table.concat(parts, ', ') .. ')'
  end
  if t == 'table' and getmetatable(k) and not dict.is(k) then -- an optimiser's state has tensors as keys
    m.keys[k] = m.keys[k] or m.keys.n + 1
    m.keys.n = math.max(m.keys.n, m.keys[k])
    return ('<%s %d>'):format(kind(k), m.keys[k])
  end
  fault('a dict has %s as a key, at byte %.0f', kind(k), at(m))
end

local function set_items(m, d, items, n)
  if not dict.is(d) and not opaque.is(d) then
    fault('the pickle is damaged at byte %.0f: %s is not a dict', at(m), kind(d))
  end
  if n % 2 == 1 then fault('the pickle is damaged at byte %.0f: a key without a value', at(m)) end
  for k = 1, n, 2 do
    count(m)
    if not opaque.is(d) then d[key_of(m, items[k])] = items[k + 1] end
  end
end

local function add_items(m, list, items, n)
  if opaque.is(list) then return end
  if not is_list(list) then fault('the pickle is damaged at byte %.0f: %s is not a list', at(m), kind(list)) end
  local size = #list
  for k = 1, n do list[size + k] = items[k] end
end

-- Names that no file of weights needs and that attacks are made of. They would not run here: but
-- PyTorch must not be told to load the file.
local attacks = {os = true, posix = true, nt = true, subprocess = true, pty = true, runpy = true, shutil = true,
                 socket = true, importlib = true}
for name in ('eval exec compile open __import__'):gmatch '%S+' do
  attacks['builtins.' .. name], attacks['__builtin__.' .. name] = true, true
end

local function find_global(m, module, name)
  local full = module .. '.' .. name
  if attacks[module] or attacks[full] then
    fault('refuses %s at byte %.0f: weights have no use for it, so the file may be an attack; delete it, and do '
          .. 'not load it with weights_only=False in PyTorch',
          bytes.shown(full), at(m))
  end
  return m.globals and m.globals(full) or M.global(full)
end

-- What a call of a name off the allow-list gives. Functions that make an object of a class have the
-- class first.
local function call_unknown(f, args)
  if opaque.is(f) then return f end
  local class = (f.name:find '_reconstruct' or f.name:find '__newobj' or f.name:find '%.getattr$') and is_list(args)
      and args[1]
  return opaque.new(type(class) == 'table' and getmetatable(class) == Global and class.name or f.name)
end

-- Calls a global with an argument list.
local function call(m, f, args)
  if opaque.is(f) or type(f) == 'table' and getmetatable(f) == Global and not f.call then
    count(m, OPAQUE)
    return call_unknown(f, args)
  end
  if type(f) ~= 'table' or getmetatable(f) ~= Global then
    fault('the pickle is damaged at byte %.0f: it calls %s', at(m), kind(f))
  end
  if not is_list(args) then fault('the pickle is damaged at byte %.0f: the arguments are %s', at(m), kind(args)) end
  for i = 1, #args do count(m, 1 + size_of(args[i])) end
  count(m)
  local ok, v, build = pcall(f.call, args)
  if not ok then
    if bytes.is_fault(v) then fault('%s, in a call of %s at byte %.0f', v.text, f.name, at(m)) end
    error(v, 0)
  end
  if dict.is(v) then count(m, DICT) end
  if build then m.builders[v] = build end
  return v
end

local function build(m)
  local state = pop(m)
  local object = peek(m)
  local how = type(object) == 'table' and m.builders[object]
  count(m, 1 + size_of(state))
  if how then how(object, state)
  -- attributes of an OrderedDict or another dict (PyTorch's _metadata) carry nothing that is needed
  elseif not dict.is(object) and not opaque.is(object) then
    fault('the pickle gives a state to %s at byte %.0f, which takes none', kind(object), at(m))
  end
end

local function memo_get(m, i)
  local v = m.memo[i]
  if v == nil then fault('the pickle is damaged at byte %.0f: nothing was stored as %s', at(m), tostring(i)) end
  push(m, v)
end

local function memo_put(m, i)
  if m.memo[i] == nil then
    count(m)
    m.memos = m.memos + 1
  end
  m.memo[i] = peek(m)
end

-- "abc\n\x41" as Python's repr writes it
local string_escapes = {n = '\n', r = '\r', t = '\t', ['\\'] = '\\', ["'"] = "'", ['"'] = '"', a = '\a', b = '\b',
                        f = '\f', v = '\v'}
local function unquoted(m, s)
  local body = s:match "^'(.*)'$" or s:match '^"(.*)"$'
  if not body then fault('the pickle is damaged at byte %.0f: a string without its quotes', at(m)) end
  return (body:gsub('\\(.)(%x?%x?)', function(c, hex)
    if c == 'x' and #hex == 2 then return string.char(tonumber(hex, 16)) end
    return (string_escapes[c] or '\\' .. c) .. hex
  end))
end

-- Latin-1 with \uXXXX
local function raw_unicode(s)
  s = s:gsub('[\128-\255]', function(c) return bytes.utf8(c:byte()) end)
  return (s:gsub('\\u(%x%x%x%x)', function(h) return bytes.utf8(tonumber(h, 16)) end):gsub('\\U(%x%x%x%x%x%x%x%x)',
      function(h)
    local code = tonumber(h, 16)
    return code < 0x110000 and bytes.utf8(code) or nil
  end))
end

-- A length of n bytes in front of what follows.
local function sized(m, n)
  local i = take(m, n)
  local length = n == 1 and m.s:byte(i) or n == 4 and bytes.u32(m.s, i) or bytes.u64(m.s, i)
  if length > M.MAX_BYTES then fault('the pickle at byte %.0f holds a string of %.0f bytes', at(m), length) end
  count(m)
  return text(m, length)
end

-- -- The operations -------------------------------------------------------------------------------

local ops = {}
local function op(char, fn) ops[char:byte()] = fn end

op('\128', function(m) -- PROTO
  local version = m.s:byte(take(m, 1))
  if version > 5 then fault('pickle protocol %d is not known (up to 5)', version) end
end)
op('\149', function(m) take(m, 8) end) -- FRAME: no use to us

op('(', function(m) m.marks[#m.marks + 1] = m.top end)
op('0', function(m)
  if m.top == floor_of(m) and m.top > 0 then table.remove(m.marks) else pop(m) end
end)
op('1', function(m) pop_mark(m) end)
op('2', function(m) push(m, peek(m)) end)

op('N', function(m) push(m, none) end)
op('\136', function(m) push(m, true) end)
op('\137', function(m) push(m, false) end)
op('K', function(m) push(m, m.s:byte(take(m, 1))) end)
op('M', function(m) push(m, bytes.u16(m.s, take(m, 2))) end)
op('J', function(m) push(m, bytes.i32(m.s, take(m, 4))) end)
op('I', function(m)
  local s = line(m)
  if s == '00' then push(m, false) elseif s == '01' then push(m, true) else push(m, whole_from_text(m, s)) end
end)
op('L', function(m) push(m, whole_from_text(m, line(m))) end)
op('\138', function(m) push(m, whole(sized(m, 1))) end)
op('\139', function(m) push(m, whole(sized(m, 4))) end)
op('F', function(m)
  local s = line(m)
  local value = ({inf = math.huge, ['-inf'] = -math.huge, nan = 0 / 0, ['-nan'] = 0 / 0})[s]
      or s:find '^[%d+-.eE]+$' and tonumber(s)
  push(m, value or fault("the pickle is damaged at byte %.0f: '%s' is not a number", at(m), bytes.shown(s)))
end)
op('G', function(m) push(m, bytes.number(text(m, 8):reverse(), 'f64')) end)

op('S', function(m) new(m, unquoted(m, line(m))) end)
op('T', function(m) push(m, sized(m, 4)) end)
op('U', function(m) push(m, sized(m, 1)) end)
op('V', function(m) new(m, raw_unicode(line(m))) end)
op('X', function(m) push(m, sized(m, 4)) end)
op('\140', function(m) push(m, sized(m, 1)) end)
op('\141', function(m) push(m, sized(m, 8)) end)
op('B', function(m) push(m, sized(m, 4)) end)
op('C', function(m) push(m, sized(m, 1)) end)
op('\142', function(m) push(m, sized(m, 8)) end)
op('\150', function(m) push(m, sized(m, 8)) end)

op(']', function(m) new(m, {}) end)
op('}', function(m)
  count(m, DICT)
  new(m, dict.new())
end)
op(')', function(m) new(m, {}) end)
op('\143', function(m) new(m, {}) end)
op('l', function(m) new(m, (pop_mark(m))) end)
op('t', function(m) new(m, (pop_mark(m))) end)
op('\145', function(m) new(m, (pop_mark(m))) end)
op('\133', function(m) new(m, last(m, 1)) end)
op('\134', function(m) new(m, last(m, 2)) end)
op('\135', function(m) new(m, last(m, 3)) end)
op('d', function(m)
  local items, n = pop_mark(m)
  local d = dict.new()
  count(m, DICT)
  set_items(m, d, items, n)
  new(m, d)
end)
op('a', function(m)
  local v = pop(m)
  add_items(m, peek(m), {v}, 1)
end)
local function appends(m)
  local items, n = pop_mark(m)
  add_items(m, peek(m), items, n)
end
op('e', appends)
op('\144', appends)
op('s', function(m)
  local items = last(m, 2)
  set_items(m, peek(m), items, 2)
end)
op('u', function(m)
  local items, n = pop_mark(m)
  set_items(m, peek(m), items, n)
end)

op('p', function(m) memo_put(m, whole_from_text(m, line(m))) end)
op('q', function(m) memo_put(m, m.s:byte(take(m, 1))) end)
op('r', function(m) memo_put(m, bytes.u32(m.s, take(m, 4))) end)
op('\148', function(m) memo_put(m, m.memos) end)
op('g', function(m) memo_get(m, whole_from_text(m, line(m))) end)
op('h', function(m) memo_get(m, m.s:byte(take(m, 1))) end)
op('j', function(m) memo_get(m, bytes.u32(m.s, take(m, 4))) end)

op('c', function(m)
  local module = line(m)
  push(m, find_global(m, module, line(m)))
end)
op('\147', function(m)
  local names = last(m, 2)
  if type(names[1]) ~= 'string' or type(names[2]) ~= 'string' then
    fault('the pickle is damaged at byte %.0f: a name that is no text', at(m))
  end
  push(m, find_global(m, names[1], names[2]))
end)
op('R', function(m)
  local a = last(m, 2)
  push(m, call(m, a[1], a[2]))
end)
op('\129', function(m) -- NEWOBJ
  local a = last(m, 2)
  push(m, call(m, a[1], a[2]))
end)
op('\146', function(m) -- NEWOBJ_EX
  local a = last(m, 3)
  local named = not dict.is(a[3]) or next(a[3]) ~= nil
  local known = type(a[1]) == 'table' and getmetatable(a[1]) == Global and a[1].call
  push(m, named and known and opaque.new(a[1].name) or call(m, a[1], a[2]))
end)
op('i', function(m) -- INST
  local module = line(m)
  local f = find_global(m, module, line(m))
  push(m, call(m, f, (pop_mark(m))))
end)
op('o', function(m) -- OBJ
  local items = pop_mark(m)
  local f = table.remove(items, 1)
  push(m, call(m, f, items))
end)
op('b', build)
local function persistent(m, id)
  if not m.persistent then fault('the pickle refers to something outside of it at byte %.0f', at(m)) end
  count(m)
  push(m, m.persistent(m.context, id))
end
op('P', function(m) persistent(m, line(m)) end)
op('Q', function(m) persistent(m, pop(m)) end)

for char, what in pairs {['\130'] = 'an extension registry', ['\131'] = 'an extension registry',
                         ['\132'] = 'an extension registry',
                         ['\151'] = 'buffers outside of it', ['\152'] = 'buffers outside of it'} do
  op(char, function(m) fault('the pickle needs %s at byte %.0f, which is not supported', what, at(m)) end)
end

-- -- Running --------------------------------------------------------------------------------------

local STOP = ('.'):byte()

-- Runs the pickle at the start of s. handlers: globals(name) -> object or nil, persistent(context,
-- id) -> object, context.
-- Returns the value and how many bytes the pickle has. base: where s begins in the file, for
-- messages.
local function run(s, handlers, base, more)
  local m = {s = s, i = 1, base = base, more = more, stack = {}, top = 0, marks = {}, memo = {}, memos = 0,
             builders = {}, objects = 0, keys = {n = 0},
             globals = handlers.globals, persistent = handlers.persistent, context = handlers.context}
  while true do
    local code = s:byte(take(m, 1))
    if code == STOP then
      if m.marks[1] then fault('the pickle is damaged at byte %.0f: it stops in the middle', at(m)) end
      return pop(m), m.i - 1
    end
    local fn = ops[code]
    if not fn then fault('not a pickle, or a damaged one: no operation %d at byte %.0f', code, at(m)) end
    fn(m)
  end
end

-- The pickle that the string s is.
function M.read(s, handlers, base) return run(s, handlers or {}, base or 0, false) end

-- The pickle that begins at offset in a file and may reach up to stop (default: its end).
-- handlers_of() gives the handlers, anew for each attempt: the text is taken in growing pieces,
-- since a pickle doesn't say how long it is.
-- Returns value, offset behind it, handlers.
function M.read_file(file, offset, handlers_of, stop)
  stop = stop or file.size
  local n = 65536
  while true do
    local available = math.min(n, stop - offset)
    local more = available < stop - offset and available < M.MAX_BYTES
    local handlers = handlers_of and handlers_of() or {}
    local ok, v, length = pcall(run, file:read(offset, available, 'a pickle'), handlers, offset, more)
    if ok then return v, offset + length, handlers end
    if v ~= NEED_MORE then error(v, 0) end
    n = n * 4
  end
end

-- -- Writing --------------------------------------------------------------------------------------

local le16, le32 = bytes.le16, bytes.le32

-- w: out (pieces), memo (value -> number), memos, path (names on the way, for messages), open
-- (tables being written)

local function emit(w, s) w.out[#w.out + 1] = s end

local function remember(w, key)
  local i = w.memos
  w.memos = i + 1
  w.memo[key] = i
  emit(w, i < 256 and 'q' .. string.char(i) or 'r' .. le32(i))
end

local function recall(w, key)
  local i = w.memo[key]
  if i then emit(w, i < 256 and 'h' .. string.char(i) or 'j' .. le32(i)) end
  return i
end

local function refuse(w, what)
  local where = table.concat(w.path, '.')
  fault('%s %s', where == '' and 'the value' or where, what)
end

local function write_number(w, x)
  if x ~= math.floor(x) or math.abs(x) > 2 ^ 53 or (x == 0 and 1 / x < 0) then
    return emit(w, 'G' .. bytes.f64_bytes(x):reverse())
  end
  if x >= 0 and x < 256 then emit(w, 'K' .. string.char(x))
  elseif x >= 0 and x < 65536 then emit(w, 'M' .. le16(x))
  elseif x >= -2 ^ 31 and x < 2 ^ 31 then emit(w, 'J' .. le32(x % 2 ^ 32))
  else emit(w, '\138\8' .. bytes.i64_bytes(x)) end
end

local function write_text(w, s)
  if recall(w, s) then return end
  emit(w, 'X' .. le32(#s) .. s)
  remember(w, s)
end

local function write_global(w, module, name)
  local line_text = 'c' .. module .. '\n' .. name .. '\n'
  local key = w.names[line_text] or {} -- no string, since strings of the value have the memo too
  w.names[line_text] = key
  if recall(w, key) then return end
  emit(w, line_text)
  remember(w, key)
end

-- What is not UTF-8 text is bytes in Python; protocol 2 spells them as Latin-1 text to be encoded.
local function write_string(w, s)
  if bytes.is_utf8(s) then return write_text(w, s) end
  write_global(w, '_codecs', 'encode')
  write_text(w, (s:gsub('[\128-\255]', function(c) return bytes.utf8(c:byte()) end)))
  write_text(w, 'latin1')
  emit(w, '\134R')
end

local write

-- storage_of(context, tensor) -> {type = 'FloatStorage', key = '0', numel =}
local function write_tensor(w, t)
  local storage = w.storage_of(w.context, t)
  local sizes, strides, step = t:size(), {}, 1
  for i = #sizes, 1, -1 do
    strides[i] = step
    step = step * math.max(sizes[i], 1)
  end
  local function tuple(list)
    emit(w, '(')
    for _, n in ipairs(list) do write_number(w, n) end
    emit(w, 't')
  end
  write_global(w, 'torch._utils', '_rebuild_tensor_v2')
  emit(w, '((')
  write_string(w, 'storage')
  write_global(w, 'torch', storage.type)
  write_string(w, storage.key)
  write_string(w, 'cpu')
  write_number(w, storage.numel)
  emit(w, 'tQK\0')
  tuple(sizes)
  tuple(strides)
  emit(w, '\137') -- requires_grad: whoever loads it decides
  write_global(w, 'collections', 'OrderedDict')
  emit(w, ')RtR')
end

local function all_tensors(d, is_tensor)
  local any = false
  for _, v in dict.items(d) do
    if not is_tensor(v) then return false end
    any = true
  end
  return any
end

local function write_items(w, d)
  emit(w, '(')
  for k, v in dict.items(d) do
    write(w, k)
    w.path[#w.path + 1] = tostring(k)
    write(w, v)
    w.path[#w.path] = nil
  end
  emit(w, 'u')
end

local function write_list(w, list)
  emit(w, ']')
  remember(w, list)
  emit(w, '(')
  for i, v in ipairs(list) do
    w.path[#w.path + 1] = tostring(i)
    write(w, v)
    w.path[#w.path] = nil
  end
  emit(w, 'e')
end

-- A state dict becomes an OrderedDict, as PyTorch's own.
local function write_dict(w, d)
  if all_tensors(d, w.is_tensor) then
    write_global(w, 'collections', 'OrderedDict')
    emit(w, ')R')
  else
    emit(w, '}')
  end
  remember(w, d)
  write_items(w, d)
end

-- 'list', 'dict', or nil for a table that is neither.
local function shape_of(t)
  local n, all, names = #t, 0, true
  for k in pairs(t) do
    all = all + 1
    if type(k) ~= 'string' then names = false end
  end
  if n > 0 and all == n then return 'list' end
  return names and 'dict' or nil
end

local function write_table(w, t)
  if recall(w, t) then
    if w.open[t] then refuse(w, 'contains itself') end
    return
  end
  if #w.path > M.MAX_DEPTH - 10 then refuse(w, ('is nested deeper than %d'):format(M.MAX_DEPTH - 10)) end
  w.open[t] = true
  if dict.is(t) then write_dict(w, t)
  elseif opaque.is(t) then
    refuse(w, 'is ' .. opaque.text(t) .. ', of which nothing was read: take it out, or put plain values in its place')
  elseif getmetatable(t) then
    refuse(w, 'is an object; plain values and tensors are saved (of a model: model:state_dict())')
  else
    local shape = shape_of(t)
    if shape == 'list' then write_list(w, t)
    elseif shape == 'dict' then
      -- under the table's own identity, so that it is written once
      local d = dict.from_table(t)
      emit(w, '}')
      remember(w, t)
      write_items(w, d)
    else refuse(w, 'is a table with both numbers and names, or with holes: use a dict (dlv3.dict) or an array') end
  end
  w.open[t] = nil
end

function write(w, v)
  local t = type(v)
  if v == none then emit(w, 'N')
  elseif t == 'number' then write_number(w, v)
  elseif t == 'string' then write_string(w, v)
  elseif t == 'boolean' then emit(w, v and '\136' or '\137')
  elseif t == 'table' then write_table(w, v)
  elseif w.is_tensor(v) then write_tensor(w, v)
  elseif t == 'cdata' and tonumber(v) then emit(w, '\138\8' .. bytes.i64_bytes(v))
  else refuse(w, 'is a ' .. t .. ', which can not be saved') end
end

-- The protocol-2 pickle of a value. tensors: {is_tensor = fn, storage_of = fn, context =}; without
-- it there may be none.
function M.write(value, tensors)
  tensors = tensors or {is_tensor = function() return false end}
  local w = {out = {'\128\2'}, memo = {}, memos = 0, names = {}, path = {}, open = {},
             is_tensor = tensors.is_tensor, storage_of = tensors.storage_of, context = tensors.context}
  write(w, value)
  emit(w, '.')
  return table.concat(w.out)
end

return M
