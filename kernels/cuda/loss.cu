/* loss.cu - cross entropy (alone and fused with upsampling), softmax, confusion matrix.
 *
 * The forward pass keeps nll = -log softmax(x)[target] of each pixel and the sum of the weights;
 * the gradient computes softmax(x)[k] = exp((x[k] - x[target]) - nll) from them. Full-size logits
 * are never stored: both passes of the fused loss go through patches, the pixels between the same
 * four source pixels, and blend logits there as they need them. Labels outside the classes are
 * found by the forward pass, do not count, and are reported when the host next looks. */
#include "cuda/support/interpolate.h"

/* -- Cross entropy ----------------------------------------------------------------------------- */

/* P: the type of weights, nll and the loss: f64 with f64 logits, else f32; also what is computed
 * in. */
template <class T, class P> struct entropy {
  const T *x;
  const void *target;
  const P *weight;
  P *nll;
  axis_map rows, columns; /* of the fused ops; else of equal sizes                   */
  int64_t n, channels;
  bool wide_labels;
  int64_t ignore_index;
  double smoothing;
};

enum { NOT_COUNTED = -1, BAD = -2 };

template <class T, class P> DEVICE int64_t label_at(const entropy<T, P> &j, int64_t i) {
  const int64_t v = j.wide_labels ? ((const int64_t *)j.target)[i] : ((const uint8_t *)j.target)[i];
  return v == j.ignore_index ? (int64_t)NOT_COUNTED : v < 0 || v >= j.channels ? (int64_t)BAD : v;
}

template <class T, class P> DEVICE P weight_of(const entropy<T, P> &j, int64_t k) {
  return j.weight ? j.weight[k] : (P)1;
}

/* Of all classes, for label smoothing; not needed without it. */
template <class T, class P> DEVICE double sum_of_weights(const entropy<T, P> &j) {
  double sum = 0;
  for (int64_t k = 0; j.smoothing > 0 && k < j.channels; k++) sum += (double)weight_of(j, k);
  return sum;
}

/* -- Patches of the fused loss: the pixels that blend the same four source pixels -------------- */

/* Every pixel is in one patch, whatever the ratio: upsampling by 8 makes patches of 8 x 8, and
 * larger ones at the border. A patch is named by its upper left source pixel; a warp works on one,
 * with lanes for its pixels or for classes. */
enum { LANES = 32, PATCHES = BLOCK / LANES /* of a block */ };

typedef struct {
  int64_t index, n, top, left, width,
      pixels;          /* index: of the source pixel; top, left: of the pixels; none past the last patch */
  int64_t right, down; /* from the logits of the source pixel to the ones beside and below it */
} patch;

/* The warp's patch in group `group` of PATCHES. All threads of the block call it. */
template <class T, class P> DEVICE patch patch_of(const entropy<T, P> &j, int64_t group) {
  __shared__ int64_t border[PATCHES][4]; /* each found by a lane of the first warp: top, bottom, left, right */
  const unsigned warp = threadIdx.x / LANES;
  __syncthreads();
  if (warp == 0) {
    const int64_t source = group * PATCHES + threadIdx.x / 4, y = source / j.columns.in % j.rows.in,
                  x = source % j.columns.in;
    const bool vertical = threadIdx.x % 4 < 2;
    const axis_map axis = vertical ? j.rows : j.columns;
    border[threadIdx.x / 4][threadIdx.x % 4] = first_from(axis, (vertical ? y : x) + threadIdx.x % 2);
  }
  __syncthreads();
  patch p;
  p.index = group * PATCHES + warp, p.n = p.index / j.columns.in / j.rows.in;
  p.top = border[warp][0], p.left = border[warp][2], p.width = border[warp][3] - p.left;
  p.pixels = p.n < j.n ? (border[warp][1] - p.top) * p.width : 0;
  p.right = p.index % j.columns.in + 1 < j.columns.in ? j.channels : 0;
  p.down = p.index / j.columns.in % j.rows.in + 1 < j.rows.in ? j.columns.in * j.channels : 0;
  return p;
}

