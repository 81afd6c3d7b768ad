-- image.lua - image files and 8-bit pictures as tensors: reading, writing, resizing, normalising.
--
-- A picture is u8 [3,h,w], RGB; a mask is u8 [h,w] of class numbers. Both live on the cpu. The work
-- is done in runtime/images/image.c and runtime/images/resize.c; resizing is Pillow's to the last
-- bit.

local F = require 'dlv3.core.ffi'
local C = F.C
require 'dlv3.core.tensor' -- gives handles their methods

local M = {mean = {0.485, 0.456, 0.406}, std = {0.229, 0.224, 0.225}}

local function path_of(what, path)
  if type(path) ~= 'string' then F.raise_unexpected(what, "a file's name", path) end
  return path
end

-- Calls fn(out, ...), retried once when memory is short, and returns the tensor.
local function make(fn, ...)
  local out = F.tensor_out()
  F.check(F.retry(fn, out, ...))
  return F.take(out)
end

-- The same of a tensor: fn(out, its pointer, ...).
local function make_from(tensor, fn, ...)
  local result = make(fn, F.ptr(tensor), ...)
  F.ptr(tensor) -- a use: when memory is short, handles without further use are collected, and their tensors freed
  return result
end

local read_info = F.new 'dlv3_image_info'

-- The same as read, and what the file says: {orientation = 1 to 8 (EXIF's, or XMP's), bits = of a
-- channel as stored, damage = nil or a text}. options: orient = false leaves the picture as it is
-- stored; tolerant = true decodes what is there of a damaged file (a JPEG with wrong or missing
-- data, a PNG with a wrong checksum outside of its pixels), which else is an error.
function M.read_with_info(path, options)
  local o = options or {}
  local picture = make(C.dlv3_image_read, read_info, path_of('read', path), o.orient == false and 0 or 1,
                       o.tolerant and 1 or 0)
  local damage = F.string(read_info.damage)
  return picture, {orientation = read_info.orientation, bits = read_info.bits, damage = damage ~= '' and damage or nil}
end

-- A JPEG or PNG (by content) as u8 [3,h,w]: grey and palettes expanded, alpha dropped, CMYK
-- converted, of 16 bits the high byte. It is turned as it is seen (EXIF, XMP) unless options.orient
-- is false; options.tolerant: as in read_with_info.
function M.read(path, options) return (M.read_with_info(path, options)) end

-- Of a photo and its info: why it is nearly black, or nil. Of 16 bits the high byte is taken (the
-- whole range is 0 to 65535), and cameras and microscopes that count to 4095 leave little in it.
function M.too_dark(photo, info)
  if info.bits ~= 16 or photo:max():item() > 15 then return nil end
  return '16 bits a channel, of which only the low 12 are used (values up to 4095): of 16 bits the high byte is taken, '
         .. 'so it is nearly black; multiply its values by 16 and save it again'
end

-- A mask PNG as u8 [h,w]: the indices of a palette, or the values of grey, of 1, 2 and 4 bits too:
-- they are not scaled.
function M.read_mask(path) return make(C.dlv3_mask_read, path_of('read_mask', path)) end

-- Counts the labels of a mask, u8 [h,w]: two C arrays over the labels 0 to 255, how many pixels
-- have it, and the position of the first one (from 0, in row-major order; -1: none).
function M.count_labels(mask)
  local counts, first = F.new 'int64_t[256]', F.new 'int64_t[256]'
  F.check(C.dlv3_mask_count(counts, first, F.ptr(mask)))
  return counts, first
end

local function whole(v) return type(v) == 'number' and v == math.floor(v) and v >= 1 and v < 2 ^ 31 end

-- {h, w}, or a number: the shorter side, the other keeping the aspect (rounded down, as torchvision
-- does).
local function target_size(what, t, size)
  local ok = type(size) == 'table' and whole(size[1]) and whole(size[2]) or whole(size)
  if not ok then F.raise(what .. ': the size is {height, width} or the shorter side, whole numbers from 1') end
  if type(size) == 'table' then return size[1], size[2] end
  local n = C.dlv3_tensor_ndim(F.ptr(t))
  local h, w = tonumber(C.dlv3_tensor_size(t.p, n - 2)), tonumber(C.dlv3_tensor_size(t.p, n - 1))
  if h < 1 or w < 1 then F.raise(what .. ': expected a picture, u8 [3,h,w], or a mask, u8 [h,w]') end
  if w <= h then return math.floor(size * h / w), size end
  return size, math.floor(size * w / h)
