/* direct.h - a convolution, forward or backward-data, as a sum of shifted maps times matrices: what direct.c and
 * winograd.c share. */
#ifndef DLV3_DIRECT_H
#define DLV3_DIRECT_H

#include "conv.h"
#include "tiles.h"

enum { MAX_TAPS = 225, GROUP = 8 /* blocks of columns a task has at most */, MOST_COLUMNS = GROUP * NR(float) };

/* Input pixel = output pixel * step + (dh, dw); index: which matrix; from, to: the live output pixels of a row. */
typedef struct { int64_t dh, dw, index, from, to; } tap;

/* out[o] = act(bias + residual + sum over taps of in[o * step + d] matrix[tap]). Strides of out are in elements: for
 * backward-data of a strided convolution the output is one of stride x stride interleaved grids. */
typedef struct {
  const void *in, *panels, *bias, *residual;
  void *out;
  int64_t n, in_h, in_w, inner, columns;
  int64_t out_h, out_w, out_image, out_row, out_column, out_first;
  int64_t step_h, step_w, activation;
  const conv *window;                     /* not NULL: rows of the product are windows of this convolution */
  int64_t rows, pixels, group;            /* of a task: output rows, pixels of a row, blocks of columns    */
  int64_t depth, width;                   /* units of the inner axis at once; most input columns of a task */
  bool covered;                           /* one tap reaches every pixel: sums need no zeros first         */
  int32_t n_taps;
  tap taps[MAX_TAPS];
} shift_conv;

static inline int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

/* Call c, conv2d or (of stride 1) conv2d_backward_input, with its weights in panels of f32. */
status shift_of_call(op_call *c, shift_conv *s);

#endif
