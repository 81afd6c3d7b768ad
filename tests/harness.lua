-- harness.lua - what every op owes, checked over the op table: test_ops.lua runs this on
-- tests/ops/<family>.lua.
--
-- A family file returns a list of samples:
--   {op = 'conv2d', inputs = {{2,5,7,6}, {4,5,3,3}, {4}}, attrs = {padding = 1}}
-- inputs, in the signature's order (no rng):
--   {2,3}                        sizes of a float tensor, normal random numbers, of the dtype being tested
--   {2,3, dtype = 'i64', low = 0, high = 5}   of a fixed dtype: whole numbers in [low, high) (floats: uniform)
--   {2,3, low = 0.1, high = 2}   uniform floats of the dtype being tested
--   {2,3, away = {0, 6}}         values nearer than 0.1 to one of these are moved away: kinks have no derivative
--   {2,3, value = 0}             filled
--   false                        an absent optional tensor
--   function(dtype) ... end      makes the tensor itself
-- further fields, all optional:
--   dtypes = {'f32', 'bf16'}     what the float inputs are (default f32, bf16, f16, f64; fixed = true: once as given)
--   rtol, atol                   for ref against the other implementations in f32 (bf16 and f16 have their own)
--   grad = false                 no gradcheck; wrt = {1} only these inputs
--   error = 'pattern'            the call must fail with this text; nothing else is checked
--   strided = false              the sample's meaning depends on the layout
--   except = {direct = true}     implementations that take long over it and are seen on like samples

local dlv3 = require 'dlv3'
local runtime = require 'dlv3.core.runtime'
local F = require 'dlv3.core.ffi'

local H = {}

local tolerance = {f64 = {1e-10, 1e-12}, f32 = {2e-5, 2e-5}, bf16 = {4e-2, 4e-2}, f16 = {5e-3, 5e-3}}

-- -- Inputs ---------------------------------------------------------------------------------------

local function move_away(x, points)
  for _, p in ipairs(points) do
    local d = x - p
    x = dlv3.where(d:abs():lt(0.1), p + d:ge(0):to(x.dtype) * 0.4 - 0.2, x)
  end
  return x
end

local function make(input, dtype)
  if type(input) == 'function' then return input(dtype) end
  if type(input) == 'number' then return input end
  local sizes = {unpack(input)}
  local own = input.dtype or dtype
  if input.value then return dlv3.full(sizes, input.value, {dtype = own}) end
  if own:find '^[iu]' or own == 'bool' then
    return dlv3.randint(input.low or 0, input.high or 2, sizes, {dtype = own})
  end
  local x = dlv3.empty(sizes, {dtype = 'f32'})
  if input.low then x:uniform_(input.low, input.high) else x:normal_() end
  if input.away then x = move_away(x, input.away) end
  return x:to(own)
end

local function inputs_of(sample, dtype)
  dlv3.manual_seed(7)
  local list = {}
  for i = 1, #sample.inputs do list[i] = sample.inputs[i] ~= false and make(sample.inputs[i], dtype) or nil end
  return list
end

-- -- Calls ----------------------------------------------------------------------------------------

