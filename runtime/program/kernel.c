/* kernel.c - kernels that are compiled from source text at run time: found through the device's
 * backend, checked, launched.
 *
 * A launch is no op: it infers no shapes, has no gradient, and writes to tensors that exist. Like
 * an op it requires tensors that are alive and on one device, increases versions, obeys
 * DLV3_VERBOSE and DLV3_SYNC, and is recorded by dlv3.compile. The backend compiles the source
 * text. */
#include <stdio.h>

#include "core/dispatch.h"
#include "core/executor.h"
#include "core/verbose.h"
#include "program.h"

DLV3_API dlv3_status dlv3_kernel_find(dlv3_kernel **out, const char *source, const char *name, int32_t device) {
  if (!device_known(device)) return fail(DLV3_ERR_DEVICE, "no device has the number %d", (int)device);
  const backend *b = backend_of(device);
  if (!b->kernel_find)
    return fail(DLV3_ERR_DEVICE, "cuda_kernel: '%.80s' is CUDA C and runs on a cuda device, not on %s", name,
                dlv3_device_name(device));
  return b->kernel_find(out, source, name, device);
}

/* The launch as a call, for messages; info is memory of the caller. */
static op_call as_call(op_info *info, const kernel_launch *l, tensor *const *in) {
  memset(info, 0, sizeof *info);
  info->name = l->kernel->name;
  info->signature = info->attrs = info->doc = "";
  info->variadic = true;
  return (op_call){.op = OP_COUNT, .info = info, .n_in = l->n, .in = (tensor **)in};
}

static status check_tensor(const op_call *c, const kernel_launch *l, int32_t i) {
  const tensor *t = c->in[i];
  const int32_t at = i + 1;
  if (!storage_alive(t->st))
    return fail_call(c, DLV3_ERR_RELEASED, "argument %d was released, by release() or when its scope ended", (int)at);
  if (t->st->device != l->kernel->device)
    return fail_call(c, DLV3_ERR_DEVICE,
                     "argument %d is on %s, the kernel runs on %s; all its tensors must be on one cuda device, move "
                     "them with x:to(device)",
                     (int)at, dlv3_device_name(t->st->device), dlv3_device_name(l->kernel->device));
  if (!is_dense(t))
    return fail_call(
        c, DLV3_ERR_ARG,
        "argument %d is a strided view, and a kernel sees a pointer to dense elements; give it x:contiguous()",
        (int)at);
  if (dlv3_grad_enabled() && dlv3_requires_grad(t))
    return fail_call(c, DLV3_ERR_AUTOGRAD,
                     "argument %d requires grad, and the kernel has no gradient; call it in a dlv3.Function, under "
                     "dlv3.no_grad, or with x:detach()",
                     (int)at);
  return DLV3_OK;
}

/* Launches it on allocated tensors and increases the versions of those that it may write. */
status kernel_execute(const kernel_launch *l, tensor *const *in) {
  op_info info;
  op_call c = as_call(&info, l, in);
  for (int32_t i = 0; i < l->n; i++) {
    if (!in[i]) continue;
    if (!storage_alive(in[i]->st))
      return fail_call(&c, DLV3_ERR_RELEASED, "argument %d was released since dlv3.compile recorded the call",
                       (int)i + 1);
    TRY(storage_restore(in[i]->st));
  }
  TRY(before_kernel(l->kernel->device));
  const double begin = verbose_level ? dlv3_now() : 0;
  TRY(backend_of(l->kernel->device)->kernel_run(&c, l));
  for (int32_t i = 0; i < l->n; i++)
    if (in[i] && l->kind[i]) storage_changed(in[i]->st, 1);
  const status st = after_kernel(l->kernel->device);
  if (st != DLV3_OK) return fail_more(st, "\n  after the kernel %s", l->kernel->name);
  if (verbose_level && current_executor->synchronizes) verbose_call(&c, "source", -1, dlv3_now() - begin);
  return DLV3_OK;
}

DLV3_API dlv3_status dlv3_kernel_launch(dlv3_kernel *k, const int64_t *grid, const int64_t *block, int64_t shared,
                                        dlv3_tensor *const *tensors, const dlv3_attr *numbers, const int32_t *kinds,
                                        int32_t n) {
  kernel_launch l = {.kernel = k, .shared = shared, .n = n};
  if (n < 0 || n > DLV3_MAX_SLOTS)
    return fail(DLV3_ERR_ARG, "%s: expected at most %d arguments, got %d", k->name, DLV3_MAX_SLOTS, (int)n);
  memcpy(l.grid, grid, sizeof l.grid);
  memcpy(l.block, block, sizeof l.block);
  memcpy(l.kind, kinds, (size_t)n * sizeof *kinds);
  memcpy(l.number, numbers, (size_t)n * sizeof *numbers);
  op_info info;
  op_call c = as_call(&info, &l, tensors);
  for (int32_t i = 0; i < n; i++)
    if (tensors[i]) TRY(check_tensor(&c, &l, i));
  if (interrupt_wanted()) return fail(DLV3_ERR_INTERRUPTED, "interrupted");
  if (!recording()) return kernel_execute(&l, tensors);
  TRY(record_launch(&l, tensors));
  for (int32_t i = 0; i < n; i++)
    if (tensors[i] && kinds[i]) storage_changed(tensors[i]->st, 1);
  return DLV3_OK;
}
