/* memory.c - storages: reference counts, scopes, the caching allocator and its counters.
 *
 * The allocator:
 *   - A request is rounded up to a size class: multiples of 64 bytes up to 4 KiB, then eight
 *     classes per power of two. On the device of a plug-in it has at least 512 bytes, since
 *     kernels there read 16 bytes at a time.
 *   - A freed block is cached in the list of its class and serves the next request of that class,
 *     so that only the first training step allocates from the system. On a plug-in's device the
 *     kernels that still read the block precede, on the device's stream, those that will write it:
 *     nothing has to wait.
 *   - When the system has no memory left, or the limit is reached, all cached blocks are returned
 *     to the system and the request is tried again. Only then does it fail with DLV3_ERR_OOM; Lua
 *     collects garbage and repeats the whole call.
 * Memory that kernels allocate while a graph is captured is used by every launch of the graph.
 * Such blocks have lists of their own, and all graphs of a device share them: graphs run one after
 * the other and leave nothing in them. Cached blocks are never split, so a workload of ever new
 * sizes keeps what it freed until dlv3_memory_flush.
 *
 * A scope is a depth: a storage remembers the depth at which it was made, and popping a depth
 * releases its storages, whatever references there are. The headers stay, so that using a stale
 * handle is an error and not a dangling pointer. */
#include "memory.h"

#include "backend.h"
#include "executor.h"

#include <stdio.h>
#include <stdlib.h>

enum { CLASSES = 400, MAX_DEVICES = 1 + MOST_PLUGIN_DEVICES };

typedef struct block { /* in host memory: the host can not write to a device's */
  struct block *next;
  void *data;
  int64_t bytes;
} block;

typedef struct {
  block *cached[CLASSES], *captured[CLASSES]; /* free blocks; captured: of graphs */
  int64_t live, peak, reserved, generation;
} pool;

static pool pools[MAX_DEVICES];
static storage live_storages = {.next = &live_storages, .prev = &live_storages};
static int32_t scope_depth;
static block *spare_blocks;
static int64_t cpu_limit, pressure_base[MAX_DEVICES];
static int32_t capture_device; /* 0: no capture is in progress */
static int64_t captured_out;   /* blocks allocated in the capture and not freed yet */
static int32_t exhausted;      /* the device that ran out of memory last */

/* -- Size classes ------------------------------------------------------------------------------ */

/* The class of a request and the bytes a block of it has. */
static int32_t size_class(int64_t bytes, int64_t *rounded) {
#ifdef DLV3_SANITIZE /* exact sizes, so that an access one element too far is detected */
  *rounded = bytes < 16 ? 16 : bytes;
  return 0;
#endif
  if (bytes < 64) bytes = 64;
  if (bytes <= 4096) {
    *rounded = (bytes + 63) & ~63ll;
    return (int32_t)(*rounded / 64);
  }
  int32_t octave = 63 - __builtin_clzll((uint64_t)(bytes - 1)); /* 2^octave < bytes <= 2^(octave+1) */
  int64_t step = (1ll << octave) / 8;
  int64_t eighth = (bytes - (1ll << octave) + step - 1) / step; /* 1..8 */
  *rounded = (1ll << octave) + eighth * step;
  return (int32_t)(65 + (octave - 12) * 8 + (eighth - 1));
}

/* Frees the blocks of one set of lists. */
static bool free_lists(block **lists, int32_t device) {
  bool any = false;
  for (int32_t c = 0; c < CLASSES; c++) {
    for (block *b = lists[c], *next; b; b = next) {
      next = b->next;
      backend_of(device)->free(b->data, b->bytes, device);
      pools[device].reserved -= b->bytes;
      b->next = spare_blocks;
      spare_blocks = b;
      any = true;
    }
    lists[c] = NULL;
  }
  return any;
}

static void pool_flush(int32_t device) {
  if (device && device == capture_device) return; /* nothing can be freed during a capture */
  free_lists(pools[device].cached, device);
  pools[device].generation += free_lists(pools[device].captured, device);
}

