-- nn - modules and layers, with PyTorch's names; options in a table: nn.Conv2d(16, 32, 3, {padding = 1, bias = false}).

local F = require 'dlv3.ffi'
local Module = require 'dlv3.nn.module'
local tensor = require 'dlv3.tensor'
local initialise = require 'dlv3.nn.initialise'
local nearest = require 'dlv3.nearest'
local raise = F.raise

local nn = {Module = Module, init = initialise, module = Module.class, is_module = Module.is}

-- -- Helpers --------------------------------------------------------------------------------------------------------

-- A tensor that is learned: t itself, marked.
function nn.Parameter(t) return t:requires_grad_() end

-- The user's options over the defaults; unknown names are errors with the nearest one.
local function options_of(what, defaults, given)
  local options, names = {}, {}
  for name, v in pairs(defaults) do options[name], names[#names + 1] = v, name end
  table.sort(names)
  for name, v in pairs(given or {}) do
    if defaults[name] == nil then
      raise(("%s: no option '%s'%s (has: %s)"):format(what, tostring(name), nearest.text(tostring(name), names), table.concat(names, ', ')))
    end
    options[name] = v
  end
  return options
end

local function count(what, name, v)
  if type(v) ~= 'number' or v < 1 or v ~= math.floor(v) then raise(('%s: %s must be a whole number from 1, %s came'):format(what, name, tostring(v))) end
  return v
end

local function pair(v) return type(v) == 'table' and v or {v, v} end
local function pair_text(v)
  v = pair(v)
  return v[1] == v[2] and tostring(v[1]) or '{' .. v[1] .. ', ' .. v[2] .. '}'
end

-- -- Layers with parameters -----------------------------------------------------------------------------------------

-- x [n,cin,h,w] -> [n,cout,h',w']. options {stride = 1, padding = 0, dilation = 1, groups = 1, bias = true}.
nn.Conv2d = nn.module('Conv2d', function(self, cin, cout, kernel_size, options)
  local o = options_of('Conv2d', {stride = 1, padding = 0, dilation = 1, groups = 1, bias = true}, options)
  count('Conv2d', 'the number of input channels', cin)
  count('Conv2d', 'the number of output channels', cout)
  if kernel_size == nil then raise('Conv2d: is made as nn.Conv2d(input channels, output channels, kernel_size, {options})') end
  local k = pair(kernel_size)
  if cin % o.groups ~= 0 or cout % o.groups ~= 0 then raise(('Conv2d: %d groups do not divide %d and %d channels'):format(o.groups, cin, cout)) end
  rawset(self, 'options', {stride = o.stride, padding = o.padding, dilation = o.dilation, groups = o.groups})
  rawset(self, 'shape', {cin, cout, k})
  self.weight = nn.Parameter(tensor.empty{cout, cin / o.groups, k[1], k[2]})
  initialise.kaiming_uniform_(self.weight, math.sqrt(5))
  if o.bias then
    local bound = 1 / math.sqrt((initialise.fans(self.weight)))
    self.bias = nn.Parameter(tensor.empty{cout})
    initialise.uniform_(self.bias, -bound, bound)
  end
end)

function nn.Conv2d:forward(x) return x:conv2d(self.weight, self.bias, self.options) end

function nn.Conv2d:extra()
  local s, o = self.shape, self.options
  local text = ('%d, %d, kernel_size = %s'):format(s[1], s[2], pair_text(s[3]))
  for _, name in ipairs {'stride', 'padding', 'dilation', 'groups'} do
    local default = name == 'padding' and '0' or '1'
    if pair_text(o[name]) ~= default then text = text .. ', ' .. name .. ' = ' .. pair_text(o[name]) end
  end
  return self.bias and text or text .. ', bias = false'
end

-- options {eps = 1e-5, momentum = 0.1, activation = 'none'}.
-- activation (none relu relu6 hardswish hardsigmoid) and a residual, bn(x, residual), are computed in the same pass.
nn.BatchNorm2d = nn.module('BatchNorm2d', function(self, channels, options)
  local o = options_of('BatchNorm2d', {eps = 1e-5, momentum = 0.1, activation = 'none'}, options)
  count('BatchNorm2d', 'the number of channels', channels)
  for name, v in pairs(o) do rawset(self, name, v) end
  rawset(self, 'channels', channels)
  self.weight = nn.Parameter(tensor.ones{channels})
  self.bias = nn.Parameter(tensor.zeros{channels})
  self:buffer('running_mean', tensor.zeros{channels})
  self:buffer('running_var', tensor.ones{channels})
  self:buffer('num_batches_tracked', tensor.zeros({}, {dtype = 'i64'}))
end)

function nn.BatchNorm2d:forward(x, residual)
  if self.training then self.num_batches_tracked:add_(1) end
  return x:batch_norm(self.weight, self.bias, self.running_mean, self.running_var, residual,
                      {training = self.training, momentum = self.momentum, eps = self.eps, activation = self.activation})
end

function nn.BatchNorm2d:extra()
  return ('%d, eps = %g, momentum = %g%s'):format(self.channels, self.eps, self.momentum, self.activation ~= 'none' and ', ' .. self.activation or '')
end

-- x [..., cin] -> [..., cout]. options {bias = true}.
nn.Linear = nn.module('Linear', function(self, cin, cout, options)
  local o = options_of('Linear', {bias = true}, options)
  self.weight = nn.Parameter(tensor.empty{count('Linear', 'the number of outputs', cout), count('Linear', 'the number of inputs', cin)})
  initialise.kaiming_uniform_(self.weight, math.sqrt(5))
  if o.bias then
    self.bias = nn.Parameter(tensor.empty{cout})
    initialise.uniform_(self.bias, -1 / math.sqrt(cin), 1 / math.sqrt(cin))
  end
end)
function nn.Linear:forward(x) return x:linear(self.weight, self.bias) end
function nn.Linear:extra() return ('%d, %d'):format(self.weight:size(2), self.weight:size(1)) end

-- -- Layers without -------------------------------------------------------------------------------------------------

for name, op in pairs {ReLU = 'relu', ReLU6 = 'relu6', Hardswish = 'hardswish', Hardsigmoid = 'hardsigmoid', Sigmoid = 'sigmoid', Tanh = 'tanh'} do
  nn[name] = nn.module(name, function() end)
  nn[name].forward = function(_, x) return x[op](x) end
end

nn.Identity = nn.module('Identity', function() end)
function nn.Identity:forward(x) return x end

nn.Flatten = nn.module('Flatten', function() end)
function nn.Flatten:forward(x) return x:flatten(2) end

-- p (0.5): how likely an element becomes 0; only while training.
nn.Dropout = nn.module('Dropout', function(self, p) rawset(self, 'p', p or 0.5) end)
function nn.Dropout:forward(x) return self.training and x:dropout{p = self.p} or x end
function nn.Dropout:extra() return ('p = %g'):format(self.p) end

-- options {stride = kernel_size, padding = 0, dilation = 1}.
nn.MaxPool2d = nn.module('MaxPool2d', function(self, kernel_size, options)
  rawset(self, 'options', options_of('MaxPool2d', {kernel_size = kernel_size, stride = 0, padding = 0, dilation = 1}, options))
end)
function nn.MaxPool2d:forward(x) return x:max_pool2d(self.options) end

-- size: a number or {h, w}.
nn.AdaptiveAvgPool2d = nn.module('AdaptiveAvgPool2d', function(self, size) rawset(self, 'size', size) end)
function nn.AdaptiveAvgPool2d:forward(x) return x:adaptive_avg_pool2d{size = self.size} end

-- Bilinear, to size {h, w} or by a factor: nn.Upsample{size = {65, 65}}, nn.Upsample{scale_factor = 2}.
nn.Upsample = nn.module('Upsample', function(self, options)
  rawset(self, 'options', options_of('Upsample', {size = false, scale_factor = false, align_corners = false}, options))
  if (not self.options.size) == (not self.options.scale_factor) then raise('Upsample: needs size or scale_factor') end
end)
function nn.Upsample:forward(x)
  local o = self.options
  local size = o.size or {math.floor(x:size(3) * o.scale_factor), math.floor(x:size(4) * o.scale_factor)}
  return x:upsample_bilinear2d{size = size, align_corners = o.align_corners}
end

-- loss(logits, labels); options {ignore_index = 255, label_smoothing = 0, weight = a tensor per class}.
nn.CrossEntropyLoss = nn.module('CrossEntropyLoss', function(self, options)
  rawset(self, 'options', options_of('CrossEntropyLoss', {ignore_index = 255, label_smoothing = 0, weight = false}, options))
end)
function nn.CrossEntropyLoss:forward(x, target)
  local o = self.options
  return x:cross_entropy(target, {ignore_index = o.ignore_index, label_smoothing = o.label_smoothing, weight = o.weight or nil})
end

-- -- Containers -------------------------------------------------------------------------------------------------------

-- One after the other: nn.Sequential(a, b) names them '0', '1'; nn.Sequential{{'conv', a}, {'bn', b}} as said.
nn.Sequential = nn.module('Sequential', function(self, ...)
  local list = {...}
  if #list == 1 and type(list[1]) == 'table' and not Module.is(list[1]) then
    for _, entry in ipairs(list[1]) do self[tostring(entry[1])] = entry[2] end
  else
    for i, layer in ipairs(list) do self[tostring(i - 1)] = layer end
  end
  for i, layer in ipairs(list) do
    if type(layer) ~= 'table' then raise(('Sequential: part %d is a %s, not a module'):format(i, type(layer))) end
  end
end)
function nn.Sequential:forward(x)
  for _, key in ipairs(self._order) do x = self[key](x) end
  return x
end

-- A list of modules, named '0', '1', ...; list[i] counts from 1, as Lua does.
nn.ModuleList = nn.module('ModuleList', function(self, list)
  for i, layer in ipairs(list) do
    self[tostring(i - 1)] = layer
    rawset(self, i, layer)
  end
end)

setmetatable(nn, {__index = function(_, name)
  local names = {}
  for k in pairs(nn) do names[#names + 1] = k end
  raise(("nn has no '%s'%s"):format(tostring(name), nearest.text(tostring(name), names)))
end})

return nn
