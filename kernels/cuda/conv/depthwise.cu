/* depthwise.cu - convolution with one filter a channel: bound by memory.
 *
 * Forward and backward by input: a thread takes a pack of channels at four pixels of a row, which
 * share the weights that it reads; those are kept as [tap][channel], so that neighbours read
 * neighbours. Where nothing is strided the pixels share what they read of the map too, and both
 * passes are one kernel. Backward by weight: a thread takes a pack of channels and the taps of a
 * kernel row, which share what it reads of grad_y. */
#include "conv.h"

#include "cuda/support/pixels.h"

enum { PIXELS = 4 }; /* of a thread, forward and backward by input */

/* -- Weights ----------------------------------------------------------------------------------- */

/* to[tap][k] = w[k][tap]. */
template <class P> static __global__ void turn_weights(const P *w, P *to, int64_t channels, int64_t taps) {
  FOR_ITEMS(i, taps * channels) to[i] = w[i % channels * taps + i / channels];
}

template <class P> static status weights_of(const P **out, const op_call *c, const conv &v) {
  tensor *w = c->in[1];
  weight_copy *kept;
  TRY(weight_copy_of(&kept, c, w, (uint64_t)0xde97 << 48 ^ (uint64_t)v.k << 20 ^ (uint64_t)(v.r * v.s),
                     numel(w) * (int64_t)sizeof(P)));
  *out = (const P *)kept->st->data;
  if (kept->base.version == storage_version(w->st)) return DLV3_OK;
  const cudaStream_t stream = stream_of(c);
  LAUNCH(turn_weights<P>, blocks_for(numel(w)), BLOCK, stream, data_as<P>(w), (P *)kept->st->data, v.k, v.r * v.s);
  TRY(LAUNCHED(c));
  return kept->base.version = storage_version(w->st), DLV3_OK;
}

/* -- Forward and backward by input ------------------------------------------------------------- */

template <class P, int V> DEVICE void clear(P (&sum)[PIXELS][V]) {
  UNROLL
  for (int q = 0; q < PIXELS; q++) UNROLL
  for (int i = 0; i < V; i++) sum[q][i] = 0;
}

/* sum[q] += the pixel at column x + q step times the weights of a tap, where there is one. from: at
 * x, which may lie outside; apart: elements from one pixel to the next. */
template <class T, class P, int V>
DEVICE void add_tap(P (&sum)[PIXELS][V], const T *from, int64_t apart, int32_t x, int32_t step, int32_t width,
                    const P *w) {
  pack<T, V> read[PIXELS];
  bool there[PIXELS];
  UNROLL
  for (int q = 0; q < PIXELS; q++, from += apart) {
    there[q] = inside(x + q * step, width);
    if (there[q]) read[q] = pack_at<V>(from);
  }
  const pack<P, V> weights = pack_at<V>(w);
  UNROLL
  for (int q = 0; q < PIXELS; q++) {
    if (!there[q]) continue;
    P factor[V];
    widen(factor, read[q]);
    UNROLL
    for (int i = 0; i < V; i++) sum[q][i] += factor[i] * weights.v[i];
  }
}

/* Without a stride. A thread's pixels are a dilation apart, so that a row of S taps meets PIXELS +
 * S - 1 pixels of x: each is read and widened once, for all sums that it is a part of. apart:
 * elements of x from one of those to the next; to_next: of w from a tap to the next, which is less
 * than 0 where they are gone through backwards. Arguments of their own, or the compiler multiplies
 * anew for every pixel. */