static bool over_limit(int32_t device, int64_t more) {
  return device == 0 && cpu_limit && pools[0].reserved + more > cpu_limit;
}

static int32_t device_class(int64_t bytes, int64_t *rounded, int32_t device) {
  return size_class(device && bytes < 512 ? 512 : bytes, rounded);
}

/* The link to the first block of exactly `bytes`: without sanitizers, to the first of the list. */
static block **first_block_of(block **at, int64_t bytes) {
  while (*at && (*at)->bytes != bytes) at = &(*at)->next;
  return at;
}

static status pool_allocate(char **out, int64_t bytes, int32_t device) {
  pool *p = &pools[device];
  int64_t rounded;
  int32_t c = device_class(bytes, &rounded, device);
  exhausted = device;
  if (c >= CLASSES) return fail(DLV3_ERR_OOM, "out of memory: a single request of %lld bytes", (long long)bytes);
  void *data = NULL;
  const bool captures = device && device == capture_device;
  block **at = captures ? first_block_of(&p->captured[c], rounded) : NULL;
  if (!at || !*at) at = first_block_of(&p->cached[c], rounded);
  if (*at) {
    block *b = *at;
    data = b->data;
    *at = b->next;
    b->next = spare_blocks;
    spare_blocks = b;
  } else {
    if (over_limit(device, rounded)) pool_flush(device);
    if (over_limit(device, rounded))
      return fail(
          DLV3_ERR_OOM, "out of memory on %s: %.1f MiB more would pass the limit of %.1f MiB (%.1f MiB are live)",
          dlv3_device_name(device), (double)rounded / 1048576, (double)cpu_limit / 1048576, (double)p->live / 1048576);
    if (backend_of(device)->alloc(&data, rounded, device) != DLV3_OK) {
      pool_flush(device);
      TRY(backend_of(device)->alloc(&data, rounded, device));
    }
    p->reserved += rounded;
  }
  captured_out += captures;
  p->live += rounded;
  if (p->live > p->peak) p->peak = p->live;
  *out = data;
  return DLV3_OK;
}

static void pool_free(char *data, int64_t bytes, int32_t device) {
  pool *p = &pools[device];
  int64_t rounded;
  int32_t c = device_class(bytes, &rounded, device);
  block *b = spare_blocks;
  if (b)
    spare_blocks = b->next;
  else
    b = malloc(sizeof *b);
  p->live -= rounded;
  if (!b) { /* no memory for a list entry: return the block to the system */
    backend_of(device)->free(data, rounded, device);
    p->reserved -= rounded;
    return;
  }
  const bool captures = device && device == capture_device;
  block **list = captures ? p->captured : p->cached;
  *b = (block){list[c], data, rounded};
  list[c] = b;
  captured_out -= captures;
#ifdef DLV3_SANITIZE /* a cached block would hide a use after free */
  free_lists(p->cached, device);
#endif
}

/* Returns a block to the system at once: a request of this size is unlikely to follow. */
static void system_free(char *data, int64_t bytes, int32_t device) {
  int64_t rounded;
  device_class(bytes, &rounded, device);
  backend_of(device)->free(data, rounded, device);
  pools[device].live -= rounded;
  pools[device].reserved -= rounded;
}

/* -- Memory of captured graphs ----------------------------------------------------------------- */

void memory_capture_begin(int32_t device) {
  capture_device = device;
  captured_out = 0;
}

/* A block that was not freed is no longer the graphs': graphs that used it as scratch memory must
 * be captured again. */
bool memory_capture_end(void) {
  if (captured_out) pools[capture_device].generation++;
  capture_device = 0;
  return !captured_out;
}

int64_t memory_generation(int32_t device) { return pools[device].generation; }

void memory_capture_forget(int32_t device) {
  pool *p = &pools[device];
  for (int32_t c = 0; c < CLASSES; c++) {
    block **end = &p->cached[c];
    while (*end) end = &(*end)->next;
    *end = p->captured[c];
    p->captured[c] = NULL;
  }
}

