/* weights.h - for kernels whose packed weight says everything about the plain one: weights.c then
 * keeps that form alone. */
#ifndef DLV3_WEIGHTS_H
#define DLV3_WEIGHTS_H

#include "conv.h"

/* packed, just prepared of w, holds all of it: a frozen w gives up its plain bytes, which unpack
 * makes again, to the last bit, of packed and the four sizes. */
typedef void (*unpack_weight)(void *dst, const void *packed, const int64_t *size);
void packed_only(tensor *w, const void *packed, unpack_weight unpack);

#endif