template <class T, class P, int V, int S>
static __global__ void __launch_bounds__(BLOCK, 2)
    depthwise_shared(conv v, int64_t apart, int64_t to_next, const T *x, const P *w, T *y, epilogue<T, P> end,
                     int64_t spots) {
  enum { READ = PIXELS + S - 1 };
  const int32_t width = (int32_t)v.w, step = (int32_t)v.dilation.w;
  FOR_ITEMS(item, spots) {
    const spot o = spot_of<V, PIXELS>(item, v.k, v.oh, v.ow, step);
    const int32_t x0 = o.x - (int32_t)v.padding.w;
    P sum[PIXELS][V];
    clear(sum);
    const P *tap = w + o.k;
    for (int32_t r = 0; r < v.r; r++) {
      const int32_t iy = o.y - (int32_t)v.padding.h + r * (int32_t)v.dilation.h;
      const T *from = x + ((o.n * v.h + iy) * v.w + x0) * v.c + o.k;
      pack<T, V> read[READ];
      pack<P, V> weights[S];
      UNROLL
      for (int s = 0; s < S; s++, tap += to_next) weights[s] = pack_at<V>(tap);
      if (!inside(iy, (int32_t)v.h)) continue;
      UNROLL
      for (int i = 0; i < READ; i++, from += apart)
        if (inside(x0 + i * step, width)) read[i] = pack_at<V>(from);
      UNROLL
      for (int i = 0; i < READ; i++) {
        if (!inside(x0 + i * step, width)) continue;
        P factor[V];
        widen(factor, read[i]);
        UNROLL
        for (int s = 0; s < S; s++) {
          const int q = i - s; /* whose tap s is at i */
          if (q < 0 || q >= PIXELS) continue;
          UNROLL
          for (int k = 0; k < V; k++) sum[q][k] += factor[k] * weights[s].v[k];
        }
      }
    }
    UNROLL
    for (int q = 0; q < PIXELS; q++) {
      if (o.x + q * step >= v.ow) break;
      const int64_t at = ((o.n * v.oh + o.y) * v.ow + o.x + q * step) * v.k + o.k;
      pack_at<V>(y + at) = end.of_pack(sum[q], at, o.k);
    }
  }
}

/* w: [tap][channel]. apart, taps_apart: elements of x from a pixel of y to the next, from a tap to
 * the next; arguments of their own, or the compiler multiplies anew for every pixel. */
template <class T, class P, int V>
static __global__ void depthwise_forward(conv v, int64_t apart, int64_t taps_apart, const T *x, const P *w, T *y,
                                         epilogue<T, P> end, int64_t spots) {
  const int32_t width = (int32_t)v.w, step = (int32_t)v.stride.w, dilation = (int32_t)v.dilation.w, taps = (int32_t)v.s;
  FOR_ITEMS(item, spots) {
    const spot o = spot_of<V, PIXELS>(item, v.k, v.oh, v.ow, 1);
    const int32_t x0 = (int32_t)input_at(o.x, 0, v.stride.w, v.padding.w, v.dilation.w);
    P sum[PIXELS][V];
    clear(sum);
    for (int32_t r = 0; r < v.r; r++) {
      const int32_t iy = (int32_t)input_at(o.y, r, v.stride.h, v.padding.h, v.dilation.h);
      if (!inside(iy, (int32_t)v.h)) continue;
      const T *from = x + ((o.n * v.h + iy) * v.w + x0) * v.c + o.k;
      const P *tap = w + r * v.s * v.k + o.k;
      for (int32_t s = 0, ix = x0; s < taps; s++, ix += dilation, from += taps_apart, tap += v.k)
        add_tap<T, P, V>(sum, from, apart, ix, step, width, tap);
    }
    UNROLL
    for (int q = 0; q < PIXELS; q++) {
      if (o.x + q >= v.ow) break;
      const int64_t at = ((o.n * v.oh + o.y) * v.ow + o.x + q) * v.k + o.k;
      pack_at<V>(y + at) = end.of_pack(sum[q], at, o.k);
    }
  }
}

/* The pixels of a thread are a stride apart, so that the same taps meet them; in a map narrower
 * than that there is one. */
static int64_t step_of(const conv &v) { return least(v.stride.w, v.w); }

