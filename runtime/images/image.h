/* image.h - 8-bit pictures in plain memory, shared by the image files (image.c, jpeg.c, png.c),
 * resizing (resize.c), normalising (normalize.c) and the data workers (loader.c).
 *
 * Private to the runtime. Nothing here touches a tensor, so that worker threads can use all of it;
 * messages go to the calling thread's last error and do not name the file unless a path is given. */
#ifndef DLV3_IMAGE_H
#define DLV3_IMAGE_H

#include "core/core.h"

/* Rows top to bottom, pixels left to right, channels together (1: labels or grey, 3: RGB, 4: RGBA).
 * Grows, never shrinks: a worker reuses its pictures. {0} is an empty one. */
typedef struct {
  uint8_t *data; /* a few bytes behind the last pixel may be read too */
  int64_t capacity, h, w;
  int32_t channels;
} picture;

/* A file's content, or what is to become one. */
typedef struct {
  uint8_t *data;
  int64_t size, capacity;
} byte_buffer;

enum { PICTURE_MAX_PIXELS = 1 << 29 };

static inline int64_t picture_bytes(const picture *p) { return p->h * p->w * p->channels; }
/* Gives p this size; the content is undefined. Errors: more than PICTURE_MAX_PIXELS, out of memory. */
status picture_reserve(picture *p, int64_t h, int64_t w, int32_t channels);
void picture_free(picture *p);
status bytes_reserve(byte_buffer *b, int64_t capacity); /* keeps the content */
void bytes_free(byte_buffer *b);

/* -- Files ------------------------------------------------------------------------------------- */

/* Reads a JPEG or PNG, whichever the content says, as RGB (image) or as labels (mask). info: NULL
 * where it is not wanted. A damaged file is an error, DLV3_ERR_DAMAGED; with `tolerant` what is
 * there of its pixels is decoded, and the damage stands in info. file is scratch space. Messages
 * begin with the path. */
status picture_read(picture *out, const char *path, byte_buffer *file, bool tolerant, dlv3_image_info *info);
status picture_read_mask(picture *out, const char *path, byte_buffer *file);
/* out = in turned as orientation 1..8 says. */
status picture_orient(picture *out, const picture *in, int32_t orientation);

/* The content of a cpu tensor u8 [3,h,w] (mask: u8 [h,w]) of any strides; `what` begins the
 * message. */
status picture_from_tensor(picture *p, const tensor *t, const char *what, bool mask);

bool is_jpeg(const byte_buffer *file);
bool is_png(const byte_buffer *file);
/* The decoders; messages without the file's name. */
status jpeg_decode(picture *out, const byte_buffer *file, bool tolerant, dlv3_image_info *info);
status png_decode(picture *out, const byte_buffer *file, bool tolerant, dlv3_image_info *info);
status png_decode_mask(picture *out, const byte_buffer *file);
status jpeg_encode(byte_buffer *out, const picture *in, int32_t quality);
status png_encode(byte_buffer *out, const picture *in, const uint8_t *palette); /* palette: 256*3 bytes or NULL */
/* The orientation 1..8 in an EXIF block (with or without "Exif\0\0") or in XMP text; 0: it has
 * none. */
int32_t exif_orientation(const uint8_t *exif, int64_t n);
int32_t xmp_orientation(const uint8_t *xmp, int64_t n);
/* That of a PNG file, from its EXIF, or XMP without one; 1 where there is none. */
int32_t png_orientation(const byte_buffer *file);

/* -- Resizing ---------------------------------------------------------------------------------- */

/* The part of the resized picture that is wanted: rows y0..y1-1, columns x0..x1-1. */
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
/* The same into the top left corner of a picture that is there, as large as the window or larger;
 * mirror: right to left. */
status resize_bilinear_into(const picture *out, const picture *in, int64_t h, int64_t w, window part, bool mirror,
                            resize_space *space);
status resize_nearest_into(const picture *out, const picture *in, int64_t h, int64_t w, window part, bool mirror,
                           resize_space *space);
/* Shorter side to `size`, the longer one floor(size * long / short): torchvision's rule for one
 * number. */
void resize_shorter(int64_t *h, int64_t *w, int64_t size);

/* -- Normalising ------------------------------------------------------------------------------- */

typedef struct {
  uint64_t value[3][256]; /* elements of the dtype, in the low bytes */
  float mean[3], std[3];
  bool computed; /* normalize.c computes the same bits faster than they are looked up */
} normalize_table;
/* (v / 255 - mean[c]) / std[c] in f32, as torchvision's ToTensor and Normalize; then rounded to
 * dtype. */
status normalize_table_make(normalize_table *t, const float *mean, const float *std, int32_t dtype);
/* n RGB pixels to n*3 elements of the table's dtype, dtype_bytes(dtype) each. */
void normalize_pixels(void *dst, const uint8_t *src, int64_t n, const normalize_table *t, int32_t width);

#endif