-- Runs a sample's op on tensors; in-place operands are cloned first. Returns all results: outputs
-- and changed operands.
local function run(sample, tensors)
  local op, n = dlv3.ops[sample.op], #sample.inputs
  local args, changed = {}, {}
  for i = 1, n do args[i] = tensors[i] end
  local at = 0
  for _, input in ipairs(op.inputs) do
    if input.name ~= 'rng' then
      at = at + 1
      if input.in_place and F.is_tensor(args[at]) then
        args[at] = args[at]:clone()
        changed[#changed + 1] = args[at]
      end
    end
  end
  dlv3.manual_seed(3)
  local method = require('dlv3.core.call').raw[sample.op]
  local results
  if op.variadic then results = {method(args, sample.attrs or {})}
  else
    args[n + 1] = sample.attrs or {}
    results = {method(unpack(args, 1, n + 1))}
  end
  if #op.outputs == 0 then results = {} end
  for _, c in ipairs(changed) do results[#results + 1] = c end
  return results
end

local function with_impl(name, fn)
  runtime.set_implementation(name)
  local ok, a = pcall(fn)
  runtime.set_implementation('')
  if not ok then error(a, 0) end
  return a
end

-- -- Checks ---------------------------------------------------------------------------------------

local function label(sample, dtype)
  local parts = {}
  for i = 1, #sample.inputs do
    local input = sample.inputs[i]
    parts[i] = type(input) == 'table' and '[' .. table.concat(input, ',') .. ']' or tostring(input)
  end
  for k, v in pairs(sample.attrs or {}) do
    parts[#parts + 1] = k .. '=' .. (type(v) == 'table' and '{' .. table.concat(v, ',') .. '}' or tostring(v))
  end
  return sample.op .. '(' .. table.concat(parts, ' ') .. ') ' .. dtype
end

local function close_all(t, got, want, dtype, sample, what)
  t.eq(#got, #want, what .. ': number of results')
  local own = dtype == 'f32' and sample or {}
  for i = 1, #want do
    local tol = tolerance[want[i].dtype] or {0, 0}
    -- an f32 result of half inputs is no better than they are
    if dtype == 'bf16' or dtype == 'f16' then tol = tolerance[dtype] end
    if not want[i].dtype:find 'f' then tol = {0, 0} end
    t.close(got[i], want[i], math.max(tol[1], own.rtol or 0), math.max(tol[2], own.atol or 0), what .. ', result ' .. i)
  end
end

-- The same elements, physically transposed: every dimension in reverse order, then permuted back.
local function strided(x)
  if not F.is_tensor(x) or x.ndim < 2 then return x end
  local back = {}
  for i = 1, x.ndim do back[i] = x.ndim - i + 1 end
  return x:permute(back):clone():permute(back)
end

local chosen = {} -- chosen[op][impl]: seen running

-- Names of the implementations that a sample is run with on a device.
local function impls_for(sample, device)
  local names = {}
  for _, impl in ipairs(runtime.implementations(dlv3.ops[sample.op], device)) do
    if not (sample.except and sample.except[impl]) then names[#names + 1] = impl end
  end
  return names
end

-- The sample on another device: every implementation there against ref on the cpu, twice, and
-- strided.
local function check_device(t, sample, dtype, device)
  local tensors, there = inputs_of(sample, dtype), {}
  local want = with_impl('ref', function() return run(sample, tensors) end)
  local op = dlv3.ops[sample.op]
  local function send(x) return F.is_tensor(x) and x:to(device) or x end
  for i = 1, #sample.inputs do there[i] = send(tensors[i]) end
  local id = require('dlv3.core.tensor').device_id(device)
  for _, impl in ipairs(impls_for(sample, id)) do
    local got = with_impl(impl, function() return run(sample, there) end)
    dlv3.synchronize(device)
    local ran = runtime.chosen(op)
    chosen[device] = chosen[device] or {}
    chosen[device][sample.op .. ' ' .. ran] = true
    if ran == impl then
      local what = label(sample, dtype) .. ' ' .. device .. ' ' .. impl
      for _, x in ipairs(got) do t.eq(x.device, device, what .. ': device of a result') end
      close_all(t, got, want, dtype, sample, what .. ' against ref')
      local again = with_impl(impl, function() return run(sample, there) end)
      for i = 1, #got do t.eq(again[i], got[i], what .. ' twice') end
    end
  end
  if sample.strided == false or op.view then return end
  local at, any, other = 0, false, {}
  for _, input in ipairs(op.inputs) do
    if input.name ~= 'rng' then
      at = at + 1
      other[at] = input.in_place and there[at] or strided(there[at])
      any = any or other[at] ~= there[at]
    end
  end
  for i = at + 1, #sample.inputs do other[i], any = strided(there[i]), true end
  if any then
    close_all(t, run(sample, other), want, dtype, sample,
              label(sample, dtype) .. ' ' .. device .. ' strided against dense')
  end
end

local function check_values(t, sample, dtype)
  local tensors = inputs_of(sample, dtype)
  local want = with_impl('ref', function() return run(sample, tensors) end)
  local op = dlv3.ops[sample.op]
  for _, impl in ipairs(impls_for(sample, 0)) do
    local got = impl == 'ref' and want or with_impl(impl, function() return run(sample, tensors) end)
    local ran = impl == 'ref' and impl or runtime.chosen(op)
    chosen[sample.op] = chosen[sample.op] or {}
    chosen[sample.op][ran] = true
    if ran == impl then
      if impl ~= 'ref' then
        close_all(t, got, want, dtype, sample, label(sample, dtype) .. ' ' .. impl .. ' against ref')
      end
      local again = with_impl(impl, function() return run(sample, tensors) end)
      for i = 1, #got do t.eq(again[i], got[i], label(sample, dtype) .. ' ' .. impl .. ' twice') end
    end
  end
  if op.view and #want == 0 then want = run(sample, tensors) end
  if sample.strided ~= false then
    local other, any = {}, false
    local at = 0
    for _, input in ipairs(op.inputs) do
      if input.name ~= 'rng' then
        at = at + 1
        other[at] = input.in_place and tensors[at] or strided(tensors[at])
        any = any or other[at] ~= tensors[at]
      end
    end
    for i = at + 1, #sample.inputs do other[i], any = strided(tensors[i]), true end
    if any then
      for _, impl in ipairs {'', 'ref'} do -- the one chosen, and the reference
        local got = with_impl(impl, function() return run(sample, other) end)
        close_all(t, got, want, dtype, sample, label(sample, dtype) .. ' ' .. impl .. ' strided against dense')
      end
    end
  end
end

-- d sum(result * weights) / d input by central differences in f64 on ref, against the tape.
local function check_gradient(t, sample)
  local tensors = inputs_of(sample, 'f64')
  local outputs = 0 -- operands changed in place come after them, and have no gradient
  for _, o in ipairs(dlv3.ops[sample.op].outputs) do outputs = outputs + (o.hidden and 0 or 1) end
  local weights
  local function loss_of(list)
    local total
    local results = run(sample, list)
    weights = weights or {}
    for i, y in ipairs(results) do
      if i <= outputs and y.dtype == 'f64' then
        weights[i] = weights[i] or dlv3.randn(y:size(), {dtype = 'f64'})
        local part = (y * weights[i]):sum()
        total = total and total + part or part
      end
    end
    return total
  end
  local wanted = {}
  for _, i in ipairs(sample.wrt or {}) do wanted[i] = true end
  local leaves = {}
  for i = 1, #sample.inputs do
    local x = tensors[i]
    if F.is_tensor(x) and x.dtype == 'f64' and (not sample.wrt or wanted[i]) then
      leaves[#leaves + 1] = i
      x:requires_grad_()
    end
  end
  with_impl('ref', function()
    loss_of(tensors):backward()
    for _, i in ipairs(leaves) do
      local x, analytic = tensors[i], tensors[i].grad
      t.ok(analytic, label(sample, 'f64') .. ': input ' .. i .. ' got no gradient')
      local flat = x:detach():reshape(-1):clone()
      local numeric, h = dlv3.zeros({x:numel()}, {dtype = 'f64'}), 1e-6
      for k = 1, x:numel() do
        local value = {}
        for s = -1, 1, 2 do
          local moved = flat:clone()
          moved[k] = flat[k]:item() + s * h
          local list = {}
          for j = 1, #sample.inputs do list[j] = F.is_tensor(tensors[j]) and tensors[j]:detach() or tensors[j] end
          list[i] = moved:reshape(x:size()):contiguous()
          value[s] = loss_of(list):item()
        end
        numeric[k] = (value[1] - value[-1]) / (2 * h)
      end
      t.close(analytic:reshape(-1), numeric, 1e-5, 1e-5, label(sample, 'f64') .. ': gradient of input ' .. i)
    end
  end)
end

local function has_float_input(sample)
  for i = 1, #sample.inputs do
    local input = sample.inputs[i]
    if type(input) == 'function' or (type(input) == 'table' and not input.dtype) then return true end
  end
end

function H.sample(t, sample)
  local op = dlv3.ops[sample.op]
  if not op then error("no op is called '" .. tostring(sample.op) .. "'") end
  if sample.error then
    t.error(function() run(sample, inputs_of(sample, 'f32')) end, sample.error)
    return
  end
  local dtypes = sample.dtypes or (has_float_input(sample) and {'f32', 'bf16', 'f16', 'f64'}) or {'f32'}
  for _, dtype in ipairs(dtypes) do check_values(t, sample, dtype) end
  if op.grad and sample.grad ~= false and has_float_input(sample) then check_gradient(t, sample) end
end

-- Runs all samples of the families on a device other than the cpu, then looks for implementations
-- that never ran.
function H.run_device(t, families, device)
  local seen = {}
  for _, family in ipairs(families) do
    local by_op, order = {}, {}
    for _, s in ipairs(dofile(t.directory .. '/ops/' .. family .. '.lua')) do
      if not by_op[s.op] then by_op[s.op], order[#order + 1] = {}, s.op end
      table.insert(by_op[s.op], s)
      seen[s.op] = seen[s.op] or not s.error
    end
    for _, name in ipairs(order) do
      t.case(device .. ' ' .. family .. ': ' .. name, function()
        for _, s in ipairs(by_op[name]) do
          local dtypes = s.dtypes or (has_float_input(s) and {'f32', 'bf16', 'f16', 'f64'}) or {'f32'}
          if s.error then
            t.error(function()
              local inputs = inputs_of(s, 'f32')
              for i = 1, #s.inputs do if F.is_tensor(inputs[i]) then inputs[i] = inputs[i]:to(device) end end
              run(s, inputs)
              dlv3.synchronize(device) -- wrong values are found while the kernel runs
            end, (s.error:gsub(' cpu', ' ' .. device)))
          else
            for _, dtype in ipairs(dtypes) do check_device(t, s, dtype, device) end
          end
        end
        runtime.flush(device) -- which looks at what lies around each block
      end)
    end
  end
  t.case(device .. ': each implementation ran', function()
    local missing = {}
    local id = require('dlv3.core.tensor').device_id(device)
    for _, op in ipairs(dlv3.ops) do
      for _, impl in ipairs(runtime.implementations(op, id)) do
        if seen[op.name] and not op.view and not chosen[device][op.name .. ' ' .. impl] then
          missing[#missing + 1] = op.name .. ': implementation ' .. impl .. ' never ran'
        end
      end
    end
    t.ok(#missing == 0, table.concat(missing, '\n'))
  end)
end

-- Samples that these of our own kernels take; others they would leave to a library.
local suits = {
  depthwise = function(s) return (s.attrs.groups or 1) > 4 end,
  atrous = function(s, dtype)
    local dilation = s.attrs.dilation or 1
    return dtype == 'bf16' and (type(dilation) == 'table' and dilation[2] or dilation) > 5
  end,
}
local libraries = {cudnn = true, cublaslt = true}

-- Runs samples once, by each kernel that is not a library's, and looks at nothing: a tool does
-- that, which slows kernels down many times and libraries' more than others.
function H.run_own_kernels(t, families, device)
  local function run_sample(s, dtype)
    local tensors = inputs_of(s, dtype)
    for i = 1, #s.inputs do tensors[i] = F.is_tensor(tensors[i]) and tensors[i]:to(device) or tensors[i] end
    for _, impl in ipairs(impls_for(s, require('dlv3.core.tensor').device_id(device))) do
      if not libraries[impl] and (not suits[impl] or suits[impl](s, dtype)) then
        with_impl(impl, function() run(s, tensors) end)
      end
    end
  end
  for _, family in ipairs(families) do
    t.case(device .. ' ' .. family .. ', own kernels once', function()
      for _, s in ipairs(dofile(t.directory .. '/ops/' .. family .. '.lua')) do
        for _, dtype in ipairs(not s.error and (s.dtypes or {'f32', 'bf16'}) or {}) do
          if dtype ~= 'f64' and dtype ~= 'f16' then run_sample(s, dtype) end
        end
      end
      dlv3.synchronize(device)
    end)
  end
end

-- Ops with one kernel on the CPU, named ref, and what their results are compared with instead.
local fixtures = {} -- PyTorch's results: golden/pointwise.pth, read by test_pointwise.lua
for name in ([[reshape narrow_backward cat pad flip gather gather_backward index_select
               index_select_backward one_hot]]):gmatch '%S+' do
  fixtures[name] = true
end
local single = {
  uniform_ = 'random', normal_ = 'random', randint_ = 'random', dropout = 'random', dropout_backward = 'random',
  all_reduce_ = 'collective', all_reduce_start_ = 'collective', all_reduce_finish_ = 'collective',
  all_gather = 'collective', broadcast_ = 'collective', barrier = 'collective',
  contiguous = 'a copy, by the kernel of copy_',
  arange_ = 'exact values: test_tensor.lua', amp_update_scale_ = 'a rule of three scalars: test_scaler.lua',
  allclose = 'plain loops in f64',
  softmax = 'plain loops in f64', softmax_backward = 'plain loops in f64: gradcheck',
  log_softmax = 'plain loops in f64', log_softmax_backward = 'plain loops in f64: gradcheck',
}

-- Runs all samples of the families, then looks for ops without a sample, an error case, a gradcheck
-- or a used kernel.
function H.run(t, families)
  local seen, errors, grads = {}, {}, {}
  for _, family in ipairs(families) do
    local samples = dofile(t.directory .. '/ops/' .. family .. '.lua')
    local by_op, order = {}, {}
    for _, s in ipairs(samples) do
      if not by_op[s.op] then by_op[s.op], order[#order + 1] = {}, s.op end
      table.insert(by_op[s.op], s)
      if s.error then errors[s.op] = true
      else
        seen[s.op] = true
        if s.grad ~= false then grads[s.op] = true end
      end
    end
    for _, name in ipairs(order) do
      t.case(family .. ': ' .. name, function()
        for _, s in ipairs(by_op[name]) do H.sample(t, s) end
      end)
    end
  end
  t.case('every op has samples, an error case, a gradcheck, and each implementation ran', function()
    local missing = {}
    for _, op in ipairs(dlv3.ops) do
      if not seen[op.name] then missing[#missing + 1] = op.name .. ' has no sample' end
      if not errors[op.name] then missing[#missing + 1] = op.name .. ' has no error case' end
      if op.grad and not grads[op.name] then missing[#missing + 1] = op.name .. ' has no gradcheck' end
      for _, impl in ipairs(runtime.implementations(op, 0)) do
        if seen[op.name] and not op.view and not (chosen[op.name] or {})[impl] then
          missing[#missing + 1] = op.name .. ': implementation ' .. impl .. ' never ran'
        end
      end
    end
    t.ok(#missing == 0, table.concat(missing, '\n'))
  end)
  t.case('every op has a second implementation, a PyTorch fixture or a stated reason', function()
    local wrong = {}
    for _, op in ipairs(dlv3.ops) do
      local count = #runtime.implementations(op, 'cpu')
      local excused = fixtures[op.name] or single[op.name]
      if not op.view and count < 2 and not excused then
        wrong[#wrong + 1] = op.name .. ' has one implementation, compared with nothing'
      end
      if excused and count > 1 then
        wrong[#wrong + 1] = op.name .. ' has ' .. count .. ' implementations: remove it from the list in harness.lua'
      end
    end
    t.ok(#wrong == 0, table.concat(wrong, '\n'))
  end)
end

return H
