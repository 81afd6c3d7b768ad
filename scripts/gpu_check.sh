#!/bin/sh
# gpu_check.sh - what only a GPU can show: the tests of the device on it, the benchmark beside PyTorch, each convolution by
# itself, NVIDIA's memory and race checks, a short training on the CPU's terms. Run from a built tree.
#
#   scripts/gpu_check.sh [-t SECONDS] OUT [step ...]
#
# Time on a GPU is short, so the most telling steps come first, each ends after its own limit at the latest, and none begins
# when the SECONDS (540) in all are nearly used up: name the steps that are left in a second call. A step that fails does not
# stop the next one. Steps, in their order:
#   tests      the op suite and all that is particular to devices
#   bench      dlv3 beside PyTorch, eager: training and inference, time and memory; writes OUT/RESULTS_GPU.md
#   ops impl   each convolution of ResNet-50; the ASPP's three by cuDNN and by the kernel that leaves out padding
#   compiled   the same works beside torch.compile, which takes it a minute each
#   memcheck racecheck synccheck   NVIDIA's tools on the samples of ops, by dlv3's own kernels
#   engines    cuDNN's engines timed or not
#   demo       MobileNetV3 learns shapes
#   order      sums in one order or in any
#   autotune   beside torch.compile for long
#
# OUT gets summary.txt, the tables, and logs.tar.gz, written anew after each step. PYTHON: a python with torch and torchvision.
# BENCH_OPTIONS: for a rehearsal, such as '--size 17 --batch 2 --steps 1 --runs 1'.
set -u
cd "$(dirname "$0")/.." || exit
begin=$(date +%s) budget=540
[ "${1:-}" = -t ] && [ $# -ge 3 ] && { budget=$2; shift 2; }
case ${1:--} in -*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;; esac
out=$1
shift
steps='tests bench ops impl compiled memcheck racecheck synccheck engines demo order autotune'
# shellcheck disable=SC2086
[ $# -gt 0 ] || set -- $steps
for wanted in "$@"; do
  case " $steps " in *" $wanted "*) ;; *) echo "gpu_check.sh: no step '$wanted' (there are: $steps)" >&2; exit 2 ;; esac
done
mkdir -p "$out"
work=$(mktemp -d) summary=$out/summary.txt
trap 'rm -rf "$work"' EXIT
mkdir "$work/logs"
: > "$summary"

# PyTorch keeps the libraries that it came with: only dlv3 gets the path below.
python=$(command -v "${PYTHON:-python3}")
theirs='-u LD_LIBRARY_PATH'
[ -z "${LD_LIBRARY_PATH:-}" ] || theirs="LD_LIBRARY_PATH='$LD_LIBRARY_PATH'"
printf '#!/bin/sh\nexec env %s "%s" "$@"\n' "$theirs" "$python" > "$work/python"
chmod +x "$work/python"
# CUDA's libraries where they came with Python's packages, behind those that the loader finds by itself
for d in /usr/local/cuda/lib64 $("$python" -c 'import glob, nvidia
print(*[d for p in nvidia.__path__ for d in glob.glob(p + "/*/lib")])' 2>/dev/null); do
  [ -d "$d" ] && LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$d
done
PATH=$PATH:/usr/local/cuda/bin # compute-sanitizer
PYTHON=$work/python
export LD_LIBRARY_PATH PATH PYTHON

# step NAME LIMIT COMMAND...: its output in the log NAME.txt, a line on how it ended in the summary.
step() {
  name=$1 limit=$2 start=$(date +%s)
  left=$((begin + budget - start - 10)) # and ten seconds to be killed in
  shift 2
  [ "$left" -ge 15 ] || { printf '%-18s left out: the time is used up\n' "$name" >> "$summary"; return; }
  [ "$limit" -le "$left" ] || limit=$left
  printf '== %s, at %s s\n' "$name" "$((start - begin))"
  timeout -k 10 "$limit" "$@" > "$work/logs/$name.txt" 2>&1
  status=$?
  case $status in 124|137) status="$status, longer than $limit s" ;; esac
  printf '%-18s exit %s, %s s: %s\n' "$name" "$status" "$(($(date +%s) - start))" "$(tail -n 1 "$work/logs/$name.txt")" >> "$summary"
}

# What is known so far goes to OUT: time may end in the next step.
keep() {
  cp build/bench/engines/cudnn_engines.txt "$work/logs" 2>/dev/null
  tar -czf "$work/logs.tar.gz" -C "$work" logs && mv "$work/logs.tar.gz" "$out/"
}

# bench NAME LIMIT SECONDS FILE: a kind of rows of the comparison, each process of which may take so many seconds.
bench() {
  # shellcheck disable=SC2086
  step "bench_$1" "$2" ./dlv3 bench --device cuda --rounds 1 --rows "$1" --limit "$3" --output "$4" ${BENCH_OPTIONS:-}
}

# ops NAME LIMIT OPTION...: convolutions by themselves, by the engines that the comparison chose.
ops() {
  name=$1 limit=$2
  shift 2
  # shellcheck disable=SC2086
  step "$name" "$limit" env DLV3_CUDNN_BENCHMARK=1 DLV3_CACHE=build/bench/engines \
    ./dlv3 bench --ops --device cuda --model deeplabv3_resnet50 --size 480 --batch 16 --precision bf16 "$@" ${BENCH_OPTIONS:-}
}

# check TOOL: not of the calls that fail and are answered, as where cuDNN tries engines.
check() { step "$1" 100 compute-sanitizer --tool "$1" --report-api-errors no --error-exitcode 9 ./dlv3 tests/run.lua -v --file cuda --own-kernels; }

{ ./dlv3 --version; ldd dlv3 build/libdlv3_cuda.so; nvidia-smi; } > "$work/logs/version.txt" 2>&1 # where libraries are missing it names them
./dlv3 -e 'print(dlv3.devices().cuda) os.exit(#dlv3.devices() > 1 and 0 or 1)' > "$summary" 2>&1 || { keep; cat "$work/logs/version.txt" "$summary"; exit 1; }

for wanted in "$@"; do
  case $wanted in
  tests)
    for f in cuda cuda_graph cuda_kernel scaler log; do step "tests_$f" 130 ./dlv3 tests/run.lua -v --file "$f" & done
    wait ;;
  bench) bench eager 260 120 "$out/RESULTS_GPU.md" ;;
  ops) ops ops 60 --seconds 0.05 ;;
  impl) ops impl 40 --seconds 0.2 --only '2048>256 3x3' ;;
  compiled) bench compiled 240 170 "$work/logs/compiled.md" ;;
  memcheck|racecheck|synccheck) check "$wanted" ;;
  engines) bench engines 60 50 "$work/logs/engines.md" ;;
  demo) step demo 80 env DEMO_EXTRA='--device cuda --precision bf16' sh scripts/build/demo.sh ;;
  order) bench order 120 100 "$work/logs/order.md" ;;
  autotune) bench autotune 300 280 "$work/logs/autotune.md" ;;
  esac
  keep
done
grep -h '^| ' "$work"/logs/bench_*.txt 2>/dev/null
printf '\n'
cat "$summary"
