#!/bin/sh
# lint.sh - luacheck over all Lua, and the rules of the house that a grep can check. Exit 1 when one is broken.
set -u
cd "$(dirname "$0")/../.." || exit 1
failed=0
broken() { failed=1; printf '%s\n' "$1"; shift; printf '%s\n' "$@" | sed 's/^/  /'; }
# files PATTERN...: what git knows, or, in a copy without git, what lies there
files() {
  if git ls-files --error-unmatch Makefile >/dev/null 2>&1; then git ls-files "$@" | while read -r f; do [ -f "$f" ] && echo "$f"; done
  else for p in "$@"; do find . -path ./build -prune -o -path "./$p" -type f -print; done | sed 's#^\./##' | sort -u; fi
}
# rule TEXT PATTERN FILES...: no line of these files may match
rule() {
  text=$1 pattern=$2; shift 2
  [ $# -gt 0 ] || return 0
  found=$(grep -nE "$pattern" "$@" /dev/null) && broken "$text" "$found"
}

c_core=$(files 'runtime/*.c' 'runtime/*.h' 'kernels/*.c' 'kernels/*.h' 'kernels/*.cu' | grep -vE '^runtime/(host/(main|repl)|core/verbose)\.c$')
c_plain=$(echo "$c_core" | grep -v '^runtime/images/jpeg\.c$') # libjpeg's errors leave by longjmp, inside that file
lua=$(files '*.lua' | grep -vE '^lua/dlv3/(core/ffi|vision/cairo)\.lua$')
# shellcheck disable=SC2086
{
rule 'runtime and kernels report by status: no abort, exit, longjmp or printing' \
  '(^|[^a-zA-Z_.>])(abort|exit|_exit|longjmp|assert|printf|fprintf|puts|fputs|perror|putchar) *\(' $c_plain
rule 'the FFI is used in lua/dlv3/core/ffi.lua and lua/dlv3/vision/cairo.lua only' "require *\\(? *['\"]ffi['\"]" $lua
rule 'the functions of the runtime are called in lua/dlv3 only (dlv3.os, dlv3.core.runtime, ...)' '(^|[^a-zA-Z_])C\.dlv3_' \
  $(files 'scripts/*.lua' 'models/*.lua' 'bench/*.lua' 'tests/*.lua' | grep -vE '^tests/unit/test_(pointwise|damaged_files)\.lua$') # these test C itself
rule 'the library requires nothing of models/ and scripts/' "require *\\(? *['\"](models|scripts)" $(files 'lua/dlv3/*.lua')
rule 'vendor headers belong into kernels/' '#include *[<"](dnnl|oneapi|cuda|cublas|cudnn|cblas|mkl)' $(files 'runtime/*.c' 'runtime/*.h')
rule 'CUDA headers and CUDA-only lines belong into kernels/cuda/' '#include *[<"](cuda|cublas|cudnn|nvrtc)|#if.*CUDA' $(files 'runtime/*.c' 'runtime/*.h' 'kernels/cpu/*.c' 'kernels/cpu/*.h')
rule 'unbounded string functions' '(^|[^a-z_])(strcat|sprintf|vsprintf|gets) *\(' $c_core
}

long=$(files '*.c' '*.h' '*.cu' '*.cpp' '*.def' '*.lua' '*.sh' Makefile | xargs wc -l | awk '$2 != "total" && $1 > 800 {print $2 ": " $1 " lines"}')
[ -z "$long" ] || broken 'no file has more than 800 lines' "$long"
wide=$(files '*.c' '*.h' '*.inc' '*.cu' '*.cpp' '*.def' | xargs awk 'length > 120 {print FILENAME ":" FNR ": " length " columns"}')
[ -z "$wide" ] || broken 'C and CUDA: 120 columns at most (clang-format does it, but for comments)' "$wide"
wide=$(files 'runtime/*.c' 'runtime/*.h' 'runtime/*.def' | xargs awk '/^ *([/][*]|[*] )/ && length > 100 {print FILENAME ":" FNR ": " length " columns"}')
[ -z "$wide" ] || broken 'runtime: 100 columns at most in comments' "$wide"
wide=$(files '*.lua' | xargs awk 'length > 120 {print FILENAME ":" FNR ": " length " columns"}')
[ -z "$wide" ] || broken 'Lua: 120 columns at most' "$wide"
wide=$(files '*.lua' | xargs awk '/^ *-- [^ ]/ && length > 100 {print FILENAME ":" FNR ": " length " columns"}')
[ -z "$wide" ] || broken 'Lua: 100 columns at most in comments' "$wide"
odd=$(files '*.c' '*.h' '*.cu' '*.cpp' '*.def' '*.lua' '*.sh' '*.md' Makefile | grep -v golden | xargs grep -nE '[[:space:]]+$' /dev/null | head -n 20)
[ -z "$odd" ] || broken 'spaces at the end of lines' "$odd"

upward=$(sh scripts/build/rooms.sh) || broken 'includes between rooms point one way (scripts/build/rooms.sh lists them)' "$upward"

if command -v luacheck >/dev/null 2>&1; then
  # shellcheck disable=SC2046
  report=$(luacheck --quiet --no-color $(files '*.lua') 2>&1) || broken 'luacheck:' "$report"
else
  broken 'luacheck is missing: install the package lua-check'
fi
[ $failed = 0 ] && echo "lint: $(files '*.lua' | wc -l) Lua files and $(files '*.c' '*.h' '*.def' | wc -l) C files are clean"
exit $failed
