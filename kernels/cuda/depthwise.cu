/* depthwise.cu - convolution with one filter a channel: bound by memory, one thread an element, neighbours in channels. */
#include "conv.h"

template <class T, class P> static __global__ void depthwise_forward(conv v, const T *x, const P *w, T *y, epilogue<T, P> end) {
  FOR_ITEMS(i, v.n * v.oh * v.ow * v.k) {
    const int64_t k = i % v.k, pixel = i / v.k, ox = pixel % v.ow, oy = pixel / v.ow % v.oh, n = pixel / v.ow / v.oh;
    P sum = 0;
    for (int64_t r = 0; r < v.r; r++) {
      const int64_t iy = input_at(oy, r, v.stride.h, v.padding.h, v.dilation.h);
      if (iy < 0 || iy >= v.h) continue;
      for (int64_t s = 0; s < v.s; s++) {
        const int64_t ix = input_at(ox, s, v.stride.w, v.padding.w, v.dilation.w);
        if (ix >= 0 && ix < v.w) sum += wide(x[((n * v.h + iy) * v.w + ix) * v.c + k]) * w[(k * v.r + r) * v.s + s];
      }
    }
    y[i] = end(sum, i, k);
  }
}

template <class T, class P> static __global__ void depthwise_backward(conv v, const T *grad_y, const P *w, T *grad_x) {
  FOR_ITEMS(i, v.n * v.h * v.w * v.c) {
    const int64_t k = i % v.c, pixel = i / v.c, ix = pixel % v.w, iy = pixel / v.w % v.h, n = pixel / v.w / v.h;
    P sum = 0;
    for (int64_t r = 0; r < v.r; r++) {
      const int64_t oy = output_at(iy, r, v.stride.h, v.padding.h, v.dilation.h, v.oh);
      for (int64_t s = 0; oy >= 0 && s < v.s; s++) {
        const int64_t ox = output_at(ix, s, v.stride.w, v.padding.w, v.dilation.w, v.ow);
        if (ox >= 0) sum += wide(grad_y[((n * v.oh + oy) * v.ow + ox) * v.k + k]) * w[(k * v.r + r) * v.s + s];
      }
    }
    grad_x[i] = narrow<T>(sum);
  }
}

/* Sums of grad_y x over a segment of the output pixels, for one tap: partial[segment][tap][channel]. A block: 32 channels,
 * rows of threads along the pixels. Only pixels whose tap lies inside are walked. */
template <class T, class P> static __global__ void depthwise_weight(conv v, const T *x, const T *grad_y, P *partial) {
  __shared__ P buf[BLOCK];
  const int64_t k = (int64_t)blockIdx.x * 32 + threadIdx.x, r = blockIdx.z / v.s, s = blockIdx.z % v.s;
  int64_t y0, y1, x0, x1;
  outputs_inside(r, v.stride.h, v.padding.h, v.dilation.h, v.h, v.oh, &y0, &y1);
  outputs_inside(s, v.stride.w, v.padding.w, v.dilation.w, v.w, v.ow, &x0, &x1);
  const int64_t height = y1 - y0, width = x1 - x0;
  P sum = 0;
  for (int64_t p = (int64_t)blockIdx.y * blockDim.y + threadIdx.y; k < v.k && p < v.n * height * width; p += (int64_t)gridDim.y * blockDim.y) {
    const int64_t oy = y0 + p / width % height, ox = x0 + p % width, n = p / width / height;
    const int64_t iy = input_at(oy, r, v.stride.h, v.padding.h, v.dilation.h), ix = input_at(ox, s, v.stride.w, v.padding.w, v.dilation.w);
    sum += wide(grad_y[((n * v.oh + oy) * v.ow + ox) * v.k + k]) * wide(x[((n * v.h + iy) * v.w + ix) * v.c + k]);
  }
  sum = sum_over_y(sum, buf);
  if (threadIdx.y == 0 && k < v.k) partial[((int64_t)blockIdx.y * gridDim.z + blockIdx.z) * v.k + k] = sum;
}

/* grad_w[k][tap] += the segments, in their order. */
template <class P> static __global__ void depthwise_finish(const P *partial, int64_t segments, int64_t taps, int64_t channels, P *grad_w) {
  FOR_ITEMS(i, taps * channels) {
    const int64_t k = i % channels, tap = i / channels;
    P sum = grad_w[k * taps + tap];
    for (int64_t s = 0; s < segments; s++) sum += partial[(s * taps + tap) * channels + k];
    grad_w[k * taps + tap] = sum;
  }
}

status depthwise_conv2d(op_call *c) {
  const conv v = conv_of(c);
  if (!is_depthwise(&v)) return DECLINED("not one filter a channel");
  const int64_t n = numel(c->out[0]);
  const cudaStream_t stream = stream_of(c);
  if (n)
    BY_ACTIVATION(c->in[0]->dtype, LAUNCH((depthwise_forward<T, P>), blocks_for(n), BLOCK, stream, v, data_as<T>(c->in[0]), data_as<P>(c->in[1]), data_as<T>(c->out[0]), (epilogue_of<T, P>(c))));
  return LAUNCHED(c);
}

status depthwise_conv2d_backward_input(op_call *c) {
  const conv v = conv_of(c);
  if (!is_depthwise(&v)) return DECLINED("not one filter a channel");
  const int64_t n = numel(c->out[0]);
  const cudaStream_t stream = stream_of(c);
  if (n) BY_ACTIVATION(c->in[0]->dtype, LAUNCH((depthwise_backward<T, P>), blocks_for(n), BLOCK, stream, v, data_as<T>(c->in[0]), data_as<P>(c->in[1]), data_as<T>(c->out[0])));
  return LAUNCHED(c);
}

template <class T, class P> static status weight(op_call *c, const conv &v) {
  const int64_t taps = v.r * v.s, tiles = ceil_div(v.k, 32), pixels = v.n * v.oh * v.ow, blocks = tiles * taps;
  int64_t segments = least(blocks < 1024 ? 1024 / blocks : 1, ceil_div(pixels, 64));
  const cudaStream_t stream = stream_of(c);
  storage *scratch;
  if (!pixels) return DLV3_OK;
  if (segments < 1) segments = 1;
  TRY(scratch_new(&scratch, c, segments * taps * v.k * (int64_t)sizeof(P)));
  LAUNCH((depthwise_weight<T, P>), dim3((unsigned)tiles, (unsigned)segments, (unsigned)taps), dim3(32, BLOCK / 32), stream, v, data_as<T>(c->in[0]), data_as<T>(c->in[1]), (P *)scratch->data);
  LAUNCH(depthwise_finish<P>, blocks_for(taps * v.k), BLOCK, stream, (const P *)scratch->data, segments, taps, v.k, data_as<P>(c->in[2]));
  storage_drop(scratch);
  TRY(LAUNCHED(c));
  return c->in[3] ? add_bias_gradient(c, c->in[3], c->in[1]) : DLV3_OK;
}

status depthwise_conv2d_backward_weight(op_call *c) {
  const conv v = conv_of(c);
  if (!is_depthwise(&v)) return DECLINED("not one filter a channel");
  BY_ACTIVATION(c->in[0]->dtype, return (weight<T, P>(c, v)));
  return DLV3_OK;
}
