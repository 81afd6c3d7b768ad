/* codecs.h - the file formats: jpeg.c, png.c, and the orientation of an image (orientation.c).
 * Bytes in memory to pictures and back; messages do not name the file. */
#ifndef DLV3_CODECS_H
#define DLV3_CODECS_H

#include "picture.h"

/* Whether the bytes begin as a file of the format does. */
bool is_jpeg(const byte_buffer *file);
bool is_png(const byte_buffer *file);
/* Decoding to RGB (png_decode_mask: to labels). info: filled where it is not NULL. A damaged file
 * is an error, DLV3_ERR_DAMAGED; with `tolerant` the pixels that are intact are decoded and the
 * damage is described in info. */
status jpeg_decode(picture *out, const byte_buffer *file, bool tolerant, dlv3_image_info *info);
status png_decode(picture *out, const byte_buffer *file, bool tolerant, dlv3_image_info *info);
status png_decode_mask(picture *out, const byte_buffer *file);
/* Encoding. quality: 1..100. palette: 256 RGB triples, or NULL for none. */
status jpeg_encode(byte_buffer *out, const picture *in, int32_t quality);
status png_encode(byte_buffer *out, const picture *in, const uint8_t *palette);

/* The orientation 1..8 in an EXIF block (with or without "Exif\0\0") or in XMP text; 0: none. */
int32_t exif_orientation(const uint8_t *exif, int64_t n);
int32_t xmp_orientation(const uint8_t *xmp, int64_t n);
/* The orientation of a PNG file, from its EXIF, or from XMP where it has no EXIF; 1 without
 * either. */
int32_t png_orientation(const byte_buffer *file);
/* out = in, rotated and flipped upright as orientation 1..8 says. */
status picture_orient(picture *out, const picture *in, int32_t orientation);

#endif
