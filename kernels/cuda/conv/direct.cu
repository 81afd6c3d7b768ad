/* direct.cu - convolution and matrix product as tiles of products on the plain cores: takes every
 * shape and dtype.
 *
 * A block computes 64 rows by 64 columns of a result, 4 x 4 a thread, from slices of 16 that it
 * reads into shared memory. What rows, columns and the summed axis are is said by a job: forward
 * and backward by input have pixels and channels, and go tap by tap, leaving out the taps that lie
 * on padding for all 64 pixels; backward by weight has output and input channels and sums over just
 * those pixels whose tap lies inside. */
#include "conv.h"

enum { TILE = 64, SLICE = 16, SIDE = 4, THREADS = TILE / SIDE, LOADS = SLICE * TILE / (THREADS * THREADS) };

/* A job has, for the block it runs in:
 *   start()              what follows from blockIdx
 *   taps, depth(), m, n  how many taps; the summed elements of one; rows and columns of the result
 *   row(tap, i)          where row i of the left operand starts, or -1 where it is all zero
 *   column(tap, j)       the same of the right operand's column j
 *   left(at, l), right(at, l)   element l of what starts there
 *   store(i, j, sum)
 *   left_along, right_along     whether elements lie side by side along l (else along i, j):
 *                               neighbours read neighbours */
/* Where a thread's q-th element belongs in a slice. */
typedef struct {
  int of_slice, of_row;
} place;
template <bool along> DEVICE place slot(int t, int q) {
  const int e = t + q * THREADS * THREADS;
  return along ? place{e % SLICE, e / SLICE} : place{e / TILE, e % TILE};
}

template <class P, class Job> static __global__ void tile_product(Job job) {
  __shared__ P a[SLICE][TILE + 1], b[SLICE][TILE + 1];
  const int t = threadIdx.x, tx = t % THREADS, ty = t / THREADS;
  job.start();
  const int64_t i0 = (int64_t)blockIdx.x * TILE, j0 = (int64_t)blockIdx.y * TILE, depth = job.depth();
  P sum[SIDE][SIDE];
  UNROLL
  for (int i = 0; i < SIDE; i++)
    for (int j = 0; j < SIDE; j++) sum[i][j] = 0;
  for (int64_t tap = 0; tap < job.taps; tap++) {
    bool any = false;
    if (t < TILE && i0 + t < job.m) any = job.row(tap, i0 + t) >= 0;
    if (!__syncthreads_or(any)) continue;
    /* a thread fills the same rows and columns of every slice: LOADS elements of each */
    int64_t at[LOADS], bt[LOADS];
    UNROLL
    for (int q = 0; q < LOADS; q++) {
      const int64_t i = i0 + slot<Job::left_along>(t, q).of_row, j = j0 + slot<Job::right_along>(t, q).of_row;
      at[q] = i < job.m ? job.row(tap, i) : -1, bt[q] = j < job.n ? job.column(tap, j) : -1;
    }
    for (int64_t l0 = 0; l0 < depth; l0 += SLICE) {
      UNROLL
      for (int q = 0; q < LOADS; q++) {
        const place u = slot<Job::left_along>(t, q), v = slot<Job::right_along>(t, q);
        a[u.of_slice][u.of_row] = at[q] >= 0 && l0 + u.of_slice < depth ? job.left(at[q], l0 + u.of_slice) : (P)0;
        b[v.of_slice][v.of_row] = bt[q] >= 0 && l0 + v.of_slice < depth ? job.right(bt[q], l0 + v.of_slice) : (P)0;
      }
      __syncthreads();
      UNROLL
      for (int l = 0; l < SLICE; l++) {
        P u[SIDE], v[SIDE];
        UNROLL
        for (int i = 0; i < SIDE; i++) u[i] = a[l][ty * SIDE + i], v[i] = b[l][tx + i * THREADS];
        UNROLL
        for (int i = 0; i < SIDE; i++)
          for (int j = 0; j < SIDE; j++) sum[i][j] += u[i] * v[j];
      }
      __syncthreads();
    }
  }
  for (int i = 0; i < SIDE; i++)
    for (int j = 0; j < SIDE; j++) {
      const int64_t row = i0 + ty * SIDE + i, column = j0 + tx + j * THREADS;
      if (row < job.m && column < job.n) job.store(row, column, sum[i][j]);
    }
}

