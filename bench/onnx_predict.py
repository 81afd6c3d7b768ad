"""The loop of scripts/predict.lua in ONNX Runtime and Pillow, over a folder of photos: decode, resize the shorter side, normalise,
run, take the class of each pixel at the photo's own size, write a palette PNG.

    python3 bench/onnx_predict.py --onnx FILE --photos DIR --output-dir DIR

FILE is written by bench/export_onnx.py --any-size: its inputs are the photo and the size of the map. Prints one line, as predict does.
"""
import argparse
import pathlib
import time

import numpy
import onnxruntime
from PIL import Image

parser = argparse.ArgumentParser()
parser.add_argument('--onnx', required=True)
parser.add_argument('--photos', required=True)
parser.add_argument('--output-dir', required=True)
parser.add_argument('--base-size', type=int, default=520, help='shorter side of what the network sees')
options = parser.parse_args()

SCALE = numpy.float32(1 / 255) / numpy.array((0.229, 0.224, 0.225), dtype=numpy.float32)
SHIFT = -numpy.array((0.485, 0.456, 0.406), dtype=numpy.float32) / numpy.array((0.229, 0.224, 0.225), dtype=numpy.float32)


def voc_palette():
    """VOC's 256 colours: the bits of a number dealt out to red, green and blue."""
    colors = []
    for i in range(256):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= (i >> 3 * bit + channel & 1) << 7 - bit
        colors += rgb
    return colors


def network_size(image):
    """Width and height, by torchvision's rule."""
    width, height = image.size
    if width <= height:
        return options.base_size, options.base_size * height // width
    return options.base_size * width // height, options.base_size


session = onnxruntime.InferenceSession(options.onnx, providers=['CPUExecutionProvider'])
palette = voc_palette()
output = pathlib.Path(options.output_dir)
output.mkdir(parents=True, exist_ok=True)
photos = sorted(pathlib.Path(options.photos).glob('*.jpg'))
begin = time.perf_counter()
for path in photos:
    image = Image.open(path).convert('RGB')
    x = numpy.asarray(image.resize(network_size(image), Image.Resampling.BILINEAR), dtype=numpy.float32) * SCALE + SHIFT
    x = numpy.ascontiguousarray(x.transpose(2, 0, 1))[None]
    classes = session.run(None, {'x': x, 'size': numpy.array((image.height, image.width), dtype=numpy.int64)})[0]
    picture = Image.fromarray(classes[0])
    picture.putpalette(palette)
    picture.save(output / f'{path.stem}.png')
seconds = time.perf_counter() - begin
print(f'ONNX Runtime {onnxruntime.__version__}: {len(photos)} photos in {seconds:.2f} s, {len(photos) / seconds:.2f} photos/s')
