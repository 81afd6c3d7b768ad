/* weights.c - what the convolution kernels are given in another form: packed weights, operands in
 * the computing type. */
#include "weights.h"

#include "core/backend.h"

#include <stdlib.h>

/* -- Prepared weights
 * --------------------------------------------------------------------------------------
 *
 * A form is kept from its second use at one version of the weight on. So inference packs twice and
 * never again, while in training, where a step uses each form once and then changes the weight,
 * packs pass through one scratch buffer: kept, they would take twice the weights' memory. A frozen
 * weight is kept packed at once, and then in that form only. */

typedef struct {
  prepared head; /* version: of the last use                    */
  int64_t bytes, size[4];
  void *data; /* NULL: not kept                              */
  unpack_weight unpack;
} packed_weight;

static void *scratch; /* a call of a kernel prepares one weight, and one call runs at a time */
static int64_t scratch_bytes;

/* From the backend, so that large ones lie on huge pages. */
static status take_memory(void **out, int64_t bytes) {
  if (cpu_backend.alloc(out, bytes + 64, 0) == DLV3_OK) return DLV3_OK;
  *out = NULL;
  return fail(DLV3_ERR_OOM, "out of memory for a packed weight of %.1f MiB", (double)bytes / 1048576);
}

static void give_memory(void **data, int64_t bytes) {
  if (*data) cpu_backend.free(*data, bytes + 64, 0);
  *data = NULL;
}

static void packed_destroy(prepared *p) {
  packed_weight *w = (packed_weight *)p;
  give_memory(&w->data, w->bytes);
  free(p);
}

static status packed_restore(const prepared *p, void *dst) {
  const packed_weight *w = (const packed_weight *)p;
  w->unpack(dst, w->data, w->size);
  return DLV3_OK;
}

void packed_only(tensor *w, const void *packed, unpack_weight unpack) {
  if (!w->st->frozen || !w->st->data || w->ndim != 4 || w->offset || tensor_bytes(w) != w->st->bytes)
    return;
  for (prepared *p = w->st->prepared; p; p = p->next) {
    packed_weight *form = (packed_weight *)p;
    if (form->data != packed) continue;
    form->unpack = unpack, p->restore = packed_restore;
    memcpy(form->size, w->size, sizeof form->size);
  }
  storage_surrender(w->st);
}

static status take_scratch(void **out, int64_t bytes) {
  if (bytes > scratch_bytes) {
    give_memory(&scratch, scratch_bytes);
    scratch_bytes = 0;
    TRY(take_memory(&scratch, bytes));
    scratch_bytes = bytes;
  }
  *out = scratch;
  return DLV3_OK;
}

/* The note of form `key`, a new one if need be. */
static packed_weight *form_of(tensor *w, uint64_t key, int64_t bytes) {
  packed_weight *p = (packed_weight *)w->st->prepared;
  while (p && (p->head.key != key || p->head.offset != w->offset || p->bytes != bytes))
    p = (packed_weight *)p->head.next;
  if (p || !(p = calloc(1, sizeof *p))) return p;
  *p = (packed_weight){
      {w->st->prepared, key, storage_version(w->st) - 1, w->offset, packed_destroy, NULL}, bytes, {0}, NULL, NULL};
  w->st->prepared = &p->head;
  return p;
}

status prepared_weight(void **out, tensor *w, uint64_t key, int64_t bytes,
                       status (*build)(void *dst, const tensor *w, const void *arg), const void *arg) {
  int64_t version = storage_version(w->st);
  for (int32_t i = 0; i < w->ndim; i++)
    key = (key ^ (uint64_t)w->size[i]) * 0x9e3779b97f4a7c15u, key ^= key >> 29; /* a view may have other sizes */
  packed_weight *p = form_of(w, key, bytes);
  if (!p) return fail(DLV3_ERR_OOM, "out of memory for a packed weight");
  const bool again = p->head.version == version;
  if (again && p->data) return *out = p->data, DLV3_OK;
  TRY(storage_restore(w->st)); /* while the old forms still tell of the version */
  p->head.version = version, p->head.restore = NULL;
  give_memory(&p->data, bytes);
  if (again || w->st->frozen) {
    TRY(take_memory(&p->data, bytes));
    *out = p->data;
  } else
    TRY(take_scratch(out, bytes));
  const status st = build(*out, w, arg);
  if (st != DLV3_OK) {
    give_memory(&p->data, bytes);
    p->head.version = version - 1;
  }
  return st;
}

void *conv_operand(const tensor *t, bool wide, void **owned, bool load) {
  *owned = NULL;
  if (t->dtype == (wide ? DLV3_F64 : DLV3_F32)) return data_of(t);
  if (posix_memalign(owned, 64, (size_t)numel(t) * (wide ? 8 : 4) + 64)) return *owned = NULL;
  if (load && wide)
    load_f64(*owned, data_of(t), t->dtype, numel(t));
  else if (load)
    load_f32(*owned, data_of(t), t->dtype, numel(t));
  return *owned;
}