template <class P, class Job> static status run_tiles(const op_call *c, const Job &job, int64_t layers) {
  const dim3 grid((unsigned)ceil_div(job.m, TILE), (unsigned)ceil_div(job.n, TILE), (unsigned)layers);
  const cudaStream_t stream = stream_of(c);
  if (ceil_div(job.n, TILE) > 65535 || layers > 65535) return DECLINED("more columns or layers than a grid has");
  if (job.m && job.n && layers) LAUNCH((tile_product<P, Job>), grid, THREADS * THREADS, stream, job);
  return LAUNCHED(c);
}

/* -- Forward: rows are output pixels, columns output channels ---------------------------------- */

template <class T, class P> struct forward_job {
  conv v;
  const T *x, *scale; /* scale: [n][c] factors of x, or NULL */
  const P *w;
  T *y;
  epilogue<T, P> end;
  int64_t m, n, taps, group;
  static constexpr bool left_along = true, right_along = true;
  DEVICE void start() { group = blockIdx.z; }
  DEVICE int64_t depth() const { return v.c / v.groups; }
  DEVICE int64_t row(int64_t tap, int64_t i) const {
    const int64_t iy = input_at(i / v.ow % v.oh, tap / v.s, v.stride.h, v.padding.h, v.dilation.h),
                  ix = input_at(i % v.ow, tap % v.s, v.stride.w, v.padding.w, v.dilation.w);
    if (iy < 0 || iy >= v.h || ix < 0 || ix >= v.w) return -1;
    return ((i / v.ow / v.oh * v.h + iy) * v.w + ix) * v.c + group * depth();
  }
  DEVICE int64_t column(int64_t tap, int64_t j) const { return ((group * n + j) * taps + tap) * depth(); }
  DEVICE P left(int64_t at, int64_t l) const {
    if (!scale) return wide(x[at + l]);
    return (P)wide(x[at + l]) * (P)wide(scale[at / (v.h * v.w * v.c) * v.c + at % v.c + l]);
  }
  DEVICE P right(int64_t at, int64_t l) const { return w[at + l]; }
  DEVICE void store(int64_t i, int64_t j, P sum) const {
    const int64_t k = group * n + j, at = i * v.k + k;
    y[at] = end(sum, at, k);
  }
};

template <class T, class P> static status forward(op_call *c) {
  const conv v = conv_of(c);
  const forward_job<T, P> job = {v,
                                 data_as<T>(c->in[0]),
                                 data_as<T>(c->in[4]),
                                 data_as<P>(c->in[1]),
                                 data_as<T>(c->out[0]),
                                 epilogue_of<T, P>(c),
                                 v.n * v.oh * v.ow,
                                 v.k / v.groups,
                                 v.r * v.s,
                                 0};
  return run_tiles<P>(c, job, v.groups);
}

status direct_conv2d(op_call *c) {
  BY_ACTIVATION(c->in[0]->dtype, return (forward<T, P>(c)));
  return DLV3_OK;
}

/* -- Backward by input: rows are input pixels, columns input channels -------------------------- */

template <class T, class P> struct backward_job {
  conv v;
  const T *grad_y;
  const P *w;
  T *grad_x;
  epilogue<T, P> end;
  int64_t m, n, taps, group;
  static constexpr bool left_along = true, right_along = false;
  DEVICE void start() { group = blockIdx.z; }
  DEVICE int64_t depth() const { return v.k / v.groups; }
  DEVICE int64_t row(int64_t tap, int64_t i) const {
    const int64_t oy = output_at(i / v.w % v.h, tap / v.s, v.stride.h, v.padding.h, v.dilation.h, v.oh),
                  ox = output_at(i % v.w, tap % v.s, v.stride.w, v.padding.w, v.dilation.w, v.ow);
    if (oy < 0 || ox < 0) return -1;
    return ((i / v.w / v.h * v.oh + oy) * v.ow + ox) * v.k + group * depth();
  }
  DEVICE int64_t column(int64_t tap, int64_t j) const { return (group * depth() * taps + tap) * n + j; }
  DEVICE P left(int64_t at, int64_t l) const { return wide(grad_y[at + l]); }
  DEVICE P right(int64_t at, int64_t l) const { return w[at + l * taps * n]; }
  DEVICE void store(int64_t i, int64_t j, P sum) const {
    const int64_t k = group * n + j, at = i * v.c + k;
    grad_x[at] = end(sum, at, k);
  }
};

