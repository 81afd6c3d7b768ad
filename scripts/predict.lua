-- predict.lua - class maps of photos: a palette PNG for each, at the photo's own size, and an
-- overlay if wanted.

local dlv3 = require 'dlv3'
local system = require 'dlv3.os'
local F = require 'dlv3.core.ffi'
local options = require 'dlv3.cli.options'
local log = require 'dlv3.train.log'
local train = require 'dlv3.train'
local from_file = require 'models.from_file'
local photos_of = require 'dlv3.data.photos'
local voc = require 'dlv3.data.voc'
local image = require 'dlv3.vision.image'
local metrics = require 'dlv3.vision.metrics'

local opt, given = options.parse({
  doc = 'Predicts the classes of photos. Folders are searched for JPEG and PNG files; of damaged ones what can be '
        .. 'decoded is predicted.',
  {'weights', nil, 'checkpoint or bare weights (PyTorch .pth or .safetensors)', value = 'FILE'},
  {'weights-key', nil, train.weights_key_doc, value = 'NAME'},
  {'output-dir', 'predictions', 'folder for the pictures', value = 'DIR'},
  {'overlay', false, 'also paint the classes over the photo, with a legend'},
  {'base-size', 520, 'photos are resized to this shorter side for the network', min = 8},
  {'class-names', nil, 'file with a name a line, background first (without it: class_names.txt of the training data)',
   value = 'FILE'},
  {'precision', 'f32', 'of the activations; f16 is for GPUs, slow on a CPU', choices = train.precisions},
  {'device', 'auto', 'device to run on: cpu, cuda, cuda:1; auto: a GPU where there is one'},
  {'tf32', dlv3.allow_tf32(), 'let f32 convolutions on a GPU round their inputs to TF32, as PyTorch does'},
  {'compile', true, 'record the network once a size and replay it'},
  {'quiet', false, 'no progress line'},
  {'photo', nil, 'photos and folders', positional = true, min = 1},
}, arg)
if not opt.weights then options.fail('--weights FILE must be given', arg) end
-- Lua only calls C here, and compiling it takes longer than it saves; overlays are painted in Lua
if not opt.overlay then jit.off() end

local function names_of(classes, args)
  if opt.class_names then
    return metrics.class_names({class_names = voc.read_names(opt.class_names), class_names_path = opt.class_names},
                               classes)
  end
  local own, path
  if type(args.data_path) == 'string' then own, path = voc.names_of(args.data_path, args.year or '2012') end
  return metrics.class_names({class_names = own, class_names_path = path}, classes)
end

-- The size for the network: the shorter side as it was trained, the longer one at most 8 times
-- that: a strip of a few pixels would become a picture of gigabytes.
local function network_size(photo)
  local h, w = photo:size(2), photo:size(3)
  local scale = math.min(opt.base_size / math.min(h, w), 8 * opt.base_size / math.max(h, w))
  if scale * math.min(h, w) >= opt.base_size then return opt.base_size end
  return {math.max(1, math.floor(h * scale)), math.max(1, math.floor(w * scale))}
end

local model, args, classes, name = from_file.load(opt.weights, given, opt.weights_key)
dlv3.allow_tf32(opt.tf32)
model:to(opt.device):eval():fuse()
if args.base_size and not given.base_size then opt.base_size = args.base_size end
F.memory_advice = ('a --base-size below %d needs less memory, for coarser class maps'):format(opt.base_size)
local names, note = names_of(classes, args)
if note then print(note) end
local overlay = opt.overlay and require 'dlv3.vision.overlay'
local photos, empty, others = photos_of.find(opt.photo)
for _, line in ipairs(others) do print(F.printable(line)) end
if #photos == 0 then F.raise('no JPEG or PNG files in ' .. table.concat(opt.photo, ', ')) end
system.make_directory(opt.output_dir)
-- before a minute is spent on what can not be written
local probe, reason = io.open(opt.output_dir .. '/.dlv3_probe', 'w')
if not probe then F.raise('no picture can be written: ' .. reason) end
probe:close()
os.remove(opt.output_dir .. '/.dlv3_probe')
local palette = image.voc_palette()

local function scores_of(x) return dlv3.no_grad(function() return model:logits(x, {aux = false}).out end) end
if opt.compile then scores_of = dlv3.compile(scores_of) end

local inputs = {opt.weights, opt.class_names}
for _, path in ipairs(photos) do inputs[#inputs + 1] = path end
local pictures = photos_of.names(opt.output_dir, inputs)

local progress = log.progress{label = 'predict', total = #photos, unit = 'photos', quiet = opt.quiet}

local function write(path, picture, colors)
  image.write_png(path, picture, colors)
  pictures:written(path)
end

local function complain(message)
  progress:done()
  io.stderr:write('dlv3: ', F.printable(message), '\n')
end

local damaged, dark_is_said = 0, false

local function read(path)
  local photo, info = image.read_with_info(path, {tolerant = true})
  if info.damage then
    damaged = damaged + 1
    complain(('warning: %s: %s; what could be decoded of it is predicted'):format(path, info.damage))
  end
  local dark = not dark_is_said and image.too_dark(photo, info)
  if dark then
    dark_is_said = true
    complain(('warning: %s: %s (said once)'):format(path, dark))
  end
  return photo
end

local function predict(path)
  local photo = read(path)
  local x = image.normalize(image.resize(photo, network_size(photo)), {dtype = opt.precision}):to(opt.device)
  local mask = scores_of(x):upsample_argmax{size = {photo:size(2), photo:size(3)}}[1]:to('cpu')
  local stem, why_renamed = pictures:of(path)
  if why_renamed then
    progress:done()
    print(F.printable(('%s: its picture is %s.png, %s'):format(path, stem, why_renamed)))
  end
  write(stem .. '.png', mask, palette)
  if overlay then write(stem .. '_overlay.png', overlay.draw(photo, mask, names)) end
end

local begin, failed = dlv3.now(), 0
for _, path in ipairs(empty) do
  complain(path .. ': no JPEG or PNG files in this folder (folders within it are not searched)')
end
for _, path in ipairs(photos) do
  local ok, message = pcall(dlv3.scope, predict, path)
  if not ok then
    failed = failed + 1
    complain(F.without_place(message))
  end
  progress:step(path:match '[^/]+$')
end
progress:done()
local seconds = dlv3.now() - begin
print(('%s: %d photos in %.1f s, %.2f photos/s, to %s/%s'):format(name, #photos - failed, seconds,
    (#photos - failed) / seconds, opt.output_dir,
      (failed > 0 and ('; %d failed'):format(failed) or '')
          .. (damaged > 0 and ('; %d damaged'):format(damaged) or '')))
os.exit(failed + #empty == 0 and 0 or 1)