template <class T, class P, int V>
static __global__ void depthwise_backward(conv v, int32_t step, const T *grad_y, const P *w, T *grad_x,
                                          epilogue<T, P> end, int64_t spots) {
  const int32_t width = (int32_t)v.ow, taps = (int32_t)v.s, channels = (int32_t)v.k;
  FOR_ITEMS(item, spots) {
    const spot o = spot_of<V, PIXELS>(item, v.c, v.h, v.w, step);
    const way_back x0 = way_from(o.x, v.stride.w, v.padding.w, v.dilation.w);
    way_back oy = way_from(o.y, v.stride.h, v.padding.h, v.dilation.h);
    P sum[PIXELS][V];
    clear(sum);
    for (int32_t r = 0; r < v.r; r++, next_tap(&oy)) {
      if (oy.left || !inside(oy.out, (int32_t)v.oh)) continue;
      const T *row = grad_y + (o.n * v.oh + oy.out) * v.ow * v.k + o.k;
      const P *tap = w + r * v.s * v.k + o.k;
      way_back ox = x0;
      for (int32_t s = 0; s < taps; s++, tap += v.k, next_tap(&ox))
        if (!ox.left) add_tap<T, P, V>(sum, row + (int64_t)ox.out * channels, channels, ox.out, 1, width, tap);
    }
    UNROLL
    for (int q = 0; q < PIXELS; q++) {
      if (o.x + q * step >= v.w) break;
      const int64_t at = ((o.n * v.h + o.y) * v.w + o.x + q * step) * v.c + o.k;
      pack_at<V>(grad_x + at) = end.of_pack(sum[q], at, o.k);
    }
  }
}

/* -- Backward by weight ------------------------------------------------------------------------ */

enum { TAPS = 5 }; /* of a kernel row, a thread; a longer one is cut */

/* Sums of grad_y x over a part of the output pixels: partial[part][tap][channel]. A block: some
 * taps of one kernel row, packs of channels along x, pixels along y. Blocks that follow each other
 * are for the same pixels and channels, to find them in the cache. */
template <class T, class P, int V>
static __global__ void __launch_bounds__(BLOCK, 2)
    depthwise_weight(conv v, int64_t taps_apart, const T *x, const T *grad_y, int64_t part, P *partial) {
  __shared__ pack<P, V> buf[BLOCK];
  const int32_t width = (int32_t)v.w, ow = (int32_t)v.ow, oh = (int32_t)v.oh, dilation = (int32_t)v.dilation.w;
  const uint32_t cuts = (uint32_t)ceil_div(v.s, TAPS), cut = blockIdx.x % cuts, r = blockIdx.x / cuts % (uint32_t)v.r,
                 tile = blockIdx.x / cuts / (uint32_t)v.r;
  const int32_t s0 = (int32_t)cut * TAPS, taps = (int32_t)least(v.s - s0, TAPS);
  const int64_t first_k = (int64_t)tile * blockDim.x * V, k = first_k + threadIdx.x * V;
  const int64_t begin = blockIdx.y * part, end = k < v.k ? least(begin + part, v.n * v.oh * v.ow) : 0;
  int64_t p = begin + threadIdx.y, n = p / v.ow / v.oh;
  int32_t oy = (int32_t)(p / v.ow % v.oh), ox = (int32_t)(p % v.ow);
  P sum[TAPS][V];
  UNROLL
  for (int t = 0; t < TAPS; t++) UNROLL
  for (int i = 0; i < V; i++) sum[t][i] = 0;
  for (; p < end; p += blockDim.y) {
    const int32_t iy = (int32_t)input_at(oy, r, v.stride.h, v.padding.h, v.dilation.h),
                  ix = (int32_t)input_at(ox, s0, v.stride.w, v.padding.w, v.dilation.w);
    if (inside(iy, (int32_t)v.h)) {
      const T *from = x + ((n * v.h + iy) * v.w + ix) * v.c + k;
      const pack<T, V> g = pack_at<V>(grad_y + p * v.k + k);
      pack<T, V> read[TAPS];
      bool there[TAPS];
      UNROLL
      for (int t = 0; t < TAPS; t++, from += taps_apart) {
        there[t] = t < taps && inside(ix + t * dilation, width);
        if (there[t]) read[t] = pack_at<V>(from);
      }
      P a[V];
      widen(a, g);
      UNROLL
      for (int t = 0; t < TAPS; t++) {
        if (!there[t]) continue;
        P b[V];
        widen(b, read[t]);
        UNROLL
        for (int i = 0; i < V; i++) sum[t][i] += a[i] * b[i];
      }
    }
    for (ox += blockDim.y; ox >= ow; ox -= ow)
      if (++oy == oh) oy = 0, n++;
  }
  const unsigned mine = threadIdx.y * blockDim.x + threadIdx.x;
  UNROLL
  for (int t = 0; t < TAPS; t++) {
    if (t >= taps) break;
    const P all = sum_of_channel<P, V>(sum[t], buf);
    if (mine < blockDim.x * V && first_k + mine < v.k)
      partial[((blockIdx.y * v.r + r) * v.s + s0 + t) * v.k + first_k + mine] = all;
  }
}

