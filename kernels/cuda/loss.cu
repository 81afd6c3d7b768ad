/* loss.cu - cross entropy (alone and fused with upsampling), softmax, confusion matrix.
 *
 * The forward pass keeps nll = -log softmax(x)[target] of each pixel and the sum of the weights; the gradient computes
 * softmax(x)[k] = exp((x[k] - x[target]) - nll) from them. Full-size logits are never stored: both passes blend them
 * anew where they need them, and the gradient of a low-resolution cell gathers the pixels that the cell takes part in.
 * Labels outside the classes are found by the forward pass, do not count, and are reported when the host next looks. */
#include "interpolate.h"

/* -- Cross entropy ----------------------------------------------------------------------------------------- */

/* P: the type of weights, nll and the loss: f64 with f64 logits, else f32; also what is computed in. */
template <class T, class P> struct entropy {
  const T *x;
  const void *target;
  const P *weight;
  P *nll;
  axis_map rows, columns;           /* of the fused ops; else of equal sizes                   */
  int64_t n, channels;
  bool wide_labels, fused;
  int64_t ignore_index;
  double smoothing;
};

enum { NOT_COUNTED = -1, BAD = -2 };

template <class T, class P> DEVICE int64_t label_at(const entropy<T, P> &j, int64_t i) {
  const int64_t v = j.wide_labels ? ((const int64_t *)j.target)[i] : ((const uint8_t *)j.target)[i];
  return v == j.ignore_index ? (int64_t)NOT_COUNTED : v < 0 || v >= j.channels ? (int64_t)BAD : v;
}

/* Logit k of pixel i, whose taps are v and u. */
template <class T, class P> DEVICE P logit(const entropy<T, P> &j, int64_t i, int64_t k, const taps &v, const taps &u) {
  if (!j.fused) return wide(j.x[i * j.channels + k]);
  const int64_t image = i / (j.rows.out * j.columns.out);
  return blend<T, P>(j.x + image * j.rows.in * j.columns.in * j.channels + k, j.columns.in, j.channels, v, u);
}

typedef struct { double sum, total; int64_t bad; } partial_loss; /* bad: the first pixel with a label that is no class, or -1 */

/* One thread a pixel; a block's sums go to partial[block]. */
template <class T, class P> static __global__ void entropy_pixels(entropy<T, P> j, partial_loss *partial) {
  __shared__ double buf[BLOCK];
  const int64_t pixels = j.n * j.rows.out * j.columns.out;
  double sum = 0, total = 0, bad = (double)pixels;
  FOR_ITEMS(i, pixels) {
    const int64_t t = label_at(j, i);
    j.nll[i] = 0;
    if (t == BAD && (double)i < bad) bad = (double)i;
    if (t < 0) continue;
    const taps v = taps_of(j.rows, i / j.columns.out % j.rows.out), u = taps_of(j.columns, i % j.columns.out);
    P m = logit(j, i, 0, v, u), s = 0, q = 0;
    for (int64_t k = 1; k < j.channels; k++) {
      const P z = logit(j, i, k, v, u);
      m = z > m ? z : m;
    }
    for (int64_t k = 0; k < j.channels; k++) {
      const P z = logit(j, i, k, v, u) - m;
      s += exp(z);
      if (j.smoothing > 0) q -= (j.weight ? j.weight[k] : (P)1) * z;
    }
    const P log_s = log(s), nll = log_s + (m - logit(j, i, t, v, u));
    const double w = j.weight ? (double)j.weight[t] : 1;
    sum += (1 - j.smoothing) * w * (double)nll, total += w;
    if (j.smoothing > 0) {
      double weights = 0;
      for (int64_t k = 0; k < j.channels; k++) weights += j.weight ? (double)j.weight[k] : 1;
      sum += j.smoothing / (double)j.channels * (weights * (double)log_s + (double)q);
    }
    j.nll[i] = nll;
  }
  sum = sum_over_block(sum, buf), total = sum_over_block(total, buf), bad = least_of_block(bad, buf);
  if (threadIdx.x == 0) partial[blockIdx.x] = partial_loss{sum, total, bad < (double)pixels ? (int64_t)bad : -1};
}

