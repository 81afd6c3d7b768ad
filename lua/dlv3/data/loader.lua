-- loader.lua - batches of a data set, made by the worker threads of runtime/images/loader.c.
--
--   local loader = data.loader(data.voc{root = 'data', split = 'train'}, {batch_size = 4, train = true, seed = 1})
--   for batch in loader:epoch(0) do ... batch.image [n,3,h,w], batch.target u8 [n,h,w], batch.indices ... end
--   #loader, loader:batches()             batches an epoch
--   loader:epoch(e, {skip = 10})          starts after 10 batches, with the same ones as in the whole epoch
--   loader:close()                        ends the threads now; otherwise they end when the loader is collected
--
-- The content of a batch depends on seed, epoch and the data set alone, not on the number of
-- workers nor on what ran before.

local F = require 'dlv3.core.ffi'
local expect = require 'dlv3.core.expect'
local image = require 'dlv3.vision.image'
local C, raise, is_tensor = F.C, F.raise, F.is_tensor

local M = {}

local spec = {
  batch_size = {4, expect.whole(1, 2 ^ 31 - 1)},
  workers = expect.optional(expect.whole(1, 2 ^ 31 - 1)), -- threads; nil: the cores, at most 8
  shuffle = expect.optional(expect.flag), -- nil: as train
  drop_last = false, -- leave out a last batch that is not full
  seed = {0, expect.whole(0)},
  train = false, -- random resize, flip and crop; false: the shorter side is resized to base_size
  base_size = {520, expect.whole(0, 2 ^ 31 - 1)}, -- 0 without train: the image's own size
  crop_size = {480, expect.whole(1, 2 ^ 31 - 1)},
  -- train: the shorter side is drawn from base_size times these
  scale = {{0.5, 2.0}, expect.list_of(expect.number(), 2)},
  flip = {0.5, expect.number(0, 1)}, -- train: the probability of a mirrored sample
  mean = {image.mean, expect.list_of(expect.number(), 3)},
  std = {image.std, expect.list_of(expect.number(), 3)},
  -- labels are checked to be below it (it counts the background); 0: any
  num_classes = {0, expect.whole(0, 2 ^ 31 - 1)},
  ignore_index = {255, expect.whole(0, 2 ^ 31 - 1)},
  precision = {'f32', expect.one_of{'f32', 'bf16', 'f16'}}, -- dtype of batch.image
  ahead = {2, expect.whole(1, 2 ^ 31 - 1)}, -- batches kept ready
}

local function options_of(given)
  local o = expect.options('data.loader', spec, given)
  if o.shuffle == nil then o.shuffle = o.train end
  o.workers = o.workers or math.max(1, math.min(8, C.dlv3_num_threads()))
  if o.train then expect.argument('data.loader', 'base_size', o.base_size, expect.whole(1)) end
  return o
end

local function config_of(o)
  local c = F.new 'dlv3_loader_config'
  c.train = o.train and 1 or 0
  c.resize_min, c.resize_max = o.base_size, o.base_size
  if o.train then
    c.resize_min = math.max(1, math.floor(o.scale[1] * o.base_size))
    c.resize_max = math.floor(o.scale[2] * o.base_size)
  end
  c.crop, c.flip = o.crop_size, o.flip
  c.mean, c.std = image.triple('data.loader: mean', o.mean), image.triple('data.loader: std', o.std)
  c.num_classes, c.ignore_index = o.num_classes, o.ignore_index
  c.dtype = F.dtype_id[o.precision]
  c.workers, c.ahead, c.seed = o.workers, o.ahead, o.seed
  return c
end

-- Of a data set of files either all samples have a mask, or none. The paths are not kept: those of
-- a million samples would take more memory than everything else.
local function check_files(set)
  local masks
  for i = 1, set.size do
    local photo, mask = set.files(i)
    if type(photo) ~= 'string' or mask ~= nil and type(mask) ~= 'string' then
      raise(('data.loader: files(%d): expected the path of an image and of a mask (or nil), got %s and %s'):format(
            i, expect.shown(photo), expect.shown(mask)))
    end
    if masks == nil then masks = mask ~= nil end
    if masks ~= (mask ~= nil) then
      local this, others = mask and 'a mask' or 'no mask', mask and 'none' or 'one'
      raise(('data.loader: files(%d) has %s, those before have %s'):format(i, this, others))
    end
  end
end

local function check_set(set)
  if type(set) ~= 'table' then
    raise('data.loader: expected a data set (a table, as data.voc returns), got ' .. expect.shown(set))
  end
  expect.argument('data.loader', "the data set's size", set.size, expect.whole(1))
  if type(set.files) ~= 'function' and type(set.get) ~= 'function' then
    raise('data.loader: the data set has neither files(i), which returns paths, nor get(i), which returns an image '
          .. 'and a mask: add one')
  end