/* grad_w[k][tap] += the parts, in a tree. A block: 32 channels of a tap, 8 threads each. */
template <class P>
static __global__ void depthwise_finish(const P *partial, int64_t parts, int64_t taps, int64_t channels, P *grad_w) {
  __shared__ P buf[BLOCK];
  const int64_t tap = blockIdx.x % taps, k = blockIdx.x / taps * 32 + threadIdx.x;
  P sum = 0;
  for (int64_t s = threadIdx.y; k < channels && s < parts; s += blockDim.y)
    sum += partial[(s * taps + tap) * channels + k];
  sum = sum_over_y(sum, buf);
  if (k < channels && threadIdx.y == 0) grad_w[k * taps + tap] += sum;
}

/* -- Launchers --------------------------------------------------------------------------------- */

static status suits(const conv &v) {
  const int64_t most = INT32_MAX / 8; /* coordinates go a few strides or taps beyond the map */
  if (!is_depthwise(&v)) return DECLINED("not one filter a channel");
  const int64_t h = v.h + 2 * v.padding.h + v.r * v.dilation.h, w = v.w + 2 * v.padding.w + v.s * v.dilation.w;
  if (h > most || w > most || v.stride.w > most || v.dilation.w > most || v.k > most)
    return DECLINED("coordinates of more than 32 bits");
  return DLV3_OK;
}

/* The passes without a stride, by a kernel row of 3 or 5 taps. backward: v is turned round, the
 * taps come in reverse. */
static bool is_shared(const conv &v) { return v.stride.h == 1 && v.stride.w == 1 && (v.s == 3 || v.s == 5); }
template <class T, class P, int V> static status run_shared(op_call *c, const conv &v, bool backward) {
  const int64_t spots = v.n * v.oh * spots_in_row<PIXELS>(v.ow, v.dilation.w) * (v.k / V),
                to_next = backward ? -v.k : v.k;
  const cudaStream_t stream = stream_of(c);
  T *y = data_as<T>(backward ? grad_x_of(c) : c->out[0]);
  const P *w;
  TRY(weights_of(&w, c, v));
  if (backward) w += (v.r * v.s - 1) * v.k;
  if (v.s == 3)
    LAUNCH((depthwise_shared<T, P, V, 3>), blocks_for(spots), BLOCK, stream, v, v.dilation.w * v.c, to_next,
           data_as<T>(c->in[0]), w, y, (epilogue_of<T, P>(c)), spots);
  else
    LAUNCH((depthwise_shared<T, P, V, 5>), blocks_for(spots), BLOCK, stream, v, v.dilation.w * v.c, to_next,
           data_as<T>(c->in[0]), w, y, (epilogue_of<T, P>(c)), spots);
  return LAUNCHED(c);
}

