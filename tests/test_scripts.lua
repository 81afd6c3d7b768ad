-- test_scripts.lua - the scripts as a user runs them, on a small data set drawn for it.

local dlv3 = require 'dlv3'
local F = require 'dlv3.ffi'

return function(t)
  local binary = require('dlv3.host').executable
  local root = t.directory .. '/..'
  local folder = t.folder()
  local small = ' --model deeplabv3_mobilenet_v3_large --num-classes 4 --no-aux --base-size 66 --crop-size 64 -b 4 --print-freq 1 --quiet '

  local function script(name, arguments)
    return t.run(('%s %s/scripts/%s.lua %s </dev/null'):format(binary, root, name, arguments))
  end

  -- Shell text that waits until the log has the line, or the process $p is gone.
  local function wait_for(line, log)
    return ('while ! grep -q "%s" %s 2>/dev/null; do sleep 0.05; kill -0 $p || break; done;'):format(line, log)
  end

  local function data()
    local path = folder .. '/data'
    if F.C.dlv3_path_kind(path) ~= 2 then
      local output, status = script('make_shapes', '--output-dir ' .. path .. ' --train 16 --val 4')
      t.eq(status, 0, output)
    end
    return path
  end

  local function weights_equal(a, b)
    a, b = dlv3.load(a), dlv3.load(b)
    for name, tensor in dlv3.items(a.model) do t.eq(b.model[name], tensor, name) end
    for index, entry in dlv3.items(a.optimizer.state) do t.eq(b.optimizer.state[index].momentum_buffer, entry.momentum_buffer, 'momentum ' .. index) end
  end

  t.case('the loss falls; log, results, checkpoints and curves are there', function()
    local out = folder .. '/a'
    local output, status = script('train_voc', small .. '--epochs 3 --lr 0.02 --bn-momentum 0.1 --data-path ' .. data() .. ' --output-dir ' .. out)
    t.eq(status, 0, output)
    t.ok(output:find 'Epoch: %[0%]  %[0/4%]  eta: %d:%d%d:%d%d  lr: %d%.%d%d%d%d%d%d  loss: %d%.%d%d%d%d %(%d%.%d%d%d%d%)  time: %d+%.%d%d%d%d  data: ', output)
    t.ok(output:find '\nmean IoU: [%d%.na]+\n', output) -- nan, as the reference has it, where a class does not occur
    local first, last = output:match 'Epoch: %[0%]  %[3/4%].-loss: %S+ %((%S+)%)', output:match 'Epoch: %[2%]  %[3/4%].-loss: %S+ %((%S+)%)'
    t.ok(tonumber(last) < tonumber(first), ('loss %s, then %s'):format(first, last))
    for _, name in ipairs {'last.pth', 'best.pth'} do t.eq(F.C.dlv3_path_kind(out .. '/' .. name), 1, name) end
    t.ok(t.run('cat ' .. out .. '/results*.txt'):find '^%[epoch: 0%]\ntrain_loss: %d%.%d%d%d%d\nlr: 0%.%d+\nglobal correct: ')

    -- validate gives the logged figure again, without options; predict makes pictures of the photos' own size
    local miou = output:match 'best mean IoU (%S+);'
    local report, code = script('validate', '--quiet --data-path ' .. data() .. ' --weights ' .. out .. '/best.pth')
    t.eq(code, 0, report)
    t.eq(report:match 'classes that occur in the masks: (%d+%.%d)', miou)
    local photos = data() .. '/VOCdevkit/VOC2012/JPEGImages'
    local bad = io.open(folder .. '/bad.jpg', 'w')
    bad:write 'no picture'
    bad:close()
    report, code = script('predict', ('--quiet --weights %s/best.pth --output-dir %s/pictures %s %s/bad.jpg'):format(out, folder, photos, folder))
    t.eq(code, 1, report)
    t.ok(report:find "bad%.jpg", report)
    t.ok(report:find '20 photos in .* photos/s', report)
    local image = require 'dlv3.vision.image'
    local id = t.run('ls ' .. photos):match '(%S+)%.jpg'
    local photo, mask = image.read(photos .. '/' .. id .. '.jpg'), image.read_mask(folder .. '/pictures/' .. id .. '.png')
    t.eq({photo:size(2), photo:size(3)}, mask:size())
    t.ok(mask:max():item() <= 4)
  end)

  t.case('killed in the middle of an epoch and resumed: the same bits', function()
    local options = small .. '--epochs 4 --lr 0.02 --save-every 1 --data-path ' .. data()
    local output, status = script('train_voc', options .. ' --output-dir ' .. folder .. '/whole')
    t.eq(status, 0, output)
    -- last.pth is what was saved after the last whole step
    t.run(('(%s %s/scripts/train_voc.lua %s --output-dir %s/cut </dev/null & p=$!; %s kill -9 $p) > %s/cut.log 2>&1')
          :format(binary, root, options, folder, wait_for('Epoch: .1.  .1/4', folder .. '/cut.log'), folder))
    local cut = dlv3.load(folder .. '/cut/last.pth')
    t.ok(cut.next_epoch >= 1 and cut.next_epoch < 4, ('killed at epoch %d, step %d'):format(cut.next_epoch, cut.next_step))
    output, status = script('train_voc', '--resume ' .. folder .. '/cut/last.pth --quiet')
    t.eq(status, 0, output)
    weights_equal(folder .. '/whole/last.pth', folder .. '/cut/last.pth')
  end)

  t.case('SIGINT saves and says how to go on', function()
    local out = folder .. '/int'
    local output, status = t.run(('%s %s/scripts/train_voc.lua %s --epochs 50 --data-path %s --output-dir %s </dev/null > %s/int.log 2>&1 & '
          .. 'p=$!; %s kill -INT $p; wait $p; echo "code $?"; cat %s/int.log')
          :format(binary, root, small, data(), out, folder, wait_for('Epoch: .0.  .1/4', folder .. '/int.log'), folder))
    t.eq(status, 0)
    t.ok(output:find '^code 130' or output:find 'code 130', output)
    t.ok(output:find 'go on with\n  dlv3 scripts/train_voc.lua %-%-resume .*/int/last.pth', output)
  end)

  t.case('what a user reads who mistypes', function()
    local output, status = script('train_voc', '--epcohs 3')
    t.eq(status, 2)
    t.ok(output:find '%-%-epcohs' and output:find '%-%-epochs', output)
    output, status = script('train_voc', '--data-path /nowhere')
    t.eq(status, 1)
    t.ok(output:find '/nowhere', output)
    output, status = script('validate', '--data-path ' .. data())
    t.eq(status, 2)
    t.ok(output:find('--weights', 1, true), output)
    output, status = script('predict', '--weights /nowhere.pth x.jpg')
    t.eq(status, 1)
    t.ok(output:find '/nowhere%.pth', output)
    output, status = script('train_voc', small .. '--num-classes 2 --epochs 1 --data-path ' .. data() .. ' --output-dir ' .. folder .. '/wrong')
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
    local output, status = script('plot_lr', '--schedule ploy')
    t.eq(status, 2)
    t.ok(output:find 'poly', output)
  end)
end
