-- resample.lua - samples of bilinear interpolation and its fusion with argmax.

local samples = {}
local function add(s) samples[#samples + 1] = s end

local pairs_of = { -- x, size
  {{2,3,4,5}, {9,13}}, {{1,1,1,1}, {5,3}}, {{1,2,1,7}, {1,20}}, {{5,1,3,3}, {3,3}}, {{1,4,9,8}, {4,3}},
  {{1,2,5,6}, {1,1}}, {{1,21,3,4}, {24,31}},
}
for _, p in ipairs(pairs_of) do
  local x, size = p[1], p[2]
  for _, align in ipairs{false, true} do
    add{op = 'upsample_bilinear2d', inputs = {x}, attrs = {size = size, align_corners = align}}
    add{op = 'upsample_bilinear2d_backward', inputs = {{x[1], x[2], size[1], size[2]}},
        attrs = {size = {x[3], x[4]}, align_corners = align}}
  end
  add{op = 'upsample_argmax', inputs = {x}, attrs = {size = size}}
end
add{op = 'upsample_argmax', inputs = {{1,256,3,4}}, attrs = {size = {5,140}}, dtypes = {'f32', 'bf16'}}
add{op = 'upsample_argmax', inputs = {{1,257,3,4}}, attrs = {size = {5,14}},
    error = 'x must have 1 to 256 channels for u8 class ids, it has 257'}
add{op = 'upsample_bilinear2d', inputs = {{1,2,3,4}}, attrs = {size = {0,4}},
    error = 'size must be at least 1x1, got 0x4'}
add{op = 'upsample_bilinear2d_backward', inputs = {{2,3,4}}, attrs = {size = {2,2}},
    error = 'grad_y must have 4 dimensions'}

return samples