/* loss = sum / total over the blocks in a fixed order; the first bad label is reported. One block. */
template <class T, class P> static __global__ void finish_entropy(entropy<T, P> j, const partial_loss *partial, int64_t blocks, P *loss, double *total_out, int32_t op, fault_slot faults) {
  __shared__ double buf[BLOCK];
  double sum = 0, total = 0, first = (double)INFINITY;
  for (int64_t b = threadIdx.x; b < blocks; b += blockDim.x) {
    sum += partial[b].sum, total += partial[b].total;
    if (partial[b].bad >= 0 && (double)partial[b].bad < first) first = (double)partial[b].bad;
  }
  sum = sum_over_block(sum, buf), total = sum_over_block(total, buf), first = least_of_block(first, buf);
  if (threadIdx.x) return;
  *loss = (P)(total != 0 ? sum / total : 0);
  *total_out = total;
  if (first == (double)INFINITY) return;
  const int64_t bad = (int64_t)first;
  const int64_t value = j.wide_labels ? ((const int64_t *)j.target)[bad] : ((const uint8_t *)j.target)[bad], w = j.columns.out, h = j.rows.out;
  const bool map = !(h == 1 && w == 1);
  raise_fault(faults, fault{FAULT_LABEL, op, value, bad / (h * w) + 1, map ? bad / w % h + 1 : 0, map ? bad % w + 1 : 0, j.channels, j.ignore_index});
}

/* d loss / d logit k of pixel i, with scale = grad_loss / total:
 * scale ((1 - s) w[t] (p[k] - [k = t]) + s / classes (sum(w) p[k] - w[k])). */
template <class T, class P> struct entropy_gradient {
  entropy<T, P> j;
  const P *grad_loss;
  const double *total;
  DEVICE P operator()(int64_t n, int64_t oy, int64_t ox, int64_t k, const taps &v, const taps &u) const {
    const int64_t i = (n * j.rows.out + oy) * j.columns.out + ox, t = label_at(j, i);
    const double scale = *total != 0 ? (double)*grad_loss / *total : 0;
    if (t < 0 || scale == 0) return 0;
    const P p = exp((logit(j, i, k, v, u) - logit(j, i, t, v, u)) - j.nll[i]);
    const double soft = j.smoothing / (double)j.channels, hard = (1 - j.smoothing) * (j.weight ? (double)j.weight[t] : 1);
    double weights = 0;
    for (int64_t c = 0; soft > 0 && c < j.channels; c++) weights += j.weight ? (double)j.weight[c] : 1;
    return (P)(scale * (hard * ((double)p - (k == t)) + soft * (weights * (double)p - (j.weight ? (double)j.weight[k] : 1))));
  }
};

template <class T, class P> static __global__ void entropy_backward(entropy_gradient<T, P> g, T *grad_x) {
  const entropy<T, P> &j = g.j;
  const taps none = {0, 0, 1, 0};
  FOR_ITEMS(i, j.n * j.rows.out * j.columns.out * j.channels) {
    const int64_t pixel = i / j.channels;
    grad_x[i] = narrow<T>(g(pixel / j.columns.out / j.rows.out, pixel / j.columns.out % j.rows.out, pixel % j.columns.out, i % j.channels, none, none));
  }
}

template <class T, class P> static entropy<T, P> entropy_of(const op_call *c, int32_t first, bool fused) {
  const cross_entropy_attr *a = (const cross_entropy_attr *)c->attr; /* the four ops have the same attributes */
  const tensor *x = c->in[first], *target = c->in[first + 1];
  const int64_t h = target->ndim == 3 ? target->size[1] : 1, w = target->ndim == 3 ? target->size[2] : 1;
  entropy<T, P> j;
  memset(&j, 0, sizeof j);
  j.x = data_as<T>(x), j.target = data_of(target), j.weight = data_as<P>(c->in[first + 2]);
  j.n = x->size[0], j.channels = x->size[1], j.fused = fused, j.wide_labels = target->dtype == DLV3_I64;
  j.rows = axis_map_of(fused ? x->size[2] : h, h, false, x->dtype), j.columns = axis_map_of(fused ? x->size[3] : w, w, false, x->dtype);
  j.ignore_index = a->ignore_index, j.smoothing = a->label_smoothing;
  return j;
}

