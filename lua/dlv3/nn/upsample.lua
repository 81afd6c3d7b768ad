-- upsample.lua - bilinear upsampling.

local F = require 'dlv3.core.ffi'
local Module = require 'dlv3.nn.module'
local expect = require 'dlv3.core.expect'
local sizes = require 'dlv3.nn.sizes'

local M = {}

local function options_of(what, options, align_corners)
  local o = expect.options(what, {
    size = expect.optional(expect.pair(1)), scale_factor = expect.optional(expect.number(1e-3, 1e6)),
    mode = {'bilinear', expect.one_of{'bilinear'}}, align_corners = align_corners,
  }, options)
  if (o.size == nil) == (o.scale_factor == nil) then
    F.raise(what .. ': expected size or scale_factor, one of the two')
  end
  o.size = o.size and sizes.pair(o.size)
  return o
end

-- Where a factor gives no whole size, PyTorch's pixels are 1 / factor apart and ours would be input
-- / output apart.
local function scaled_size(x, o)
  local size = {x:size(3) * o.scale_factor, x:size(4) * o.scale_factor}
  if not o.align_corners and (size[1] % 1 ~= 0 or size[2] % 1 ~= 0) then
    F.raise(('Upsample: %d x %d by %g is no whole size: give size = {height, width}'):format(
            x:size(3), x:size(4), o.scale_factor))
  end
  return {math.floor(size[1]), math.floor(size[2])}
end

-- Upsample{size = {65, 65}} or Upsample{scale_factor = 2}; further options mode = 'bilinear',
-- align_corners = false. x [n, c, h, w] -> [n, c, size].
M.Upsample = Module.class('Upsample', function(self, options) self.options = options_of('Upsample', options, false) end)

-- x [n, c, h, w] -> [n, c, h', w'].
function M.Upsample:forward(x)
  local o = self.options
  self:input(x)
  return x:upsample_bilinear2d{size = o.size or scaled_size(x, o), align_corners = o.align_corners}
end

-- What print shows of the layer.
function M.Upsample:extra()
  local o = self.options
  local what = o.size and 'size = ' .. sizes.text(o.size) or 'scale_factor = ' .. o.scale_factor
  return what .. (o.align_corners and ', align_corners = true' or '')
end

-- Upsample with align_corners = true, as in PyTorch: first and last pixels stay in the corners.
M.UpsamplingBilinear2d = Module.class('UpsamplingBilinear2d', function(self, options)
  self.options = options_of('UpsamplingBilinear2d', options, true)
end, M.Upsample)

return M
