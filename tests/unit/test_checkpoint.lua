-- test_checkpoint.lua - load_weights: wrappers, prefixes, other classes, ImageNet backbones, the
-- report; training checkpoints.

local dlv3 = require 'dlv3'
local system = require 'dlv3.os'
local checkpoint = require 'dlv3.checkpoint'
local dict = require 'dlv3.core.dict'
local from_file = require 'models.from_file'
local models = require 'models'
local train = require 'dlv3.train'

local function filled(sizes, value, dtype)
  local n = 1
  for _, s in ipairs(sizes) do n = n * s end
  local width = ({f32 = 4, i64 = 8})[dtype or 'f32']
  return dlv3.frombytes(string.char(value):rep(n * width), sizes, {dtype = dtype})
end

-- What load_weights needs of a model: state_dict and load_state_dict.
local function model_of(list)
  local model = {own = dict.new()}
  for _, entry in ipairs(list) do model.own[entry[1]] = filled(entry[2], 0, entry[3]) end
  function model:state_dict() return self.own end
  function model:load_state_dict(given, options)
    assert(options.strict == false)
    for k, v in dict.items(given) do
      assert(self.own[k].dtype == v.dtype)
      self.own[k] = v
    end
  end
  return model
end

local function names_and_shapes(classes)
  return {
    {'backbone.conv1.weight', {4, 3, 7, 7}}, {'backbone.bn1.weight', {4}}, {'backbone.bn1.running_mean', {4}},
    {'backbone.bn1.num_batches_tracked', {}, 'i64'},
    {'classifier.0.weight', {8, 4, 1, 1}}, {'classifier.4.weight', {classes, 8, 1, 1}},
    {'classifier.4.bias', {classes}},
  }
end

local function state(list, value, rename)
  local d = dict.new()
  for _, entry in ipairs(list) do
    local name = rename and rename(entry[1]) or not rename and entry[1]
    if name then d[name] = filled(entry[2], value, entry[3]) end
  end
  return d
end

local function first_byte(model, name) return model.own[name]:tobytes():byte() end

