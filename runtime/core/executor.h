/* executor.h - how calls are executed: the one interface through which other rooms change what
 * memory.c, dispatch.c, tape.c and backward.c do.
 *
 * Core goes through current_executor and does not know who installed it. While nothing else is
 * installed calls run eagerly. runtime/program installs one that records calls, and one that lets a
 * device capture kernels. */
#ifndef DLV3_EXECUTOR_H
#define DLV3_EXECUTOR_H

#include "core.h"

typedef struct executor {
  /* Sets the data of a new storage, which knows its bytes and device. */
  status (*allocate)(storage *s);
  /* Executes a call whose inputs are checked and whose outputs are allocated. */
  status (*execute)(op_call *c);
  /* Fails where `what` ("item", a file's path) may not read or write values on the host. */
  status (*host_access)(const char *what);
  /* Fails where a backward pass may not go through a node; op: the node's op, for messages. */
  status (*backward_through)(const node *n, const char *op);
  /* How many of the references to a storage are the executor's own. */
  int32_t (*references)(const storage *s);
  /* Whether the device may be synchronized and asked for errors between kernels. */
  bool synchronizes;
} executor;

extern const executor eager_executor;
extern const executor *current_executor; /* &eager_executor until another one is installed */

/* Whoever reads or writes the values of tensors on the host asks first. */
static inline status check_host_access(const char *what) { return current_executor->host_access(what); }

#endif
