-- compile.lua - dlv3.compile: a function recorded once for each kind of arguments, and replayed
-- from then on.
--
-- Recording (runtime/program/record.c) runs the function with tensors that have no content and
-- computes nothing; the program it leaves does the work, the first time too; on a GPU it is one
-- launch from its second run on (runtime/program/graph.c). Tensors among the arguments, also in
-- tables, are what a call brings; other tensors the function uses are those that were there when it
-- was recorded, and all other values are fixed with the program. Another dtype, size or stride, a
-- place on a tape, another number or string, train() or eval() on some model, a parameter frozen or
-- set free, grad mode, allow_tf32, cudnn_benchmark: each records anew.

local F = require 'dlv3.core.ffi'
local call = require 'dlv3.core.call'
local autograd = require 'dlv3.core.autograd'
local module_path = require 'dlv3.core.module_path'
local C, raise, check, is_tensor = F.C, F.raise, F.check, F.is_tensor

local M = {modes = 0} -- modes: moves when a model changes between training and evaluation

local most_programs = 32 -- of one function; the one that was not used for longest goes

local hooks -- of the program being recorded

-- fn() before every replay, for what changes from step to step without being a tensor, such as a
-- learning rate; false means that the program no longer holds. Outside of a recording fn is called
-- at once.
function M.refresh(fn)
  if C.dlv3_recording() == 1 then hooks[#hooks + 1] = fn else fn() end
end

-- -- Arguments and results ------------------------------------------------------------------------

-- The addresses of a tensor's first and last bytes.
local function extent(t)
  local p, elements = t.p, 1
  for i = 0, C.dlv3_tensor_ndim(p) - 1 do
    elements = elements + tonumber((C.dlv3_tensor_size(p, i) - 1) * C.dlv3_tensor_stride(p, i))
  end
  local first = tonumber(C.dlv3_tensor_address(p))
  return first, first + elements * F.width[t.dtype] - 1
end

-- The tensors in a value, in a fixed order, and a text that is equal for values a program can stand
-- for.
local function flatten(value, tensors, parts)
  if is_tensor(value) then
    local p = value.p
    tensors[#tensors + 1] = value
    local strides = C.dlv3_tensor_is_dense(p) == 1 and '' or ':' .. table.concat(value:stride(), 'x')
    parts[#parts + 1] = ('t%d.%d.%d.%s%s'):format(C.dlv3_tensor_dtype(p), C.dlv3_tensor_device(p),
                                                  C.dlv3_requires_grad(p), table.concat(value:size(), 'x'), strides)
    local first, last
    if #tensors > 1 then first, last = extent(value) end
    for i = 1, #tensors - 1 do -- arguments that share memory do so in the same way
      local other, its_last = extent(tensors[i])
      if first <= its_last and other <= last then parts[#parts + 1] = ('=%d%+d'):format(i, first - other) end
    end
  elseif type(value) == 'number' then parts[#parts + 1] = ('%.17g'):format(value) -- all of its digits
  elseif type(value) == 'table' and not getmetatable(value) then
    local keys = {}
    for k in pairs(value) do keys[#keys + 1] = k end
    table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
    parts[#parts + 1] = '{'
    for _, k in ipairs(keys) do
      parts[#parts + 1] = (type(k) == 'number' and '%.17g=' or '%q='):format(type(k) == 'number' and k or tostring(k))
      flatten(value[k], tensors, parts)
    end
    parts[#parts + 1] = '}'
  elseif type(value) == 'string' then parts[#parts + 1] = ('%q'):format(value)
  else parts[#parts + 1] = tostring(value) end -- a boolean, nil; of others, which one it is
end

-- value with handle i of new where its i-th tensor was; marks: what take_apart left in their
-- places.
local function take_apart(value, tensors, seen)
  if is_tensor(value) then
    tensors[#tensors + 1] = value
    return {tensor = #tensors}
  end
  if type(value) ~= 'table' or getmetatable(value) then return {value = value} end
  if seen[value] then raise 'compile: the function returns a table that contains itself' end
  seen[value] = true
  local fields = {}
  for k, v in pairs(value) do fields[k] = take_apart(v, tensors, seen) end
  seen[value] = nil
  return {fields = fields}
end

local function put_together(mark, tensors)
  if mark.tensor then return tensors[mark.tensor] end
  if not mark.fields then return mark.value end
  local t = {}
  for k, m in pairs(mark.fields) do t[k] = put_together(m, tensors) end
  return t
end

local function pointers(tensors)
  local buf = F.new('dlv3_tensor *[?]', math.max(#tensors, 1))
  for i, t in ipairs(tensors) do buf[i - 1] = t.p end
  return buf
end

-- -- Recording ------------------------------------------------------------------------------------

local function packed(...) return {n = select('#', ...), ...} end

-- Runs fn on promises; returns the program without what holds recorded tensors.
local function recorded(fn, tensors, ...)
  local depth, program = module_path.depth(), {hooks = {}}
  hooks = program.hooks
  check(C.dlv3_record_begin(pointers(tensors), #tensors))
  local results = packed(pcall(fn, ...))
  hooks = nil
  if not results[1] then
    C.dlv3_record_abort()
    module_path.reset(depth)
    error(results[2], 0)
  end
  local made = {}
  program.marks = {n = results.n - 1}
  for i = 2, results.n do program.marks[i - 1] = take_apart(results[i], made, {}) end
  local out = F.new('dlv3_program *[1]')
  check(C.dlv3_record_end(out, pointers(made), #made))
  program.n_results = #made
  program.p = F.gc(out[0], C.dlv3_program_free)
  return program
end

-- What was made inside and is still held somewhere would never be made again: a state that starts
-- inside of the function.
local function check_escaped(program)
  autograd.forget_freed()
  collectgarbage()
  collectgarbage()
  local text = F.string(C.dlv3_program_escaped(program.p))
  if text == '' then return end
  raise('compile: the function keeps a tensor that it makes, ' .. text
        .. ', outside of itself (in a table, an upvalue, or as the gradient of a leaf that had none): ' ..
        'return it, or make it before (an optimiser makes the gradients of its parameters)')
end

-- search: whether to look for tensors that the function keeps, which needs a garbage collection
-- first.
local function record(fn, tensors, search, ...)
  -- is made, and moved, on first use, which must not be inside
  call.default_rng(tensors[1] and C.dlv3_tensor_device(tensors[1].p))
  local compiling = jit.status() -- a trace could keep handles that it saw
  jit.off()
  local ok, program = pcall(recorded, fn, tensors, ...)
  if ok and search then
    local good, message = pcall(check_escaped, program)
    ok, program = good, good and program or message
  end
  if compiling then jit.on() end
  if not ok then error(program, 0) end
  return program
end

-- -- Replay ---------------------------------------------------------------------------------------

local function still_holds(program)
  if C.dlv3_program_current(program.p) == 0 then return false end
  for _, hook in ipairs(program.hooks) do
    if hook() == false then return false end
  end
  return true
end

local function replay(program, tensors)
  local args, out = pointers(tensors), F.new('dlv3_tensor *[?]', math.max(program.n_results, 1))
  check(F.retry(C.dlv3_program_prepare, program.p, args))
  check(C.dlv3_program_run(program.p, out))
  local made = {}
  for i = 1, program.n_results do made[i] = F.wrap(out[i - 1]) end
  F.relieve()
  local results = {}
  for i = 1, program.marks.n do results[i] = put_together(program.marks[i], made) end
  return unpack(results, 1, program.marks.n)
end

-- Forgets the programs of other modes, which never come again, and the oldest of too many.
local function make_room(programs, modes)
  local n, oldest = 0, nil
  for key, program in pairs(programs) do
    if program.modes ~= modes then programs[key] = nil
    else
      n = n + 1
      if not oldest or program.used < programs[oldest].used then oldest = key end
    end
  end
  if n >= most_programs then programs[oldest] = nil end
end

-- A function that does what fn does, to the last bit, from a recording of it: without Lua between
-- the ops, intermediates in one planned piece of memory. fn may train: forward, backward and the
-- optimiser's step are one program. It is run once for every new kind of arguments (sizes, dtypes,
-- other values), and sees no content then: reading one in it (item, totable, print) is an error.
-- Numbers that it takes from around it instead (a counter, the weight of a loss) stay what they
-- were then: pass them as arguments, or keep them in a tensor. A tensor that is an argument of the
-- first call and also taken from around the function counts as the argument. Results are new
-- tensors without a tape: backward is called in fn, or fn under no_grad.
function M.compile(fn)
  local mt = type(fn) == 'table' and getmetatable(fn)
  if type(fn) ~= 'function' and not (mt and mt.__call) then
    raise('compile: takes a function, as in dlv3.compile(function(x) ... end)')
  end
  local programs, clock, searched_mode = {}, 0, nil
  return function(...)
    if C.dlv3_recording() == 1 then return fn(...) end -- a part of another program
    local tensors, parts = {}, {C.dlv3_grad_enabled(), C.dlv3_tf32_allowed(), C.dlv3_cudnn_benchmark(), M.modes}
    for i = 1, select('#', ...) do
      parts[#parts + 1] = ','
      flatten((select(i, ...)), tensors, parts)
    end
    local key = table.concat(parts)
    local program = programs[key]
    if program and not still_holds(program) then program, programs[key] = nil, nil end
    if not program then
      make_room(programs, M.modes)
      -- Once a mode is enough: other sizes run the same code, and a tensor kept then is an error
      -- where it is used.
      local mode = parts[1] .. ',' .. M.modes
      program = record(fn, tensors, searched_mode ~= mode, ...)
      searched_mode = mode
      program.modes = M.modes
      programs[key] = program
      still_holds(program)
    end
    clock = clock + 1
    program.used = clock
    return replay(program, tensors)
  end
end

return M
