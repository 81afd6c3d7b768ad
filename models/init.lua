-- models - constructors of the segmentation models, with torchvision's names:
--
--   models.deeplabv3_resnet50{num_classes = 21, aux = true, output_stride = 8, atrous_rates = {12, 24, 36}}
--
-- num_classes counts the background. Pure: no device, no data, no files; weights come from dlv3.checkpoint.

local nearest = require 'dlv3.nearest'
local F = require 'dlv3.ffi'
local DeepLabV3 = require 'models.deeplabv3'
local resnet = require 'models.resnet'
local mobilenetv3 = require 'models.mobilenetv3'

local models = {}

local option_names = {'num_classes', 'aux', 'output_stride', 'atrous_rates'}

local function check(name, options, family)
  local o = {num_classes = 21, aux = false, output_stride = family.output_strides[1], atrous_rates = {12, 24, 36}}
  for key, v in pairs(options or {}) do
    if o[key] == nil then F.raise(("%s: no option '%s'%s (has: %s)"):format(name, tostring(key), nearest.text(tostring(key), option_names), table.concat(option_names, ', '))) end
    o[key] = v
  end
  local n = o.num_classes
  if type(n) ~= 'number' or n < 1 or n ~= math.floor(n) then F.raise(('%s: num_classes must be a whole number from 1, %s came'):format(name, tostring(n))) end
  local known = false
  for _, s in ipairs(family.output_strides) do known = known or s == o.output_stride end
  if not known then F.raise(('%s: output_stride must be %s, %s came'):format(name, table.concat(family.output_strides, ' or '), tostring(o.output_stride))) end
  return o
end

local function constructor(name, family, backbone)
  -- num_classes counts the background; a call returns {out = logits [n,k,h,w], aux = ...}. The options stand in ?models.
  models[name] = function(options)
    local o = check(name, options, family)
    local body, channels, aux_channels = backbone(o.output_stride)
    return DeepLabV3(body, channels, aux_channels, o)
  end
end

constructor('deeplabv3_resnet50', resnet, resnet.resnet50)
constructor('deeplabv3_resnet101', resnet, resnet.resnet101)
constructor('deeplabv3_mobilenet_v3_large', mobilenetv3, mobilenetv3.mobilenet_v3_large)

setmetatable(models, {__index = function(_, name)
  local names = {}
  for k in pairs(models) do names[#names + 1] = k end
  table.sort(names)
  F.raise(("no model is called '%s'%s (there are: %s)"):format(tostring(name), nearest.text(tostring(name), names), table.concat(names, ', ')))
end})

return models
