/* parts.c - where the parts of dlv3 that are libraries of their own lie. */
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

#include "core.h"

/* The folder of the program, without a slash at its end. */
static void program_folder(char *folder, size_t n) {
  ssize_t length = readlink("/proc/self/exe", folder, n - 1);
  folder[length < 0 ? 0 : length] = 0;
  char *slash = strrchr(folder, '/');
  if (slash) *slash = 0;
}

const char *find_part(char *path, size_t n, const char *name) {
  static const char *const places[] = {"", "/build", "/../lib/dlv3"};
  char folder[400];
  program_folder(folder, sizeof folder);
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    snprintf(path, n, "%s%s/%s", folder, places[i], name);
    if (!access(path, R_OK)) return path;
  }
  return NULL;
}

status part_open(void **function, const char *path, int flags, const char *entry, const char *contract) {
  void *library = dlopen(path, flags);
  if (!library) return fail(DLV3_ERR_DEVICE, "%s can not be opened: %s", path, dlerror());
  const char *own = dlsym(library, "dlv3_contract");
  *function = dlsym(library, entry);
  if (own && *function && !strcmp(own, contract)) return DLV3_OK;
  const status st = fail(DLV3_ERR_DEVICE,
                         "%s was built for another version of dlv3 (contract %.16s, this program has %s): run `make`",
                         path, own ? own : "none", contract);
  dlclose(library);
  return st;
}
