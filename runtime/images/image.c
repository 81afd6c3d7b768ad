/* image.c - image files to tensors and back: what dlv3.h says of images, and what jpeg.c, png.c and
 * loader.c share.
 *
 * A file is read whole and recognised by its content. Pictures are plain memory (image.h); only the
 * functions of dlv3.h at the end know tensors. */
#include "image.h"
#include "core/executor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* -- Memory ------------------------------------------------------------------------------------ */

static status grow(uint8_t **data, int64_t *capacity, int64_t bytes, bool keep) {
  if (bytes <= *capacity) return DLV3_OK;
  if (!keep) {
    free(*data);
    *data = NULL, *capacity = 0;
  }
  uint8_t *p = realloc(*data, (size_t)bytes);
  if (!p) return fail(DLV3_ERR_OOM, "out of memory: %lld bytes for an image", (long long)bytes);
  *data = p, *capacity = bytes;
  return DLV3_OK;
}

status picture_reserve(picture *p, int64_t h, int64_t w, int32_t channels) {
  if (h < 1 || w < 1) return fail(DLV3_ERR_FORMAT, "an image of %lldx%lld pixels is empty", (long long)w, (long long)h);
  if (h > PICTURE_MAX_PIXELS / w)
    return fail(DLV3_ERR_FORMAT, "an image of %lldx%lld pixels is too large (at most %d pixels are read); "
                "make it smaller",
                (long long)w, (long long)h, PICTURE_MAX_PIXELS);
  enum { BEHIND = 16 }; /* vectors may read so many bytes too far */
  TRY(grow(&p->data, &p->capacity, h * w * channels + BEHIND, false));
  p->h = h, p->w = w, p->channels = channels;
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

/* -- Files ------------------------------------------------------------------------------------- */

enum { FILE_MAX = 1 << 30 };

static status read_all(byte_buffer *b, int fd, int64_t size) {
  TRY(bytes_reserve(b, size));
  for (b->size = 0; b->size < size;) {
    ssize_t n = read(fd, b->data + b->size, (size_t)(size - b->size));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail(DLV3_ERR_IO, "can not be read: %m");
    if (n == 0) break;
    b->size += n;
  }
  return DLV3_OK;
}

static status file_bytes(byte_buffer *b, const char *path) {
  struct stat info;
  b->size = 0;
  if (stat(path, &info)) return fail(DLV3_ERR_IO, "can not be read: %m");
  if (S_ISDIR(info.st_mode)) return fail(DLV3_ERR_IO, "is a folder, an image file was expected");
  if (!S_ISREG(info.st_mode)) return fail(DLV3_ERR_IO, "is not a regular file");
  if (info.st_size == 0) return fail(DLV3_ERR_DAMAGED, "the file is empty (0 bytes)");
  if (info.st_size > FILE_MAX)
    return fail(DLV3_ERR_FORMAT, "the file has %lld bytes, too many for an image", (long long)info.st_size);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return fail(DLV3_ERR_IO, "can not be read: %m");
  status st = read_all(b, fd, info.st_size);
  close(fd);
  return st;
}

/* What a file that is neither JPEG nor PNG seems to be, or NULL. */
static const char *other_kind(const byte_buffer *b) {
  static const struct {
    int32_t at;
    const char *magic, *name;
  } kinds[] = {
      {0, "GIF8", "a GIF"},
      {0, "BM", "a BMP"},
      {0, "II*", "a TIFF"},
      {0, "MM", "a TIFF"},
      {8, "WEBP", "a WebP"},
      {4, "ftyp", "a HEIC or AVIF"},
      {0, "\x89PNG", "a PNG with a damaged signature"},
      {0, "version https://git-lfs", "a Git LFS pointer, not the file itself"},
      {0, "<", "a web page or XML"},
      {0, "\x93NUMPY", "a NumPy array"},
      {0, "PK\3\4", "a zip archive"},
  };
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    int64_t n = (int64_t)strlen(kinds[i].magic);
    if (b->size >= kinds[i].at + n && !memcmp(b->data + kinds[i].at, kinds[i].magic, (size_t)n)) return kinds[i].name;
  }
  return NULL;
}

static status fail_kind(const byte_buffer *b) {
  const char *name = other_kind(b);
  char first[32] = "";
  for (int64_t i = 0, used = 0; i < 4 && i < b->size; i++)
    used += snprintf(first + used, sizeof first - (size_t)used, " %02x", b->data[i]);
  if (name) return fail(DLV3_ERR_FORMAT, "neither JPEG nor PNG; it looks like %s", name);
  return fail(DLV3_ERR_FORMAT, "neither JPEG nor PNG (it begins with the bytes%s)", first);
}

/* Puts the path in front of the last error. */
static status name_file(status st, const char *path) {
  if (st == DLV3_OK) return st;
  return fail(st, "%s: %s", path, dlv3_last_error());
}

static status decode_image(picture *out, const byte_buffer *file, bool tolerant, dlv3_image_info *info) {
  if (info) *info = (dlv3_image_info){.orientation = 1, .bits = 8};
  if (is_jpeg(file)) return jpeg_decode(out, file, tolerant, info);
  if (is_png(file)) return png_decode(out, file, tolerant, info);
  return fail_kind(file);
}

