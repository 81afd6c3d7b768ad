-- loader.lua - batches of a data set, made by the worker threads of runtime/images/loader.c.
--
--   local loader = data.loader(data.voc{root = 'data', split = 'train'}, {batch_size = 4, train = true, seed = 1})
--   for batch in loader:epoch(0) do ... batch.image [n,3,h,w], batch.target u8 [n,h,w], batch.indices ... end
--   #loader, loader:batches()             batches an epoch
--   loader:epoch(e, {skip = 10})          goes on after 10 batches, with the same ones as the whole epoch
--   loader:close()                        ends the threads now; else when the loader is collected
--
-- What a batch holds depends on seed, epoch and the data set alone: not on the number of workers, nor on what ran before.

local F = require 'dlv3.core.ffi'
local suggest = require 'dlv3.core.suggest'
local image = require 'dlv3.vision.image'
local C, raise, is_tensor = F.C, F.raise, F.is_tensor

local M = {}

-- Option, default, what it is; a default of false: see make_config.
local defaults = {
  batch_size = 4,
  workers = false,            -- threads; the cores, at most 8
  shuffle = false,            -- as train
  drop_last = false,          -- leave out a last batch that is not full
  seed = 0,
  train = false,              -- random resize, flip and crop; else the shorter side is resized to base_size
  base_size = 520,            -- 0 without train: the image's own size
  crop_size = 480,
  scale = {0.5, 2.0},         -- train: the shorter side is drawn from base_size times these
  flip = 0.5,                 -- train: the probability of a mirrored sample
  mean = image.mean, std = image.std,
  num_classes = 0,            -- labels are checked to be below it (the background counts); 0: any
  ignore_index = 255,
  precision = 'f32',          -- dtype of batch.image
  ahead = 2,                  -- batches kept ready
}

