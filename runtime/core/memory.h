/* memory.h - what executors and CUDA graphs use of memory.c besides storages. */
#ifndef DLV3_MEMORY_H
#define DLV3_MEMORY_H

#include "core.h"

/* The eager executor's: memory for a new storage from the caching allocator. */
status storage_allocate(storage *s);

/* Between begin and end, memory of the device comes from blocks that only captured graphs use, and
 * is freed to them; end: false when some of it was not freed. A flush frees these blocks and
 * changes the generation: a graph captured in an older one must not be launched any more. forget:
 * no graph is left, the blocks become ordinary cached ones. */
void memory_capture_begin(int32_t device);
bool memory_capture_end(void);
int64_t memory_generation(int32_t device);
void memory_capture_forget(int32_t device);

#endif
