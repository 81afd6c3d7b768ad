/* parts.c - where the parts of dlv3 that are libraries of their own lie. */
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
