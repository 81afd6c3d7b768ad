#!/bin/sh
# install_packages.sh - installs what dlv3 needs from the distribution (Debian, Ubuntu), or prints how.
#   install_packages.sh [build] [test] [mpi] [clang]   build: compiler and libraries; test: the PyTorch oracle, with a BLAS that lets
#                                              its f64 take seconds instead of minutes, and the linter; mpi: Open MPI and
#                                              MPICH; clang: the other compiler, with its OpenMP
# As root, or where sudo asks for no password; otherwise the command is printed and the exit status is 1.
set -u
[ $# -gt 0 ] || set -- build
sets="$*"

if ! command -v apt-get >/dev/null 2>&1; then
  echo "This is not Debian or Ubuntu: please install LuaJIT 2.1, libpng, libjpeg-turbo, zlib, libedit and oneDNN with their headers, pkg-config, gcc, make" >&2
  exit 1
fi

# onednn NAME: its development package has had two names
known() { apt-cache show "$1" >/dev/null 2>&1; }
onednn() { if ! known libdnnl-dev && known libonednn-dev; then echo libonednn-dev; else echo libdnnl-dev; fi; }
cairo() { echo libcairo2; }
wanted() {
  for s in $sets; do
    case $s in
    build) echo gcc libc6-dev make pkg-config libluajit-5.1-dev libpng-dev libjpeg-dev zlib1g-dev libedit-dev "$(onednn)" "$(cairo)" ;;
    clang) echo clang libomp-dev ;;
    mpi) echo openmpi-bin libopenmpi-dev mpich libmpich-dev ;;
    test) echo python3-torch python3-torchvision python3-pil python3-numpy libopenblas0-pthread lua-check libcairo2 fonts-dejavu-core ;;
    *) echo "install_packages.sh: 'build', 'test', 'mpi' or 'clang', not '$s'" >&2; exit 2 ;;
    esac
  done
}
installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'install ok installed'; }
missing() { for p in $(wanted); do installed "$p" || echo "$p"; done | sort -u | tr '\n' ' '; }

packages=$(missing)
[ -n "$packages" ] || exit 0
if [ "$(id -u)" = 0 ]; then as_root=''
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then as_root=sudo
else
  echo "Packages are missing. Install them with"
  echo "  sudo apt-get install -y $packages"
  exit 1
fi

echo "installing $packages"
get() { # shellcheck disable=SC2086
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" </dev/null; }
# shellcheck disable=SC2086
if ! get install -y --no-install-recommends $packages >/dev/null 2>&1; then
  get update >/dev/null || true # the lists may be old or absent
  packages=$(missing) # names are looked up in the new lists
  # shellcheck disable=SC2086
  if ! get install -y --no-install-recommends $packages >/dev/null; then
    echo "could not install them; the command was"
    echo "  apt-get update && apt-get install -y $packages"
    exit 1
  fi
fi
