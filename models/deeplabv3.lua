-- deeplabv3.lua - DeepLabV3: a dilated backbone, atrous spatial pyramid pooling, a small head, and
-- an auxiliary head.
--
-- Chen, Papandreou, Schroff, Adam, "Rethinking atrous convolution for semantic image segmentation",
-- 2017, in torchvision's form: names, shapes and initialisation are those of its weights.

local nn = require 'dlv3.nn'
local dlv3 = require 'dlv3'
local fcn_head = require 'models.fcn'

local function conv_norm_relu(cin, cout, kernel, options)
  options = options or {}
  return nn.Sequential(nn.Conv2d(cin, cout, kernel,
                                 {padding = options.dilation or options.padding or 0, dilation = options.dilation or 1,
                                  bias = false}),
                       nn.BatchNorm2d(cout, {activation = 'relu'}))
end

-- The mean over the map, spread over it again: enlarging one pixel bilinearly repeats it.
local ImagePooling = nn.module('ImagePooling', function(self, cin, cout)
  self['1'] = nn.Conv2d(cin, cout, 1, {bias = false})
  self['2'] = nn.BatchNorm2d(cout, {activation = 'relu'})
end)

ImagePooling.folds = {{'1', '2'}}

-- x [n, cin, h, w] -> [n, cout, 1, 1].
function ImagePooling:pixel(x) return self['2'](self['1'](x:adaptive_avg_pool2d(1))) end
-- x [n, cin, h, w] -> [n, cout, h, w].
function ImagePooling:forward(x) return self:pixel(x):expand(-1, -1, x:size(3), x:size(4)) end

-- The map seen at several rates and as a whole, joined and mixed.
local ASPP = nn.module('ASPP', function(self, cin, rates, cout)
  local branches = {conv_norm_relu(cin, cout, 1)}
  for _, rate in ipairs(rates) do branches[#branches + 1] = conv_norm_relu(cin, cout, 3, {dilation = rate}) end
  branches[#branches + 1] = ImagePooling(cin, cout)
  self.convs = nn.ModuleList(branches)
  self.project = nn.Sequential{{'0', nn.Conv2d(#branches * cout, cout, 1, {bias = false})},
                               {'1', nn.BatchNorm2d(cout, {activation = 'relu'})}, {'3', nn.Dropout(0.5)}}
end)

-- Fused, the branches are never joined: the projection of the joined maps is the sum of each map's
-- projection by its part of the weight. That of the pooled branch is a number for each image and
-- channel, where the sum begins.
function ASPP:fused()
  local project = self.project['0']
  if not self.project['1'].folded then return end
  self.split = true
  local cout = project.weight:size(1)
  for i = 1, #self.convs do
    local part = project.weight:detach():narrow(2, (i - 1) * cout + 1, cout):clone()
    self:buffer('part_' .. i, part, project.weight)
  end
  rawset(project, 'weight', nil)
end

local function forward_fused(self, x)
  local n, project = #self.convs, self.project['0']
  local sum = self.convs[n]:pixel(x):conv2d(self['part_' .. n], project.bias)
  sum = sum:expand(-1, -1, x:size(3), x:size(4))
  for i = 1, n - 1 do
    sum = self.convs[i](x):conv2d(self['part_' .. i], nil, sum,
                                  {activation = i == n - 1 and project.options.activation or 'none'})
  end
  return sum
end

-- x [n, cin, h, w] -> [n, cout, h, w].
function ASPP:forward(x)
  if self.split then return forward_fused(self, x) end
  local maps = {}
  for i, branch in ipairs(self.convs) do maps[i] = branch(x) end
  return self.project(dlv3.cat(maps, 2))
end

local function deeplab_head(cin, classes, rates)
  return nn.Sequential{{'0', ASPP(cin, rates, 256)}, {'1', nn.Conv2d(256, 256, 3, {padding = 1, bias = false})},
                       {'2', nn.BatchNorm2d(256, {activation = 'relu'})}, {'4', nn.Conv2d(256, classes, 1)}}
end

local DeepLabV3 = nn.module('DeepLabV3', function(self, backbone, channels, aux_channels, options)
  self.backbone = backbone
  self.classifier = deeplab_head(channels, options.num_classes, options.atrous_rates)
  if options.aux then self.aux_classifier = fcn_head(aux_channels, options.num_classes) end
end)

-- The scores as the heads give them, on the backbone's map: {out = [n,k,h',w'], aux = ...}. Ops
-- that enlarge by themselves (upsample_cross_entropy, upsample_argmax) want these. aux = false
-- leaves the auxiliary head out.
function DeepLabV3:logits(x, options)
  local features, y = self.backbone(self:input(x)), {}
  -- first, so that backward comes to it last, when the maps of the other head are gone: what both
  -- need is there later
  if self.aux_classifier and not (options and options.aux == false) then y.aux = self.aux_classifier(features.aux) end
  y.out = self.classifier(features.out)
  return y
end

-- x [n,3,h,w] -> {out = [n,k,h,w], aux = [n,k,h,w]}: scores, not probabilities. aux is there when
-- the model has that head.
function DeepLabV3:forward(x)
  local y, size = self:logits(x), {x:size(3), x:size(4)}
  for name, scores in pairs(y) do y[name] = scores:upsample_bilinear2d{size = size} end
  return y
end

-- Training keeps the ends of the backbone's residual blocks alone and makes their insides again in
-- backward: less memory, more time, the same gradients (with an auxiliary head up to the order of
-- one sum).
function DeepLabV3:checkpoint_activations(on)
  return self:apply(function(module) if module.is_block then module.checkpointed = on ~= false end end)
end

return DeepLabV3