/* Pixel `at` of a patch: its index in target, and in w the weights of the four source pixels. */
template <class T, class P> DEVICE int64_t pixel_of(const entropy<T, P> &j, const patch &p, int64_t at, P *w) {
  const int64_t y = p.top + at / p.width, x = p.left + at % p.width;
  const taps v = taps_of(j.rows, y), u = taps_of(j.columns, x);
  w[0] = (P)(v.w0 * u.w0), w[1] = (P)(v.w0 * u.w1), w[2] = (P)(v.w1 * u.w0), w[3] = (P)(v.w1 * u.w1);
  return (p.n * j.rows.out + y) * j.columns.out + x;
}

/* Logit k of the four source pixels of a patch. */
template <class T, class P> DEVICE pack<P, 4> corners(const entropy<T, P> &j, const patch &p, int64_t k) {
  const T *x = j.x + p.index * j.channels + k;
  return pack<P, 4>{{wide(x[0]), wide(x[p.right]), wide(x[p.down]), wide(x[p.down + p.right])}};
}

template <class P> DEVICE P blended(const pack<P, 4> &z, const P *w) {
  return w[0] * z.v[0] + w[1] * z.v[1] + w[2] * z.v[2] + w[3] * z.v[3];
}

/* -- The loss ---------------------------------------------------------------------------------- */

typedef struct {
  double sum, total, bad;
} partial_loss; /* bad: the first pixel with a label that is no class; infinity: none */

/* Pixel i with the label t >= 0, of which are known: its nll, and in q the sum over the classes of
 * w[k] (x[t] - x[k]). */
template <class T, class P>
DEVICE void add_pixel(const entropy<T, P> &j, partial_loss *part, double weights, int64_t t, P nll, P q) {
  const double w = (double)weight_of(j, t);
  part->sum += (1 - j.smoothing) * w * (double)nll, part->total += w;
  if (j.smoothing > 0) part->sum += j.smoothing / (double)j.channels * (weights * (double)nll + (double)q);
}

/* A block's sums, of those of its threads. */
DEVICE void close_partial(partial_loss *to, const partial_loss &part) {
  __shared__ double buf[BLOCK];
  const partial_loss all = {sum_over_block(part.sum, buf), sum_over_block(part.total, buf),
                            least_of_block(part.bad, buf)};
  if (threadIdx.x == 0) *to = all;
}

/* One thread a pixel; a block's sums go to partial[block]. */
template <class T, class P> static __global__ void entropy_pixels(entropy<T, P> j, partial_loss *partial) {
  const double weights = sum_of_weights(j);
  partial_loss part = {0, 0, (double)INFINITY};
  FOR_ITEMS(i, j.n * j.rows.out * j.columns.out) {
    const T *x = j.x + i * j.channels;
    const int64_t t = label_at(j, i);
    j.nll[i] = 0;
    if (t == BAD && (double)i < part.bad) part.bad = (double)i;
    if (t < 0) continue;
    const P own = wide(x[t]);
    P m = own, s = 0, q = 0;
    for (int64_t k = 0; k < j.channels; k++) m = wide(x[k]) > m ? wide(x[k]) : m;
    for (int64_t k = 0; k < j.channels; k++) s += exp(wide(x[k]) - m);
    for (int64_t k = 0; j.smoothing > 0 && k < j.channels; k++) q += weight_of(j, k) * (own - wide(x[k]));
    j.nll[i] = log(s) + (m - own);
    add_pixel(j, &part, weights, t, j.nll[i], q);
  }
  close_partial(&partial[blockIdx.x], part);
}

/* The same fused: one lane a pixel of the warp's patch. Logits of its four source pixels come to
 * shared memory, as many classes at once as there are lanes; m and s are of the classes so far, m
 * the label's logit to begin with. */
