-- make_shapes.lua - draws a small data set in PASCAL VOC's layout: discs, squares, triangles and
-- stars on textured ground.
--
-- Photos are JPEG, masks palette PNG with a border of 255 (does not count) around every shape, as
-- VOC's. The same seed gives the same files. `make demo` trains on it and the tests use small ones.

local dlv3 = require 'dlv3'
local runtime = require 'dlv3.core.runtime'
local system = require 'dlv3.os'
local F = require 'dlv3.core.ffi'
local files = require 'dlv3.io.files'
local options = require 'dlv3.cli.options'
local image = require 'dlv3.vision.image'
local shown = require 'dlv3.io.bytes'.shown

local opt = options.parse({
  doc = 'Draws a small data set in VOC layout: discs, squares, triangles and stars on textured ground, with their '
        .. 'masks.',
  {'output-dir', 'data', 'folder in which VOCdevkit/VOC2012 is made', value = 'DIR'},
  {'train', 240, 'photos to train on', min = 1},
  {'val', 48, 'photos to validate on', min = 1},
  {'width', 160, 'of a photo, in pixels', min = 16},
  {'height', 120, 'of a photo, in pixels', min = 16},
  {'classes', 4, 'kinds of shapes: the first of disc, square, triangle, star', min = 1, max = 4},
  {'seed', 0, 'of all random draws', min = 0},
}, arg)

local names = {'background', 'disc', 'square', 'triangle', 'star'}
local colors = {{205, 60, 50}, {60, 150, 70}, {60, 90, 200}, {220, 180, 50}} -- what a class looks like on average
local w, h = opt.width, opt.height
local red, green, blue = F.new('double[?]', w * h), F.new('double[?]', w * h), F.new('double[?]', w * h)
local labels, bytes = F.new('uint8_t[?]', w * h), F.new('uint8_t[?]', 3 * w * h)

-- -- Random numbers of one photo ------------------------------------------------------------------

local stream, counter = 0, 0

local function random(low, high)
  local number = runtime.random(1, opt.seed, stream, counter)[0]
  counter = counter + 1
  return low + (high - low) * number
end

-- Numbers in [0, 1) on a lattice of rows x columns.
local function lattice(rows, columns)
  local values = runtime.random(rows * columns, opt.seed, stream, counter)
  counter = counter + rows * columns
  return values
end

-- -- Drawing --------------------------------------------------------------------------------------

-- Adds smooth noise of the given cell size and strength, between -strength and strength.
local function add_noise(plane, cell, strength)
  local columns = math.ceil(w / cell) + 2
  local values = lattice(math.ceil(h / cell) + 2, columns)
  for y = 0, h - 1 do
    for x = 0, w - 1 do
      local u, v = x / cell, y / cell
      local i, j = math.floor(u), math.floor(v)
      local a, b, at = u - i, v - j, j * columns + i
      local top = values[at] * (1 - a) + values[at + 1] * a
      local bottom = values[at + columns] * (1 - a) + values[at + columns + 1] * a
      plane[y * w + x] = plane[y * w + x] + strength * 2 * (top * (1 - b) + bottom * b - 0.5)
    end
  end
end

-- A muted ground: one tone with coarse and fine stains.
local function draw_ground()
  local tone = random(90, 170)
  for _, plane in ipairs {red, green, blue} do
    local level = tone + random(-18, 18)
    for i = 0, w * h - 1 do plane[i] = level end
    add_noise(plane, random(20, 60), 28)
    add_noise(plane, random(4, 9), 18)
  end
end

