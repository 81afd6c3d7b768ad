"""Writes torchvision's DeepLabV3 without the auxiliary head, up to the class map, as ONNX, for bench/onnx_peer.py.

    python3 bench/export_onnx.py --model deeplabv3_resnet50 --size 480 --batch 1 --output FILE
"""
import argparse
import os

import torch
import torchvision

parser = argparse.ArgumentParser()
parser.add_argument('--model', required=True)
parser.add_argument('--size', type=int, default=480)
parser.add_argument('--batch', type=int, default=1)
parser.add_argument('--output', required=True)
options = parser.parse_args()


class ToClassMap(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)['out'].argmax(1)


torch.manual_seed(0)
model = getattr(torchvision.models.segmentation, options.model)(weights=None, weights_backbone=None, num_classes=21, aux_loss=False)
x = torch.randn(options.batch, 3, options.size, options.size)
unfinished = options.output + '.part.onnx'
torch.onnx.export(ToClassMap(model).eval(), (x,), unfinished, input_names=['x'], output_names=['map'], dynamo=True, external_data=False)
os.replace(unfinished, options.output)
