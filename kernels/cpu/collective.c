/* collective.c - ops over all ranks on the cpu: MPI (runtime/collectives/world.c) does the work. */
#include "collectives/world.h"
#include "core/backend.h"

static status mpi_all_reduce_(op_call *c) {
  const tensor *x = c->in[0];
  return world_sum(data_of(x), numel(x), x->dtype);
}
IMPLS(all_reduce_, {"ref", mpi_all_reduce_});

static status mpi_all_reduce_start_(op_call *c) {
  const tensor *x = c->in[0];
  return world_sum_start(data_of(x), numel(x), x->dtype);
}
IMPLS(all_reduce_start_, {"ref", mpi_all_reduce_start_});

static status mpi_all_reduce_finish_(op_call *c) { return world_sum_finish(data_of(c->in[0]), tensor_bytes(c->in[0])); }
IMPLS(all_reduce_finish_, {"ref", mpi_all_reduce_finish_});

static status mpi_all_gather(op_call *c) {
  return world_gather(data_of(c->in[0]), data_of(c->out[0]), tensor_bytes(c->in[0]));
}
IMPLS(all_gather, {"ref", mpi_all_gather});

static status mpi_broadcast_(op_call *c) {
  const broadcast__attr *a = c->attr;
  return world_broadcast(data_of(c->in[0]), tensor_bytes(c->in[0]), (int32_t)a->root);
}
IMPLS(broadcast_, {"ref", mpi_broadcast_});

static status mpi_barrier(op_call *c) {
  (void)c;
  return world_barrier();
}
IMPLS(barrier, {"ref", mpi_barrier});
