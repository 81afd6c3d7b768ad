#!/bin/sh
# gpu_check.sh - what only a GPU can show: the tests of the device on it, NVIDIA's memory and race checks, a short training
# on the CPU's terms, the benchmark beside PyTorch. Run from a built tree; a step that fails or takes too long does not stop
# the next one.
#
#   scripts/gpu_check.sh OUT [step ...]        OUT: folder for logs and tables; steps: tests demo bench ops sanitizer races barriers
#
# LIMIT: seconds a step may take (240). PYTHON: a python with torch and torchvision for the benchmark. The most telling steps
# come first, since time on a GPU is often short. The last lines say how each step ended.
set -u
cd "$(dirname "$0")/.."
[ $# -ge 1 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
out=$1
shift
[ $# -gt 0 ] || set -- tests demo bench ops sanitizer barriers races
mkdir -p "$out"
limit=${LIMIT:-240}
summary=$out/summary.txt
: > "$summary"
files="cuda_kernel cuda_graph scaler log cuda" # those whose tests run on the device, the long one last
# CUDA's libraries where they came with Python's packages, behind those that the loader finds by itself
for d in /usr/local/cuda/lib64 $("${PYTHON:-python3}" -c 'import glob, nvidia
print(*[d for p in nvidia.__path__ for d in glob.glob(p + "/*/lib")])' 2>/dev/null); do
  [ -d "$d" ] && LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$d
done
PATH=$PATH:/usr/local/cuda/bin # compute-sanitizer
export LD_LIBRARY_PATH PATH

# step NAME COMMAND...: its output in OUT/NAME.txt, a line on how it ended in the summary.
step() {
  name=$1 begin=$(date +%s)
  shift
  printf '== %s\n' "$name"
  timeout "$limit" "$@" > "$out/$name.txt" 2>&1
  status=$?
  [ $status -eq 124 ] && status="124: took longer than $limit s"
  printf '%-10s exit %s, %s s: %s\n' "$name" "$status" "$(($(date +%s) - begin))" "$(tail -n 1 "$out/$name.txt")" >> "$summary"
}

{ ./dlv3 --version; ldd dlv3 build/libdlv3_cuda.so; } > "$out/version.txt" 2>&1 # where libraries are missing it names them
nvidia-smi > "$out/nvidia-smi.txt" 2>&1
./dlv3 -e 'os.exit(#dlv3.devices() > 1 and 0 or 1)' || { ./dlv3 -e 'print("no GPU: " .. dlv3.devices().cuda)'; exit 1; }

for wanted in "$@"; do
  case $wanted in
  tests) for f in $files; do step "tests_$f" ./dlv3 tests/run.lua -v --file "$f"; done ;;
  demo) step demo env DEMO_EXTRA='--device cuda --precision bf16' sh scripts/demo.sh ;;
  bench) step bench ./dlv3 bench --device cuda --rounds 1 --output "$out/RESULTS_GPU.md" ;;
  ops)
    step ops_bf16 ./dlv3 bench --device cuda --ops --model deeplabv3_resnet50 --size 480 --batch 16 --precision bf16 --seconds 0.05
    step ops_chosen env DLV3_CUDNN_BENCHMARK=1 DLV3_CACHE="$out" ./dlv3 bench --device cuda --work train --model deeplabv3_resnet50 --size 480 --batch 16 --precision bf16 --steps 10 --runs 3 ;;
  # not the calls that fail and are answered: cuDNN tries engines, NVRTC's kernels are asked for one parameter too many
  sanitizer) step memcheck compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 9 ./dlv3 tests/run.lua --file cuda ;;
  races) step racecheck compute-sanitizer --tool racecheck --report-api-errors no --error-exitcode 9 ./dlv3 tests/run.lua --file cuda ;;
  barriers) step synccheck compute-sanitizer --tool synccheck --report-api-errors no --error-exitcode 9 ./dlv3 tests/run.lua --file cuda ;;
  *) echo "gpu_check.sh: no step '$wanted' (there are: tests demo bench ops sanitizer races barriers)" >&2; exit 2 ;;
  esac
done
printf '\n'
cat "$summary"
