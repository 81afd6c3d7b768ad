/* random.c - random fills, arange, dropout. Numbers come from Philox: a function of seed and
 * counter, so that threads, layout and dtype change nothing. */
#include "cpu/support/elements.h"
#include "cpu/support/philox.h"

/* -- Fills by position ------------------------------------------------------------------------- */

INLINE void store_one(char *p, int32_t dtype, double v) {
  if (dtype == DLV3_F32)
    *(float *)p = (float)v;
  else
    store_f64(p, dtype, &v, 1);
}

/* Fills in logical row-major order, whatever the layout: four elements a call, since a block of
 * random words makes four. */
typedef struct {
  tensor *x;
  const op_call *call;
  void (*values)(const op_call *c, int64_t block, double v[4]);
} positions_job;

static void positions_range(void *ctx, int64_t begin, int64_t end) { /* begin is a multiple of 4 */
  const positions_job *job = ctx;
  tensor *x = job->x;
  int32_t width = dtype_bytes(x->dtype), last = x->ndim - 1;
  int64_t index[DLV3_MAX_DIMS] = {0}, at = x->offset, rest = begin;
  double v[4];
  for (int32_t k = last; k >= 0; k--) index[k] = rest % x->size[k], rest /= x->size[k], at += index[k] * x->stride[k];
  for (int64_t i = begin; i < end; i++) {
    if (i % 4 == 0) job->values(job->call, i / 4, v);
    store_one(x->st->data + at * width, x->dtype, v[i % 4]);
    for (int32_t k = last; k >= 0; k--) { /* on to the next position */
      at += x->stride[k];
      if (++index[k] < x->size[k]) break;
      at -= x->stride[k] * x->size[k], index[k] = 0;
    }
  }
}

static status fill_positions(op_call *c, void (*values)(const op_call *, int64_t, double[4])) {
  positions_job job = {c->in[0], c, values};
  parallel_for(numel(c->in[0]), GRAIN, positions_range, &job);
  return DLV3_OK;
}

static void arange_values(const op_call *c, int64_t block, double v[4]) {
  const arange__attr *at = c->attr;
  for (int64_t i = 0; i < 4; i++) v[i] = at->start + (double)(block * 4 + i) * at->step;
}
static status ref_arange_(op_call *c) { return fill_positions(c, arange_values); }
IMPLS(arange_, {"ref", ref_arange_});

/* -- Random numbers: element i takes word i % 4 of counter block i / 4 ------------------------- */

/* rng is i64 [2]: seed, counter. A call of n elements moves the counter on by its blocks. */
static status advance(status st, tensor *rng, int64_t n) {
  ((int64_t *)data_of(rng))[1] += (n + 3) / 4;
  return st;
}

static void draw(uint32_t words[4], const tensor *rng, int64_t block) {
  const int64_t *state = data_of(rng);
  philox(words, (uint64_t)state[0], (uint64_t)state[1] + (uint64_t)block, 0);
}

/* v as it will be read back from a tensor. */
INLINE double as_stored(double v, int32_t dtype) {
  switch (dtype) {
  case DLV3_F16: return f16_to_f32(f32_to_f16((float)v));
  case DLV3_BF16: return bf16_to_f32(f32_to_bf16((float)v));
  case DLV3_F32: return (float)v;
  default: return v;
  }
}

/* The largest number of the dtype below v, which is one. */
static double below(double v, int32_t dtype) {
  uint16_t h = dtype == DLV3_F16 ? f32_to_f16((float)v) : f32_to_bf16((float)v);
  if (dtype == DLV3_F64) return nextafter(v, -INFINITY);
  if (dtype == DLV3_F32) return nextafterf((float)v, -INFINITY);
  h = (uint16_t)(v > 0 ? h - 1 : v < 0 ? h + 1 : 0x8001);
  return dtype == DLV3_F16 ? f16_to_f32(h) : bf16_to_f32(h);
}

/* As many random bits as the dtype's significand has, so that the number in [0, 1) is not rounded
 * up to 1. */
static void uniform_values(const op_call *c, int64_t block, double v[4]) {
  const uniform__attr *at = c->attr;
  uint32_t w[4];
  int32_t dtype = c->in[0]->dtype, drop = dtype == DLV3_BF16 ? 24 : dtype == DLV3_F16 ? 21 : 8;
  draw(w, c->in[1], block);
  for (int i = 0; i < 4; i++) {
    v[i] = at->low + (at->high - at->low) * ((double)(w[i] >> drop) / (double)(1ull << (32 - drop)));
    if (as_stored(v[i], dtype) < at->high) continue;
    v[i] =
        below(as_stored(at->high, dtype), dtype); /* rounding must not reach high, which may lie between two numbers */
    if (v[i] < at->low) v[i] = at->low;
  }
}
static status ref_uniform_(op_call *c) { return advance(fill_positions(c, uniform_values), c->in[1], numel(c->in[0])); }
IMPLS(uniform_, {"ref", ref_uniform_});

