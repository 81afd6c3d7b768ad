"""The training transforms of torchvision's segmentation reference with Pillow, for bench.lua: the peer of scripts/bench_data.lua.

    python3 bench/torch_data.py --data-path DIR

Decode, resize to a random size, random flip, random crop with padding, to tensor, normalise, stack to batches: on one
thread, in this process, so that the time is one core's. Prints one line: samples a second of processor time.
"""
import argparse
import random
import statistics
import time
from pathlib import Path

import torch
import torchvision
from PIL import Image
from torchvision.transforms import functional as F
from torchvision.transforms import InterpolationMode, RandomCrop

parser = argparse.ArgumentParser()
parser.add_argument('--data-path', required=True)
parser.add_argument('--split', default='train')
parser.add_argument('--base-size', type=int, default=520)
parser.add_argument('--crop-size', type=int, default=480)
parser.add_argument('--batch-size', type=int, default=4)
parser.add_argument('--precision', default='f32', choices=['f32', 'bf16'])
parser.add_argument('--runs', type=int, default=3)
options = parser.parse_args()

torch.set_num_threads(1)
base = Path(options.data_path) / 'VOCdevkit/VOC2012'
ids = (base / f'ImageSets/Segmentation/{options.split}.txt').read_text().split()
crop = options.crop_size
mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def sample(name):
    image = Image.open(base / f'JPEGImages/{name}.jpg').convert('RGB')
    target = Image.open(base / f'SegmentationClass/{name}.png')
    size = random.randint(options.base_size // 2, options.base_size * 2)
    image = F.resize(image, size)
    target = F.resize(target, size, interpolation=InterpolationMode.NEAREST)
    if random.random() < 0.5:
        image, target = F.hflip(image), F.hflip(target)
    width, height = image.size
    pad = [0, 0, max(crop - width, 0), max(crop - height, 0)]
    if any(pad):
        image, target = F.pad(image, pad, fill=0), F.pad(target, pad, fill=255)
    box = RandomCrop.get_params(image, (crop, crop))
    image, target = F.crop(image, *box), F.crop(target, *box)
    image = F.convert_image_dtype(F.pil_to_tensor(image), torch.float)
    return F.normalize(image, mean, std), F.pil_to_tensor(target).squeeze(0).long()


def epoch():
    for at in range(0, len(ids), options.batch_size):
        images, targets = zip(*(sample(name) for name in ids[at:at + options.batch_size]))
        images, targets = torch.stack(images), torch.stack(targets)
        if options.precision == 'bf16':
            images = images.bfloat16()


random.seed(0)
rates = []
for run in range(options.runs + 1):
    begin = time.process_time()
    epoch()
    if run:
        rates.append(len(ids) / (time.process_time() - begin))
print(f'torchvision {torchvision.__version__} {options.precision}: {statistics.median(rates):.1f} samples a second and core '
      f'({min(rates):.1f} to {max(rates):.1f})')
