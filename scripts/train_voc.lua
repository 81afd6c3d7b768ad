-- train_voc.lua - trains DeepLabV3 on data in PASCAL VOC's layout: the reference's recipe, to read
-- and change.

local dlv3 = require 'dlv3'
local models = require 'models'
local optim = require 'dlv3.optim'
local data = require 'dlv3.data'
local train = require 'dlv3.train'
local run_folder = require 'dlv3.train.run_folder'
local setup = require 'dlv3.train.setup'
local training = require 'dlv3.train.run'

-- -- Options --------------------------------------------------------------------------------------

local opt, given, resumed = setup.parse({
  doc = 'Trains DeepLabV3 on data in PASCAL VOC layout and evaluates it after every epoch.',
  'data and model',
  {'data-path', 'data', data.voc_doc, value = 'DIR'},
  {'year', '2012', 'the folder VOCdevkit/VOC<year>'},
  {'model', 'deeplabv3_resnet50', 'architecture', choices = models.architectures},
  {'num-classes', 20, 'classes, without the background', min = 1, max = 255},
  {'aux', true, 'train the auxiliary head too (loss weight 0.5, 10 times the learning rate)'},
  {'weights', nil, 'start from these weights (a .pth or .safetensors; what fits is taken)', value = 'FILE'},
  {'weights-key', nil, train.weights_key_doc, value = 'NAME'},
  {'weights-backbone', nil, 'start the backbone from an ImageNet classifier', value = 'FILE'},
  {'base-size', 520, 'photos are resized to 0.5 .. 2 times this (shorter side); evaluation to it', min = 8},
  {'crop-size', 480, 'training crop, height and width', min = 8},
  train.skip_damaged_option,
  'training',
  {'device', 'auto', 'device to train on: cpu, cuda, cuda:1; auto: a GPU where there is one'},
  {'batch-size', 4, 'crops a step', short = 'b', min = 1},
  {'epochs', 30, 'passes over the training list', min = 1},
  {'lr', 1e-4, 'learning rate, warmed up for an epoch, then falling as (1 - done)^0.9', type = 'number', min = 0},
  {'momentum', 0.9, 'of SGD', type = 'number', min = 0},
  {'weight-decay', 1e-4, 'L2 penalty on every parameter', alias = 'wd', type = 'number', min = 0},
  {'bn-momentum', 0, "weight of a new batch in the running statistics (0: the model's own; MobileNetV3's .01 needs "
                     .. 'some hundred steps)', type = 'number', min = 0, max = 1},
  {'checkpoint-activations', false, 'keep less for backward and make it again there: less memory, more time'},
  {'precision', 'f32', 'of the activations; f16 comes with a loss scale and is for GPUs, slow on a CPU',
   choices = train.precisions},
  {'tf32', dlv3.allow_tf32(), 'let f32 convolutions on a GPU round their inputs to TF32, as PyTorch does'},
  {'compile', true, 'record a step once and replay it: quicker, with less memory, the same bits'},
  {'seed', 0, 'of initial weights, order, crops and dropout', min = 0},
  {'workers', 2, 'threads that prepare batches', short = 'j', min = 1},
  {'max-steps', 0, 'stop after so many steps in all (0: no limit)', min = 0},
  'output',
  {'output-dir', 'out', 'folder for checkpoints, results and curves; out_2, ... where out holds a run and no other '
                        .. 'is given', value = 'DIR'},
  {'overwrite', false, 'replace the run that the folder holds'},
  {'print-freq', 10, 'steps between log lines', min = 1},
  {'save-every', 0, 'steps between saves within an epoch (0: at its end only)', min = 0},
  {'resume', nil, 'go on with this checkpoint, with its options where none are given', value = 'FILE'},
  {'start-epoch', 0, 'first epoch, counted from 0', min = 0},
  {'quiet', false, 'no progress line'},
}, arg)

-- -- Data, model, optimiser -----------------------------------------------------------------------

local classes = opt.num_classes + 1
local train_set, val_set = setup.data_sets(opt)
local loader = data.loader(train_set, {
  train = true, batch_size = opt.batch_size, base_size = opt.base_size, crop_size = opt.crop_size, seed = opt.seed,
  drop_last = train_set.size % opt.batch_size == 1, -- batch norm can not train on a last batch of one
  num_classes = classes, workers = opt.workers, precision = opt.precision,
})
local val_loader = data.loader(val_set, {
  batch_size = 1, base_size = opt.base_size, num_classes = classes, workers = opt.workers, precision = opt.precision,
})

dlv3.manual_seed(opt.seed)
local model = models[opt.model]{num_classes = classes, aux = opt.aux}
setup.load_weights(model, opt, resumed)
local folder = run_folder.claim(opt, given)
dlv3.allow_tf32(opt.tf32)
model:to(opt.device)
if opt.checkpoint_activations then model:checkpoint_activations() end
if opt.bn_momentum > 0 then
  model:apply(function(module)
    if module.class_name == 'BatchNorm2d' then module.momentum = opt.bn_momentum end
  end)
end

local groups = {{params = model.backbone:parameters()}, {params = model.classifier:parameters()}}
if opt.aux then groups[3] = {params = model.aux_classifier:parameters(), lr = opt.lr * 10} end
local sgd = optim.SGD(groups, {lr = opt.lr, momentum = opt.momentum, weight_decay = opt.weight_decay})
local scaler = opt.precision == 'f16' and optim.LossScaler{device = opt.device} or nil
local schedule = optim.poly{steps_per_epoch = #loader, epochs = opt.epochs}

-- -- The loop -------------------------------------------------------------------------------------

local function step(image, target)
  local out = model:logits(image)
  local loss = out.out:upsample_cross_entropy(target)
  if out.aux then loss = loss + out.aux:upsample_cross_entropy(target) * 0.5 end
  sgd:zero_grad()
  if scaler then
    scaler:scale(loss):backward()
    scaler:step(sgd)
  else
    loss:backward()
    sgd:step()
  end
  return loss
end
if opt.compile then step = dlv3.compile(step) end

local run = training.start{
  opt = opt, given = given, resumed = resumed, folder = folder, model = model, sgd = sgd, scaler = scaler,
  schedule = schedule, loader = loader, val_loader = val_loader,
}
run:train(function()
  for epoch in run:epochs() do
    for batch in run:batches(epoch) do run:step(step, batch) end
    run:finish_epoch(train.evaluate(model, val_loader, classes, {
      device = opt.device, quiet = opt.quiet, log = true, compile = opt.compile,
    }))
  end
end)
