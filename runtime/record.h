/* record.h - what dispatch, memory and the host's readers know of record.c. */
#ifndef DLV3_RECORD_H
#define DLV3_RECORD_H

#include "core.h"

bool recording(void);
/* Fails while a function is being recorded: its tensors have no content yet that `what` could read or write. */
status not_recording(const char *what);
/* Takes a call, whose outputs are made, into the program instead of running it. */
status record_call(const op_call *c);
/* The same for a launch of a kernel from source text, on n tensors or NULLs; kernel_execute runs it (kernel.c). */
struct kernel_launch;
status record_launch(const struct kernel_launch *l, tensor *const *in);
status kernel_execute(const struct kernel_launch *l, tensor *const *in);
/* How many references to a storage are the program's that is being recorded. */
int32_t recorded_references(const storage *s);
/* The address of a storage made while recording: one of its own, where nobody can read. */
status record_storage(storage *s);
static inline bool is_promised(const char *data) { return (uintptr_t)data >> 62 & 1; } /* no process has memory there */

/* Runs a call's kernel on outputs that are there, and moves the versions of what it changed in place. dispatch.c */
status op_execute(op_call *c);

#endif
