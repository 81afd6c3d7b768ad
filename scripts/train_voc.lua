-- train_voc.lua - trains DeepLabV3 on data in PASCAL VOC's layout: the reference's recipe, in a loop to read and change.

local dlv3 = require 'dlv3'
local system = require 'dlv3.os'
local F = require 'dlv3.core.ffi'
local models = require 'models'
local optim = require 'dlv3.optim'
local data = require 'dlv3.data'
local look = require 'dlv3.data.look'
local options = require 'dlv3.cli.options'
local checkpoint = require 'dlv3.checkpoint'
local log = require 'dlv3.train.log'
local run_folder = require 'dlv3.train.run_folder'
local training = require 'dlv3.train.run'
local text = require 'dlv3.core.text'
local train = require 'dlv3.train'
local metrics = require 'dlv3.vision.metrics'

local spec = {
  doc = 'Trains DeepLabV3 on data in PASCAL VOC layout and evaluates it after every epoch.',
  'data and model',
  {'data-path', 'data', data.voc_doc, value = 'DIR'},
  {'year', '2012', 'the folder VOCdevkit/VOC<year>'},
  {'model', 'deeplabv3_resnet50', 'architecture', choices = train.model_names},
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
  {'bn-momentum', 0, "weight of a new batch in the running statistics (0: the model's own; MobileNetV3's .01 needs some hundred steps)", type = 'number', min = 0, max = 1},
  {'checkpoint-activations', false, 'keep less for backward and make it again there: less memory, more time'},
  {'precision', 'f32', 'of the activations; f16 comes with a loss scale and is for GPUs, slow on a CPU', choices = train.precisions},
  {'tf32', dlv3.allow_tf32(), 'let f32 convolutions on a GPU round their inputs to TF32, as PyTorch does'},
  {'compile', true, 'record a step once and replay it: quicker, with less memory, the same bits'},
  {'seed', 0, 'of initial weights, order, crops and dropout', min = 0},
  {'workers', 2, 'threads that prepare batches', short = 'j', min = 1},
  {'max-steps', 0, 'stop after so many steps in all (0: no limit)', min = 0},
  'output',
  {'output-dir', 'out', 'folder for checkpoints, results and curves; out_2, ... where out holds a run and no other is given', value = 'DIR'},
  {'overwrite', false, 'replace the run that the folder holds'},
  {'print-freq', 10, 'steps between log lines', min = 1},
  {'save-every', 0, 'steps between saves within an epoch (0: at its end only)', min = 0},
  {'resume', nil, 'go on with this checkpoint, with its options where none are given', value = 'FILE'},
  {'start-epoch', 0, 'first epoch, counted from 0', min = 0},
  {'quiet', false, 'no progress line'},
}
local opt, given = options.parse(spec, arg)

if opt.weights_key and not opt.weights then options.fail('--weights-key says which part of the --weights file to take: give --weights too', arg) end
if opt.resume and (opt.weights or opt.weights_backbone) then options.fail('--resume brings its own weights: leave out --weights and --weights-backbone', arg) end
local resumed = opt.resume and train.load(opt.resume)
if resumed then train.inherit(opt, given, resumed, spec) end
if opt.batch_size == 1 then options.fail('--batch-size 1 can not train: batch norm after the image pooling needs two values a channel; at least 2', arg) end

F.memory_advice = 'a smaller --batch-size or --crop-size, or --checkpoint-activations, needs less memory; '
                  .. 'in the evaluation a smaller --base-size'

-- -- Data, model, optimiser -------------------------------------------------------------------------------------------

local classes = opt.num_classes + 1
local train_set = data.voc{root = opt.data_path, year = opt.year, split = 'train'}
local val_set = data.voc{root = opt.data_path, year = opt.year, split = 'val'}
if opt.skip_damaged then
  train_set = train.skip_damaged(train_set, opt.workers)
  val_set = train.skip_damaged(val_set, opt.workers)
end
local common = {workers = opt.workers, num_classes = classes, base_size = opt.base_size}
local function loader_of(set, own)
  for k, v in pairs(common) do own[k] = v end
  return data.loader(set, own)
end
metrics.class_names(train_set, classes) -- a wrong number of them is an error
look.check(train_set, val_set)
-- A last batch of one can not train: batch norm after the image pooling needs two values a channel.
if train_set.size == 1 then F.raise(train_set.list .. ': a single image can not train: batches of two or more are needed') end
local leftover = train_set.size % opt.batch_size == 1
local loader = loader_of(train_set, {train = true, batch_size = opt.batch_size, crop_size = opt.crop_size, seed = opt.seed, drop_last = leftover, precision = opt.precision})
local val_loader = loader_of(val_set, {train = false, batch_size = 1, shuffle = false, precision = opt.precision})

dlv3.manual_seed(opt.seed)
local model = models[opt.model]{num_classes = classes, aux = opt.aux}
if resumed then train.restore_model(model, resumed, opt.resume)
else
  if opt.weights_backbone then print(checkpoint.load_weights(model, opt.weights_backbone)) end
  if opt.weights then print(checkpoint.load_weights(model, opt.weights, {key = opt.weights_key})) end
end
local origin = opt.resume or opt.weights or opt.weights_backbone
if origin then train.check_finite(model, origin) end
local folder = run_folder.claim(opt, given)
opt.output_dir = folder.path
dlv3.allow_tf32(opt.tf32)
model:to(opt.device)
if opt.checkpoint_activations then model:checkpoint_activations() end
if opt.bn_momentum > 0 then
  model:apply(function(module) if module.class_name == 'BatchNorm2d' then module.momentum = opt.bn_momentum end end)
end