/* -- Storages ---------------------------------------------------------------------------------- */

static status storage_header(storage **out, int64_t bytes, int32_t device) {
  storage *s = calloc(1, sizeof *s);
  if (!s) return fail(DLV3_ERR_OOM, "out of memory for a storage header");
  *s = (storage){.refs = 1, .device = device, .bytes = bytes, .scope = scope_depth};
  s->next = live_storages.next;
  s->prev = &live_storages;
  s->next->prev = s->prev->next = s;
  *out = s;
  return DLV3_OK;
}

static void storage_forget(storage *s) {
  s->next->prev = s->prev;
  s->prev->next = s->next;
  free(s);
}

status storage_allocate(storage *s) { return pool_allocate(&s->data, s->bytes, s->device); }

status storage_new(storage **out, int64_t bytes, int32_t device) {
  storage *s;
  TRY(storage_header(&s, bytes, device));
  status st = current_executor->allocate(s);
  if (st != DLV3_OK) {
    storage_forget(s);
    return st;
  }
  *out = s;
  return DLV3_OK;
}

status storage_slice(storage **out, storage *parent, int64_t byte_offset, int64_t bytes) {
  storage *s;
  TRY(storage_header(&s, bytes, parent->device));
  s->parent = storage_retain(parent);
  parent->slices++;
  s->data = parent->data + byte_offset;
  s->scope = parent->scope;
  *out = s;
  return DLV3_OK;
}

storage *storage_retain(storage *s) {
  s->refs++;
  return s;
}

/* Slices of s go with it: their data points into its. Each holds a reference to s. */
static void release_slices(storage *s) {
  s->refs++;
  for (storage *x = live_storages.next; s->slices && x != &live_storages;) {
    /* from the start again: a release may free others */
    storage *next = x->parent == s ? live_storages.next : x->next;
    if (x->parent == s) storage_release(x);
    x = next;
  }
  s->refs--;
}

void storage_release(storage *s) {
  if (s->slices) release_slices(s);
  for (prepared *p = s->prepared, *next; p; p = next) {
    next = p->next;
    p->destroy(p);
  }
  s->prepared = NULL;
  if (s->data && !s->parent && !s->borrowed) pool_free(s->data, s->bytes, s->device);
  s->data = NULL;
  if (s->parent) {
    storage *parent = s->parent;
    s->own_version += parent->own_version; /* the visible version never decreases */
    s->parent = NULL;
    parent->slices--;
    storage_drop(parent);
  }
}

static const prepared *restorable_form(const storage *s) {
  const prepared *p = s->frozen && !s->parent ? s->prepared : NULL;
  while (p && (!p->restore || p->version != storage_version(s))) p = p->next;
  return p;
}

void storage_surrender(storage *s) {
  if (!s->data || !restorable_form(s)) return;
  system_free(s->data, s->bytes, s->device);
  s->data = NULL;
}

bool storage_alive(const storage *s) { return s->data || restorable_form(s); }

status storage_restore(storage *s) {
  if (s->data) return DLV3_OK;
  const prepared *p = restorable_form(s);
  if (!p) return fail(DLV3_ERR_RELEASED, "the tensor was released");
  TRY(pool_allocate(&s->data, s->bytes, s->device));
  status st = p->restore(p, s->data);
  if (st != DLV3_OK) {
    pool_free(s->data, s->bytes, s->device);
    s->data = NULL;
  }
  return st;
}

void storage_drop(storage *s) {
  if (--s->refs > 0) return;
  storage_release(s);
  storage_forget(s);
}

/* -- Scopes ------------------------------------------------------------------------------------ */

DLV3_API int32_t dlv3_scope_push(void) { return scope_depth++; }

