-- similar.lua - what lies in a folder in place of a file that is missing: another extension, other
-- upper and lower case.

local files = require 'dlv3.io.files'

local M = {}

local photo_kinds = {['.jpg'] = true, ['.jpeg'] = true, ['.png'] = true}

-- How a file of another kind becomes what is read. Pillow keeps the numbers of a mask; many
-- programs do not.
local function conversion(name, stem, mask)
  if mask and name:lower():find '%.jpe?g$' then
    return 'a JPEG can not be a mask, its compression changes the class numbers; save the masks as PNG where they '
           .. 'were drawn'
  end
  local kinds = mask and 'PNG' or 'JPEG and PNG'
  return ("%s files are read; convert it, with Pillow: Image.open('%s').save('%s.png')"):format(kinds, name, stem)
end

-- A function from the path of a missing photo or mask to "; 'p000.bmp' is there: ...", or ''. Each
-- folder is listed once.
function M.finder()
  local listed = {}
  local function names_by_stem(folder)
    if not listed[folder] then
      listed[folder] = {}
      local ok, names = pcall(files.names_in, folder)
      for _, name in ipairs(ok and names or {}) do listed[folder][(name:match '^(.+)%.' or name):lower()] = name end
    end
    return listed[folder]
  end
  return function(path, is_mask)
    local folder, wanted = path:match '^(.*)/([^/]*)$'
    local stem = (wanted or ''):match '^(.+)%.' or wanted or ''
    local name = folder and names_by_stem(folder)[stem:lower()]
    if not name or name == wanted then return '' end
    local extension = (name:match '%.[^.]*$' or ''):lower()
    local readable = is_mask and extension == '.png' or not is_mask and photo_kinds[extension]
    local advice = conversion(name, stem, is_mask)
    if readable then advice = 'rename it or change the list, upper and lower case must match' end
    return ("; '%s' is there: %s"):format(name, advice)
  end
end

return M
