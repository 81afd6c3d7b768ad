-- models - constructors of the segmentation models, with torchvision's names:
--
--   models.deeplabv3_resnet50{num_classes = 21, aux = true, output_stride = 8, atrous_rates = {12, 24, 36}}
--
-- num_classes counts the background. Pure: no device, no data, no files; weights come from
-- dlv3.checkpoint, whole models from models/from_file.lua.

local expect = require 'dlv3.core.expect'
local names = require 'dlv3.core.names'
local DeepLabV3 = require 'models.deeplabv3'
local resnet = require 'models.resnet'
local mobilenetv3 = require 'models.mobilenetv3'

local models = {}

-- The names of the architectures.
local architectures = {}

local function constructor(name, family, backbone)
  local spec = {
    num_classes = {21, expect.whole(1)}, aux = false,
    output_stride = {family.output_strides[1], expect.one_of(family.output_strides)},
    atrous_rates = {{12, 24, 36}, expect.list_of(expect.whole(1))},
  }
  architectures[#architectures + 1] = name
  -- {num_classes = 21 (with the background), aux = false, output_stride = 8 (MobileNetV3: 16),
  -- atrous_rates = {12, 24, 36}} A call, model(x [n, 3, h, w]), returns {out = logits [n, k, h, w],
  -- aux = ...}. ?models says more.
  models[name] = function(options)
    local o = expect.options(name, spec, options)
    local body, channels, aux_channels = backbone(o.output_stride)
    return DeepLabV3(body, channels, aux_channels, o)
  end
end

constructor('deeplabv3_resnet50', resnet, resnet.resnet50)
constructor('deeplabv3_resnet101', resnet, resnet.resnet101)
constructor('deeplabv3_mobilenet_v3_large', mobilenetv3, mobilenetv3.mobilenet_v3_large)

models.architectures = architectures

return names.strict(models, "no model is called '%s'", true)