template <class T, class P>
static __global__ void entropy_patches(entropy<T, P> j, int64_t groups, partial_loss *partial) {
  __shared__ pack<P, 4> logits[BLOCK];
  const double weights = sum_of_weights(j);
  const int lane = (int)(threadIdx.x % LANES);
  pack<P, 4> *const own_logits = logits + (threadIdx.x - lane);
  partial_loss part = {0, 0, (double)INFINITY};
  for (int64_t group = blockIdx.x; group < groups; group += gridDim.x) {
    const patch p = patch_of(j, group);
    for (int64_t at = lane; __syncthreads_or(at - lane < p.pixels); at += LANES) {
      P w[4] = {0, 0, 0, 0};
      const int64_t i = at < p.pixels ? pixel_of(j, p, at, w) : 0,
                    t = at < p.pixels ? label_at(j, i) : (int64_t)NOT_COUNTED;
      const P own = t < 0 ? (P)0 : blended(corners(j, p, t), w);
      P m = own, s = 0, q = 0;
      for (int64_t from = 0; from < j.channels; from += LANES) {
        const int n = (int)least(j.channels - from, LANES);
        __syncthreads();
        if (lane < n && p.pixels) own_logits[lane] = corners(j, p, from + lane);
        __syncthreads();
        P top = m;
        for (int k = 0; k < n; k++) {
          const P z = blended(own_logits[k], w);
          top = z > top ? z : top;
        }
        s *= exp(m - top), m = top;
        for (int k = 0; k < n; k++) s += exp(blended(own_logits[k], w) - m);
        for (int k = 0; j.smoothing > 0 && k < n; k++) q += weight_of(j, from + k) * (own - blended(own_logits[k], w));
      }
      const P nll = t < 0 ? (P)0 : log(s) + (m - own);
      if (at < p.pixels) j.nll[i] = nll;
      if (t == BAD && (double)i < part.bad) part.bad = (double)i;
      if (t >= 0) add_pixel(j, &part, weights, t, nll, q);
    }
  }
  close_partial(&partial[blockIdx.x], part);
}

/* loss = sum / total over the blocks in a fixed order; the first bad label is reported. One block. */
template <class T, class P>
static __global__ void finish_entropy(entropy<T, P> j, const partial_loss *partial, int64_t blocks, P *loss,
                                      double *total_out, int32_t op, fault_slot faults) {
  __shared__ double buf[BLOCK];
  double sum = 0, total = 0, first = (double)INFINITY;
  for (int64_t b = threadIdx.x; b < blocks; b += blockDim.x) {
    sum += partial[b].sum, total += partial[b].total;
    if (partial[b].bad < first) first = partial[b].bad;
  }
  sum = sum_over_block(sum, buf), total = sum_over_block(total, buf), first = least_of_block(first, buf);
  if (threadIdx.x) return;
  *loss = (P)(total != 0 ? sum / total : 0);
  *total_out = total;
  if (first == (double)INFINITY) return;
  const int64_t bad = (int64_t)first;
  const int64_t value = j.wide_labels ? ((const int64_t *)j.target)[bad] : ((const uint8_t *)j.target)[bad],
                w = j.columns.out, h = j.rows.out;
  const bool map = !(h == 1 && w == 1);
  raise_fault(faults, fault{FAULT_LABEL, op, value, bad / (h * w) + 1, map ? bad / w % h + 1 : 0, map ? bad % w + 1 : 0,
                            j.channels, j.ignore_index});
}

/* -- The gradient ------------------------------------------------------------------------------ */

/* d loss / d logit k of a pixel with the label t, with scale = grad_loss / total:
 * scale ((1 - s) w[t] (p[k] - [k = t]) + s / classes (sum(w) p[k] - w[k])). */
template <class T, class P> struct entropy_gradient {
  entropy<T, P> j;
  const P *grad_loss;
  const double *total;
};

/* Its factors: hard before w[t], soft before w[k], soft_p before p[k]. */
template <class P> struct factors { P hard, soft, soft_p; };

