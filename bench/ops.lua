-- ops.lua - bench.lua --ops: each distinct convolution of a model, forward and both gradients:
-- milliseconds, useful operations a second, and their share of the machine's peak; dlv3's choice
-- beside the other implementations. Then the ops that memory bounds: gigabytes a second of what
-- they must read and write. With --only nothing but some convolutions.

local dlv3 = require 'dlv3'
local runtime = require 'dlv3.core.runtime'
local models = require 'models'
local convolutions = require 'bench.convolutions'
local work = require 'bench.work'

local M = {}

local directions = {'forward', 'backward_input', 'backward_weight'}
local op_name = {forward = 'conv2d', backward_input = 'conv2d_backward_input',
                 backward_weight = 'conv2d_backward_weight'}

-- The three directions of a convolution as functions, of operands drawn on the device.
local function calls_of(c, precision, device)
  local o = c.options
  local function draw(...) return dlv3.randn({...}, {device = device}) end
  local x, grad = draw(c.n, c.cin, c.h, c.w):to(precision), draw(c.n, c.cout, c.out_h, c.out_w):to(precision)
  local w = draw(c.cout, c.cin / o.groups, c.kernel[1], c.kernel[2])
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

-- Of the implementation `first` before others, with its name and the engine of a library that told
-- which; nil where another one takes the call.
local function measure(call, direction, first, o)
  local op = dlv3.ops[op_name[direction]]
  runtime.set_implementation(first)
  dlv3.scope(call)
  local chosen, engine = runtime.chosen(op), runtime.engine(op)
  local time = (first == '' or chosen == first) and least_time(call, o) or nil
  runtime.set_implementation('')
  return time, chosen, engine >= 0 and chosen .. ' ' .. engine or chosen
end

-- The machine's measured operations a second. bf16 can also be computed in f32, where that is
-- faster; f16 always is.
function M.peaks()
  local f32 = runtime.measure_peak('f32')
  return {f32 = f32, f16 = f32, bf16 = math.max(f32, runtime.measure_peak('bf16'))}
end

local function cell(time, flops, peak)
  return ('%9.3f %6.0f %4.0f%%'):format(time * 1e3, flops / time / 1e9, 100 * flops / time / peak)
end

-- Loops to be read and checked against, a hundred times slower; on a GPU `direct` is one of them.
local function is_plain(name, o)
  return name == 'ref' or name == 'pairs' or name == 'direct' and work.on_gpu(o.device)
end

