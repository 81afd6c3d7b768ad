/* picture.c - memory of pictures and byte buffers, and the limit on the number of pixels. */
#include "picture.h"

#include <stdlib.h>

static status grow(uint8_t **data, int64_t *capacity, int64_t bytes, bool keep) {
  if (bytes <= *capacity) return DLV3_OK;
  if (!keep) {
    free(*data);
    *data = NULL;
    *capacity = 0;
  }
  uint8_t *p = realloc(*data, (size_t)bytes);
  if (!p) return fail(DLV3_ERR_OOM, "out of memory: %lld bytes for an image", (long long)bytes);
  *data = p;
  *capacity = bytes;
  return DLV3_OK;
}

status picture_reserve(picture *p, int64_t h, int64_t w, int32_t channels) {
  if (h < 1 || w < 1)
    return fail(DLV3_ERR_FORMAT, "an image of %lldx%lld pixels is empty; expected at least 1x1", (long long)w,
                (long long)h);
  if (h > PICTURE_MAX_PIXELS / w)
    return fail(DLV3_ERR_FORMAT,
                "an image of %lldx%lld pixels is too large (at most %d pixels are read); "
                "make it smaller",
                (long long)w, (long long)h, PICTURE_MAX_PIXELS);
  enum { BEHIND = 16 }; /* vector loads may read up to 16 bytes past the last pixel */
  TRY(grow(&p->data, &p->capacity, h * w * channels + BEHIND, false));
  p->h = h;
  p->w = w;
  p->channels = channels;
  return DLV3_OK;
}

void picture_free(picture *p) {
  free(p->data);
  *p = (picture){0};
}

status bytes_reserve(byte_buffer *b, int64_t capacity) {
  if (capacity <= b->capacity) return DLV3_OK;
  return grow(&b->data, &b->capacity, capacity > 2 * b->capacity ? capacity : 2 * b->capacity, true);
}

void bytes_free(byte_buffer *b) {
  free(b->data);
  *b = (byte_buffer){0};
}
