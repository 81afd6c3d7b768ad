-- predict.lua - class maps of photos: a palette PNG for each, at the photo's own size, and an overlay if wanted.

local dlv3 = require 'dlv3'
local F = require 'dlv3.ffi'
local options = require 'dlv3.options'
local log = require 'dlv3.log'
local train = require 'dlv3.train'
local voc = require 'dlv3.data.voc'
local image = require 'dlv3.vision.image'
local metrics = require 'dlv3.vision.metrics'

local opt, given = options.parse({
  doc = 'Predicts the classes of photos. Folders are searched for JPEG and PNG files.',
  {'weights', nil, 'checkpoint or bare weights (PyTorch .pth or .safetensors)', value = 'FILE'},
  {'output-dir', 'predictions', 'folder for the pictures', value = 'DIR'},
  {'overlay', false, 'also paint the classes over the photo, with a legend'},
  {'base-size', 520, 'photos are resized to this shorter side for the network', min = 8},
  {'class-names', nil, 'file with a name a line, background first (without it: class_names.txt of the training data)', value = 'FILE'},
  {'precision', 'f32', 'of the activations; f16 is for GPUs, slow on a CPU', choices = train.precisions},
  {'device', 'auto', 'device to run on: cpu, cuda, cuda:1; auto: a GPU where there is one'},
  {'tf32', dlv3.allow_tf32(), 'let f32 convolutions on a GPU round their inputs to TF32, as PyTorch does'},
  {'compile', true, 'record the network once a size and replay it'},
  {'quiet', false, 'no progress line'},
  {'photo', nil, 'photos and folders', positional = true, min = 1},
}, arg)
if not opt.weights then options.fail('--weights FILE must be given', arg) end
if not opt.overlay then jit.off() end -- Lua only calls C here, and compiling it takes longer than it saves; overlays are painted in Lua

