/* cublaslt.cu - matrix products by cuBLASLt: matmul, and 1x1 convolutions, whose channels-last maps
 * are matrices as they lie.
 *
 * Our matrices are row-major, cuBLASLt's column-major: the memory of our r [m,n] is its r^T [n,m],
 * with n elements from one column to the next. So y = left right is asked for as y^T = right^T
 * left^T: its first operand is our right one, its rows are our columns, and an operand that we are
 * given transposed it is given transposed. Its bias, one number a row, is one a column of ours: a
 * channel. Nothing is copied for this.
 *
 * Its heuristics name an algorithm for a problem (sizes, dtypes, epilogue); the first is kept with
 * the descriptors in a table of bounded size. Sums of bf16 and f16 are in f32; f32 convolutions may
 * use TF32 where the runtime allows it, matrix products do not, as in PyTorch. A sum may be split
 * among blocks only where the parts are kept in the type of the sum and added by a step of their
 * own, so in one order, unless DLV3_NONDETERMINISTIC=1. Algorithms are not timed.
 *
 * The library is opened when the first product comes, not linked: it takes half a second, which who
 * only asks for a device should not wait for. Where it is not there everything is declined. */
#include "conv.h"

#include <dlfcn.h>
#include <stdio.h>

#include <cublasLt.h>

#include "cuda/support/vendor.h"

enum { SETS = 128, WAYS = 4 };
static const uint64_t most_workspace = (uint64_t)32 << 20; /* what NVIDIA advises for sm_90 */

/* y [batch,m,n] = left [m,k] right [k,n], row-major; the whole decides a plan and is compared as
 * bytes. */
typedef struct {
  int64_t m, n, k, batch, left_step, right_step; /* from a matrix to the next of the batch; 0: one for all  */
  int16_t trans_left, trans_right;               /* it lies there as [k,m], [n,k]                            */
  int32_t dtype, y_dtype, device, tf32;          /* tf32: f32 operands may be rounded to it                  */
  int32_t bias, relu, add;                       /* y = act(left right + add + bias)                         */
} product;
static_assert(sizeof(product) == 6 * sizeof(int64_t) + 2 * sizeof(int16_t) + 7 * sizeof(int32_t), "no gaps");

typedef struct {
  product of;
  int64_t used; /* the call that used it last; 0: nothing is here           */
  bool found;   /* cuBLASLt has an algorithm for it                         */
  cublasLtMatmulDesc_t operation;
  cublasLtMatrixLayout_t left, right, y;
  cublasLtMatmulAlgo_t algorithm;
  int64_t workspace;
} plan;

static plan plans[SETS][WAYS];
static int64_t calls;
static cublasLtHandle_t handles[MOST_DEVICES];

/* -- The library ------------------------------------------------------------------------------- */

#define FUNCTIONS(F) \
  F(GetStatusString) \
  F(Create) F(MatrixLayoutCreate) F(MatrixLayoutDestroy) F(MatrixLayoutSetAttribute) F(MatmulDescCreate) \
      F(MatmulDescDestroy) F(MatmulDescSetAttribute) F(MatmulPreferenceCreate) F(MatmulPreferenceDestroy) \
          F(MatmulPreferenceSetAttribute) F(MatmulAlgoGetHeuristic) F(Matmul)

static struct {
#define F(name) decltype(&cublasLt##name) name;
  FUNCTIONS(F)
#undef F
} lt;

#define TEXT_OF_(x) #x
#define TEXT_OF(x) TEXT_OF_(x)

static bool open_library() {
  static bool tried, found;
  if (tried) return found;
  tried = true;
  void *library = LIBRARY("libcublasLt.so." TEXT_OF(CUBLAS_VER_MAJOR));
  found = library != NULL;
#define F(name) found = found && (lt.name = FUNCTION_OF(library, cublasLt##name)) != NULL;
  FUNCTIONS(F)
#undef F
  return found;
}

/* Of the header: asking the library would open it. */
void cublaslt_version(char *text, size_t n) {
  snprintf(text, n, ", cublaslt %d.%d.%d", CUBLAS_VER_MAJOR, CUBLAS_VER_MINOR, CUBLAS_VER_PATCH);
}

/* In functions that return what cuBLASLt says. */
#define DO(call) \
  do { \
    const cublasStatus_t do_status_ = (call); \
    if (do_status_ != CUBLAS_STATUS_SUCCESS) return do_status_; \
  } while (0)

