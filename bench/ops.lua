-- ops.lua - bench.lua --ops: each distinct convolution of a model, forward and both gradients: milliseconds, useful
-- operations a second, and their share of the machine's peak; dlv3's choice beside the other implementations. Then the ops
-- that memory bounds: gigabytes a second of what they must read and write.

local dlv3 = require 'dlv3'
local F = require 'dlv3.ffi'
local models = require 'models'
local convolutions = require 'bench.convolutions'
local work = require 'bench.work'
local tensor = require 'dlv3.tensor'

local M = {}

local directions = {'forward', 'backward_input', 'backward_weight'}
local op_name = {forward = 'conv2d', backward_input = 'conv2d_backward_input', backward_weight = 'conv2d_backward_weight'}
local op_id = {}
for id = 0, F.C.dlv3_op_count() - 1 do op_id[F.string(F.C.dlv3_op_name(id))] = id end

-- The three directions of a convolution as functions.
local function calls_of(c, precision, device)
  local o = c.options
  local x = dlv3.randn{c.n, c.cin, c.h, c.w}:to(precision):to(device)
  local grad = dlv3.randn{c.n, c.cout, c.out_h, c.out_w}:to(precision):to(device)
  local w = dlv3.randn{c.cout, c.cin / o.groups, c.kernel[1], c.kernel[2]}:to(device)
  local grad_w = dlv3.zeros_like(w)
  local same = {stride = o.stride, padding = o.padding, dilation = o.dilation, groups = o.groups}
  local sized = {stride = o.stride, padding = o.padding, dilation = o.dilation, groups = o.groups, size = {c.h, c.w}}
  return {
    forward = function() x:conv2d(w, nil, same) end,
    backward_input = function() grad:conv2d_backward_input(w, sized) end,
    backward_weight = function() x:conv2d_backward_weight(grad, grad_w, nil, same) end,
  }
end

-- Seconds of a call, at least, in enough repetitions; a GPU is waited for once in ten calls.
local function least_time(call, o)
  local best, n, at_once = math.huge, 0, work.on_gpu(o.device) and 10 or 1
  dlv3.scope(call)
  dlv3.synchronize(o.device)
  local begin = dlv3.now()
  while n < 3 or dlv3.now() - begin < o.seconds do
    local before = dlv3.now()
    if before - begin > 20 * o.seconds then break end -- slower than is worth waiting for
    for _ = 1, at_once do dlv3.scope(call) end
    dlv3.synchronize(o.device)
    best, n = math.min(best, (dlv3.now() - before) / at_once), n + 1
  end
  return best
end

-- Of the implementation `first` before others, with its name and the engine of a library that told which; nil where another
-- one ran.
local function measure(call, direction, first, o)
  F.check(F.C.dlv3_set_impl(first))
  local time, chosen = least_time(call, o), F.string(F.C.dlv3_op_chosen(op_id[op_name[direction]]))
  F.check(F.C.dlv3_set_impl '')
  if first ~= '' and chosen ~= first then return nil end
  local engine = tonumber(F.C.dlv3_op_engine(op_id[op_name[direction]]))
  return time, chosen, engine >= 0 and chosen .. ' ' .. engine or chosen
end

-- The machine's measured operations a second. bf16 can also be computed in f32, where that is faster; f16 always is.
function M.peaks()
  local f32 = F.C.dlv3_measure_peak(F.dtype_id.f32)
  return {f32 = f32, f16 = f32, bf16 = math.max(f32, F.C.dlv3_measure_peak(F.dtype_id.bf16))}
end

local function cell(time, flops, peak) return ('%9.3f %6.0f %4.0f%%'):format(time * 1e3, flops / time / 1e9, 100 * flops / time / peak) end

local plain = {ref = true, pairs = true} -- loops to be read and checked against, a hundred times slower

