#!/bin/sh
# features.sh - looks for what dlv3 is built with, says so with a tick or a cross and the package to install, and writes
# the flags for make.   features.sh OUT.mk   Called by the Makefile; exit 1 when something that is needed is missing.
set -u
out=${1:-/dev/null}
cc=${CC:-cc}
here=$(dirname "$0")
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

if locale charmap 2>/dev/null | grep -q UTF-8 || [ -t 1 ]; then tick='✓' cross='✗'; else tick='+' cross='-'; fi

# links NAME "HEADERS" "FLAGS": can a program with these headers be built?
links() {
  { echo '#include <stddef.h>'; echo '#include <stdio.h>'; for h in $1; do echo "#include <$h>"; done; echo 'int main(void) { return 0; }'; } > "$work/t.c"
  # shellcheck disable=SC2086
  $cc $2 -o "$work/t" "$work/t.c" $3 > "$work/log" 2>&1
}

line() { printf '  %s %-34s %s\n' "$1" "$2" "$3"; }

# library LABEL PKGCONFIG HEADER LIBS PACKAGE: by pkg-config, else by its header
library() {
  cflags='' libs=$4 version=''
  if pkg-config --exists "$2" 2>/dev/null; then
    cflags=$(pkg-config --cflags "$2") libs=$(pkg-config --libs "$2") version=$(pkg-config --modversion "$2")
  elif [ "$2" = luajit ]; then
    for d in /usr/include/luajit-2.1 /usr/local/include/luajit-2.1; do [ -f "$d/lua.h" ] && cflags=-I$d; done
  fi
  if links "$3" "$cflags" "$libs"; then
    line "$tick" "$1 $version" ''
    all_cflags="$all_cflags $cflags" all_libs="$all_libs $libs"
  else
    line "$cross" "$1" "install the package $5"
    missing="$missing $5"
  fi
}

# CUDA's compiler with the libraries that the CUDA part needs, wherever they are usually put
find_cuda() {
  nvcc='' cuda_libs='' cuda_note='install the CUDA toolkit (nvcc)'
  for n in "${NVCC:-}" "$(command -v nvcc 2>/dev/null)" /usr/local/cuda/bin/nvcc; do [ -n "$n" ] && [ -x "$n" ] && nvcc=$n && break; done
  [ -n "$nvcc" ] || return
  cuda=$(dirname "$(dirname "$nvcc")")
  for l in "$cuda/lib64" "$cuda/lib" /usr/lib/x86_64-linux-gnu /usr/lib64; do [ -e "$l/libcudart.so" ] && break; done
  cuda_libs="-L$l -lcudnn -Xlinker -rpath,$l" # cuBLASLt is opened on first use
  cuda_library cudnn.h cudnn 'cuDNN 9' 'cudnnGetVersion() < 90000'
  cuda_library cublasLt.h cublasLt cuBLASLt '!cublasLtGetVersion()'
}

# cuda_library HEADER NAME LABEL EXPRESSION: can a program that uses it be linked? Without it there is no CUDA part.
cuda_library() {
  [ -n "$nvcc" ] || return
  printf '#include <cuda_runtime.h>\n#include <%s>\nint main() { return %s; }\n' "$1" "$4" > "$work/t.cu"
  "$nvcc" -cudart shared -o "$work/t" "$work/t.cu" -L"$l" "-l$2" > "$work/log" 2>&1 || { cuda_note="nvcc is there; install $3 with its headers" nvcc=''; }
}

report() {
  all_cflags='' all_libs='' missing=''
  echo "dlv3 is built with"
  if command -v "${cc%% *}" >/dev/null 2>&1 && links '' '' ''; then line "$tick" "$($cc --version 2>/dev/null | head -n 1 | cut -c1-34)" ''
  else line "$cross" "C compiler ($cc)" "install the package gcc (and libc6-dev)"; missing="$missing gcc"; fi
  library LuaJIT luajit luajit.h -lluajit-5.1 libluajit-5.1-dev
  library libpng libpng png.h -lpng libpng-dev
  library libjpeg-turbo libjpeg jpeglib.h -ljpeg libjpeg-dev
  library zlib zlib zlib.h -lz zlib1g-dev
  library libedit libedit histedit.h -ledit libedit-dev
  library oneDNN dnnl dnnl.h -ldnnl libdnnl-dev
  echo "and uses, where it is there"
  if ldconfig -p 2>/dev/null | grep -q 'libcairo\.so\.2' || [ -e /usr/lib/x86_64-linux-gnu/libcairo.so.2 ]; then line "$tick" 'cairo: text in pictures' ''
  else line "$cross" 'cairo: text in pictures' 'install the package libcairo2'; fi
  find_cuda
  if [ -n "$nvcc" ]; then line "$tick" "CUDA $("$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p'), cuDNN, cuBLASLt" ''
  else line "$cross" 'CUDA: NVIDIA GPUs' "$cuda_note"; fi
  have_cxx=''
  if echo 'int main() { return 0; }' > "$work/t.cpp" && ${CXX:-c++} -o "$work/t" "$work/t.cpp" >/dev/null 2>&1; then have_cxx=1; line "$tick" 'C++: tests of the CUDA kernels' ''
  else line "$cross" 'C++: tests of the CUDA kernels' 'install the package g++'; fi
  if command -v luacheck >/dev/null 2>&1; then line "$tick" 'luacheck: make lint' ''
  else line "$cross" 'luacheck: make lint' 'install the package lua-check'; fi
  if [ -d /usr/lib/python3/dist-packages/torchvision ]; then line "$tick" 'PyTorch: parity tests' ''
  else line "$cross" 'PyTorch: parity tests' 'install the packages python3-torch python3-torchvision python3-pil'; fi
}

report > "$work/report"
if [ -n "$missing" ]; then
  cat "$work/report"
  "$here/install_packages.sh" build || exit 1
  report > "$work/report"
fi
cat "$work/report"
if [ -n "$missing" ]; then
  echo "dlv3 can not be built without:$missing"
  exit 1
fi
{
  echo "# written by scripts/build/features.sh; \`make features\` looks again"
  echo "FEATURE_CFLAGS :=$all_cflags"
  echo "FEATURE_LIBS :=$all_libs"
  echo "NVCC := $nvcc"
  echo "CUDA_LIBS := $cuda_libs"
  echo "HAVE_CXX := $have_cxx"
} > "$out"
