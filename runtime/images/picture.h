/* picture.h - 8-bit pictures and byte buffers in plain memory: the base of this room.
 *
 * Private to the runtime. Nothing in this room but image.c and the host thread's part of loader.c
 * touches a tensor, so that worker threads can use it. Messages go to the last error of the calling
 * thread. */
#ifndef DLV3_PICTURE_H
#define DLV3_PICTURE_H

#include "core/core.h"

/* Rows top to bottom, pixels left to right, channels together (1: labels or grey, 3: RGB, 4: RGBA).
 * Grows, never shrinks: a worker reuses its pictures. {0} is an empty one. */
typedef struct {
  uint8_t *data; /* up to 16 bytes past the last pixel may be read */
  int64_t capacity, h, w;
  int32_t channels;
} picture;

/* The content of a file that was read or is to be written. {0} is an empty one. */
typedef struct {
  uint8_t *data;
  int64_t size, capacity;
} byte_buffer;

enum { PICTURE_MAX_PIXELS = 1 << 29 };

static inline int64_t picture_bytes(const picture *p) { return p->h * p->w * p->channels; }
/* Gives p this size; the content is undefined. Errors: more than PICTURE_MAX_PIXELS, out of
 * memory. */
status picture_reserve(picture *p, int64_t h, int64_t w, int32_t channels);
void picture_free(picture *p);
status bytes_reserve(byte_buffer *b, int64_t capacity); /* keeps the content */
void bytes_free(byte_buffer *b);

#endif
