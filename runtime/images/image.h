/* image.h - what loader.c uses of image.c. */
#ifndef DLV3_IMAGE_H
#define DLV3_IMAGE_H

#include "picture.h"

/* Copies a cpu tensor u8 [3,h,w] (mask: u8 [h,w]) of any strides; `what` begins the message. */
status picture_from_tensor(picture *p, const tensor *t, const char *what, bool mask);

#endif
