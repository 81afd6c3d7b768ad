/* cublaslt.cpp - cuBLASLt on the host, for tests: descriptors that check how they are filled, and a
 * matrix product in plain loops over column-major matrices.
 *
 * The heuristics name one algorithm. Where schemes are allowed that add in any order, or in the
 * type of the result, it is one that gives wrong results, so that a test fails when it is taken. It
 * wants memory on the boundaries that it was promised, the problem it was named for, and a
 * workspace, which it fills with rubbish. */
#include <cublasLt.h>
#include "host.h"

#include <string.h>
#include <vector>

struct cuda_host_cublaslt {
  int started;
};

struct cuda_host_layout {
  cudaDataType_t type;
  int64_t rows, cols, ld, step;
  int32_t batch;
};
struct cuda_host_operation {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  int32_t trans[2];
  uint32_t epilogue;
  const void *bias;
};
enum { A, B, C, Y, OPERANDS };
struct cuda_host_preference {
  uint64_t workspace;
  uint32_t schemes, alignment[OPERANDS];
};

const char *cublasLtGetStatusString(cublasStatus_t e) {
  return e == CUBLAS_STATUS_INVALID_VALUE   ? "invalid value"
         : e == CUBLAS_STATUS_NOT_SUPPORTED ? "not supported"
                                            : "an error";
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t *h) {
  static cuda_host_cublaslt one = {1};
  return *h = &one, CUBLAS_STATUS_SUCCESS;
}

/* -- Descriptors ------------------------------------------------------------------------------- */

static cublasStatus_t store(void *to, size_t size, const void *value, size_t bytes) {
  if (!to || !value || bytes != size) return CUBLAS_STATUS_INVALID_VALUE;
  return memcpy(to, value, size), CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType_t type, uint64_t rows, uint64_t cols,
                                          int64_t ld) {
  if (!rows || !cols || rows > INT32_MAX || cols > INT32_MAX || ld < (int64_t)rows) return CUBLAS_STATUS_INVALID_VALUE;
  return *l = new cuda_host_layout{type, (int64_t)rows, (int64_t)cols, ld, 0, 1}, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) { return delete l, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t name,
                                                const void *value, size_t bytes) {
  if (!l) return CUBLAS_STATUS_INVALID_VALUE;
  return name == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT ? store(&l->batch, sizeof l->batch, value, bytes)
                                                    : store(&l->step, sizeof l->step, value, bytes);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t compute, cudaDataType_t scale) {
  return *d = new cuda_host_operation{compute, scale, {CUBLAS_OP_N, CUBLAS_OP_N}, CUBLASLT_EPILOGUE_DEFAULT, NULL},
         CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) { return delete d, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t name,
                                              const void *value, size_t bytes) {
  if (!d) return CUBLAS_STATUS_INVALID_VALUE;
  switch (name) {
  case CUBLASLT_MATMUL_DESC_TRANSA: return store(&d->trans[A], sizeof d->trans[A], value, bytes);
  case CUBLASLT_MATMUL_DESC_TRANSB: return store(&d->trans[B], sizeof d->trans[B], value, bytes);
  case CUBLASLT_MATMUL_DESC_EPILOGUE: return store(&d->epilogue, sizeof d->epilogue, value, bytes);
  default: return store(&d->bias, sizeof d->bias, value, bytes);
  }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p) {
  return *p = new cuda_host_preference{0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}}, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) { return delete p, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t name, const void *value,
                                                    size_t bytes) {
  if (!p) return CUBLAS_STATUS_INVALID_VALUE;
  switch (name) {
  case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return store(&p->workspace, sizeof p->workspace, value, bytes);
  case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return store(&p->schemes, sizeof p->schemes, value, bytes);
  default:
    return store(&p->alignment[name - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], sizeof p->alignment[0], value,
                 bytes);
  }
}

/* -- Heuristics -------------------------------------------------------------------------------- */

enum { WORKSPACE = 4096, BOUNDARY = 16 };

/* An algorithm is made of the problem it is for, its workspace, the boundaries it relies on, and
 * whether it is a wrong one. */
enum { PROBLEM, BYTES, ALIGNED, WRONG = ALIGNED + OPERANDS, WORDS };
static_assert(WORDS <= 8, "the words of an algorithm");

