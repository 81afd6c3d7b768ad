/* verbose.h - DLV3_VERBOSE: 1 prints each op with its implementation and time, 2 also why others
 * declined. */
#ifndef DLV3_VERBOSE_H
#define DLV3_VERBOSE_H

#include "core.h"

extern int32_t verbose_level;
void verbose_call(const op_call *c, const char *impl_name, int64_t engine,
                  double seconds); /* engine: -1 where it has none to choose from */
void verbose_declined(const op_call *c, const char *impl_name, const char *reason);
/* A program of so many calls was captured as one graph, or why not. */
void verbose_graph(int64_t calls, const char *why);

#endif