-- "direct 1.23 ms 61%, onednn ...": the implementations that were not chosen, and could have been.
local function others(c, call, direction, chosen, o, peak)
  local list = {}
  for _, name in ipairs(runtime.implementations(dlv3.ops[op_name[direction]], o.device)) do
    if name ~= chosen and not is_plain(name, o) then
      local time, _, shown = measure(call, direction, name, o)
      if time then list[#list + 1] = ('%s %.3f %.0f%%'):format(shown, time * 1e3, 100 * c.flops / time / peak) end
    end
  end
  return table.concat(list, ', ')
end

local said = {forward = 'forward', backward_input = 'by input', backward_weight = 'by weight'}

local function print_convolutions(list, wanted, o, peak)
  print(('\n%s, %s, %dx%d batch %d; ms, GFLOP/s, share of %.0f GFLOP/s\n'):format(
      o.model, o.precision, o.size, o.size, o.batch, peak / 1e9))
  local head = '%-42s %-9s %5s  %-22s %-12s  %s'
  print(head:format('convolution', '', 'times', 'chosen', '', 'others: ms, share'))
  local time_of, flops_of = {}, {}
  for _, c in ipairs(list) do
    dlv3.scope(function()
      local calls = calls_of(c, o.precision, o.device)
      for _, direction in ipairs(wanted) do
        if not (direction == 'backward_input' and c.first) then -- nothing asks for the image's gradient
          local call = calls[direction]
          local time, chosen, shown = measure(call, direction, '', o)
          print(head:format(convolutions.text(c), said[direction], c.count, cell(time, c.flops, peak), shown,
                            others(c, call, direction, chosen, o, peak)))
          time_of[direction] = (time_of[direction] or 0) + time * c.count
          flops_of[direction] = (flops_of[direction] or 0) + c.flops * c.count
        end
      end
    end)
  end
  for _, direction in ipairs(wanted) do
    if time_of[direction] then
      print(head:format(o.only and 'all of these' or 'all of the model', said[direction], '',
                        cell(time_of[direction], flops_of[direction], peak), '', ''))
    end
  end
end

-- -- What memory bounds ---------------------------------------------------------------------------

-- {name, call, bytes that it must move} of ops on the largest map of a ResNet's layer3, and of the
-- loss.
local function memory_bound(o)
  local n, size, element = o.batch, math.ceil(o.size / 8), o.precision == 'f32' and 4 or 2
  local x = dlv3.randn({n, 1024, size, size}, {device = o.device}):to(o.precision)
  local y, grad = x:clone(), x:clone()
  local weight, bias = dlv3.ones({1024}):to(o.device), dlv3.zeros({1024}):to(o.device)
  local mean, var = bias:clone(), weight:clone()
  local logits = dlv3.randn({n, 21, size, size}, {device = o.device}):to(o.precision)
  local target = dlv3.randint(0, 21, {n, o.size, o.size}, {dtype = 'u8'}):to(o.device)
  local map, pixels, few = x:numel() * element, target:numel(), logits:numel() * element
  local leaf, leaf_logits = x:clone():requires_grad_(), logits:clone():requires_grad_()
  local function norm(input)
    return input:batch_norm(weight, bias, mean, var, nil, {training = true, activation = 'relu'})
  end
  return {
    {'add_', function() y:add_(x) end, 3 * map},
    {'relu', function() x:relu() end, 2 * map},
    {'batch_norm, training, relu', function() norm(x) end, 3 * map},
    {'batch_norm and its gradient', function() norm(leaf):backward(grad) leaf.grad = nil end, 9 * map},
    {'upsample_cross_entropy', function() logits:upsample_cross_entropy(target) end, few + pixels},
    {'the same and its gradient',
     function() leaf_logits:upsample_cross_entropy(target):backward() leaf_logits.grad = nil end, 3 * few + 2 * pixels},
    {'upsample_argmax', function() logits:upsample_argmax{size = {o.size, o.size}} end, few + pixels},
  }
end

local function print_memory_bound(o)
  print(('\nops that memory bounds, %s, %dx%d batch %d; ms, GB/s\n'):format(o.precision, o.size, o.size, o.batch))
  dlv3.scope(function()
    for _, op in ipairs(memory_bound(o)) do
      dlv3.scope(op[2])
      local time = least_time(op[2], o)
      print(('%-42s %9.3f %7.1f'):format(op[1], time * 1e3, op[3] / time / 1e9))
    end
  end)
end

local function chosen_convolutions(list, only)
  if not only then return list end
  local some = {}
  for _, c in ipairs(list) do
    if convolutions.text(c):find(only, 1, true) then some[#some + 1] = c end
  end
  if #some == 0 then error("--only: no convolution has '" .. only .. "' in its line", 0) end
  return some
end

-- o: models (a list), size, batch, precisions, seconds, work, device, only, peak (operations a
-- second, or 0).
function M.run(o)
  io.stdout:setvbuf 'line' -- it takes minutes and is watched
  local peak, peaks = o.peak, nil
  if peak == 0 and work.on_gpu(o.device) then peak = 790e12 end
  if peak == 0 then
    peaks = M.peaks()
    print(('measured peak of %d threads: %.0f GFLOP/s f32, %.0f bf16'):format(
        dlv3.num_threads(), peaks.f32 / 1e9, peaks.bf16 / 1e9))
  end
  local function one(precision, name)
    return {model = name, size = o.size, batch = o.batch, precision = precision, seconds = o.seconds, device = o.device,
            only = o.only}
  end
  for _, name in ipairs(o.models) do
    local training = o.work == 'train'
    local calls = convolutions.calls(models[name]{num_classes = 21, aux = training}, dlv3.randn{1, 3, o.size, o.size},
                                     o.batch)
    calls[1].first = true
    local list = chosen_convolutions(convolutions.distinct(calls), o.only)
    for _, precision in ipairs(o.precisions) do
      print_convolutions(list, training and directions or {'forward'}, one(precision, name),
                         peaks and peaks[precision] or peak)
    end
  end
  if o.only then return end
  for _, precision in ipairs(o.precisions) do print_memory_bound(one(precision)) end
end

return M
