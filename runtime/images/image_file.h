/* image_file.h - image files to pictures and back, the format chosen by the content
 * (image_file.c). */
#ifndef DLV3_IMAGE_FILE_H
#define DLV3_IMAGE_FILE_H

#include "picture.h"

/* Reads a JPEG or PNG as RGB (image) or a PNG as labels (mask). info: NULL where it is not wanted.
 * tolerant: as in codecs.h. file is scratch space. Messages begin with the path. */
status picture_read(picture *out, const char *path, byte_buffer *file, bool tolerant, dlv3_image_info *info);
status picture_read_mask(picture *out, const char *path, byte_buffer *file);
/* Writes a file atomically. palette: 256 RGB triples, or NULL; quality: 1..100. */
status picture_write_png(const char *path, const picture *in, const uint8_t *palette);
status picture_write_jpeg(const char *path, const picture *in, int32_t quality);

#endif