static status decode_mask(picture *out, const byte_buffer *file) {
  if (is_png(file)) return png_decode_mask(out, file);
  if (is_jpeg(file))
    return fail(DLV3_ERR_FORMAT, "a JPEG as mask: its compression changes the class numbers; masks are PNG files");
  return fail_kind(file);
}

status picture_read(picture *out, const char *path, byte_buffer *file, bool tolerant, dlv3_image_info *info) {
  status st = file_bytes(file, path);
  if (st == DLV3_OK) st = decode_image(out, file, tolerant, info);
  return name_file(st, path);
}

status picture_read_mask(picture *out, const char *path, byte_buffer *file) {
  status st = file_bytes(file, path);
  if (st == DLV3_OK) st = decode_mask(out, file);
  return name_file(st, path);
}

/* -- Tensors ----------------------------------------------------------------------------------- */

/* u8 [c,h,w] for several channels, lying in memory as the picture does; u8 [h,w] for one. */
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

/* The reverse, for any strides. channels: those allowed, a bit each (1: [h,w]). */
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
    return fail(DLV3_ERR_SHAPE, "%s: expected u8 %s\n  %s", what,
                channels == 2   ? "[h,w]"
                : channels == 8 ? "[3,h,w]"
                                : "[3,h,w], [4,h,w] or [h,w]",
                tensor_text(text, "", t));
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

enum { LABELS = 1 << 1, RGB = 1 << 3, RGBA = 1 << 4 };

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

/* Bands of rows of the resized picture, which the threads make side by side. */
enum { BAND = 64 };
typedef struct {
  const picture *out, *in;
  bool mask;
  _Atomic bool failed;
} resize_job;

static status resize_rows_of(const resize_job *job, int64_t y0, int64_t y1) {
  resize_space space = {0};
  picture rows = *job->out;
  rows.data += y0 * rows.w * rows.channels, rows.h = y1 - y0;
  status st = (job->mask ? resize_nearest_into : resize_bilinear_into)(
      &rows, job->in, job->out->h, job->out->w, (window){y0, y1, 0, job->out->w}, false, &space);
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
    return fail(DLV3_ERR_ARG, "%s: the size must be at least 1x1, %lldx%lld (height, width) came", what, (long long)h,
                (long long)w);
  TRY_GOTO(st, from_tensor(&in, t, what, mask ? LABELS : RGB), end);
  TRY_GOTO(st, picture_reserve(&resized, h, w, in.channels), end);
  resize_job job = {&resized, &in, mask, false};
  parallel_for((h + BAND - 1) / BAND, 1, resize_bands, &job);
  if (job.failed) st = resize_rows_of(&job, 0, h); /* the message belongs to the thread that failed: once more, here */
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

static void normalize_some(void *context, int64_t begin, int64_t end) { /* pixels */
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
    parallel_for(in.h * in.w, 32768, normalize_some, &(normalize_job){data_of(t), in.data, &table, dtype_bytes(dtype)});
    *out = t;
  }
  picture_free(&in);
  return st;
}

DLV3_API dlv3_status dlv3_mask_count(int64_t *counts, int64_t *first, const dlv3_tensor *mask) {
  picture p = {0};
  TRY(from_tensor(&p, mask, "mask", LABELS));
  for (int32_t v = 0; v < 256; v++) counts[v] = 0, first[v] = -1;
  int64_t n = p.h * p.w;
  for (int64_t i = 0; i < n; i++)
    if (!counts[p.data[i]]++) first[p.data[i]] = i;
  picture_free(&p);
  return DLV3_OK;
}

/* -- Writing ----------------------------------------------------------------------------------- */

static status write_file(const char *path, const byte_buffer *b) {
  dlv3_file *f;
  TRY(dlv3_file_create(&f, path));
  status st = dlv3_file_write(f, b->data, b->size);
  if (st == DLV3_OK) st = dlv3_file_commit(f);
  dlv3_file_close(f);
  return st;
}

DLV3_API dlv3_status dlv3_png_write(const char *path, const dlv3_tensor *image, const uint8_t *palette) {
  picture p = {0};
  byte_buffer file = {0};
  status st = from_tensor(&p, image, "png", palette ? LABELS : LABELS | RGB | RGBA);
  if (st == DLV3_OK) st = name_file(png_encode(&file, &p, palette), path);
  if (st == DLV3_OK) st = write_file(path, &file);
  picture_free(&p);
  bytes_free(&file);
  return st;
}

DLV3_API dlv3_status dlv3_jpeg_write(const char *path, const dlv3_tensor *image, int32_t quality) {
  picture p = {0};
  byte_buffer file = {0};
  if (quality < 1 || quality > 100)
    return fail(DLV3_ERR_ARG, "jpeg: quality must be within 1..100, %d came", (int)quality);
  status st = from_tensor(&p, image, "jpeg", RGB);
  if (st == DLV3_OK) st = name_file(jpeg_encode(&file, &p, quality), path);
  if (st == DLV3_OK) st = write_file(path, &file);
  picture_free(&p);
  bytes_free(&file);
  return st;
}