template <class T, class P> static status backward(op_call *c) {
  const conv v = conv_of(c);
  const backward_job<T, P> job = {v,
                                  data_as<T>(c->in[0]),
                                  data_as<P>(c->in[1]),
                                  data_as<T>(grad_x_of(c)),
                                  epilogue_of<T, P>(c),
                                  v.n * v.h * v.w,
                                  v.c / v.groups,
                                  v.r * v.s,
                                  0};
  return run_tiles<P>(c, job, v.groups);
}

status direct_conv2d_backward_input(op_call *c) {
  BY_ACTIVATION(c->in[0]->dtype, return (backward<T, P>(c)));
  return DLV3_OK;
}

/* -- Backward by weight: rows are output channels, columns input channels ---------------------- */

/* A layer is a split of the pixels, a tap and a group; the splits' sums go to partial[split], in
 * w's layout. */
template <class T, class P> struct weight_job {
  conv v;
  const T *x, *grad_y;
  P *partial;
  int64_t m, n, taps, splits, all_taps, tap, group, from, to, y0, x0, height, width;
  static constexpr bool left_along = false, right_along = false;
  DEVICE void start() {
    int64_t y1, x1, layer = blockIdx.z;
    tap = layer % all_taps, layer /= all_taps, group = layer % v.groups;
    const int64_t split = layer / v.groups;
    outputs_inside(tap / v.s, v.stride.h, v.padding.h, v.dilation.h, v.h, v.oh, &y0, &y1);
    outputs_inside(tap % v.s, v.stride.w, v.padding.w, v.dilation.w, v.w, v.ow, &x0, &x1);
    height = y1 - y0, width = x1 - x0;
    const int64_t pixels = v.n * height * width, part = ceil_div(ceil_div(pixels, splits), SLICE) * SLICE;
    from = split * part < pixels ? split * part : pixels, to = from + part < pixels ? from + part : pixels;
    partial += split * v.k * all_taps * n;
  }
  DEVICE int64_t depth() const { return to - from; }
  DEVICE int64_t row(int64_t, int64_t i) const { return group * m + i; }
  DEVICE int64_t column(int64_t, int64_t j) const { return group * n + j; }
  DEVICE P left(int64_t at, int64_t l) const {
    const int64_t p = from + l, oy = y0 + p / width % height, ox = x0 + p % width;
    return wide(grad_y[((p / width / height * v.oh + oy) * v.ow + ox) * v.k + at]);
  }
  DEVICE P right(int64_t at, int64_t l) const {
    const int64_t p = from + l,
                  iy = input_at(y0 + p / width % height, tap / v.s, v.stride.h, v.padding.h, v.dilation.h);
    const int64_t ix = input_at(x0 + p % width, tap % v.s, v.stride.w, v.padding.w, v.dilation.w);
    return wide(x[((p / width / height * v.h + iy) * v.w + ix) * v.c + at]);
  }
  DEVICE void store(int64_t i, int64_t j, P sum) const { partial[((group * m + i) * all_taps + tap) * n + j] = sum; }
};

/* grad_w += the splits, in their order. */
template <class P> static __global__ void add_splits(const P *partial, int64_t splits, int64_t n, P *grad_w) {
  FOR_ITEMS(i, n) {
    P sum = grad_w[i];
    for (int64_t s = 0; s < splits; s++) sum += partial[s * n + i];
    grad_w[i] = sum;
  }
}

