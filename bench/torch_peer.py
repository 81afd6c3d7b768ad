"""The works of bench/work.lua in PyTorch: a training step or an inference of torchvision's DeepLabV3 on random data.

    python3 bench/torch_peer.py --model deeplabv3_resnet50 --work train --size 240 --batch 4 --mode channels_last

Prints one line: the median and the spread of the timed runs in seconds and the peak memory in MiB: the process's resident
set, on a GPU what the allocator took from it.
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
parser.add_argument('--mode', default='channels_last', choices=['nchw', 'channels_last', 'compiled', 'bf16', 'bf16_compiled', 'bf16_max_autotune'])
parser.add_argument('--runs', type=int, default=5)
parser.add_argument('--device', default='cpu')
parser.add_argument('--steps', type=int, default=1, help='of a run, before the device is waited for')
parser.add_argument('--threads', type=int, default=0)
options = parser.parse_args()

if options.threads:
    torch.set_num_threads(options.threads)
torch.manual_seed(0)
training = options.work == 'train'
model = getattr(torchvision.models.segmentation, options.model)(
    weights=None, weights_backbone=None, num_classes=21, aux_loss=training)
on_gpu = options.device.startswith('cuda')
device = torch.device(options.device)
torch.backends.cudnn.benchmark = True  # as torchvision's reference trains
model, x = model.to(device), torch.randn(options.batch, 3, options.size, options.size).to(device)
if options.mode != 'nchw':
    model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
target = torch.randint(0, 21, (options.batch, options.size, options.size)).to(device)
cast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=options.mode.startswith('bf16'))
network = model
if options.mode.endswith('compiled'):
    network = torch.compile(model)
elif options.mode.endswith('max_autotune'):
    network = torch.compile(model, mode='max-autotune')

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
        return loss if on_gpu else loss.item()
else:
    model.eval()

    def work():
        with torch.no_grad(), cast:
            return network(x)['out'].argmax(1)



def wait():
    if on_gpu:
        torch.cuda.synchronize(device)


for _ in range(4 if on_gpu else 1):
    work()
wait()
times = []
for _ in range(options.runs):
    begin = time.perf_counter()
    for _ in range(options.steps):
        work()
    wait()
    times.append((time.perf_counter() - begin) / options.steps)
peak = torch.cuda.max_memory_reserved(device) / 2**20 if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f'PyTorch {torch.__version__} {options.mode}: {statistics.median(times):.4f} s '
      f'({min(times):.4f} to {max(times):.4f}), peak {peak:.0f} MiB')
