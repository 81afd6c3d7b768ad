-- check_data.lua - reads every photo and mask of a data set and lists what training would stumble
-- over: missing and damaged files, masks of another size, labels outside the classes; and counts
-- the pixels of every class.
--
-- Exit status 1 when there is a problem.

local F = require 'dlv3.core.ffi'
local system = require 'dlv3.os'
local data = require 'dlv3.data'
local image = require 'dlv3.vision.image'
local log = require 'dlv3.train.log'
local metrics = require 'dlv3.vision.metrics'
local options = require 'dlv3.cli.options'
local text = require 'dlv3.core.text'

local opt = options.parse({
  doc = 'Lists every problem of a data set in VOC layout, and the pixels of every class. Exit status 1 when there '
        .. 'is one.',
  {'data-path', 'data', data.voc_doc, value = 'DIR'},
  {'num-classes', 20, 'classes without the background: labels are 0..N', min = 1, max = 255},
  {'year', '2012', 'the folder VOCdevkit/VOC<year>'},
  {'splits', {'train', 'val'}, 'lists to check'},
}, arg)

local ignored_label = 255 -- as in training and evaluation
local problems = 0
local function problem(format, ...)
  problems = problems + 1
  print('  ' .. F.printable((format:format(...):gsub('\n%s*', '; '))))
end

-- Reads with fn; a problem where it fails.
local function try(fn, path, how)
  local ok, result, more = pcall(fn, path, how)
  if ok then return result, more end
  problem('%s', F.without_place(result))
end

-- -- One mask -------------------------------------------------------------------------------------

local pixels, photos = {}, {}                                   -- over all lists: pixels of a label, masks that have it
for v = 0, 255 do pixels[v], photos[v] = 0, 0 end

local binary = 0                                                -- masks that hold 0 and 255 alone

local function check_labels(mask, path)
  local counts, first = image.count_labels(mask)
  local width, counted = mask:size(2), 0
  if counts[0] > 0 and counts[255] > 0 and counts[0] + counts[255] == mask:numel() then binary = binary + 1 end
  for v = 0, 255 do
    local n = tonumber(counts[v])
    if n > 0 then
      pixels[v], photos[v] = pixels[v] + n, photos[v] + 1
      if v <= opt.num_classes and v ~= ignored_label then counted = counted + n
      elseif v ~= ignored_label then
        local at = tonumber(first[v])
        problem('%s: label %d (%s pixels, the first at x %d, y %d); labels are 0..%d and %d', path, v,
                text.thousands(n), at % width,
                math.floor(at / width), opt.num_classes, ignored_label)
      end
    end
  end
  return counted
end

-- -- One list -------------------------------------------------------------------------------------

local void = 0                                                  -- masks in which no pixel counts
local turned = 0                                                -- photos that are stored turned
local damaged = 0                                               -- photos that can be decoded in part
local dark, dark_reason = 0, nil                                -- photos of 16 bits that become nearly black

-- The photo as it is stored; what is notable about it is counted.
local function read_photo(path)
  local photo, info = try(image.read_with_info, path, {orient = false, tolerant = true})
  if not photo then return nil end
  if info.orientation > 1 then turned = turned + 1 end
  if info.damage then
    damaged = damaged + 1
    problem('%s: %s', path, info.damage)
  end
  local reason = image.too_dark(photo, info)
  if reason then dark, dark_reason = dark + 1, reason end
  return photo, info.orientation
end

local function check_sample(photo_path, mask_path)
  local photo, orientation
  if system.is_file(photo_path) then photo, orientation = read_photo(photo_path) end
  local mask = system.is_file(mask_path) and try(image.read_mask, mask_path)
  if photo and mask and (photo:size(2) ~= mask:size(1) or photo:size(3) ~= mask:size(2)) then
    local swapped = photo:size(2) == mask:size(2) and photo:size(3) == mask:size(1)
    problem('%s: the mask is %dx%d pixels but its photo %dx%d (width x height)%s', mask_path, mask:size(2),
            mask:size(1), photo:size(3), photo:size(2),
            swapped and orientation > 4
                and '; the photo is stored turned (EXIF or XMP orientation), the mask as it is seen: store the '
                    .. 'photo so too' or '')
  end
  if mask and check_labels(mask, mask_path) == 0 then void = void + 1 end
  if photo then photo:release() end
  if mask then mask:release() end
