/* verbose.c - what DLV3_VERBOSE prints to stderr, and attributes as text. The only file of the
 * runtime that prints. */
#include "verbose.h"

#include <stdio.h>
#include <stdlib.h>

int32_t verbose_level;

__attribute__((constructor)) static void read_environment(void) {
  const char *level = getenv("DLV3_VERBOSE");
  if (level) verbose_level = atoi(level);
}

DLV3_API void dlv3_set_verbose(int32_t level) { verbose_level = level; }

/* Walks "stride:pair=1 padding:pair=0 " beside the slots. */
void attrs_text(char *buf, size_t n, const op_info *info, const void *attr) {
  const dlv3_attr *slot = attr;
  const char *p = info->attrs;
  int used = 0;
  buf[0] = 0;
  if (!attr) return;
  char name[32], type[16];
  int eaten;
  while (sscanf(p, "%31[^:]:%15[^=]=%*[^ ] %n", name, type, &eaten) == 2 && (size_t)used + 120 < n) {
    used += snprintf(buf + used, n - (size_t)used, "%s%s ", used ? "  " : "   ", name);
    if (!strcmp(type, "pair"))
      used += snprintf(buf + used, n - (size_t)used, "%lld,%lld", (long long)slot[0].i, (long long)slot[1].i),
          slot += 2;
    else if (!strcmp(type, "real"))
      used += snprintf(buf + used, n - (size_t)used, "%g", slot->f), slot++;
    else if (!strcmp(type, "dtype"))
      used += snprintf(buf + used, n - (size_t)used, "%s", dtype_name((int32_t)slot->i)), slot++;
    else if (!strcmp(type, "axis") || !strcmp(type, "position"))
      used += snprintf(buf + used, n - (size_t)used, "%lld", (long long)(slot->i < 0 ? slot->i : slot->i + 1)), slot++;
    else if (!strcmp(type, "dims") || !strcmp(type, "axes")) {
      char list[TEXT];
      int64_t v[DLV3_MAX_DIMS], count = slot[0].i < 0 || slot[0].i > DLV3_MAX_DIMS ? 0 : slot[0].i;
      for (int64_t i = 0; i < count; i++) v[i] = slot[1 + i].i + (!strcmp(type, "axes") && slot[1 + i].i >= 0);
      used += snprintf(buf + used, n - (size_t)used, "%s", sizes_text(list, (int32_t)count, v));
      slot += 1 + DLV3_MAX_DIMS;
    } else
      used += snprintf(buf + used, n - (size_t)used, "%lld", (long long)slot->i), slot++;
    p += eaten;
  }
}

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
