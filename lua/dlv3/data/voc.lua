-- voc.lua - data sets in PASCAL VOC's layout:
--
--   DIR/VOCdevkit/VOC2012/JPEGImages/<id>.jpg               the photo (.jpeg, .png, .JPG too; read by content)
--   DIR/VOCdevkit/VOC2012/SegmentationClass/<id>.png        the mask (or .PNG): class numbers, 255 where a pixel does not count
--   DIR/VOCdevkit/VOC2012/ImageSets/Segmentation/<split>.txt  the ids of a set, one a line
--   DIR/VOCdevkit/VOC2012/class_names.txt                   names of the classes from 0 on, one a line (optional; or DIR/)

local F = require 'dlv3.ffi'
local files = require 'dlv3.files'
local nearest = require 'dlv3.nearest'
local similar = require 'dlv3.data.similar'
local C, raise = F.C, F.raise

local M = {}

M.classes = {
  'background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable', 'dog', 'horse', 'motorbike',
  'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor',
}

-- What --data-path means.
M.doc = 'folder that holds VOCdevkit; class_names.txt in it, if there is one, names the classes, one a line, background first'

local extensions = {'.jpg', '.jpeg', '.png', '.JPG', '.JPEG', '.PNG'}

local function is_file(path) return C.dlv3_path_kind(path) == 1 end
local function is_folder(path) return C.dlv3_path_kind(path) == 2 end

local function lines_of(path, what)
  local file, reason = io.open(path)
  if not file then raise(what .. ': ' .. reason) end
  local text = file:read '*a'
  file:close()
  if not text then raise(what .. ': ' .. path .. ' can not be read') end
  local lines = {}
  text = text:gsub('^\239\187\191', '') -- the mark that some editors put before UTF-8
  for line in (text .. '\n'):gmatch '(.-)\n' do lines[#lines + 1] = line:match '^%s*(.-)%s*$' end
  return lines
end

-- -- Where the data is ----------------------------------------------------------------------------------------

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
  if kind == 1 then return ("'%s' is a file; a folder that holds %s was expected"):format(root, wanted) end
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
    return ("'%s/VOCdevkit'%s but no VOC%s (the year is an option: --year, or year = in data.voc)"):format(root, has, year)
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

-- -- The list -------------------------------------------------------------------------------------------------

local function split_path(base, split)
  local folder = base .. '/ImageSets/Segmentation'
  local path = folder .. '/' .. split .. '.txt'
  if is_file(path) then return path end
  if not is_folder(folder) then raise(("data.voc: '%s' has no folder ImageSets/Segmentation with the lists"):format(base)) end
  local splits = {}
  for _, name in ipairs(files.names_in(folder)) do splits[#splits + 1] = name:match '^(.*)%.txt$' end
  raise(("data.voc: there is no list '%s'%s%s"):format(path, nearest.text(split, splits),
        #splits > 0 and ' (there are: ' .. table.concat(splits, ', ') .. ')' or ''))
end

-- The ids of a list and the lines they stand at; blank lines are passed over.
local function read_list(path)
  local ids, at = {}, {}
  for number, line in ipairs(lines_of(path, 'data.voc')) do
    if line ~= '' then ids[#ids + 1], at[#at + 1] = line, number end
  end
  if #ids == 0 then raise(("data.voc: the list '%s' is empty"):format(path)) end
  return ids, at
end

local function find_image(base, id)
  for _, extension in ipairs(extensions) do
    local path = base .. '/JPEGImages/' .. id .. extension
    if is_file(path) then return path end
  end
end

local function mask_path(base, id)
  local path = base .. '/SegmentationClass/' .. id .. '.png'
  local upper = base .. '/SegmentationClass/' .. id .. '.PNG'
  return not is_file(path) and is_file(upper) and upper or path
end

-- The files that are missing: a list of {path, line of the list, what may be wrong with that}.
local function find_missing(set, at)
  local missing, found_instead = {}, similar.finder()
  local function look(i, path, is_mask)
    if is_file(path) then return end
    missing[#missing + 1] = {path, at[i], M.id_hint(set.ids[i]) .. found_instead(path, is_mask)}
  end
  for i = 1, set.size do
    local image, mask = set.files(i)
    look(i, image, false)
    if mask then look(i, mask, true) end
  end
  return missing
end

-- "; the list holds ids ...": for a missing file whose line is no id, such as a.jpg, JPEGImages/a.jpg or a.jpg a.png; else ''.
function M.id_hint(id)
  local odd = id:find '/' or id:find '%s' or id:lower():find '%.jpe?g$' or id:lower():find '%.png$'
  return odd and '; the list holds ids, one a line, without folder and extension' or ''
end

-- The names in a file, one a line, background first; empty lines do not count.
function M.read_names(path)
  local names = {}
  for _, line in ipairs(lines_of(path, 'class names')) do if line ~= '' then names[#names + 1] = line end end
  return names
end

-- What class_names.txt says, in the folder of a year or above it; nil without one.
function M.names_of(root, year)
  for _, path in ipairs {root .. '/VOCdevkit/VOC' .. year .. '/class_names.txt', root .. '/class_names.txt'} do
    if is_file(path) then return M.read_names(path) end
  end
end

local known = {root = true, split = true, year = true, masks = true, check = true}

-- {root = DIR, split = 'train', year = '2012'}; masks = false: photos only; check = false: without a look whether every
-- file is there. Returns a data set, also with ids, list (its path), base, and class_names (nil without the file).
function M.open(options)
  if type(options) ~= 'table' then raise("data.voc: takes a table, as in data.voc{root = 'data', split = 'train'}") end
  local names = {}
  for name in pairs(known) do names[#names + 1] = name end
  for name in pairs(options) do
    if not known[name] then raise(("data.voc: no option '%s'%s (has: root, split, year, masks, check)"):format(tostring(name), nearest.text(tostring(name), names))) end
  end
  if type(options.root) ~= 'string' then raise("data.voc: root, the folder that holds VOCdevkit, must be given") end
  local year = tostring(options.year or '2012')
  local base, root = find_base(options.root, year)
  local list = split_path(base, options.split or 'train')
  local ids, at = read_list(list)
  local images = {}
  for i, id in ipairs(ids) do images[i] = find_image(base, id) or base .. '/JPEGImages/' .. id .. '.jpg' end
  local set = {size = #ids, ids = ids, list = list, base = base, split = options.split or 'train', class_names = M.names_of(root, year)}
  function set.files(i) return images[i], options.masks ~= false and mask_path(base, ids[i]) or nil end
  set.missing = find_missing(set, at)
  if options.check ~= false and #set.missing > 0 then
    local more = #set.missing > 1 and (' (and %d more; scripts/check_data.lua lists them)'):format(#set.missing - 1) or ''
    raise(("data.voc: '%s' is missing; line %d of '%s' asks for it%s%s"):format(set.missing[1][1], set.missing[1][2], list, set.missing[1][3], more))
  end
  return set
end

return M
