/* onednn.c - convolution and matmul through oneDNN, f32 and bf16: the only file that knows its
 * headers.
 *
 * Activations are given as they lie (channels-last). Weights are reordered into the layout that
 * oneDNN asks for, once for each version of them (weights.c), bf16 ones converted on the way;
 * gradients of weights come back in such a layout and are added to ours, f32. Primitives are kept
 * by shape, attributes and dtype. Scratch memory is ours.
 *
 * A kernel whose dilation is so large that a row or column of taps meets padding alone is cropped
 * to the others: oneDNN would multiply the zeros, and at the rates of ASPP falls back to im2col.
 *
 * Works with oneDNN 2.6 and 3.x; what differs between them is in the first section. Dilation is
 * 0-based there only. */
#include "conv.h"

#include <dnnl.h>
#include <dnnl_version.h>
#include <stdlib.h>

typedef struct {
  dnnl_prop_kind_t kind;
  int64_t n, c, h, w, k, r, s, oh, ow, groups;        /* r, s: of the taps that are left                  */
  dnnl_dims_t stride, padding, padding_end, dilation; /* of h, w                                        */
  int64_t first_tap[2], taps[2];                      /* in the whole kernel, which has taps[0] x taps[1] */
  int64_t dtype, bias;
} conv_key;

typedef struct {
  int64_t ndim, batch, m, n, k, trans_a, trans_b, dtype;
} matmul_key;

/* -- What differs between versions 2 and 3 ----------------------------------------------------- */

#if DNNL_VERSION_MAJOR < 3
typedef dnnl_memory_desc_t layout; /* a value */
typedef const dnnl_memory_desc_t *layout_view;
static layout_view view(const layout *l) { return l; }
static void layout_drop(layout *l) { (void)l; }
static dnnl_status_t layout_copy(layout *to, layout_view from) {
  *to = *from;
  return dnnl_success;
}
static dnnl_status_t layout_tag(layout *l, int ndim, const dnnl_dims_t size, dnnl_data_type_t type,
                                dnnl_format_tag_t tag) {
  return dnnl_memory_desc_init_by_tag(l, ndim, size, type, tag);
}
static dnnl_status_t layout_strides(layout *l, int ndim, const dnnl_dims_t size, dnnl_data_type_t type,
                                    const dnnl_dims_t stride) {
  return dnnl_memory_desc_init_by_strides(l, ndim, size, type, stride);
}

static dnnl_status_t conv_describe(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, const conv_key *v, layout_view x,
                                   layout_view w, layout_view b, layout_view y, const dnnl_dims_t dilation,
                                   const_dnnl_primitive_attr_t attr) {
  dnnl_convolution_desc_t d;
  dnnl_status_t st;
  if (v->kind == dnnl_backward_data)
    st = dnnl_dilated_convolution_backward_data_desc_init(&d, dnnl_convolution_direct, x, w, y, v->stride, dilation,
                                                          v->padding, v->padding_end);
  else if (v->kind == dnnl_backward_weights)
    st = dnnl_dilated_convolution_backward_weights_desc_init(&d, dnnl_convolution_direct, x, w, NULL, y, v->stride,
                                                             dilation, v->padding, v->padding_end);
  else
    st = dnnl_dilated_convolution_forward_desc_init(&d, v->kind, dnnl_convolution_direct, x, w, b, y, v->stride,
                                                    dilation, v->padding, v->padding_end);
  return st == dnnl_success ? dnnl_primitive_desc_create(pd, &d, attr, engine, NULL) : st;
}

static dnnl_status_t matmul_describe(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, layout_view a, layout_view b,
                                     layout_view y, const_dnnl_primitive_attr_t attr) {
  dnnl_matmul_desc_t d;
  dnnl_status_t st = dnnl_matmul_desc_init(&d, a, b, NULL, y);
  return st == dnnl_success ? dnnl_primitive_desc_create(pd, &d, attr, engine, NULL) : st;
}

