-- test_nn.lua - modules: order, names, state dicts, containers, layers, what errors say.

local dlv3 = require 'dlv3'
local nn = require 'dlv3.nn'

return function(t)
  local function names_of(iterator)
    local names = {}
    for name in iterator do names[#names + 1] = name end
    return names
  end

  local function keys_of(sd)
    local names = {}
    for name in dlv3.items(sd) do names[#names + 1] = name end
    return names
  end

  -- -- Order and names ----------------------------------------------------------------------------

  local Block = nn.module('Block', function(self, width)
    self.conv = nn.Conv2d(width, width, 3, {padding = 1})
    self.scale = nn.Parameter(dlv3.ones{width})
    self.norm = nn.BatchNorm2d(width)
    self:buffer('count', dlv3.zeros{1})
    self.plain = dlv3.zeros{2}
    self.width = width
  end)
  function Block:forward(x) return self.norm(self.conv(x)) * self.scale:reshape(1, -1, 1, 1) end

  t.case('own parts come first, then children, each in the order of definition', function()
    local net = nn.Sequential{{'stem', nn.Conv2d(3, 4, 1, {bias = false})}, {'body', Block(4)}}
    t.eq(names_of(net:named_parameters()), {'stem.weight', 'body.scale', 'body.conv.weight', 'body.conv.bias',
                                            'body.norm.weight', 'body.norm.bias'})
    t.eq(names_of(net:named_buffers()), {'body.count', 'body.norm.running_mean', 'body.norm.running_var',
                                         'body.norm.num_batches_tracked'})
    t.eq(names_of(net:named_modules()), {'', 'stem', 'body', 'body.conv', 'body.norm'})
    t.eq(keys_of(net:state_dict()), {'stem.weight', 'body.scale', 'body.count', 'body.conv.weight', 'body.conv.bias',
                                     'body.norm.weight', 'body.norm.bias',
                                     'body.norm.running_mean', 'body.norm.running_var',
                                         'body.norm.num_batches_tracked'})
    t.eq(#net:parameters(), 6)
    t.eq(#net:children(), 2)
    t.eq(net:num_parameters(), 12 + 4 * 4 * 9 + 4 + 4 + 8)
    t.eq(net.body.norm.num_batches_tracked.dtype, 'i64')
    t.eq(net.body.norm.num_batches_tracked:size(), {})
  end)

  t.case('a part that is replaced keeps its place; one that is taken out is gone', function()
    local block = Block(2)
    block.conv = nn.Conv2d(2, 2, 1, {bias = false})
    block.norm.bias = nil
    t.eq(names_of(block:named_parameters()), {'scale', 'conv.weight', 'norm.weight'})
    block.norm.bias = nn.Parameter(dlv3.zeros{2})
    t.eq(names_of(block:named_parameters()), {'scale', 'conv.weight', 'norm.weight', 'norm.bias'})
  end)

  t.case('containers: by number from 1, by name from 0, the two never differ', function()
    local seq = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    t.eq(#seq, 3)
    t.ok(seq[1] == seq['0'] and seq[3] == seq['2'])
    seq['2'] = nn.Conv2d(4, 5, 1)
    t.eq(seq(dlv3.ones{1, 3, 2, 2}):size(), {1, 5, 2, 2})
    seq[3] = nn.Conv2d(4, 6, 1)
    t.ok(seq['2'] == seq[3])
    seq[#seq + 1] = nn.Conv2d(6, 7, 1)
    t.eq(seq(dlv3.ones{1, 3, 2, 2}):size(), {1, 7, 2, 2})
    t.eq(names_of(seq:named_parameters()), {'0.weight', '0.bias', '2.weight', '2.bias', '3.weight', '3.bias'})

    local named = nn.Sequential{{'conv', nn.Conv2d(3, 4, 1)}, {'act', nn.ReLU()}}
    t.ok(named.conv == named[1] and named.act == named[2])
    t.eq(keys_of(named:state_dict()), {'conv.weight', 'conv.bias'})

    local list = nn.ModuleList{nn.Linear(2, 3), nn.Linear(3, 4)}
    local sizes = {}
    for i, layer in ipairs(list) do sizes[i] = layer.weight:size() end
    t.eq(sizes, {{3, 2}, {4, 3}})
    t.eq(names_of(list:named_parameters()), {'0.weight', '0.bias', '1.weight', '1.bias'})
    list['1'] = nn.Linear(3, 9)
    t.eq(list[2].weight:size(), {9, 3})

    t.error(function() nn.Sequential(nn.ReLU(), 3) end, 'Sequential: part 2: expected a module, got 3')
    t.error(function() nn.Sequential{{'conv', dlv3.ones{1}}} end,
            'Sequential: part conv: expected a module, got a tensor of sizes %[1%]')
    t.error(function() nn.ModuleList(nn.ReLU()) end,
            'ModuleList: expected a table of modules, as in nn.ModuleList{a, b}, got a module')
    t.error(function() list[5] = nn.ReLU() end, 'no part 5 to replace: it has 2 parts')
    t.error(function() list['1'] = nil end, 'part 1: expected a module, got nothing')
  end)

  t.case('modules in a plain table are not hidden', function()
    local Net = nn.module('Net', function(self) self.layers = {nn.ReLU(), nn.Linear(2, 2)} end)
    t.error(function() Net() end, "Net: 'layers' is a plain table with modules in it, .*: use nn.ModuleList")
    local Other = nn.module('Other', function(self) self[1] = nn.ReLU() end)
    t.error(function() Other() end, 'Other: expected a name for a part of a module, got the key 1')
  end)

  t.case('what is shared is learned once and saved under both names', function()
    local layer = nn.Linear(3, 3)
    local net = nn.Sequential(layer, nn.ReLU(), layer)
    t.eq(names_of(net:named_parameters()), {'0.weight', '0.bias'})
    t.eq(names_of(net:named_modules()), {'', '0', '1'})
    t.eq(keys_of(net:state_dict()), {'0.weight', '0.bias', '2.weight', '2.bias'})
  end)

  -- -- Modes, moving, freezing --------------------------------------------------------------------

  t.case('train, eval, requires_grad_, apply', function()
    local net = nn.Sequential(Block(2), nn.Dropout(0.5))
    t.ok(net:eval() == net and not net[1].norm.training and not net[2].training)
    t.ok(net:train()[1].norm.training)
    net:requires_grad_(false)
    for _, p in net:named_parameters() do t.ok(not p.requires_grad) end
    t.eq(#net:parameters(), 5)
    net:requires_grad_(true)
    local seen = {}
    net:apply(function(m) seen[#seen + 1] = m.class_name end)
    t.eq(seen, {'Sequential', 'Block', 'Conv2d', 'BatchNorm2d', 'Dropout'})
  end)

  t.case('to: f64 and back, other dtypes are explained', function()
    local net = Block(2)
    local before = net:state_dict()['conv.weight']:clone()
    t.ok(net:to('cpu', 'f64') == net)
    for name, v in dlv3.items(net:state_dict()) do t.eq(v.dtype, name:find 'tracked' and 'i64' or 'f64', name) end
    t.eq(net(dlv3.ones({1, 2, 3, 3}, {dtype = 'f64'})).dtype, 'f64')
    net:to('f32')
    t.eq(net.conv.weight:detach(), before)
    t.ok(net.conv.weight.requires_grad and net.conv.weight.is_leaf)
    t.error(function() net:to('cpu', 'bf16') end,
            "to: parameters stay f32 .* the dtype of the images selects the precision: model%(x:to%('bf16'%)%)")
    t.error(function() net:to('cpu', 'f46') end, "the dtype: expected f32 or f64, got 'f46'; did you mean 'f64'")
    t.error(function() net:to 'float16' end, "no dtype is called 'float16': it is 'f16' here")
    t.error(function() net:to('cpux') end, 'cpux')
  end)

  t.case('a model moved or fused in a scope outlives it', function()
    local net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)):eval()
    local x = dlv3.randn{1, 2, 3, 3}
    local want = net(x)
    dlv3.scope(function() net:to 'f64' end)
    t.close(net(x:to 'f64'):to 'f32', want, 1e-5, 1e-5)
    dlv3.scope(function() net:to 'f32' end)
    t.close(net(x), want, 1e-5, 1e-5)
    dlv3.scope(function() net:fuse() end)
    t.close(net(x), want, 1e-5, 1e-5)
  end)

  t.case('a model that is made and moved in a scope ends with it', function()
    local net
    dlv3.scope(function() net = nn.Linear(2, 2):to 'f64' end)
    t.error(function() return net.weight:totable() end, 'released')
  end)

  t.case('bf16 activations keep parameters, statistics and gradients f32', function()
    local net = Block(4)
    local y = net(dlv3.randn{2, 4, 5, 5}:to('bf16'))
    t.eq(net.conv(dlv3.randn{2, 4, 5, 5}:to('bf16')).dtype, 'bf16')
    y:float():square():mean():backward()
    t.eq(net.conv.weight.grad.dtype, 'f32')
    t.eq(net.norm.running_mean.dtype, 'f32')
  end)

  t.case('batch norm counts batches in training only', function()
    local bn = nn.BatchNorm2d(3, {momentum = 0.5, activation = 'relu'})
    local x = dlv3.randn{2, 3, 4, 4}
    bn(x)
    bn(x)
    t.eq(bn.num_batches_tracked:item(), 2)
    bn:eval()(x)
    t.eq(bn.num_batches_tracked:item(), 2)
    local y = bn(x, dlv3.full({2, 3, 4, 4}, 100))
    t.ok(y:min():item() > 50, 'the residual is added')
  end)

  -- -- State dicts --------------------------------------------------------------------------------

  t.case('state dicts: there and back, sharing memory with the model', function()
    local a, b = Block(3), Block(3)
    local sd = a:state_dict()
    t.ok(not sd['conv.weight'].requires_grad)
    local missing, unexpected = b:load_state_dict(sd)
    t.eq({missing, unexpected}, {{}, {}})
    for name, v in dlv3.items(b:state_dict()) do t.eq(v, sd[name], name) end
    b.conv.weight:detach():fill_(7)
    t.eq(b:state_dict()['conv.weight'][{1, 1, 1, 1}]:item(), 7)
    t.ok(a.conv.weight[{1, 1, 1, 1}]:item() ~= 7)
  end)

  t.case('state dicts: what does not fit is listed with sizes, and nothing is copied', function()
    local net = Block(3)
    local before = net.conv.weight:detach():clone()
    local sd = Block(3):state_dict()
    sd['conv.bias'] = nil
    sd['extra.weight'] = dlv3.zeros{4, 2}
    local text = t.error(function() net:load_state_dict(sd) end,
                         'load_state_dict: the state dict does not fit the model')
    t.ok(text:find('missing (1):\n    conv.bias [3]', 1, true), text)
    t.ok(text:find('unexpected (1):\n    extra.weight [4, 2]', 1, true), text)
    t.eq(net.conv.weight:detach(), before)
    local missing, unexpected = net:load_state_dict(sd, {strict = false})
    t.eq({missing, unexpected}, {{'conv.bias'}, {'extra.weight'}})
    t.eq(net.conv.weight:detach(), sd['conv.weight'])
    sd.scale = dlv3.zeros{5}
    t.error(function() net:load_state_dict(sd, {strict = false}) end, 'scale: the file has %[5%], the model %[3%]')
    t.error(function() net:load_state_dict(sd, {strickt = false}) end, "no option 'strickt'; did you mean 'strict'")
    t.error(function() net:load_state_dict(nil) end,
            'load_state_dict: expected a state dict, as from dlv3.load%(path%), got nothing')
  end)

  t.case('files from before num_batches_tracked are whole', function()
    local net, sd = nn.BatchNorm2d(3), nn.BatchNorm2d(3):state_dict()
    sd.num_batches_tracked = nil
    local missing = net:load_state_dict(sd)
    t.eq(missing, {})
  end)

  -- -- Errors -------------------------------------------------------------------------------------

  local Net = nn.module('Net', function(self)
    self.layers = nn.ModuleList{nn.Conv2d(3, 4, 1),
                                nn.Sequential{{'first', nn.Conv2d(4, 5, 1)}, {'second', nn.Conv2d(6, 7, 1)}}}
    self.head = nn.Linear(7, 2)
  end)
  function Net:forward(x)
    for _, layer in ipairs(self.layers) do x = layer(x) end
    return self.head(x)
  end

  t.case('errors say where in the model', function()
    local net, x = Net(), dlv3.ones{1, 3, 2, 2}
    t.error(function() net(x) end, 'test_nn.lua:%d+: in layers%.1%.second: conv2d: ')
    t.error(function() net.layers[2](dlv3.ones{1, 4, 2, 2}) end, 'in 1%.second: conv2d')
    net.layers[2].second = nn.Conv2d(5, 7, 1)
    net.head = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 1, 1))
    t.error(function() net(x) end, 'in head%.1: conv2d')
    -- errors that were caught by hand leave nothing behind
    for _ = 1, 3 do pcall(net, x) end
    local ok, message = pcall(net, x)
    t.ok(not ok and message:find('in head.1: conv2d', 1, true), tostring(message))
    local Fails = nn.module('Fails', function() end)
    function Fails:forward() error('mine') end
    net.head = nn.Sequential(Fails())
    for _ = 1, 3 do pcall(net, x) end
    net.head = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 1, 1))
    t.error(function() net(x) end, '%d+: in head%.1: conv2d')
    t.error(function() dlv3.ones{1}:conv2d(3) end, '^[^:]*:%d+: conv2d')
  end)

  t.case('options and arguments are checked', function()
    t.error(function() nn.Conv2d(3, 4, 3, {strde = 2}) end,
            "Conv2d: no option 'strde'; did you mean 'stride'%? %(has: bias, dilation, groups, padding, stride%)")
    t.error(function() nn.Conv2d(3, 4, 3, 1) end, 'Conv2d: expected a table of options, as in {bias = ...}, got 1')
    t.error(function() nn.Conv2d(3, 4) end, 'Conv2d: expected nn.Conv2d%(input channels')
    t.error(function() nn.Conv2d(3, 4, {3, 3, 3}) end,
            'Conv2d: kernel_size: expected a whole number from 1, or {h, w}, got a list')
    t.error(function() nn.Conv2d(3, 4, 3, {stride = 0}) end,
            'Conv2d: stride: expected a whole number from 1, or {h, w}, got 0')
    t.error(function() nn.Conv2d(3, 4, 3, {bias = 1}) end, 'Conv2d: bias: expected true or false, got 1')
    t.error(function() nn.Conv2d(3, 4, 3, {groups = 2}) end, '2 groups do not divide 3 and 4 channels')
    t.error(function() nn.Conv2d(0, 4, 3) end, 'the number of input channels: expected a whole number from 1, got 0')
    t.error(function() nn.BatchNorm2d(4, {activation = 'rleu'}) end,
            "activation: expected one of none, relu, .*got 'rleu'; did you mean 'relu'")
    t.error(function() nn.Dropout(2) end, 'Dropout: p: expected a number from 0 to 1, got 2')
    t.error(function() nn.Upsample{} end, 'Upsample: expected size or scale_factor')
    t.error(function() nn.Upsample{size = 3, mode = 'nearest'} end, "Upsample: mode: expected bilinear, got 'nearest'")
    t.error(function() nn.Upsample{scale_factor = 1.5}(dlv3.ones{1, 1, 5, 4}) end,
            'Upsample: 5 x 4 by 1.5 is no whole size')
    t.error(function() return nn.Conv2D end, "nn has no 'Conv2D'; did you mean 'Conv2d'")
    t.error(function() nn.module('Empty', function() end)()(1) end, "module 'Empty' has no forward")
    t.error(function() nn.module('Empty') end, 'nn.module: expected a name and a function')
    t.error(function() nn.init.kaiming_normal_(dlv3.ones{2, 2}, 'fan_uot') end,
            "mode: expected fan_in or fan_out, got 'fan_uot'; did you mean 'fan_out'")
    t.error(function() nn.init.kaiming_normal_(dlv3.ones{2}) end,
            'expected a weight of at least 2 dimensions to count its fan, got 1')
  end)

  t.case('what a model looks like', function()
    local net = nn.Sequential{{'conv', nn.Conv2d(3, 4, 3, {stride = 2, padding = {1, 2}, bias = false})},
                              {'body', nn.Sequential(nn.BatchNorm2d(4, {activation = 'relu'}),
                              nn.MaxPool2d(3, {stride = 2, padding = 1}), nn.Dropout(0.1),
                              nn.Upsample{scale_factor = 2})}}
    t.eq(tostring(net), 'Sequential(\n  (conv): Conv2d(3, 4, kernel_size = 3, stride = 2, padding = {1, 2}, bias = '
                        .. 'false)\n  (body): Sequential(\n'
                        .. '    (0): BatchNorm2d(4, eps = 1e-05, momentum = 0.1, relu)\n'
                        .. '    (1): MaxPool2d(kernel_size = 3, stride = 2, padding = 1)\n    (2): Dropout(p = 0.1)\n'
                        .. '    (3): Upsample(scale_factor = 2)\n  )\n)')
  end)

  -- -- Layers -------------------------------------------------------------------------------------

  t.case('layers are their ops', function()
    local x = dlv3.randn{2, 4, 6, 5}
    for layer, op in pairs {ReLU = 'relu', ReLU6 = 'relu6', Hardswish = 'hardswish', Hardsigmoid = 'hardsigmoid',
                            Sigmoid = 'sigmoid', Tanh = 'tanh'} do
      t.eq(nn[layer]()(x), x[op](x), layer)
    end
    t.eq(nn.Identity()(x), x)
    t.eq(nn.Flatten()(x):size(), {2, 120})
    t.eq(nn.MaxPool2d(3, {stride = 2, padding = 1})(x), x:max_pool2d{kernel_size = 3, stride = 2, padding = 1})
    t.eq(nn.MaxPool2d(2)(x), x:max_pool2d{kernel_size = 2, stride = 2})
    t.eq(nn.AdaptiveAvgPool2d(1)(x), x:adaptive_avg_pool2d(1))
    t.eq(nn.Upsample{scale_factor = 2, mode = 'bilinear'}(x), x:upsample_bilinear2d{size = {12, 10}})
    t.eq(nn.Upsample{size = {9, 7}}(x), x:upsample_bilinear2d{size = {9, 7}})
    t.eq(nn.UpsamplingBilinear2d{scale_factor = 2}(x), x:upsample_bilinear2d{size = {12, 10}, align_corners = true})
    local drop = nn.Dropout(0.5)
    t.eq(drop:eval()(x), x)
    local y = drop:train()(x)
    t.ok(y:eq(0):sum():item() > 60)
    local linear = nn.Linear(5, 3)
    t.close(linear(x), (x:reshape(-1, 5):matmul(linear.weight:t()) + linear.bias):reshape(2, 4, 6, 3), 1e-5, 1e-6)
    local target = dlv3.randint(0, 4, {2, 6, 5}, {dtype = 'u8'})
    local weight = dlv3.tensor{1, 2, 3, 4}
    t.eq(nn.CrossEntropyLoss{weight = weight, label_smoothing = 0.1}(x, target),
         x:cross_entropy(target, weight, {label_smoothing = 0.1}))
  end)

  t.case('initialisation has the documented statistics', function()
    local function statistics(w) return w:mean():item(), w:std():item(), w:abs():max():item() end
    local conv = nn.Conv2d(64, 96, 3)
    local mean, std, largest = statistics(conv.weight)
    local bound = 1 / math.sqrt(64 * 9)
    t.close({mean, std}, {0, bound / math.sqrt(3)}, 0.02, 0.02 * bound)
    t.ok(largest <= bound and largest > 0.999 * bound)
    t.ok(select(3, statistics(conv.bias)) <= bound)
    nn.init.kaiming_normal_(conv.weight, 'fan_out')
    mean, std = statistics(conv.weight)
    t.close({mean, std}, {0, math.sqrt(2 / (96 * 9))}, 0.02, 1e-3)
    nn.init.kaiming_normal_(conv.weight)
    t.close(select(2, statistics(conv.weight)), math.sqrt(2 / (64 * 9)), 0.02, 0)
    t.close({nn.init.fans(dlv3.zeros{8, 1, 3, 3})}, {9, 72}, 0, 0) -- depthwise: groups do not divide fan_out
    nn.init.normal_(conv.weight, 1, 0.5)
    mean, std = statistics(conv.weight)
    t.close({mean, std}, {1, 0.5}, 0.02, 0)
    nn.init.uniform_(conv.weight, 2, 4)
    t.close((statistics(conv.weight)), 3, 0.02, 0)
    t.eq(nn.init.constant_(conv.bias, 3)[1]:item(), 3)
    t.ok(conv.bias.is_leaf and conv.bias.requires_grad)
  end)

  t.case('what takes the place of a plain field is a part all the same', function()
    local Late = nn.module('Late', function(self) self.head, self.scale = false, 0 end)
    local net = Late()
    net.head, net.scale = nn.Linear(1, 1), nn.Parameter(dlv3.ones{1})
    t.eq(#net:parameters(), 3)
    t.ok(net:state_dict()['head.weight'])
    net.scale = net.scale * 2
    t.error(function() net:parameters() end, "Late: the parameter 'scale' was replaced by the result of an operation")
    net.scale = 5
    t.error(function() net:state_dict() end, "Late: the parameter 'scale' was replaced by 5")
    net.scale = nil
    t.eq(#net:parameters(), 2)
  end)

  t.case('a part appended to numbered names with gaps has a name of its own', function()
    local c = nn.Sequential{{'0', nn.Linear(1, 1)}, {'2', nn.Linear(1, 1)}}
    c[#c + 1] = nn.Linear(1, 1)
    t.eq(#c, 3)
    t.eq(#c:parameters(), 6)
    t.ok(c:state_dict()['3.weight'] and c:state_dict()['2.weight'])
    t.error(function() c:train(0) end, 'train: on: expected true or false, got 0')
  end)
end