local groups = {{params = model.backbone:parameters()}, {params = model.classifier:parameters()}}
if opt.aux then groups[3] = {params = model.aux_classifier:parameters(), lr = opt.lr * 10} end
local sgd = optim.SGD(groups, {lr = opt.lr, momentum = opt.momentum, weight_decay = opt.weight_decay})
local scaler = opt.precision == 'f16' and optim.LossScaler{device = opt.device} or nil
local schedule = optim.poly{steps_per_epoch = #loader, epochs = opt.epochs}

local state = {epoch = opt.start_epoch, next_epoch = opt.start_epoch, next_step = 0, steps_per_epoch = #loader, loss_sum = 0, best = -1, history = {}}
if resumed then
  train.restore(state, sgd, resumed, opt, given, scaler)
  print(('resumed %s: epoch %d, step %d of %d'):format(opt.resume, state.next_epoch, state.next_step, #loader))
  if state.next_epoch >= opt.epochs then print(('all %d epochs are done: --epochs with more goes on'):format(opt.epochs)) end
end

folder:clear{opt.weights, opt.weights_backbone, opt.resume}
local run = training.new{folder = folder, model = model, sgd = sgd, state = state, opt = opt, scaler = scaler}
local results = log.start_results(folder.path):match '[^/]*$'
log.line(('%s, %d classes, %d parameters; %d training and %d validation images; %d steps of %d an epoch%s'):format(
      opt.model, classes, model:num_parameters(), train_set.size, val_set.size, #loader, opt.batch_size,
      leftover and ' (the last single image is left out)' or ''))
system.catch_signals((system.is_terminal 'stderr' and '\n' or '') .. 'finishing this step, then saving; Ctrl-C again ends without saving\n')

-- -- One step ----------------------------------------------------------------------------------------------------------

local function set_rates(step)
  for _, group in ipairs(sgd.groups) do group.lr = group.initial_lr * schedule(step) end
end

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

local function train_step(batch)
  return dlv3.scope(function() return step(batch.image:to(opt.device), batch.target:to(opt.device)):item_later() end)
end

-- -- The loop ------------------------------------------------------------------------------------------------------------

local begin, total = dlv3.now(), state.next_epoch * #loader + state.next_step
local finished = opt.max_steps > 0 and total >= opt.max_steps
if finished then print(('%d steps are done: --max-steps with more goes on'):format(total)) end

local function train_epoch()
  local epoch = state.next_epoch
  state.epoch = epoch
  model:train()
  local progress = log.progress{label = ('epoch %d'):format(epoch), total = #loader - state.next_step, unit = 'steps', quiet = opt.quiet}
  local logger = log.logger{write = function(line) progress:done() log.line(line) end}
  logger:add('lr', {window = 1, format = '{value:%.6f}'})
  logger:add('loss')
  local batches = loader:epoch(epoch, {skip = state.next_step})
  local read = state.next_step
  run.losses = train.late(opt.device, function(loss)
    read, state.loss_sum = read + 1, state.loss_sum + loss
    logger:update('loss', loss)
    progress:step(('loss %.4f'):format(loss))
    if loss - loss ~= 0 then run:diverged(('the loss is %s at step %d of epoch %d'):format(text.number('%g', loss), read, epoch)) end
  end)
  local function until_finished() return not finished and batches() or nil end
  for batch in logger:every({total = #loader, print_freq = opt.print_freq, header = ('Epoch: [%d]'):format(epoch), first = state.next_step}, until_finished) do
    set_rates(total)
    run.savable = false
    local loss = train_step(batch)
    run.savable = true
    batch.image:release()
    batch.target:release()
    total, state.next_step = total + 1, state.next_step + 1
    set_rates(total)
    logger:update('lr', sgd.groups[1].lr)
    run.losses.put(loss)
    run:stop_on_signal()
    if opt.save_every > 0 and state.next_step % opt.save_every == 0 then run:save 'last.pth' end
    finished = opt.max_steps > 0 and total >= opt.max_steps
  end
  progress:done()
  run:check()

  local figures = train.evaluate(model, val_loader, classes, {device = opt.device, quiet = opt.quiet, log = true, compile = opt.compile})
  if not figures then run:stop_on_signal() end
  if not figures.finite then run:diverged(('nan or infinity in the outputs of the evaluation after step %d of epoch %d'):format(state.next_step, epoch)) end
  local lines, mean_loss = metrics.reference_text(figures), state.loss_sum / math.max(1, state.next_step)
  print(lines)
  if figures.present == 0 then print('no pixel of the validation masks counts: no weights are best')
  elseif figures.present < classes then
    print(('mean IoU of the %d classes that occur: %.1f'):format(figures.present, figures.mean_present))
  end
  log.append_results(folder:file(results), epoch, mean_loss, sgd.groups[1].lr, lines)
  train.note(state.history, {epoch = epoch, loss = mean_loss, miou = figures.mean_present})
  if state.next_step >= #loader then state.next_epoch, state.next_step, state.loss_sum = epoch + 1, 0, 0 end
  local score = figures.mean_present
  if score == score and not (folder.has_best and score <= state.best) then -- the first epoch of a folder is its best
    state.best = score
    run:save 'best.pth' -- before last.pth: killed in between, the epoch is done again
  end
  run:save 'last.pth'
  run:draw_curves()
  run:stop_on_signal()
end

run:guard(function()
  while state.next_epoch < opt.epochs and not finished do train_epoch() end
end)
local weights = folder.has_best and ('; best mean IoU %.1f; weights: %s/best.pth'):format(state.best, folder.path)
print(('training time %s%s'):format(log.duration(dlv3.now() - begin), weights or ''))
