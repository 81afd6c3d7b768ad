-- models - constructors of the segmentation models, with torchvision's names:
--
--   models.deeplabv3_resnet50{num_classes = 21, aux = true, output_stride = 8, atrous_rates = {12, 24, 36}}
--
-- num_classes counts the background. Pure: no device, no data, no files; weights come from dlv3.checkpoint.

local suggest = require 'dlv3.core.suggest'
local options_table = require 'dlv3.core.options_table'
local F = require 'dlv3.core.ffi'
local DeepLabV3 = require 'models.deeplabv3'
local resnet = require 'models.resnet'
local mobilenetv3 = require 'models.mobilenetv3'

local models = {}

local function check(name, options, family)
  local o = options_table(name, {num_classes = 21, aux = false, output_stride = family.output_strides[1], atrous_rates = options_table.optional}, options)
  options_table.count(name, 'num_classes', o.num_classes)
  options_table.one_of(name, 'output_stride', o.output_stride, family.output_strides)
  o.atrous_rates = o.atrous_rates or {12, 24, 36}
  if type(o.atrous_rates) ~= 'table' then F.raise(('%s: atrous_rates must be a table such as {12, 24, 36}, %s came'):format(name, tostring(o.atrous_rates))) end
  for i, rate in ipairs(o.atrous_rates) do options_table.count(name, ('rate %d of atrous_rates'):format(i), rate) end
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
  F.raise(("no model is called '%s'%s (there are: %s)"):format(tostring(name), suggest.text(tostring(name), names), table.concat(names, ', ')))
end})

return models