-- "direct 1.23 ms 61%, onednn ...": the implementations that were not chosen, and could have been.
local function others(c, call, direction, chosen, o, peak)
  local list = {}
  for name in F.string(F.C.dlv3_op_impls(op_id[op_name[direction]], tensor.device_id(o.device))):gmatch '%S+' do
    if name ~= chosen and not plain[name] then
      local time, _, shown = measure(call, direction, name, o)
      if time then list[#list + 1] = ('%s %.3f %.0f%%'):format(shown, time * 1e3, 100 * c.flops / time / peak) end
    end
  end
  return table.concat(list, ', ')
end

local function print_direction(list, direction, o, peak)
  local sum, flops = 0, 0
  print(('\n%s %s, %s, %dx%d batch %d; ms, GFLOP/s, share of %.0f GFLOP/s\n'):format(o.model, direction, o.precision, o.size, o.size, o.batch, peak / 1e9))
  print(('%-42s %5s  %-22s %-10s  %s'):format('convolution', 'times', 'chosen', '', 'others: ms, share'))
  for i, c in ipairs(list) do
    if not (direction == 'backward_input' and i == 1) then -- nothing asks for the image's gradient
      dlv3.scope(function()
        local call = calls_of(c, o.precision, o.device)[direction]
        local time, chosen, shown = measure(call, direction, '', o)
        print(('%-42s %5d  %s %-10s  %s'):format(convolutions.text(c), c.count, cell(time, c.flops, peak), shown, others(c, call, direction, chosen, o, peak)))
        sum, flops = sum + time * c.count, flops + c.flops * c.count
      end)
    end
  end
  print(('%-42s %5s  %s'):format('all of the model', '', cell(sum, flops, peak)))
end

-- -- What memory bounds ------------------------------------------------------------------------------------------

-- {name, call, bytes that it must move} of ops on the largest map of a ResNet's layer3, and of the loss.
local function memory_bound(o)
  local n, size, element = o.batch, math.ceil(o.size / 8), o.precision == 'f32' and 4 or 2
  local x = dlv3.randn{n, 1024, size, size}:to(o.precision):to(o.device)
  local y, grad = x:clone(), x:clone()
  local weight, bias = dlv3.ones({1024}):to(o.device), dlv3.zeros({1024}):to(o.device)
  local mean, var = bias:clone(), weight:clone()
  local logits = dlv3.randn{n, 21, size, size}:to(o.precision):to(o.device)
  local target = dlv3.randint(0, 21, {n, o.size, o.size}, {dtype = 'u8'}):to(o.device)
  local map, pixels, few = x:numel() * element, target:numel(), logits:numel() * element
  local leaf, leaf_logits = x:clone():requires_grad_(), logits:clone():requires_grad_()
  local function norm(input) return input:batch_norm(weight, bias, mean, var, nil, {training = true, activation = 'relu'}) end
  return {
    {'add_', function() y:add_(x) end, 3 * map},
    {'relu', function() x:relu() end, 2 * map},
    {'batch_norm, training, relu', function() norm(x) end, 3 * map},
    {'batch_norm and its gradient', function() norm(leaf):backward(grad) leaf.grad = nil end, 9 * map},
    {'upsample_cross_entropy', function() logits:upsample_cross_entropy(target) end, few + pixels},
    {'the same and its gradient', function() leaf_logits:upsample_cross_entropy(target):backward() leaf_logits.grad = nil end, 3 * few + 2 * pixels},
    {'upsample_argmax', function() logits:upsample_argmax{size = {o.size, o.size}} end, few + pixels},
  }
end

local function print_memory_bound(o)
  print(('\nops that memory bounds, %s, %dx%d batch %d; ms, GB/s\n'):format(o.precision, o.size, o.size, o.batch))
  dlv3.scope(function()
    for _, op in ipairs(memory_bound(o)) do
      local time = least_time(op[2], o)
      print(('%-42s %9.3f %7.1f'):format(op[1], time * 1e3, op[3] / time / 1e9))
    end
  end)
end

-- o: models (a list), size, batch, precisions, seconds, work, device, peak (operations a second, or 0).
function M.run(o)
  io.stdout:setvbuf 'line' -- it takes minutes and is watched
  local peaks = M.peaks()
  print(('measured peak of %d threads: %.0f GFLOP/s f32, %.0f bf16'):format(dlv3.num_threads(), peaks.f32 / 1e9, peaks.bf16 / 1e9))
  local assumed = o.peak > 0 and o.peak or work.on_gpu(o.device) and 790e12 or nil
  local function one(precision, name) return {model = name, size = o.size, batch = o.batch, precision = precision, seconds = o.seconds, device = o.device} end
  for _, name in ipairs(o.models) do
    local training = o.work == 'train'
    local calls = convolutions.calls(models[name]{num_classes = 21, aux = training}, dlv3.randn{o.batch, 3, o.size, o.size})
    local list = convolutions.distinct(calls)
    for _, precision in ipairs(o.precisions) do
      for _, direction in ipairs(training and directions or {'forward'}) do print_direction(list, direction, one(precision, name), assumed or peaks[precision]) end
    end
  end
  for _, precision in ipairs(o.precisions) do print_memory_bound(one(precision)) end
end

return M
