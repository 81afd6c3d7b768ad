/* jpeg.c - JPEG files through libjpeg-turbo: memory to picture and back.
 *
 * Decodes with libjpeg's defaults (ISLOW DCT, fancy upsampling), as Pillow does, so that pixels
 * are equal to the last bit. libjpeg reports errors by a callback that must not return: a longjmp
 * within this file. Warnings that mean damaged or missing data are errors, or stored where the
 * caller tolerates damage. libjpeg never prints here. */
#include "codecs.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>
#include <jerror.h>

typedef struct {
  struct jpeg_error_mgr base; /* first member: libjpeg passes a pointer to it */
  jmp_buf escape;
  char text[JMSG_LENGTH_MAX];
  bool tolerant;
  dlv3_image_info *facts; /* NULL: not wanted */
} error_manager;

static void on_error(j_common_ptr info) {
  error_manager *e = (error_manager *)info->err;
  e->base.format_message(info, e->text);
  longjmp(e->escape, 1);
}

/* Stores the first damage, with its row. */
static void on_damage(j_common_ptr info) {
  error_manager *e = (error_manager *)info->err;
  const struct jpeg_decompress_struct *d = (const struct jpeg_decompress_struct *)info;
  if (!e->tolerant) on_error(info);
  if (!e->facts || *e->facts->damage) return;
  e->base.format_message(info, e->text);
  snprintf(e->facts->damage, sizeof e->facts->damage, "a damaged JPEG: %s (at row %u of %u)", e->text,
           d->output_scanline, d->image_height);
}

static void on_message(j_common_ptr info, int level) {
  if (level >= 0) return;
  switch (info->err->msg_code) { /* pixels are missing or wrong; other warnings are harmless */
  case JWRN_JPEG_EOF:
  case JWRN_HIT_MARKER:
  case JWRN_HUFF_BAD_CODE:
  case JWRN_ARITH_BAD_CODE:
  case JWRN_MUST_RESYNC: on_damage(info);
  }
}

static void be_silent(j_common_ptr info) { (void)info; }

static struct jpeg_error_mgr *error_manager_init(error_manager *e) {
  jpeg_std_error(&e->base);
  e->base.error_exit = on_error;
  e->base.emit_message = on_message;
  e->base.output_message = be_silent;
  e->text[0] = 0;
  return &e->base;
}

bool is_jpeg(const byte_buffer *file) { return file->size >= 3 && !memcmp(file->data, "\xff\xd8\xff", 3); }

/* -- Reading ----------------------------------------------------------------------------------- */

typedef struct {
  struct jpeg_decompress_struct info;
  error_manager errors;
  struct jpeg_progress_mgr progress;
  uint8_t *row; /* CMYK only */
} decoder;

/* The first APP1 segment with EXIF counts, and the last with XMP, as in Pillow. */
static int32_t find_orientation(const decoder *d) {
  static const char xmp_name[] = "http://ns.adobe.com/xap/1.0/"; /* its zero byte is part of it */
  int32_t exif = -1, xmp = 0;
  for (jpeg_saved_marker_ptr m = d->info.marker_list; m; m = m->next) {
    if (m->marker != JPEG_APP0 + 1) continue;
    if (exif < 0 && m->data_length > 6 && !memcmp(m->data, "Exif\0\0", 6))
      exif = exif_orientation(m->data, m->data_length);
    if (m->data_length > sizeof xmp_name && !memcmp(m->data, xmp_name, sizeof xmp_name))
      xmp = xmp_orientation(m->data + sizeof xmp_name, m->data_length - sizeof xmp_name);
  }
  if (exif > 0) return exif;
  return xmp > 0 ? xmp : 1;
}

/* A progressive JPEG may repeat its scans without end, and each scan costs as much as the whole
 * picture. Real files have about ten; large pictures may have fewer than small ones.
 * libjpeg-turbo's tools have such a limit too (-maxscans). */
static void check_scans(j_common_ptr common) {
  enum { MOST_SCANS = 100, FEWEST_SCANS = 20 };
  j_decompress_ptr info = (j_decompress_ptr)common;
  int64_t pixels = (int64_t)info->image_height * info->image_width, most = ((int64_t)1 << 32) / pixels;
  if (most > MOST_SCANS) most = MOST_SCANS;
  if (most < FEWEST_SCANS) most = FEWEST_SCANS;
  if (info->input_scan_number <= most) return;
  error_manager *e = (error_manager *)info->err;
  snprintf(e->text, sizeof e->text,
           "expected at most %d scans for a picture of this size; save it again with an image program", (int)most);
  longjmp(e->escape, 1);
}

/* Pillow's conversion of a CMYK JPEG: values are inverted, as Adobe writes them. */
static void cmyk_to_rgb(uint8_t *rgb, const uint8_t *cmyk, int64_t n) {
  for (int64_t i = 0; i < n; i++, rgb += 3, cmyk += 4)
    for (int32_t c = 0; c < 3; c++) {
      int32_t white = cmyk[3], t = (255 - cmyk[c]) * white + 128, v = white - ((t + (t >> 8)) >> 8);
      rgb[c] = (uint8_t)(v < 0 ? 0 : v);
    }
}

/* Each block of 8x8 takes at least a bit of a Huffman-coded file. A shorter file holds almost
 * nothing of its picture, and is refused before libjpeg allocates memory for all of it. */
