"""scripts/train_voc.lua in PyTorch: torchvision's DeepLabV3 from random weights, the reference's recipe, an evaluation after
every epoch; prints the time of both.

    python3 bench/torch_train.py --data-path DIR --num-classes 10 --base-size 260 --crop-size 240 --epochs 12 --lr 0.01
"""
import argparse
import random
import time

import torch
import torchvision

from torch_voc import Voc

parser = argparse.ArgumentParser()
parser.add_argument('--data-path', required=True)
parser.add_argument('--model', default='deeplabv3_mobilenet_v3_large')
parser.add_argument('--num-classes', type=int, default=20, help='without the background')
parser.add_argument('--base-size', type=int, default=520)
parser.add_argument('--crop-size', type=int, default=480)
parser.add_argument('--batch-size', type=int, default=4)
parser.add_argument('--epochs', type=int, default=30)
parser.add_argument('--stop-after', type=int, default=0, help='epochs, of a schedule of --epochs')
parser.add_argument('--lr', type=float, default=1e-4)
parser.add_argument('--workers', type=int, default=2)
parser.add_argument('--seed', type=int, default=0)
options = parser.parse_args()

torch.manual_seed(options.seed)
random.seed(options.seed)
classes = options.num_classes + 1
train = torch.utils.data.DataLoader(Voc(options.data_path, 'train', options.base_size, options.crop_size),
                                    batch_size=options.batch_size, shuffle=True, drop_last=True, num_workers=options.workers)
val = torch.utils.data.DataLoader(Voc(options.data_path, 'val', options.base_size, None), batch_size=1, num_workers=options.workers)
model = getattr(torchvision.models.segmentation, options.model)(weights=None, weights_backbone=None, num_classes=classes, aux_loss=False)
model = model.to(memory_format=torch.channels_last)
sgd = torch.optim.SGD(model.parameters(), lr=options.lr, momentum=0.9, weight_decay=1e-4)
n = len(train)


def factor(step):
    """Warmed up for an epoch from a thousandth, then (1 - done) ^ 0.9."""
    if step <= n:
        return 1e-3 * (1 - step / n) + step / n
    return max(0, 1 - (step - n) / ((options.epochs - 1) * n)) ** 0.9


schedule = torch.optim.lr_scheduler.LambdaLR(sgd, factor)


def train_epoch():
    model.train()
    total = 0
    for image, target in train:
        out = model(image.to(memory_format=torch.channels_last))['out']
        loss = torch.nn.functional.cross_entropy(out, target, ignore_index=255)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        schedule.step()
        total += loss.item()
    return total / n


@torch.inference_mode()
def mean_iou():
    model.eval()
    table = torch.zeros(classes, classes, dtype=torch.int64)
    for image, target in val:
        found = model(image.to(memory_format=torch.channels_last))['out'].argmax(1)
        counts = target < classes
        table += torch.bincount(classes * target[counts] + found[counts], minlength=classes**2).view(classes, classes)
    hits, there = table.diag(), table.sum(1)
    return (100 * hits / (there + table.sum(0) - hits))[there > 0].mean()


for epoch in range(options.stop_after or options.epochs):
    begin = time.perf_counter()
    loss = train_epoch()
    trained = time.perf_counter()
    score = mean_iou()
    print(f'epoch {epoch}: training {trained - begin:.1f} s, evaluation {time.perf_counter() - trained:.1f} s, '
          f'loss {loss:.3f}, mean IoU of the classes that occur {score:.1f}', flush=True)