template <class T, class P> static status backward_weight(op_call *c) {
  const conv v = conv_of(c);
  const int64_t taps = v.r * v.s, m = v.k / v.groups, n = v.c / v.groups, weights = v.k * taps * n;
  const int64_t blocks = ceil_div(m, TILE) * ceil_div(n, TILE) * taps * v.groups, pixels = v.n * v.oh * v.ow;
  int64_t splits = least(blocks < 512 ? 512 / blocks : 1, ceil_div(pixels, 16 * SLICE));
  const cudaStream_t stream = stream_of(c);
  storage *scratch;
  if (!pixels) return DLV3_OK;
  if (taps * v.groups * splits > 65535) splits = 65535 / (taps * v.groups);
  if (splits < 1) return DECLINED("too many taps and groups for one grid");
  TRY(scratch_new(&scratch, c, splits * weights * (int64_t)sizeof(P)));
  const weight_job<T, P> job = {
      v, data_as<T>(c->in[0]), data_as<T>(c->in[1]), (P *)scratch->data, m, n, 1, splits, taps, 0, 0, 0, 0, 0, 0, 0, 0};
  status st = run_tiles<P>(c, job, taps * v.groups * splits);
  LAUNCH(add_splits<P>, blocks_for(weights), BLOCK, stream, (const P *)scratch->data, splits, weights,
         data_as<P>(c->in[2]));
  storage_drop(scratch);
  if (st == DLV3_OK) st = LAUNCHED(c);
  return st == DLV3_OK && c->in[3] ? add_bias_gradient(c, c->in[3], c->in[1]) : st;
}

status direct_conv2d_backward_weight(op_call *c) {
  BY_ACTIVATION(c->in[0]->dtype, return (backward_weight<T, P>(c)));
  return DLV3_OK;
}

/* -- Matrix product: y[p,i,j] = sum over l of a[p,i,l] b[p,l,j] -------------------------------- */

template <class T, class P> struct product_job {
  const T *a, *b;
  T *y;
  int64_t m, n, k, a_row, a_step, a_batch, b_column, b_step, b_batch, taps;
  static constexpr bool left_along = true, right_along = false;
  DEVICE void start() { a += blockIdx.z * a_batch, b += blockIdx.z * b_batch, y += blockIdx.z * m * n; }
  DEVICE int64_t depth() const { return k; }
  DEVICE int64_t row(int64_t, int64_t i) const { return i * a_row; }
  DEVICE int64_t column(int64_t, int64_t j) const { return j * b_column; }
  DEVICE P left(int64_t at, int64_t l) const { return wide(a[at + l * a_step]); }
  DEVICE P right(int64_t at, int64_t l) const { return wide(b[at + l * b_step]); }
  DEVICE void store(int64_t i, int64_t j, P sum) const { y[i * n + j] = narrow<T>(sum); }
};

template <class T, class P> static status product(op_call *c) {
  const matmul_attr *at = (const matmul_attr *)c->attr;
  const tensor *a = c->in[0], *b = c->in[1], *y = c->out[0];
  const int64_t *sa = a->size + a->ndim - 2, *sb = b->size + b->ndim - 2;
  product_job<T, P> j;
  j.a = data_as<T>(a), j.b = data_as<T>(b), j.y = data_as<T>(y), j.taps = 1;
  j.m = sa[at->trans_a ? 1 : 0], j.k = sa[at->trans_a ? 0 : 1], j.n = sb[at->trans_b ? 0 : 1];
  j.a_row = at->trans_a ? 1 : sa[1], j.a_step = at->trans_a ? sa[1] : 1, j.a_batch = a->ndim == 3 ? sa[0] * sa[1] : 0;
  j.b_column = at->trans_b ? sb[1] : 1, j.b_step = at->trans_b ? 1 : sb[1],
  j.b_batch = b->ndim == 3 ? sb[0] * sb[1] : 0;
  const int64_t batch = y->ndim == 3 ? y->size[0] : 1;
  if (batch > 65535) return DECLINED("more than 65535 matrices");
  return run_tiles<P>(c, j, batch);
}

status direct_matmul(op_call *c) {
  BY_ACTIVATION(c->in[0]->dtype, return (product<T, P>(c)));
  return DLV3_OK;
}
