-- convolutions.lua - the convolutions of a model at a size, and how much of their work is useful:
-- taps that fall on padding multiply zeros and do not count.

local dlv3 = require 'dlv3'
local nn = require 'dlv3.nn'

local M = {}

-- Pairs of an output position and a tap that fall on the input.
local function live_pairs(input, output, kernel, stride, padding, dilation)
  local n = 0
  for tap = 0, kernel - 1 do
    for o = 0, output - 1 do
      local i = o * stride - padding + tap * dilation
      if i >= 0 and i < input then n = n + 1 end
    end
  end
  return n
end

-- Multiplications and additions of one direction; the three directions have as many each.
function M.flops(c)
  local o = c.options
  local rows = live_pairs(c.h, c.out_h, c.kernel[1], o.stride[1], o.padding[1], o.dilation[1])
  local columns = live_pairs(c.w, c.out_w, c.kernel[2], o.stride[2], o.padding[2], o.dilation[2])
  return 2 * c.n * c.cout * (c.cin / o.groups) * rows * columns
end

function M.text(c)
  local o = c.options
  local text = ('%d>%d %dx%d'):format(c.cin, c.cout, c.kernel[1], c.kernel[2])
  if o.groups > 1 then text = text .. (o.groups == c.cin and ' depthwise' or ' groups ' .. o.groups) end
  if o.stride[1] > 1 then text = text .. ' stride ' .. o.stride[1] end
  if o.dilation[1] > 1 then text = text .. ' rate ' .. o.dilation[1] end
  return ('%s on %dx%d'):format(text, c.h, c.w)
end

-- Runs the model once; returns every call of a convolution, in order: {n, h, w, cin, cout, out_h,
-- out_w, kernel, options, name, flops}. With batch, those that a batch of so many images like the
-- one in x would give.
function M.calls(model, x, batch)
  local list, forward = {}, nn.Conv2d.forward
  local function note(self, input)
    local output = forward(self, input)
    local c = {n = batch or input:size(1), h = input:size(3), w = input:size(4), cin = self.channels[1],
               cout = self.channels[2], out_h = output:size(3),
               out_w = output:size(4), kernel = self.kernel_size, options = self.options, name = model:path_to(self)}
    c.flops = M.flops(c)
    list[#list + 1] = c
    return output
  end
  nn.Conv2d.forward = note
  local ok, message = pcall(dlv3.scope, function() dlv3.no_grad(function() model:eval():logits(x) end) end)
  nn.Conv2d.forward = forward
  if not ok then error(message, 0) end
  return list
end

-- Those that differ, each with its count.
function M.distinct(calls)
  local seen, list = {}, {}
  for _, c in ipairs(calls) do
    local key = M.text(c)
    if seen[key] then seen[key].count = seen[key].count + 1
    else
      c.count, seen[key] = 1, c
      list[#list + 1] = c
    end
  end
  return list
end

-- Useful operations of a training step (forward and both gradients; none by the image) or an
-- inference.
function M.total(calls, training)
  local sum = 0
  for i, c in ipairs(calls) do sum = sum + c.flops * (training and (i == 1 and 2 or 3) or 1) end
  return sum
end

return M
