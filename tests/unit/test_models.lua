-- test_models.lua - the three models: names, sizes, counts, initialisation, options, precisions.
-- Figures are in test_golden.lua, torchvision beside them in test_parity.lua.

local dlv3 = require 'dlv3'
local runtime = require 'dlv3.core.runtime'
local models = require 'models'

return function(t)
  local mobilenet, resnet50, resnet101 = 'deeplabv3_mobilenet_v3_large', 'deeplabv3_resnet50', 'deeplabv3_resnet101'

  -- golden/keys.txt: per model a list of {name, sizes, dtype}, a batch norm written out, and the
  -- number of parameters.
  local function expected_keys()
    local all, list = {}, nil -- luacheck: ignore 331 (what it gathers is in all)
    for line in io.lines(t.directory .. '/golden/keys.txt') do
      local model, entries, parameters = line:match '^# (%S+): (%d+) entries, (%d+) parameters$'
      local prefix, channels = line:match '^(%S+) batch_norm (%d+)$'
      local name, sizes = line:match '^(%S+) ([%dx]+)$'
      if model then
        list = {entries = tonumber(entries), parameters = tonumber(parameters)}
        all[model] = list
      elseif prefix then
        for _, last in ipairs {'weight', 'bias', 'running_mean', 'running_var'} do
          list[#list + 1] = {prefix .. '.' .. last, channels, 'f32'}
        end
        list[#list + 1] = {prefix .. '.num_batches_tracked', '', 'i64'}
      else list[#list + 1] = {name, sizes, 'f32'} end
    end
    return all
  end

  for _, name in ipairs {mobilenet, resnet50, resnet101} do
    t.case(name .. ": names, order, sizes and counts are torchvision's", function()
      local want, i, learned = expected_keys()[name], 0, 0
      local model = models[name]{aux = true}
      local sd = model:state_dict()
      for key, x in dlv3.items(sd) do
        i = i + 1
        t.eq({key, table.concat(x:size(), 'x'), x.dtype}, want[i], 'entry ' .. i)
        if not key:find 'running_' and not key:find 'num_batches' then learned = learned + 1 end
      end
      t.eq({i, #want}, {want.entries, want.entries})
      t.eq(model:num_parameters(), want.parameters)
      t.eq(#model:parameters(), learned)
      -- the order of an optimiser's indices is that of the state dict
      local p = 0
      for key in dlv3.items(sd) do
        if not key:find 'running_' and not key:find 'num_batches' then
          p = p + 1
          t.eq(runtime.address(model:parameters()[p]), runtime.address(sd[key]), key)
        end
        if p > 12 then break end
      end
    end)
  end

  t.case('other numbers of classes, without the auxiliary head', function()
    local model = models[mobilenet]{num_classes = 4}
    local n = 0
    for key in dlv3.items(model:state_dict()) do
      n = n + 1
      t.ok(not key:find '^aux')
    end
    t.eq(n, 352)
    t.eq(model:num_parameters(), 11025477 - 17 * 257)
    t.eq(model.classifier['4'].weight:size(), {4, 256, 1, 1})
    t.eq(model.aux_classifier, nil)
  end)

  -- -- Initialisation -----------------------------------------------------------------------------

  local function close_to(x, std, what)
    local n = x:numel()
    t.close(x:mean():item(), 0, 0, 6 * std / math.sqrt(n), what .. ': mean')
    t.close(x:std():item(), std, 5 / math.sqrt(n), 0, what .. ': standard deviation')
  end

  for _, name in ipairs {mobilenet, resnet50} do
    t.case(name .. ': initialisation', function()
      local model = models[name]{num_classes = 3, aux = true}
      for path, module in model:named_modules() do
        if module.class_name == 'Conv2d' then
          local s = module.weight:size()
          local window, w, bias = s[3] * s[4], module.weight:detach(), module.bias and module.bias:detach()
          if path:find '^backbone' then
            close_to(w, math.sqrt(2 / (s[1] * window)), path)
            if bias then t.eq(bias:abs():max():item(), 0, path) end
          else
            local bound = 1 / math.sqrt(s[2] * window)
            close_to(w, bound / math.sqrt(3), path)
            t.ok(w:abs():max():item() <= bound * 1.0000001, path)
            if bias then t.ok(bias:abs():max():item() <= bound * 1.0000001 and bias:abs():max():item() > 0, path) end
          end
        elseif module.class_name == 'BatchNorm2d' then
          for key, value in pairs {weight = 1, bias = 0, running_mean = 0, running_var = 1, num_batches_tracked = 0} do
            t.eq({module[key]:min():item(), module[key]:max():item()}, {value, value}, path .. '.' .. key)
          end
          local backbone = name == mobilenet and path:find '^backbone'
          t.eq({module.eps, module.momentum}, backbone and {0.001, 0.01} or {1e-5, 0.1}, path)
        end
      end
    end)
  end

  t.case('the same seed makes the same model, another one another', function()
    local function weight(seed)
      dlv3.manual_seed(seed)
      return models[mobilenet]{num_classes = 2}.classifier['1'].weight:detach()
    end
    t.eq(weight(5), weight(5))
    t.ok(not weight(5):equal(weight(6)))
  end)

  -- -- Calls --------------------------------------------------------------------------------------

  t.case('sizes of the results, and the ways to them agree', function()
    local model = models[mobilenet]{num_classes = 6, aux = true}:eval()
    for _, size in ipairs {{65, 49}, {32, 32}, {17, 90}, {1, 1}} do
      dlv3.scope(function()
        local x = dlv3.randn{2, 3, size[1], size[2]}
        local y, small = dlv3.no_grad(model, x), dlv3.no_grad(model.logits, model, x)
        t.eq(y.out:size(), {2, 6, size[1], size[2]})
        t.eq(y.aux:size(), {2, 6, size[1], size[2]})
        t.eq(small.out:size(), {2, 6, math.ceil(size[1] / 16), math.ceil(size[2] / 16)})
        t.eq(small.aux:size(), {2, 6, math.ceil(size[1] / 8), math.ceil(size[2] / 8)})
        t.eq(small.out:upsample_bilinear2d{size = size}, y.out)
        t.eq(small.out:upsample_argmax{size = size}, y.out:argmax(2):to('u8'))
        t.eq(dlv3.no_grad(model.logits, model, x, {aux = false}).aux, nil)
      end)
    end
  end)

  t.case('output_stride and atrous_rates', function()
    local x = dlv3.randn{1, 3, 65, 65}
    for stride, size in pairs {[16] = 5, [32] = 3} do
      local model = models[mobilenet]{num_classes = 2, output_stride = stride, atrous_rates = {2, 4}}:eval()
      t.eq(dlv3.no_grad(model.logits, model, x).out:size(), {1, 2, size, size})
      t.eq(#model.classifier['0'].convs, 4)
      t.eq(model.classifier['0'].project[1].weight:size(), {256, 4 * 256, 1, 1})
      t.eq(model.classifier['0'].convs[3][1].options.dilation, {4, 4})
    end
    for stride, size in pairs {[8] = 9, [16] = 5} do
      local model = models[resnet50]{num_classes = 2, output_stride = stride}:eval()
      t.eq(dlv3.no_grad(model.logits, model, x).out:size(), {1, 2, size, size})
      local dilations = {}
      for i, layer in ipairs {model.backbone.layer3, model.backbone.layer4} do
        dilations[i] = {layer[1].conv2.options.dilation[1], layer[2].conv2.options.dilation[1]}
      end
      t.eq(dilations, stride == 8 and {{1, 2}, {2, 4}} or {{1, 1}, {1, 2}})
    end
  end)

  t.case('bf16 images: the whole network in bf16, the loss and its gradients in f32', function()
    local model = models[mobilenet]{num_classes = 4, aux = true}
    local x = dlv3.randn{2, 3, 65, 65}
    local y, z = dlv3.no_grad(model:eval(), x).out, dlv3.no_grad(model, x:to('bf16')).out
    t.eq(z.dtype, 'bf16')
    t.close(z:float(), y, 0, 0.03 * y:abs():max():item())
    local target = dlv3.randint(0, 4, {2, 65, 65}, {dtype = 'u8'})
    local scores = model:train():logits(x:to('bf16'))
    local loss = scores.out:upsample_cross_entropy(target) + scores.aux:upsample_cross_entropy(target) * 0.5
    t.eq(loss.dtype, 'f32')
    loss:backward()
    for name, p in model:named_parameters() do
      t.eq(p.grad.dtype, 'f32', name)
      t.ok(p.grad:isfinite():all():item() == 1, name)
    end
  end)

  t.case('a step of training changes every parameter and every statistic', function()
    local model = models[mobilenet]{num_classes = 3, aux = true}
    local sgd = require 'dlv3.optim'.SGD(model:parameters(), {lr = 0.05, momentum = 0.9})
    local before = {}
    for key, v in dlv3.items(model:state_dict()) do before[key] = v:clone() end
    local x, target = dlv3.randn{2, 3, 48, 48}, dlv3.randint(0, 3, {2, 48, 48}, {dtype = 'u8'})
    local losses = {}
    for step = 1, 4 do
      losses[step] = dlv3.scope(function()
        local y = model(x)
        local loss = y.out:cross_entropy(target) + y.aux:cross_entropy(target) * 0.5
        sgd:zero_grad()
        loss:backward()
        sgd:step()
        return loss:item()
      end)
    end
    for key, v in dlv3.items(model:state_dict()) do t.ok(not v:equal(before[key]), key .. ' is as it was') end
    t.ok(losses[4] < losses[1], table.concat(losses, ' '))
  end)

  -- -- Errors -------------------------------------------------------------------------------------

  t.case('wrong options and inputs say what is wrong, and where', function()
    t.error(function() models[resnet50]{num_clases = 3} end,
            "test_models.lua:%d+: deeplabv3_resnet50: no option 'num_clases'; did you mean 'num_classes'")
    t.error(function() models[resnet50]{num_classes = 0} end, 'num_classes: expected a whole number from 1, got 0')
    t.error(function() models[resnet50]{aux = 1} end, 'aux: expected true or false, got 1')
    t.error(function() models[resnet50]{output_stride = 4} end, "output_stride: expected one of 8, 16, 32, got 4")
    t.error(function() models[mobilenet]{output_stride = 8} end, "output_stride: expected 16 or 32, got 8")
    t.error(function() models[mobilenet]{atrous_rates = 6} end, 'atrous_rates: expected a list, got 6')
    t.error(function() models[mobilenet]{atrous_rates = {6, 0}} end,
            'atrous_rates.2: expected a whole number from 1, got 0')
    t.error(function() return models.deeplabv3_resnet_50 end,
            "no model is called 'deeplabv3_resnet_50'; did you mean 'deeplabv3_resnet50'")
    local model = models[mobilenet]{num_classes = 2}
    t.error(function() model(dlv3.randn{2, 4, 33, 33}) end,
            'mobilenetv3.lua:%d+: in backbone%.0%.0: conv2d: x has 4 channels but w expects 3')
    t.error(function() model:logits(dlv3.randn{2, 4, 33, 33}) end, 'in backbone%.0%.0: conv2d')
    t.error(function() model(dlv3.randn{1, 3, 33, 33}) end,
            'in classifier%.0%.convs%.4%.2: batch_norm: training needs more than one value a channel')
    t.error(function() model() end, 'DeepLabV3: x: expected a tensor, got nothing')
    t.error(function() model{image = 1} end, 'DeepLabV3: x: expected a tensor, got a table')
    model.backbone['7'].block[2][1] = require 'dlv3.nn'.Conv2d(7, 240, 1)
    t.error(function() model:eval()(dlv3.randn{1, 3, 33, 33}) end, 'in backbone%.7%.block%.1%.0: conv2d')
  end)
end