static status cublaslt_failed(const op_call *c, const char *what, cublasStatus_t e) {
  return fail_call(c, e == CUBLAS_STATUS_ALLOC_FAILED ? DLV3_ERR_OOM : DLV3_ERR_DEVICE, "cublaslt: %s: %s", what,
                   lt.GetStatusString(e));
}

/* -- Descriptors ------------------------------------------------------------------------------- */

static cudaDataType_t type_of(int32_t dtype) {
  return dtype == DLV3_F64    ? CUDA_R_64F
         : dtype == DLV3_BF16 ? CUDA_R_16BF
         : dtype == DLV3_F16  ? CUDA_R_16F
                              : CUDA_R_32F;
}

static cublasComputeType_t compute_of(const product *v) {
  if (v->dtype == DLV3_F64) return CUBLAS_COMPUTE_64F;
  return v->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

/* Of a row-major matrix, or of batch of them. */
static cublasStatus_t layout_new(cublasLtMatrixLayout_t *out, int32_t dtype, int64_t rows, int64_t columns,
                                 int64_t batch, int64_t step) {
  const int32_t count = (int32_t)batch;
  DO(lt.MatrixLayoutCreate(out, type_of(dtype), (uint64_t)columns, (uint64_t)rows, columns));
  if (batch == 1) return CUBLAS_STATUS_SUCCESS;
  DO(lt.MatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count));
  return lt.MatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step);
}

static cublasStatus_t set_bias(const plan *p, const void *bias) {
  return p->of.bias ? lt.MatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias)
                    : CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t describe(plan *p, const void *bias) {
  const product *v = &p->of;
  const int32_t first = v->trans_right ? CUBLAS_OP_T : CUBLAS_OP_N, second = v->trans_left ? CUBLAS_OP_T : CUBLAS_OP_N;
  const uint32_t epilogue = v->relu   ? (v->bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU)
                            : v->bias ? CUBLASLT_EPILOGUE_BIAS
                                      : CUBLASLT_EPILOGUE_DEFAULT;
  DO(lt.MatmulDescCreate(&p->operation, compute_of(v), v->dtype == DLV3_F64 ? CUDA_R_64F : CUDA_R_32F));
  DO(lt.MatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first));
  DO(lt.MatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second));
  DO(lt.MatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
  DO(set_bias(p, bias)); /* before the heuristics, which look at its boundary */
  DO(layout_new(&p->left, v->dtype, v->trans_left ? v->k : v->m, v->trans_left ? v->m : v->k, v->batch, v->left_step));
  DO(layout_new(&p->right, v->dtype, v->trans_right ? v->n : v->k, v->trans_right ? v->k : v->n, v->batch,
                v->right_step));
  return layout_new(&p->y, v->y_dtype, v->m, v->n, v->batch, v->m * v->n);
}

static void forget(plan *p) {
  if (p->operation) lt.MatmulDescDestroy(p->operation);
  if (p->left) lt.MatrixLayoutDestroy(p->left);
  if (p->right) lt.MatrixLayoutDestroy(p->right);
  if (p->y) lt.MatrixLayoutDestroy(p->y);
  memset(p, 0, sizeof *p);
}

/* -- Plans ------------------------------------------------------------------------------------- */

/* What the algorithm may need and do. */
static cublasStatus_t prefer(cublasLtMatmulPreference_t preference) {
  static const cublasLtMatmulPreferenceAttributes_t operands[] = {
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
  const uint32_t alignment = ALIGNMENT, any = CUBLASLT_REDUCTION_SCHEME_MASK,
                 in_order = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  const uint32_t schemes = switched("DLV3_NONDETERMINISTIC", false) ? any : in_order;
  for (cublasLtMatmulPreferenceAttributes_t operand : operands)
    DO(lt.MatmulPreferenceSetAttribute(preference, operand, &alignment, sizeof alignment));
  DO(lt.MatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes));
  return lt.MatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most_workspace,
                                         sizeof most_workspace);
}

