-- photos.lua - the photos that a command line names, and where the pictures made of them go.

local F = require 'dlv3.core.ffi'
local files = require 'dlv3.io.files'
local system = require 'dlv3.os'

local M = {}

-- "2 folders, 3 .webp, 1 .tif" from counts by kind.
local function counts_text(counts)
  local parts = {}
  for kind, n in pairs(counts) do
    parts[#parts + 1] = ('%d %s%s'):format(n, kind, kind == 'folder' and n > 1 and 's' or '')
  end
  table.sort(parts)
  return table.concat(parts, ', ')
end

local photo_kinds = {['.jpg'] = true, ['.jpeg'] = true, ['.png'] = true}

local function kind_of(path)
  if system.is_directory(path) then return 'folder' end
  local extension = path:match '%.(%w+)$'
  return extension and '.' .. extension:lower() or 'without extension'
end

-- Appends the photos of a folder; returns what else is in it, as counts by kind.
local function add_folder(photos, folder)
  local left_out = {}
  for _, name in ipairs(files.names_in(folder)) do
    local path = folder:gsub('/+$', '') .. '/' .. name
    local kind = kind_of(path)
    if photo_kinds[kind] then photos[#photos + 1] = path
    else left_out[kind] = (left_out[kind] or 0) + 1 end
  end
  return left_out
end

-- The photos of a list of paths: files as they are named, those of folders in order of their names.
-- Second: the folders without any. Third: what else is in the folders, a text each.
function M.find(list)
  local photos, empty, others = {}, {}, {}
  for _, path in ipairs(list) do
    if system.is_directory(path) then
      local before, left_out = #photos, add_folder(photos, path)
      if next(left_out) then
        others[#others + 1] = ('%s: left out: %s (JPEG and PNG files are read, folders within a folder are not '
                               .. 'searched)')
                              :format(path, counts_text(left_out))
      end
      if #photos == before then empty[#empty + 1] = path end
    elseif not files.is_system_file(path:match '[^/]*$') then
      photos[#photos + 1] = path
    end
  end
  return photos, empty, others
end

-- -- Names of pictures ----------------------------------------------------------------------------

local endings = {'.png', '_overlay.png', '.png.part', '_overlay.png.part'} -- .part: until a file is whole

-- Names for the pictures in a folder, which exists, such that no file of `inputs`, no earlier
-- picture and nothing that a link in the folder leads to is written over:
--   stem, reason = names:of(photo)   the path of its pictures without ending, and why it is not the photo's own
--                                    name (nil: it is)
--   names:written(path)              after a file was written
function M.names(folder, inputs)
  local taken, names = files.identities(inputs), {}
  local function is_free(stem)
    for _, ending in ipairs(endings) do
      local path = stem .. ending
      if F.C.dlv3_path_is_link(path) == 1 or taken[files.identity(path)] then return false end
    end
    return true
  end
  function names.of(_, photo)
    local name = photo:match '([^/]+)%.%w+$' or photo:match '[^/]+$'
    local fitting = files.fit_name(folder, name, '', #'_overlay.png')
    local stem, n, reason = folder .. '/' .. fitting, 1, fitting ~= name and 'its name is too long' or nil
    while not is_free(stem) do
      n, reason = n + 1, 'another file has the name'
      stem = folder .. '/' .. files.fit_name(folder, name, '_' .. n, #'_overlay.png')
    end
    return stem, reason
  end
  function names.written(_, path) taken[files.identity(path)] = path end
  return names
end

return M
