-- look.lua - a short look at the data before a training: what would else show after an epoch, as
-- figures that say nothing.

local F = require 'dlv3.core.ffi'
local image = require 'dlv3.vision.image'
local log = require 'dlv3.train.log'
local C = F.C

local M = {}

local most_masks, most_photos, most_seconds = 64, 4, 2

-- 'object': a pixel has the number of a class beside the background; 'void': no pixel counts (255);
-- else 'background'. nil: the mask can not be read, which the loader reports when its turn comes.
local function kind_of(path)
  local ok, mask = pcall(image.read_mask, path)
  if not ok then return nil end
  local counts = image.count_labels(mask)
  local others = mask:numel() - tonumber(counts[0]) - tonumber(counts[255])
  mask:release()
  return others > 0 and 'object' or counts[0] == 0 and 'void' or 'background'
end

-- The numbers of the samples of a set, from 0, in random order.
local function random_order(set)
  local order = F.new('int64_t[?]', set.size)
  C.dlv3_permutation(order, set.size, 0, 0)
  return order
end

-- Looks at masks of a set in random order until one has an object, or enough were seen. Returns the
-- numbers of masks of each kind.
local function look(set)
  local order, seen, begin = random_order(set), {object = 0, background = 0, void = 0, all = 0}, C.dlv3_now()
  for i = 0, math.min(set.size, most_masks) - 1 do
    local _, path = set.files(tonumber(order[i]) + 1)
    local kind = path and kind_of(path)
    if kind then seen[kind], seen.all = seen[kind] + 1, seen.all + 1 end
    if kind == 'object' or C.dlv3_now() - begin > most_seconds then break end
  end
  return seen
end

local advice = 'A mask has the number of a class in its pixels: 1, not 255, which does not count; '
               .. 'scripts/check_data.lua counts them'

-- What is wrong with the masks of a set; nil when one of them has an object. Second: whether that
-- is certain of all of them.
function M.complaint(set)
  local seen = look(set)
  if seen.object > 0 or seen.all == 0 then return nil end
  local whole = seen.all == set.size
  local which = ('the masks of %s%s'):format(set.list,
                                             whole and '' or (' (%d of %d were looked at)'):format(seen.all, set.size))
  if seen.void == seen.all then return ('no pixel counts in %s: all are 255. %s'):format(which, advice), whole end
  return ('%s hold no class but the background. %s'):format(which, advice), false
end

-- What is wrong with the first of a few photos that is nearly black because of 16 bits a channel;
-- nil: none of them is.
function M.dark_photo(set)
  local order, begin = random_order(set), C.dlv3_now()
  for i = 0, math.min(set.size, most_photos) - 1 do
    local path = set.files(tonumber(order[i]) + 1)
    local ok, photo, info = pcall(image.read_with_info, path, {orient = false})
    local reason = ok and image.too_dark(photo, info)
    if ok then photo:release() end
    if reason then return path .. ': ' .. reason end
    if C.dlv3_now() - begin > most_seconds then return nil end
  end
end

local function warn(message)
  if message then log.line('warning: ' .. F.printable(message)) end
end

-- Raises where there is nothing to learn from the training set, warns where that is likely or where
-- an evaluation says nothing.
function M.check(train_set, val_set)
  local message, certain = M.complaint(train_set)
  if certain then F.raise(message) end
  warn(message)
  warn((M.complaint(val_set)))
  warn(M.dark_photo(train_set))
end

return M
