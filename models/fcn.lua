-- fcn.lua - the head of a fully convolutional network (Long, Shelhamer, Darrell, 2015), in
-- torchvision's form; DeepLabV3 has it as its auxiliary head.

local nn = require 'dlv3.nn'

-- [n,cin,h,w] -> scores [n,classes,h,w].
return function(cin, classes)
  local width = math.floor(cin / 4)
  return nn.Sequential{{'0', nn.Conv2d(cin, width, 3, {padding = 1, bias = false})},
                       {'1', nn.BatchNorm2d(width, {activation = 'relu'})},
                       -- '2', the ReLU, is in the batch norm
                       {'3', nn.Dropout(0.1)}, {'4', nn.Conv2d(width, classes, 1)}}
end