template <class T, class P> DEVICE factors<P> factors_of(const entropy_gradient<T, P> &g) {
  const double scale = *g.total != 0 ? (double)*g.grad_loss / *g.total : 0,
               soft = scale * g.j.smoothing / (double)g.j.channels;
  return factors<P>{(P)(scale * (1 - g.j.smoothing)), (P)soft, (P)(soft * sum_of_weights(g.j))};
}

template <class T, class P> static __global__ void entropy_pixels_backward(entropy_gradient<T, P> g, T *grad_x) {
  const entropy<T, P> &j = g.j;
  const factors<P> f = factors_of(g);
  FOR_ITEMS(at, j.n * j.rows.out * j.columns.out * j.channels) {
    const int64_t i = at / j.channels, k = at % j.channels, t = label_at(j, i);
    P d = 0;
    if (t >= 0) {
      const P p = exp((wide(j.x[at]) - wide(j.x[i * j.channels + t])) - j.nll[i]);
      d = f.hard * weight_of(j, t) * (p - (k == t)) + (f.soft_p * p - f.soft * weight_of(j, k));
    }
    grad_x[at] = narrow<T>(d);
  }
}

/* What the classes of a pixel share: its weights in the blending, its label and that one's logit. */
template <class P> struct alignas(4 * sizeof(P)) shared_pixel {
  P w[4], own, nll, hard;
  int32_t t;
};

/* sums[patch][corner][k] = the gradient of logit k times the weight of the corner, over the pixels
 * of a patch. Lanes take the pixels, as many as there are, to find what their classes share; then
 * each takes a class and goes through them. */
template <class T, class P> static __global__ void entropy_patches_backward(entropy_gradient<T, P> g, P *sums) {
  __shared__ shared_pixel<P> pixels[BLOCK];
  const entropy<T, P> &j = g.j;
  const int lane = (int)(threadIdx.x % LANES);
  const int64_t tiles = ceil_div(j.channels, LANES);
  const int k = (int)(blockIdx.x % tiles) * LANES + lane;
  const patch p = patch_of(j, blockIdx.x / tiles);
  const factors<P> f = factors_of(g);
  const bool mine = k < j.channels && p.n < j.n;
  const pack<P, 4> z = mine ? corners(j, p, k) : pack<P, 4>{{0, 0, 0, 0}};
  const P soft = mine ? f.soft * weight_of(j, k) : (P)0;
  P sum[4] = {0, 0, 0, 0};
  for (int64_t from = 0; __syncthreads_or(from < p.pixels); from += LANES) {
    const int n = (int)least(p.pixels - from, LANES);
    if (lane < n) {
      shared_pixel<P> s;
      const int64_t i = pixel_of(j, p, from + lane, s.w), t = label_at(j, i);
      s.t = (int32_t)t;
      if (t >= 0) s.own = blended(corners(j, p, t), s.w), s.nll = j.nll[i], s.hard = f.hard * weight_of(j, t);
      pixels[threadIdx.x] = s;
    }
    __syncthreads();
    for (int i = 0; i < n; i++) {
      const shared_pixel<P> s = pixels[threadIdx.x - lane + i];
      if (s.t < 0) continue;
      const P q = exp((blended(z, s.w) - s.own) - s.nll), d = s.hard * (q - (k == s.t)) + (f.soft_p * q - soft);
      for (int c = 0; c < 4; c++) sum[c] += s.w[c] * d;
    }
  }
  for (int c = 0; mine && c < 4; c++) sums[(p.index * 4 + c) * j.channels + k] = sum[c];
}

/* A source pixel is a corner of four patches, or fewer at the border. */
template <class T, class P> static __global__ void add_patches(entropy<T, P> j, const P *sums, T *grad_x) {
  const int64_t w = j.columns.in, h = j.rows.in, corner = j.channels, one = 4 * corner;
  FOR_ITEMS(i, j.n * h * w * j.channels) {
    const int64_t source = i / j.channels, x = source % w, y = source / w % h;
    const P *s = sums + source * one + i % j.channels;
    P sum = s[0];
    if (x > 0) sum += s[corner - one];
    if (y > 0) sum += s[2 * corner - w * one];
    if (x > 0 && y > 0) sum += s[3 * corner - (w + 1) * one];
    grad_x[i] = narrow<T>(sum);
  }
}

