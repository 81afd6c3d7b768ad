-- mobilenetv3.lua - MobileNetV3-Large as a backbone, the last stage dilated instead of strided, the
-- classifier left out.
--
-- The modules are numbered as torchvision's `features`, whose weights fit.

local nn = require 'dlv3.nn'

local norm = {eps = 0.001, momentum = 0.01} -- of every batch norm here; the heads use the defaults

-- Convolution, batch norm, activation: '0' and '1'.
local function conv_norm(cin, cout, kernel, activation, options)
  options = options or {}
  local dilation = options.dilation or 1
  return nn.Sequential(
    nn.Conv2d(cin, cout, kernel, {stride = options.stride or 1, padding = (kernel - 1) / 2 * dilation,
                                  dilation = dilation, groups = options.groups or 1, bias = false}),
    nn.BatchNorm2d(cout, {eps = norm.eps, momentum = norm.momentum, activation = activation}))
end

-- Nearest multiple of 8, never more than 10 % below.
local function divisible(v)
  local n = math.max(8, math.floor((v + 4) / 8) * 8)
  return n < 0.9 * v and n + 8 or n
end

-- A factor for each channel from the mean of its map.
local SqueezeExcitation = nn.module('SqueezeExcitation', function(self, channels)
  local squeezed = divisible(math.floor(channels / 4))
  self.fc1 = nn.Conv2d(channels, squeezed, 1)
  self.fc2 = nn.Conv2d(squeezed, channels, 1)
end)

-- After fusing the convolutions apply their activations themselves.
function SqueezeExcitation:fused() self.fc1.options.activation, self.fc2.options.activation = 'relu', 'hardsigmoid' end

-- x [n, c, h, w] -> the factors of its channels, [n, c, 1, 1].
function SqueezeExcitation:factors(x)
  local mean = x:adaptive_avg_pool2d(1)
  if self.is_fused then return self.fc2(self.fc1(mean)) end
  return self.fc2(self.fc1(mean):relu()):hardsigmoid()
end

-- x [n, c, h, w] -> the same sizes.
function SqueezeExcitation:forward(x) return x * self:factors(x) end

-- Expand 1x1, depthwise, squeeze and excite, project 1x1; the input is added where sizes agree.
local InvertedResidual = nn.module('InvertedResidual', function(self, c)
  local list = {}
  if c.expanded ~= c.cin then list[#list + 1] = conv_norm(c.cin, c.expanded, 1, c.activation) end
  local stride = c.dilation > 1 and 1 or c.stride
  list[#list + 1] = conv_norm(c.expanded, c.expanded, c.kernel, c.activation,
                              {stride = stride, dilation = c.dilation, groups = c.expanded})
  if c.se then list[#list + 1] = SqueezeExcitation(c.expanded) end
  list[#list + 1] = conv_norm(c.expanded, c.cout, 1, 'none')
  self.block = nn.Sequential(unpack(list))
  self.add = c.stride == 1 and c.cin == c.cout
end)

InvertedResidual.is_block = true -- of deeplabv3.lua's checkpoint_activations

-- x [n, cin, h, w] -> [n, cout, h', w'].
function InvertedResidual:forward(x)
  local block, y, scale = self.block, x, nil
  for i = 1, #block - 1 do
    if block[i].factors and self.is_fused and x.device == 'cpu' then
      scale = block[i]:factors(y) -- the convolution multiplies by them as it reads
    else
      y = block[i](y)
    end
  end
  local conv, last = block[#block][1], block[#block][2]
  return last:after(conv, y, self.add and x or nil, scale)
end

-- in, kernel, expanded, out, squeeze-excitation, activation, stride; the last three are the dilated
-- stage.
local settings = {
  {16, 3, 16, 16, false, 'relu', 1},
  {16, 3, 64, 24, false, 'relu', 2},
  {24, 3, 72, 24, false, 'relu', 1},
  {24, 5, 72, 40, true, 'relu', 2},
  {40, 5, 120, 40, true, 'relu', 1},
  {40, 5, 120, 40, true, 'relu', 1},
  {40, 3, 240, 80, false, 'hardswish', 2},
  {80, 3, 200, 80, false, 'hardswish', 1},
  {80, 3, 184, 80, false, 'hardswish', 1},
  {80, 3, 184, 80, false, 'hardswish', 1},
  {80, 3, 480, 112, true, 'hardswish', 1},
  {112, 3, 672, 112, true, 'hardswish', 1},
  {112, 5, 672, 160, true, 'hardswish', 2},
  {160, 5, 960, 160, true, 'hardswish', 1},
  {160, 5, 960, 160, true, 'hardswish', 1},
}
local first_dilated, aux_position = 13, 4

local MobileNetV3 = nn.module('MobileNetV3', function(self, dilated)
  self['0'] = conv_norm(3, 16, 3, 'hardswish', {stride = 2})
  for i, s in ipairs(settings) do
    self[tostring(i)] = InvertedResidual{cin = s[1], kernel = s[2], expanded = s[3], cout = s[4], se = s[5],
                                         activation = s[6], stride = s[7],
                                         dilation = dilated and i >= first_dilated and 2 or 1}
  end
  self['16'] = conv_norm(160, 960, 1, 'hardswish')
  self:apply(function(module)
    if module.class_name ~= 'Conv2d' then return end
    nn.init.kaiming_normal_(module.weight, 'fan_out')
    if module.bias then nn.init.zeros_(module.bias) end
  end)
end)

-- Features for the classifier (960 channels, stride 16) and for the auxiliary one (40, stride 8).
function MobileNetV3:forward(x)
  local aux
  for i = 0, 16 do
    x = self[tostring(i)](x)
    if i == aux_position then aux = x end
  end
  return {out = x, aux = aux}
end

return {
  mobilenet_v3_large = function(output_stride) return MobileNetV3(output_stride == 16), 960, 40 end,
  output_strides = {16, 32},
}
