/* mpi.c - the functions of mpi_library.h, on whichever MPI it is compiled against. */
#include <mpi.h>

#include <stdio.h>
#include <string.h>

#include "collectives/mpi_library.h"
#include "dlv3.h"
#include "shared/half.h"

static MPI_Comm channels[CHANNELS];
static MPI_Op sum_of_half[2]; /* f16, bf16 */

/* The message of an MPI error code; NULL for success. */
static const char *error_text(int code) {
  static _Thread_local char text[MPI_MAX_ERROR_STRING + 1];
  int length = 0;
  if (code == MPI_SUCCESS) return NULL;
  if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) return "MPI failed and does not say why";
  text[length] = 0;
  return text;
}

#define TRY(call) \
  do { \
    const char *text_ = error_text(call); \
    if (text_) return text_; \
  } while (0)

/* -- Sums of half precision: MPI has none ------------------------------------------------------- */

static void add_bf16(void *in, void *inout, int *n, MPI_Datatype *type) {
  const bf16 *x = in;
  bf16 *y = inout;
  (void)type;
  for (int i = 0; i < *n; i++) y[i] = f32_to_bf16(bf16_to_f32(x[i]) + bf16_to_f32(y[i]));
}

static void add_f16(void *in, void *inout, int *n, MPI_Datatype *type) {
  const f16 *x = in;
  f16 *y = inout;
  (void)type;
  for (int i = 0; i < *n; i++) y[i] = f32_to_f16(f16_to_f32(x[i]) + f16_to_f32(y[i]));
}

static MPI_Datatype type_of(int32_t dtype) {
  switch (dtype) {
  case DLV3_U8: return MPI_UINT8_T;
  case DLV3_I32: return MPI_INT32_T;
  case DLV3_I64: return MPI_INT64_T;
  case DLV3_F32: return MPI_FLOAT;
  case DLV3_F64: return MPI_DOUBLE;
  default: return MPI_UINT16_T;
  }
}

static MPI_Op op_of(int32_t dtype) {
  return dtype == DLV3_F16 ? sum_of_half[0] : dtype == DLV3_BF16 ? sum_of_half[1] : MPI_SUM;
}

/* -- Opening and closing ------------------------------------------------------------------------ */

static const char *open_world(mpi_place *place) {
  MPI_Comm host;
  int provided = 0, rank, size, local_rank, local_size;
  TRY(MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided));
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  for (int i = 0; i < CHANNELS; i++) {
    TRY(MPI_Comm_dup(MPI_COMM_WORLD, &channels[i]));
    TRY(MPI_Comm_set_errhandler(channels[i], MPI_ERRORS_RETURN));
  }
  TRY(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
  TRY(MPI_Comm_size(MPI_COMM_WORLD, &size));
  TRY(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host));
  TRY(MPI_Comm_rank(host, &local_rank));
  TRY(MPI_Comm_size(host, &local_size));
  TRY(MPI_Comm_free(&host));
  TRY(MPI_Op_create(add_f16, 1, &sum_of_half[0]));
  TRY(MPI_Op_create(add_bf16, 1, &sum_of_half[1]));
  *place = (mpi_place){rank, size, local_rank, local_size, provided == MPI_THREAD_MULTIPLE};
  return NULL;
}

static void close_world(void) { MPI_Finalize(); }
static void abort_world(int32_t code) { MPI_Abort(MPI_COMM_WORLD, code); }

/* -- Collectives -------------------------------------------------------------------------------- */

/* A request as mpi_library.h keeps it: its bytes, whatever type this MPI gives it. */
_Static_assert(sizeof(MPI_Request) <= sizeof(mpi_request), "a request fits");
static const char *started(mpi_request *out, int code, MPI_Request request) {
  memset(out, 0, sizeof *out);
  memcpy(out, &request, sizeof request);
  return error_text(code);
}

static const char *sum(mpi_request *out, int32_t channel, void *x, int64_t n, int32_t dtype) {
  MPI_Request r = MPI_REQUEST_NULL;
  int code = MPI_Iallreduce(MPI_IN_PLACE, x, (int)n, type_of(dtype), op_of(dtype), channels[channel], &r);
  return started(out, code, r);
}

static const char *gather(mpi_request *out, int32_t channel, const void *x, void *all, int64_t bytes) {
  MPI_Request r = MPI_REQUEST_NULL;
  int code = MPI_Iallgather(x, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, channels[channel], &r);
  return started(out, code, r);
}

static const char *broadcast(mpi_request *out, int32_t channel, void *x, int64_t bytes, int32_t root) {
  MPI_Request r = MPI_REQUEST_NULL;
  int code = MPI_Ibcast(x, (int)bytes, MPI_BYTE, root, channels[channel], &r);
  return started(out, code, r);
}

static const char *barrier(mpi_request *out, int32_t channel) {
  MPI_Request r = MPI_REQUEST_NULL;
  int code = MPI_Ibarrier(channels[channel], &r);
  return started(out, code, r);
}

static const char *test(mpi_request *request, bool *done) {
  MPI_Request r;
  int flag = 0;
  memcpy(&r, request, sizeof r);
  int code = MPI_Test(&r, &flag, MPI_STATUS_IGNORE);
  *done = flag != 0;
  return started(request, code, r);
}

static const char *sum_and_wait(int32_t channel, void *x, int64_t n, int32_t dtype) {
  return error_text(MPI_Allreduce(MPI_IN_PLACE, x, (int)n, type_of(dtype), op_of(dtype), channels[channel]));
}

static const mpi_library table = {open_world, close_world, abort_world, sum,         gather,
                                  broadcast,  barrier,     test,        sum_and_wait};

__attribute__((visibility("default"))) extern const char dlv3_contract[];
const char dlv3_contract[] = DLV3_MPI_CONTRACT;
__attribute__((visibility("default"))) const mpi_library *dlv3_mpi_library(void);
const mpi_library *dlv3_mpi_library(void) { return &table; }
