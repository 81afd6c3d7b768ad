/* direct.h - a convolution, forward or backward-data, as a sum of shifted maps times matrices: what
 * direct.c and winograd.c share. */
#ifndef DLV3_DIRECT_H
#define DLV3_DIRECT_H

#include "conv.h"
#include "tiles.h"

enum { MAX_TAPS = 225, GROUP = 8 /* blocks of columns a task has at most */, MOST_COLUMNS = GROUP * NR(float) };

/* Input pixel = output pixel * step + (dh, dw); index: which matrix; from, to: the live output
 * pixels of a row. */
typedef struct {
  int64_t dh, dw, index, from, to;
} tap;

/* out[o] = act(bias + residual + sum over taps of in[o * step + d] matrix[tap]). Strides of out are
 * in elements: for backward-data of a strided convolution the output is one of stride x stride
 * interleaved grids. residual may be out itself, which is then added to. */
typedef struct {
  const void *in, *panels, *bias, *residual;
  void *out;
  int64_t n, in_h, in_w, inner, columns, matrices;
  int64_t out_h, out_w, out_image, out_row, out_column, out_first;
  int64_t step_h, step_w, activation;
  const conv *window;          /* not NULL: rows of the product are windows of this convolution */
  int64_t of_image;            /* units of the panels of an image, or 0 where images share them    */
  int64_t rows, pixels, group; /* of a task: output rows, pixels of a row, blocks of columns    */
  int64_t depth;               /* units of the inner axis at once                               */
  bool covered;                /* one tap reaches every pixel: sums need no zeros first         */
  int32_t n_taps;
  tap taps[MAX_TAPS];
} shift_conv;

static inline int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

/* Output pixels [from, to) of a row of `out` whose input pixel o * step + d lies within [0, in). */
static inline void live_range(int64_t out, int64_t in, int64_t step, int64_t d, int64_t *from, int64_t *to) {
  int64_t last = in - 1 - d; /* o * step <= last */
  *from = d >= 0 ? 0 : (-d + step - 1) / step;
  *to = last < 0 ? 0 : last / step + 1;
  if (*to > out) *to = out;
}

/* The convolution from the map x to the map y, then calls of conv2d and conv2d_backward_input, all
 * but for the panels; a backward has one sum for each of the residues of its output pixels: stride
 * x stride, or the map where that is smaller. At most MAX_TAPS taps. */
void shift_of_conv(const conv *g, const void *x, void *y, shift_conv *s);
void shift_of_forward(const op_call *c, const conv *g, shift_conv *s);
int64_t residues_of(const conv *g);
void shift_of_backward(const op_call *c, const conv *g, int64_t residue, shift_conv *s);

/* The weights in panels of f32. */
status shift_panels(const op_call *c, const conv *g, shift_conv *s);

#endif
