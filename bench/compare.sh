#!/bin/sh
# compare.sh - dlv3 and PyTorch on the same work, alternating, ROUNDS times each: sh bench/compare.sh
#
# PYTHON is a python with the torch and torchvision to compare with, for instance a virtual environment made by
#   python3 -m venv peer && peer/bin/pip install torch torchvision
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-peer/bin/python3}
ROUNDS=${ROUNDS:-2}
RUNS=${RUNS:-3}

compare() { # model work size batch torch-mode precision
  echo "== $1 $2 $3x$3 batch $4"
  for _ in $(seq "$ROUNDS"); do
    ./dlv3 scripts/bench.lua --model "$1" --work "$2" --size "$3" --batch "$4" --precision "$6" --runs "$RUNS"
    "$PYTHON" bench/torch_peer.py --model "$1" --work "$2" --size "$3" --batch "$4" --mode "$5" --runs "$RUNS"
  done
}

compare deeplabv3_mobilenet_v3_large infer 480 1 channels_last f32
compare deeplabv3_mobilenet_v3_large train 240 4 channels_last f32
compare deeplabv3_mobilenet_v3_large train 240 4 bf16 bf16
compare deeplabv3_resnet50 infer 480 1 channels_last f32
compare deeplabv3_resnet50 train 240 4 channels_last f32
compare deeplabv3_resnet50 train 240 4 bf16 bf16
