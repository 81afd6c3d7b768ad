/* orientation.c - the orientation of an image from EXIF, XMP and PNG's text chunks, by the rules
 * of Pillow's exif_transpose.
 *
 * XMP counts only where EXIF has no orientation. Everything is read from memory within bounds;
 * damaged data counts as absent. */
#include "codecs.h"

#include <stdlib.h>
#include <zlib.h>

enum { ABSENT = 0, UPRIGHT = 1 };

/* -- EXIF and XMP ------------------------------------------------------------------------------ */

static uint32_t exif_number(const uint8_t *p, int32_t bytes, bool big) {
  uint32_t v = 0;
  for (int32_t i = 0; i < bytes; i++) v |= (uint32_t)p[i] << 8 * (big ? bytes - 1 - i : i);
  return v;
}

int32_t exif_orientation(const uint8_t *exif, int64_t n) {
  enum { TAG = 0x112, BYTE = 1, LONG = 4 };
  if (n >= 6 && !memcmp(exif, "Exif\0\0", 6)) {
    exif += 6;
    n -= 6;
  }
  if (n < 8 || (memcmp(exif, "II*\0", 4) && memcmp(exif, "MM\0*", 4))) return ABSENT;
  bool big = exif[0] == 'M';
  int64_t at = exif_number(exif + 4, 4, big);
  if (at + 2 > n) return ABSENT;
  int64_t entries = exif_number(exif + at, 2, big);
  for (int64_t i = 0, e = at + 2; i < entries && e + 12 <= n; i++, e += 12) {
    if (exif_number(exif + e, 2, big) != TAG) continue;
    uint32_t type = exif_number(exif + e + 2, 2, big);
    int32_t width = type == LONG ? 4 : 2;
    if (type == BYTE) width = 1;
    uint32_t v = exif_number(exif + e + 8, width, big);
    return v >= 1 && v <= 8 ? (int32_t)v : UPRIGHT;
  }
  return ABSENT;
}

/* The digit of the first tiff:Orientation="6" or <tiff:Orientation>6. */
int32_t xmp_orientation(const uint8_t *xmp, int64_t n) {
  static const char name[] = "tiff:Orientation";
  int64_t length = sizeof name - 1;
  for (int64_t i = 0; i + length + 2 <= n; i++) {
    if (xmp[i] != 't' || memcmp(xmp + i, name, (size_t)length)) continue;
    int64_t at = i + length + (xmp[i + length] == '>' ? 1 : 2);
    if (at >= n || (xmp[i + length] != '>' && memcmp(xmp + i + length, "=\"", 2))) continue;
    if (xmp[at] < '0' || xmp[at] > '9') continue;
    return xmp[at] >= '1' && xmp[at] <= '8' ? xmp[at] - '0' : UPRIGHT;
  }
  return ABSENT;
}

/* -- PNG --------------------------------------------------------------------------------------- */

typedef struct {
  const uint8_t *data;
  int64_t n;
} span;

/* The part of s after the next zero byte, or an empty span. */
static span after_zero(span s) {
  const uint8_t *zero = s.n > 0 ? memchr(s.data, 0, (size_t)s.n) : NULL;
  return zero ? (span){zero + 1, s.data + s.n - zero - 1} : (span){NULL, 0};
}

/* Decompresses into *owned, which the caller frees: at most 1 MiB, as in Pillow. */
static span inflate_span(span s, uint8_t **owned) {
  enum { MOST = 1 << 20 };
  span none = {NULL, 0};
  z_stream z = {.next_in = (uint8_t *)s.data, .avail_in = (uInt)s.n, .avail_out = MOST};
  if (s.n < 1 || !(*owned = malloc(MOST))) return none;
  z.next_out = *owned;
  if (inflateInit(&z) != Z_OK) return none;
  int end = inflate(&z, Z_FINISH);
  inflateEnd(&z);
  return end == Z_STREAM_END ? (span){*owned, (int64_t)z.total_out} : none;
}