-- "2 folders, 3 .webp, 1 .tif" from counts by kind.
local function counts_text(counts)
  local parts = {}
  for kind, n in pairs(counts) do parts[#parts + 1] = ('%d %s%s'):format(n, kind, kind == 'folder' and n > 1 and 's' or '') end
  table.sort(parts)
  return table.concat(parts, ', ')
end

-- The files to predict: photos as named, those of folders in order of their names. Second: folders without any. Third: what else is
-- in the folders, a text each.
local function photos_of(list)
  local photos, empty, others = {}, {}, {}
  for _, path in ipairs(list) do
    if F.C.dlv3_path_kind(path) == 2 then
      local names = F.new 'char *[1]'
      F.check(F.C.dlv3_list_dir(names, path))
      local text, before, left_out = F.string(names[0]), #photos, {}
      F.C.dlv3_text_free(names[0])
      for name in text:gmatch '[^\n]+' do
        local file, extension = path:gsub('/+$', '') .. '/' .. name, (name:match '%.(%w+)$' or ''):lower()
        local kind = F.C.dlv3_path_kind(file) == 2 and 'folder' or extension == '' and 'without extension' or '.' .. extension
        if kind == '.jpg' or kind == '.jpeg' or kind == '.png' then photos[#photos + 1] = file
        else left_out[kind] = (left_out[kind] or 0) + 1 end
      end
      if next(left_out) then others[#others + 1] = ('%s: left out: %s (JPEG and PNG files are read, folders within a folder are not searched)'):format(path, counts_text(left_out)) end
      if #photos == before then empty[#empty + 1] = path end
    else
      photos[#photos + 1] = path
    end
  end
  return photos, empty, others
end

-- A path from the root on, without . and .. in it.
local function whole_path(path)
  local parts = {}
  for part in (path:sub(1, 1) == '/' and path or (os.getenv 'PWD' or '') .. '/' .. path):gmatch '[^/]+' do
    if part == '..' then parts[#parts] = nil elseif part ~= '.' then parts[#parts + 1] = part end
  end
  return '/' .. table.concat(parts, '/')
end

-- Where the pictures of a photo go: its name in the output folder, with a number (second) above 1 where another photo has that name,
-- and never onto a photo itself. taken: the paths of photos and pictures.
local function target_of(path, taken)
  local folder, name, n = whole_path(opt.output_dir) .. '/', path:match '([^/]+)%.%w+$' or path:match '[^/]+$', 1
  local stem = name
  while taken[folder .. stem .. '.png'] or taken[folder .. stem .. '_overlay.png'] do
    n = n + 1
    stem = name .. '_' .. n
  end
  taken[folder .. stem .. '.png'], taken[folder .. stem .. '_overlay.png'] = true, true
  return opt.output_dir .. '/' .. stem, n
end

local function names_of(classes, args)
  if opt.class_names then
    local names = voc.read_names(opt.class_names)
    if #names ~= classes then F.raise(('%s has %d names, the model %d classes (with the background)'):format(opt.class_names, #names, classes)) end
    return names
  end
  local trained_on = type(args.data_path) == 'string' and {class_names = voc.names_of(args.data_path, args.year or '2012')}
  return metrics.class_names(trained_on, classes)
end

-- The size for the network: the shorter side as it was trained, the longer one at most 8 times that: a strip of a few
-- pixels would become a picture of gigabytes.
local function network_size(photo)
  local h, w = photo:size(2), photo:size(3)
  local scale = math.min(opt.base_size / math.min(h, w), 8 * opt.base_size / math.max(h, w))
  if scale * math.min(h, w) >= opt.base_size then return opt.base_size end
  return {math.max(1, math.floor(h * scale)), math.max(1, math.floor(w * scale))}
end

local model, args, classes, name = train.model_from(opt.weights)
dlv3.allow_tf32(opt.tf32)
model:to(opt.device):eval():fuse()
if args.base_size and not given.base_size then opt.base_size = args.base_size end
local names = names_of(classes, args)
local overlay = opt.overlay and require 'dlv3.vision.overlay'
local photos, empty, others = photos_of(opt.photo)
for _, line in ipairs(others) do print(line) end
if #photos == 0 then F.raise('no JPEG or PNG files in ' .. table.concat(opt.photo, ', ')) end
F.check(F.C.dlv3_make_dir(opt.output_dir))
local probe, reason = io.open(opt.output_dir .. '/.dlv3_probe', 'w') -- before a minute is spent on what can not be written
if not probe then F.raise('no picture can be written: ' .. reason) end
probe:close()
os.remove(opt.output_dir .. '/.dlv3_probe')
local palette = image.voc_palette()

local function scores_of(x) return dlv3.no_grad(function() return model:logits(x, {aux = false}).out end) end
if opt.compile then scores_of = dlv3.compile(scores_of) end

local taken = {}
for _, path in ipairs(photos) do taken[whole_path(path)] = true end

local progress = log.progress{label = 'predict', total = #photos, unit = 'photos', quiet = opt.quiet}

local function predict(path)
  local photo = image.read(path)
  local x = image.normalize(image.resize(photo, network_size(photo)), {dtype = opt.precision}):to(opt.device)
  local mask = scores_of(x):upsample_argmax{size = {photo:size(2), photo:size(3)}}[1]:to('cpu')
  local stem, number = target_of(path, taken)
  if number > 1 then
    progress:done()
    print(('%s: its picture is %s.png, another has the name'):format(path, stem))
  end
  image.write_png(stem .. '.png', mask, palette)
  if overlay then image.write_png(stem .. '_overlay.png', overlay.draw(photo, mask, names)) end
end
local function complain(message)
  progress:done()
  io.stderr:write('dlv3: ', message, '\n')
end

local begin, failed = dlv3.now(), 0
for _, path in ipairs(empty) do complain(path .. ': no JPEG or PNG files in this folder (folders within it are not searched)') end
for _, path in ipairs(photos) do
  local ok, message = pcall(dlv3.scope, predict, path)
  if not ok then
    failed = failed + 1
    complain((tostring(message):gsub('^[^ ]*predict%.lua:%d+: ', '')))
  end
  progress:step(path:match '[^/]+$')
end
progress:done()
local seconds = dlv3.now() - begin
print(('%s: %d photos in %.1f s, %.2f photos/s, to %s/%s'):format(name, #photos - failed, seconds, (#photos - failed) / seconds, opt.output_dir,
      failed > 0 and ('; %d failed'):format(failed) or ''))
os.exit(failed + #empty == 0 and 0 or 1)