template <class T, class P, int V> static status forward(op_call *c, const conv &v) {
  if (is_shared(v)) return run_shared<T, P, V>(c, v, false);
  const int64_t spots = v.n * v.oh * spots_in_row<PIXELS>(v.ow, 1) * (v.k / V);
  const cudaStream_t stream = stream_of(c);
  const P *w;
  TRY(weights_of(&w, c, v));
  LAUNCH((depthwise_forward<T, P, V>), blocks_for(spots), BLOCK, stream, v, v.stride.w * v.c, v.dilation.w * v.c,
         data_as<T>(c->in[0]), w, data_as<T>(c->out[0]), (epilogue_of<T, P>(c)), spots);
  return LAUNCHED(c);
}

status depthwise_conv2d(op_call *c) {
  const conv v = conv_of(c);
  TRY(suits(v));
  if (c->in[4]) return DECLINED("a scale");
  if (!numel(c->out[0])) return DLV3_OK;
  BY_ACTIVATION(c->in[0]->dtype,
                BY_PACK(T, in_packs<T>(v.k, data_of(c->in[0]), data_of(c->out[0]), data_as<T>(c->in[3])),
                        return (forward<T, P, V>(c, v))));
  return DLV3_OK;
}

template <class T, class P, int V> static status backward(op_call *c, const conv &v) {
  if (is_shared(v)) return run_shared<T, P, V>(c, turned_conv(v), true);
  const int64_t spots = v.n * v.h * spots_in_row<PIXELS>(v.w, step_of(v)) * (v.c / V);
  const cudaStream_t stream = stream_of(c);
  const P *w;
  TRY(weights_of(&w, c, v));
  LAUNCH((depthwise_backward<T, P, V>), blocks_for(spots), BLOCK, stream, v, (int32_t)step_of(v), data_as<T>(c->in[0]),
         w, data_as<T>(grad_x_of(c)), (epilogue_of<T, P>(c)), spots);
  return LAUNCHED(c);
}

status depthwise_conv2d_backward_input(op_call *c) {
  const conv v = conv_of(c);
  TRY(suits(v));
  if (!numel(grad_x_of(c))) return DLV3_OK;
  BY_ACTIVATION(c->in[0]->dtype, BY_PACK(T, in_packs<T>(v.c, data_of(c->in[0]), data_of(grad_x_of(c))),
                                         return (backward<T, P, V>(c, v))));
  return DLV3_OK;
}

template <class T, class P, int V> static status weight(op_call *c, const conv &v) {
  const dim3 block = sums_block(v.k / V);
  const int64_t taps = v.r * v.s, pixels = v.n * v.oh * v.ow,
                blocks = ceil_div(v.k / V, block.x) * v.r * ceil_div(v.s, TAPS);
  const int64_t part = ceil_div(pixels, parts_for(blocks, pixels)), parts = ceil_div(pixels, part);
  const cudaStream_t stream = stream_of(c);
  storage *scratch;
  TRY(scratch_new(&scratch, c, parts * taps * v.k * (int64_t)sizeof(P)));
  P *partial = (P *)scratch->data;
  LAUNCH((depthwise_weight<T, P, V>), dim3((unsigned)blocks, (unsigned)parts), block, stream, v, v.dilation.w * v.c,
         data_as<T>(c->in[0]), data_as<T>(c->in[1]), part, partial);
  LAUNCH(depthwise_finish<P>, (unsigned)(ceil_div(v.k, 32) * taps), dim3(32, BLOCK / 32), stream, (const P *)partial,
         parts, taps, v.k, data_as<P>(c->in[2]));
  storage_drop(scratch);
  TRY(LAUNCHED(c));
  return c->in[3] ? add_bias_gradient(c, c->in[3], c->in[1]) : DLV3_OK;
}

status depthwise_conv2d_backward_weight(op_call *c) {
  const conv v = conv_of(c);
  TRY(suits(v));
  if (!numel(c->in[1])) return DLV3_OK;
  BY_ACTIVATION(c->in[0]->dtype,
                BY_PACK(T, in_packs<T>(v.k, data_of(c->in[0]), data_of(c->in[1])), return (weight<T, P, V>(c, v))));
  return DLV3_OK;
}
