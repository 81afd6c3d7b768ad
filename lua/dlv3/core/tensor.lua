-- tensor.lua - what a tensor is in Lua: constructors, properties, indexing, operators, and the
-- methods made of ops.
--
-- The op methods themselves come from call.lua. Nothing here touches elements: every computation is
-- an op.

local F = require 'dlv3.core.ffi'
local call = require 'dlv3.core.call'
local docs = require 'dlv3.core.docs'
local suggest = require 'dlv3.core.suggest'
local C, raise, check, is_tensor = F.C, F.raise, F.check, F.is_tensor
local T = call.methods

local M = {methods = T}

-- -- Arguments ------------------------------------------------------------------------------------

local function dtype_of(name, default)
  if name == nil then return F.dtype_id[default] end
  local id = F.dtype_id[name]
  if not id then raise(F.no_dtype(name)) end
  return id
end

local device_out = F.new('int32_t[1]')
-- The runtime's number of a device, 'cpu', 'cuda' or 'cuda:1'; nil: the cpu. Raises where there is
-- no such device.
function M.device_id(name)
  if name == nil then return 0 end
  if type(name) ~= 'string' then F.raise_unexpected('device', "a name such as 'cpu' or 'cuda:1'", name) end
  check(C.dlv3_device_find(device_out, name))
  return device_out[0]
end

local known_options = {dtype = true, device = true, requires_grad = true}
local function check_options(what, options)
  for name in pairs(options) do
    if not known_options[name] then
      raise(("%s: no option '%s'%s (has: dtype, device, requires_grad)"):format(what, tostring(name),
          suggest.text(tostring(name), {'dtype', 'device', 'requires_grad'})))
    end
  end
  return options
end

-- zeros{2, 3}, zeros(2, 3), zeros({2, 3}, {dtype = 'u8'}), zeros{2, 3, dtype = 'u8'} -> sizes,
-- options
local function sizes_and_options(what, ...)
  local first, second = ...
  if is_tensor(first) then F.raise_unexpected(what, 'sizes', first) end
  if type(first) ~= 'table' then
    local n, sizes, options = select('#', ...), {...}, {}
    for i = 1, n do if sizes[i] == nil then raise(('%s: size %d is nil'):format(what, i)) end end
    if type(sizes[n]) == 'table' then options, sizes[n] = sizes[n], nil end
    return sizes, check_options(what, options)
  end
  local options = {}
  if second ~= nil and type(second) ~= 'table' then
    F.raise_unexpected(what, "options in a table, as in {dtype = 'f16'}", second)
  end
  for k, v in pairs(second or first) do if type(k) == 'string' then options[k] = v end end
  return first, check_options(what, options)
end

local size_buf = F.new('int64_t[?]', tonumber(C.DLV3_MAX_DIMS))

