"""The input pipeline of torchvision's segmentation reference, for bench.lua: the peer of scripts/bench_data.lua.

    python3 bench/torch_data.py --data-path DIR

Decode, transform (torch_voc.py), stack to batches: on one thread, in this process, so that the time is one core's. Prints one
line: samples a second of processor time.
"""
import argparse
import random
import statistics
import time

import torch
import torchvision

from torch_voc import Voc

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
data = Voc(options.data_path, options.split, options.base_size, options.crop_size)


def epoch():
    for at in range(0, len(data), options.batch_size):
        images, targets = zip(*(data[i] for i in range(at, min(at + options.batch_size, len(data)))))
        images, targets = torch.stack(images), torch.stack(targets)
        if options.precision == 'bf16':
            images = images.bfloat16()


random.seed(0)
rates = []
for run in range(options.runs + 1):
    begin = time.process_time()
    epoch()
    if run:
        rates.append(len(data) / (time.process_time() - begin))
print(f'torchvision {torchvision.__version__} {options.precision}: {statistics.median(rates):.1f} samples a second and core '
      f'({min(rates):.1f} to {max(rates):.1f})')
