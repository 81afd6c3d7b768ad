#!/bin/sh
# rooms.sh - which room of the C sources includes headers of which, and how many times. Exit 1 when an include points
# upward: into a room that the list below does not name, or, from a kernel, at a header that is private to its room.
#
#   scripts/build/rooms.sh      prints the graph, then what points upward
set -u
cd "$(dirname "$0")/../.." || exit 1

find runtime kernels -name '*.[ch]' -o -name '*.inc' -o -name '*.cu' | sort | xargs awk '
BEGIN {
  # A room and the rooms below it. "public" is runtime/dlv3.h and runtime/ops.def.
  below["public"] = ""
  below["core"] = "public"
  below["files"] = "public core"
  below["collectives"] = "public core"
  below["ops"] = "public core collectives"
  below["images"] = "public core files"
  below["program"] = "public core"
  below["plugin"] = "public core files collectives"
  below["host"] = "public core files collectives ops images program plugin"
  below["kernels/shared"] = "core"
  below["kernels/mpi"] = "public collectives kernels/shared"
  below["kernels/cpu"] = below["kernels/cuda"] = "public core collectives kernels/shared"
  # The headers of the runtime that kernels may see.
  split("runtime/core/core.h runtime/core/backend.h runtime/core/isa_clones.h runtime/collectives/world.h " \
        "runtime/collectives/mpi_library.h runtime/dlv3.h runtime/ops.def", names, " ")
  for (i in names) for_kernels[names[i]] = 1
}
function folder(file) { sub("/[^/]*$", "", file); return file }
function exists(file,   line, found) { found = (getline line < file) >= 0; close(file); return found }
function room_of(file,   part, n) {
  n = split(file, part, "/")
  if (part[1] == "kernels") return "kernels/" part[2]
  return n == 2 ? "public" : part[2]
}
/^#include "/ {
  split($0, quoted, "\"")
  name = quoted[2]
  target = folder(FILENAME) "/" name
  if (!exists(target)) target = "runtime/" name
  if (!exists(target)) target = "kernels/" name
  if (!exists(target)) next
  from = room_of(FILENAME)
  to = room_of(target)
  if (from == to) next
  count[from "\t" to]++
  allowed = index(" " below[from] " ", " " to " ") && (from !~ /^kernels/ || to ~ /^kernels/ || target in for_kernels)
  if (!allowed) upward[++n_upward] = FILENAME ":" FNR ": " $0
}
END {
  for (pair in count) {
    split(pair, room, "\t")
    printf "%-14s -> %-14s %3d\n", room[1], room[2], count[pair] | "sort"
  }
  close("sort")
  printf "includes that point upward: %d\n", n_upward
  for (i = 1; i <= n_upward; i++) print "  " upward[i]
  exit n_upward > 0
}'
