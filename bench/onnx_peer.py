"""The inference of bench/work.lua in ONNX Runtime or OpenVINO, of a file that bench/export_onnx.py wrote.

    python3 bench/onnx_peer.py --engine openvino --onnx FILE --size 480 --batch 1 --precision bf16

Prints one line, as bench/torch_peer.py does.
"""
import argparse
import resource
import statistics
import time

import numpy

parser = argparse.ArgumentParser()
parser.add_argument('--engine', required=True, choices=['onnxruntime', 'openvino'])
parser.add_argument('--onnx', required=True)
parser.add_argument('--size', type=int, default=480)
parser.add_argument('--batch', type=int, default=1)
parser.add_argument('--precision', default='f32', choices=['f32', 'bf16'])
parser.add_argument('--runs', type=int, default=5)
options = parser.parse_args()

x = numpy.random.default_rng(0).standard_normal((options.batch, 3, options.size, options.size), dtype=numpy.float32)
if options.engine == 'onnxruntime':
    import onnxruntime
    name = f'ONNX Runtime {onnxruntime.__version__}'
    session = onnxruntime.InferenceSession(options.onnx, providers=['CPUExecutionProvider'])

    def work():
        return session.run(None, {'x': x})[0]
else:
    import openvino
    name = f'OpenVINO {openvino.__version__.split("-")[0]}'
    request = openvino.Core().compile_model(
        options.onnx, 'CPU', {'INFERENCE_PRECISION_HINT': options.precision, 'PERFORMANCE_HINT': 'LATENCY'}).create_infer_request()

    def work():
        return request.infer({'x': x})[0]

work()
times = []
for _ in range(options.runs):
    begin = time.perf_counter()
    work()
    times.append(time.perf_counter() - begin)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f'{name} {options.precision}: {statistics.median(times):.4f} s ({min(times):.4f} to {max(times):.4f}), peak {peak:.0f} MiB')
