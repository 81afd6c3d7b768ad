/* image_file.c - image files to pictures and back. A file is read whole, and its format is
 * recognized by its content; each format is decoded and encoded by its own file (codecs.h). */
#include "image_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "codecs.h"

/* -- Reading ----------------------------------------------------------------------------------- */

enum { FILE_MAX = 1 << 30 }; /* bytes of an image file */

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
    return fail(DLV3_ERR_FORMAT, "the file has %lld bytes; an image file may have at most %d", (long long)info.st_size,
                FILE_MAX);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return fail(DLV3_ERR_IO, "can not be read: %m");
  status st = read_all(b, fd, info.st_size);
  close(fd);
  return st;
}

/* The format that a file which is neither JPEG nor PNG seems to have, or NULL. */
static const char *other_format(const byte_buffer *b) {
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

static status fail_format(const byte_buffer *b) {
  const char *name = other_format(b);
  char first[32] = "";
  for (int64_t i = 0, used = 0; i < 4 && i < b->size; i++)
    used += snprintf(first + used, sizeof first - (size_t)used, " %02x", b->data[i]);
  if (name) return fail(DLV3_ERR_FORMAT, "expected a JPEG or PNG file; this looks like %s", name);
  return fail(DLV3_ERR_FORMAT, "expected a JPEG or PNG file; this begins with the bytes%s", first);
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
  return fail_format(file);
}

static status decode_mask(picture *out, const byte_buffer *file) {
  if (is_png(file)) return png_decode_mask(out, file);
  if (is_jpeg(file))
    return fail(DLV3_ERR_FORMAT,
                "the mask is a JPEG, whose compression changes the class numbers; masks must be PNG files");
  return fail_format(file);
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

/* -- Writing ----------------------------------------------------------------------------------- */

static status write_file(const char *path, const byte_buffer *b) {
  dlv3_file *f;
  TRY(dlv3_file_create(&f, path));
  status st = dlv3_file_write(f, b->data, b->size);
  if (st == DLV3_OK) st = dlv3_file_commit(f);
  dlv3_file_close(f);
  return st;
}

status picture_write_png(const char *path, const picture *in, const uint8_t *palette) {
  byte_buffer file = {0};
  status st = name_file(png_encode(&file, in, palette), path);
  if (st == DLV3_OK) st = write_file(path, &file);
  bytes_free(&file);
  return st;
}

status picture_write_jpeg(const char *path, const picture *in, int32_t quality) {
  byte_buffer file = {0};
  status st = name_file(jpeg_encode(&file, in, quality), path);
  if (st == DLV3_OK) st = write_file(path, &file);
  bytes_free(&file);
  return st;
}