local function with_defaults(given)
  local o, names = {}, {}
  for name, value in pairs(defaults) do o[name], names[#names + 1] = value, name end
  for name, value in pairs(given or {}) do
    if defaults[name] == nil then
      table.sort(names)
      raise(("data.loader: no option '%s'%s (has: %s)"):format(tostring(name), suggest.text(tostring(name), names), table.concat(names, ' ')))
    end
    o[name] = value
  end
  for _, name in ipairs {'train', 'shuffle', 'drop_last'} do
    if type(o[name]) ~= 'boolean' then raise(('data.loader: %s must be true or false, %s came'):format(name, tostring(o[name]))) end
  end
  if not given or given.shuffle == nil then o.shuffle = o.train end
  if not o.workers then o.workers = math.max(1, math.min(8, C.dlv3_num_threads())) end
  return o
end

local function whole(o, name, least, most)
  local v = o[name]
  if type(v) ~= 'number' or v ~= math.floor(v) or v < least or v >= (most or 2 ^ 31) then
    local limit = type(v) == 'number' and v >= (most or 2 ^ 31) and (' to %.0f'):format((most or 2 ^ 31) - 1) or ''
    raise(('data.loader: %s must be a whole number from %d%s, %s came'):format(name, least, limit, tostring(v)))
  end
  return v
end

local function real(name, v)
  if type(v) ~= 'number' or v ~= v then raise(('data.loader: %s must be a number, %s came'):format(name, tostring(v))) end
  return v
end

local function make_config(o)
  local c = F.new 'dlv3_loader_config'
  whole(o, 'batch_size', 1)
  c.train = o.train and 1 or 0
  local base = whole(o, 'base_size', o.train and 1 or 0)
  c.resize_min, c.resize_max = base, base
  if o.train then
    if type(o.scale) ~= 'table' then raise('data.loader: scale is {least, most}, the range of sizes as a part of base_size') end
    c.resize_min, c.resize_max = math.max(1, math.floor(real('scale', o.scale[1]) * base)), math.floor(real('scale', o.scale[2]) * base)
  end
  c.crop, c.flip = whole(o, 'crop_size', 1), real('flip', o.flip)
  if c.flip < 0 or c.flip > 1 then raise(('data.loader: flip is a probability, from 0 to 1; %s came'):format(tostring(o.flip))) end
  c.mean, c.std = image.triple('data.loader: mean', o.mean), image.triple('data.loader: std', o.std)
  c.num_classes, c.ignore_index = whole(o, 'num_classes', 0), whole(o, 'ignore_index', 0)
  c.dtype = F.dtype_id[o.precision] or raise(("data.loader: no precision is called '%s' (there are f32, bf16, f16)"):format(tostring(o.precision)))
  c.workers, c.ahead, c.seed = whole(o, 'workers', 1), whole(o, 'ahead', 1), whole(o, 'seed', 0, 2 ^ 53)
  return c
end

-- A data set of files: all have a mask, or none. The paths themselves are asked for when they are needed: of a million samples they
-- would take more memory than all else.
local function check_files(set)
  local masks
  for i = 1, set.size do
    local photo, mask = set.files(i)
    if type(photo) ~= 'string' or mask ~= nil and type(mask) ~= 'string' then
      raise(('data.loader: files(%d) must return the path of an image and of a mask (or nil), it returned a %s and a %s'):format(i, type(photo), type(mask)))
    end
    if masks == nil then masks = mask ~= nil end
    if masks ~= (mask ~= nil) then
      raise(('data.loader: files(%d) has %s, those before have %s'):format(i, mask and 'a mask' or 'no mask', mask and 'none' or 'one'))
    end
  end
end

local function check_set(set)
  if type(set) ~= 'table' then raise('data.loader: a data set (a table) was expected, a ' .. type(set) .. ' came') end
  if type(set.size) ~= 'number' then raise('data.loader: the data set has no size, the number of its samples') end
  if set.size < 1 then raise('data.loader: the data set is empty') end
  if type(set.files) ~= 'function' and type(set.get) ~= 'function' then
    raise('data.loader: the data set has neither files(i), which returns paths, nor get(i), which returns an image and a mask')
  end
end

-- -- The loader -----------------------------------------------------------------------------------------------

local Loader = {}

function Loader:batches() return self.count end

function Loader:close()
  if not self.pointer then return end
  F.gc(self.pointer, nil)
  C.dlv3_loader_free(self.pointer)
  self.pointer, self.running = nil, nil
end

-- Which samples, in which order: 0-based indices in C memory.
local function order_of(self, epoch)
  local n = self.set.size
  local order = F.new('int64_t[?]', n)
  if self.options.shuffle then C.dlv3_permutation(order, n, self.options.seed, epoch * 256 + 2) -- + 1 is the transforms'
  else for i = 0, n - 1 do order[i] = i end end
  return order
end

-- What get(i) returned, as loader.c takes it: a tensor or a path, the other NULL.
local function tensor_or_path(v, i, what)
  if v == nil then return nil, nil end
  if type(v) == 'string' then return nil, v end
  if is_tensor(v) then return v.p, nil end
  raise(('data.loader: get(%d) must return %s as a u8 tensor or a path, a %s came'):format(i, what, type(v)))
end

-- Hands in the samples that are wanted now, from position self.fed on.
local function feed(self, order)
  local get = self.set.get or self.set.files
  for _ = 1, tonumber(C.dlv3_loader_wanted(self.pointer)) do
    local i = tonumber(order[self.fed]) + 1
    local photo, mask = get(i)
    local image_tensor, image_path = tensor_or_path(photo, i, 'the image')
    local mask_tensor, mask_path = tensor_or_path(mask, i, 'the mask')
    F.check(C.dlv3_loader_put(self.pointer, 'get(' .. i .. ')', image_tensor, image_path, mask_tensor, mask_path))
    self.fed = self.fed + 1
  end
end

-- An iterator over the batches of epoch e (from 0; default: the one after the last): tables {image =, target = (nil without
-- masks), indices =}; indices count from 1. options.skip: batches to pass over.
function Loader:epoch(e, options)
  if not self.pointer then raise('data.loader: this loader is closed') end
  e = e or self.next_epoch or 0
  if type(e) ~= 'number' or e < 0 or e ~= math.floor(e) then raise('data.loader: an epoch is a whole number from 0, ' .. tostring(e) .. ' came') end
  local skip = options and options.skip or 0
  if type(skip) ~= 'number' or skip < 0 or skip > self.count or skip ~= math.floor(skip) then raise(('data.loader: skip must be within 0..%d, %s came'):format(self.count, tostring(skip))) end
  local order, batch = order_of(self, e), self.options.batch_size
  local at = skip * batch
  if at > self.samples then at = self.samples end
  F.check(C.dlv3_loader_start(self.pointer, e, order, self.samples, at, batch))
  local mark = {}
  self.running, self.fed, self.next_epoch = mark, at, e + 1
  local out = F.new 'dlv3_tensor *[2]'
  return function()
    if self.running ~= mark then raise('data.loader: another epoch of this loader has begun, or it was closed') end
    feed(self, order)
    F.check(F.retry(C.dlv3_loader_next, self.pointer, out, out + 1))
    if out[0] == nil then return nil end
    if not self.set.get then feed(self, order) end -- workers go on while the batch is used; what a get does, an error too, belongs to its batch
    local b = {image = F.wrap(out[0]), target = out[1] ~= nil and F.wrap(out[1]) or nil, indices = {}}
    for i = 1, math.min(batch, self.samples - at) do b.indices[i] = tonumber(order[at + i - 1]) + 1 end
    at = at + batch
    return b
  end
end

-- Goes on from position `at` (from 0) over the samples, one a batch: to the end, or to one that fails. Returns the position of that
-- one and its status, or nil.
local function first_failing(self, order, at)
  local out = F.new 'dlv3_tensor *[2]'
  F.check(C.dlv3_loader_start(self.pointer, 0, order, self.samples, at, 1))
  self.fed = at
  while true do
    feed(self, order)
    local status = F.retry(C.dlv3_loader_next, self.pointer, out, out + 1)
    if status ~= C.DLV3_OK then return at, status end
    if out[0] == nil then return nil end
    for i = 0, 1 do if out[i] ~= nil then F.wrap(out[i]):release() end end
    at = at + 1
  end
end

-- The samples whose photo or mask is damaged: a list of {index, message}. Other faults are not looked at.
function Loader:damaged()
  local order, list = order_of(self, 0), {}
  local at, status = first_failing(self, order, 0)
  while at do
    if status == C.DLV3_ERR_INTERRUPTED then F.check(status) end
    if status == C.DLV3_ERR_DAMAGED then list[#list + 1] = {at + 1, F.last_error():match '^[^\n]*'} end
    at, status = first_failing(self, order, at + 1)
  end
  return list
end

-- A loader of a data set, for batch in loader:epoch(e) do. Options: batch_size = 4, workers = the cores (at most 8), shuffle
-- (default: as train), drop_last = false, seed = 0, train = false (true: random resize, flip and crop), base_size = 520,
-- crop_size = 480, scale = {0.5, 2}, flip = 0.5, mean, std, num_classes = 0 (labels are checked to be below it; 0: any),
-- ignore_index = 255, precision = 'f32', ahead = 2 (batches kept ready).
function M.new(set, given)
  check_set(set)
  local o = with_defaults(given)
  local self = {set = set, options = o, samples = set.size}
  local config = make_config(o)
  if o.drop_last then
    self.samples = set.size - set.size % o.batch_size
    if self.samples == 0 then
      raise(('data.loader: drop_last leaves no batch: the data set has %d samples, a batch %d'):format(set.size, o.batch_size))
    end
  end
  self.count = math.ceil(self.samples / o.batch_size)
  if not set.get then check_files(set) end
  local pointer = F.new 'dlv3_loader *[1]'
  F.check(C.dlv3_loader_new(pointer, config, set.size))
  self.pointer = F.gc(pointer[0], C.dlv3_loader_free)
  -- a proxy, because # asks only userdata for its length
  local proxy = newproxy(true)
  local meta, methods = getmetatable(proxy), {dataset = set, options = o, samples = self.samples}
  for name, method in pairs(Loader) do methods[name] = function(_, ...) return method(self, ...) end end
  meta.__index = methods
  meta.__call = function() raise 'data.loader: a loader is no iterator: for batch in loader:epoch(e) do' end
  meta.__len = function() return self.count end
  meta.__tostring = function() return ('data.loader: %d samples, %d batches of %d'):format(self.samples, self.count, o.batch_size) end
  return proxy
end

return M
