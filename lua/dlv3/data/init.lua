-- init.lua - require 'dlv3.data': data sets and the loader.
--
-- A data set is a table: size, and either files(i) -> image path, mask path (or nil), read and
-- transformed by C worker threads, or get(i) -> image, mask as u8 tensors ([3,h,w], [h,w]) or
-- paths, which runs in Lua. i counts from 1.

local F = require 'dlv3.core.ffi'
local expect = require 'dlv3.core.expect'
local voc = require 'dlv3.data.voc'
local loader = require 'dlv3.data.loader'

local M = {voc = voc.open, voc_classes = voc.classes, voc_doc = voc.doc, loader = loader.new}

-- The numbers 1..n in an order that depends on seed and stream (an epoch, say) only.
function M.permutation(n, seed, stream)
  expect.argument('permutation', 'n', n, expect.whole(0))
  local order, list = F.new('int64_t[?]', math.max(n, 1)), {}
  F.C.dlv3_permutation(order, n, seed or 0, stream or 0)
  for i = 1, n do list[i] = tonumber(order[i - 1]) + 1 end
  return list
end

-- The data set without the samples whose photo or mask is damaged, and the messages about those, a
-- list. Every file is read and decoded once for it. options: workers, the threads that do so.
function M.skip_damaged(set, options)
  local looking = loader.new(set, {batch_size = 1, base_size = 8, workers = options and options.workers})
  local skipped, messages, kept = {}, {}, {}
  for i, found in ipairs(looking:damaged()) do skipped[found[1]], messages[i] = true, found[2] end
  looking:close()
  for i = 1, set.size do if not skipped[i] then kept[#kept + 1] = i end end
  if #kept == 0 then
    F.raise(('data.skip_damaged: all %d samples are damaged, the first: %s'):format(set.size, messages[1]))
  end
  local rest = {}
  for name, value in pairs(set) do rest[name] = value end
  rest.size = #kept
  for _, name in ipairs {'files', 'get'} do
    rest[name] = set[name] and function(i) return set[name](kept[i]) end
  end
  if set.ids then
    rest.ids = {}
    for i, old in ipairs(kept) do rest.ids[i] = set.ids[old] end
  end
  return rest, messages
end

return M