/* Box-Muller in f32 on two pairs of words: a pair gives a cosine and a sine. */
static void normal_values(const op_call *c, int64_t block, double v[4]) {
  const normal__attr *at = c->attr;
  uint32_t w[4];
  draw(w, c->in[1], block);
  for (int i = 0; i < 4; i += 2) {
    float radius = sqrtf(-2 * logf(((float)w[i] + 0.5f) * 0x1p-32f)),
          angle = (float)(2 * M_PI) * philox_uniform(w[i + 1]);
    v[i] = at->mean + at->std * (double)(radius * cosf(angle));
    v[i + 1] = at->mean + at->std * (double)(radius * sinf(angle));
  }
}
static status ref_normal_(op_call *c) { return advance(fill_positions(c, normal_values), c->in[1], numel(c->in[0])); }
IMPLS(normal_, {"ref", ref_normal_});

static void randint_values(const op_call *c, int64_t block, double v[4]) {
  const randint__attr *at = c->attr;
  uint32_t w[4];
  draw(w, c->in[1], block);
  for (int i = 0; i < 4; i++)
    v[i] = (double)(at->low + (int64_t)((uint64_t)w[i] * (uint64_t)(at->high - at->low) >> 32));
}
static status ref_randint_(op_call *c) { return advance(fill_positions(c, randint_values), c->in[1], numel(c->in[0])); }
IMPLS(randint_, {"ref", ref_randint_});

/* -- Dropout: element i in memory order is kept where its uniform number is not below p -------- */

typedef struct {
  const tensor *x, *state;
  tensor *y;
  double p;
} dropout_job;

enum { DROP = 4096, GROUP = 512 }; /* elements a chunk and a step */

#define KEEP_GROUP(T, y, x, factor) \
  for (int64_t k = 0; k < n; k++) (y)[k] = philox_uniform(words[k]) >= limit ? (x)[k] * (T)(factor) : 0;

CLONES static void keep_f32(float *y, const float *x, const uint32_t *words, float limit, float scale,
                            int64_t n){KEEP_GROUP(float, y, x, scale)} CLONES
    static void keep_f64(double *y, const double *x, const uint32_t *words, float limit, double scale, int64_t n) {
  KEEP_GROUP(double, y, x, scale)
}

static void dropout_range(void *ctx, int64_t begin, int64_t end) {
  const dropout_job *job = ctx;
  const int64_t *state = data_of(job->state);
  int32_t dtype = job->x->dtype;
  int64_t width = dtype_bytes(dtype);
  double scale = job->p < 1 ? 1 / (1 - job->p) : 0;
  float limit = (float)job->p, v[GROUP];
  uint32_t words[GROUP];
  for (int64_t i = begin; i < end; i += GROUP) {
    int64_t n = end - i < GROUP ? end - i : GROUP;
    const char *x = (const char *)data_of(job->x) + i * width;
    char *y = (char *)data_of(job->y) + i * width;
    philox_blocks(words, GROUP / 4, (uint64_t)state[0], (uint64_t)state[1] + (uint64_t)(i / 4));
    if (dtype == DLV3_F32)
      keep_f32((float *)y, (const float *)x, words, limit, (float)scale, n);
    else if (dtype == DLV3_F64)
      keep_f64((double *)y, (const double *)x, words, limit, scale, n);
    else {
      load_f32(v, x, dtype, n);
      keep_f32(v, v, words, limit, (float)scale, n);
      store_f32(y, dtype, v, n);
    }
  }
}

static void drop(const tensor *x, const tensor *state, tensor *y, double p) {
  dropout_job job = {x, state, y, p};
  parallel_for(numel(x), DROP, dropout_range, &job);
}

static status ref_dropout(op_call *c) {
  const dropout_attr *at = c->attr;
  tensor *x = c->in[0], *rng = c->in[1];
  memcpy(data_of(c->out[1]), data_of(rng), 2 * sizeof(int64_t));
  if (!at->training || at->p == 0) return elements_copy(c->out[0], x), DLV3_OK;
  drop(x, rng, c->out[0], at->p);
  return advance(DLV3_OK, rng, numel(x));
}
IMPLS(dropout, {"ref", ref_dropout});

static status ref_dropout_backward(op_call *c) {
  const dropout_backward_attr *at = c->attr;
  return drop(c->in[0], c->in[1], c->out[0], at->p), DLV3_OK;
}
IMPLS(dropout_backward, {"ref", ref_dropout_backward});