static dnnl_status_t append_sum(dnnl_post_ops_t ops) { return dnnl_post_ops_append_sum(ops, 1); }
#else
typedef dnnl_memory_desc_t layout; /* an owned pointer */
typedef const_dnnl_memory_desc_t layout_view;
static layout_view view(const layout *l) { return l ? *l : NULL; }
static void layout_drop(layout *l) {
  if (*l) dnnl_memory_desc_destroy(*l);
  *l = NULL;
}
static dnnl_status_t layout_copy(layout *to, layout_view from) { return dnnl_memory_desc_clone(to, from); }
static dnnl_status_t layout_tag(layout *l, int ndim, const dnnl_dims_t size, dnnl_data_type_t type,
                                dnnl_format_tag_t tag) {
  return dnnl_memory_desc_create_with_tag(l, ndim, size, type, tag);
}
static dnnl_status_t layout_strides(layout *l, int ndim, const dnnl_dims_t size, dnnl_data_type_t type,
                                    const dnnl_dims_t stride) {
  return dnnl_memory_desc_create_with_strides(l, ndim, size, type, stride);
}

static dnnl_status_t conv_describe(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, const conv_key *v, layout_view x,
                                   layout_view w, layout_view b, layout_view y, const dnnl_dims_t dilation,
                                   const_dnnl_primitive_attr_t attr) {
  if (v->kind == dnnl_backward_data)
    return dnnl_convolution_backward_data_primitive_desc_create(pd, engine, dnnl_convolution_direct, x, w, y, v->stride,
                                                                dilation, v->padding, v->padding_end, NULL, attr);
  if (v->kind == dnnl_backward_weights)
    return dnnl_convolution_backward_weights_primitive_desc_create(pd, engine, dnnl_convolution_direct, x, w, NULL, y,
                                                                   v->stride, dilation, v->padding, v->padding_end,
                                                                   NULL, attr);
  return dnnl_convolution_forward_primitive_desc_create(pd, engine, v->kind, dnnl_convolution_direct, x, w, b, y,
                                                        v->stride, dilation, v->padding, v->padding_end, attr);
}

static dnnl_status_t matmul_describe(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, layout_view a, layout_view b,
                                     layout_view y, const_dnnl_primitive_attr_t attr) {
  return dnnl_matmul_primitive_desc_create(pd, engine, a, b, NULL, y, attr);
}

static dnnl_status_t append_sum(dnnl_post_ops_t ops) {
  return dnnl_post_ops_append_sum(ops, 1, 0, dnnl_data_type_undef);
}
#endif

/* -- Engine, stream, layouts ------------------------------------------------------------------- */

/* Leaves the function with oneDNN's status. */
#define NEED(expr) \
  do { \
    dnnl_status_t need_status_ = (expr); \
    if (need_status_ != dnnl_success) return need_status_; \
  } while (0)

static dnnl_engine_t engine;
static dnnl_stream_t stream;
static dnnl_primitive_attr_t plain_attr, sum_attribute; /* both: scratch memory is given by the caller */

static dnnl_status_t make_attributes(void) {
  dnnl_post_ops_t ops;
  NEED(dnnl_primitive_attr_create(&plain_attr));
  NEED(dnnl_primitive_attr_set_scratchpad_mode(plain_attr, dnnl_scratchpad_mode_user));
  NEED(dnnl_primitive_attr_create(&sum_attribute));
  NEED(dnnl_primitive_attr_set_scratchpad_mode(sum_attribute, dnnl_scratchpad_mode_user));
  NEED(dnnl_post_ops_create(&ops));
  dnnl_status_t st = append_sum(ops);
  if (st == dnnl_success) st = dnnl_primitive_attr_set_post_ops(sum_attribute, ops);
  dnnl_post_ops_destroy(ops);
  return st;
}

static dnnl_status_t start(void) {
  static dnnl_status_t state = dnnl_not_required;
  if (state != dnnl_not_required) return state;
  state = dnnl_engine_create(&engine, dnnl_cpu, 0);
  if (state == dnnl_success) state = dnnl_stream_create(&stream, engine, dnnl_stream_default_flags);
  if (state == dnnl_success) state = make_attributes();
  return state;
}

static dnnl_data_type_t type_of(int64_t dtype) { return dtype == DLV3_BF16 ? dnnl_bf16 : dnnl_f32; }

