/* resize.h - resizing pictures as Pillow does (resize.c). */
#ifndef DLV3_RESIZE_H
#define DLV3_RESIZE_H

#include "picture.h"

/* The part of the resized picture to compute: rows y0..y1-1, columns x0..x1-1. */
typedef struct {
  int64_t y0, y1, x0, x1;
} window;

typedef struct { /* scratch space of resizing */
  picture rows;
  byte_buffer x, y, pairs;
} resize_space;
void resize_space_free(resize_space *s);

/* The window of `in` resized to [h, w], exactly as Pillow's BILINEAR (antialiased when shrinking)
 * and NEAREST. */
status resize_bilinear(picture *out, const picture *in, int64_t h, int64_t w, window part, resize_space *space);
status resize_nearest(picture *out, const picture *in, int64_t h, int64_t w, window part, resize_space *space);
/* The same into the top left corner of an allocated picture that is at least as large as the
 * window; mirror: flipped horizontally. */
status resize_bilinear_into(const picture *out, const picture *in, int64_t h, int64_t w, window part, bool mirror,
                            resize_space *space);
status resize_nearest_into(const picture *out, const picture *in, int64_t h, int64_t w, window part, bool mirror,
                           resize_space *space);
/* Sets the shorter side to `size`, the longer one to floor(size * long / short), as torchvision's
 * Resize(size). */
void resize_shorter(int64_t *h, int64_t *w, int64_t size);

#endif
