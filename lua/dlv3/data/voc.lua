-- voc.lua - data sets in PASCAL VOC's layout:
--
--   DIR/VOCdevkit/VOC2012/JPEGImages/<id>.jpg               the photo (.jpeg, .png, .JPG too; read by content)
--   DIR/VOCdevkit/VOC2012/SegmentationClass/<id>.png        the mask (or .PNG): class numbers; 255: does not count
--   DIR/VOCdevkit/VOC2012/ImageSets/Segmentation/<split>.txt  the ids of a set, one a line; also the path of a photo,
--                                                            or those of a photo and its mask, absolute or below
--                                                            DIR or VOC2012
--   DIR/VOCdevkit/VOC2012/class_names.txt                   names of the classes from 0 on, one a line (or in DIR)

local F = require 'dlv3.core.ffi'
local expect = require 'dlv3.core.expect'
local files = require 'dlv3.io.files'
local lists = require 'dlv3.data.list'
local suggest = require 'dlv3.core.suggest'
local similar = require 'dlv3.data.similar'
local C, raise = F.C, F.raise

local M = {}

M.classes = {
  'background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable',
  'dog', 'horse', 'motorbike',
  'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor',
}

-- What --data-path means.
M.doc = 'folder that holds VOCdevkit; class_names.txt in it, if there is one, names the classes, one a line, '
        .. 'background first'

local extensions = {'.jpg', '.jpeg', '.png', '.JPG', '.JPEG', '.PNG'}

-- C sees a path up to its first zero
local function is_file(path) return C.dlv3_path_kind(path) == 1 and not path:find '%z' end
local function is_folder(path) return C.dlv3_path_kind(path) == 2 end

-- -- Where the data is ----------------------------------------------------------------------------

local function parent(path)
  local up = path:match '^(.+)/[^/]+$'
  if up then return up end
  return path:sub(1, 1) == '/' and '/' or '.'
end

