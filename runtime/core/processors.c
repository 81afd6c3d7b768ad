/* processors.c - how many processors this process may use: those of the machine, of its affinity
 * (taskset, Slurm) and of the quotas of its control groups (containers). */
#define _GNU_SOURCE
#include "core.h"

#include <limits.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

DLV3_API int32_t dlv3_processors(void) {
  long n = sysconf(_SC_NPROCESSORS_ONLN);
  if (n < 1) return 1;
  return n > 1024 ? 1024 : (int32_t)n;
}

static double affinity_processors(void) {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) ? INFINITY : CPU_COUNT(&set);
}

/* -- Control groups ---------------------------------------------------------------------------- */

/* The first line of a file; false where there is none. */
static bool first_line(char *line, int n, const char *folder, const char *name) {
  char path[PATH_MAX];
  if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) return false;
  FILE *file = fopen(path, "re");
  bool found = file && fgets(line, n, file);
  if (file) fclose(file);
  return found;
}

/* Processors by version 2's "quota period" in cpu.max, or version 1's two files; infinite without a
 * quota. */
static double quota_of(const char *folder) {
  char line[128];
  double quota, period;
  if (first_line(line, sizeof line, folder, "cpu.max"))
    return sscanf(line, "%lf %lf", &quota, &period) == 2 && quota > 0 && period > 0 ? quota / period : INFINITY;
  if (!first_line(line, sizeof line, folder, "cpu.cfs_quota_us") || sscanf(line, "%lf", &quota) != 1 || quota <= 0)
    return INFINITY;
  if (!first_line(line, sizeof line, folder, "cpu.cfs_period_us") || sscanf(line, "%lf", &period) != 1 || period <= 0)
    return INFINITY;
  return quota / period;
}

/* The least of a group's quota and those of the groups above it, up to the mount. Inside a
 * container the group's path may be the host's: folders that are not there have no quota. */
static double least_quota(const char *mount, const char *group) {
  char path[PATH_MAX];
  if (snprintf(path, sizeof path, "%s%s", mount, group) >= (int)sizeof path) return INFINITY;
  double least = INFINITY;
  for (size_t top = strlen(mount);; *strrchr(path, '/') = 0) {
    least = fmin(least, quota_of(path));
    if (strlen(path) <= top) return least;
  }
}

/* Whether "cpu" is one of names with commas between them. */
static bool has_cpu(const char *names) {
  for (const char *p = names; (p = strstr(p, "cpu")); p += 3)
    if ((p == names || p[-1] == ',') && (p[3] == 0 || p[3] == ',')) return true;
  return false;
}

/* A line of /proc/self/cgroup is "number:controllers:path"; version 2 has no controllers there. */
static double quota_of_line(char *line, const char *root) {
  char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL, mount[PATH_MAX];
  if (!group || group[1] != '/') return INFINITY;
  *names++ = *group++ = 0;
  group[strcspn(group, "\n")] = 0;
  if (*names && !has_cpu(names)) return INFINITY;
  double least = INFINITY;
  const char *const mounts[] = {*names ? names : "", *names ? "cpu" : "unified"};
  for (int i = 0; i < 2; i++)
    if (snprintf(mount, sizeof mount, "%s/sys/fs/cgroup/%s", root, mounts[i]) < (int)sizeof mount) {
      if (!mounts[i][0]) mount[strlen(mount) - 1] = 0;
      least = fmin(least, least_quota(mount, group));
    }
  return least;
}

DLV3_API double dlv3_cpu_quota(const char *root) {
  char line[PATH_MAX], path[PATH_MAX];
  double least = INFINITY;
  if (snprintf(path, sizeof path, "%s/proc/self/cgroup", root) >= (int)sizeof path) return INFINITY;
  FILE *file = fopen(path, "re");
  while (file && fgets(line, sizeof line, file)) least = fmin(least, quota_of_line(line, root));
  if (file) fclose(file);
  return least;
}

int32_t processors_shared(int32_t sharing, int32_t local) {
  double own = fmin(affinity_processors(), dlv3_processors()) / sharing, quota = ceil(dlv3_cpu_quota("")) / local;
  return (int32_t)fmax(1, floor(fmin(own, quota)));
}

int32_t processors_allowed(void) { return processors_shared(1, 1); }
