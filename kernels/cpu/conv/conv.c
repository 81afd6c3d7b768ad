/* conv.c - convolution and matrix product on the cpu: the reference loops, and the lists of
 * implementations.
 *
 * onednn.c has oneDNN's kernels, direct.c our tiled ones, depthwise.c those with one filter a
 * channel. */
#include "cpu/support/activation.h"
#include "conv.h"

/* -- Reference --------------------------------------------------------------------------------- */

typedef struct {
  conv v;
  tensor *x, *w, *b, *y;  /* or their gradients */
  const tensor *scale;    /* forward: of x, or NULL */
  const tensor *residual; /* forward: or NULL; backward by input: what is added to, which is x, or NULL */
  int64_t act;
} conv_job;

static bool inside(int64_t i, int64_t n) { return i >= 0 && i < n; }

/* y[n,k,oy,ox] = act(b[k] + sum over (c, r, s) of x[n, c, iy, ix] w[k,c,r,s] + residual); one item
 * is a row of output pixels. */
static void conv2d_rows(void *ctx, int64_t begin, int64_t end) {
  const conv_job *j = ctx;
  const conv *v = &j->v;
  int64_t cg = v->c / v->groups, kg = v->k / v->groups;
  for (int64_t row = begin; row < end; row++) {
    int64_t n = row / v->oh, oy = row % v->oh;
    for (int64_t ox = 0; ox < v->ow; ox++)
      for (int64_t k = 0; k < v->k; k++) {
        double sum = at_or(j->b, k, 0);
        for (int64_t r = 0; r < v->r; r++)
          for (int64_t s = 0; s < v->s; s++) {
            int64_t iy = input_at(oy, r, v->stride.h, v->padding.h, v->dilation.h),
                    ix = input_at(ox, s, v->stride.w, v->padding.w, v->dilation.w);
            if (!inside(iy, v->h) || !inside(ix, v->w)) continue;
            for (int64_t c = k / kg * cg; c < (k / kg + 1) * cg; c++)
              sum += at(j->x, at4(j->x, n, c, iy, ix)) * at_or(j->scale, n * v->c + c, 1)
                     * at(j->w, at4(j->w, k, c % cg, r, s));
          }
        int64_t o = at4(j->y, n, k, oy, ox);
        set(j->y, o, activate(j->act, sum + at_or(j->residual, o, 0)));
      }
  }
}

static status ref_conv2d(op_call *c) {
  TRY(storage_restore(c->in[1]->st));
  conv_job job = {conv_of(c), c->in[0], c->in[1], c->in[2],
                  c->out[0],  c->in[4], c->in[3], ((const conv2d_attr *)c->attr)->activation};
  parallel_for(job.v.n * job.v.oh, 1, conv2d_rows, &job);
  return DLV3_OK;
}

/* grad_x[n,c,iy,ix] (+)= sum over (k, r, s) of grad_y[n, k, oy, ox] w[k,c,r,s]; one item is a row
 * of input pixels. */
static void backward_input_rows(void *ctx, int64_t begin, int64_t end) {
  const conv_job *j = ctx;
  const conv *v = &j->v;
  int64_t cg = v->c / v->groups, kg = v->k / v->groups;
  for (int64_t row = begin; row < end; row++) {
    int64_t n = row / v->h, iy = row % v->h;
    for (int64_t ix = 0; ix < v->w; ix++)
      for (int64_t c = 0; c < v->c; c++) {
        double sum = 0;
        for (int64_t r = 0; r < v->r; r++)
          for (int64_t s = 0; s < v->s; s++) {
            int64_t oy = output_at(iy, r, v->stride.h, v->padding.h, v->dilation.h, v->oh),
                    ox = output_at(ix, s, v->stride.w, v->padding.w, v->dilation.w, v->ow);
            if (oy < 0 || ox < 0) continue;
            for (int64_t k = c / cg * kg; k < (c / cg + 1) * kg; k++)
              sum += at(j->y, at4(j->y, n, k, oy, ox)) * at(j->w, at4(j->w, k, c % cg, r, s));
          }
        const int64_t i = at4(j->x, n, c, iy, ix);
        set(j->x, i, sum + at_or(j->residual, i, 0));
      }
  }
}

static status ref_conv2d_backward_input(op_call *c) {
  conv_job job = {conv_of(c), .x = grad_x_of(c), .w = c->in[1], .y = c->in[0], .residual = c->in[2]};
  parallel_for(job.v.n * job.v.h, 1, backward_input_rows, &job);
  return DLV3_OK;
}

