-- call.lua - from a Lua call to dlv3_call: a method for every op, made from the op table's own
-- text.
--
-- x:conv2d(w, b, {stride = 2}): tensors first, in the signature's order (an optional one may be
-- left out at the end, nil, or named in the options), then attributes, positional or in a table. A
-- number stands for a tensor where another operand is one. Axes and positions are 1-based here and
-- 0-based in C: converted in this file only.

local F = require 'dlv3.core.ffi'
local suggest = require 'dlv3.core.suggest'
local C, raise, is_tensor = F.C, F.raise, F.is_tensor

-- raw: the ops as they are, for tests; methods: what tensors have, where tensor.lua adds to and
-- wraps some.
local M = {methods = {}, raw = {}, ops = {}}

-- -- The table, parsed ----------------------------------------------------------------------------

local slots_of = {pair = 2, dims = 9, axes = 9}
local activations = {none = 0, relu = 1, relu6 = 2, hardswish = 3, hardsigmoid = 4} -- ACT_* of core.h

-- Defaults as numbers or words, from their text.
local function default_of(text)
  if text == 'REQUIRED' or text == 'all' or text == 'none' then return text end
  if text == 'inf' then return math.huge elseif text == '-inf' then return -math.huge end
  return tonumber(text)
end

local function describe(id)
  local op = {id = id, name = F.string(C.dlv3_op_name(id)), signature = F.string(C.dlv3_op_signature(id)),
              doc = F.string(C.dlv3_op_doc(id)), inputs = {}, outputs = {}, attrs = {}, attr = {}, input = {}}
  local flags = C.dlv3_op_flags(id)
  op.grad, op.view, op.random = bit.band(flags, 1) ~= 0, bit.band(flags, 2) ~= 0, bit.band(flags, 16) ~= 0
  local ins, outs = op.signature:match('^(.-)%s*%->%s*(.*)$')
  for name, marks in ins:gmatch('([%w_]+)([%*%?!%.]*)') do
    local input = {name = name, optional = marks:find('?', 1, true) ~= nil, in_place = marks:find('!', 1, true) ~= nil}
    op.inputs[#op.inputs + 1], op.input[name] = input, input
    if marks:find('.', 1, true) then op.variadic = true end
  end
  for name in outs:gmatch('([%w_]+)') do op.outputs[#op.outputs + 1] = {name = name, hidden = name:sub(1, 1) == '_'} end
  local slot = 0
  for name, kind, default in F.string(C.dlv3_op_attrs(id)):gmatch('([%w_]+):(%w+)=(%S+)') do
    local shown = kind == 'bool' and tostring(default == '1') or default
    local a = {name = name, kind = kind, default = default_of(default), text = shown, slot = slot}
    op.attrs[#op.attrs + 1], op.attr[name] = a, a
    slot = slot + (slots_of[kind] or 1)
  end
  return op
end

-- "stride = 1, padding = 0": an op's attributes with their defaults, for help and messages.
function M.attrs_text(op)
  local parts = {}
  for _, a in ipairs(op.attrs) do parts[#parts + 1] = a.text == 'REQUIRED' and a.name or a.name .. ' = ' .. a.text end
  return #parts > 0 and table.concat(parts, ', ') or 'no options'
end

-- -- Attributes into slots ------------------------------------------------------------------------

local function bad(op, a, value, expected)
  local shown = type(value) == 'string' and "'" .. value .. "'" or type(value) == 'table' and 'a table'
      or tostring(value)
  local hint = ''
  if is_tensor(value) then
    shown, hint = 'a tensor',
        ('; tensors come first: %s, then %s'):format(op.signature:match('^(.-)%s*%->'):gsub('[%*!%?]', ''),
                                                     M.attrs_text(op))
  end
  raise(('%s: %s must be %s, got %s%s'):format(op.name, a.name, expected, shown, hint))
end

local function integer(op, a, v)
  if type(v) ~= 'number' or v ~= math.floor(v) or math.abs(v) > 2 ^ 53 then bad(op, a, v, 'an integer') end
  return v
end

local function from_one(op, a, v)
  v = integer(op, a, v)
  if v == 0 then bad(op, a, v, 'counted from 1, or from the end: -1') end
  return v > 0 and v - 1 or v
end

local function fill_list(op, a, slots, v, convert)
  if type(v) == 'number' then v = {v} end
  if type(v) ~= 'table' then bad(op, a, v, 'a number or a table of numbers') end
  if #v > C.DLV3_MAX_DIMS then bad(op, a, #v, 'at most ' .. tonumber(C.DLV3_MAX_DIMS) .. ' numbers') end
  slots[a.slot].i = #v
  for i = 1, #v do slots[a.slot + i].i = convert(op, a, v[i]) end
end

local fill = {
  int = function(op, a, slots, v) slots[a.slot].i = integer(op, a, v) end,
  axis = function(op, a, slots, v) slots[a.slot].i = from_one(op, a, v) end,
  position = function(op, a, slots, v) slots[a.slot].i = from_one(op, a, v) end,
  real = function(op, a, slots, v)
    if type(v) ~= 'number' then bad(op, a, v, 'a number') end
    slots[a.slot].f = v
  end,
  bool = function(op, a, slots, v)
    if v == 0 or v == 1 then v = v == 1 end
    if type(v) ~= 'boolean' then bad(op, a, v, 'true or false') end
    slots[a.slot].i = v and 1 or 0
  end,
  pair = function(op, a, slots, v)
    if type(v) == 'number' then v = {v, v} end
    if type(v) ~= 'table' or #v ~= 2 then bad(op, a, v, 'a number or {h, w}') end
    slots[a.slot].i, slots[a.slot + 1].i = integer(op, a, v[1]), integer(op, a, v[2])
  end,
  dims = function(op, a, slots, v) fill_list(op, a, slots, v, integer) end,
  axes = function(op, a, slots, v) fill_list(op, a, slots, v == 'all' and {} or v, from_one) end,
  dtype = function(op, a, slots, v)
    local id = F.dtype_id[v]
    if not id then raise(('%s: %s must be a dtype: %s'):format(op.name, a.name, F.no_dtype(v))) end
    slots[a.slot].i = id
  end,
  act = function(op, a, slots, v)
    if not activations[v] then bad(op, a, v, 'none, relu, relu6, hardswish or hardsigmoid') end
    slots[a.slot].i = activations[v]
  end,
}

-- The values after the tensors, by attribute. A list may be spread when it comes first: reshape(2,
-- 3).
local function place(op, positional, n, values)
  local at = 1
  for i, a in ipairs(op.attrs) do
    if at > n then return end
    local v = positional[at]
    if i == 1 and (a.kind == 'dims' or a.kind == 'axes') and type(v) == 'number' then
      v = {}
      while at <= n and type(positional[at]) == 'number' do v[#v + 1], at = positional[at], at + 1 end
    else
      at = at + 1
    end
    values[a.name] = v
  end
  if at <= n then raise(('%s: too many values after the tensors; it takes %s'):format(op.name, M.attrs_text(op))) end
end

local function unknown_option(op, name)
  local names = {}
  for _, a in ipairs(op.attrs) do names[#names + 1] = a.name end
  for _, input in ipairs(op.inputs) do if input.optional then names[#names + 1] = input.name end end
  raise(("%s: no option '%s'%s (has: %s)"):format(op.name, tostring(name), suggest.text(tostring(name), names),
        #names > 0 and table.concat(names, ', ') or 'none'))
end

local function fill_attrs(op, slots, named, positional, n)
  local values = {}
  place(op, positional, n, values)
  for name, v in pairs(named) do
    if op.attr[name] then values[name] = v
    elseif not op.input[name] then unknown_option(op, name) end
  end
  for _, a in ipairs(op.attrs) do
    local v = values[a.name]
    if v == nil then v = a.default end
    if v == 'REQUIRED' then raise(('%s: %s must be given; it takes %s'):format(op.name, a.name, M.attrs_text(op))) end
    fill[a.kind](op, a, slots, v)
  end
end

-- -- Calls ----------------------------------------------------------------------------------------

local n_slots = tonumber(C.DLV3_MAX_SLOTS)
local in_buf = F.new('dlv3_tensor *[?]', tonumber(C.DLV3_MAX_INPUTS))
local out_buf = F.new('dlv3_tensor *[?]', tonumber(C.DLV3_MAX_OUTPUTS))
local slot_buf = F.new('dlv3_attr[?]', n_slots)

local ranges = {[tonumber(C.DLV3_U8)] = {0, 255}, [tonumber(C.DLV3_I32)] = {-2 ^ 31, 2 ^ 31 - 1}}

-- A 0-d tensor of value, of a dtype that leaves the other operand's alone where it can: a whole
-- number that u8 or i32 does not hold is i64, so that labels:eq(-1) is false everywhere and
-- where(labels:eq(255), -1, labels) has -1 in it.
local function scalar(value, like)
  local dtype = C.dlv3_tensor_dtype(like.p)
  local whole = value == math.floor(value) and math.abs(value) < 2 ^ 53
  local range = ranges[dtype]
  if dtype < C.DLV3_F16 then
    dtype = not whole and C.DLV3_F32 or (dtype == C.DLV3_BOOL or range and (value < range[1] or value > range[2]))
        and C.DLV3_I64 or dtype
  end
  local out = F.tensor_out()
  F.check(F.retry(C.dlv3_tensor_new, out, dtype, 0, nil, C.dlv3_tensor_device(like.p)))
  return M.methods.fill_(F.take(out), value)
end
M.scalar = scalar

local function not_a_tensor(op, input, v)
  local hint = type(v) == 'table' and ': dlv3.tensor{...} makes one of numbers' or ''
  raise(('%s: %s must be a tensor, got a %s%s'):format(op.name, input.name, type(v), hint))
end

-- Splits a call's arguments: the tensors, the options table, the positional attributes and how
-- many.
local function sort_arguments(op, n, args)
  local tensors, named, positional, at = {}, {}, {}, 1
  local last = args[n]
  local list_first = op.attrs[1] and (op.attrs[1].kind == 'dims' or op.attrs[1].kind == 'axes') -- reshape({}) makes 0-d
  local takes_table = op.attrs[1] and slots_of[op.attrs[1].kind] ~= nil
  if n > 1 and type(last) == 'table' and (type((next(last))) == 'string' or next(last) == nil and not list_first) then
    named, n = last, n - 1
  end
  for i, input in ipairs(op.inputs) do
    local v = args[at]
    if input.name == 'rng' then
      tensors[i] = M.default_rng(is_tensor(tensors[1]) and C.dlv3_tensor_device(tensors[1].p) or 0)
    elseif named[input.name] ~= nil then tensors[i] = named[input.name]
    elseif at <= n and (is_tensor(v) or v == nil and input.optional) then tensors[i], at = v, at + 1
    elseif at <= n and type(v) == 'number' and not input.optional then tensors[i], at = v, at + 1
    elseif at <= n and at > 1 and input.optional and type(v) == 'table' and v[1] ~= nil and not takes_table then
      not_a_tensor(op, input, v)
    elseif not input.optional then
      raise(('%s: %s must be a tensor, got %s; it is called as %s'):format(
            op.name, input.name, v == nil and 'nothing' or 'a ' .. type(v), op.signature))
    end
  end
  for i = at, n do positional[i - at + 1] = args[i] end
  return tensors, named, positional, n - at + 1
end

local function numbers_to_tensors(op, tensors)
  local like
  for i = 1, #op.inputs do
    local t = tensors[i]
    if is_tensor(t) and (not like or C.dlv3_tensor_dtype(t.p) > C.dlv3_tensor_dtype(like.p)) then like = t end
  end
  for i = 1, #op.inputs do
    local v = tensors[i]
    if type(v) == 'number' and like then tensors[i] = scalar(v, like)
    elseif v ~= nil and not is_tensor(v) then not_a_tensor(op, op.inputs[i], v) end
  end
end

local function run(op, tensors, n_in)
  for i = 1, n_in do in_buf[i - 1] = tensors[i] and tensors[i].p or nil end
  return C.dlv3_call(op.id, in_buf, n_in, slot_buf, out_buf)
end

-- Runs op on an array of n_in tensors; the attributes are in slot_buf. Returns what Lua sees of the
-- results.
local function finish(op, tensors, n_in)
  local status = run(op, tensors, n_in)
  if status == C.DLV3_ERR_OOM then
    local kept = F.new('dlv3_attr[?]', n_slots) -- a finalizer may run ops of its own
    F.copy(kept, slot_buf, F.sizeof(kept))
    status = F.retry(function()
      F.copy(slot_buf, kept, F.sizeof(kept))
      return run(op, tensors, n_in)
    end)
  end
  if status ~= C.DLV3_OK then F.check(status) end
  local first, second
  for i, output in ipairs(op.outputs) do
    local p = out_buf[i - 1]
    if output.hidden or p == nil then -- p is nil where an operand was changed instead
      if p ~= nil then C.dlv3_tensor_free(p) end
    elseif first then second = F.wrap(p)
    else first = F.wrap(p) end
  end
  F.relieve()
  if second then return first, second end
  return first or tensors[1]
end

local function method(op)
  return function(...)
    local tensors, named, positional, m = sort_arguments(op, select('#', ...), {...})
    numbers_to_tensors(op, tensors)
    fill_attrs(op, slot_buf, named, positional, m)
    return finish(op, tensors, #op.inputs)
  end
end

-- cat: a table of tensors, then attributes.
local function variadic(op)
  return function(list, ...)
    if type(list) ~= 'table' or not list[1] then raise(op.name .. ': expected a table of tensors') end
    for i, t in ipairs(list) do
      if not is_tensor(t) then raise(('%s: element %d is a %s, not a tensor'):format(op.name, i, type(t))) end
    end
    local most = tonumber(C.DLV3_MAX_INPUTS)
    if #list > most then raise(('%s: %d tensors at once, at most %d'):format(op.name, #list, most)) end
    local named, positional, m = {}, {...}, select('#', ...)
    if type(positional[1]) == 'table' then named, positional, m = positional[1], {}, 0 end
    fill_attrs(op, slot_buf, named, positional, m)
    return (finish(op, list, #list))
  end
end

for id = 0, C.dlv3_op_count() - 1 do
  local op = describe(id)
  M.ops[op.name] = op
  M.ops[#M.ops + 1] = op
  M.raw[op.name] = op.variadic and variadic(op) or method(op)
  M.methods[op.name] = M.raw[op.name]
end

return M