/* Layouts of weights by number, so that a number says what form a packed weight has. */
enum { LAYOUTS = 4096 }; /* three models at many sizes need some hundred */
static layout known_layouts[LAYOUTS];
static int32_t n_layouts;

static int32_t layout_number(layout_view l) {
  for (int32_t i = 0; i < n_layouts; i++)
    if (dnnl_memory_desc_equal(view(&known_layouts[i]), l)) return i;
  if (n_layouts == LAYOUTS || layout_copy(&known_layouts[n_layouts], l) != dnnl_success) return -1;
  return n_layouts++;
}

/* -- Primitives, kept -------------------------------------------------------------------------- */

enum { MOST = 512, ARGUMENTS = 5 };

/* A primitive with its memory objects, which get their addresses anew for every run. */
typedef struct {
  dnnl_primitive_t primitive;
  int32_t n;
  dnnl_exec_arg_t arg[ARGUMENTS];
  int64_t scratch; /* bytes */
} step;

/* What one conv or matmul of a shape needs; refused: oneDNN has nothing good for it. */
typedef struct {
  union {
    conv_key conv;
    matmul_key matmul;
  } key;
  int32_t op, threads;
  const char *refused;
  step main, reorder; /* reorder: of the weights before, of their gradients after */
  int64_t weight_bytes, first_weight;
  int32_t weight_layout;
} kept;

static kept *cache[MOST];
static int32_t n_cached;

static void step_drop(step *s) {
  for (int32_t i = 0; i < s->n; i++) dnnl_memory_destroy(s->arg[i].memory);
  if (s->primitive) dnnl_primitive_destroy(s->primitive);
}

static void kept_drop(kept *p) {
  step_drop(&p->main), step_drop(&p->reorder);
  free(p);
}

/* The entry of (op, key), new ones filled by build. NULL: out of memory. A full cache begins anew. */
static kept *lookup(int32_t op, const void *key, size_t bytes, dnnl_status_t (*build)(kept *p)) {
  uint64_t hash = (uint64_t)op * 31 + (uint64_t)parallel_threads();
  for (size_t i = 0; i < bytes / 8; i++)
    hash = (hash ^ ((const uint64_t *)key)[i]) * 0x9e3779b97f4a7c15u, hash ^= hash >> 29;
  int32_t at = (int32_t)(hash % MOST);
  for (; cache[at]; at = (at + 1) % MOST)
    if (cache[at]->op == op && cache[at]->threads == parallel_threads() && !memcmp(&cache[at]->key, key, bytes))
      return cache[at];
  if (n_cached >= MOST * 3 / 4) {
    for (int32_t i = 0; i < MOST; i++)
      if (cache[i]) kept_drop(cache[i]), cache[i] = NULL;
    n_cached = 0, at = (int32_t)(hash % MOST);
  }
  kept *p = calloc(1, sizeof *p);
  if (!p) return NULL;
  memcpy(&p->key, key, bytes);
  p->op = op, p->threads = parallel_threads();
  if (build(p) != dnnl_success && !p->refused) p->refused = "oneDNN has no kernel for it";
  cache[at] = p, n_cached++;
  return p;
}

static dnnl_status_t add_argument(step *s, int32_t which, layout_view l) {
  NEED(dnnl_memory_create(&s->arg[s->n].memory, l, engine, DNNL_MEMORY_NONE));
  s->arg[s->n++].arg = which;
  return dnnl_success;
}

/* The primitive of pd, which is consumed, with its scratch memory as the last argument. */
static dnnl_status_t finish_step(step *s, dnnl_primitive_desc_t pd) {
  layout_view scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
  dnnl_status_t st = dnnl_success;
  s->scratch = scratch ? (int64_t)dnnl_memory_desc_get_size(scratch) : 0;
  if (s->scratch) st = add_argument(s, DNNL_ARG_SCRATCHPAD, scratch);
  if (st == dnnl_success) st = dnnl_primitive_create(&s->primitive, pd);
  dnnl_primitive_desc_destroy(pd);
  return st;
}

