/* warp.cpp - instructions of a GPU's that the host plays for tests: copies that arrive late,
 * matrices of tensor cores.
 *
 * Which thread holds which element is what the PTX ISA says of mma.m16n8k16 and ldmatrix, written
 * down here a second time: a kernel whose idea of it differs gives wrong sums. Copies arrive as
 * late as they may in some launches and at once in others, so that a wait that is missing, or
 * memory that is filled while it is still read, is seen as well. */
#include "host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 32, MOST_THREADS = 1024, MOST_COPIES = 64 };

/* -- Copies ------------------------------------------------------------------------------------ */

typedef struct {
  void *to;
  const void *from;
  bool there;
  unsigned group;
} copy;
/* A thread's copies that have not arrived, oldest first; how many, how many groups it closed, how
 * often it met its warp. */
static copy copies_of[MOST_THREADS][MOST_COPIES];
typedef struct {
  unsigned copies, groups, turns;
} progress;
static progress progress_of[MOST_THREADS];

void cuda_host_new_block(unsigned threads) { memset(progress_of, 0, threads * sizeof *progress_of); }

static void arrive(const copy &c) {
  if (c.there)
    memcpy(c.to, c.from, 16);
  else
    memset(c.to, 0, 16);
}

void cuda_host_copy_16(void *to, const void *from, bool there) {
  progress *mine = &progress_of[cuda_host_thread()];
  const copy c = {to, from, there, mine->groups};
  cuda_host_boundary(to, 16), cuda_host_boundary(from, 16);
  if (cuda_host_backwards()) return arrive(c);
  if (mine->copies == MOST_COPIES)
    fprintf(stderr, "cuda_host: more than %d copies of a thread are under way\n", MOST_COPIES), abort();
  copies_of[cuda_host_thread()][mine->copies++] = c;
}
void cuda_host_copies_end() { progress_of[cuda_host_thread()].groups++; }
void cuda_host_copies_wait(unsigned pending) {
  progress *mine = &progress_of[cuda_host_thread()];
  copy *waiting = copies_of[cuda_host_thread()];
  unsigned done = 0;
  for (; done < mine->copies && waiting[done].group + pending < mine->groups; done++) arrive(waiting[done]);
  mine->copies -= done;
  memmove(waiting, waiting + done, mine->copies * sizeof *waiting);
}

/* -- What the threads of a warp do together ---------------------------------------------------- */

/* What a lane hands to the others. A warp has two of each, used in turn: one may be read while the
 * next is written. */
typedef struct {
  const void *row;
  uint32_t a[4], b[2];
} handed;
typedef struct {
  handed lane[2][LANES];
} warp;
static warp warps[MOST_THREADS / LANES];

/* Gives the others what this thread has, and gets what they have. */
static const handed *exchange(const handed &mine) {
  const unsigned thread = cuda_host_thread(), turn = progress_of[thread].turns++ & 1;
  handed *all = warps[thread / LANES].lane[turn];
  all[thread % LANES] = mine;
  cuda_host_sync_warp();
  return all;
}

static uint16_t half(uint32_t pair, int which) { return (uint16_t)(pair >> 16 * which); }

/* Of a, 16 x 16, the lane (row % 8) * 4 + column % 8 / 2 holds the pair with column, in register
 * row / 8 + column / 8 * 2. Of b, 16 x 8, the lane column * 4 + row % 8 / 2, in register row / 8.
 * Of d, 16 x 8, as of a. */
void cuda_host_mma(float *d, const uint32_t *a, const uint32_t *b, float (*element)(uint16_t bits)) {
  handed mine = {NULL, {a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const handed *all = exchange(mine);
  const int lane = (int)(cuda_host_thread() % LANES);
  for (int e = 0; e < 4; e++) {
    const int row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
    for (int l = 0; l < 16; l++) {
      const float left = element(half(all[row % 8 * 4 + l % 8 / 2].a[row / 8 + l / 8 * 2], l % 2));
      const float right = element(half(all[column * 4 + l % 8 / 2].b[l / 8], l % 2));
      d[e] += left * right;
    }
  }
}

/* The lanes 8 m to 8 m + 7 name the rows of matrix m. A lane gets of each matrix the elements 2
 * (lane % 4) and the next of row lane / 4; transposed, of column lane / 4. */
void cuda_host_load_matrices(uint32_t *r, const void *row, bool transposed) {
  handed mine = {row, {}, {}};
  cuda_host_boundary(row, 16);
  const handed *all = exchange(mine);
  const int lane = (int)(cuda_host_thread() % LANES), major = lane / 4, minor = lane % 4 * 2;
  for (int m = 0; m < 4; m++) {
    uint16_t pair[2];
    for (int i = 0; i < 2; i++) {
      const uint16_t *from = (const uint16_t *)all[m * 8 + (transposed ? minor + i : major)].row;
      pair[i] = from[transposed ? major : minor + i];
    }
    r[m] = pair[0] | (uint32_t)pair[1] << 16;
  }
}
