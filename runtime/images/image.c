/* image.c - images as tensors: what dlv3.h offers of files, resizing and normalizing. */
#include "image.h"

#include "codecs.h"
#include "core/executor.h"
#include "image_file.h"
#include "normalize.h"
#include "resize.h"

/* -- Tensors and pictures ---------------------------------------------------------------------- */

/* u8 [c,h,w] for several channels, with the memory layout of the picture; u8 [h,w] for one. */
static status to_tensor(tensor **out, const picture *p) {
  tensor *t;
  int64_t h = p->h, w = p->w, c = p->channels;
  TRY(check_host_access("image"));
  TRY(tensor_new(&t, DLV3_U8, c == 1 ? 2 : 3, (int64_t[]){h, w, c}, 0));
  memcpy(data_of(t), p->data, (size_t)picture_bytes(p));
  if (c > 1) {
    memcpy(t->size, (int64_t[]){c, h, w}, 3 * sizeof *t->size);
    memcpy(t->stride, (int64_t[]){1, w * c, c}, 3 * sizeof *t->stride);
  }
  *out = t;
  return DLV3_OK;
}

/* Numbers of channels, one bit each. */
enum { LABELS = 1 << 1, RGB = 1 << 3, RGBA = 1 << 4 };

static const char *channels_text(int32_t channels) {
  switch (channels) {
  case LABELS: return "[h,w]";
  case RGB: return "[3,h,w]";
  default: return "[3,h,w], [4,h,w] or [h,w]";
  }
}

/* The reverse, for any strides. channels: the allowed numbers of channels, one bit each. */
static status from_tensor(picture *p, const tensor *t, const char *what, int32_t channels) {
  char text[TEXT];
  TRY(check_host_access(what));
  if (!t->st->data)
    return fail(DLV3_ERR_RELEASED, "%s: the tensor was released, by release() or when its scope ended", what);
  if (t->st->device)
    return fail(DLV3_ERR_DEVICE, "%s: the tensor must be on the cpu\n  %s", what, tensor_text(text, "", t));
  int64_t c = t->ndim == 3 ? t->size[0] : 1;
  bool fits = t->dtype == DLV3_U8 && (t->ndim == 2 || (t->ndim == 3 && c >= 3 && c <= 4)) && (channels >> c & 1);
  if (!fits)
    return fail(DLV3_ERR_SHAPE, "%s: expected u8 %s\n  %s", what, channels_text(channels), tensor_text(text, "", t));
  const int64_t *size = t->size + t->ndim - 2, *stride = t->stride + t->ndim - 2;
  TRY(picture_reserve(p, size[0], size[1], (int32_t)c));
  const uint8_t *src = data_of(t);
  int64_t channel_stride = t->ndim == 3 ? t->stride[0] : 1;
  bool packed = stride[1] == c && (c == 1 || channel_stride == 1);
  for (int64_t y = 0; y < p->h; y++) {
    const uint8_t *row = src + y * stride[0];
    uint8_t *to = p->data + y * p->w * c;
    if (packed)
      memcpy(to, row, (size_t)(p->w * c));
    else
      for (int64_t x = 0; x < p->w; x++)
        for (int64_t k = 0; k < c; k++) *to++ = row[x * stride[1] + k * channel_stride];
  }
  return DLV3_OK;
}

status picture_from_tensor(picture *p, const tensor *t, const char *what, bool mask) {
  return from_tensor(p, t, what, mask ? LABELS : RGB);
}

DLV3_API dlv3_status dlv3_image_read(dlv3_tensor **image, dlv3_image_info *info, const char *path, int32_t orient,
                                     int32_t tolerant) {
  picture read = {0}, turned = {0}, *result = &read;
  byte_buffer file = {0};
  status st = picture_read(&read, path, &file, tolerant, info);
  bytes_free(&file);
  if (st == DLV3_OK && orient && info->orientation > 1) {
    st = picture_orient(&turned, &read, info->orientation);
    result = &turned;
  }
  if (st == DLV3_OK) st = to_tensor(image, result);
  picture_free(&read);
  picture_free(&turned);
  return st;
}

DLV3_API dlv3_status dlv3_mask_read(dlv3_tensor **mask, const char *path) {
  picture p = {0};
  byte_buffer file = {0};
  status st = picture_read_mask(&p, path, &file);
  if (st == DLV3_OK) st = to_tensor(mask, &p);
  bytes_free(&file);
  picture_free(&p);
  return st;
}

/* -- Resizing and normalizing ------------------------------------------------------------------ */

/* The threads compute bands of rows of the resized picture in parallel. */
enum { BAND = 64 };
typedef struct {
  const picture *out, *in;
  bool mask;
  _Atomic bool failed;
} resize_job;