/* grad_w[k,c,r,s] += sum over (n, oy, ox) of grad_y[n,k,oy,ox] x[n,c,iy,ix]; one item is an output
 * channel. */
static void backward_weight_channels(void *ctx, int64_t begin, int64_t end) {
  const conv_job *j = ctx;
  const conv *v = &j->v;
  int64_t cg = v->c / v->groups, kg = v->k / v->groups;
  for (int64_t k = begin; k < end; k++)
    for (int64_t c = 0; c < cg; c++)
      for (int64_t r = 0; r < v->r; r++)
        for (int64_t s = 0; s < v->s; s++) {
          double sum = 0;
          for (int64_t n = 0; n < v->n; n++)
            for (int64_t oy = 0; oy < v->oh; oy++)
              for (int64_t ox = 0; ox < v->ow; ox++) {
                int64_t iy = input_at(oy, r, v->stride.h, v->padding.h, v->dilation.h),
                        ix = input_at(ox, s, v->stride.w, v->padding.w, v->dilation.w);
                if (inside(iy, v->h) && inside(ix, v->w))
                  sum += at(j->y, at4(j->y, n, k, oy, ox)) * at(j->x, at4(j->x, n, k / kg * cg + c, iy, ix));
              }
          int64_t p = at4(j->w, k, c, r, s);
          set(j->w, p, at(j->w, p) + sum);
        }
}

static status ref_conv2d_backward_weight(op_call *c) {
  conv_job job = {conv_of(c), .x = c->in[0], .y = c->in[1], .w = c->in[2]};
  parallel_for(job.v.k, 1, backward_weight_channels, &job);
  if (c->in[3]) add_bias_gradient(c->in[3], c->in[1]);
  return DLV3_OK;
}

/* grad_b[k] += sum over pixels of grad_y[pixel][k]; one item is a channel in the sums' order of
 * pixels. */
typedef struct {
  tensor *grad_b;
  const tensor *grad_y;
  int64_t pixels, k;
} bias_job;

static void bias_channels(void *ctx, int64_t begin, int64_t end) {
  enum { MOST = 64 };
  const bias_job *j = ctx;
  double row[MOST], sum[MOST] = {0};
  int64_t n = end - begin;
  for (int64_t p = 0; p < j->pixels; p++) {
    load_f64(row, (const char *)data_of(j->grad_y) + (p * j->k + begin) * dtype_bytes(j->grad_y->dtype),
             j->grad_y->dtype, n);
    for (int64_t i = 0; i < n; i++) sum[i] += row[i];
  }
  for (int64_t i = 0; i < n; i++) set(j->grad_b, begin + i, at(j->grad_b, begin + i) + sum[i]);
}

void add_bias_gradient(tensor *grad_b, const tensor *grad_y) {
  bias_job job = {grad_b, grad_y, grad_y->size[0] * grad_y->size[2] * grad_y->size[3], grad_y->size[1]};
  parallel_for(job.k, 64, bias_channels, &job);
}

/* y[p,i,j] = sum over l of a[p,i,l] b[p,l,j]; one item is a row of y. */
typedef struct {
  const tensor *a, *b;
  tensor *y;
  bool trans_a, trans_b;
} matmul_job;

static void matmul_rows(void *ctx, int64_t begin, int64_t end) {
  const matmul_job *job = ctx;
  const tensor *a = job->a, *b = job->b;
  const int64_t *sa = a->size + a->ndim - 2, *sb = b->size + b->ndim - 2, *sy = job->y->size + job->y->ndim - 2;
  int64_t k = sa[job->trans_a ? 0 : 1];
  for (int64_t row = begin; row < end; row++) {
    int64_t p = row / sy[0], i = row % sy[0];
    int64_t pa = a->ndim == 3 ? p * sa[0] * sa[1] : 0, pb = b->ndim == 3 ? p * sb[0] * sb[1] : 0;
    for (int64_t j = 0; j < sy[1]; j++) {
      double sum = 0;
      for (int64_t l = 0; l < k; l++)
        sum += at(a, pa + (job->trans_a ? l * sa[1] + i : i * sa[1] + l))
               * at(b, pb + (job->trans_b ? j * sb[1] + l : l * sb[1] + j));
      set(job->y, row * sy[1] + j, sum);
    }
  }
}

static status ref_matmul(op_call *c) {
  const matmul_attr *at = c->attr;
  tensor *y = c->out[0];
  matmul_job job = {c->in[0], c->in[1], y, at->trans_a, at->trans_b};
  int64_t columns = y->size[y->ndim - 1];
  if (columns) parallel_for(numel(y) / columns, 1, matmul_rows, &job);
  return DLV3_OK;
}