/* The text of a tEXt, zTXt or iTXt chunk. */
static span text_of(span chunk, char kind, uint8_t **owned) {
  span s = after_zero(chunk); /* the keyword */
  if (kind == 't') return s;
  if (kind == 'z')
    return s.n > 1 && s.data[0] == 0 ? inflate_span((span){s.data + 1, s.n - 1}, owned) : (span){NULL, 0};
  if (s.n < 2) return (span){NULL, 0};
  bool packed = s.data[0] != 0;
  if (packed && s.data[1] != 0) return (span){NULL, 0};
  s = after_zero(after_zero((span){s.data + 2, s.n - 2})); /* language, translated keyword */
  return packed ? inflate_span(s, owned) : s;
}

static int32_t hex_digit(uint8_t c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* ImageMagick's "Raw profile type exif": an empty line, the name, the length, then EXIF in
 * hexadecimal. */
static int32_t raw_profile_orientation(span text) {
  for (int32_t line = 0; line < 3; line++) {
    const uint8_t *end = text.n > 0 ? memchr(text.data, '\n', (size_t)text.n) : NULL;
    if (!end) return ABSENT;
    text = (span){end + 1, text.data + text.n - end - 1};
  }
  uint8_t *exif = malloc((size_t)text.n / 2 + 1);
  if (!exif) return ABSENT;
  int64_t digits = 0;
  for (int64_t i = 0; i < text.n; i++) {
    int32_t digit = hex_digit(text.data[i]);
    if (digit < 0) continue; /* line ends */
    exif[digits / 2] = (uint8_t)(digits % 2 ? exif[digits / 2] << 4 | digit : digit);
    digits++;
  }
  int32_t result = exif_orientation(exif, digits / 2);
  free(exif);
  return result;
}

static bool has_keyword(span chunk, const char *keyword) {
  size_t n = strlen(keyword) + 1;
  return chunk.n >= (int64_t)n && !memcmp(chunk.data, keyword, n);
}

typedef struct {
  int32_t exif, raw, xmp, texts;
  bool has_exif;
} found;

/* One chunk of a PNG; a later chunk replaces an earlier one of its kind. */
static void look_at(found *f, const uint8_t *type, span chunk) {
  uint8_t *owned = NULL;
  if (!memcmp(type, "eXIf", 4)) {
    f->has_exif = true;
    f->exif = exif_orientation(chunk.data, chunk.n);
  }
  if (memcmp(type + 1, !memcmp(type, "tEXt", 4) ? "EXt" : "TXt", 3) || !strchr("tzi", type[0])) return;
  enum { MOST_TEXTS = 64 }; /* each may decompress to 1 MiB */
  bool raw = has_keyword(chunk, "Raw profile type exif");
  if ((!raw && !has_keyword(chunk, "XML:com.adobe.xmp")) || f->texts++ >= MOST_TEXTS) return;
  span text = text_of(chunk, (char)type[0], &owned);
  if (raw)
    f->raw = raw_profile_orientation(text);
  else
    f->xmp = xmp_orientation(text.data, text.n);
  free(owned);
}

int32_t png_orientation(const byte_buffer *file) {
  found f = {0};
  for (int64_t at = 8; at + 12 <= file->size;) {
    const uint8_t *chunk = file->data + at;
    int64_t n = exif_number(chunk, 4, true);
    if (n > file->size - at - 12) break;
    bool sound = crc32_z(crc32_z(0, chunk + 4, 4), chunk + 8, (size_t)n) == exif_number(chunk + 8 + n, 4, true);
    if (sound) look_at(&f, chunk + 4, (span){chunk + 8, n});
    at += n + 12;
  }
  int32_t exif = f.has_exif ? f.exif : f.raw;
  if (exif) return exif;
  return f.xmp ? f.xmp : UPRIGHT;
}

/* -- Turning ----------------------------------------------------------------------------------- */

status picture_orient(picture *out, const picture *in, int32_t orientation) {
  bool turned = orientation >= 5;
  TRY(picture_reserve(out, turned ? in->w : in->h, turned ? in->h : in->w, in->channels));
  bool flip_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  bool flip_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  uint8_t *p = out->data;
  for (int64_t y = 0; y < out->h; y++)
    for (int64_t x = 0; x < out->w; x++, p += in->channels) {
      int64_t sy = turned ? x : y, sx = turned ? y : x;
      if (flip_y) sy = in->h - 1 - sy;
      if (flip_x) sx = in->w - 1 - sx;
      memcpy(p, in->data + (sy * in->w + sx) * in->channels, (size_t)in->channels);
    }
  return DLV3_OK;
}