/* The first algorithm that the heuristics name, if they name one. */
static cublasStatus_t search(plan *p, cublasLtHandle_t handle) {
  cublasLtMatmulPreference_t preference;
  cublasLtMatmulHeuristicResult_t best;
  int n = 0;
  DO(lt.MatmulPreferenceCreate(&preference));
  const cublasStatus_t e = prefer(preference);
  if (e == CUBLAS_STATUS_SUCCESS)
    p->found = lt.MatmulAlgoGetHeuristic(handle, p->operation, p->right, p->left, p->y, p->y, preference, 1, &best, &n)
                   == CUBLAS_STATUS_SUCCESS
               && n == 1 && best.state == CUBLAS_STATUS_SUCCESS && best.workspaceSize <= most_workspace;
  lt.MatmulPreferenceDestroy(preference);
  if (p->found) p->algorithm = best.algo, p->workspace = (int64_t)best.workspaceSize;
  return e;
}

/* The plan of a product: one that is there, or a new one in place of that which was not used for
 * longest. */
static status plan_of(plan **out, const op_call *c, const product *v, cublasLtHandle_t handle, const void *bias) {
  plan *set = plans[hash_of(v, sizeof *v) % SETS], *oldest = set;
  calls++;
  for (int i = 0; i < WAYS; i++) {
    if (set[i].used && !memcmp(&set[i].of, v, sizeof *v)) return set[i].used = calls, *out = &set[i], DLV3_OK;
    if (set[i].used < oldest->used) oldest = &set[i];
  }
  forget(oldest);
  oldest->of = *v;
  cublasStatus_t e = describe(oldest, bias);
  if (e == CUBLAS_STATUS_SUCCESS) e = search(oldest, handle);
  cudaGetLastError(); /* algorithms that were not suitable leave errors behind */
  if (e != CUBLAS_STATUS_SUCCESS) return forget(oldest), cublaslt_failed(c, "the product can not be described", e);
  return oldest->used = calls, *out = oldest, DLV3_OK;
}

static status handle_of(cublasLtHandle_t *out, const op_call *c, int32_t device) {
  stream_of(c); /* makes the device the current one */
  const cublasStatus_t e = handles[device] ? CUBLAS_STATUS_SUCCESS : lt.Create(&handles[device]);
  if (e != CUBLAS_STATUS_SUCCESS) return cublaslt_failed(c, "it can not be started", e);
  return *out = handles[device], DLV3_OK;
}

/* y = act(left right + add + bias); add may be y. Declines before it touches y. */
static status run_product(const op_call *c, const product *v, const void *left, const void *right, const void *bias,
                          const void *add, void *y) {
  static const float one = 1, zero = 0;
  static const double wide_one = 1, wide_zero = 0;
  const bool f64 = v->dtype == DLV3_F64;
  const void *alpha = f64 ? (const void *)&wide_one : &one, *beta = v->add ? alpha
                                                                    : f64  ? (const void *)&wide_zero
                                                                           : &zero;
  cublasLtHandle_t handle;
  plan *p;
  storage *scratch = NULL;
  if (!v->m || !v->n || !v->k || !v->batch) return DECLINED("nothing to do");
  if (v->m > INT32_MAX || v->n > INT32_MAX || v->k > INT32_MAX || v->batch > INT32_MAX)
    return DECLINED("a size beyond 32 bits");
  if (!aligned(left) || !aligned(right) || !aligned(y) || (v->add && !aligned(add)))
    return DECLINED("not on a boundary of 16 bytes");
  if (!open_library()) return DECLINED("libcublasLt.so can not be opened");
  TRY(handle_of(&handle, c, v->device));
  TRY(plan_of(&p, c, v, handle, bias));
  if (!p->found) return DECLINED("cublaslt has no algorithm for it");
  if (p->workspace) TRY(scratch_new(&scratch, c, p->workspace));
  cublasStatus_t e = set_bias(p, bias);
  if (e == CUBLAS_STATUS_SUCCESS)
    e = lt.Matmul(handle, p->operation, alpha, right, p->right, left, p->left, beta, v->add ? add : y, p->y, y, p->y,
                  &p->algorithm, scratch ? scratch->data : NULL, (size_t)p->workspace, stream_of(c));
  if (scratch) storage_drop(scratch);
  if (e == CUBLAS_STATUS_SUCCESS) return LAUNCHED(c);
  cudaGetLastError(); /* or the next launch would be taken for the failed one */
  return cublaslt_failed(c, "the product failed", e);
}

static product product_of(const op_call *c, int32_t dtype, int64_t m, int64_t n, int64_t k) {
  product v;
  memset(&v, 0, sizeof v);
  v.m = m, v.n = n, v.k = k, v.batch = 1, v.dtype = v.y_dtype = dtype, v.device = device_tensor(c)->st->device;
  return v;
}

