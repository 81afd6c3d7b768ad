/* matmul.c - the matrix product as tiles in registers (tiles.h), in f32 and f64; f16 and bf16 go
 * through f32. */
#include "cpu/conv/conv.h"
#include "cpu/conv/tiles.h"

#include <stdlib.h>

enum { DEPTH = 128 }; /* of the inner axis at once */

typedef struct {
  const void *a, *b;
  void *y;
  int64_t n, k;
} matmul_job;

#define T float
#define F(name) name##_f32
#include "matmul.inc"
#undef T
#undef F
#define T double
#define F(name) name##_f64
#include "matmul.inc"
#undef T
#undef F

status direct_matmul(op_call *c) {
  bool wide = c->in[0]->dtype == DLV3_F64;
  void *own[3];
  const void *a = conv_operand(c->in[0], wide, &own[0], true), *b = conv_operand(c->in[1], wide, &own[1], true);
  void *y = conv_operand(c->out[0], wide, &own[2], false);
  status st = !a || !b || !y ? fail_call(c, DLV3_ERR_OOM, "out of memory")
              : wide         ? matmul_f64(c, a, b, y)
                             : matmul_f32(c, a, b, y);
  if (st == DLV3_OK && own[2]) store_f32(data_of(c->out[0]), c->out[0]->dtype, own[2], numel(c->out[0]));
  for (int i = 0; i < 3; i++) free(own[i]);
  return st;
}