static void mix(uint64_t *h, uint64_t v) { *h = (*h ^ v) * 1099511628211ull; }
static uint64_t problem_of(const cuda_host_operation &d, const cuda_host_layout *const *l) {
  uint64_t h = 14695981039346656037ull;
  mix(&h, d.compute), mix(&h, d.scale), mix(&h, (uint64_t)d.trans[A]), mix(&h, (uint64_t)d.trans[B]),
      mix(&h, d.epilogue);
  for (int i = 0; i < OPERANDS; i++)
    mix(&h, l[i]->type), mix(&h, (uint64_t)l[i]->rows), mix(&h, (uint64_t)l[i]->cols), mix(&h, (uint64_t)l[i]->ld),
        mix(&h, (uint64_t)l[i]->step), mix(&h, (uint64_t)l[i]->batch);
  return h;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t y, cublasLtMatmulPreference_t p, int most,
                                              cublasLtMatmulHeuristicResult_t *results, int *n) {
  const cuda_host_layout *l[OPERANDS] = {a, b, c, y};
  if (!h || !d || !a || !b || !c || !y || !p || most < 1) return CUBLAS_STATUS_INVALID_VALUE;
  memset(results, 0, sizeof *results);
  uint64_t *algorithm = results->algo.data;
  algorithm[PROBLEM] = problem_of(*d, l), algorithm[BYTES] = p->workspace < WORKSPACE ? 0 : WORKSPACE;
  for (int i = 0; i < OPERANDS; i++) algorithm[ALIGNED + i] = p->alignment[i];
  algorithm[WRONG] = (p->schemes & (CUBLASLT_REDUCTION_SCHEME_INPLACE | CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE)) != 0;
  results->workspaceSize = (size_t)algorithm[BYTES], results->state = CUBLAS_STATUS_SUCCESS;
  return *n = 1, CUBLAS_STATUS_SUCCESS;
}

/* -- The product ------------------------------------------------------------------------------- */

