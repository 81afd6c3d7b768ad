/* tape.h - what backward.c uses of tape.c besides core.h. */
#ifndef DLV3_TAPE_H
#define DLV3_TAPE_H

#include "core.h"

/* Drops what a node saved; its edges stay until the node is freed. */
void node_finish(node *n);

#endif
