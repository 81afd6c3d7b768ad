-- cuda_kernel.lua - dlv3.cuda_kernel: kernels of one's own in CUDA C, compiled while the program
-- runs.
--
-- The kernel's parameters are read from the source: they say what a plain number becomes, of which
-- dtype a tensor must be, and whether the kernel may write it (a pointer to const is only read).
-- What the reading does not understand (a template's T, a macro) is left to the caller and the
-- compiler. The rest is C's: runtime/program/kernel.c, kernels/cuda/nvrtc.cu.

local F = require 'dlv3.core.ffi'
local expect = require 'dlv3.core.expect'
local suggest = require 'dlv3.core.suggest'
local tensor = require 'dlv3.core.tensor'
local C, raise, is_tensor = F.C, F.raise, F.is_tensor

local M = {}

-- -- Reading the source ---------------------------------------------------------------------------

-- C's types of numbers: the dtype of that width, and the range of integers.
local i32, u32, i64, u64 = {'i32', -2 ^ 31, 2 ^ 31 - 1}, {'i32', 0, 2 ^ 32 - 1}, {'i64', -2 ^ 63, 2 ^ 63 - 1024},
    {'i64', 0, 2 ^ 64 - 2048}
local types = {
  ['bool'] = {'bool', 0, 1}, ['unsigned char'] = {'u8', 0, 255}, ['uint8_t'] = {'u8', 0, 255}, ['float'] = {'f32'},
  ['double'] = {'f64'},
  ['int'] = i32, ['signed'] = i32, ['signed int'] = i32, ['int32_t'] = i32, ['unsigned'] = u32, ['unsigned int'] = u32,
  ['uint32_t'] = u32,
  ['long'] = i64, ['long int'] = i64, ['long long'] = i64, ['long long int'] = i64, ['int64_t'] = i64,
  ['unsigned long'] = u64,
  ['unsigned long long'] = u64, ['uint64_t'] = u64, ['size_t'] = u64, ['__half'] = {'f16'}, ['half'] = {'f16'},
  ['__nv_bfloat16'] = {'bf16'}, ['nv_bfloat16'] = {'bf16'},
}
local number_types = {bool = {'bool', 0, 1}, u8 = {'u8', 0, 255}, i32 = {'i32', -2 ^ 31, 2 ^ 32 - 1},
                      i64 = {'i64', -2 ^ 63, 2 ^ 64 - 2048}, f32 = {'f32'}, f64 = {'f64'}}
local number_dtypes = {'bool', 'u8', 'i32', 'i64', 'f32', 'f64'}

-- "const float *__restrict__ x" as {text =, pointer = true, const = true, type = what is known of
-- float}.
local function parameter(text)
  local p = {text = text:gsub('%s+', ' '):match '^%s*(.-)%s*$'}
  local plain = p.text:gsub('__[%l_]+__', ' '):gsub('%f[%w_]__restrict%f[^%w_]', ' '):gsub('%f[%w_]volatile%f[^%w_]',
      ' '):gsub('%[[^%]]*%]%s*$', ' %0')
  local pointee = plain:match '^([^%*]*)%*[^%*]*$'
  local array = not pointee and plain:match '^(.-)[%w_]*%s*%[[^%]]*%]%s*$'
  p.pointer = pointee ~= nil or array ~= nil
  local words, const = {}, false
  for word in (pointee or array or plain):gmatch '[^%s]+' do
    if word == 'const' then const = true else words[#words + 1] = word end
  end
  p.const = p.pointer and const
  p.type = types[table.concat(words, ' ')] or not p.pointer
      and types[table.concat(words, ' ', 1, math.max(#words - 1, 0))] or nil
  return p
end

-- The parameters in "(const float *x, int n)"; commas inside of brackets do not count.
local function parameters(list)
  local out, depth, from = {}, 0, 2
  for i = 2, #list do
    local ch = list:sub(i, i)
    if ch == ',' and depth == 0 or i == #list then
      out[#out + 1] = parameter(list:sub(from, i - 1))
      from = i + 1
    elseif ch:find '[%(<]' then depth = depth + 1
    elseif ch:find '[%)>]' then depth = depth - 1 end
  end
  if #out == 1 and (out[1].text == '' or out[1].text == 'void') then return {} end
  return out
end

-- The kernels of a source: their names, and by name the parameters (false: several have the name).
local function kernels_of(source)
  local names, found = {}, {}
  local plain = source:gsub('/%*.-%*/', ' '):gsub('//[^\n]*', ''):gsub('__launch_bounds__%s*%b()', ' ')
  for at in plain:gmatch '%f[%w_]__global__%f[^%w_]()' do
    local name, list = plain:match('^[^%(%);{}]-([%a_][%w_]*)%s*(%b())', at)
    if name then
      if found[name] == nil then
        names[#names + 1] = name
        found[name] = parameters(list)
      else found[name] = false end
    end
  end
  return names, found
end

M.kernels_of = kernels_of

-- -- Arguments ------------------------------------------------------------------------------------

local function where(what, i, p) return ('%s: argument %d%s'):format(what, i, p and ' (' .. p.text .. ')' or '') end

-- The number v as what a type wants, into the slot. Integers beyond 2^53 come as 5LL or 5ULL.
local function put_number(slot, v, t, place)
  local name = t[1]
  if type(v) == 'boolean' and name == 'bool' then v = v and 1 or 0 end
  local cdata = type(v) == 'cdata' and tostring(v):find 'LL$'
  if type(v) ~= 'number' and not cdata then raise(('%s must be a number, got a %s'):format(place, type(v))) end
  if not t[2] then
    slot.f = tonumber(v)
    return
  end
  local x = tonumber(v)
  local exact = cdata and name == 'i64'
  if not exact and (x ~= math.floor(x) or x < t[2] or x > t[3]) then
    raise(('%s must be a whole number from %.0f to %.0f, got %s'):format(place, t[2], t[3], tostring(v)))
  end
  slot.i = x >= 2 ^ 63 and not cdata and F.cast('uint64_t', x) or v
end

-- What type a number has: what its parameter says, or what is written beside it, {'f32', 0.5}.
local function put_value(slot, v, p, place)
  local own = type(v) == 'table'
  if own and (#v ~= 2 or type(v[1]) ~= 'string') then
    raise(place .. ": a number with its type is written {'f32', 0.5}")
  end
  if own and not number_types[v[1]] then
    raise(("%s: no number is of type '%s'%s (there are: %s)"):format(place, v[1], suggest.text(v[1], number_dtypes),
        table.concat(number_dtypes, ', ')))
  end
  if p and p.pointer then raise(('%s must be a tensor, got a number'):format(place)) end
  local t = p and p.type
  if own and t and t[1] ~= v[1] then raise(("%s is %s, got {'%s', %s}"):format(place, t[1], v[1], tostring(v[2]))) end
  if not own and not t then
    raise(("%s: its type is none that dlv3 knows; write the number with one, as in {'f32', 0.5}"):format(place))
  end
  t = t or number_types[v[1]]
  if own then v = v[2] end
  if not number_types[t[1]] then
    raise(('%s: numbers are handed over as %s'):format(place, table.concat(number_dtypes, ', ')))
  end
  put_number(slot, v, t, place)
  return F.dtype_id[t[1]]
end

local function check_tensor(x, p, place)
  if not p then return end
  if not p.pointer and p.type then raise(place .. ' must be a number, got a tensor') end
  local want = p.pointer and p.type and p.type[1]
  if want and x.dtype ~= want and not (want == 'u8' and x.dtype == 'bool') then
    raise(('%s points to %s, the tensor is %s; give it x:to(%q)'):format(place, want, x.dtype, want))
  end
end

-- A size of the grid or block: a number or {x, y, z}.
local function extent(what, name, v)
  local out, list = F.new('int64_t[3]', 1, 1, 1), type(v) == 'number' and {v} or v
  if type(list) ~= 'table' or #list < 1 or #list > 3 then
    raise(('%s: %s is a number or {x, y, z}'):format(what, name))
  end
  for i, n in ipairs(list) do
    expect.argument(what, name, n, expect.whole(name == 'grid' and 0 or 1))
    out[i - 1] = n
  end
  return out
end

-- -- Calls ----------------------------------------------------------------------------------------

local most = tonumber(C.DLV3_MAX_SLOTS)

local function launch(kernel, grid, block, n, args)
  local what, params, options = kernel.name, kernel.parameters, args[n]
  if type(options) == 'table' and options[1] == nil then n = n - 1 else options = nil end
  local o = expect.options(what, {shared = {0, expect.whole(0)}}, options)
  if params and n ~= #params then
    local texts = {}
    for i, p in ipairs(params) do texts[i] = p.text end
    raise(('%s: it takes %d arguments after grid and block (%s), got %d'):format(what, #params,
        table.concat(texts, ', '), n))
  end
  if n > most then raise(('%s: %d arguments, at most %d'):format(what, n, most)) end
  local tensors, numbers, kinds = F.new('dlv3_tensor *[?]', most), F.new('dlv3_attr[?]', most),
      F.new('int32_t[?]', most)
  local device
  for i = 1, n do
    local v, p = args[i], params and params[i]
    local place = where(what, i, p)
    if is_tensor(v) then
      check_tensor(v, p, place)
      tensors[i - 1], kinds[i - 1] = v.p, p and p.const and 0 or 1
      device = device or C.dlv3_tensor_device(v.p)
    elseif v == nil then raise(place .. ' is nil')
    else kinds[i - 1] = put_value(numbers[i - 1], v, p, place) end
  end
  local k = kernel.on(device or kernel.device)
  F.check(C.dlv3_kernel_launch(k, extent(what, 'grid', grid), extent(what, 'block', block), o.shared, tensors, numbers,
                               kinds, n))
end

-- A kernel of CUDA C source text: returns a function to call as kernel(grid, block, ...), where
-- grid and block are a number or {x, y, z}. An argument is a tensor, whose elements the kernel gets
-- a pointer to, or a number, which becomes what the parameter's type is; where that is not one of
-- C's own, it is written with it: {'f32', 0.5}. A tensor behind a pointer to const is only read,
-- others count as changed in place. {shared = bytes} may follow. The source is compiled here, for
-- the option device ('cuda'), and for another device when tensors of it come. docs/cuda_kernels.md
-- has examples.
function M.cuda_kernel(source, name, options)
  if type(source) ~= 'string' or type(name) ~= 'string' then
    raise "cuda_kernel: takes the source and the kernel's name, as in dlv3.cuda_kernel(source, 'add')"
  end
  local o = expect.options('cuda_kernel', {device = {'cuda', expect.text}}, options)
  local names, found = kernels_of(source)
  local base = name:match '([%a_][%w_]*)%s*$' or name:match '([%a_][%w_]*)%s*<' or name
  if found[base] == nil and not source:find '#%s*define' then
    raise(("cuda_kernel: no kernel '%s' in the source%s (has: %s)"):format(name, suggest.text(base, names),
        #names > 0 and table.concat(names, ', ') or 'no __global__ function'))
  end
  local kernels = {}
  local kernel = {name = name, parameters = found[base] or nil, device = tensor.device_id(o.device)}
  function kernel.on(device)
    if not kernels[device] then
      local out = F.new('dlv3_kernel *[1]')
      F.check(F.retry(C.dlv3_kernel_find, out, source, name, device))
      kernels[device] = out[0]
    end
    return kernels[device]
  end
  kernel.on(kernel.device)
  return function(grid, block, ...) return launch(kernel, grid, block, select('#', ...), {...}) end
end

return M
