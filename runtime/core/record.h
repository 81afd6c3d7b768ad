/* record.h - what dispatch, memory and the host's readers know of record.c. */
#ifndef DLV3_RECORD_H
#define DLV3_RECORD_H

#include "core.h"

bool recording(void);
/* Fails while a function is being recorded: its tensors have no content yet that `what` could read
 * or write. */
status not_recording(const char *what);
/* Takes a call, whose outputs are made, into the program instead of running it. */
status record_call(const op_call *c);
/* The same for a launch of a kernel from source text, on n tensors or NULLs; kernel_execute runs it
 * (kernel.c). */
struct kernel_launch;
status record_launch(const struct kernel_launch *l, tensor *const *in);
status kernel_execute(const struct kernel_launch *l, tensor *const *in);
/* How many references to a storage are the program's that is being recorded. */
int32_t recorded_references(const storage *s);
/* The address of a storage made while recording: one of its own, where nobody can read. */
status record_storage(storage *s);
static inline bool is_promised(const char *data) { return (uintptr_t)data >> 62 & 1; } /* no process has memory there */

/* Whether the device takes down the kernels that are called now, instead of running them: nothing
 * may be waited for. graph.c */
bool capturing(void);
/* Whether every op is waited for by itself: DLV3_SYNC or DLV3_VERBOSE. dispatch.c */
bool ops_apart(void);
/* Around a kernel: errors of earlier work come out; it is waited for where ops run apart. While the
 * device captures neither. dispatch.c */
status before_kernel(int32_t device);
status after_kernel(int32_t device);
/* Moves when another implementation is to be tried first. dispatch.c */
int64_t impl_preference(void);
/* From begin to end, memory of the device comes from blocks that nobody but captured graphs uses,
 * and goes back to them; end: false when some was not given back. They are there until a flush,
 * which moves the generation: a graph of an older one must not be launched any more. Without graphs
 * they are forgotten: everybody's again. memory.c */
void memory_capture_begin(int32_t device);
bool memory_capture_end(void);
int64_t memory_generation(int32_t device);
void memory_capture_forget(int32_t device);

/* Runs a call's kernel on outputs that are there, and moves the versions of what it changed in
 * place. dispatch.c */
status op_execute(op_call *c);

#endif
