/* verbose.c - what DLV3_VERBOSE prints to stderr. The only file of the runtime, besides those of
 * host/, that prints. */
#include "verbose.h"

#include <stdio.h>
#include <stdlib.h>

int32_t verbose_level;

__attribute__((constructor)) static void read_environment(void) {
  const char *level = getenv("DLV3_VERBOSE");
  if (level) verbose_level = atoi(level);
}

DLV3_API void dlv3_set_verbose(int32_t level) { verbose_level = level; }

static const char *device_text(const op_call *c) {
  for (int32_t i = 0; i < c->n_in; i++)
    if (c->in[i]) return dlv3_device_name(c->in[i]->st->device);
  return "cpu";
}

void verbose_call(const op_call *c, const char *impl_name, int64_t engine, double seconds) {
  char text[1200], number[32] = "";
  if (engine >= 0) snprintf(number, sizeof number, " engine %lld", (long long)engine);
  fprintf(stderr, "%s %s %s%s %.3f ms %s\n", c->info->name, device_text(c), impl_name, number, seconds * 1e3,
          call_text(text, sizeof text, c));
}

void verbose_declined(const op_call *c, const char *impl_name, const char *reason) {
  fprintf(stderr, "%s %s %s declined: %s\n", c->info->name, device_text(c), impl_name, reason);
}

void verbose_graph(int64_t calls, const char *why) {
  if (why)
    fprintf(stderr, "compile: no graph (%lld calls): %s\n", (long long)calls, why);
  else
    fprintf(stderr, "compile: one graph (%lld calls), but DLV3_VERBOSE runs them one by one\n", (long long)calls);
}
