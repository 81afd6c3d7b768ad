-- test_runs.lua - what may befall a training: it diverges, its folder is taken or removed, its
-- process is ended.

local dlv3 = require 'dlv3'
local system = require 'dlv3.os'

return function(t)
  local binary = require('dlv3.host').executable
  local root = t.directory .. '/..'
  local folder = t.folder()
  local n = 0

  -- A name in the folder that nothing has yet.
  local function fresh()
    n = n + 1
    return ('%s/%d'):format(folder, n)
  end

  local function data()
    local path = folder .. '/data'
    if not system.is_directory(path) then
      local output, status = t.run(('%s %s/scripts/make_shapes.lua --output-dir %s --train 6 --val 2 --width 64 '
                                    .. '--height 48'):format(binary, root, path))
      t.eq(status, 0, output)
    end
    return path
  end

  local function options()
    return '--model deeplabv3_mobilenet_v3_large --num-classes 4 --no-aux --base-size 48 --crop-size 48 -b 2 '
           .. '--quiet --data-path ' .. data() .. ' '
  end

  -- A shell command that trains; hook: Lua code that runs before the script.
  local function command(arguments, hook)
    local path = root .. '/scripts/train_voc.lua'
    if hook then
      local file = assert(io.open(fresh() .. '.lua', 'w'))
      file:write(hook, ('\ndofile(%q)\n'):format(path))
      file:close()
      path = ('%s/%d.lua'):format(folder, n)
    end
    return ('%s %s %s </dev/null'):format(binary, path, arguments)
  end

  local function train(arguments, hook) return t.run(command(arguments, hook)) end

  local function has(output, part) t.ok(output:find(part, 1, true), ('no "%s" in\n%s'):format(part, output)) end
  local function kind(path) return system.kind(path) or 'nothing' end

  local function is_finite(path)
    for name, tensor in dlv3.items(dlv3.load(path).model) do
      if tensor.dtype == 'f32' then t.eq((tensor * 0):sum():item(), 0, name) end
    end
  end

  -- -- Divergence ---------------------------------------------------------------------------------

  t.case('a training that diverges is neither evaluated nor saved', function()
    local out = fresh()
    local output, status = train(options() .. '--epochs 1 --lr 1e7 --output-dir ' .. out)
    t.eq(status, 1, output)
    has(output, 'the training diverged: ')
    has(output, 'after step 3 of epoch 0')
    has(output, 'No checkpoint was saved before; start again with a smaller learning rate, such as --lr 1e+06')
    t.eq({kind(out .. '/last.pth'), kind(out .. '/best.pth')}, {'nothing', 'nothing'})
    t.ok(not output:find 'mean IoU', output)
  end)

  -- A hook that makes a weight nan after so many steps.
  local function spoiled_after(steps)
    return ([[
local optim, dlv3, steps = require 'dlv3.optim', require 'dlv3', 0
local make, scope = optim.SGD, dlv3.scope
local sgd
optim.SGD = function(...)
  sgd = make(...)
  return sgd
end
dlv3.scope = function(fn)
  local result = scope(fn)
  steps = steps + 1
  if steps == %d then dlv3.no_grad(function() sgd.groups[1].params[1]:fill_(0 / 0) end) end
  return result
end]]):format(steps)
  end

  t.case('a sound last.pth stays when the weights become nan, and the message names it', function()
    local out = fresh()
    local output, status = train(options() .. '--epochs 1 --lr 0.01 --save-every 1 --output-dir ' .. out,
                                 spoiled_after(2))
    t.eq(status, 1, output)
    has(output, 'the training diverged: nan or infinity in the model after step 2 of epoch 0: 1 of its tensors '
                .. '(backbone.0.0.weight)')
    has(output, 'The last checkpoint with finite weights is ' .. out .. '/last.pth')
    has(output, '--resume ' .. out .. '/last.pth --lr 0.001')
    is_finite(out .. '/last.pth')
    t.eq(dlv3.load(out .. '/last.pth').next_step, 1)
    -- between two saves it is the loss that shows it, one step later
    output, status = train(options() .. '--epochs 1 --lr 0.01 --output-dir ' .. fresh(), spoiled_after(2))
    t.eq(status, 1, output)
    has(output, 'the loss is nan at step 3 of epoch 0')
  end)

  t.case('outputs of an evaluation that are not finite count as divergence', function()
    local out = fresh()
    local output, status = train(options() .. '--epochs 1 --lr 0.01 --output-dir ' .. out, [[
local train = require 'dlv3.train'
local evaluate = train.evaluate
train.evaluate = function(model, ...)
  local parameters = model.classifier:parameters()
  require 'dlv3'.no_grad(function() parameters[#parameters - 1]:fill_(3e38) end)
  return evaluate(model, ...)
end]])
    t.eq(status, 1, output)
    has(output, 'nan or infinity in the outputs of the evaluation after step 3 of epoch 0')
    t.eq({kind(out .. '/last.pth'), kind(out .. '/best.pth')}, {'nothing', 'nothing'})
  end)

  -- -- The folder ---------------------------------------------------------------------------------

  t.case('a folder that holds a run is left alone without --resume or --overwrite', function()
    local out, short = fresh(), options() .. '--epochs 1 --lr 0.01 '
    local output, status = train(short .. '--output-dir ' .. out)
    t.eq(status, 0, output)
    local sum = t.run('cat ' .. out .. '/*.pth | md5sum')
    output, status = train(short .. '--lr 0 --output-dir ' .. out)
    t.eq(status, 1, output)
    has(output, ("'%s' holds a run already (last.pth, best.pth): --resume %s/last.pth goes on with it, --overwrite "
                 .. "replaces it, --output-dir names another folder"):format(out, out))
    t.eq(t.run('cat ' .. out .. '/*.pth | md5sum'), sum)

    -- another run goes on elsewhere, and not over this one
    local other = fresh()
    output, status = train(short .. '--max-steps 1 --output-dir ' .. other)
    t.eq(status, 0, output)
    output, status = train(('--quiet --resume %s/last.pth --output-dir %s'):format(other, out))
    t.eq(status, 1, output)
    has(output, ("'%s' holds another run than '%s/last.pth' (last.pth, best.pth): name another folder with "
                 .. "--output-dir, or replace that run with --overwrite"):format(out, other))

    -- overwritten, nothing of the old run is left to be praised
    output, status = train(short .. '--max-steps 1 --overwrite --output-dir ' .. out,
                           "require 'dlv3.train'.evaluate = function() error('a mask is broken', 0) end")
    t.eq(status, 1, output)
    t.eq({kind(out .. '/last.pth'), kind(out .. '/best.pth')}, {'file', 'nothing'})
    t.eq(dlv3.load(out .. '/last.pth').next_step, 1)
  end)

  t.case('the default folder gets a number; a folder that was moved is gone on in', function()
    local place = fresh()
    system.make_directory(place)
    local function train_there(arguments)
      local output, status = t.run(('cd %s && %s %s/scripts/train_voc.lua %s </dev/null'):format(
          place, binary, root:sub(1, 1) == '/' and root or '"$OLDPWD"/' .. root, arguments))
      t.eq(status, 0, output)
      return output
    end
    local short = options() .. '--lr 0.01 --max-steps 1 --epochs 1 '
    train_there(short)
    has(train_there(short), 'weights: out_2/best.pth')
    t.eq({kind(place .. '/out/last.pth'), kind(place .. '/out_2/last.pth'), kind(place .. '/out_3')},
         {'file', 'file', 'nothing'})
    t.run(('mv %s/out %s/moved'):format(place, place))
    train_there '--quiet --resume moved/last.pth'
    t.eq({kind(place .. '/out'), dlv3.load(place .. '/moved/last.pth').next_epoch}, {'nothing', 1})
  end)

  t.case('two trainings at once in one folder: the second ends at its start', function()
    local out = fresh()
    local inner = command(options() .. '--epochs 1 --output-dir ' .. out)
    local output, status = train(options() .. '--epochs 1 --max-steps 1 --output-dir ' .. out, ([[
local train = require 'dlv3.train'
local late = train.late
train.late = function(...)
  os.execute(%q)
  return late(...)
end]]):format(inner .. ' 2>&1; echo "inner status $?"'))
    t.eq(status, 0, output)
    has(output, ("another training is writing into '%s': wait until it ends, or name another folder with "
                 .. "--output-dir"):format(out))
    has(output, 'inner status 1')
    output, status = train('--quiet --resume ' .. out .. '/last.pth') -- the lock ends with its process
    t.eq(status, 0, output)
  end)

  t.case('what can not be written is found before the first step', function()
    for _, name in ipairs {'last.pth', 'best.pth'} do
      local out = fresh()
      t.run(('mkdir -p %s/%s'):format(out, name))
      local output, status = train(options() .. '--epochs 1 --output-dir ' .. out)
      t.eq(status, 1, output)
      has(output, ('%s/%s: is a directory, expected a file to write; move it away, or name another folder with '
                   .. '--output-dir'):format(out, name))
      t.ok(not output:find 'Epoch', output)
    end
  end)

  t.case('a folder that is removed in mid-run is made again; where it can not be, the checkpoint goes elsewhere',
         function()
    local out = fresh()
    local removed = "local train = require 'dlv3.train'\nlocal evaluate = train.evaluate\ntrain.evaluate = "
                    .. "function(...)\n  os.execute(%q)\n  return evaluate(...)\nend"
    local output, status = train(options() .. '--epochs 1 --lr 0.01 --output-dir ' .. out,
                                 removed:format('rm -rf ' .. out))
    t.eq(status, 0, output)
    has(output, ("warning: the folder '%s' was removed during the training; it is created anew"):format(out))
    t.eq({kind(out .. '/last.pth'), kind(out .. '/best.pth')}, {'file', 'file'})
    has(t.run('cat ' .. out .. '/results*.txt'), '[epoch: 0]')

    out = fresh() -- with the best weights: what is left by then is the best of the new folder
    output, status = train(options() .. '--epochs 2 --lr 0.01 --output-dir ' .. out, ([[
local train, epoch = require 'dlv3.train', 0
local evaluate = train.evaluate
train.evaluate = function(...)
  local figures = evaluate(...)
  figures.mean_present, epoch = 60 - epoch, epoch + 1
  if epoch == 2 then os.execute 'rm -rf %s' end
  return figures
end]]):format(out))
    t.eq(status, 0, output)
    has(output, 'best mean IoU 59.0; weights: ' .. out .. '/best.pth')
    t.eq(dlv3.load(out .. '/best.pth').best, 59)

    out = fresh() .. '/run' -- a file takes the place of the folder above it
    local elsewhere = fresh()
    system.make_directory(elsewhere)
    local above = out:match '^(.*)/run$'
    output, status = t.run('TMPDIR=' .. elsewhere .. ' '
                           .. command(options() .. '--epochs 1 --lr 0.01 --output-dir ' .. out,
                                      removed:format(('rm -rf %s; touch %s'):format(above, above))))
    t.eq(status, 0, output)
    local place = output:match "files go to '([^']+)'"
    t.ok(place and place:find(elsewhere, 1, true), output)
    t.eq({kind(place .. '/last.pth'), kind(place .. '/best.pth')}, {'file', 'file'})
    has(output, place .. '/best.pth')
  end)

  -- -- Signals ------------------------------------------------------------------------------------

  -- A hook that runs code after the second step's call.
  local function at_step_2(code)
    return ([[
local dlv3, F, steps = require 'dlv3', require 'dlv3.core.ffi', 0
local scope = dlv3.scope
dlv3.scope = function(fn)
  steps = steps + 1
  if steps == 2 then
    %s
  end
  return scope(fn)
end]]):format(code)
  end

  local hang_up = at_step_2 "os.execute(('kill -HUP %d'):format(require 'dlv3.os'.process_id()))"

  t.case('a hang-up saves and ends; under nohup the training goes on', function()
    local out, short = fresh(), options() .. '--epochs 1 --lr 0.01 --output-dir '
    local output, status = train(short .. out, hang_up)
    t.eq(status, 129, output)
    has(output, 'stopped after step 2 of epoch 0')
    t.eq(dlv3.load(out .. '/last.pth').next_step, 2)
    out = fresh()
    output, status = t.run('nohup ' .. command(short .. out, hang_up))
    t.eq(status, 0, output)
    t.eq(dlv3.load(out .. '/last.pth').next_epoch, 1)
  end)

  t.case('a reader of the log that is gone: the training saves and ends', function()
    local out = fresh()
    local output = t.run(('{ %s; echo "status $?" >&2; } | head -n 1'):format(
        command(options() .. '--epochs 50 --print-freq 1 --lr 0.01 --output-dir ' .. out)))
    has(output, 'status 141')
    local saved = dlv3.load(out .. '/last.pth')
    t.ok(saved.next_epoch < 50, ('%d epochs'):format(saved.next_epoch))
    has(output, 'stopped after step')
  end)

  -- A file system of so many MiB, mounted while fn(path) runs; without the right to mount one the
  -- case is skipped.
  local function with_small_disk(mebibytes, fn)
    local path = t.folder()
    local output, status = t.run(('mount -t tmpfs -o size=%dm tmpfs %s'):format(mebibytes, path))
    if status ~= 0 then t.skip('a small file system can not be mounted: ' .. output:gsub('%s+$', '')) end
    local ok, message = pcall(fn, path)
    t.run('umount ' .. path)
    if not ok then error(message, 0) end
  end

  t.case('a full disk: the message, the old files stay whole, nothing is left behind', function()
    with_small_disk(300, function(disk)
      local out = disk .. '/run'
      local output, status = train(options() .. '--epochs 2 --max-steps 3 --lr 0.01 --output-dir ' .. out)
      t.eq(status, 0, output)
      local before = dlv3.load(out .. '/last.pth')
      t.run(('head -c 400M /dev/zero > %s/filler'):format(disk))
      output, status = train('--quiet --max-steps 6 --resume ' .. out .. '/last.pth')
      t.eq(status, 1, output)
      has(output, 'No space left on device; free some space')
      local after = dlv3.load(out .. '/last.pth')
      t.eq(after.next_step, before.next_step)
      for name, tensor in dlv3.items(before.model) do t.eq(after.model[name], tensor, name) end
      t.eq(t.run('ls -A ' .. out .. ' | grep part'), '')
      output, status = t.run(('%s %s/scripts/predict.lua --quiet --base-size 48 --overlay --weights %s/last.pth '
                              .. '--output-dir %s/maps %s </dev/null')
        :format(binary, root, out, disk, data() .. '/VOCdevkit/VOC2012/JPEGImages'))
      t.eq(status, 1, output)
      has(output, 'No space left on device')
      t.eq(t.run(('find %s -name "*.png" -size 0; find %s -name "*part*"'):format(disk, disk)), '')
      os.remove(disk .. '/filler')
      output, status = train('--quiet --max-steps 6 --resume ' .. out .. '/last.pth')
      t.eq(status, 0, output)
      t.eq(dlv3.load(out .. '/last.pth').next_epoch, 2)
    end)
  end)

  t.case('a limit on the size of files is told, and the checkpoint there stays', function()
    local out = fresh()
    local output, status = train(options() .. '--epochs 2 --max-steps 3 --lr 0.01 --output-dir ' .. out)
    t.eq(status, 0, output)
    output, status = t.run(('ulimit -f 2000; %s'):format(
        command('--quiet --max-steps 6 --resume ' .. out .. '/last.pth')))
    t.eq(status, 1, output)
    has(output, '.pth: can not be written: File too large; raise the limit on the size of files (ulimit -f)')
    t.eq(dlv3.load(out .. '/last.pth').next_epoch, 1)
    t.eq(t.run('ls -A ' .. out .. ' | grep part'), '')
  end)
end
