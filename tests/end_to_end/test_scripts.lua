-- test_scripts.lua - the scripts as a user runs them, on a small data set drawn for it.

local dlv3 = require 'dlv3'
local system = require 'dlv3.os'

return function(t)
  local binary = require('dlv3.host').executable
  local root = t.directory .. '/..'
  local folder = t.folder()
  local small = ' --model deeplabv3_mobilenet_v3_large --num-classes 4 --no-aux --base-size 66 --crop-size 64 -b 4 '
                .. '--print-freq 1 --quiet '

  local function script(name, arguments)
    return t.run(('%s %s/scripts/%s.lua %s </dev/null'):format(binary, root, name, arguments))
  end

  local function data()
    local path = folder .. '/data'
    if not system.is_directory(path) then
      local output, status = script('make_shapes', '--output-dir ' .. path .. ' --train 16 --val 4')
      t.eq(status, 0, output)
    end
    return path
  end

  local function weights_equal(a, b)
    a, b = dlv3.load(a), dlv3.load(b)
    for name, tensor in dlv3.items(a.model) do t.eq(b.model[name], tensor, name) end
    for index, entry in dlv3.items(a.optimizer.state) do
      t.eq(b.optimizer.state[index].momentum_buffer, entry.momentum_buffer, 'momentum ' .. index)
    end
  end

  t.case('the loss falls; log, results, checkpoints and curves are there', function()
    local out = folder .. '/a'
    local output, status = script('train_voc', small .. '--epochs 3 --lr 0.02 --bn-momentum 0.1 --data-path ' .. data()
                                  .. ' --output-dir ' .. out)
    t.eq(status, 0, output)
    t.ok(output:find('Epoch: %[0%]  %[0/4%]  eta: %d:%d%d:%d%d  lr: %d%.%d%d%d%d%d%d  loss: %d%.%d%d%d%d '
                     .. '%(%d%.%d%d%d%d%)  time: %d+%.%d%d%d%d  data: '), output)
    t.ok(output:find '\nTest:  %[0/4%]  eta: 0:00:00    time: ', output)
    t.ok(output:find '\nmean IoU: [%d%.na]+\n', output) -- nan, as the reference has it, where a class does not occur
    local first, last = output:match 'Epoch: %[0%]  %[3/4%].-loss: %S+ %((%S+)%)',
        output:match 'Epoch: %[2%]  %[3/4%].-loss: %S+ %((%S+)%)'
    t.ok(tonumber(last) < tonumber(first), ('loss %s, then %s'):format(first, last))
    for _, name in ipairs {'last.pth', 'best.pth'} do t.eq(system.kind(out .. '/' .. name), 'file', name) end
    t.ok(t.run('cat ' .. out .. '/results*.txt'):find('^%[epoch: 0%]\ntrain_loss: %d%.%d%d%d%d\nlr: 0%.%d+\nglobal '
                                                      .. 'correct: '))

    -- validate gives the logged figure again, without options; predict makes pictures of the
    -- photos' own size
    local miou = output:match 'best mean IoU (%S+);'
    local report, code = script('validate', '--quiet --data-path ' .. data() .. ' --weights ' .. out .. '/best.pth')
    t.eq(code, 0, report)
    t.eq(report:match 'classes that occur in the masks: (%d+%.%d)', miou)
    local photos = data() .. '/VOCdevkit/VOC2012/JPEGImages'
    local bad = io.open(folder .. '/bad.jpg', 'w')
    bad:write 'no picture'
    bad:close()
    report, code = script('predict', ('--quiet --weights %s/best.pth --output-dir %s/pictures %s %s/bad.jpg'):format(
        out, folder, photos, folder))
    t.eq(code, 1, report)
    t.ok(report:find "bad%.jpg", report)
    t.ok(report:find '20 photos in .* photos/s', report)
    local image = require 'dlv3.vision.image'
    local id = t.run('ls ' .. photos):match '(%S+)%.jpg'
    local photo, mask = image.read(photos .. '/' .. id .. '.jpg'),
        image.read_mask(folder .. '/pictures/' .. id .. '.png')
    t.eq({photo:size(2), photo:size(3)}, mask:size())
    t.ok(mask:max():item() <= 4)

    -- a folder without photos is told; a photo in the output folder is not painted over; a narrow
    -- strip does no harm
    image.write_png(folder .. '/strip.png', dlv3.full({3, 2, 3000}, 100, {dtype = 'u8'}))
    system.make_directory(folder .. '/nothing')
    report, code = script('predict', ('--quiet --weights %s/best.pth --output-dir %s %s/./strip.png %s/nothing'):format(
        out, folder, folder, folder))
    t.eq(code, 1, report)
    t.ok(report:find 'nothing: no JPEG or PNG' and report:find '1 photos in', report)
    t.eq(image.read(folder .. '/strip.png'):max():item(), 100)
    t.eq(image.read_mask(folder .. '/strip_2.png'):size(), {2, 3000})

    -- what is left out, renamed and can not be written
    t.run(('mkdir -p %s/mixed/inner && cd %s/mixed && touch a.webp b.webp c.tif && cp ../strip.png x.png && cp '
           .. '%s/%s.jpg x.jpg'):format(folder, folder, photos, id))
    report, code = script('predict', ('--quiet --weights %s/best.pth --output-dir %s/mixed/inner %s/mixed'):format(
        out, folder, folder))
    t.eq(code, 0, report)
    t.ok(report:find '/mixed: left out: 1 %.tif, 1 folder, 2 %.webp %(JPEG', report)
    t.ok(report:find('/mixed/x.png: its picture is ' .. folder .. '/mixed/inner/x_2.png', 1, true), report)
    report, code = script('predict', ('--quiet --weights %s/best.pth --output-dir /proc/self %s/mixed'):format(
        out, folder))
    t.ok(code == 1 and report:find 'no picture can be written: /proc/self', report)

    -- bare weights: the model and its classes are read off the names
    dlv3.save(folder .. '/bare.pth', dlv3.load(out .. '/best.pth').model)
    report, code = script('predict',
                          ('--quiet --weights %s/bare.pth --base-size 66 --output-dir %s/bare %s/%s.jpg'):format(
        folder, folder, photos, id))
    t.eq(code, 0, report)
    t.eq(image.read_mask(folder .. '/bare/' .. id .. '.png'), mask)
  end)

  -- train_voc with `hook` run before it: what happens at a certain step does not depend on how fast
  -- the machine is.
  local function hooked(hook, arguments)
    local file = assert(io.open(folder .. '/hooked.lua', 'w'))
    file:write(hook, ('\ndofile(%q)\n'):format(root .. '/scripts/train_voc.lua'))
    file:close()
    return t.run(('%s %s/hooked.lua %s </dev/null; exit $?'):format(binary, folder, arguments))
  end

  local resumable = small .. '--epochs 3 --lr 0.02 --save-every 1 --data-path '

  local function whole_run()
    local path = folder .. '/whole/last.pth'
    if not system.is_file(path) then
      local output, status = script('train_voc', resumable .. data() .. ' --output-dir ' .. folder .. '/whole')
      t.eq(status, 0, output)
    end
    return path
  end

  t.case('killed in the middle of an epoch and resumed: the same bits', function()
    -- saves: steps 1 to 4 of epoch 0, the best, its end, step 1 of epoch 1; then it dies
    local output = hooked([[
local train, system, saves = require 'dlv3.train', require 'dlv3.os', 0
local save = train.save
train.save = function(...)
  saves = saves + 1
  if saves == 8 then os.execute(('kill -9 %d'):format(system.process_id())) end
  return save(...)
end]], resumable .. data() .. ' --output-dir ' .. folder .. '/cut')
    local cut = dlv3.load(folder .. '/cut/last.pth')
    t.eq({cut.next_epoch, cut.next_step}, {1, 1}, output)
    local report, status = script('train_voc', '--resume ' .. folder .. '/cut/last.pth --quiet')
    t.eq(status, 0, report)
    weights_equal(whole_run(), folder .. '/cut/last.pth')
    t.eq(#dlv3.load(folder .. '/cut/last.pth').history, 3)
  end)

  t.case('f16 with its loss scale: stopped and resumed, the same bits', function()
    local options = small .. '--epochs 1 --lr 0.02 --precision f16 --data-path ' .. data() .. ' --output-dir ' .. folder
    local output, status = script('train_voc', options .. '/f16')
    t.eq(status, 0, output)
    output, status = script('train_voc', options .. '/f16_cut --max-steps 2 --no-tf32')
    t.eq(status, 0, output)
    local cut = dlv3.load(folder .. '/f16_cut/last.pth')
    t.eq({cut.scaler.growth_factor, cut.scaler.backoff_factor, cut.scaler.growth_interval, cut.args.tf32},
         {2, 0.5, 2000, false})
    output, status = script('train_voc', '--quiet --resume ' .. folder .. '/f16_cut/last.pth')
    t.eq(status, 0, output)
    weights_equal(folder .. '/f16/last.pth', folder .. '/f16_cut/last.pth')
    local whole, again = dlv3.load(folder .. '/f16/last.pth'), dlv3.load(folder .. '/f16_cut/last.pth')
    t.eq(again.scaler, whole.scaler)
    t.ok(whole.scaler.scale >= 1024 and whole.scaler._growth_tracker >= 1, tostring(whole.scaler))
    t.eq(again.args.precision, 'f16')
  end)

  t.case('signals finish the step, save and say how to go on, in an evaluation too', function()
    local out = folder .. '/signals'
    -- os.execute does not hear SIGINT while it waits
    local output, status = hooked([[
local dlv3, system, steps = require 'dlv3', require 'dlv3.os', 0
local scope = dlv3.scope
dlv3.scope = function(...)
  steps = steps + 1
  if steps == 2 then
    os.execute(('(sleep 0.2; kill -INT %d) &'):format(system.process_id()))
    while not system.pending_signal() do end
  end
  return scope(...)
end]], resumable .. data() .. ' --output-dir ' .. out)
    t.eq(status, 130, output)
    t.eq(select(2, output:gsub('finishing this step, then saving; Ctrl%-C again ends without saving\n', '')), 1, output)
    t.ok(output:find 'after step 2 of epoch 0; go on with\n  %S*dlv3 %S+hooked.lua %-%-resume .*/signals/last.pth',
         output)

    output, status = hooked([[
local train, system = require 'dlv3.train', require 'dlv3.os'
local evaluate = train.evaluate
train.evaluate = function(...)
  os.execute(('kill -TERM %d'):format(system.process_id()))
  return evaluate(...)
end]], '--quiet --resume ' .. out .. '/last.pth')
    t.eq(status, 143, output)
    t.ok(output:find 'after step 4 of epoch 0', output)

    output, status = script('train_voc', '--quiet --resume ' .. out .. '/last.pth')
    t.eq(status, 0, output)
    weights_equal(whole_run(), out .. '/last.pth')
  end)

  t.case('an evaluation that fails costs no step, and best.pth is where the last line says', function()
    local out = folder .. '/failed'
    local output, status = hooked("require 'dlv3.train'.evaluate = function() error('a mask is broken', 0) end",
                                  small .. '--epochs 2 --lr 0.02 --data-path ' .. data() .. ' --output-dir ' .. out)
    t.eq(status, 1, output)
    t.ok(output:find 'after step 4 of epoch 0; go on with' and output:find 'dlv3: a mask is broken', output)
    t.eq(system.kind(out .. '/best.pth'), nil)
    output, status = script('train_voc',
                            ('--quiet --resume %s/last.pth --max-steps 4 --output-dir %s/elsewhere'):format(out, out))
    t.eq(status, 0, output)
    t.ok(output:find '4 steps are done: %-%-max%-steps with more' and not output:find 'weights:', output)
    output, status = script('train_voc', ('--quiet --resume %s/last.pth --output-dir %s/elsewhere'):format(out, out))
    t.eq(status, 0, output)
    t.eq(system.kind(output:match 'weights: (%S+)'), 'file')
  end)

  t.case('options of a checkpoint that do not fit are named', function()
    local saved = dlv3.load(whole_run())
    saved.args.epochs = 0
    dlv3.save(folder .. '/odd.pth', saved)
    local output, status = script('train_voc', '--resume ' .. folder .. '/odd.pth')
    t.eq(status, 1)
    t.ok(output:find('odd.pth was saved with options that do not fit: --epochs: expected a whole number from 1, got 0',
                     1, true), output)
  end)

  t.case('resuming with other options', function()
    local out = folder .. '/other'
    local output, status = script('train_voc', small .. '--epochs 2 --max-steps 2 --data-path ' .. data()
                                  .. ' --output-dir ' .. out)
    t.eq(status, 0, output)
    local resume = '--quiet --resume ' .. out .. '/last.pth '
    output, status = script('train_voc', resume .. '-b 2')
    t.eq(status, 1)
    t.ok(output:find 'an epoch of 4 steps, an epoch has 8 now', output)
    output, status = script('train_voc', resume .. '--weights x.pth')
    t.eq(status, 2, output)
    output, status = script('train_voc', resume .. '--lr 0.5 --max-steps 3 --print-freq 1')
    t.eq(status, 0, output)
    t.ok(output:find '%[2/4%]  eta: %S+  lr: 0%.375', output) -- warming up: 3 of 4 steps, times .5
    output, status = script('train_voc', resume .. '--epochs 1')
    t.eq(status, 0, output)
    output, status = script('train_voc', resume .. '--epochs 1')
    t.ok(status == 0 and output:find 'all 1 epochs are done', output)
  end)

  t.case('PyTorch reads the checkpoint', function()
    local checkpoint, python, major = whole_run(), nil, nil
    for _, candidate in ipairs {'/usr/bin/python3', 'python3'} do
      local output, status = t.run(candidate .. ' -c "import torch; print(torch.__version__)"')
      if status == 0 then
        python, major = candidate, tonumber(output:match '%d+')
        break
      end
    end
    if not python then t.skip 'no PyTorch' end
    -- PyTorch 1's weights_only knows no floating-point numbers: it refuses its own optimisers'
    -- states too
    local output, status = t.run(([=[%s -c "
import torch
c = torch.load('%s'%s)
p = [torch.nn.Parameter(torch.zeros_like(v)) for k, v in c['model'].items()
     if 'running' not in k and 'num_batches' not in k]
n = len(c['optimizer']['param_groups'][0]['params'])
o = torch.optim.SGD([{'params': p[:n]}, {'params': p[n:]}], lr=1, momentum=0.9)
o.load_state_dict(c['optimizer'])
torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1).load_state_dict(c['lr_scheduler'])
print(sorted(c)[:3], type(c['args']).__name__, c['args']['num_classes'], c['epoch'],
      c['lr_scheduler']['last_epoch'], o.state[p[-1]]['momentum_buffer'].shape)
"]=]):format(python, checkpoint, major >= 2 and ', weights_only=True' or ''))
    t.eq(status, 0, output)
    t.ok(output:find "%['args', 'best', 'epoch'%] dict 4 2 12 torch%.Size%(%[5%]%)", output)
  end)

  t.case('what a user reads who mistypes', function()
    local output, status = script('train_voc', '--epcohs 3')
    t.eq(status, 2)
    t.ok(output:find '%-%-epcohs' and output:find '%-%-epochs', output)
    output, status = script('train_voc', '--data-path /nowhere')
    t.eq(status, 1)
    t.ok(output:find '/nowhere', output)
    output, status = script('train_voc', '-b 1')
    t.ok(status == 2 and output:find 'two values a channel', output)
    output, status = script('train_voc', '--num-classes 300')
    t.ok(status == 2 and output:find '%-%-num%-classes: expected a whole number from 1 to 255, got 300', output)
    output, status = script('validate', '--data-path ' .. data())
    t.eq(status, 2)
    t.ok(output:find('--weights', 1, true), output)
    output, status = script('predict', '--weights /nowhere.pth x.jpg')
    t.eq(status, 1)
    t.ok(output:find '/nowhere%.pth', output)
    local unnamed = folder .. '/unnamed'
    t.run(('cp -r %s %s; rm %s/VOCdevkit/VOC2012/class_names.txt'):format(data(), unnamed, unnamed))
    output, status = script('train_voc', small .. '--num-classes 2 --epochs 1 --data-path ' .. unnamed
                            .. ' --output-dir ' .. folder .. '/wrong')
    t.eq(status, 1)
    t.ok(output:find 'SegmentationClass/%S+%.png' and output:find 'label', output)
    for _, name in ipairs {'train_voc', 'validate', 'predict', 'plot_lr', 'check_data', 'make_shapes', 'bench'} do
      output, status = script(name, '--help')
      t.eq(status, 0, name .. ' --help')
      t.ok(output:find 'usage', name .. ' --help: ' .. output)
    end
  end)

  t.case('learning rates as a picture, from a user\'s own file too', function()
    if not pcall(require, 'dlv3.vision.cairo') then t.skip 'no libcairo2' end
    local own = assert(io.open(folder .. '/own.lua', 'w'))
    own:write 'return function(step) return 0.5 ^ (step / 100) end'
    own:close()
    for _, name in ipairs {'poly', folder .. '/own.lua'} do
      local output, status = script('plot_lr', ('--schedule %s --output %s/lr.png --epochs 3'):format(name, folder))
      t.eq(status, 0, output)
      t.eq(require('dlv3.vision.image').read(folder .. '/lr.png'):size(), {3, 480, 800})
    end
    own = assert(io.open(folder .. '/own.lua', 'w'))
    own:write 'return function(step) return step < 5 and 1 or nil end'
    own:close()
    local output, status = script('plot_lr', '--schedule ' .. folder .. '/own.lua')
    t.eq(status, 1)
    t.ok(output:find 'own.lua: gives no number but nothing at step 5', output)
    output, status = script('plot_lr', '--schedule ploy')
    t.eq(status, 2)
    t.ok(output:find 'poly', output)
  end)

  t.case('weights that do not make a whole model give no picture and no figure', function()
    local models, dict = require 'models', require 'dlv3.core.dict'
    local weights, path = dict.new(), folder .. '/part.pth'
    for name, tensor in dict.items(models.deeplabv3_mobilenet_v3_large{num_classes = 5}:state_dict()) do
      if name ~= 'classifier.0.project.0.weight' then weights[name] = tensor end
    end
    dlv3.save(path, weights)
    for _, command in ipairs {{'predict', data() .. '/VOCdevkit/VOC2012/JPEGImages --output-dir ' .. folder .. '/p'},
                              {'validate', '--data-path ' .. data()}} do
      local output, status = script(command[1], '--weights ' .. path .. ' ' .. command[2])
      t.eq(status, 1)
      t.ok(output:find('part.pth: not the weights of a whole deeplabv3_mobilenet_v3_large', 1, true), output)
      t.ok(output:find('classifier.0.project.0.weight', 1, true), output)
    end
  end)

  t.case('weights that are not numbers, and masks without a class, are told', function()
    local models, dict = require 'models', require 'dlv3.core.dict'
    local weights, path = dict.new(), folder .. '/nan.pth'
    for name, tensor in dict.items(models.deeplabv3_mobilenet_v3_large{num_classes = 2, aux = false}:state_dict()) do
      weights[name] = tensor:clone()
    end
    weights['classifier.4.bias'][1] = 3e38 -- a large number is one
    weights['classifier.4.bias'][2] = 3e38
    dlv3.save(path, weights)
    local masks = folder .. '/binary'
    t.run(('cp -r %s %s; rm %s/VOCdevkit/VOC2012/class_names.txt'):format(data(), masks, masks))
    local image, mask = require 'dlv3.vision.image', dlv3.zeros({48, 64}, {dtype = 'u8'})
    local photo = dlv3.full({3, 48, 64}, 100, {dtype = 'u8'})
    mask[9] = 255
    for name in t.run('ls ' .. masks .. '/VOCdevkit/VOC2012/SegmentationClass'):gmatch '(%S+)%.png' do
      image.write_png(masks .. '/VOCdevkit/VOC2012/SegmentationClass/' .. name .. '.png', mask)
      image.write_jpeg(masks .. '/VOCdevkit/VOC2012/JPEGImages/' .. name .. '.jpg', photo)
    end
    local train = small .. ' --num-classes 1 --lr 0 --epochs 2 --data-path ' .. masks .. ' --output-dir ' .. masks
        .. ' --weights ' .. path
    local output, status = script('train_voc', train)
    t.eq(status, 0, output)
    t.eq(select(2, output:gsub('warning: the masks of %S+val.txt hold no class but the background', '')), 1, output)

    weights['backbone.0.0.weight'][1] = 0 / 0
    weights['classifier.4.bias'][2] = 1 / 0
    dlv3.save(path, weights)
    for _, command in ipairs {{'train_voc', train}, {'validate', '--data-path ' .. masks .. ' --weights ' .. path},
                              {'predict', masks .. ' --weights ' .. path}} do
      output, status = script(command[1], command[2])
      t.eq(status, 1, output)
      t.ok(output:find('nan.pth: nan or infinity in 2 of its tensors (backbone.0.0.weight, classifier.4.bias); ', 1,
                       true), output)
    end
  end)

  t.case('the rates of the ASPP and the year of the data come from where they are given', function()
    local models, from_file = require 'models', require 'models.from_file'
    local path = folder .. '/rates.pth'
    local model = models.deeplabv3_mobilenet_v3_large{num_classes = 5, atrous_rates = {1, 2, 3}}
    dlv3.save(path, require 'dlv3.core.dict'.from{{'model', model:state_dict()},
                                                  {'args', require 'dlv3.core.dict'.from{{'atrous_rates', {1, 2, 3}}}}})
    local x = dlv3.randn{1, 3, 65, 65}
    local y = dlv3.no_grad(function() return from_file.load(path):eval()(x).out end)
    t.eq(y, dlv3.no_grad(function() return model:eval()(x).out end))
    local output, status = script('validate', '--weights ' .. path .. ' --year 2007 --data-path ' .. data())
    t.eq(status, 1)
    t.ok(output:find('no VOC2007', 1, true), output)
  end)
end
