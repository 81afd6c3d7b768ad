-- ops.lua - bench.lua --ops: each distinct convolution of a model, forward and both gradients: milliseconds, useful
-- operations a second, and their share of the machine's measured peak; dlv3's choice beside the other implementations.

local dlv3 = require 'dlv3'
local F = require 'dlv3.ffi'
local models = require 'models'
local convolutions = require 'bench.convolutions'

local M = {}

local directions = {'forward', 'backward_input', 'backward_weight'}
local op_name = {forward = 'conv2d', backward_input = 'conv2d_backward_input', backward_weight = 'conv2d_backward_weight'}
local op_id = {}
for id = 0, F.C.dlv3_op_count() - 1 do op_id[F.string(F.C.dlv3_op_name(id))] = id end

-- The three directions of a convolution as functions.
local function calls_of(c, precision)
  local o = c.options
  local x = dlv3.randn{c.n, c.cin, c.h, c.w}:to(precision)
  local grad = dlv3.randn{c.n, c.cout, c.out_h, c.out_w}:to(precision)
  local w = dlv3.randn{c.cout, c.cin / o.groups, c.kernel[1], c.kernel[2]}
  local grad_w = dlv3.zeros_like(w)
  local same = {stride = o.stride, padding = o.padding, dilation = o.dilation, groups = o.groups}
  local sized = {stride = o.stride, padding = o.padding, dilation = o.dilation, groups = o.groups, size = {c.h, c.w}}
  return {
    forward = function() x:conv2d(w, nil, same) end,
    backward_input = function() grad:conv2d_backward_input(w, sized) end,
    backward_weight = function() x:conv2d_backward_weight(grad, grad_w, nil, same) end,
  }
end

-- The least time of enough repetitions, and the implementation that ran.
local function time_of(call, direction, seconds)
  dlv3.scope(call)
  local best, begin, n = math.huge, dlv3.now(), 0
  while n < 3 or dlv3.now() - begin < seconds do
    local before = dlv3.now()
    dlv3.scope(call)
    best, n = math.min(best, dlv3.now() - before), n + 1
  end
  return best, F.string(F.C.dlv3_op_chosen(op_id[op_name[direction]]))
end

-- Of the implementation `first` before others; nil where another one ran.
local function measure(call, direction, first, seconds)
  F.check(F.C.dlv3_set_impl(first))
  local time, chosen = time_of(call, direction, seconds)
  F.check(F.C.dlv3_set_impl '')
  if first ~= '' and chosen ~= first then return nil end
  return time, chosen
end

-- The machine's measured operations a second. bf16 can also be computed in f32, where that is faster.
function M.peaks()
  local f32 = F.C.dlv3_measure_peak(F.dtype_id.f32)
  return {f32 = f32, bf16 = math.max(f32, F.C.dlv3_measure_peak(F.dtype_id.bf16))}
end

local function cell(time, flops, peak) return ('%9.3f %6.0f %4.0f%%'):format(time * 1e3, flops / time / 1e9, 100 * flops / time / peak) end

local plain = {ref = true, pairs = true} -- loops to be read and checked against, a hundred times slower

-- "direct 1.23 ms 61%, onednn ...": the implementations that were not chosen, and could have been.
local function others(c, call, direction, chosen, seconds, peak)
  local list = {}
  for name in F.string(F.C.dlv3_op_impls(op_id[op_name[direction]], 0)):gmatch '%S+' do
    if name ~= chosen and not plain[name] then
      local time = measure(call, direction, name, seconds)
      if time then list[#list + 1] = ('%s %.3f %.0f%%'):format(name, time * 1e3, 100 * c.flops / time / peak) end
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
        local call = calls_of(c, o.precision)[direction]
        local time, chosen = measure(call, direction, '', o.seconds)
        print(('%-42s %5d  %s %-10s  %s'):format(convolutions.text(c), c.count, cell(time, c.flops, peak), chosen, others(c, call, direction, chosen, o.seconds, peak)))
        sum, flops = sum + time * c.count, flops + c.flops * c.count
      end)
    end
  end
  print(('%-42s %5s  %s'):format('all of the model', '', cell(sum, flops, peak)))
end

-- o: models (a list), size, batch, precisions, seconds, work.
function M.run(o)
  io.stdout:setvbuf 'line' -- it takes minutes and is watched
  local peaks = M.peaks()
  print(('measured peak of %d threads: %.0f GFLOP/s f32, %.0f bf16'):format(dlv3.num_threads(), peaks.f32 / 1e9, peaks.bf16 / 1e9))
  for _, name in ipairs(o.models) do
    local training = o.work == 'train'
    local calls = convolutions.calls(models[name]{num_classes = 21, aux = training}, dlv3.randn{o.batch, 3, o.size, o.size})
    local list = convolutions.distinct(calls)
    for _, precision in ipairs(o.precisions) do
      for _, direction in ipairs(training and directions or {'forward'}) do
        print_direction(list, direction, {model = name, size = o.size, batch = o.batch, precision = precision, seconds = o.seconds}, peaks[precision])
      end
    end
  end
end

return M
