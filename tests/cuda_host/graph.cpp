/* graph.cpp - stream capture and graphs on the host, for tests.
 *
 * What is put on a captured stream becomes a node, a closure, and runs when the graph is launched.
 * Calls that wait, or that take or free memory, spoil a capture as on hardware. A graph remembers
 * the blocks of device memory whose addresses its nodes were given, also inside of the arguments of
 * kernels, and aborts when it is launched without one of them. */
#include "host.h"

#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

struct cuda_host_graph {
  int device;
  std::vector<std::function<void()>> nodes;
  std::map<const char *, long> blocks; /* by address: which of the blocks that were ever there */
};

struct known_block {
  size_t bytes;
  long serial;
};
static std::map<const char *, known_block> blocks;
static long serials;
static cuda_host_stream *capturing; /* one at a time */
static cudaStreamCaptureMode capture_mode, thread_mode = cudaStreamCaptureModeGlobal;
static int64_t n_kernels, n_graphs;
int64_t cuda_host_waits;

/* How many kernels, convolutions and copies were put on streams outside of graphs (0), graphs (1),
 * waits for a stream (2). For tests. */
extern "C" __attribute__((visibility("default"))) int64_t cuda_host_count(int what) {
  return what == 2 ? cuda_host_waits : what ? n_graphs : n_kernels;
}

void cuda_host_block(const void *p, size_t n) { blocks[(const char *)p] = known_block{n, ++serials}; }
void cuda_host_block_gone(const void *p) { blocks.erase((const char *)p); }

bool cuda_host_unsafe() {
  if (!capturing || capture_mode == cudaStreamCaptureModeRelaxed || thread_mode == cudaStreamCaptureModeRelaxed)
    return false;
  capturing->invalid = true;
  last_error = cudaErrorStreamCaptureUnsupported;
  return true;
}

static void note_blocks(cudaGraph_t graph, const void *used, size_t bytes) {
  for (size_t at = 0; at + sizeof(char *) <= bytes; at += sizeof(char *)) {
    const char *p;
    memcpy(&p, (const char *)used + at, sizeof p);
    auto block = blocks.upper_bound(p);
    if (block == blocks.begin()) continue;
    --block;
    if (p < block->first + block->second.bytes) graph->blocks[block->first] = block->second.serial;
  }
}

cudaError_t cuda_host_do(cudaStream_t s, const void *used, size_t bytes, std::function<void()> work) {
  if (!s->captured) return n_kernels++, work(), cudaSuccess;
  if (s->invalid) return last_error = cudaErrorStreamCaptureInvalidated;
  note_blocks(s->captured, used, bytes);
  s->captured->nodes.push_back(work);
  s->ahead = s->joined;
  return cudaSuccess;
}

static std::vector<cuda_host_stream *> joined;

cudaError_t cuda_host_join(cudaStream_t s, cudaStream_t other, cudaGraph_t captured) {
  if (s->captured != captured && (s->captured || !capturing || captured != capturing->captured)) {
    if (capturing) capturing->invalid = true;
    return last_error = cudaErrorStreamCaptureUnsupported;
  }
  if (captured && !s->captured) s->captured = captured, s->joined = true, joined.push_back(s);
  if (s == capturing) other->ahead = false;
  return cudaSuccess;
}

void cuda_host_submit(dim3 grid, dim3 block, cudaStream_t stream, void (*body)(void *), const void *job, size_t bytes) {
  std::vector<max_align_t> copy((bytes + sizeof(max_align_t) - 1) / sizeof(max_align_t));
  memcpy(copy.data(), job, bytes);
  cuda_host_do(stream, job, bytes, [=]() mutable { cuda_host_run(grid, block, body, copy.data()); });
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode) {
  if (!s || capturing) return last_error = cudaErrorInvalidValue;
  capturing = s, capture_mode = mode;
  s->captured = new cuda_host_graph{s->device, {}, {}}, s->invalid = false;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph) {
  *graph = NULL;
  if (!s || capturing != s) return last_error = cudaErrorInvalidValue;
  cudaGraph_t made = s->captured;
  for (cuda_host_stream *other : joined) {
    s->invalid = s->invalid || other->ahead; /* the graph would end before its work does */
    other->captured = NULL, other->joined = other->ahead = false;
  }
  joined.clear();
  s->captured = NULL, capturing = NULL;
  if (!s->invalid) return *graph = made, cudaSuccess;
  delete made;
  return last_error = cudaErrorStreamCaptureInvalidated;
}

/* CUDA_HOST_CAPTURES: a stream says that it is being captured, and works on. */
cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus *status) {
  if (!s) return last_error = cudaErrorInvalidValue;
  return *status =
             s->captured || getenv("CUDA_HOST_CAPTURES") ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone,
         cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *mode) {
  const cudaStreamCaptureMode before = thread_mode;
  thread_mode = *mode, *mode = before;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long) {
  return *executable = new cuda_host_graph(*graph), cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return delete executable, cudaSuccess; }

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t s) {
  if (!s || s->captured || s->device != executable->device) return last_error = cudaErrorInvalidValue;
  for (const auto &used : executable->blocks) {
    const auto block = blocks.find(used.first);
    if (block == blocks.end() || block->second.serial != used.second)
      fprintf(stderr, "cuda_host: a graph is launched, and memory that it works on was freed\n"), abort();
  }
  n_graphs++;
  for (const auto &node : executable->nodes) node();
  return last_error;
}
