-- init.lua - require 'dlv3.data': data sets and the loader.
--
-- A data set is a table: size, and either files(i) -> image path, mask path (or nil), read and transformed by C worker
-- threads, or get(i) -> image, mask as u8 tensors ([3,h,w], [h,w]) or paths, which runs in Lua. i counts from 1.

local F = require 'dlv3.ffi'
local voc = require 'dlv3.data.voc'
local loader = require 'dlv3.data.loader'

local M = {voc = voc.open, voc_classes = voc.classes, voc_doc = voc.doc, loader = loader.new}

-- The numbers 1..n in an order that depends on seed and stream (an epoch, say) only.
function M.permutation(n, seed, stream)
  if type(n) ~= 'number' or n < 0 or n ~= math.floor(n) then F.raise('permutation: a whole number from 0 was expected, ' .. tostring(n) .. ' came') end
  local order, list = F.new('int64_t[?]', math.max(n, 1)), {}
  F.C.dlv3_permutation(order, n, seed or 0, stream or 0)
  for i = 1, n do list[i] = tonumber(order[i - 1]) + 1 end
  return list
end

return M
