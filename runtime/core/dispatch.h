/* dispatch.h - what runtime/program uses of dispatch.c besides op_run. */
#ifndef DLV3_DISPATCH_H
#define DLV3_DISPATCH_H

#include "core.h"

/* Executes a call whose outputs are allocated, and moves the versions of what it changed in
 * place. */
status op_execute(op_call *c);
/* The eager executor's: runs the first implementation that does not decline. */
status run_implementations(op_call *c);

/* Around each kernel: before reports errors of earlier work on the device, after waits for the
 * kernel where each op is synchronized. Neither does where the current executor says so. */
status before_kernel(int32_t device);
status after_kernel(int32_t device);
/* Whether each op is synchronized: DLV3_SYNC or DLV3_VERBOSE. */
bool ops_synchronized(void);
/* Changes when another implementation is to be tried first. */
int64_t implementation_preference(void);

#endif