/* -- The ops ----------------------------------------------------------------------------------- */

template <class T, class P> static entropy<T, P> entropy_of(const op_call *c, int32_t first, bool fused) {
  const cross_entropy_attr *a = (const cross_entropy_attr *)c->attr; /* the four ops have the same attributes */
  const tensor *x = c->in[first], *target = c->in[first + 1];
  const int64_t h = target->ndim == 3 ? target->size[1] : 1, w = target->ndim == 3 ? target->size[2] : 1;
  entropy<T, P> j;
  memset(&j, 0, sizeof j);
  j.x = data_as<T>(x), j.target = data_of(target), j.weight = data_as<P>(c->in[first + 2]);
  j.n = x->size[0], j.channels = x->size[1], j.wide_labels = target->dtype == DLV3_I64;
  j.rows = axis_map_of(fused ? x->size[2] : h, h, false, x->dtype),
  j.columns = axis_map_of(fused ? x->size[3] : w, w, false, x->dtype);
  j.ignore_index = a->ignore_index, j.smoothing = a->label_smoothing;
  return j;
}

template <class T, class P> static int64_t groups_of(const entropy<T, P> &j) {
  return ceil_div(j.n * j.rows.in * j.columns.in, PATCHES);
}

template <class T, class P> static status forward(op_call *c, bool fused) {
  entropy<T, P> j = entropy_of<T, P>(c, 0, fused);
  const int64_t items = fused ? groups_of(j) : ceil_div(j.n * j.rows.out * j.columns.out, BLOCK),
                blocks = least(items, 2048);
  const cudaStream_t stream = stream_of(c);
  storage *scratch;
  j.nll = data_as<P>(c->out[1]);
  TRY(scratch_new(&scratch, c, (blocks + 1) * (int64_t)sizeof(partial_loss)));
  partial_loss *partial = (partial_loss *)scratch->data;
  if (blocks && fused)
    LAUNCH((entropy_patches<T, P>), (unsigned)blocks, BLOCK, stream, j, items, partial);
  else if (blocks)
    LAUNCH((entropy_pixels<T, P>), (unsigned)blocks, BLOCK, stream, j, partial);
  LAUNCH((finish_entropy<T, P>), 1, BLOCK, stream, j, (const partial_loss *)partial, blocks, data_as<P>(c->out[0]),
         data_as<double>(c->out[2]), c->op, faults_of(c));
  storage_drop(scratch);
  return LAUNCHED(c);
}

template <class T, class P> static status backward(op_call *c, bool fused) {
  entropy_gradient<T, P> g = {entropy_of<T, P>(c, 1, fused), data_as<P>(c->in[0]), data_as<double>(c->in[5])};
  const tensor *grad_x = c->out[0];
  const int64_t n = numel(grad_x);
  const cudaStream_t stream = stream_of(c);
  g.j.nll = data_as<P>(c->in[4]);
  if (!n) return DLV3_OK;
  if (!fused) {
    LAUNCH((entropy_pixels_backward<T, P>), blocks_for(n), BLOCK, stream, g, data_as<T>(grad_x));
    return LAUNCHED(c);
  }
  storage *scratch;
  TRY(scratch_new(&scratch, c, 4 * n * (int64_t)sizeof(P)));
  P *sums = (P *)scratch->data;
  LAUNCH((entropy_patches_backward<T, P>), (unsigned)(groups_of(g.j) * ceil_div(g.j.channels, LANES)), BLOCK, stream, g,
         sums);
  LAUNCH((add_patches<T, P>), blocks_for(n), BLOCK, stream, g.j, (const P *)sums, data_as<T>(grad_x));
  storage_drop(scratch);
  return LAUNCHED(c);
}