end

-- -- The loader -----------------------------------------------------------------------------------

local Loader = {}

-- The number of batches of an epoch.
function Loader:batches() return self.count end

-- Ends the worker threads. The loader can not be used any more.
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
  if self.options.shuffle then
    C.dlv3_permutation(order, n, self.options.seed, epoch * 256 + 2) -- + 1 is the transforms'
  else
    for i = 0, n - 1 do order[i] = i end
  end
  return order
end

-- What get(i) returned as loader.c takes it: a tensor or a path, the other NULL.
local function tensor_or_path(v, i, what)
  if v == nil then return nil, nil end
  if type(v) == 'string' then return nil, v end
  if is_tensor(v) then return v.p, nil end
  raise(('data.loader: get(%d): expected %s as a u8 tensor or a path, got %s'):format(i, what, expect.shown(v)))
end

-- Passes the samples that the workers have room for, from position self.fed on.
local function feed_samples(self, order)
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

-- An iterator over the batches of epoch e (from 0; default: the one after the last): tables {image
-- = [n, 3, h, w], target = u8 [n, h, w] or nil without masks, indices = a list, from 1}.
-- options.skip: batches to pass over.
function Loader:epoch(e, options)
  if not self.pointer then raise('data.loader: this loader is closed: make a new one') end
  e = expect.argument('data.loader', 'epoch', e or self.next_epoch or 0, expect.whole(0))
  local skip = expect.options('data.loader', {skip = {0, expect.whole(0, self.count)}}, options).skip
  local order, batch = order_of(self, e), self.options.batch_size
  local at = skip * batch
  if at > self.samples then at = self.samples end
  F.check(C.dlv3_loader_start(self.pointer, e, order, self.samples, at, batch))
  local mark = {}
  self.running, self.fed, self.next_epoch = mark, at, e + 1
  local out = F.new 'dlv3_tensor *[2]'
  return function()
    if self.running ~= mark then raise('data.loader: another epoch of this loader has begun, or it was closed') end
    feed_samples(self, order)
    F.check(F.retry(C.dlv3_loader_next, self.pointer, out, out + 1))
    if out[0] == nil then return nil end
    -- workers continue while the batch is used; what a get does, an error too, belongs to its batch
    if not self.set.get then feed_samples(self, order) end
    local b = {image = F.wrap(out[0]), target = out[1] ~= nil and F.wrap(out[1]) or nil, indices = {}}
    for i = 1, math.min(batch, self.samples - at) do b.indices[i] = tonumber(order[at + i - 1]) + 1 end
    at = at + batch
    return b
  end
end

-- Reads the samples from position `at` (from 0) on, one a batch: to the end, or to one that fails.
-- Returns the position of that one and its status, or nil.
local function first_failing(self, order, at)
  local out = F.new 'dlv3_tensor *[2]'
  F.check(C.dlv3_loader_start(self.pointer, 0, order, self.samples, at, 1))
  self.fed = at
  while true do
    feed_samples(self, order)
    local status = F.retry(C.dlv3_loader_next, self.pointer, out, out + 1)
    if status ~= C.DLV3_OK then return at, status end
    if out[0] == nil then return nil end
    for i = 0, 1 do if out[i] ~= nil then F.wrap(out[i]):release() end end
    at = at + 1
  end
end

-- The samples whose photo or mask is damaged: a list of {index, message}. Other faults are not
-- checked.
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

-- A loader of a data set, for batch in loader:epoch(e) do. Options: batch_size = 4, workers = the
-- cores (at most 8), shuffle (default: as train), drop_last = false, seed = 0, train = false (true:
-- random resize, flip and crop), base_size = 520, crop_size = 480, scale = {0.5, 2}, flip = 0.5,
-- mean, std, num_classes = 0 (labels are checked to be below it; 0: any), ignore_index = 255,
-- precision = 'f32', ahead = 2 (batches kept ready).
function M.new(set, given)
  check_set(set)
  local o = options_of(given)
  local self = {set = set, options = o, samples = set.size}
  local config = config_of(o)
  if o.drop_last then
    self.samples = set.size - set.size % o.batch_size
    if self.samples == 0 then
      raise(('data.loader: drop_last leaves no batch: the data set has %d samples, a batch %d'):format(
            set.size, o.batch_size))
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
  meta.__call = function() raise 'data.loader: a loader is not an iterator: write for batch in loader:epoch(e) do' end
  meta.__len = function() return self.count end
  meta.__tostring = function()
    return ('data.loader: %d samples, %d batches of %d'):format(self.samples, self.count, o.batch_size)
  end
  return proxy
end

return M
