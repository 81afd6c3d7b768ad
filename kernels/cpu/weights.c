/* weights.c - what the convolution kernels are given in another form: packed weights, operands in the computing type. */
#include "conv.h"

#include <stdlib.h>

/* -- Prepared weights -------------------------------------------------------------------------------------- */

typedef struct {
  prepared head;
  int64_t bytes;
  void *data;
} packed_weight;

static void packed_destroy(prepared *p) {
  free(((packed_weight *)p)->data);
  free(p);
}

status prepared_weight(void **out, tensor *w, uint64_t key, int64_t bytes, void (*build)(void *dst, const tensor *w, const void *arg), const void *arg) {
  int64_t version = storage_version(w->st);
  for (int32_t i = 0; i < w->ndim; i++) key = (key ^ (uint64_t)w->size[i]) * 0x9e3779b97f4a7c15u, key ^= key >> 29; /* a view may have other sizes */
  packed_weight *p = (packed_weight *)w->st->prepared;
  while (p && (p->head.key != key || p->head.offset != w->offset || p->bytes != bytes)) p = (packed_weight *)p->head.next;
  if (!p) {
    p = calloc(1, sizeof *p);
    if (!p || posix_memalign(&p->data, 64, (size_t)bytes + 64)) {
      free(p);
      return fail(DLV3_ERR_OOM, "out of memory for a packed weight of %.1f MiB", (double)bytes / 1048576);
    }
    *p = (packed_weight){{w->st->prepared, key, version - 1, w->offset, packed_destroy}, bytes, p->data};
    w->st->prepared = &p->head;
  }
  if (p->head.version != version) {
    build(p->data, w, arg);
    p->head.version = version;
  }
  *out = p->data;
  return DLV3_OK;
}

void *conv_operand(const tensor *t, bool wide, void **owned, bool load) {
  *owned = NULL;
  if (t->dtype == (wide ? DLV3_F64 : DLV3_F32)) return data_of(t);
  if (posix_memalign(owned, 64, (size_t)numel(t) * (wide ? 8 : 4) + 64)) return *owned = NULL;
  if (load && wide) load_f64(*owned, data_of(t), t->dtype, numel(t));
  else if (load) load_f32(*owned, data_of(t), t->dtype, numel(t));
  return *owned;
}
