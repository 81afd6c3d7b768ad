-- nn - modules and layers, with PyTorch's names; options in a table: nn.Conv2d(16, 32, 3, {padding = 1, bias = false}).

local F = require 'dlv3.core.ffi'
local Module = require 'dlv3.nn.module'
local tensor = require 'dlv3.core.tensor'
local initialise = require 'dlv3.nn.initialise'
local suggest = require 'dlv3.core.suggest'
local options_table = require 'dlv3.core.options_table'
local recompute = require 'dlv3.core.recompute'
local raise, count = F.raise, options_table.count

local nn = {Module = Module, init = initialise, module = Module.class, is_module = Module.is}

-- -- Helpers --------------------------------------------------------------------------------------------------------

-- A tensor that is learned: t itself, marked.
function nn.Parameter(t)
  if not F.is_tensor(t) then raise('Parameter: takes a tensor, a ' .. type(t) .. ' came') end
  return t:requires_grad_()
end

-- v, a number or {h, w} of whole numbers from `least` on, as {h, w}.
local function pair(what, name, v, least)
  if type(v) == 'table' and #v == 2 then return {count(what, name, v[1], least), count(what, name, v[2], least)} end
  if type(v) ~= 'number' then raise(('%s: %s must be a number or {h, w}, %s came'):format(what, name, type(v) == 'table' and 'a table of ' .. #v or tostring(v))) end
  return {count(what, name, v, least), v}
end

local function pair_text(v) return v[1] == v[2] and tostring(v[1]) or '{' .. v[1] .. ', ' .. v[2] .. '}' end

-- "kernel_size = 3, stride = 2": those of the options that are not their defaults.
local function options_text(o, names, defaults)
  local text = ''
  for i, name in ipairs(names) do
    local shown = pair_text(o[name])
    if shown ~= defaults[i] then text = text .. ', ' .. name .. ' = ' .. shown end
  end
  return text
end

-- -- Layers with parameters -----------------------------------------------------------------------------------------

-- x [n,cin,h,w] -> [n,cout,h',w']. options {stride = 1, padding = 0, dilation = 1, groups = 1, bias = true}.
nn.Conv2d = nn.module('Conv2d', function(self, cin, cout, kernel_size, options)
  if kernel_size == nil then raise('Conv2d: is made as nn.Conv2d(input channels, output channels, kernel_size, {options})') end
  local o = options_table('Conv2d', {stride = 1, padding = 0, dilation = 1, groups = 1, bias = true}, options)
  count('Conv2d', 'the number of input channels', cin)
  count('Conv2d', 'the number of output channels', cout)
  count('Conv2d', 'groups', o.groups)
  if cin % o.groups ~= 0 or cout % o.groups ~= 0 then raise(('Conv2d: %d groups do not divide %d and %d channels'):format(o.groups, cin, cout)) end
  local k = pair('Conv2d', 'kernel_size', kernel_size)
  self.channels, self.kernel_size = {cin, cout}, k
  self.options = {stride = pair('Conv2d', 'stride', o.stride), padding = pair('Conv2d', 'padding', o.padding, 0),
                  dilation = pair('Conv2d', 'dilation', o.dilation), groups = o.groups}
  self.weight = nn.Parameter(tensor.empty{cout, cin / o.groups, k[1], k[2]})
  initialise.kaiming_uniform_(self.weight, math.sqrt(5))
  if o.bias then
    local bound = 1 / math.sqrt((initialise.fans(self.weight)))
    self.bias = nn.Parameter(tensor.empty{cout})
    initialise.uniform_(self.bias, -bound, bound)
  end
end)

-- residual, like the result: is added. scale: factors of x's channels. (Fused models give them.)
function nn.Conv2d:forward(x, residual, scale) return self:input(x):conv2d(self.weight, self.bias, residual, scale, self.options) end

function nn.Conv2d:extra()
  local o = self.options
  return ('%d, %d, kernel_size = %s'):format(self.channels[1], self.channels[2], pair_text(self.kernel_size)) ..
         options_text(o, {'stride', 'padding', 'dilation'}, {'1', '0', '1'}) ..
         (o.groups > 1 and ', groups = ' .. o.groups or '') .. (self.bias and '' or ', bias = false') .. (o.activation and ', ' .. o.activation or '')
end

-- options {eps = 1e-5, momentum = 0.1, activation = 'none'}.
-- activation (none relu relu6 hardswish hardsigmoid) and a residual, bn(x, residual), are computed in the same pass. In a model that
-- is to be fused the residual is given to bn:after(conv, x, residual).
nn.BatchNorm2d = nn.module('BatchNorm2d', function(self, channels, options)
  local o = options_table('BatchNorm2d', {eps = 1e-5, momentum = 0.1, activation = 'none'}, options)
  count('BatchNorm2d', 'the number of channels', channels)
  options_table.number('BatchNorm2d', 'eps', o.eps, 0, math.huge)
  options_table.number('BatchNorm2d', 'momentum', o.momentum, 0, 1)
  options_table.one_of('BatchNorm2d', 'activation', o.activation, {'none', 'relu', 'relu6', 'hardswish', 'hardsigmoid'})
  self.channels, self.eps, self.momentum, self.activation = channels, o.eps, o.momentum, o.activation
  self.weight = nn.Parameter(tensor.ones{channels})
  self.bias = nn.Parameter(tensor.zeros{channels})
  self:buffer('running_mean', tensor.zeros{channels})
  self:buffer('running_var', tensor.ones{channels})
  self:buffer('num_batches_tracked', tensor.zeros({}, {dtype = 'i64'}))
end)

function nn.BatchNorm2d:forward(x, residual)
  self:input(x)
  if self.folded then
    if residual then raise 'BatchNorm2d: a residual can not be added after it was folded into its convolution: write bn:after(conv, x, residual) for bn(conv(x), residual)' end
    return x
  end
  local moves = not (self.training and recompute.again) -- statistics, once a batch
  if self.training and moves then self.num_batches_tracked:add_(1) end
  return x:batch_norm(self.weight, self.bias, moves and self.running_mean or nil, moves and self.running_var or nil, residual,
                      {training = self.training, momentum = self.momentum, eps = self.eps, activation = self.activation})
end

-- The result of conv(x), normalised, with the residual added; of a fused model the convolution does it all. scale, in
-- inference: factors of x's channels.
function nn.BatchNorm2d:after(conv, x, residual, scale)
  if self.folded then return conv(x, residual, scale) end
  return self(conv(x, nil, scale), residual)
end

function nn.BatchNorm2d:extra()
  if self.folded then return 'folded' end
  return ('%d, eps = %g, momentum = %g%s'):format(self.channels, self.eps, self.momentum, self.activation ~= 'none' and ', ' .. self.activation or '')
end

-- x [..., cin] -> [..., cout]. options {bias = true}.
nn.Linear = nn.module('Linear', function(self, cin, cout, options)
  local o = options_table('Linear', {bias = true}, options)
  self.weight = nn.Parameter(tensor.empty{count('Linear', 'the number of outputs', cout), count('Linear', 'the number of inputs', cin)})
  initialise.kaiming_uniform_(self.weight, math.sqrt(5))
  if o.bias then
    self.bias = nn.Parameter(tensor.empty{cout})
    initialise.uniform_(self.bias, -1 / math.sqrt(cin), 1 / math.sqrt(cin))
  end
end)
function nn.Linear:forward(x) return self:input(x):linear(self.weight, self.bias) end
function nn.Linear:extra() return ('%d, %d%s'):format(self.weight:size(2), self.weight:size(1), self.bias and '' or ', bias = false') end

-- -- Layers without -------------------------------------------------------------------------------------------------

for name, op in pairs {ReLU = 'relu', ReLU6 = 'relu6', Hardswish = 'hardswish', Hardsigmoid = 'hardsigmoid', Sigmoid = 'sigmoid', Tanh = 'tanh'} do
  nn[name] = nn.module(name, function() end)
  nn[name].forward = function(self, x) return self:input(x)[op](x) end
end

nn.Identity = nn.module('Identity', function() end)
function nn.Identity:forward(x) return x end

-- [n, a, b, ...] -> [n, a b ...].
nn.Flatten = nn.module('Flatten', function() end)
function nn.Flatten:forward(x) return self:input(x):flatten(2) end

-- p (0.5): how likely an element becomes 0; only while training.
nn.Dropout = nn.module('Dropout', function(self, p) self.p = options_table.number('Dropout', 'p', p or 0.5, 0, 1) end)
function nn.Dropout:forward(x) return self.training and self.p > 0 and self:input(x):dropout{p = self.p} or x end
function nn.Dropout:extra() return ('p = %g'):format(self.p) end

-- options {stride = kernel_size, padding = 0, dilation = 1}.
nn.MaxPool2d = nn.module('MaxPool2d', function(self, kernel_size, options)
  local o = options_table('MaxPool2d', {stride = options_table.optional, padding = 0, dilation = 1}, options)
  self.options = {kernel_size = pair('MaxPool2d', 'kernel_size', kernel_size), stride = pair('MaxPool2d', 'stride', o.stride or kernel_size),
                  padding = pair('MaxPool2d', 'padding', o.padding, 0), dilation = pair('MaxPool2d', 'dilation', o.dilation)}
end)
function nn.MaxPool2d:forward(x) return self:input(x):max_pool2d(self.options) end
function nn.MaxPool2d:extra()
  return 'kernel_size = ' .. pair_text(self.options.kernel_size) .. options_text(self.options, {'stride', 'padding', 'dilation'}, {'', '0', '1'})
end

-- size: a number or {h, w}.
nn.AdaptiveAvgPool2d = nn.module('AdaptiveAvgPool2d', function(self, size) self.size = pair('AdaptiveAvgPool2d', 'size', size) end)
function nn.AdaptiveAvgPool2d:forward(x) return self:input(x):adaptive_avg_pool2d{size = self.size} end
function nn.AdaptiveAvgPool2d:extra() return pair_text(self.size) end

local function check_upsample(self, what, options, align_corners)
  local o = options_table(what, {size = options_table.optional, scale_factor = options_table.optional, mode = 'bilinear', align_corners = align_corners}, options)
  options_table.one_of(what, 'mode', o.mode, {'bilinear'})
  if (o.size == nil) == (o.scale_factor == nil) then raise(what .. ': needs size or scale_factor, one of the two') end
  if o.size then o.size = pair(what, 'size', o.size) else options_table.number(what, 'scale_factor', o.scale_factor, 1e-3, 1e6) end
  self.options = o
end

-- Where a factor makes no whole size, PyTorch's pixels lie 1 / factor apart and ours would lie input / output apart.
local function scaled_size(x, o)
  local size = {x:size(3) * o.scale_factor, x:size(4) * o.scale_factor}
  if not o.align_corners and (size[1] % 1 ~= 0 or size[2] % 1 ~= 0) then
    raise(('Upsample: %d x %d by %g is no whole size: give size = {height, width}'):format(x:size(3), x:size(4), o.scale_factor))
  end
  return {math.floor(size[1]), math.floor(size[2])}
end

-- Bilinear, to a size or by a factor: nn.Upsample{size = {65, 65}}, nn.Upsample{scale_factor = 2}; {align_corners = false}.
nn.Upsample = nn.module('Upsample', function(self, options) check_upsample(self, 'Upsample', options, false) end)

function nn.Upsample:forward(x)
  local o = self.options
  self:input(x)
  return x:upsample_bilinear2d{size = o.size or scaled_size(x, o), align_corners = o.align_corners}
end

function nn.Upsample:extra()
  local o = self.options
  return (o.size and 'size = ' .. pair_text(o.size) or 'scale_factor = ' .. o.scale_factor) .. (o.align_corners and ', align_corners = true' or '')
end

-- Upsample with align_corners = true, as in PyTorch: first and last pixels stay in the corners.
nn.UpsamplingBilinear2d = nn.module('UpsamplingBilinear2d', function(self, options) check_upsample(self, 'UpsamplingBilinear2d', options, true) end, nn.Upsample)

-- loss(logits, labels); options {ignore_index = 255, label_smoothing = 0, weight = a tensor per class}.
nn.CrossEntropyLoss = nn.module('CrossEntropyLoss', function(self, options)
  local o = options_table('CrossEntropyLoss', {ignore_index = 255, label_smoothing = 0, weight = options_table.optional}, options)
  if o.weight ~= nil and not F.is_tensor(o.weight) then raise('CrossEntropyLoss: weight must be a tensor with a number per class, a ' .. type(o.weight) .. ' came') end
  self.options = {ignore_index = o.ignore_index, label_smoothing = options_table.number('CrossEntropyLoss', 'label_smoothing', o.label_smoothing, 0, 1)}
  if o.weight then self:buffer('weight', o.weight) end
end)
function nn.CrossEntropyLoss:forward(x, target) return self:input(x):cross_entropy(target, self.weight, self.options) end

-- -- Containers -------------------------------------------------------------------------------------------------------

local function check_part(what, i, layer)
  if not Module.is(layer) then raise(('%s: part %s is a %s, not a module'):format(what, tostring(i), F.is_tensor(layer) and 'tensor' or type(layer))) end
  return layer
end

-- One after the other: nn.Sequential(a, b) names them '0', '1'; nn.Sequential{{'conv', a}, {'bn', b}} as said.
-- The parts are seq[1], seq[2], ... and seq['0'] or seq.conv; #seq counts them.
nn.Sequential = nn.module('Sequential', function(self, ...)
  local list, n = {...}, select('#', ...)
  if n == 1 and type(list[1]) == 'table' and not Module.is(list[1]) then
    for i, entry in ipairs(list[1]) do
      local named = type(entry) == 'table' and not Module.is(entry)
      if named then self[tostring(entry[1])] = check_part('Sequential', entry[1], entry[2])
      else self[i] = check_part('Sequential', i, entry) end
    end
  else
    for i = 1, n do self[i] = check_part('Sequential', i, list[i]) end
  end
end, nil, true)

nn.Sequential.folds_neighbours = true -- of fuse.lua

function nn.Sequential:forward(x)
  for i = 1, #self do x = self[i](x) end
  return x
end

-- A list of modules, named '0', '1', ...; list[i] counts from 1, as Lua does, and list[#list + 1] = m adds one.
nn.ModuleList = nn.module('ModuleList', function(self, list)
  if Module.is(list) or type(list or {}) ~= 'table' then raise('ModuleList: takes a table of modules, nn.ModuleList{a, b}') end
  for i, layer in ipairs(list or {}) do self[i] = check_part('ModuleList', i, layer) end
end, nil, true)

setmetatable(nn, {__index = function(_, name)
  local names = {}
  for k in pairs(nn) do names[#names + 1] = k end
  raise(("nn has no '%s'%s"):format(tostring(name), suggest.text(tostring(name), names)))
end})

return nn