static dnnl_status_t reorder_step(step *s, layout_view from, layout_view to, bool add) {
  dnnl_primitive_desc_t pd;
  NEED(dnnl_reorder_primitive_desc_create(&pd, from, engine, to, engine, add ? sum_attribute : plain_attr));
  dnnl_status_t st = add_argument(s, DNNL_ARG_FROM, from);
  if (st == dnnl_success) st = add_argument(s, DNNL_ARG_TO, to);
  if (st == dnnl_success) return finish_step(s, pd);
  dnnl_primitive_desc_destroy(pd);
  return st;
}

/* Runs a step on the addresses of its arguments, in their order. */
static status run_step(step *s, void *const *address) {
  storage *scratch = NULL;
  dnnl_status_t st = dnnl_success;
  if (s->scratch) TRY(storage_new(&scratch, s->scratch, 0));
  for (int32_t i = 0; i < s->n && st == dnnl_success; i++)
    st = dnnl_memory_set_data_handle(s->arg[i].memory,
                                     s->arg[i].arg == DNNL_ARG_SCRATCHPAD ? (void *)scratch->data : address[i]);
  if (st == dnnl_success) st = dnnl_primitive_execute(s->primitive, stream, s->n, s->arg);
  if (st == dnnl_success) st = dnnl_stream_wait(stream);
  if (scratch) storage_drop(scratch);
  return st == dnnl_success ? DLV3_OK : fail(DLV3_ERR_INTERNAL, "oneDNN: a kernel failed with status %d", (int)st);
}

/* -- Convolution: what to ask for -------------------------------------------------------------- */

/* One axis of the key: the taps from the first to the last that meet the map at all. False where
 * oneDNN can not say it. */
static bool crop(conv_key *v, int32_t axis, int64_t in, int64_t out, int64_t taps, int64_t stride, int64_t padding,
                 int64_t dilation) {
  int64_t first = -1, last = -1;
  for (int64_t t = 0; t < taps; t++) {
    int64_t before = padding - t * dilation,
            least = before > 0 ? (before + stride - 1) / stride : 0; /* outputs that meet the map from the left */
    if (least >= out || least * stride - before >= in) continue;
    if (first < 0) first = t;
    last = t;
  }
  if (first < 0) return false;
  int64_t n = last - first + 1, end = (out - 1) * stride + (n - 1) * dilation + 1 - in - (padding - first * dilation);
  v->stride[axis] = stride, v->dilation[axis] = n == 1 ? 1 : dilation;
  v->first_tap[axis] = first, v->taps[axis] = taps;
  v->padding[axis] = padding - first * dilation;
  v->padding_end[axis] = end > 0 ? end : 0;
  if (axis == 0)
    v->r = n;
  else
    v->s = n;
  return v->padding[axis] >= 0 && end > -stride; /* else pixels of the map are never looked at */
}

/* NULL, or why oneDNN is not for this call. */
static const char *conv_request(conv_key *v, const op_call *c) {
  conv g = conv_of(c);
  int32_t dtype = c->in[0]->dtype;
  if (dtype != DLV3_F32 && dtype != DLV3_BF16) return "only f32 and bf16";
  if (!g.n || !g.h || !g.w) return "an empty map";
  *v = (conv_key){.n = g.n,
                  .c = g.c,
                  .h = g.h,
                  .w = g.w,
                  .k = g.k,
                  .oh = g.oh,
                  .ow = g.ow,
                  .groups = g.groups,
                  .dtype = dtype,
                  .bias = c->op == OP_conv2d && c->in[2]};
  v->kind = c->op == OP_conv2d                  ? dnnl_forward_inference
            : c->op == OP_conv2d_backward_input ? dnnl_backward_data
                                                : dnnl_backward_weights;
  if (!crop(v, 0, g.h, g.oh, g.r, g.stride.h, g.padding.h, g.dilation.h)) return "pixels that no tap meets";
  if (!crop(v, 1, g.w, g.ow, g.s, g.stride.w, g.padding.w, g.dilation.w)) return "pixels that no tap meets";
  if (start() != dnnl_success) return "oneDNN does not start";
  return NULL;
}