static status check_length(const struct jpeg_decompress_struct *info, int64_t bytes) {
  int64_t most = 0;
  for (int i = 0; i < info->num_components; i++) {
    int64_t blocks = (int64_t)info->comp_info[i].width_in_blocks * info->comp_info[i].height_in_blocks;
    if (blocks > most) most = blocks;
  }
  if (info->arith_code || bytes >= most / 8) return DLV3_OK;
  return fail(DLV3_ERR_DAMAGED, "a damaged JPEG: its %lld bytes can not hold the %ux%u pixels that it claims",
              (long long)bytes, info->image_width, info->image_height);
}

/* All calls that libjpeg may leave by longjmp. */
static status decode(decoder *d, picture *out, const byte_buffer *file) {
  struct jpeg_decompress_struct *info = &d->info;
  info->err = error_manager_init(&d->errors);
  if (setjmp(d->errors.escape)) {
    int code = info->err->msg_code;
    if (code == JERR_BAD_PRECISION || code == JERR_SOF_UNSUPPORTED)
      return fail(DLV3_ERR_FORMAT, "an unsupported kind of JPEG: %s; save it as an 8-bit JPEG or PNG", d->errors.text);
    if (!info->output_scanline) return fail(DLV3_ERR_DAMAGED, "the JPEG can not be decoded: %s", d->errors.text);
    return fail(DLV3_ERR_DAMAGED, "a damaged JPEG: %s (at row %u of %u)", d->errors.text, info->output_scanline,
                info->image_height);
  }
  jpeg_create_decompress(info);
  d->progress.progress_monitor = check_scans;
  info->progress = &d->progress;
  jpeg_mem_src(info, file->data, (unsigned long)file->size);
  dlv3_image_info *facts = d->errors.facts;
  if (facts) jpeg_save_markers(info, JPEG_APP0 + 1, 0xffff);
  jpeg_read_header(info, TRUE);
  if (facts) facts->orientation = find_orientation(d);
  if (info->num_components != 1 && info->num_components != 3 && info->num_components != 4)
    return fail(DLV3_ERR_FORMAT, "expected a JPEG with 1 (grey), 3 (colour) or 4 (CMYK) channels, got %d",
                info->num_components);
  info->out_color_space = info->num_components == 4 ? JCS_CMYK : JCS_RGB;
  TRY(picture_reserve(out, info->image_height, info->image_width, 3));
  TRY(check_length(info, file->size));
  if (info->num_components == 4 && !(d->row = malloc((size_t)info->image_width * 4)))
    return fail(DLV3_ERR_OOM, "out of memory for a row of %u pixels", info->image_width);
  jpeg_start_decompress(info);
  while (info->output_scanline < info->output_height) {
    JSAMPROW into = out->data + (int64_t)info->output_scanline * out->w * 3, row = d->row ? d->row : into;
    jpeg_read_scanlines(info, &row, 1);
    if (d->row) cmyk_to_rgb(into, d->row, out->w);
  }
  return DLV3_OK;
}

status jpeg_decode(picture *out, const byte_buffer *file, bool tolerant, dlv3_image_info *info) {
  decoder d = {.errors = {.tolerant = tolerant, .facts = info}};
  status st = decode(&d, out, file);
  jpeg_destroy_decompress(&d.info);
  free(d.row);
  return st;
}

/* -- Writing ----------------------------------------------------------------------------------- */

typedef struct {
  struct jpeg_compress_struct info;
  error_manager errors;
  unsigned char *data;
  unsigned long size;
} encoder;

static status encode(encoder *e, const picture *in, int32_t quality) {
  e->info.err = error_manager_init(&e->errors);
  if (setjmp(e->errors.escape)) return fail(DLV3_ERR_INTERNAL, "JPEG: %s", e->errors.text);
  jpeg_create_compress(&e->info);
  jpeg_mem_dest(&e->info, &e->data, &e->size);
  e->info.image_width = (JDIMENSION)in->w;
  e->info.image_height = (JDIMENSION)in->h;
  e->info.input_components = 3;
  e->info.in_color_space = JCS_RGB;
  jpeg_set_defaults(&e->info);
  jpeg_set_quality(&e->info, quality, TRUE);
  e->info.optimize_coding = TRUE;
  jpeg_start_compress(&e->info, TRUE);
  while (e->info.next_scanline < e->info.image_height) {
    JSAMPROW row = in->data + (int64_t)e->info.next_scanline * in->w * 3;
    jpeg_write_scanlines(&e->info, &row, 1);
  }
  jpeg_finish_compress(&e->info);
  return DLV3_OK;
}

status jpeg_encode(byte_buffer *out, const picture *in, int32_t quality) {
  if (in->h > JPEG_MAX_DIMENSION || in->w > JPEG_MAX_DIMENSION)
    return fail(DLV3_ERR_ARG, "expected at most %ld rows and columns for a JPEG, got %lldx%lld; write a PNG",
                (long)JPEG_MAX_DIMENSION, (long long)in->w, (long long)in->h);
  encoder e = {.data = NULL};
  status st = encode(&e, in, quality);
  jpeg_destroy_compress(&e.info);
  if (st == DLV3_OK) st = bytes_reserve(out, (int64_t)e.size);
  if (st == DLV3_OK) {
    memcpy(out->data, e.data, e.size);
    out->size = (int64_t)e.size;
  }
  free(e.data);
  return st;
}