return function(t)
  t.case('a state dict as it is, from a file', function()
    local path = t.folder() .. '/w.pth'
    dlv3.save(path, state(names_and_shapes(21), 1))
    local model = model_of(names_and_shapes(21))
    local report = checkpoint.load_weights(model, path)
    t.eq(#report.loaded, 7)
    t.eq({#report.skipped, #report.missing, #report.unexpected}, {0, 0, 0})
    t.eq(tostring(report), path .. ": loaded 7 of the model's 7 tensors")
    t.eq(report:text(), tostring(report))
    for name in dict.items(model.own) do t.eq(first_byte(model, name), 1) end
  end)

  t.case('wrapped and prefixed', function()
    for _, key in ipairs {'model', 'state_dict', 'model_state_dict'} do
      for _, prefix in ipairs {'', 'module.', 'module._orig_mod.'} do
        local model = model_of(names_and_shapes(21))
        local report = checkpoint.load_weights(model,
                                               {epoch = 3, [key] = state(names_and_shapes(21), 1,
            function(n) return prefix .. n end)})
        t.eq(#report.loaded, 7)
        t.ok(tostring(report):find("its '" .. key .. "'", 1, true))
      end
    end
  end)

  t.case('tensors beside the wrapper', function()
    local inner, model = state(names_and_shapes(21), 1), model_of(names_and_shapes(21))
    local report = checkpoint.load_weights(model,
                                           dict.from{{'best_acc1', filled({}, 0)}, {'epoch', 3}, {'state_dict', inner}})
    t.eq({#report.loaded, #report.unexpected}, {7, 0})
  end)

  t.case('another number of classes', function()
    local model = model_of(names_and_shapes(11))
    local report = checkpoint.load_weights(model, state(names_and_shapes(21), 1), {name = 'coco.pth'})
    t.eq(#report.loaded, 5)
    t.eq(#report.skipped, 2)
    t.eq(report.skipped[1].name, 'classifier.4.weight')
    t.eq(report.skipped[1].file, {21, 8, 1, 1})
    t.eq(report.skipped[1].model, {11, 8, 1, 1})
    t.eq(first_byte(model, 'classifier.4.weight'), 0)
    t.eq(first_byte(model, 'classifier.0.weight'), 1)
    t.eq(tostring(report), "coco.pth: loaded 5 of the model's 7 tensors\n  skipped 2 that do not fit:\n" ..
         '    classifier.4.weight  file [21, 8, 1, 1], model [11, 8, 1, 1]\n'
         .. '    classifier.4.bias    file [21], model [11]')
  end)

  t.case('a bias without its weight is not taken', function()
    local model = model_of(names_and_shapes(21))
    local given = state(names_and_shapes(21), 1)
    given['classifier.4.weight'] = filled({21, 16, 1, 1}, 1)
    local report = checkpoint.load_weights(model, given)
    t.eq(first_byte(model, 'classifier.4.bias'), 0)
    t.eq(report.skipped[2].reason, 'goes with classifier.4.weight')
  end)

  t.case('missing and unexpected names', function()
    local list = names_and_shapes(21)
    list[#list + 1] = {'aux_classifier.4.bias', {21}}
    local given = state(names_and_shapes(21), 1)
    given['backbone.bn1.num_batches_tracked'] = nil -- older files have none
    given['ema.decay'] = filled({1}, 1)
    local report = checkpoint.load_weights(model_of(list), given)
    t.eq(report.missing, {'aux_classifier.4.bias'})
    t.eq(report.unexpected, {'ema.decay'})
    t.ok(tostring(report):find('not in the file, left as they were: 1: aux_classifier.4.bias', 1, true))
    t.ok(tostring(report):find('in the file but not in the model: 1: ema.decay', 1, true))
  end)

  t.case('ImageNet classifiers fill the backbone', function()
    local model = model_of(names_and_shapes(21))
    local resnet = state(names_and_shapes(21), 1, function(n) return n:match '^backbone%.(.*)$' or false end)
    resnet['fc.weight'] = filled({10, 4}, 1)
    local report = checkpoint.load_weights(model, resnet)
    t.eq(#report.loaded, 4)
    t.eq(report.unexpected, {'fc.weight'})
    t.eq(#report.missing, 3)
    t.eq(first_byte(model, 'backbone.conv1.weight'), 1)
    t.ok(tostring(report):find("names put under 'backbone.'", 1, true))

    local list = {{'backbone.0.0.weight', {4, 3, 3, 3}}, {'backbone.1.block.0.0.weight', {4, 1, 3, 3}},
                  {'classifier.0.weight', {8, 4, 1, 1}}}
    local mobilenet = dict.from {{'features.0.0.weight', filled({4, 3, 3, 3}, 1)},
                                 {'features.1.block.0.0.weight', filled({4, 1, 3, 3}, 1)},
                                 {'classifier.0.weight', filled({8, 4, 1, 1}, 1)}}
    model = model_of(list)
    report = checkpoint.load_weights(model, mobilenet)
    t.eq(report.loaded, {'backbone.0.0.weight', 'backbone.1.block.0.0.weight'})
    t.eq(first_byte(model, 'classifier.0.weight'), 0)

    model = model_of(names_and_shapes(21))
    report = checkpoint.load_weights(model, resnet, {prefix = 'backbone.'})
    t.eq(#report.loaded, 4)
    -- and a whole model's file into a bare backbone
    model = model_of {{'conv1.weight', {4, 3, 7, 7}}, {'bn1.weight', {4}}}
    t.eq(#checkpoint.load_weights(model, state(names_and_shapes(21), 1)).loaded, 2)
  end)

  t.case('nothing fits', function()
    local model = model_of(names_and_shapes(21))
    t.error(function() checkpoint.load_weights(model, {['encoder.weight'] = filled({1}, 1)}, {name = 'x.pth'}) end,
            'x.pth: nothing in it fits the model\n  the file has   encoder.weight\n'
            .. '  the model has  backbone.conv1.weight, backbone.bn1.weight')
    t.error(function() checkpoint.load_weights(model, {['classifier.4.bias'] = filled({3}, 1)}) end,
            'right names but other shapes, first classifier.4.bias: file %[3%], model %[21%]')
    t.error(function() checkpoint.load_weights(model, {epoch = 3}, {name = 'x.pth'}) end,
            'x.pth: holds no weights: its keys are epoch')
    t.error(function() checkpoint.load_weights(model, {}, {prefx = ''}) end, "no option 'prefx'")
    local path = t.folder() .. '/n.pth'
    dlv3.save(path, 7)
    t.error(function() checkpoint.load_weights(model, path) end, 'n.pth: holds no weights: it is a number')
  end)

  t.case('training checkpoints', function()
    local folder = t.folder()
    local path = folder .. '/last.pth'
    dlv3.save(path, {model = state(names_and_shapes(21), 1), epoch = 2, rng = {5, 77}, args = {lr = 0.1},
                     optimizer = {state = dict.from {{0, {momentum_buffer = filled({4}, 2)}}}}})
    local value = checkpoint.load(path)
    t.eq(value.epoch, 2)
    t.eq(value.rng, {5, 77})
    t.eq(value.args.lr, 0.1)
    t.eq(value.optimizer.state[0].momentum_buffer:size(), {4})
    t.eq(#checkpoint.load_weights(model_of(names_and_shapes(21)), path).loaded, 7)
    dlv3.save(folder .. '/w.pth', state(names_and_shapes(21), 1))
    t.error(function() checkpoint.load(folder .. '/w.pth') end, 'w.pth: holds weights but no state of a training')
    dlv3.save(folder .. '/v.pth', {epoch = 1})
    local load = require 'dlv3.io.files'.load
    require 'dlv3.io.files'.load = function() return dict.from{{'model', require 'dlv3.io.opaque'.new 'my.Net'},
        {'epoch', 3}} end
    local ok, message = pcall(checkpoint.load, 'w.pth')
    require 'dlv3.io.files'.load = load
    t.ok(not ok and message:find("w.pth: holds no weights: its 'model' is an object of the class my.Net; if it is "
                                 .. "a model, in PyTorch", 1, true), message)
    t.error(function() checkpoint.load(folder .. '/v.pth') end, 'v.pth: is no training checkpoint: its keys are epoch')
  end)

  t.case('another architecture is refused; Lightning\'s names are known', function()
    local mobilenet, resnet = models.deeplabv3_mobilenet_v3_large(), models.deeplabv3_resnet50()
    t.error(function() checkpoint.load_weights(resnet, mobilenet:state_dict(), {name = 'm.pth'}) end,
            'm.pth: the weights of another architecture: only %d+ of its %d+ tensors fit')
    local given = {}
    for name, tensor in dict.items(mobilenet:state_dict()) do given[#given + 1] = {'model.' .. name, tensor} end
    local report = checkpoint.load_weights(mobilenet, {state_dict = dict.from(given)})
    t.eq(#report.missing, 0)
    t.eq(report.mapping, "without the prefix 'model.'")
  end)

  -- A checkpoint as train_voc saves it, of a model with one layer.
  local function training()
    local nn, optim = require 'dlv3.nn', require 'dlv3.optim'
    local model = nn.Linear(3, 2)
    local sgd = optim.SGD({{params = model:parameters()}}, {lr = 0.1, momentum = 0.9})
    local folder = t.folder()
    local progress = {epoch = 1, next_epoch = 2, next_step = 3, steps_per_epoch = 4, loss_sum = 1.5, best = 50,
                      history = {{epoch = 0, loss = 1, miou = 40}, {epoch = 1, loss = 0.5, miou = 50}}}
    train.save(folder .. '/sound.pth', model, sgd, progress,
               {base_size = 520, lr = 0.1, model = 'deeplabv3_resnet50', aux = false})
    return folder .. '/sound.pth', model, sgd
  end

  local function set_field(value, field, new)
    local inner, last = value, nil
    for key in field:gmatch '[^.]+' do
      key = tonumber(key) or key
      if last ~= nil then inner = inner[last] end
      last = key
    end
    inner[last] = new
  end

  t.case('every value of a training checkpoint is checked on reading', function()
    local sound = training()
    t.eq(train.load(sound).next_step, 3)
    local tensor = filled({2}, 1)
    local whole, number, nonsense = 'a whole number from 0', 'a number', {'x', {1}, dlv3.none, true, tensor}
    local cases = {
      {'epoch', whole, nonsense}, {'next_epoch', whole, {'x', {1}, dlv3.none, -1, 0.5, 2 ^ 60}},
      {'next_step', whole, nonsense}, {'steps_per_epoch', 'a whole number from 1', {'x', 0, dlv3.none}},
      {'loss_sum', 'a finite number', {'x', {1}, 0 / 0, dlv3.none}}, {'best', number, nonsense},
      {'history', 'a list', {'x', 7, tensor}},
      {'history.1', 'a dict', {'x', {1}}}, {'history.2.loss', number, nonsense}, {'history.2.miou', number, nonsense},
      {'history.1.epoch', whole, nonsense},
      {'rng', 'a list of 2 values', {'x', {1}, tensor}}, {'rng.2', 'a whole number', {'x', 0.5}},
      {'args', 'a dict', {'x', {1}}}, {'model', 'a dict', {{tensor}}},
      {'model.weight', 'a tensor', {'x', 3, {1}}}, {'optimizer', 'a dict', {'x', {1}}},
      {'optimizer.state', 'a dict', {'x', {1}}},
      {'optimizer.state.0', 'a dict', {'x', {1}}}, {'optimizer.state.0.momentum_buffer', 'a tensor', {'x', 3}},
      {'optimizer.param_groups', 'a list', {'x', 3}},
      {'optimizer.param_groups.1', 'a dict', {'x'}}, {'optimizer.param_groups.1.params', 'a list', {'x', 3}},
      {'optimizer.param_groups.1.params.1', whole, nonsense},
      {'optimizer.param_groups.1.lr', 'a finite number', {'x', dlv3.none, {1}, 1 / 0}},
      {'optimizer.param_groups.1.momentum', 'a finite number', nonsense},
      {'optimizer.param_groups.1.nesterov', 'true or false', {'x', 1}}, {'scaler', 'a dict', {'x', {1}}},
    }
    local path, n = t.folder() .. '/odd.pth', 0
    for _, case in ipairs(cases) do
      for _, value in ipairs(case[3]) do
        local saved = dlv3.load(sound)
        set_field(saved, case[1], value)
        dlv3.save(path, saved)
        local ok, message = pcall(train.load, path)
        t.eq(ok, false, case[1])
        t.ok(message:find(('odd.pth: %s: expected %s, got '):format(case[1], case[2]), 1, true)
             and message:find('--weights', 1, true), message)
        n = n + 1
      end
    end
    t.ok(n > 80, n .. ' variants')
    for _, field in ipairs {'epoch', 'next_step', 'loss_sum', 'best', 'history', 'steps_per_epoch'} do
      local saved = dlv3.load(sound)
      saved[field] = nil
      dlv3.save(path, saved)
      t.error(function() train.load(path) end, 'odd.pth: ' .. field
              .. ': expected .*, got nothing; resume with another checkpoint')
    end
    local saved = dlv3.load(sound)
    saved.next_step = 5
    dlv3.save(path, saved)
    t.error(function() train.load(path) end, 'odd.pth: next_step: expected at most 4, the steps_per_epoch, got 5')
    saved.next_step, saved.best, saved.history[2].miou = 4, 0 / 0, 0 / 0 -- no pixel counted
    dlv3.save(path, saved)
    t.eq(train.load(path).next_step, 4)
  end)

  t.case('no value of any field ends in an error without the file', function()
    local sound, model, sgd = training()
    local spec = {{'base-size', 520, ''}, {'aux', true, ''},
                  {'model', 'deeplabv3_resnet50', '', choices = models.architectures}, {'lr', 0.1, '', type = 'number'}}
    local fields = {}
    local function collect(value, name)
      for k, v in dict.items(value) do
        local field = name == '' and tostring(k) or name .. '.' .. tostring(k)
        fields[#fields + 1] = field
        if type(v) == 'table' and v ~= dlv3.none then collect(v, field) end
      end
    end
    collect(train.load(sound), '')
    t.ok(#fields > 40, #fields)
    local values = {'abc', -1, 0.5, 2 ^ 60, 0 / 0, true, dlv3.none, {}, {1, {2}}, dict.new(), filled({}, 1),
                    filled({0}, 1), require 'dlv3.io.opaque'.new 'my.Class', 2LL ^ 62}
    local load, tried = require 'dlv3.io.files'.load, 0
    for _, field in ipairs(fields) do
      for i = 0, #values do -- 0: the field is not there
        local ok, message = pcall(function()
          local saved = load(sound)
          set_field(saved, field, values[i])
          require 'dlv3.io.files'.load = function() return saved end
          saved = train.load(sound)
          train.inherit({base_size = 520, aux = true, model = 'deeplabv3_resnet50', lr = 0.1, resume = sound}, {},
                        saved, spec)
          train.restore_model(model, saved, sound)
          train.restore({next_epoch = 0, next_step = 0, steps_per_epoch = 4, loss_sum = 0, best = -1, history = {}},
                        sgd, saved, {resume = sound}, {})
        end)
        tried = tried + 1
        if not ok and not tostring(message):find('sound.pth', 1, true) then
          require 'dlv3.io.files'.load = load
          error(('%s, value %d: %s'):format(field, i, tostring(message)), 0)
        end
      end
    end
    require 'dlv3.io.files'.load = load
    t.ok(tried > 600, tried)
  end)

  t.case('--lr beside --resume is the rate of each parameter group as it was made', function()
    local optim = require 'dlv3.optim'
    local sound, _, saved_sgd = training()
    local function resumed(given)
      local list = {}
      for i, group in ipairs(saved_sgd.groups) do list[i] = {params = group.params, lr = 0.25 * 10 ^ i} end
      local sgd = optim.SGD(list, {momentum = 0.5})
      local progress = {next_epoch = 0, next_step = 0, steps_per_epoch = 4, loss_sum = 0, best = -1, history = {}}
      train.restore(progress, sgd, train.load(sound), {resume = sound, lr = 0.25, momentum = 0.75}, given)
      return sgd.groups[1].initial_lr, sgd.groups[1].momentum
    end
    local saved = train.load(sound).optimizer.param_groups[1]
    t.eq({resumed{}}, {saved.initial_lr, saved.momentum})
    t.eq({resumed{lr = true}}, {2.5, saved.momentum})
    t.eq({resumed{momentum = true}}, {saved.initial_lr, 0.75})
  end)

  t.case('what does not fit the model, the optimiser or the options names the file', function()
    local sound, model, sgd = training()
    local saved = train.load(sound)
    saved.model.weight = filled({2, 4}, 1)
    t.error(function() train.restore_model(model, saved, sound) end,
            'sound.pth: load_state_dict: .*weight: the file has %[2, 4%], the model %[2, 3%]')
    saved.optimizer.param_groups[2] = saved.optimizer.param_groups[1]
    t.error(function() train.restore({}, sgd, saved, {resume = sound}, {}) end,
            'sound.pth: SGD: the state has 2 parameter groups')
    local spec = {{'base-size', 520, ''}, {'aux', true, ''},
                  {'model', 'deeplabv3_resnet50', '', choices = models.architectures}, {'lr', 0.1, '', type = 'number'}}
    local function options()
      return {base_size = 520, aux = true, model = 'deeplabv3_resnet50', lr = 0.1, resume = sound}
    end
    for _, case in ipairs{{'base_size', 'abc', "--base-size: expected a whole number, got 'abc'"},
                          {'base_size', {1}, '--base-size: expected a whole number, got a list'},
                          {'aux', 1, '--aux: expected true or false, got 1'},
                          {'lr', '1', "--lr: expected a number, got '1'"},
                          {'model', 3, '--model: expected one of deeplabv3_resnet50, deeplabv3_resnet101, '
                                       .. 'deeplabv3_mobilenet_v3_large, got 3'}} do
      saved = train.load(sound)
      saved.args[case[1]] = case[2]
      local ok, message = pcall(train.inherit, options(), {}, saved, spec)
      t.ok(not ok and message:find('sound.pth was saved with options that do not fit: ' .. case[3]
                                   .. '; give the option beside --resume', 1, true), tostring(message))
      t.ok(pcall(train.inherit, options(), {[case[1]] = true}, saved, spec), 'the command line goes before')
      saved.args[case[1]] = dlv3.none
      t.ok(pcall(train.inherit, options(), {}, saved, spec), 'None is no value')
    end
  end)

  t.case('a head that no class map can have is refused by the file\'s name', function()
    local weights, path = models.deeplabv3_mobilenet_v3_large{num_classes = 2}:state_dict(), t.folder() .. '/head.pth'
    local head = weights['classifier.4.weight']
    for _, case in ipairs{{head:sum(), '[]'}, {dlv3.zeros{0, 256, 1, 1}, '[0, 256, 1, 1]'},
                          {head:narrow(1, 1, 1):expand(1000000, 256, 1, 1), '[1000000, 256, 1, 1]'},
                          {dlv3.zeros{300, 256, 1, 1}, '[300, 256, 1, 1]'}, {3, '3'}} do
      local before = system.peak_memory()
      weights['classifier.4.weight'] = case[1]
      -- saved whole, a million classes would take a gigabyte: the reader is given what it makes of
      -- an expanded tensor
      local load = require 'dlv3.io.files'.load
      require 'dlv3.io.files'.load = function() return weights end
      local ok, message = pcall(from_file.load, path)
      require 'dlv3.io.files'.load = load
      t.ok(not ok and message:find('head.pth: classifier.4.weight: expected sizes [classes, 256, 1, 1] with 1 to '
                                   .. '256 classes (a pixel of a class map is a byte), got ', 1, true),
                                   tostring(message))
      t.ok(message:find(case[2], 1, true), message)
      t.ok(tonumber(system.peak_memory() - before) < 2 ^ 27)
    end
  end)

  t.case('options that a file of weights remembers are checked where they are used', function()
    local path = t.folder() .. '/args.pth'
    local weights = models.deeplabv3_mobilenet_v3_large{num_classes = 2}:state_dict()
    for _, case in ipairs{{'base_size', 'abc', "args.base_size: expected a whole number from 8, got 'abc'; give "
                                               .. "--base-size, or"}, {'base_size', {1, 2},
        'got a list; give --base-size, or'},
                          {'atrous_rates', 3, 'args.atrous_rates: expected a list, got 3; or save the weights alone'},
                              {'output_stride', 5, 'output_stride: expected 16 or 32, got 5'}} do
      dlv3.save(path, {model = weights, args = {[case[1]] = case[2]}})
      local ok, message = pcall(from_file.load, path)
      t.ok(not ok and message:find('args.pth: ', 1, true) and message:find(case[3], 1, true), tostring(message))
    end
    dlv3.save(path, {model = weights, args = {base_size = 'abc', year = dlv3.none}})
    local _, args = from_file.load(path, {base_size = true})
    t.eq(dict.size(args), 0)
  end)

  t.case('prefixes and wrappers of other projects', function()
    local function given(prefix) return state(names_and_shapes(21), 1, function(n) return prefix .. n end) end
    for _, prefix in ipairs{'net.', 'model.module.', 'model.model.', '_orig_mod.module.', 'module.',
                            'segmentation_model.', 'ema.module.'} do
      local model = model_of(names_and_shapes(21))
      local weights = given(prefix)
      weights.n_averaged = filled({}, 1, 'i64')
      local report = checkpoint.load_weights(model, {state_dict = weights})
      t.eq({#report.loaded, report.unexpected}, {7, {'n_averaged'}}, prefix)
      t.eq(report.mapping, ("without the prefix '%s'"):format(prefix:gsub('_orig_mod%.', '')))
      t.ok(tostring(report):find(report.mapping, 1, true))
      for name in dict.items(model.own) do t.eq(first_byte(model, name), 1) end
    end
    for _, key in ipairs{'ema_state_dict', 'params', 'model_ema', 'params_ema'} do
      t.eq(#checkpoint.load_weights(model_of(names_and_shapes(21)), {epoch = 3, [key] = given 'module.'}).loaded, 7,
           key)
    end
    -- torch.compile of a part of a model, and a classifier's weights under a prefix
    local compiled = state(names_and_shapes(21), 1,
                           function(n) return (n:gsub('^backbone%.', 'backbone._orig_mod.')) end)
    t.eq(#checkpoint.load_weights(model_of(names_and_shapes(21)), compiled).loaded, 7)
    local classifier = state(names_and_shapes(21), 1,
                             function(n) return n:match '^backbone%.(.*)$'
                             and 'module.encoder.' .. n:match '^backbone%.(.*)$' or false end)
    local report = checkpoint.load_weights(model_of(names_and_shapes(21)), classifier)
    t.eq({#report.loaded, report.mapping}, {4, "without the prefix 'module.encoder.', names put under 'backbone.'"})
  end)

  t.case('a key chooses among the weights of a file', function()
    local a, b = state(names_and_shapes(21), 1), state(names_and_shapes(21), 2, function(n) return 'module.' .. n end)
    local both = state(names_and_shapes(21), 3, function(n) return 'student.' .. n end)
    for name, x in dict.items(state(names_and_shapes(21), 4, function(n) return 'teacher.' .. n end)) do
      both[name] = x
    end
    local file = {model = a, model_ema = {state_dict = b}, pair = both}
    for _, case in ipairs{{nil, 1, 'model'}, {'model', 1, 'model'}, {'model_ema', 2, 'model_ema.state_dict'},
                          {'model_ema.state_dict', 2, 'model_ema.state_dict'}} do
      local model = model_of(names_and_shapes(21))
      local report = checkpoint.load_weights(model, file, {key = case[1]})
      t.eq({first_byte(model, 'classifier.4.weight'), report.inside}, {case[2], case[3]})
    end
    for _, case in ipairs{{'student', 3}, {'teacher', 4}} do
      local model = model_of(names_and_shapes(21))
      checkpoint.load_weights(model, both, {key = case[1]})
      t.eq(first_byte(model, 'backbone.conv1.weight'), case[2])
    end
    t.error(function() checkpoint.load_weights(model_of(names_and_shapes(21)), file, {key = 'ema', name = 'x.pth'}) end,
            "x.pth: no weights under 'ema': weights are in model, model_ema, pair %(%-%-weights%-key NAME")
    t.error(function() checkpoint.load_weights(model_of(names_and_shapes(21)), file, {key = 'model_emma'}) end,
            "pair; did you mean 'model_ema'%?")
    t.error(function() checkpoint.load_weights(model_of(names_and_shapes(21)), {teacher_1 = a, epoch = 3},
                                               {name = 'x.pth'}) end,
            'x.pth: holds no weights: weights are in teacher_1 %(%-%-weights%-key NAME says where')
  end)

  t.case('a whole model under its prefix, and a resumed one', function()
    local small = models.deeplabv3_mobilenet_v3_large{num_classes = 2, aux = false}
    local path, weights = t.folder() .. '/prefixed.pth', dict.new()
    for name, x in dict.items(small:state_dict()) do weights['net.module.' .. name] = x end
    dlv3.save(path, {model = dict.from{{'unet.weight', filled({1}, 1)}, {'unet.bias', filled({1}, 1)}},
                     model_ema = weights})
    t.error(function() from_file.load(path) end,
            'not the weights of a DeepLabV3.*the file has unet.weight, unet.bias.*'
            .. '%-%-weights%-key NAME takes another part of it; weights are in model, model_ema')
    local print_, printed = print, nil
    rawset(_G, 'print', function(report) printed = tostring(report) end)
    local ok, model = pcall(from_file.load, path, nil, 'model_ema')
    rawset(_G, 'print', print_)
    t.ok(ok, tostring(model))
    t.ok(printed:find("its 'model_ema', without the prefix 'net.module.'", 1, true), printed)
    t.eq(model:state_dict()['classifier.4.weight'], small:state_dict()['classifier.4.weight'])
    dlv3.no_grad(function() small.classifier['4'].weight:fill_(0) end)
    train.restore_model(small, {model = dlv3.load(path).model_ema}, path)
    t.eq(model:state_dict()['classifier.4.weight']:sum():item(), small.classifier['4'].weight:sum():item())
  end)
end