/* The weight [k,r,s,c/groups] in memory, or its cropped part, as oneDNN's [(groups,) k/groups,
 * c/groups, r, s]. */
static dnnl_status_t weight_layout(layout *l, const conv_key *v, bool any, dnnl_data_type_t type) {
  int64_t cg = v->c / v->groups, kg = v->k / v->groups, row = v->taps[1] * cg, filter = v->taps[0] * row;
  dnnl_dims_t size = {kg, cg, v->r, v->s}, stride = {filter, 1, row, cg};
  dnnl_dims_t grouped_size = {v->groups, kg, cg, v->r, v->s}, grouped_stride = {kg * filter, filter, 1, row, cg};
  bool grouped = v->groups > 1; /* no axis of groups where there are none: oneDNN's better kernels want it so */
  if (any) return layout_tag(l, grouped ? 5 : 4, grouped ? grouped_size : size, type, dnnl_format_tag_any);
  return layout_strides(l, grouped ? 5 : 4, grouped ? grouped_size : size, type, grouped ? grouped_stride : stride);
}

/* oneDNN's implementations that are slower than ours (measured): plain loops, im2col, a product for
 * each channel. */
static const char *too_slow(dnnl_primitive_desc_t pd, const conv_key *v) {
  const char *name = NULL;
  dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &name);
  if (!name || strstr(name, "ref")) return "only oneDNN's reference loops take it";
  if (v->groups > 1 && v->groups == v->c && v->groups == v->k && !strstr(name, "dw"))
    return "oneDNN has no depthwise kernel for it";
  if (strstr(name, "gemm") && !strstr(name, "brgemm") && v->r * v->s > 1)
    return "oneDNN would unroll the map into columns";
  if (DNNL_VERSION_MAJOR < 3 && v->kind == dnnl_backward_data && v->dtype == DLV3_F32 && v->r * v->s > 1 && v->k >= 512
      && v->w >= 24 && v->w < 32)
    return "oneDNN 2.6 takes a row of 24 to 31 pixels as one block and is half as fast as ours there";
  return NULL;
}

static dnnl_status_t describe_conv(kept *p, dnnl_primitive_desc_t *pd) {
  const conv_key *v = &p->key.conv;
  dnnl_data_type_t type = type_of(v->dtype), weight_type = v->kind == dnnl_backward_weights ? dnnl_f32 : type;
  dnnl_dims_t x_size = {v->n, v->c, v->h, v->w}, y_size = {v->n, v->k, v->oh, v->ow}, b_size = {v->k},
              dilation = {v->dilation[0] - 1, v->dilation[1] - 1};
  layout x = {0}, w = {0}, b = {0}, y = {0};
  dnnl_status_t st = layout_tag(&x, 4, x_size, type, dnnl_nhwc);
  if (st == dnnl_success) st = layout_tag(&y, 4, y_size, type, dnnl_nhwc);
  if (st == dnnl_success) st = layout_tag(&b, 1, b_size, dnnl_f32, dnnl_a);
  if (st == dnnl_success) st = weight_layout(&w, v, true, weight_type);
  if (st == dnnl_success)
    st = conv_describe(pd, engine, v, view(&x), view(&w), v->bias ? view(&b) : NULL, view(&y), dilation, plain_attr);
  layout_drop(&x), layout_drop(&w), layout_drop(&b), layout_drop(&y);
  return st;
}

/* The arguments of the main step lie in this order: activations read, weights, bias, activations
 * written. */