/* -- matmul ------------------------------------------------------------------------------------ */

status cublaslt_matmul(op_call *c) {
  const matmul_attr *at = (const matmul_attr *)c->attr;
  const tensor *a = c->in[0], *b = c->in[1], *y = c->out[0];
  const int64_t *sa = a->size + a->ndim - 2, *sb = b->size + b->ndim - 2;
  product v = product_of(c, y->dtype, sa[at->trans_a ? 1 : 0], sb[at->trans_b ? 0 : 1], sa[at->trans_a ? 0 : 1]);
  v.trans_left = at->trans_a != 0, v.trans_right = at->trans_b != 0;
  if (y->ndim == 3) v.batch = y->size[0];
  if (a->ndim == 3) v.left_step = sa[0] * sa[1];
  if (b->ndim == 3) v.right_step = sb[0] * sb[1];
  if (b->ndim == 2 && !v.trans_left) v.m *= v.batch, v.batch = 1; /* one matrix below the other */
  if (v.batch == 1) v.left_step = v.right_step = 0;
  return run_product(c, &v, data_of(a), data_of(b), NULL, NULL, data_of(y));
}

/* -- Convolution: rows are pixels -------------------------------------------------------------- */

static product product_of_conv(const op_call *c, int32_t dtype, int64_t m, int64_t n, int64_t k) {
  product v = product_of(c, dtype, m, n, k);
  v.tf32 = dtype == DLV3_F32 && tf32_allowed();
  return v;
}

static bool is_product(const conv *v) {
  return v->r == 1 && v->s == 1 && v->groups == 1 && v->stride.h == 1 && v->stride.w == 1 && !v->padding.h
         && !v->padding.w;
}
#define NOT_PRODUCT DECLINED("not 1x1 with stride 1, no padding and one group")

/* y [pixels,k] = act(x [pixels,c] w^T + residual + bias), w [k,c] */
status cublaslt_conv2d(op_call *c) {
  const conv v = conv_of(c);
  const tensor *x = c->in[0], *residual = c->in[3];
  const int64_t act = ((const conv2d_attr *)c->attr)->activation;
  const void *w = NULL, *bias = NULL;
  product p = product_of_conv(c, x->dtype, v.n * v.oh * v.ow, v.k, v.c);
  if (!is_product(&v)) return NOT_PRODUCT;
  if (c->in[4]) return DECLINED("a scale");
  if (act != ACT_NONE && act != ACT_RELU) return DECLINED("an activation other than relu");
  p.trans_right = 1, p.bias = c->in[2] != NULL, p.relu = act == ACT_RELU, p.add = residual != NULL;
  TRY(weight_in(&w, c, c->in[1], x->dtype));
  if (p.bias) TRY(weight_in(&bias, c, c->in[2], x->dtype));
  return run_product(c, &p, data_of(x), w, bias, residual ? data_of(residual) : NULL, data_of(c->out[0]));
}

/* grad_x [pixels,c] (+)= grad_y [pixels,k] w */
status cublaslt_conv2d_backward_input(op_call *c) {
  const conv v = conv_of(c);
  const tensor *grad_y = c->in[0];
  const void *w = NULL;
  product p = product_of_conv(c, grad_y->dtype, v.n * v.oh * v.ow, v.c, v.k);
  if (!is_product(&v)) return NOT_PRODUCT;
  p.add = c->in[2] != NULL;
  TRY(weight_in(&w, c, c->in[1], grad_y->dtype));
  return run_product(c, &p, data_of(grad_y), w, NULL, c->in[2] ? data_of(c->in[2]) : NULL, data_of(grad_x_of(c)));
}

/* grad_w [k,c] += grad_y^T [k,pixels] x, in the parameters' dtype */
status cublaslt_conv2d_backward_weight(op_call *c) {
  const conv v = conv_of(c);
  const tensor *x = c->in[0], *grad_y = c->in[1], *grad_w = c->in[2];
  product p = product_of_conv(c, x->dtype, v.k, v.c, v.n * v.oh * v.ow);
  if (!is_product(&v)) return NOT_PRODUCT;
  p.trans_left = 1, p.add = 1, p.y_dtype = grad_w->dtype;
  TRY(run_product(c, &p, data_of(grad_y), data_of(x), NULL, data_of(grad_w), data_of(grad_w)));
  return c->in[3] ? add_bias_gradient(c, c->in[3], grad_y) : DLV3_OK;
}
