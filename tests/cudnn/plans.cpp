/* plans.cpp - asks the real cuDNN for its plans on a machine without a GPU: are the graphs of
 * kernels/cuda/cudnn.cu what it takes, has it engines for them that cudnn_plan.cu may use, and
 * which.
 *
 *   plans DEVICE.json < problems
 *
 * Since 9.8 cuDNN makes plans for a device of which it has only the properties, as JSON. Here they
 * take the place of a handle wherever the two sources name one; those sources are compiled into
 * this file, all else of CUDA is the stand-in that plays a device. Nothing is run. A problem is a
 * line
 *   PASS DTYPE N C H W K R S OH OW GROUPS STRIDE PADDING DILATION RESIDUAL BIAS RELU TF32
 * with PASS 0 forward, 1 backward by input, 2 backward by weight, DTYPE f32, bf16 or f16, and the
 * rest numbers. Of each it writes "engine N workspace BYTES", or "none". */
#include <cuda_runtime.h>

#define CUDA_HOST_CUDNN_H /* not the stand-in's */
#include CUDNN_HEADER

#include <stdio.h>
#include <string.h>

static cudnnBackendDescriptor_t properties;

static cudnnStatus_t set_attribute(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                                   cudnnBackendAttributeType_t type, int64_t n, const void *values) {
  if (name == CUDNN_ATTR_OPERATIONGRAPH_HANDLE) return CUDNN_STATUS_SUCCESS;
  if (name == CUDNN_ATTR_EXECUTION_PLAN_HANDLE)
    return cudnnBackendSetAttribute(d, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                                    &properties);
  const cudnnStatus_t e = cudnnBackendSetAttribute(d, name, type, n, values);
  if (name != CUDNN_ATTR_ENGINEHEUR_MODE || e != CUDNN_STATUS_SUCCESS) return e;
  return cudnnBackendSetAttribute(d, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &properties);
}

#define cudnnBackendSetAttribute set_attribute
#include "cuda/conv/cudnn.cu"
#include "cuda/conv/cudnn_plan.cu"
#undef cudnnBackendSetAttribute

static bool describe(const char *path) {
  char text[4096];
  FILE *file = fopen(path, "rb");
  const size_t n = file ? fread(text, 1, sizeof text, file) : 0;
  if (file) fclose(file);
  return n && n < sizeof text
         && cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &properties) == CUDNN_STATUS_SUCCESS
         && cudnnBackendSetAttribute(properties, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, (int64_t)n,
                                     text)
                == CUDNN_STATUS_SUCCESS
         && cudnnBackendFinalize(properties) == CUDNN_STATUS_SUCCESS;
}

static bool read_problem(problem *p, const char *line) {
  char dtype[8];
  long long n[18];
  memset(p, 0, sizeof *p);
  if (sscanf(line, "%lld %7s %lld %lld %lld %lld %lld %lld %lld %lld %lld %lld %lld %lld %lld %lld %lld %lld %lld",
             &n[0], dtype, &n[1], &n[2], &n[3], &n[4], &n[5], &n[6], &n[7], &n[8], &n[9], &n[10], &n[11], &n[12],
             &n[13], &n[14], &n[15], &n[16], &n[17])
      != 19)
    return false;
  p->pass = (int32_t)n[0],
  p->dtype = !strcmp(dtype, "bf16")  ? DLV3_BF16
             : !strcmp(dtype, "f16") ? DLV3_F16
                                     : DLV3_F32,
  p->device = 1;
  p->v.n = n[1], p->v.c = n[2], p->v.h = n[3], p->v.w = n[4], p->v.k = n[5], p->v.r = n[6], p->v.s = n[7],
  p->v.oh = n[8], p->v.ow = n[9], p->v.groups = n[10];
  p->v.stride.h = p->v.stride.w = n[11], p->v.padding.h = p->v.padding.w = n[12],
  p->v.dilation.h = p->v.dilation.w = n[13];
  p->residual = (int32_t)n[14], p->bias = (int32_t)n[15], p->relu = (int32_t)n[16], p->tf32 = (int32_t)n[17];
  return true;
}

int main(int argc, char **argv) {
  char line[400];
  problem p;
  if (argc != 2 || !describe(argv[1]))
    return fprintf(stderr, "plans: cuDNN takes no device properties from %s\n",
                   argc == 2 ? argv[1] : "a file that must be given"),
           1;
  while (fgets(line, sizeof line, stdin)) {
    plan *made = NULL;
    if (!read_problem(&p, line)) return fprintf(stderr, "plans: not a problem: %s", line), 1;
    if (cudnn_plan_of(&made, NULL, &p, NULL) != DLV3_OK) return fprintf(stderr, "plans: out of memory\n"), 1;
    if (!made->descriptor) {
      puts("none");
      continue;
    }
    printf("engine %lld workspace %lld\n", (long long)made->engine, (long long)made->workspace);
  }
  return 0;
}