local function new(what, sizes, options)
  if type(sizes) ~= 'table' then
    F.raise_unexpected(what, 'sizes in a table, as in {2, 3}', sizes)
  end
  if #sizes > C.DLV3_MAX_DIMS then
    raise(('%s: expected at most %d dimensions, got %d'):format(what, tonumber(C.DLV3_MAX_DIMS), #sizes))
  end
  for i, n in ipairs(sizes) do
    if type(n) ~= 'number' or n ~= math.floor(n) or n < 0 or n > 2 ^ 53 then
      F.raise_unexpected(('%s: size %d'):format(what, i), 'a whole number from 0 to 2^53', n)
    end
    size_buf[i - 1] = n
  end
  local dtype, device = dtype_of(options.dtype, 'f32'), M.device_id(options.device)
  local out, n = F.tensor_out(), #sizes
  check(F.retry(function()
    for i = 1, n do size_buf[i - 1] = sizes[i] end
    return C.dlv3_tensor_new(out, dtype, n, size_buf, device)
  end))
  F.relieve()
  return F.take(out)
end

local function finished(t, options)
  if options.requires_grad then check(C.dlv3_set_requires_grad(t.p, 1)) end
  return t
end

-- -- Constructors ---------------------------------------------------------------------------------

-- A constructor of this name, and one with _like, that make a tensor and fill it with fn(t);
-- content: for help.
local function filled(what, content, fn)
  M[what] = docs.describe(function(...)
    local sizes, options = sizes_and_options(what, ...)
    return finished(fn(new(what, sizes, options)), options)
  end, ("%s{2, 3}, %s({2, 3}, {dtype = 'f32', device = 'cpu', requires_grad = false}): a tensor of these "
        .. 'sizes, %s.'):format(what, what, content))
  M[what .. '_like'] = docs.describe(function(t, options)
    options = options or {}
    return M[what](T.size(t), {
      dtype = options.dtype or T.dtype_name(t), device = options.device or T.device_name(t),
      requires_grad = options.requires_grad,
    })
  end, ('%s_like(t, {dtype, device, requires_grad}): a tensor of the sizes, dtype and device of t where the '
        .. 'options give no others, %s.'):format(what, content))
end

filled('empty', 'its elements whatever the memory held', function(t) return t end)
filled('zeros', 'all elements 0', function(t) return T.fill_(t, 0) end)
filled('ones', 'all elements 1', function(t) return T.fill_(t, 1) end)
filled('rand', 'uniform random numbers in [0, 1)', function(t) return T.uniform_(t) end)
filled('randn', 'normal random numbers of mean 0 and standard deviation 1', function(t) return T.normal_(t) end)

-- full({2, 3}, value, {dtype = 'f32', device = 'cpu', requires_grad = false}): a tensor of these
-- sizes, all elements value.
function M.full(sizes, value, options)
  options = check_options('full', options or {})
  return finished(T.fill_(new('full', sizes, options), value), options)
end

-- Whole numbers in [low, high); i64 unless options say otherwise.
function M.randint(low, high, sizes, options)
  options = check_options('randint', options or {})
  return T.randint_(new('randint', sizes, {dtype = options.dtype or 'i64', device = options.device}), low, high)
end

-- first, first + step, ... while not past last, as Lua's for counts (last included).
function M.arange(first, last, step, options)
  if type(step) == 'table' then step, options = nil, step end
  for name, v in pairs {first = first == nil and 'nothing' or first, last = last == nil and 'nothing' or last,
                        step = step or 1} do
    if type(v) ~= 'number' then
      local hint = last == nil and type(first) == 'number'
          and ('; %g numbers from 0 on are arange(0, %g)'):format(first, first - 1) or ''
      raise(('arange: takes first, last (included) and step as numbers; %s is %s%s'):format(name,
          v == 'nothing' and 'missing' or 'a ' .. type(v), hint))
    end
  end
  options = check_options('arange', options or {})
  step = step or 1
  if step == 0 then raise('arange: step must not be 0') end
  local n = math.max(0, math.floor((last - first) / step + 1e-9) + 1)
  return finished(T.arange_(new('arange', {n}, options), first, step), options)
end

-- eye(n, {dtype = 'f32', device = 'cpu'}): the identity matrix [n, n].
function M.eye(n, options)
  local t = M.zeros({n * n}, options)
  if n > 0 then T.fill_(T.narrow(t, 1, 1, n, n + 1), 1) end
  return T.reshape(t, n, n)
end

-- The sizes of nested tables, checked to be even.
local function nested_sizes(v, sizes, depth)
  if type(v) ~= 'table' then return sizes end
  sizes[depth] = sizes[depth] or #v
  return v[1] ~= nil and nested_sizes(v[1], sizes, depth + 1) or sizes
end

local function flatten(v, sizes, depth, out, n)
  if depth > #sizes then
    if type(v) == 'boolean' then v = v and 1 or 0 end
    if type(v) ~= 'number' then raise('tensor: an element is a ' .. type(v) .. ', not a number') end
    out[n] = v
    return n + 1
  end
  if type(v) ~= 'table' or #v ~= sizes[depth] then
    local got = type(v) == 'table' and #v or 'a ' .. type(v)
    raise(('tensor: the tables are uneven: expected %d elements, got %s'):format(sizes[depth], got))
  end
  for i = 1, #v do n = flatten(v[i], sizes, depth + 1, out, n) end
  return n
end

-- From a number or nested tables of numbers or booleans; f32 unless options say otherwise.
function M.tensor(value, options)
  options = check_options('tensor', options or {})
  if is_tensor(value) then
    local copy = T.clone(T.detach(value))
    if options.device then copy = T.to(copy, options.device) end
    return finished(options.dtype and T.to(copy, options.dtype) or copy, options)
  end
  local sizes = nested_sizes(value, {}, 1)
  local count = 1
  for _, n in ipairs(sizes) do count = count * n end
  local flat = F.new('double[?]', math.max(count, 1))
  flatten(value, sizes, 1, flat, 0)
  local t = new('tensor', sizes, options)
  check(C.dlv3_tensor_from_f64(t.p, flat))
  return finished(t, options)
end

-- cat({a, b, ...}, axis = 1): the tensors joined along an axis, which counts from 1; all other
-- sizes agree.
function M.cat(list, axis) return T.cat(list, axis or 1) end

-- stack({a, b, ...}, axis = 1): tensors of the same sizes joined along a new axis, which counts
-- from 1.
function M.stack(list, axis)
  if type(list) ~= 'table' or not is_tensor(list[1]) then F.raise_unexpected('stack', 'a table of tensors', list) end
  local wider = {}
  for i, t in ipairs(list) do
    if is_tensor(t) and tostring(t.shape) ~= tostring(list[1].shape) then
      raise(('stack: expected tensors of the same sizes, got %s first and %s as number %d'):format(
            tostring(list[1].shape), tostring(t.shape), i))
    end
    wider[i] = T.unsqueeze(t, axis or 1)
  end
  return T.cat(wider, axis or 1)
end

-- where(condition, a, b): a where the condition is not 0, else b; a and b: tensors or numbers,
-- broadcast.
function M.where(condition, a, b)
  if not is_tensor(condition) then
    F.raise_unexpected('where', 'the condition, a tensor', condition)
  end
  return T.where(condition, a, b)
end

-- -- The random generator: one i64 [2] tensor, seed and counter -----------------------------------

local rng
-- There is one generator; it moves to the device that draws from it.
function call.default_rng(device)
  if not rng then M.manual_seed(0) end
  if device and C.dlv3_tensor_device(rng.p) ~= device then
    local out = F.tensor_out()
    check(C.dlv3_tensor_to_device(out, rng.p, device))
    local moved = F.take(out)
    C.dlv3_scope_leave(moved.p)
    check(C.dlv3_tensor_assign(rng.p, moved.p)) -- the same handle: a recorded program notices
  end
  return rng
end

-- Seeds the random generator of all devices with a whole number.
function M.manual_seed(seed)
  if type(seed) ~= 'number' or seed ~= math.floor(seed) then
    F.raise_unexpected('manual_seed', 'a whole number', seed)
  end
  M.set_rng_state {seed, 0}
end

-- The state of the random generator, {seed, counter}, for set_rng_state.
function M.get_rng_state() return T.totable(call.default_rng()) end

-- Sets the random generator to a state that get_rng_state returned.
function M.set_rng_state(state)
  if type(state) ~= 'table' or type(state[1]) ~= 'number' or type(state[2]) ~= 'number' then
    raise('set_rng_state: takes what get_rng_state() returned, {seed, counter}')
  end
  if not rng then
    rng = new('rng', {2}, {dtype = 'i64'})
    C.dlv3_scope_leave(rng.p)
  end
  local flat = F.new('double[2]', state[1], state[2])
  check(C.dlv3_tensor_from_f64(rng.p, flat))
end

-- -- Sizes and properties -------------------------------------------------------------------------

-- A list of sizes is a plain table, but for its text.
local Sizes = {__metatable = false}
function Sizes.__tostring(sizes) return '{' .. table.concat(sizes, ', ') .. '}' end
function Sizes.__concat(a, b) return tostring(a) .. tostring(b) end

-- x:size(): the sizes, a list; x:size(axis): that of an axis, from 1 (negative: from the end).
function T.size(t, axis)
  if axis then
    if type(axis) ~= 'number' then F.raise_unexpected('size', 'an axis, a number', axis) end
    local n = C.dlv3_tensor_ndim(t.p)
    local a = axis < 0 and axis + n or axis - 1
    if a < 0 or a >= n then raise(('size: no axis %d in a tensor of %d dimensions'):format(axis, n)) end
    return tonumber(C.dlv3_tensor_size(t.p, a))
  end
  local sizes = {}
  for i = 1, C.dlv3_tensor_ndim(t.p) do sizes[i] = tonumber(C.dlv3_tensor_size(t.p, i - 1)) end
  return setmetatable(sizes, Sizes)
end

-- The strides in elements, a list, an entry an axis. Feature maps are physically channels-last.
function T.stride(t)
  local strides = {}
  for i = 1, C.dlv3_tensor_ndim(t.p) do strides[i] = tonumber(C.dlv3_tensor_stride(t.p, i - 1)) end
  return setmetatable(strides, Sizes)
end

-- The number of dimensions.
function T.dim(t) return C.dlv3_tensor_ndim(t.p) end
-- The number of elements.
function T.numel(t) return tonumber(C.dlv3_tensor_numel(t.p)) end
-- The dtype's name, such as 'f32'; also x.dtype.
function T.dtype_name(t) return F.dtypes[C.dlv3_tensor_dtype(t.p) + 1] end
-- The device's name, such as 'cuda:0'; also x.device.
function T.device_name(t) return F.string(C.dlv3_device_name(C.dlv3_tensor_device(t.p))) end
-- Whether the elements are dense in memory: without gaps, of 4-d tensors channels-last.
function T.is_contiguous(t) return C.dlv3_tensor_is_dense(t.p) == 1 end
-- Whether the memory was released, by release() or at the end of a scope.
function T.is_released(t) return C.dlv3_tensor_released(t.p) == 1 end
-- Releases the memory now, also that of views of it; later uses are errors.
function T.release(t) C.dlv3_tensor_release(t.p) end

local function tensor_or_nil(p) if p ~= nil then return F.wrap(p) end end

local properties = {
  shape = T.size, dtype = T.dtype_name, device = T.device_name, ndim = T.dim,
  grad = function(t) return tensor_or_nil(C.dlv3_tensor_grad(t.p)) end,
  requires_grad = function(t) return C.dlv3_requires_grad(t.p) ~= 0 end,
  is_leaf = function(t) return C.dlv3_requires_grad(t.p) ~= 2 end,
}
M.properties = properties

-- What ?name prints of each.
M.property_docs = {
  shape = 'the sizes, a list', dtype = "the dtype's name, such as 'f32'",
  device = "the device's name, such as 'cuda:0'",
  ndim = 'the number of dimensions', grad = "the gradient, a tensor of x's sizes, or nil; can be set",
  requires_grad = 'whether backward gives x a gradient; can be set',
  is_leaf = 'whether no operation made x on the tape',
}

-- -- To and from Lua ------------------------------------------------------------------------------

-- The element of a tensor of one element, as a Lua number; waits for the device.
function T.item(t)
  local n = T.numel(t)
  if n ~= 1 then raise(('item: the tensor must have one element, it has %d'):format(n)) end
  local value = F.new('double[1]')
  check(C.dlv3_tensor_at(value, t.p, 0))
  return value[0]
end

-- A function that returns the item, and waits no longer than until the work queued so far has made
-- it: asked for later, the device goes on meanwhile.
function T.item_later(t)
  local out, value = F.new('dlv3_later *[1]'), F.new('double[1]')
  check(C.dlv3_later_begin(out, t.p))
  local later = F.gc(out[0], C.dlv3_later_free)
  return function()
    check(C.dlv3_later_value(value, later))
    return value[0]
  end
end

-- The elements as nested Lua tables of numbers (a number where there are no dimensions); waits for
-- the device.
function T.totable(t)
  local sizes, n = T.size(t), T.numel(t)
  local flat = F.new('double[?]', math.max(n, 1))
  check(C.dlv3_tensor_to_f64(flat, t.p))
  local at = -1
  local function build(depth)
    if depth > #sizes then
      at = at + 1
      return flat[at]
    end
    local row = {}
    for i = 1, sizes[depth] do row[i] = build(depth + 1) end
    return row
  end
  return build(1)
end

-- The elements in row-major order as a string of the dtype's bytes, and back.
function T.tobytes(t)
  local n = T.numel(t) * ({1, 1, 4, 8, 2, 2, 4, 8})[C.dlv3_tensor_dtype(t.p) + 1]
  local bytes = F.new('char[?]', math.max(n, 1))
  check(C.dlv3_tensor_to_bytes(bytes, t.p, n))
  return F.string(bytes, n)
end

-- frombytes(bytes, sizes, {dtype = 'f32'}): a tensor of the little-endian elements in a string, in
-- row-major order.
function M.frombytes(bytes, sizes, options)
  if type(bytes) ~= 'string' then
    F.raise_unexpected('frombytes', 'a string', bytes)
  end
  local t = new('frombytes', sizes, check_options('frombytes', options or {}))
  check(C.dlv3_tensor_from_bytes(t.p, bytes, #bytes))
  return t
end

-- On another device; the gradient goes the way back.
local function moved(t, id)
  local out = F.tensor_out()
  check(F.retry(C.dlv3_tensor_to_device, out, t.p, id))
  return F.take(out)
end

-- Whether what is made of t goes on the tape.
local function tracked(t) return C.dlv3_requires_grad(t.p) ~= 0 and C.dlv3_grad_enabled() == 1 end

local move -- with a gradient, made on first use
local function moved_on_tape(t, id)
  move = move or require 'dlv3.core.autograd'.Function {
    forward = function(ctx, x, device)
      ctx.from = C.dlv3_tensor_device(x.p)
      return moved(x, device)
    end,
    backward = function(ctx, grad) return moved(grad, ctx.from) end,
  }
  return (move(t, id))
end

-- x:to('cpu'), x:to('bf16'), x:to('cpu', 'bf16'), x:to(other): itself where nothing changes.
function T.to(t, a, b)
  local device, dtype
  if is_tensor(a) then device, dtype = T.device_name(a), T.dtype_name(a)
  elseif F.dtype_id[a] or F.dtype_elsewhere[a] then dtype = a
  else device, dtype = a, b end
  if device then
    local id = M.device_id(device)
    if id ~= C.dlv3_tensor_device(t.p) then
      t = tracked(t) and moved_on_tape(t, id) or moved(t, id)
    end
  end
  if dtype and dtype_of(dtype) ~= C.dlv3_tensor_dtype(t.p) then t = T.cast(t, dtype) end
  return t
end

local casts = {
  float = 'f32', double = 'f64', half = 'f16', bfloat16 = 'bf16', long = 'i64', int = 'i32', byte = 'u8', bool = 'bool',
}
for name, dtype in pairs(casts) do
  T[name] = docs.describe(function(t) return T.to(t, dtype) end,
                          ("x:to('%s'): itself where it is of that dtype."):format(dtype))
end

-- A copy on the cpu; itself where it is there.
function T.cpu(t) return T.to(t, 'cpu') end

-- -- Autograd on a tensor -------------------------------------------------------------------------

local function set_requires_grad(t, on)
  if type(on) ~= 'boolean' then F.raise_unexpected('requires_grad', 'true or false', on) end
  check(C.dlv3_set_requires_grad(t.p, on and 1 or 0))
  return t
end

-- requires_grad_(on = true): whether backward gives x a gradient; returns x. Of leaves of a float
-- dtype only.
function T.requires_grad_(t, on) return set_requires_grad(t, on == nil or on) end

-- A view of the same memory that is not on the tape.
function T.detach(t)
  local out = F.tensor_out()
  check(C.dlv3_tensor_detach(out, t.p))
  return F.take(out)
end

-- -- Methods made of ops --------------------------------------------------------------------------

local copy = T.contiguous
T.clone = docs.describe(copy, 'A copy, on the tape: gradients flow through it.')

-- A dense copy; itself where it is dense.
function T.contiguous(t) return T.is_contiguous(t) and t or copy(t) end

-- Sets all elements to 0; returns x.
function T.zero_(t) return T.fill_(t, 0) end
T.view = docs.describe(T.reshape, 'The same as reshape: other sizes for the same elements; -1 stands for the rest.')

-- select(axis, index): the slice at an index (from 1) of an axis (from 1), without that axis: a
-- view.
function T.select(t, axis, index) return T.squeeze(T.narrow(t, axis, index, 1), axis) end

-- transpose(a, b): the axes a and b (from 1, negative: from the end) change places: a view.
function T.transpose(t, a, b)
  local n, axes = T.dim(t), {}
  a, b = a < 0 and a + n + 1 or a, b < 0 and b + n + 1 or b
  for i = 1, n do axes[i] = i end
  if not axes[a] or not axes[b] then
    raise(('transpose: axes %d and %d of a tensor of %d dimensions'):format(a, b, n))
  end
  axes[a], axes[b] = b, a
  return T.permute(t, axes)
end

-- The transposed matrix: a view.
function T.t(t)
  if T.dim(t) ~= 2 then raise(('t: expected a matrix, got %d dimensions'):format(T.dim(t))) end
  return T.transpose(t, 1, 2)
end

-- flatten(first = 1, last = -1): the axes from first to last joined into one.
function T.flatten(t, first, last)
  local sizes, out = T.size(t), {}
  first, last = first or 1, last or #sizes
  first, last = first < 0 and first + #sizes + 1 or first, last < 0 and last + #sizes + 1 or last
  for i, n in ipairs(sizes) do
    if i > first and i <= last then out[#out] = out[#out] * n else out[#out + 1] = n end
  end
  return T.reshape(t, out)
end

-- Repeated counts[i] times along axis i (PyTorch's repeat, a reserved word in Lua).
function T.tile(t, ...)
  local counts = type((...)) == 'table' and ... or {...}
  local sizes = T.size(t)
  if #counts < #sizes then raise(('tile: %d counts for %d dimensions'):format(#counts, #sizes)) end
  local lead = #counts - #sizes
  local split, wide, joined = {}, {}, {}
  for i, count in ipairs(counts) do
    local n = i > lead and sizes[i - lead] or 1
    split[#split + 1], split[#split + 2] = 1, n
    wide[#wide + 1], wide[#wide + 2] = count, n
    joined[i] = count * n
  end
  if #split > C.DLV3_MAX_DIMS then -- too many axes at once: one after the other
    local s = {}
    for i = 1, #counts do s[i] = i > lead and sizes[i - lead] or 1 end
    local y = T.reshape(t, s)
    for axis, count in ipairs(counts) do
      local list = {}
      for i = 1, count do list[i] = y end
      y = T.cat(list, axis)
    end
    return y
  end
  return T.reshape(T.expand(T.reshape(t, split), wide), joined)
end

-- split(length, axis = 1): parts of this length along an axis, the last one shorter where it does
-- not divide: a list of views.
function T.split(t, length, axis)
  axis = axis or 1
  if type(length) ~= 'number' or length < 1 or length ~= math.floor(length) then
    F.raise_unexpected('split', 'the length of a part, a whole number from 1', length)
  end
  local n, parts = T.size(t, axis), {}
  for start = 1, n, length do parts[#parts + 1] = T.narrow(t, axis, start, math.min(length, n - start + 1)) end
  return parts
end

-- chunk(count, axis = 1): at most count parts of equal length along an axis, as split.
function T.chunk(t, count, axis)
  if type(count) ~= 'number' or count < 1 then
    F.raise_unexpected('chunk', 'the number of parts, a whole number from 1', count)
  end
  return T.split(t, math.max(1, math.ceil(T.size(t, axis or 1) / count)), axis)
end

-- x w' + b; x [..., in], w [out, in], b [out].
function T.linear(x, w, b)
  local sizes = T.size(x)
  local y = T.matmul(T.reshape(x, -1, sizes[#sizes]), w, {trans_b = true})
  if b then y = T.add(y, b) end
  sizes[#sizes] = T.size(w, 1)
  return T.reshape(y, sizes)
end

-- The extreme of all elements; those that are equal to it share the gradient, as in PyTorch. Where
-- one is nan, those are it.
local share -- a function with that gradient, made on first use
local function whole(op, t)
  t = T.reshape(t, -1)
  if not tracked(t) then return (op(t, 1)) end
  share = share or require 'dlv3.core.autograd'.Function {
    forward = function(ctx, x, extreme_of)
      local y = extreme_of(x, 1)
      ctx.ties = T.logical_or(T.eq(x, y), T.ne(x, x))
      return y
    end,
    backward = function(ctx, grad)
      local dtype = T.dtype_name(grad)
      return T.mul(T.to(ctx.ties, dtype), T.div(grad, T.to(T.sum(ctx.ties), dtype)))
    end,
  }
  return (share(t, op))
end

-- max and argmax, or min and argmin.
local function extreme(name, op)
  T[name] = docs.describe(function(t, axis, keepdim)
    if is_tensor(axis) or type(axis) == 'table' then
      raise(name .. ': takes an axis; for two tensors use maximum and minimum')
    end
    if axis then return op(t, axis, {keepdim = keepdim or false}) end
    return whole(op, t)
  end, ('%s(): the %simum of all elements, a tensor of one. %s(axis, keepdim = false): the %sima along an axis '
        .. '(from 1) and their positions (i64, from 0).'):format(name, name, name, name))
  T['arg' .. name] = docs.describe(function(t, axis, keepdim)
    local _, index = op(axis and t or T.reshape(t, -1), axis or 1, {keepdim = axis and keepdim or false})
    return index
  end, ('arg%s(): the position (i64, from 0) of the %simum among all elements in row-major order. arg%s(axis, '
        .. 'keepdim = false): the positions along an axis (from 1).'):format(name, name, name))
end
extreme('max', T.max_dim)
extreme('min', T.min_dim)

-- sqrt of a sum of squares. Where that is 0 the slope is infinite, and the squares' 0: the gradient
-- is 0, as PyTorch's, not nan.
local function root(squares)
  if not tracked(squares) then return T.sqrt(squares) end
  local zero = T.eq(squares, 0)
  return T.where(zero, squares, T.sqrt(T.masked_fill(squares, zero, 1)))
end

-- std(axes, keepdim): the standard deviation, with the arguments of var. Where it is 0, its
-- gradient is 0.
function T.std(t, ...) return root(T.var(t, ...)) end

-- The p-norm of all elements, or along axes: p = 2 (default), 1 or math.huge.
function T.norm(t, p, axes)
  if p == nil or p == 2 then return root(T.sum(T.square(t), {axes = axes})) end
  if p == 1 then return T.sum(T.abs(t), {axes = axes}) end
  if p == math.huge and axes == nil then return T.max(T.abs(t)) end
  F.raise_unexpected('norm: p', '1, 2 or (of all elements) math.huge', p)
end

-- A bool tensor of one element: whether any (every) element is not 0. A tensor is always true to
-- Lua's if: x:any():item() == 1.
function T.any(t) return T.max(T.cast(T.ne(t, 0), 'bool')) end
-- A bool tensor of one element: whether every element is not 0.
function T.all(t) return T.min(T.cast(T.ne(t, 0), 'bool')) end

-- Same sizes and the same elements: a Lua boolean.
function T.equal(a, b)
  if not is_tensor(b) then
    F.raise_unexpected('equal', 'a tensor', b)
  end
  local sa, sb = T.size(a), T.size(b)
  if #sa ~= #sb then return false end
  for i = 1, #sa do if sa[i] ~= sb[i] then return false end end
  return T.numel(a) == 0 or T.item(T.all(T.eq(a, b))) == 1
end

local allclose = T.allclose

-- A bool tensor of one element: whether every element is not 0.
-- allclose(y, {rtol, atol}): whether all |x - y| <= atol + rtol |y|: a Lua boolean, as
-- torch.allclose.
function T.allclose(...) return T.item(allclose(...)) == 1 end

local where = T.where

-- where(condition, a, b): a where the condition is not 0, else b: tensors of one dtype, or numbers;
-- a number that the other's integers do not hold makes the result wider.
function T.where(condition, a, b)
  if type(a) == 'number' and type(b) == 'number' then
    local like = M.zeros({}, {dtype = a == math.floor(a) and b == math.floor(b) and 'i64' or 'f32',
                              device = T.device_name(condition)})
    a, b = call.scalar(a, like), call.scalar(b, like)
  elseif type(a) == 'number' and is_tensor(b) then
    a = call.scalar(a, b)
    b = T.to(b, T.dtype_name(a))
  elseif type(b) == 'number' and is_tensor(a) then
    b = call.scalar(b, a)
    a = T.to(a, T.dtype_name(b))
  end
  return where(condition, a, b)
end

-- masked_fill(mask, value): value (a number) where the mask is not 0, else x.
function T.masked_fill(t, mask, value) return T.where(mask, value, t) end
-- full_like(value): a tensor of the sizes, dtype and device of x, all elements value.
function T.full_like(t, value) return M.full(T.size(t), value, {dtype = T.dtype_name(t), device = T.device_name(t)}) end
-- 1 / x.
function T.reciprocal(t) return T.div(1, t) end
-- 1 / sqrt(x).
function T.rsqrt(t) return T.div(1, T.sqrt(t)) end
-- x sigmoid(x).
function T.silu(t) return T.mul(t, T.sigmoid(t)) end
-- leaky_relu(slope = 0.01): x where it is above 0, else slope x.
function T.leaky_relu(t, slope) return T.where(T.gt(t, 0), t, T.mul(t, slope or 0.01)) end

-- -- Indexing -------------------------------------------------------------------------------------

-- x[i]; x[{i, {from, to}, {}, tensor}]: an index drops the axis, {from, to} or {from, to, step}
-- narrows, {} keeps it, an i64 tensor picks (its numbers count from 0, as argmax's do).
local function index(t, key)
  local count = type(key) == 'number' and 1 or #key
  if count > T.dim(t) then
    raise(('%d %s for a tensor of %d dimensions%s'):format(count, count == 1 and 'index' or 'indices', T.dim(t),
        T.dim(t) == 0 and ': its number is x:item()' or ''))
  end
  if type(key) == 'number' then return T.select(t, 1, key) end
  local axis = 1
  for i = 1, #key do
    local k = key[i]
    if type(k) == 'number' then t = T.select(t, axis, k)
    elseif is_tensor(k) then t, axis = T.index_select(t, k, axis), axis + 1
    elseif type(k) == 'table' then
      if k[1] then
        local n = T.size(t, axis)
        local from, to, step = k[1], k[2] or k[1], k[3] or 1
        if from < 0 then from = from + n + 1 end
        if to < 0 then to = to + n + 1 end
        t = T.narrow(t, axis, from, math.max(0, math.floor((to - from) / step) + 1), step)
      end
      axis = axis + 1
    else F.raise_unexpected('index', 'a number, {from, to}, {} or an i64 tensor', k) end
  end
  return t
end

local function names_of_methods()
  local names = {}
  for name in pairs(T) do names[#names + 1] = name end
  for name in pairs(properties) do names[#names + 1] = name end
  return names
end

local function get(t, key)
  local method = T[key]
  if method then return method end
  local property = properties[key]
  if property then return property(t) end
  if type(key) == 'number' or type(key) == 'table' or is_tensor(key) then
    return index(t, is_tensor(key) and {key} or key)
  end
  raise(("a tensor has no '%s'%s"):format(tostring(key), suggest.text(tostring(key), names_of_methods())))
end

local function set(t, key, value)
  if key == 'grad' then check(C.dlv3_tensor_set_grad(t.p, value and F.ptr(value) or nil))
  elseif key == 'requires_grad' then set_requires_grad(t, value)
  elseif type(key) == 'number' or type(key) == 'table' then
    local window = index(t, key)
    if type(value) == 'number' then T.fill_(window, value) else T.copy_(window, value) end
  else raise(("a tensor has no field '%s' to set"):format(tostring(key))) end
end

F.seal {
  __index = get, __newindex = set,
  __tostring = function(t) return require 'dlv3.core.print'.tensor(t) end,
  __add = function(a, b) return T.add(a, b) end,
  __sub = function(a, b) return T.sub(a, b) end,
  __mul = function(a, b) return T.mul(a, b) end,
  __div = function(a, b) return T.div(a, b) end,
  __pow = function(a, b) return T.pow(a, b) end,
  __unm = function(a) return T.neg(a) end,
  __len = function(t) return T.dim(t) > 0 and T.size(t, 1) or 0 end,
  __eq = function(a, b) return is_tensor(a) and is_tensor(b) and a.p == b.p end,
  __lt = function() raise('tensors are compared elementwise with a:lt(b), a:gt(b), ...') end,
  __le = function() raise('tensors are compared elementwise with a:le(b), a:ge(b), ...') end,
  __concat = function(a, b) return tostring(a) .. tostring(b) end,
  __mod = function() raise('tensors have no %: the rest of x / n is x - (x / n):floor() * n') end,
  __call = function() raise('a tensor is no function: its elements are x[i] and x[{i, j}], its methods x:name()') end,
  __ipairs = function() raise('ipairs: a tensor is no table: its rows are x[i], for i = 1, #x; x:totable() makes a '
                              .. 'table') end,
  __pairs = function() raise('pairs: a tensor is no table: its rows are x[i], for i = 1, #x; x:totable() makes a '
                             .. 'table') end,
}

return M