template <class T, class P> static status forward(op_call *c, bool fused) {
  entropy<T, P> j = entropy_of<T, P>(c, 0, fused);
  const int64_t pixels = j.n * j.rows.out * j.columns.out, blocks = pixels ? least(blocks_for(pixels), 2048) : 0;
  const cudaStream_t stream = stream_of(c);
  storage *scratch;
  j.nll = data_as<P>(c->out[1]);
  TRY(scratch_new(&scratch, c, (blocks + 1) * (int64_t)sizeof(partial_loss)));
  partial_loss *partial = (partial_loss *)scratch->data;
  if (blocks) LAUNCH((entropy_pixels<T, P>), (unsigned)blocks, BLOCK, stream, j, partial);
  LAUNCH((finish_entropy<T, P>), 1, BLOCK, stream, j, (const partial_loss *)partial, blocks, data_as<P>(c->out[0]), data_as<double>(c->out[2]), c->op, faults_of(c));
  storage_drop(scratch);
  return LAUNCHED(c);
}

template <class T, class P> static status backward(op_call *c, bool fused) {
  entropy_gradient<T, P> g = {entropy_of<T, P>(c, 1, fused), data_as<P>(c->in[0]), data_as<double>(c->in[5])};
  const tensor *grad_x = c->out[0];
  const cudaStream_t stream = stream_of(c);
  g.j.nll = data_as<P>(c->in[4]);
  if (!numel(grad_x)) return DLV3_OK;
  if (fused)
    LAUNCH((gather_cells<T, entropy_gradient<T, P>>), cells(grad_x), dim3(32, BLOCK / 32), stream, g.j.rows, g.j.columns, g.j.channels, data_as<T>(grad_x), g);
  else LAUNCH((entropy_backward<T, P>), blocks_for(numel(grad_x)), BLOCK, stream, g, data_as<T>(grad_x));
  return LAUNCHED(c);
}

#define ENTROPY(op, pass, x, fused)                             \
  static status cuda_##op(op_call *c) {                         \
    switch (c->in[x]->dtype) {                                  \
    case DLV3_F64: return pass<double, double>(c, fused);       \
    case DLV3_F32: return pass<float, float>(c, fused);         \
    case DLV3_BF16: return pass<bf16, float>(c, fused);         \
    default: return pass<f16, float>(c, fused);                 \
    }                                                           \
  }                                                             \
  OWN(op);
ENTROPY(cross_entropy, forward, 0, false)
ENTROPY(cross_entropy_backward, backward, 1, false)
ENTROPY(upsample_cross_entropy, forward, 0, true)
ENTROPY(upsample_cross_entropy_backward, backward, 1, true)

/* -- confusion_matrix -------------------------------------------------------------------------------------- */

DEVICE int64_t class_at(const void *p, int32_t dtype, int64_t i) { return load_as<int64_t>(p, dtype, i); }

enum { SMALL = 32 };

/* Whole numbers add up to the same whatever the order, so atomics are deterministic here. Up to SMALL classes a block
 * counts in its own table first. */
static __global__ void count_classes(const void *pred, int32_t pred_dtype, const void *target, int32_t target_dtype, int64_t pixels, int64_t *hist, int64_t classes,
                                     fault_slot faults, int32_t op) {
  __shared__ unsigned table[SMALL * SMALL];
  const bool small = classes <= SMALL;
  for (int64_t i = threadIdx.x; small && i < classes * classes; i += blockDim.x) table[i] = 0;
  __syncthreads();
  FOR_ITEMS(i, pixels) {
    const int64_t t = class_at(target, target_dtype, i), p = class_at(pred, pred_dtype, i);
    if (t < 0 || t >= classes) continue;
    if (p < 0 || p >= classes) raise_fault(faults, fault{FAULT_CLASS, op, p, 0, 0, i, classes, 0});
    else if (small) atomicAdd(&table[t * classes + p], 1u);
    else atomicAdd((unsigned long long *)&hist[t * classes + p], 1ull);
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; small && i < classes * classes; i += blockDim.x)
    if (table[i]) atomicAdd((unsigned long long *)&hist[i], (unsigned long long)table[i]);
}

static status cuda_confusion_matrix(op_call *c) {
  const tensor *pred = c->in[0], *target = c->in[1], *hist = c->in[2];
  const int64_t n = numel(target);
  const cudaStream_t stream = stream_of(c);
  if (n)
    LAUNCH(count_classes, (unsigned)least(blocks_for(n), 1024), BLOCK, stream, (const void *)data_of(pred), pred->dtype, (const void *)data_of(target), target->dtype, n,
           data_as<int64_t>(hist), hist->size[0], faults_of(c), c->op);
  return LAUNCHED(c);
}
OWN(confusion_matrix);

/* -- softmax ----------------------------------------------------------------------------------------------- */