end

local seen = {}                                                 -- id -> the list that has it

local function check_list(split)
  local set = data.voc{root = opt.data_path, year = opt.year, split = split, check = false}
  print(('%s: %d samples'):format(set.list, set.size))
  for _, m in ipairs(set.missing) do problem('%s is missing; line %d of the list asks for it%s', m[1], m[2], m[3]) end
  local progress, twice = log.progress{label = split, total = set.size, unit = 'samples'}, {}
  for i, id in ipairs(set.ids) do
    if twice[id] then problem("'%s' is in the list twice", id) end
    if not twice[id] then check_sample(set.files(i)) end
    if seen[id] and seen[id] ~= split then print(F.printable(("  note: '%s' is in %s too"):format(id, seen[id]))) end
    twice[id], seen[id] = true, split
    progress:step(id)
  end
  progress:done()
  return set
end

local set
for _, split in ipairs(opt.splits) do set = check_list(split) end

-- -- The classes ----------------------------------------------------------------------------------

local names, note = try(function() return metrics.class_names(set, opt.num_classes + 1) end)
names = names or {}
local total, rows = 0, {{'label', 'class', 'pixels', 'share', 'masks'}}
for v = 0, 255 do if v ~= ignored_label then total = total + pixels[v] end end
for v = 0, 255 do
  if v <= opt.num_classes or pixels[v] > 0 then
    local ignored = v == ignored_label
    local name = ignored and '(does not count)' or v > opt.num_classes and '(outside the classes)' or names[v + 1] or ''
    rows[#rows + 1] = {tostring(v), name, text.thousands(pixels[v]),
                       ignored and '' or ('%.2f%%'):format(100 * pixels[v] / math.max(total, 1)),
                       text.thousands(photos[v])}
  end
end
print()
io.write(text.columns(rows, 'rlrrr'))
print()
if note then print('note: ' .. note) end
for v = 0, opt.num_classes do
  if pixels[v] == 0 and v ~= ignored_label then
    print(('note: no mask has label %d%s'):format(v, names[v + 1] and ' (' .. names[v + 1] .. ')' or ''))
  end
end
if turned > 0 then
  print(('note: %d photo%s an orientation (EXIF or XMP). Training takes pixels as they are stored, as PIL does, '
         .. 'and masks must lie on those; predict turns photos as they are seen')
        :format(turned, turned == 1 and ' has' or 's have'))
end
if damaged > 0 then
  print(('note: %d damaged photo%s can be decoded in part; train_voc and validate leave damaged files out with '
         .. '--skip-damaged')
        :format(damaged, damaged == 1 and '' or 's'))
end
if dark > 0 then print(('note: %d photo%s: %s'):format(dark, dark == 1 and '' or 's', dark_reason)) end
local objects = 0
for v = 1, opt.num_classes do if v ~= ignored_label then objects = objects + pixels[v] end end
if objects == 0 and binary > 0 then
  problem('no mask has a class beside the background: they hold 0 and 255, and 255 does not count. Where 255 is an '
          .. 'object, its pixels must be 1')
elseif binary > 0 then
  print(('note: %d mask%s 0 and 255 alone, and 255 does not count: where it is an object, its pixels must have the '
         .. 'number of its class')
        :format(binary, binary == 1 and ' holds' or 's hold'))
end
if total == 0 and pixels[ignored_label] > 0 then
  problem('no pixel of any mask counts: all are 255. The pixels of a mask are numbers of classes, from 0 for the '
          .. 'background')
elseif void > 0 then print(('note: in %d mask%s no pixel counts'):format(void, void == 1 and '' or 's')) end
print(problems == 0 and 'no problems' or problems == 1 and '1 problem' or problems .. ' problems')
os.exit(problems == 0 and 0 or 1)
