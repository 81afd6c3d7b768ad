-- weight_files.lua - what the tests of weight files share: files put together by hand, the values
-- of the fixtures; loaded by
-- dofile(t.directory .. '/weight_files.lua').

local dlv3 = require 'dlv3'
local bytes = require 'dlv3.io.bytes'
local dict = require 'dlv3.core.dict'
local zip = require 'dlv3.io.zip'

local function write(path, s)
  local f = assert(io.open(path, 'wb'))
  f:write(s)
  f:close()
  return path
end

local function slurp(path)
  local f = assert(io.open(path, 'rb'))
  local s = f:read '*a'
  f:close()
  return s
end

-- f32 tensor of the numbers first, first + 1, ...
local function counting(sizes, first)
  local n = 1
  for _, s in ipairs(sizes) do n = n * s end
  local F = require 'dlv3.core.ffi'
  local values = F.new('float[?]', n)
  for i = 0, n - 1 do values[i] = (first or 0) + i end
  return dlv3.frombytes(F.string(values, n * 4), sizes)
end

-- A .pth of this pickle and these storages: {key = bytes}.
local function pth(path, text, storages, extra)
  local file = bytes.create(path)
  local archive = zip.create(file)
  local function add(name, s) archive:add(name, #s, function(f) f:write(s) end) end
  add('top/data.pkl', text)
  for key, s in pairs(storages or {}) do add('top/data/' .. key, s) end
  for name, s in pairs(extra or {}) do add(name, s) end
  archive:finish()
  file:commit()
  file:close()
  return path
end

-- The pickle of one tensor: numbers and tuples as given in pickle operations.
local function tensor_pickle(numel, offset, sizes, strides, type, key)
  local function int(n) return 'L' .. ('%.0f'):format(n) .. 'L\n' end
  local function tuple(list)
    local parts = {}
    for i, n in ipairs(list) do parts[i] = int(n) end
    return '(' .. table.concat(parts) .. 't'
  end
  return 'ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\n' .. (type or 'FloatStorage') .. '\nX\1\0\0\0'
      .. (key or '0') .. 'X\3\0\0\0cpu' .. int(numel) .. 'tQ' ..
         int(offset) .. tuple(sizes) .. tuple(strides) .. '\137}tR'
end

local expected_fields = {f64 = {{0.1, -2.5}, {3e300, 4}}, f16 = {0.5, -65504}, i32 = {-5, 7}, i16 = {-300, 300},
                         i8 = {-3, 100}, u8 = {0, 255}, bool = {1, 0, 1},
                         view = {{4, 5, 6}, {7, 8, 9}}, strided = {1, 4, 7, 10, 13, 16, 19, 22}, param = {1, 2, 3},
                         expanded = {{7, 7}, {7, 7}}}

local function check_values(t, d)
  t.ok(dict.is(d))
  t.eq(dict.keys(d), {'conv.weight', 'conv.last', 'param', 'f64', 'f16', 'bf16', 'i64', 'i32', 'i16', 'i8', 'u8',
                      'bool', 'empty', 'base', 'view',
                      'transposed', 'strided', 'tied', 'expanded', 'plain', 'args'})
  for name, value in pairs(expected_fields) do t.eq(d[name]:totable(), value, name) end
  t.eq(d['conv.weight']:tobytes(), counting({2, 3, 2, 2}):tobytes())
  t.eq(d['conv.last']:tobytes(), counting({2, 3, 2, 2}):tobytes(), 'channels-last')
  t.ok(d['conv.weight']:is_contiguous() and d['conv.last']:is_contiguous(), 'both are channels-last here')
  t.eq(d.i64:item(), 2 ^ 40 + 1)
  t.eq(d.i64:size(), {})
  t.eq(d.empty:size(), {0, 3})
  t.eq(d.transposed:totable()[2], {1, 7, 13, 19})
  for name, dtype in pairs {param = 'f32', f64 = 'f64', f16 = 'f16', bf16 = 'bf16', i64 = 'i64', i32 = 'i32',
                            i16 = 'i32', i8 = 'i32', u8 = 'u8', bool = 'bool'} do
    t.eq(d[name].dtype, dtype)
  end
  t.eq(d.plain.lr, 0.1)
  t.eq(d.plain.epoch, 3)
  t.eq(d.plain.big, 2LL ^ 60)
  t.eq(d.plain.minus, -70000)
  t.eq(d.plain.yes, true)
  t.ok(d.plain.none == dlv3.none)
  t.eq(d.plain.text, 'gr\195\188n')
  t.eq(d.plain.list, {1, {2, {3.5}}})
  t.eq(d.plain[0].momentum_buffer:totable(), {0.25})
  t.eq(d.args.model, 'deeplabv3_resnet50')
  t.eq(d.args.aux, false)
end

return {write = write, slurp = slurp, counting = counting, pth = pth, tensor_pickle = tensor_pickle,
        check_values = check_values}
