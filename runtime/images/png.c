/* png.c - PNG files through libpng: memory to picture or labels, and back.
 *
 * libpng reports errors by its own longjmp, caught in this file. Of its warnings, wrong checksums
 * are errors, or stored where the caller tolerates damage; the others are dropped. libpng never
 * prints here. Chunks other than pixels are skipped unread: one may claim gigabytes. Gamma and
 * colour profiles are ignored, as in Pillow; orientation.c reads the orientation. */
#include "codecs.h"

#include <stdio.h>

#include <png.h>
#include <zlib.h>

typedef struct {
  png_structp png;
  png_infop info;
  const byte_buffer *file; /* read from, at */
  int64_t at;
  byte_buffer *out; /* written to */
  bool tolerant;
  dlv3_image_info *facts; /* NULL: not wanted */
  uint32_t row;
  char text[200];
} codec;

static void on_error(png_structp png, png_const_charp message) {
  codec *c = png_get_error_ptr(png);
  snprintf(c->text, sizeof c->text, "%s", message);
  png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp message) {
  codec *c = png_get_error_ptr(png);
  if (!strstr(message, "CRC error")) return;
  if (!c->tolerant) on_error(png, message);
  if (c->facts && !*c->facts->damage) snprintf(c->facts->damage, sizeof c->facts->damage, "a damaged PNG: %s", message);
}

static void read_bytes(png_structp png, png_bytep dst, size_t n) {
  codec *c = png_get_io_ptr(png);
  if (n > (size_t)(c->file->size - c->at)) png_error(png, "the file ends too early");
  memcpy(dst, c->file->data + c->at, n);
  c->at += (int64_t)n;
}

static void write_bytes(png_structp png, png_bytep src, size_t n) {
  codec *c = png_get_io_ptr(png);
  if (bytes_reserve(c->out, c->out->size + (int64_t)n) != DLV3_OK) png_error(png, "out of memory");
  memcpy(c->out->data + c->out->size, src, n);
  c->out->size += (int64_t)n;
}

static void flush_nothing(png_structp png) { (void)png; }

bool is_png(const byte_buffer *file) { return file->size >= 8 && !memcmp(file->data, "\x89PNG\r\n\x1a\n", 8); }

/* -- Reading ----------------------------------------------------------------------------------- */

static void read_header(codec *c) {
  png_set_read_fn(c->png, c, read_bytes);
  png_set_keep_unknown_chunks(c->png, PNG_HANDLE_CHUNK_NEVER, NULL,
                              -1); /* all known chunks that do not change pixels */
  png_read_info(c->png, c->info);
}

static status read_rows(codec *c, picture *out, int32_t channels) {
  TRY(picture_reserve(out, png_get_image_height(c->png, c->info), png_get_image_width(c->png, c->info), channels));
  int passes = png_set_interlace_handling(c->png);
  png_read_update_info(c->png, c->info);
  int64_t row_bytes = (int64_t)png_get_rowbytes(c->png, c->info);
  if (row_bytes != out->w * channels)
    return fail(DLV3_ERR_INTERNAL, "PNG: %lld bytes a row instead of %lld", (long long)row_bytes,
                (long long)out->w * channels);
  for (int pass = 0; pass < passes; pass++)
    for (c->row = 0; c->row < out->h; c->row++) png_read_row(c->png, out->data + (int64_t)c->row * row_bytes, NULL);
  png_read_end(c->png, c->info); /* checks the last checksums */
  return DLV3_OK;
}

static status decode_rgb(codec *c, picture *out) {
  read_header(c);
  png_set_strip_16(c->png);
  png_set_palette_to_rgb(c->png);
  png_set_expand_gray_1_2_4_to_8(c->png);
  png_set_strip_alpha(c->png);
  png_set_gray_to_rgb(c->png);
  if (c->facts) {
    c->facts->bits = png_get_bit_depth(c->png, c->info);
    c->facts->orientation = png_orientation(c->file);
  }
  return read_rows(c, out, 3);
}

#define HOW_TO_STORE \
  "\n  a mask has one class number per pixel: expected a palette or 8-bit grey PNG; with Pillow: put the numbers " \
  "into a uint8 " \
  "array a, then Image.fromarray(a).save(...)"

