-- validate.lua - the quality of a checkpoint on data in PASCAL VOC's layout.

local dlv3 = require 'dlv3'
local F = require 'dlv3.core.ffi'
local data = require 'dlv3.data'
local options = require 'dlv3.cli.options'
local train = require 'dlv3.train'
local from_file = require 'models.from_file'
local metrics = require 'dlv3.vision.metrics'

local opt, given = options.parse({
  doc = "Evaluates a checkpoint. Model, classes and sizes come from it.",
  {'weights', nil, 'checkpoint or bare weights', value = 'FILE'},
  {'weights-key', nil, train.weights_key_doc, value = 'NAME'},
  {'data-path', 'data', data.voc_doc, value = 'DIR'},
  {'year', '2012', 'the folder VOCdevkit/VOC<year>'},
  {'split', 'val', 'list in ImageSets/Segmentation'},
  {'base-size', 520, 'photos are resized to this shorter side', min = 8},
  {'precision', 'f32', 'of the activations; f16 is for GPUs, slow on a CPU', choices = train.precisions},
  {'device', 'auto', 'device to run on: cpu, cuda, cuda:1; auto: a GPU where there is one'},
  {'tf32', dlv3.allow_tf32(), 'let f32 convolutions on a GPU round their inputs to TF32, as PyTorch does'},
  {'compile', true, 'record the network once a size and replay it'},
  {'workers', 2, 'threads that prepare images', short = 'j', min = 1},
  train.skip_damaged_option,
  {'quiet', false, 'no progress line'},
}, arg)
if not opt.weights then options.fail('--weights FILE must be given', arg) end

local model, args, classes, name = from_file.load(opt.weights, given, opt.weights_key)
dlv3.allow_tf32(opt.tf32)
model:to(opt.device):eval():fuse()
if args.base_size and not given.base_size then opt.base_size = args.base_size end
F.memory_advice = ('a --base-size below %d needs less memory, for other figures'):format(opt.base_size)
local set = data.voc{root = opt.data_path, year = opt.year, split = opt.split}
if opt.skip_damaged then set = train.skip_damaged(set, opt.workers) end
local loader = data.loader(set, {train = false, batch_size = 1, shuffle = false, num_classes = classes,
                                 base_size = opt.base_size,
                                 workers = opt.workers, precision = opt.precision})
print(('%s, %d classes; %d images of %s at %d'):format(name, classes, set.size, set.list, opt.base_size))
local names, note = metrics.class_names(set, classes)
if note then print(note) end
local figures = train.evaluate(model, loader, classes, {device = opt.device, quiet = opt.quiet, compile = opt.compile})
if not figures.finite then
  F.raise(opt.weights .. ': the model gives nan or infinity, and no figure could be trusted: take other weights, '
                         .. 'or --precision f32')
end
print(metrics.reference_text(figures))
io.write('\n', metrics.table_text(figures, names))
print(('mean IoU over the %d classes that occur in the masks: %.1f%s'):format(figures.present, figures.mean_present,
      figures.present < classes and (" (the reference's, over all %d: %s)"):format(classes,
          figures.mean ~= figures.mean and 'nan' or ('%.1f'):format(figures.mean)) or ''))