static dnnl_status_t conv_arguments(kept *p, dnnl_primitive_desc_t pd, layout_view *weights) {
  const conv_key *v = &p->key.conv;
  if (v->kind == dnnl_backward_weights) {
    *weights = dnnl_primitive_desc_query_md(pd, dnnl_query_diff_weights_md, 0);
    NEED(add_argument(&p->main, DNNL_ARG_SRC, dnnl_primitive_desc_query_md(pd, dnnl_query_src_md, 0)));
    NEED(add_argument(&p->main, DNNL_ARG_DIFF_DST, dnnl_primitive_desc_query_md(pd, dnnl_query_diff_dst_md, 0)));
    return add_argument(&p->main, DNNL_ARG_DIFF_WEIGHTS, *weights);
  }
  *weights = dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
  bool back = v->kind == dnnl_backward_data;
  NEED(add_argument(&p->main, back ? DNNL_ARG_DIFF_DST : DNNL_ARG_SRC,
                    dnnl_primitive_desc_query_md(pd, back ? dnnl_query_diff_dst_md : dnnl_query_src_md, 0)));
  NEED(add_argument(&p->main, DNNL_ARG_WEIGHTS, *weights));
  NEED(add_argument(&p->main, back ? DNNL_ARG_DIFF_SRC : DNNL_ARG_DST,
                    dnnl_primitive_desc_query_md(pd, back ? dnnl_query_diff_src_md : dnnl_query_dst_md, 0)));
  return v->bias ? add_argument(&p->main, DNNL_ARG_BIAS, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 1))
                 : dnnl_success;
}

static dnnl_status_t build_conv(kept *p) {
  const conv_key *v = &p->key.conv;
  dnnl_primitive_desc_t pd;
  layout_view weights;
  layout ours = {0};
  NEED(describe_conv(p, &pd));
  p->refused = too_slow(pd, v);
  dnnl_status_t st = p->refused ? dnnl_unimplemented : conv_arguments(p, pd, &weights);
  if (st == dnnl_success) st = weight_layout(&ours, v, false, dnnl_f32);
  if (st == dnnl_success) {
    p->weight_bytes = (int64_t)dnnl_memory_desc_get_size(weights);
    p->first_weight = (v->first_tap[0] * v->taps[1] + v->first_tap[1]) * (v->c / v->groups);
    p->weight_layout = layout_number(weights);
    if (v->kind == dnnl_backward_weights)
      st = reorder_step(&p->reorder, weights, view(&ours), true);
    else
      st = p->weight_layout < 0 ? dnnl_out_of_memory : reorder_step(&p->reorder, view(&ours), weights, false);
  }
  layout_drop(&ours);
  if (st == dnnl_success) return finish_step(&p->main, pd);
  dnnl_primitive_desc_destroy(pd);
  return st;
}

static const char *conv_lookup(kept **out, const op_call *c) {
  conv_key key;
  memset(&key, 0, sizeof key);
  const char *why = conv_request(&key, c);
  if (why) return why;
  *out = lookup(c->op, &key, sizeof key, build_conv);
  return *out ? (*out)->refused : "out of memory";
}

/* -- Convolution: running it ------------------------------------------------------------------- */

static status reorder_weight(void *dst, const tensor *w, const void *arg) {
  kept *p = *(kept *const *)arg;
  return run_step(&p->reorder, (void *[]){(float *)data_of(w) + p->first_weight, dst});
}

static status packed_weight(void **out, kept *p, tensor *w) {
  uint64_t key = FORM_ONEDNN | (uint64_t)p->weight_layout << 8 | (uint64_t)p->first_weight << 24;
  return prepared_weight(out, w, key, p->weight_bytes, reorder_weight, &p);
}

status onednn_conv2d(op_call *c) {
  kept *p;
  void *w;
  if (c->in[4]) return DECLINED("a scale");
  const char *why = conv_lookup(&p, c);
  if (why) return DECLINED(why);
  TRY(packed_weight(&w, p, c->in[1]));
  TRY(run_step(&p->main, (void *[]){data_of(c->in[0]), w, data_of(c->out[0]), c->in[2] ? data_of(c->in[2]) : NULL}));
  conv_epilogue(c);
  return DLV3_OK;
}

static status backward_input(op_call *c) {
  kept *p;
  void *w;
  const char *why = conv_lookup(&p, c);
  if (why) return DECLINED(why);
  TRY(packed_weight(&w, p, c->in[1]));
  return run_step(&p->main, (void *[]){data_of(c->in[0]), w, data_of(c->out[0])});
}
status onednn_conv2d_backward_input(op_call *c) { return add_apart(c, backward_input); }

