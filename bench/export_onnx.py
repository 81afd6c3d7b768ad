"""Writes torchvision's DeepLabV3 without the auxiliary head, up to the class map, as ONNX, for bench/onnx_peer.py.

    python3 bench/export_onnx.py --model deeplabv3_resnet50 --size 480 --batch 1 --output FILE

--any-size: photos of any height and width, and a second input, the height and width of the class map: for bench/onnx_predict.py.
"""
import argparse
import os

import torch
import torchvision

parser = argparse.ArgumentParser()
parser.add_argument('--model', required=True)
parser.add_argument('--size', type=int, default=480)
parser.add_argument('--batch', type=int, default=1)
parser.add_argument('--any-size', action='store_true')
parser.add_argument('--output', required=True)
options = parser.parse_args()


class ToClassMap(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)['out'].argmax(1)


class ToScores(torch.nn.Module):
    """Scores at the size of the backbone's last map: what ONNX Runtime resizes itself."""
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model.classifier(self.model.backbone(x)['out'])


def export_any_size(model, x, path):
    """The scores for any size, then bilinear interpolation to the size asked for, argmax, and bytes, as nodes of the graph."""
    import onnx
    from onnx import TensorProto, helper
    dims = {2: torch.export.Dim('height', min=64, max=4096), 3: torch.export.Dim('width', min=64, max=4096)}
    torch.onnx.export(ToScores(model).eval(), (x,), path, input_names=['x'], output_names=['scores'], dynamo=True, external_data=False, dynamic_shapes=(dims,))
    exported = onnx.load(path)
    graph = exported.graph
    graph.input.append(helper.make_tensor_value_info('size', TensorProto.INT64, [2]))
    graph.initializer.append(helper.make_tensor('batch_and_classes', TensorProto.INT64, [2], [1, 21]))
    graph.node.extend([
        helper.make_node('Concat', ['batch_and_classes', 'size'], ['sizes'], axis=0),
        helper.make_node('Resize', ['scores', '', '', 'sizes'], ['resized'], mode='linear', coordinate_transformation_mode='half_pixel'),
        helper.make_node('ArgMax', ['resized'], ['classes'], axis=1, keepdims=0),
        helper.make_node('Cast', ['classes'], ['map'], to=TensorProto.UINT8),
    ])
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info('map', TensorProto.UINT8, [1, 'map_height', 'map_width']))
    onnx.save(exported, path)


torch.manual_seed(0)
model = getattr(torchvision.models.segmentation, options.model)(weights=None, weights_backbone=None, num_classes=21, aux_loss=False)
x = torch.randn(options.batch, 3, options.size, options.size)
unfinished = options.output + '.part.onnx'
if options.any_size:
    export_any_size(model, x, unfinished)
else:
    torch.onnx.export(ToClassMap(model).eval(), (x,), unfinished, input_names=['x'], output_names=['map'], dynamo=True, external_data=False)
os.replace(unfinished, options.output)