static double get(cudaDataType_t type, const void *data, int64_t at) {
  switch (type) {
  case CUDA_R_64F: return ((const double *)data)[at];
  case CUDA_R_32F: return (double)((const float *)data)[at];
  case CUDA_R_16F: return (double)((const _Float16 *)data)[at];
  default: {
    const uint32_t bits = (uint32_t)((const uint16_t *)data)[at] << 16;
    float f;
    memcpy(&f, &bits, 4);
    return (double)f;
  }
  }
}
static void put(cudaDataType_t type, void *data, int64_t at, double v) {
  const float f = (float)v;
  switch (type) {
  case CUDA_R_64F: ((double *)data)[at] = v; break;
  case CUDA_R_32F: ((float *)data)[at] = f; break;
  case CUDA_R_16F: ((_Float16 *)data)[at] = (_Float16)f; break;
  default: {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    ((uint16_t *)data)[at] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
  }
}
static uintptr_t bytes_of(cudaDataType_t type) { return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2; }

/* Types go together as in NVIDIA's table: f64 throughout; operands of one type, the result of that
 * type or f32. */
static bool types_agree(const cuda_host_operation &d, const cuda_host_layout *const *l) {
  const cudaDataType_t in = l[A]->type, out = l[Y]->type;
  if (l[B]->type != in || l[C]->type != out) return false;
  if (d.compute == CUBLAS_COMPUTE_64F) return d.scale == CUDA_R_64F && in == CUDA_R_64F && out == CUDA_R_64F;
  if (d.scale != CUDA_R_32F || in == CUDA_R_64F || (d.compute == CUBLAS_COMPUTE_32F_FAST_TF32 && in != CUDA_R_32F))
    return false;
  return out == in || out == CUDA_R_32F;
}

/* What every operand must be beside the others: its size, its batch, its matrices apart where they
 * are written. */
static bool sizes_agree(const cuda_host_operation &d, const cuda_host_layout *const *l) {
  const int64_t rows = d.trans[A] ? l[A]->cols : l[A]->rows, k = d.trans[A] ? l[A]->rows : l[A]->cols,
                cols = d.trans[B] ? l[B]->rows : l[B]->cols;
  if ((d.trans[B] ? l[B]->cols : l[B]->rows) != k || l[Y]->rows != rows || l[Y]->cols != cols || l[C]->rows != rows
      || l[C]->cols != cols)
    return false;
  for (int i = 0; i < OPERANDS; i++)
    if (l[i]->batch != l[Y]->batch || l[i]->batch < 1 || l[i]->ld < l[i]->rows || (l[i]->batch == 1 && l[i]->step))
      return false;
  for (int i = 0; i < OPERANDS; i++) { /* one matrix for all is only read */
    const int64_t extent = (l[i]->cols - 1) * l[i]->ld + l[i]->rows;
    if (l[i]->batch > 1 && l[i]->step < extent && (l[i]->step || i == Y || i == C)) return false;
  }
  return true;
}

static bool epilogue_agrees(const cuda_host_operation &d, cudaDataType_t type) {
  const bool bias = d.epilogue & CUBLASLT_EPILOGUE_BIAS;
  switch (d.epilogue) {
  case CUBLASLT_EPILOGUE_DEFAULT:
  case CUBLASLT_EPILOGUE_RELU:
  case CUBLASLT_EPILOGUE_BIAS:
  case CUBLASLT_EPILOGUE_RELU_BIAS: break;
  default: return false;
  }
  return bias == (d.bias != NULL) && (uintptr_t)d.bias % bytes_of(type) == 0;
}

/* A product that was checked, with copies of all that describes it. */
struct work {
  cuda_host_operation d;
  cuda_host_layout la, lb, lc, ly;
  const void *a, *b, *c;
  void *y, *workspace;
  double by, more;
  size_t bytes;
  bool wrong;
};

static void multiply(const work &w) {
  const cuda_host_operation *d = &w.d;
  const cuda_host_layout *la = &w.la, *lb = &w.lb, *lc = &w.lc, *ly = &w.ly;
  const int64_t depth = d->trans[A] ? la->rows : la->cols;
  if (w.bytes) memset(w.workspace, 0x5a, w.bytes);
  std::vector<double> u((size_t)depth),
      v((size_t)(depth * ly->cols)); /* a row of the first; all of the second, column after column */
  for (int64_t p = 0; p < ly->batch; p++) {
    for (int64_t j = 0; j < ly->cols; j++)
      for (int64_t i = 0; i < depth; i++)
        v[(size_t)(j * depth + i)] = get(lb->type, w.b, p * lb->step + (d->trans[B] ? i * lb->ld + j : j * lb->ld + i));
    for (int64_t r = 0; r < ly->rows; r++) {
      for (int64_t i = 0; i < depth; i++)
        u[(size_t)i] = get(la->type, w.a, p * la->step + (d->trans[A] ? r * la->ld + i : i * la->ld + r));
      for (int64_t j = 0; j < ly->cols; j++) {
        double sum = w.wrong ? 1 : 0;
        for (int64_t i = 0; i < depth; i++) sum += u[(size_t)i] * v[(size_t)(j * depth + i)];
        sum *= w.by;
        if (w.more != 0) sum += w.more * get(lc->type, w.c, p * lc->step + j * lc->ld + r); /* else c is not read */
        if (d->bias) sum += get(ly->type, d->bias, r);
        if (d->epilogue & CUBLASLT_EPILOGUE_RELU) sum = sum < 0 ? 0 : sum;
        put(ly->type, w.y, p * ly->step + j * ly->ld + r, sum);
      }
    }
  }
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t d, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t la, const void *b, cublasLtMatrixLayout_t lb, const void *beta,
                              const void *c, cublasLtMatrixLayout_t lc, void *y, cublasLtMatrixLayout_t ly,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
  if (!h || !d || !alpha || !beta || !la || !lb || !lc || !ly || !algo) return CUBLAS_STATUS_INVALID_VALUE;
  const cuda_host_layout *l[OPERANDS] = {la, lb, lc, ly};
  const void *data[OPERANDS] = {a, b, c, y};
  const uint64_t *algorithm = algo->data;
  if (!types_agree(*d, l) || !sizes_agree(*d, l) || !epilogue_agrees(*d, ly->type)
      || algorithm[PROBLEM] != problem_of(*d, l))
    return CUBLAS_STATUS_INVALID_VALUE;
  for (int i = 0; i < OPERANDS; i++)
    if (!data[i] || (uintptr_t)data[i] % algorithm[ALIGNED + i]) return CUBLAS_STATUS_INVALID_VALUE;
  if (workspace_bytes < algorithm[BYTES] || (algorithm[BYTES] && (!workspace || (uintptr_t)workspace % BOUNDARY)))
    return CUBLAS_STATUS_INVALID_VALUE;
  if (!cuda_host_launchable(dim3(1), dim3(1), stream)) return CUBLAS_STATUS_EXECUTION_FAILED;
  const work w = {*d,
                  *la,
                  *lb,
                  *lc,
                  *ly,
                  a,
                  b,
                  c,
                  y,
                  workspace,
                  get(d->scale, alpha, 0),
                  get(d->scale, beta, 0),
                  (size_t)algorithm[BYTES],
                  algorithm[WRONG] != 0};
  const void *used[] = {a, b, c, y, workspace, d->bias};
  return cuda_host_do(stream, used, sizeof used, [=] { multiply(w); }) == cudaSuccess ? CUBLAS_STATUS_SUCCESS
                                                                                      : CUBLAS_STATUS_EXECUTION_FAILED;
}