#define ENTROPY(op, pass, x, fused) \
  static status cuda_##op(op_call *c) { \
    switch (c->in[x]->dtype) { \
    case DLV3_F64: return pass<double, double>(c, fused); \
    case DLV3_F32: return pass<float, float>(c, fused); \
    case DLV3_BF16: return pass<bf16, float>(c, fused); \
    default: return pass<f16, float>(c, fused); \
    } \
  } \
  OWN(op);
ENTROPY(cross_entropy, forward, 0, false)
ENTROPY(cross_entropy_backward, backward, 1, false)
ENTROPY(upsample_cross_entropy, forward, 0, true)
ENTROPY(upsample_cross_entropy_backward, backward, 1, true)

/* -- confusion_matrix -------------------------------------------------------------------------- */

DEVICE int64_t class_at(const void *p, int32_t dtype, int64_t i) { return load_as<int64_t>(p, dtype, i); }

enum { SMALL = 32 };

/* Whole numbers add up to the same whatever the order, so atomics are deterministic here. Up to
 * SMALL classes a block counts in its own table first. */
static __global__ void count_classes(const void *pred, int32_t pred_dtype, const void *target, int32_t target_dtype,
                                     int64_t pixels, int64_t *hist, int64_t classes, fault_slot faults, int32_t op) {
  __shared__ unsigned table[SMALL * SMALL];
  const bool small = classes <= SMALL;
  for (int64_t i = threadIdx.x; small && i < classes * classes; i += blockDim.x) table[i] = 0;
  __syncthreads();
  FOR_ITEMS(i, pixels) {
    const int64_t t = class_at(target, target_dtype, i), p = class_at(pred, pred_dtype, i);
    if (t < 0 || t >= classes) continue;
    if (p < 0 || p >= classes)
      raise_fault(faults, fault{FAULT_CLASS, op, p, 0, 0, i, classes, 0});
    else if (small)
      atomicAdd(&table[t * classes + p], 1u);
    else
      atomicAdd((unsigned long long *)&hist[t * classes + p], 1ull);
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
    LAUNCH(count_classes, (unsigned)least(blocks_for(n), 1024), BLOCK, stream, (const void *)data_of(pred), pred->dtype,
           (const void *)data_of(target), target->dtype, n, data_as<int64_t>(hist), hist->size[0], faults_of(c), c->op);
  return LAUNCHED(c);
}
OWN(confusion_matrix);

/* -- softmax ----------------------------------------------------------------------------------- */

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
    const int64_t n = j.size[j.axis], dx = j.a[j.axis], dy = j.y[j.axis], px = line_offset(j, j.a, l),
                  py = line_offset(j, j.y, l);
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
    const int64_t n = j.size[j.axis], pg = line_offset(j, j.a, l), py = line_offset(j, j.b, l),
                  px = line_offset(j, j.y, l);
    C sum = 0;
    for (int64_t i = 0; i < n; i++)
      sum += wide(grad_y[pg + i * j.a[j.axis]]) * (j.logarithm ? (C)1 : wide(y[py + i * j.b[j.axis]]));
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
  if (second)
    BY_FLOAT(x->dtype, LAUNCH(softmax_back<T>, blocks_for(j.lines), BLOCK, stream, j, data_as<T>(x), data_as<T>(second),
                              data_as<T>(y)));
  else
    BY_FLOAT(x->dtype, LAUNCH(softmax_forward<T>, blocks_for(j.lines), BLOCK, stream, j, data_as<T>(x), data_as<T>(y)));
  return LAUNCHED(c);
}

static status cuda_softmax(op_call *c) { return run_softmax(c, ((const softmax_attr *)c->attr)->axis, false); }
OWN(softmax);
static status cuda_softmax_backward(op_call *c) {
  return run_softmax(c, ((const softmax_backward_attr *)c->attr)->axis, false);
}
OWN(softmax_backward);
static status cuda_log_softmax(op_call *c) { return run_softmax(c, ((const log_softmax_attr *)c->attr)->axis, true); }
OWN(log_softmax);
static status cuda_log_softmax_backward(op_call *c) {
  return run_softmax(c, ((const log_softmax_backward_attr *)c->attr)->axis, true);
}
OWN(log_softmax_backward);
