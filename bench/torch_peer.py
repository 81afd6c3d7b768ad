"""The works of bench/work.lua in PyTorch: a training step or an inference of torchvision's DeepLabV3 on random data.

    python3 bench/torch_peer.py --model deeplabv3_resnet50 --work train --size 240 --batch 4 --mode channels_last

Prints one line: the median and the spread of the timed runs in seconds and the peak resident set in MiB.
"""
import argparse
import resource
import statistics
import time

import torch
import torchvision

parser = argparse.ArgumentParser()
parser.add_argument('--model', default='deeplabv3_mobilenet_v3_large')
parser.add_argument('--work', default='train', choices=['train', 'infer'])
parser.add_argument('--size', type=int, default=240)
parser.add_argument('--batch', type=int, default=4)
parser.add_argument('--mode', default='channels_last', choices=['nchw', 'channels_last', 'compiled', 'bf16', 'bf16_compiled'])
parser.add_argument('--runs', type=int, default=5)
parser.add_argument('--threads', type=int, default=0)
options = parser.parse_args()

if options.threads:
    torch.set_num_threads(options.threads)
torch.manual_seed(0)
training = options.work == 'train'
model = getattr(torchvision.models.segmentation, options.model)(
    weights=None, weights_backbone=None, num_classes=21, aux_loss=training)
x = torch.randn(options.batch, 3, options.size, options.size)
if options.mode != 'nchw':
    model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
target = torch.randint(0, 21, (options.batch, options.size, options.size))
cast = torch.autocast('cpu', dtype=torch.bfloat16, enabled=options.mode.startswith('bf16'))
network = torch.compile(model) if options.mode.endswith('compiled') else model

if training:
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def work():
        with cast:
            out = network(x)
            loss = sum(weight * torch.nn.functional.cross_entropy(out[name].float(), target, ignore_index=255)
                       for name, weight in (('out', 1.0), ('aux', 0.5)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()
else:
    model.eval()

    def work():
        with torch.no_grad(), cast:
            return network(x)['out'].argmax(1)

work()
times = []
for _ in range(options.runs):
    begin = time.perf_counter()
    work()
    times.append(time.perf_counter() - begin)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f'PyTorch {torch.__version__} {options.mode}: {statistics.median(times):.4f} s '
      f'({min(times):.4f} to {max(times):.4f}), peak {peak:.0f} MiB')