DLV3_API void dlv3_scope_keep(dlv3_tensor *t) {
  for (storage *s = t->st; s; s = s->parent)
    if (s->scope == scope_depth && scope_depth > 0) s->scope = scope_depth - 1;
}

DLV3_API void dlv3_scope_leave(dlv3_tensor *t) {
  for (storage *s = t->st; s; s = s->parent) s->scope = 0;
}

/* s replaces what `owner` holds, or belongs to it: it must not be released earlier. */
void scope_inherit(storage *s, const storage *owner) {
  for (; s; s = s->parent)
    if (s->scope > owner->scope) s->scope = owner->scope;
}

DLV3_API void dlv3_scope_inherit(dlv3_tensor *t, const dlv3_tensor *owner) { scope_inherit(t->st, owner->st); }

DLV3_API void dlv3_scope_pop(int32_t depth) {
  if (depth < 0 || depth >= scope_depth) return;
  /* Releasing a slice may drop its arena's header, which may be the next in the list: hold it
   * meanwhile. */
  for (storage *s = live_storages.next, *next; s != &live_storages; s = next) {
    next = s->next;
    if (s->scope <= depth || !(s->data || s->prepared)) continue;
    next->refs++;
    storage_release(s);
    if (!s->refs) storage_forget(s); /* only its slices held it */
    storage *held = next;
    if (held == &live_storages) {
      held->refs--;
      continue;
    }
    next = held->refs > 1 ? held : held->next;
    storage_drop(held);
  }
  scope_depth = depth;
}

/* -- Counters ---------------------------------------------------------------------------------- */

DLV3_API int64_t dlv3_memory_live(int32_t device) { return device_known(device) ? pools[device].live : 0; }
DLV3_API int64_t dlv3_memory_peak(int32_t device) { return device_known(device) ? pools[device].peak : 0; }
DLV3_API int64_t dlv3_memory_reserved(int32_t device) { return device_known(device) ? pools[device].reserved : 0; }
DLV3_API void dlv3_memory_reset_peak(int32_t device) {
  if (device_known(device)) pools[device].peak = pools[device].live;
}
DLV3_API void dlv3_memory_flush(int32_t device) {
  if (device_known(device)) pool_flush(device);
}
DLV3_API void dlv3_memory_limit(int64_t bytes) { cpu_limit = bytes < 0 ? 0 : bytes; }

/* Pressure: live memory has grown by an eighth of the device's memory since the last report; on the
 * host, which other processes share, by 512 MiB. */
DLV3_API int32_t dlv3_memory_pressure(void) {
  int32_t pressed = 0;
  for (int32_t d = 0; device_known(d); d++) {
    int64_t live = pools[d].live;
    if (d && !live) { /* asking an unused device would initialize it */
      pressure_base[d] = 0;
      continue;
    }
    int64_t room = d ? backend_of(d)->memory(d) / 8 : 512ll << 20;
    if (live < pressure_base[d]) pressure_base[d] = live;
    if (live - pressure_base[d] < room) continue;
    pressure_base[d] = live;
    pressed = 1;
  }
  return pressed;
}

DLV3_API const char *dlv3_memory_largest(int32_t device) {
  enum { SHOWN = 10 };
  static char text[512];
  const storage *top[SHOWN] = {0};
  if (device < 0) device = exhausted;
  for (const storage *s = live_storages.next; s != &live_storages; s = s->next) {
    if (s->device != device || !s->data || s->parent) continue;
    for (int32_t i = 0; i < SHOWN; i++) {
      if (top[i] && top[i]->bytes >= s->bytes) continue;
      memmove(top + i + 1, top + i, (size_t)(SHOWN - 1 - i) * sizeof *top);
      top[i] = s;
      break;
    }
  }
  int used = 0;
  for (int32_t i = 0; i < SHOWN && top[i]; i++)
    used +=
        snprintf(text + used, sizeof text - (size_t)used, "%s%.1f MiB", i ? ", " : "", (double)top[i]->bytes / 1048576);
  if (!used) text[0] = 0;
  return text;
}
