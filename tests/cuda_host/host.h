/* host.h - what the stand-ins share: streams that can be captured, and who may be called meanwhile.
 *
 * A stand-in for a library does its work by cuda_host_do, so that it can become a part of a graph. */
#ifndef CUDA_HOST_H
#define CUDA_HOST_H

#include <cuda_runtime.h>
#include <stdint.h>

#include <functional>

struct cuda_host_stream {
  int device = 0;
  cudaGraph_t captured = NULL; /* NULL: it is not being captured                          */
  bool invalid = false;        /* something was called that can not be captured           */
  bool joined = false;         /* it came into a capture by an event                      */
  bool ahead = false;          /* with work that the first stream has not waited for      */
};

extern cudaError_t last_error;
extern int64_t cuda_host_waits; /* for a stream, by the host */
extern float cuda_host_clock;   /* what events say, in ms; only cuDNN's engines take time */

/* The warp that the running thread belongs to: waits for its other threads. */
void cuda_host_sync_warp();
/* The running thread's number in its block; whether this launch goes through threads and blocks
 * backwards. */
unsigned cuda_host_thread();
bool cuda_host_backwards();
void cuda_host_new_block(unsigned threads);

/* Does the work, or takes it down where the stream is captured. used: bytes in which the addresses
 * of the memory lie that it works on; a graph that is launched when one of those blocks is gone
 * aborts. */
cudaError_t cuda_host_do(cudaStream_t s, const void *used, size_t bytes, std::function<void()> work);
/* A stream waits for an event that was recorded on another, in a capture or outside (NULL): it comes
 * into that capture, or, where it is the one that the capture began on, has waited for the other. */
cudaError_t cuda_host_join(cudaStream_t s, cudaStream_t other, cudaGraph_t captured);
/* In a call that can not be captured: true, with last_error set and the capture spoiled, when one
 * is going on. */
bool cuda_host_unsafe();
/* Device memory that was made, or is about to go. */
void cuda_host_block(const void *p, size_t n);
void cuda_host_block_gone(const void *p);

#endif