-- Why there is no VOCdevkit/VOC<year> in root, with what to give instead.
local function explain(root, year)
  local wanted = 'VOCdevkit/VOC' .. year
  local kind = C.dlv3_path_kind(root)
  if kind == 0 then return ("there is no folder '%s'"):format(root) end
  if kind == 1 then return ("'%s' is a file: expected a folder that holds %s"):format(root, wanted) end
  if is_folder(root .. '/VOC' .. year) then
    if root:match '([^/]+)$' == 'VOCdevkit' then
      return ("'%s' is one level too deep: give the folder that holds VOCdevkit, '%s'"):format(root, parent(root))
    end
    return ("'%s' holds VOC%s itself; it must lie in a folder called VOCdevkit: %s/%s"):format(root, year, root, wanted)
  end
  if is_folder(root .. '/JPEGImages') or is_folder(root .. '/ImageSets') then
    local up = parent(root)
    if up:match '([^/]+)$' == 'VOCdevkit' then
      return ("'%s' is two levels too deep: give the folder that holds VOCdevkit, '%s'"):format(root, parent(up))
    end
    return ("'%s' holds the pictures themselves; give a folder in which they are in %s"):format(root, wanted)
  end
  if is_folder(root .. '/VOCdevkit') then
    local years = {}
    for _, name in ipairs(files.names_in(root .. '/VOCdevkit')) do years[#years + 1] = name:match '^VOC%d+$' end
    local has = #years > 0 and ' has ' .. table.concat(years, ', ') or ' has no data'
    return ("'%s/VOCdevkit'%s but no VOC%s (the year is an option: --year, or year = in data.voc)"):format(root, has,
        year)
  end
  for _, name in ipairs(files.names_in(root)) do
    if is_folder(root .. '/' .. name .. '/' .. wanted) then
      return ("'%s' is one level too high: give '%s/%s'"):format(root, root, name)
    end
  end
  return ("'%s' holds no %s (with JPEGImages, SegmentationClass and ImageSets/Segmentation in it)"):format(root, wanted)
end

local function find_base(root, year)
  root = #root > 1 and root:gsub('/+$', '') or root
  if root == '' then root = '/' end
  local base = root .. '/VOCdevkit/VOC' .. year
  if not is_folder(base) then raise('data.voc: ' .. explain(root, year)) end
  return base, root
end

-- -- The list -------------------------------------------------------------------------------------

local function split_path(base, split)
  local folder = base .. '/ImageSets/Segmentation'
  local path = folder .. '/' .. split .. '.txt'
  if is_file(path) then return path end
  if not is_folder(folder) then
    raise(("data.voc: '%s' has no folder ImageSets/Segmentation with the lists"):format(base))
  end
  local splits = {}
  for _, name in ipairs(files.names_in(folder)) do splits[#splits + 1] = name:match '^(.*)%.txt$' end
  raise(("data.voc: there is no list '%s'%s%s"):format(path, suggest.text(split, splits),
        #splits > 0 and ' (there are: ' .. table.concat(splits, ', ') .. ')' or ''))
end

-- -- Samples --------------------------------------------------------------------------------------

local most_missing = 10000 -- so many missing files are enough to see what is wrong

local function mask_path(base, id)
  local path = base .. '/SegmentationClass/' .. id .. '.png'
  local upper = base .. '/SegmentationClass/' .. id .. '.PNG'
  return not is_file(path) and is_file(upper) and upper or path
end

-- The extension of the photo of an id, or nil.
local function find_extension(base, id)
  for _, extension in ipairs(extensions) do
    if is_file(base .. '/JPEGImages/' .. id .. extension) then return extension end
  end
end

local function extension_of(path)
  for _, extension in ipairs(extensions) do
    if path:sub(-#extension) == extension then return extension end
  end
  return ''
end

-- The file that a path in a list means: as it stands, or below one of the folders; with or without
-- its extension. nil: none.
local function find_file(path, folders)
  local candidates = {folders[1] .. '/' .. path}
  if path:find '/' then
    candidates[2] = path
    for _, folder in ipairs(folders) do candidates[#candidates + 1] = folder .. '/' .. path:gsub('^%.?/+', '') end
  end
  for _, candidate in ipairs(candidates) do
    if extension_of(candidate) ~= '' and is_file(candidate) then return candidate end
    for _, extension in ipairs(extensions) do
      if is_file(candidate .. extension) then return candidate .. extension end
    end
  end
end

-- What a line means that is no id: the path of a photo, or those of a photo and its mask. {id =,
-- photo =, mask =}; files that are missing are where they were expected.
local function find_sample(place, line)
  local path = line:gsub('\\', '/')
  local photo, mask = find_file(path, place.photos), nil
  if not photo then
    local first, second = path:match '^(%S+)%s+(%S+)$'
    if second and extension_of(second) ~= '' then
      photo = find_file(first, place.photos) or place.base .. '/' .. first:gsub('^/+', '')
      mask = find_file(second, place.masks) or place.base .. '/' .. second:gsub('^/+', '')
    end
  end
  if not photo then
    photo = extension_of(path) ~= '' and (path:find '^/' and path or place.photos[1] .. '/' .. path)
        or place.photos[1] .. '/' .. line .. '.jpg'
  end
  local id = photo:match '.*/JPEGImages/(.*)$' or photo:match '[^/]*$'
  id = id:sub(1, -#extension_of(id) - 1)
  return {id = id, photo = photo, mask = mask or mask_path(place.base, id)}
end

-- Where the samples of a list are, ids: its lines, which become ids. Returns {[i] = the extension
-- of a photo that is no .jpg, or what find_sample found} and the files that are missing, {path, i,
-- what the line may have wrong}.
local function locate(place, ids, with_masks)
  local places, missing, known, n_known = {}, {}, {}, 0
  local found_instead = similar.finder()
  local function look(i, path, line, is_mask)
    if is_file(path) then return end
    missing[#missing + 1] = {path, i, M.line_hint(line) .. found_instead(path, is_mask)}
  end
  for i, line in ipairs(ids) do
    local found = known[line]
    if not found then
      local before = #missing
      found = find_extension(place.base, line)
      if not found or with_masks and not is_file(place.masks[1] .. '/' .. line .. '.png') then
        found = find_sample(place, line)
        look(i, found.photo, line, false)
        if with_masks then look(i, found.mask, line, true) end
        if #missing >= most_missing then break end
      end
      if #missing == before then
        if n_known == 50000 then known, n_known = {}, 0 end -- lists that repeat ids have few
        known[line], n_known = found, n_known + 1
      end
    end
    if found ~= '.jpg' then places[i] = found end
    if type(found) == 'table' then ids[i] = found.id end
  end
  return places, missing
end

-- "; a line of a list is ...": for a missing file whose line is no plain id; else ''.
function M.line_hint(line)
  local odd = line:find '[/\\%s%c]' or extension_of(line) ~= ''
  return odd and '; a line of a list is an id, or the path of a photo, or those of a photo and its mask' or ''
end

-- Puts the numbers of lines in place of the places in the list.
local function name_lines(missing, text)
  local wanted = {}
  for i, m in ipairs(missing) do wanted[i] = m[2] end
  for i, number in ipairs(lists.line_numbers(text, wanted)) do missing[i][2] = number end
end

-- The names in a file, one a line, background first; empty lines do not count.
function M.read_names(path)
  local names = {}
  for line in lists.lines(lists.read(path)) do names[#names + 1] = line end
  return names
end

-- What class_names.txt says, in the folder of a year or above it, and its path; nil without one.
function M.names_of(root, year)
  for _, path in ipairs {root .. '/VOCdevkit/VOC' .. year .. '/class_names.txt', root .. '/class_names.txt'} do
    if is_file(path) then return M.read_names(path), path end
  end
end

-- Raises unless there are n names; path: of their file.
function M.check_names(names, path, n)
  if #names == n then return end
  local hint = #names == n - 1 and names[1]:lower() ~= 'background'
      and ("; the first line must be the background's, it is '%s'"):format(names[1]) or ''
  raise(('%s: has %d names, expected %d (%d %s and the background): one name a line, background first%s')
        :format(path, #names, n, n - 1, n == 2 and 'class' or 'classes', hint))
end

-- Whether a data set is VOC's own: its ids are those of VOC's photos.
function M.is_voc(set)
  if not set.ids then return false end
  for _, i in ipairs {1, math.ceil(set.size / 2), set.size} do
    if not set.ids[i]:find '^20[01]%d_%d%d%d%d%d%d$' then return false end
  end
  return true
end

local spec = {
  root = expect.value('the folder that holds VOCdevkit', function(v) return type(v) == 'string' end),
  split = {'train', expect.text}, masks = true, check = true,
  year = {'2012', expect.value('a year', function(v) return type(v) == 'string' or type(v) == 'number' end)},
}

-- voc{root = DIR, split = 'train', year = '2012', masks = true, check = true}: a data set.
-- root: the folder that holds VOCdevkit. masks = false: photos only. check = false: without
-- checking that every file is there. It has size, files(i), ids, list (its path), base, missing (at
-- most 10000 files, {path, line of the list, what may be wrong with that}), and class_names with
-- class_names_path (nil without the file).
function M.open(options)
  local o = expect.options('data.voc', spec, options)
  local year = tostring(o.year)
  local base, root = find_base(o.root, year)
  local list, with_masks = split_path(base, o.split), o.masks
  local text, ids = lists.read(list), {}
  for line in lists.lines(text) do ids[#ids + 1] = line end
  if #ids == 0 then raise(("data.voc: the list '%s' is empty"):format(list)) end
  local above = {base, root, root .. '/VOCdevkit'}
  local place = {base = base, photos = {base .. '/JPEGImages', unpack(above)},
                 masks = {base .. '/SegmentationClass', unpack(above)}}
  local places, missing = locate(place, ids, with_masks)
  local set = {size = #ids, ids = ids, list = list, base = base, split = o.split, missing = missing}
  set.class_names, set.class_names_path = M.names_of(root, year)
  function set.files(i)
    local found = places[i]
    if type(found) == 'table' then return found.photo, with_masks and found.mask or nil end
    return place.photos[1] .. '/' .. ids[i] .. (found or '.jpg'),
        with_masks and place.masks[1] .. '/' .. ids[i] .. '.png' or nil
  end
  if #missing > 0 then name_lines(missing, text) end
  if o.check and #missing > 0 then
    local count = #missing < most_missing and '' or 'at least '
    local more = #missing > 1 and (' (and %s%d more; scripts/check_data.lua lists them)'):format(count, #missing - 1)
        or ''
    raise(("data.voc: '%s' is missing; line %d of '%s' asks for it%s%s"):format(missing[1][1], missing[1][2], list,
        missing[1][3], more))
  end
  return set
end

return M
