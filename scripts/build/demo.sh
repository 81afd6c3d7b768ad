#!/bin/sh
# demo.sh - make demo: a data set drawn, a model trained on it from random weights, validated, and pictures predicted.
# Exit 1 when the model has not clearly learnt its shapes.
set -eu
cd "$(dirname "$0")/../.."
dlv3=./dlv3 out=build/demo
start=$(date +%s)
step() { printf '\n== %s\n' "$*"; }

rm -rf "$out"
mkdir -p "$out"
step "drawing a small data set in VOC's layout: $out/data"
$dlv3 scripts/make_shapes.lua --output-dir "$out/data"

step "training deeplabv3_mobilenet_v3_large on it, from random weights"
$dlv3 scripts/train_voc.lua --data-path "$out/data" --output-dir "$out/run" ${DEMO_OPTIONS:-\
  --model deeplabv3_mobilenet_v3_large --num-classes 4 --no-aux --base-size 120 --crop-size 104 -b 4 --lr 0.03 --epochs 18 --print-freq 30} ${DEMO_EXTRA:-}

step "validating the best weights"
$dlv3 scripts/validate.lua --data-path "$out/data" --weights "$out/run/best.pth" | tee "$out/validation.txt"

step "predicting pictures it was not trained on"
val=$out/data/VOCdevkit/VOC2012
mkdir -p "$out/photos"
head -n 6 "$val/ImageSets/Segmentation/val.txt" | while read -r id; do cp "$val/JPEGImages/$id.jpg" "$out/photos/"; done
$dlv3 scripts/predict.lua --weights "$out/run/best.pth" --overlay --output-dir "$out/pictures" "$out/photos"

iou=$(sed -n 's/^mean IoU: *\([0-9.]*\).*/\1/p' "$out/validation.txt" | tail -n 1)
printf '\n%s\n' "$(($(date +%s) - start)) seconds; mean IoU ${iou:-unknown} on the validation pictures. Look at:"
find "$out/pictures" -type f | sort | sed 's/^/  /'
awk -v iou="${iou:-0}" 'BEGIN { exit !(iou > 60) }' || { echo "the model has not learnt its shapes: a mean IoU over 60 was expected"; exit 1; }