/* Lines along an axis: a line is all elements along it. */
typedef struct {
  int32_t ndim, axis;
  bool logarithm;
  int64_t size[DLV3_MAX_DIMS], a[DLV3_MAX_DIMS], b[DLV3_MAX_DIMS], y[DLV3_MAX_DIMS], lines; /* strides */
} softmax_lines;

DEVICE int64_t line_offset(const softmax_lines &j, const int64_t *stride, int64_t l) {
  int64_t at = 0;
  for (int32_t i = j.ndim - 1; i >= 0; i--) {
    if (i == j.axis) continue;
    at += l % j.size[i] * stride[i];
    l /= j.size[i];
  }
  return at;
}

template <class T> static __global__ void softmax_forward(softmax_lines j, const T *x, T *y) {
  typedef typename computing<T>::type C;
  FOR_ITEMS(l, j.lines) {
    const int64_t n = j.size[j.axis], dx = j.a[j.axis], dy = j.y[j.axis], px = line_offset(j, j.a, l), py = line_offset(j, j.y, l);
    C m = -(C)INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) m = wide(x[px + i * dx]) > m ? wide(x[px + i * dx]) : m;
    for (int64_t i = 0; i < n; i++) sum += exp(wide(x[px + i * dx]) - m);
    for (int64_t i = 0; i < n; i++) {
      const C z = wide(x[px + i * dx]) - m;
      y[py + i * dy] = narrow<T>(j.logarithm ? z - (C)log(sum) : (C)exp(z) / sum);
    }
  }
}

/* softmax: y (grad_y - sum(grad_y y)); log_softmax: grad_y - exp(y) sum(grad_y). */
template <class T> static __global__ void softmax_back(softmax_lines j, const T *grad_y, const T *y, T *grad_x) {
  typedef typename computing<T>::type C;
  FOR_ITEMS(l, j.lines) {
    const int64_t n = j.size[j.axis], pg = line_offset(j, j.a, l), py = line_offset(j, j.b, l), px = line_offset(j, j.y, l);
    C sum = 0;
    for (int64_t i = 0; i < n; i++) sum += wide(grad_y[pg + i * j.a[j.axis]]) * (j.logarithm ? (C)1 : wide(y[py + i * j.b[j.axis]]));
    for (int64_t i = 0; i < n; i++) {
      const C g = wide(grad_y[pg + i * j.a[j.axis]]), v = wide(y[py + i * j.b[j.axis]]);
      grad_x[px + i * j.y[j.axis]] = narrow<T>(j.logarithm ? g - (C)exp(v) * sum : v * (g - sum));
    }
  }
}

static status run_softmax(op_call *c, int64_t axis, bool logarithm) {
  const tensor *x = c->in[0], *second = c->n_in > 1 ? c->in[1] : NULL, *y = c->out[0];
  const cudaStream_t stream = stream_of(c);
  softmax_lines j;
  memset(&j, 0, sizeof j);
  j.ndim = x->ndim, j.axis = (int32_t)axis, j.logarithm = logarithm;
  memcpy(j.size, x->size, sizeof j.size), memcpy(j.a, x->stride, sizeof j.a), memcpy(j.y, y->stride, sizeof j.y);
  if (second) memcpy(j.b, second->stride, sizeof j.b);
  if (!numel(x)) return DLV3_OK;
  j.lines = numel(x) / x->size[axis];
  if (second) BY_FLOAT(x->dtype, LAUNCH(softmax_back<T>, blocks_for(j.lines), BLOCK, stream, j, data_as<T>(x), data_as<T>(second), data_as<T>(y)));
  else BY_FLOAT(x->dtype, LAUNCH(softmax_forward<T>, blocks_for(j.lines), BLOCK, stream, j, data_as<T>(x), data_as<T>(y)));
  return LAUNCHED(c);
}

static status cuda_softmax(op_call *c) { return run_softmax(c, ((const softmax_attr *)c->attr)->axis, false); }
OWN(softmax);
static status cuda_softmax_backward(op_call *c) { return run_softmax(c, ((const softmax_backward_attr *)c->attr)->axis, false); }
OWN(softmax_backward);
static status cuda_log_softmax(op_call *c) { return run_softmax(c, ((const log_softmax_attr *)c->attr)->axis, true); }
OWN(log_softmax);
static status cuda_log_softmax_backward(op_call *c) { return run_softmax(c, ((const log_softmax_backward_attr *)c->attr)->axis, true); }
OWN(log_softmax_backward);