static status decode_labels(codec *c, picture *out) {
  read_header(c);
  int kind = png_get_color_type(c->png, c->info), bits = png_get_bit_depth(c->png, c->info);
  if (kind == PNG_COLOR_TYPE_GRAY && bits == 16)
    return fail(DLV3_ERR_FORMAT, "a grey mask of 16 bits; labels have 8 (class numbers 0..255)" HOW_TO_STORE);
  if (kind == PNG_COLOR_TYPE_GRAY_ALPHA)
    return fail(DLV3_ERR_FORMAT, "a grey mask with transparency: which pixels count is not clear" HOW_TO_STORE);
  if (kind != PNG_COLOR_TYPE_GRAY && kind != PNG_COLOR_TYPE_PALETTE)
    return fail(DLV3_ERR_FORMAT,
                "an %s mask: colours are not class numbers" HOW_TO_STORE " (each colour replaced by its class number)",
                kind & PNG_COLOR_MASK_ALPHA ? "RGBA" : "RGB");
  png_set_packing(c->png); /* 1, 2, 4 bits to a byte each, values as they are */
  return read_rows(c, out, 1);
}

static status read_with(codec *c, picture *out, status (*decode)(codec *, picture *)) {
  c->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, c, on_error, on_warning);
  c->info = c->png ? png_create_info_struct(c->png) : NULL;
  status st = fail(DLV3_ERR_OOM, "out of memory for libpng, or a wrong version of it");
  if (c->info) {
    if (setjmp(png_jmpbuf(c->png)))
      st = c->row ? fail(DLV3_ERR_DAMAGED, "a damaged PNG: %s (at row %u of %u)", c->text, c->row,
                         png_get_image_height(c->png, c->info))
                  : fail(DLV3_ERR_DAMAGED, "a damaged PNG: %s", c->text);
    else
      st = decode(c, out);
  }
  png_destroy_read_struct(&c->png, &c->info, NULL);
  return st;
}

status png_decode(picture *out, const byte_buffer *file, bool tolerant, dlv3_image_info *info) {
  codec c = {.file = file, .tolerant = tolerant, .facts = info};
  return read_with(&c, out, decode_rgb);
}

status png_decode_mask(picture *out, const byte_buffer *file) {
  codec c = {.file = file};
  return read_with(&c, out, decode_labels);
}

/* -- Writing ----------------------------------------------------------------------------------- */

static void encode(codec *c, const picture *in, const uint8_t *palette) {
  static const int kinds[] = {0, PNG_COLOR_TYPE_GRAY, 0, PNG_COLOR_TYPE_RGB, PNG_COLOR_TYPE_RGBA};
  png_set_write_fn(c->png, c, write_bytes, flush_nothing);
  png_set_IHDR(c->png, c->info, (png_uint_32)in->w, (png_uint_32)in->h, 8,
               palette ? PNG_COLOR_TYPE_PALETTE : kinds[in->channels], PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
               PNG_FILTER_TYPE_DEFAULT);
  if (palette) {
    png_color colors[256];
    for (int32_t i = 0; i < 256; i++) colors[i] = (png_color){palette[3 * i], palette[3 * i + 1], palette[3 * i + 2]};
    png_set_PLTE(c->png, c->info, colors, 256);
    png_set_compression_strategy(c->png,
                                 Z_RLE); /* class maps consist of runs: a fifth of the time, and smaller files */
  }
  png_write_info(c->png, c->info);
  for (int64_t y = 0; y < in->h; y++) png_write_row(c->png, in->data + y * in->w * in->channels);
  png_write_end(c->png, c->info);
}

status png_encode(byte_buffer *out, const picture *in, const uint8_t *palette) {
  codec c = {.out = out};
  out->size = 0;
  c.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &c, on_error, on_warning);
  c.info = c.png ? png_create_info_struct(c.png) : NULL;
  status st = fail(DLV3_ERR_OOM, "out of memory for libpng, or a wrong version of it");
  if (c.info) {
    if (setjmp(png_jmpbuf(c.png)))
      st = fail(DLV3_ERR_INTERNAL, "PNG: %s", c.text);
    else {
      encode(&c, in, palette);
      st = DLV3_OK;
    }
  }
  png_destroy_write_struct(&c.png, &c.info);
  return st;
}