-- Corners of a polygon around (0, 0): points on circles of the given radii in turn.
local function corners(n, angle, ...)
  local radii, list = {...}, {}
  for i = 0, n - 1 do
    local a, r = angle + 2 * math.pi * i / n, radii[i % #radii + 1]
    list[i + 1] = {r * math.cos(a), r * math.sin(a)}
  end
  return list
end

-- The distance of (x, y) from the polygon's outline, negative inside.
local function distance(list, x, y)
  local nearest, inside = math.huge, false
  local px, py = list[#list][1], list[#list][2]
  for i = 1, #list do
    local qx, qy = list[i][1], list[i][2]
    local ex, ey, dx, dy = qx - px, qy - py, x - px, y - py
    local along = math.max(0, math.min(1, (dx * ex + dy * ey) / (ex * ex + ey * ey)))
    nearest = math.min(nearest, (dx - along * ex) ^ 2 + (dy - along * ey) ^ 2)
    if (py > y) ~= (qy > y) and x < px + (y - py) / ey * ex then inside = not inside end
    px, py = qx, qy
  end
  return inside and -math.sqrt(nearest) or math.sqrt(nearest)
end

local function outline(class, size)
  local angle = random(0, 2 * math.pi)
  if class == 1 then return corners(24, angle, size) end
  if class == 2 then return corners(4, angle, size * 1.15) end
  if class == 3 then return corners(3, angle, size * 1.3) end
  return corners(10, angle, size * 1.35, size * 0.6)
end

local function draw_shape(class)
  local size = random(0.16, 0.3) * math.min(w, h)
  local cx, cy = random(0.1, 0.9) * w, random(0.1, 0.9) * h
  local list, reach = outline(class, size), size * 1.4 + 3
  local r, g, b = colors[class][1] + random(-30, 30), colors[class][2] + random(-30, 30),
      colors[class][3] + random(-30, 30)
  local light = random(-0.5, 0.5)
  for y = math.max(0, math.floor(cy - reach)), math.min(h - 1, math.ceil(cy + reach)) do
    for x = math.max(0, math.floor(cx - reach)), math.min(w - 1, math.ceil(cx + reach)) do
      local d, i = distance(list, x - cx, y - cy), y * w + x
      local cover, shade = math.max(0, math.min(1, 0.5 - d)), light * (x - cx + y - cy)
      red[i] = red[i] + cover * (r + shade - red[i])
      green[i] = green[i] + cover * (g + shade - green[i])
      blue[i] = blue[i] + cover * (b + shade - blue[i])
      if d < -1 then labels[i] = class elseif d <= 1 then labels[i] = 255 end
    end
  end
end

-- The grain of a camera, and to bytes.
local function develop()
  for c, plane in ipairs {red, green, blue} do
    local grain = lattice(h, w)
    for i = 0, w * h - 1 do
      bytes[(c - 1) * w * h + i] = math.max(0, math.min(255, math.floor(plane[i] + 12 * (grain[i] - 0.5) + 0.5)))
    end
  end
end

local function draw(index)
  stream, counter = index, 0
  F.fill(labels, w * h, 0)
  draw_ground()
  for _ = 1, math.floor(random(1, 4)) do draw_shape(math.floor(random(1, opt.classes + 1))) end
  develop()
  return dlv3.frombytes(F.string(bytes, 3 * w * h), {3, h, w}, {dtype = 'u8'}),
      dlv3.frombytes(F.string(labels, w * h), {h, w}, {dtype = 'u8'})
end

-- -- Files ----------------------------------------------------------------------------------------

local base = opt.output_dir .. '/VOCdevkit/VOC2012'
local lists = {'train', 'val', 'trainval'}

-- Raises where a file of this name in the folder has a line that this script did not write: the
-- data set there is another's.
local function check_own(name, is_own)
  if not system.kind(base .. '/' .. name) then return end
  for line in io.lines(base .. '/' .. name) do
    if line ~= '' and not is_own(line) then
      F.raise(("'%s/%s' belongs to a data set that make_shapes did not draw (its line '%s'): choose another "
               .. "--output-dir")
              :format(base, name, shown(line)))
    end
  end
end

local is_name = {}
for _, name in ipairs(names) do is_name[name] = true end
for _, list in ipairs(lists) do
  check_own('ImageSets/Segmentation/' .. list .. '.txt', function(line) return line:find '^shapes_%d+$' end)
end
check_own('class_names.txt', function(line) return is_name[line] end)

for _, folder in ipairs {'JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'} do
  system.make_directory(base .. '/' .. folder)
end

local function write_lines(name, lines) files.save_text(base .. '/' .. name, table.concat(lines, '\n') .. '\n') end

local palette, ids = image.voc_palette(), {train = {}, val = {}, trainval = {}}
for index = 1, opt.train + opt.val do
  local id = ('shapes_%05d'):format(index)
  dlv3.scope(function()
    local photo, mask = draw(index)
    image.write_jpeg(('%s/JPEGImages/%s.jpg'):format(base, id), photo)
    image.write_png(('%s/SegmentationClass/%s.png'):format(base, id), mask, palette)
  end)
  local set = ids[index <= opt.train and 'train' or 'val']
  set[#set + 1], ids.trainval[index] = id, id
end
for _, name in ipairs(lists) do write_lines('ImageSets/Segmentation/' .. name .. '.txt', ids[name]) end
write_lines('class_names.txt', {unpack(names, 1, opt.classes + 1)})
print(('%d photos to train on and %d to validate, %dx%d, %d classes (%s) in %s'):format(opt.train, opt.val, w, h,
    opt.classes,
      table.concat(names, ', ', 2, opt.classes + 1), base))