/* -- The epilogue ------------------------------------------------------------------------------ */

enum { PIECE = 512 };

typedef struct {
  tensor *y;
  const tensor *residual;
  int64_t act;
} epilogue_job;

/* y = act(y + residual); one item is an element. */
CLONES static void epilogue_elements(void *ctx, int64_t begin, int64_t end) {
  const epilogue_job *j = ctx;
  const int64_t bytes = dtype_bytes(j->y->dtype);
  float v[PIECE], r[PIECE];
  for (int64_t i = begin; i < end; i += PIECE) {
    const int64_t n = end - i < PIECE ? end - i : PIECE;
    char *y = (char *)data_of(j->y) + i * bytes;
    load_f32(v, y, j->y->dtype, n);
    if (j->residual) {
      load_f32(r, (const char *)data_of(j->residual) + i * bytes, j->y->dtype, n);
      for (int64_t k = 0; k < n; k++) v[k] += r[k];
    }
    activate_piece(v, n, j->act);
    store_f32(y, j->y->dtype, v, n);
  }
}

static void epilogue_elements_f64(void *ctx, int64_t begin, int64_t end) {
  const epilogue_job *j = ctx;
  double *y = data_of(j->y);
  const double *r = j->residual ? data_of(j->residual) : NULL;
  for (int64_t i = begin; r && i < end; i++) y[i] += r[i];
  activate_piece_f64(y + begin, end - begin, j->act);
}

static void run_epilogue(epilogue_job job) {
  if (!job.residual && job.act == ACT_NONE) return;
  parallel_for(numel(job.y), 32 * PIECE, job.y->dtype == DLV3_F64 ? epilogue_elements_f64 : epilogue_elements, &job);
}
void conv_epilogue(const op_call *c) {
  run_epilogue((epilogue_job){c->out[0], c->in[3], ((const conv2d_attr *)c->attr)->activation});
}

status add_apart(op_call *c, status (*run)(op_call *c)) {
  tensor *sum = c->in[2];
  if (!sum) return run(c);
  tensor *made;
  TRY(tensor_new(&made, sum->dtype, sum->ndim, sum->size, 0));
  c->in[2] = NULL, c->out[0] = made;
  status st = run(c);
  c->in[2] = sum, c->out[0] = NULL;
  if (st == DLV3_OK) run_epilogue((epilogue_job){sum, made, ACT_NONE});
  tensor_drop(made);
  return st;
}

/* -- Lists ------------------------------------------------------------------------------------- */

/* Tried from the top: the first that does not decline a call runs it (DLV3_VERBOSE=2 prints why the
 * others declined). The order is the policy:
 *
 *   winograd   3x3, stride 1, at least 32 channels, where it saves enough of the direct sum's products
 *   direct     any other convolution in one group: skips taps on padding, results do not depend on
 *              the number of threads
 *   depthwise  one filter a channel, bound by memory bandwidth
 *   onednn     what is left, grouped convolutions above all; where dlv3 is built with oneDNN
 *   pairs      direct and depthwise by products of pairs of bf16, which `direct` uses by itself where
 *              the processor is fast at them: here so that DLV3_IMPL=pairs can ask for it anywhere
 *   ref        everything, in f64 by plain loops */
/* clang-format off */
IMPLS(conv2d,
      {"winograd", winograd_conv2d},
      {"direct", direct_conv2d},
      {"depthwise", depthwise_conv2d},
      {"onednn", onednn_conv2d},
      {"pairs", pairs_conv2d},
      {"ref", ref_conv2d});

IMPLS(conv2d_backward_input,
      {"winograd", winograd_conv2d_backward_input},
      {"direct", direct_conv2d_backward_input},
      {"depthwise", depthwise_conv2d_backward_input},
      {"onednn", onednn_conv2d_backward_input},
      {"pairs", pairs_conv2d_backward_input},
      {"ref", ref_conv2d_backward_input});

IMPLS(conv2d_backward_weight,
      {"winograd", winograd_conv2d_backward_weight},
      {"direct", direct_conv2d_backward_weight},
      {"depthwise", depthwise_conv2d_backward_weight},
      {"onednn", onednn_conv2d_backward_weight},
      {"pairs", pairs_conv2d_backward_weight},
      {"ref", ref_conv2d_backward_weight});

/* `direct` takes what oneDNN declines: f64, f16, one operand shared by a batch; or all of it in a
 * build without oneDNN. */
IMPLS(matmul,
      {"onednn", onednn_matmul},
      {"direct", direct_matmul},
      {"ref", ref_matmul});
/* clang-format on */