end

-- Pillow's BILINEAR: antialiased when shrinking.
function M.resize(image, size)
  local h, w = target_size('resize', image, size)
  return make_from(image, C.dlv3_image_resize, h, w)
end

-- Pillow's NEAREST, for masks.
function M.resize_mask(mask, size)
  local h, w = target_size('resize_mask', mask, size)
  return make_from(mask, C.dlv3_mask_resize, h, w)
end

-- Three numbers as a C array.
function M.triple(what, values)
  if type(values) ~= 'table' or #values ~= 3 then F.raise(what .. ' has three numbers, one a channel (R, G, B)') end
  for _, v in ipairs(values) do
    if type(v) ~= 'number' then F.raise(what .. ' has three numbers, a ' .. type(v) .. ' is among them') end
  end
  return F.new('float[3]', values)
end

-- Network input [1,3,h,w] in options.dtype (f32): (x / 255 - mean) / std. mean and std are
-- ImageNet's unless given.
function M.normalize(image, options)
  options = options or {}
  local dtype = F.dtype_id[options.dtype or 'f32']
      or F.raise(("normalize: no dtype is called '%s'"):format(tostring(options.dtype)))
  local mean, std = M.triple('normalize: mean', options.mean or M.mean),
      M.triple('normalize: std', options.std or M.std)
  return make_from(image, C.dlv3_image_normalize, mean, std, dtype)
end

-- -- Palettes -------------------------------------------------------------------------------------

-- The color of class i in VOC's masks: r, g, b. Neighbouring numbers get colors far apart; 255 is
-- light beige.
function M.voc_color(i)
  local r, g, b = 0, 0, 0
  for shift = 7, 0, -1 do
    r, g, b = bit.bor(r, bit.lshift(bit.band(i, 1), shift)),
    bit.bor(g, bit.lshift(bit.band(bit.rshift(i, 1), 1), shift)),
              bit.bor(b, bit.lshift(bit.band(bit.rshift(i, 2), 1), shift))
    i = bit.rshift(i, 3)
  end
  return r, g, b
end

-- VOC's 256 colors as 768 bytes.
function M.voc_palette()
  local colors = {}
  for i = 0, 255 do colors[i + 1] = string.char(M.voc_color(i)) end
  return table.concat(colors)
end

-- -- Writing --------------------------------------------------------------------------------------

-- palette: 768 bytes, or a list of {r, g, b} for the values from 0 on.
local function palette_bytes(palette)
  if palette == nil then return nil end
  if type(palette) == 'table' then
    local colors = {}
    for i, c in ipairs(palette) do
      for k = 1, 3 do
        if type(c) ~= 'table' or type(c[k]) ~= 'number' or c[k] < 0 or c[k] > 255 then
          F.raise(('write_png: color %d is not {r, g, b} of 0..255'):format(i))
        end
      end
      colors[i] = string.char(c[1], c[2], c[3])
    end
    palette = table.concat(colors)
  end
  if type(palette) ~= 'string' or #palette > 768 or #palette % 3 ~= 0 then
    F.raise('write_png: a palette has at most 256 colors {r, g, b}')
  end
  return palette .. ('\0'):rep(768 - #palette)
end

-- u8 [3,h,w] as RGB, [4,h,w] as RGBA, [h,w] as grey or, with a palette, as indices. The file
-- appears whole or not at all.
function M.write_png(path, image, palette)
  F.check(C.dlv3_png_write(path_of('write_png', path), F.ptr(image), palette_bytes(palette)))
end

-- u8 [3,h,w]; options.quality 1..100 (90).
function M.write_jpeg(path, image, options)
  local quality = options and options.quality or 90
  if type(quality) ~= 'number' then F.raise_unexpected('write_jpeg: quality', 'a number', quality) end
  F.check(C.dlv3_jpeg_write(path_of('write_jpeg', path), F.ptr(image), quality))
end

return M