static status resize_rows_of(const resize_job *job, int64_t y0, int64_t y1) {
  resize_space space = {0};
  picture rows = *job->out;
  rows.data += y0 * rows.w * rows.channels;
  rows.h = y1 - y0;
  status st = (job->mask ? resize_nearest_into : resize_bilinear_into)(&rows, job->in, job->out->h, job->out->w,
                                                                       (window){y0, y1, 0, job->out->w}, false, &space);
  resize_space_free(&space);
  return st;
}

static void resize_bands(void *context, int64_t begin, int64_t end) {
  resize_job *job = context;
  for (int64_t i = begin; i < end; i++) {
    const int64_t y0 = i * BAND, y1 = y0 + BAND < job->out->h ? y0 + BAND : job->out->h;
    if (resize_rows_of(job, y0, y1) != DLV3_OK) job->failed = true;
  }
}

static status resize_tensor(tensor **out, const tensor *t, int64_t h, int64_t w, const char *what, bool mask) {
  picture in = {0}, resized = {0};
  status st = DLV3_OK;
  if (h < 1 || w < 1)
    return fail(DLV3_ERR_ARG, "%s: expected a size of at least 1x1, got %lldx%lld (height, width)", what, (long long)h,
                (long long)w);
  TRY_GOTO(st, from_tensor(&in, t, what, mask ? LABELS : RGB), end);
  TRY_GOTO(st, picture_reserve(&resized, h, w, in.channels), end);
  resize_job job = {&resized, &in, mask, false};
  parallel_for((h + BAND - 1) / BAND, 1, resize_bands, &job);
  if (job.failed) st = resize_rows_of(&job, 0, h); /* the message went to the thread that failed: repeat it here */
  if (st == DLV3_OK) st = to_tensor(out, &resized);
end:
  picture_free(&in);
  picture_free(&resized);
  return st;
}

DLV3_API dlv3_status dlv3_image_resize(dlv3_tensor **out, const dlv3_tensor *image, int64_t h, int64_t w) {
  return resize_tensor(out, image, h, w, "resize", false);
}

DLV3_API dlv3_status dlv3_mask_resize(dlv3_tensor **out, const dlv3_tensor *mask, int64_t h, int64_t w) {
  return resize_tensor(out, mask, h, w, "resize_mask", true);
}

typedef struct {
  char *to;
  const uint8_t *from;
  const normalize_table *table;
  int32_t width;
} normalize_job;

/* Pixels [begin, end). */
static void normalize_range(void *context, int64_t begin, int64_t end) {
  const normalize_job *job = context;
  normalize_pixels(job->to + begin * 3 * job->width, job->from + begin * 3, end - begin, job->table, job->width);
}

DLV3_API dlv3_status dlv3_image_normalize(dlv3_tensor **out, const dlv3_tensor *image, const float *mean,
                                          const float *std, int32_t dtype) {
  picture in = {0};
  normalize_table table;
  tensor *t;
  TRY(normalize_table_make(&table, mean, std, dtype));
  status st = from_tensor(&in, image, "normalize", RGB);
  if (st == DLV3_OK) st = tensor_new(&t, dtype, 4, (int64_t[]){1, 3, in.h, in.w}, 0);
  if (st == DLV3_OK) {
    parallel_for(in.h * in.w, 32768, normalize_range,
                 &(normalize_job){data_of(t), in.data, &table, dtype_bytes(dtype)});
    *out = t;
  }
  picture_free(&in);
  return st;
}

DLV3_API dlv3_status dlv3_mask_count(int64_t *counts, int64_t *first, const dlv3_tensor *mask) {
  picture p = {0};
  TRY(from_tensor(&p, mask, "mask", LABELS));
  for (int32_t v = 0; v < 256; v++) {
    counts[v] = 0;
    first[v] = -1;
  }
  int64_t n = p.h * p.w;
  for (int64_t i = 0; i < n; i++)
    if (!counts[p.data[i]]++) first[p.data[i]] = i;
  picture_free(&p);
  return DLV3_OK;
}

/* -- Writing ----------------------------------------------------------------------------------- */

DLV3_API dlv3_status dlv3_png_write(const char *path, const dlv3_tensor *image, const uint8_t *palette) {
  picture p = {0};
  status st = from_tensor(&p, image, "png", palette ? LABELS : LABELS | RGB | RGBA);
  if (st == DLV3_OK) st = picture_write_png(path, &p, palette);
  picture_free(&p);
  return st;
}

DLV3_API dlv3_status dlv3_jpeg_write(const char *path, const dlv3_tensor *image, int32_t quality) {
  picture p = {0};
  if (quality < 1 || quality > 100)
    return fail(DLV3_ERR_ARG, "jpeg: expected a quality of 1 to 100, got %d", (int)quality);
  status st = from_tensor(&p, image, "jpeg", RGB);
  if (st == DLV3_OK) st = picture_write_jpeg(path, &p, quality);
  picture_free(&p);
  return st;
}
