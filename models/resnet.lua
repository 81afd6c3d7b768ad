-- resnet.lua - ResNet-50 and -101 as backbones: the last stages dilated instead of strided, the
-- classifier left out.
--
-- The stride of a block sits on its 3x3 convolution, and the first block of a dilated stage still
-- uses the dilation of the stage before: both as torchvision has it, whose weights fit.

local nn = require 'dlv3.nn'

local expansion = 4

-- 1x1 to width, 3x3, 1x1 to 4 width; the input (through `downsample` where sizes change) is added
-- before the last ReLU.
local Bottleneck = nn.module('Bottleneck', function(self, cin, width, stride, dilation, project)
  self.conv1 = nn.Conv2d(cin, width, 1, {bias = false})
  self.bn1 = nn.BatchNorm2d(width, {activation = 'relu'})
  self.conv2 = nn.Conv2d(width, width, 3, {stride = stride, padding = dilation, dilation = dilation, bias = false})
  self.bn2 = nn.BatchNorm2d(width, {activation = 'relu'})
  self.conv3 = nn.Conv2d(width, width * expansion, 1, {bias = false})
  self.bn3 = nn.BatchNorm2d(width * expansion, {activation = 'relu'})
  if project then
    self.downsample = nn.Sequential(nn.Conv2d(cin, width * expansion, 1, {stride = stride, bias = false}),
                                    nn.BatchNorm2d(width * expansion))
  end
end)

Bottleneck.is_block = true -- of deeplabv3.lua's checkpoint_activations
Bottleneck.folds = {{'conv1', 'bn1'}, {'conv2', 'bn2'}, {'conv3', 'bn3'}}

-- x [n, cin, h, w] -> [n, 4 width, h', w'].
function Bottleneck:forward(x)
  local y = self.bn1(self.conv1(x))
  y = self.bn2(self.conv2(y))
  return self.bn3:after(self.conv3, y, self.downsample and self.downsample(x) or x)
end

-- blocks: how many in each stage; dilate[i]: stage i + 1 keeps its size and doubles the dilation.
local ResNet = nn.module('ResNet', function(self, blocks, dilate)
  self.conv1 = nn.Conv2d(3, 64, 7, {stride = 2, padding = 3, bias = false})
  self.bn1 = nn.BatchNorm2d(64, {activation = 'relu'})
  self.maxpool = nn.MaxPool2d(3, {stride = 2, padding = 1})
  local cin, dilation = 64, 1
  for stage = 1, 4 do
    local width, stride, first_dilation = 32 * 2 ^ stage, stage > 1 and 2 or 1, dilation
    if stage > 1 and dilate[stage - 1] then stride, dilation = 1, dilation * 2 end
    local list = {}
    for i = 1, blocks[stage] do
      local first = i == 1
      list[i] = Bottleneck(cin, width, first and stride or 1, first and first_dilation or dilation, first)
      cin = width * expansion
    end
    self['layer' .. stage] = nn.Sequential(unpack(list))
  end
  self:apply(function(module)
    if module.class_name == 'Conv2d' then nn.init.kaiming_normal_(module.weight, 'fan_out') end
  end)
end)

ResNet.folds = {{'conv1', 'bn1'}}

-- Features for the classifier (2048 channels) and for the auxiliary one (1024).
function ResNet:forward(x)
  x = self.layer2(self.layer1(self.maxpool(self.bn1(self.conv1(x)))))
  local aux = self.layer3(x)
  return {out = self.layer4(aux), aux = aux}
end

local dilations = {[8] = {false, true, true}, [16] = {false, false, true}, [32] = {false, false, false}}

-- A backbone and its numbers of channels. output_stride: 8 (torchvision's), 16 or 32.
local function make(blocks)
  return function(output_stride)
    return ResNet(blocks, dilations[output_stride]), 2048, 1024
  end
end

return {resnet50 = make{3, 4, 6, 3}, resnet101 = make{3, 4, 23, 3}, output_strides = {8, 16, 32}}