status onednn_conv2d_backward_weight(op_call *c) {
  kept *p;
  storage *sums;
  const char *why = conv_lookup(&p, c);
  if (why) return DECLINED(why);
  TRY(storage_new(&sums, p->weight_bytes, 0));
  status st = run_step(&p->main, (void *[]){data_of(c->in[0]), data_of(c->in[1]), sums->data});
  if (st == DLV3_OK) st = run_step(&p->reorder, (void *[]){sums->data, (float *)data_of(c->in[2]) + p->first_weight});
  storage_drop(sums);
  if (st == DLV3_OK && c->in[3]) add_bias_gradient(c->in[3], c->in[1]);
  return st;
}

/* -- matmul ------------------------------------------------------------------------------------ */

/* [(batch,) rows, columns] in memory, or the transpose of what lies there. */
static dnnl_status_t matrix_layout(layout *l, const matmul_key *v, int64_t rows, int64_t columns, bool transposed) {
  int64_t down = transposed ? 1 : columns, right = transposed ? rows : 1;
  dnnl_dims_t size = {rows, columns}, stride = {down, right}, batch_size = {v->batch, rows, columns},
              batch_stride = {rows * columns, down, right};
  bool batch = v->ndim == 3;
  return layout_strides(l, batch ? 3 : 2, batch ? batch_size : size, type_of(v->dtype), batch ? batch_stride : stride);
}

static dnnl_status_t build_matmul(kept *p) {
  const matmul_key *v = &p->key.matmul;
  layout a = {0}, b = {0}, y = {0};
  dnnl_primitive_desc_t pd;
  dnnl_status_t st = matrix_layout(&a, v, v->m, v->k, v->trans_a);
  if (st == dnnl_success) st = matrix_layout(&b, v, v->k, v->n, v->trans_b);
  if (st == dnnl_success) st = matrix_layout(&y, v, v->m, v->n, false);
  if (st == dnnl_success) st = add_argument(&p->main, DNNL_ARG_SRC, view(&a));
  if (st == dnnl_success) st = add_argument(&p->main, DNNL_ARG_WEIGHTS, view(&b));
  if (st == dnnl_success) st = add_argument(&p->main, DNNL_ARG_DST, view(&y));
  if (st == dnnl_success) st = matmul_describe(&pd, engine, view(&a), view(&b), view(&y), plain_attr);
  layout_drop(&a), layout_drop(&b), layout_drop(&y);
  if (st != dnnl_success) return st;
  const char *name = NULL;
  dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &name);
  if (name && !strstr(name, "ref")) return finish_step(&p->main, pd);
  dnnl_primitive_desc_destroy(pd);
  return dnnl_unimplemented;
}

status onednn_matmul(op_call *c) {
  const matmul_attr *at = c->attr;
  tensor *a = c->in[0], *b = c->in[1], *y = c->out[0];
  matmul_key key;
  if (y->dtype != DLV3_F32 && y->dtype != DLV3_BF16) return DECLINED("only f32 and bf16");
  if (!numel(a) || !numel(b)) return DECLINED("an empty matrix");
  if (a->ndim == 2 && b->ndim == 3) return DECLINED("a is shared by a batch");
  if (start() != dnnl_success) return DECLINED("oneDNN does not start");
  memset(&key, 0, sizeof key);
  key.ndim = b->ndim, key.batch = b->ndim == 3 ? b->size[0] : 1;
  key.m = y->size[y->ndim - 2], key.n = y->size[y->ndim - 1], key.k = a->size[a->ndim - 1 - (at->trans_a != 0)];
  key.trans_a = at->trans_a, key.trans_b = at->trans_b, key.dtype = y->dtype;
  if (a->ndim == 3 && b->ndim == 2) { /* one b for all: a is one tall matrix, unless its rows are columns */
    if (at->trans_a) return DECLINED("b is shared by a batch of transposed matrices");
    key.m *= y->size[0];
  }
  kept *p = lookup(c->op, &key, sizeof key, build_matmul);
  if (!p || p->refused) return DECLINED(p ? p->refused : "out of memory");
  return run_step(&p->main, (void *[]){data_of(a), data_of(b), data_of(y)});
}
