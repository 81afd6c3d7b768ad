/* activation.h - the activations that other ops apply to their results: one number in f64, or a
 * piece in the computing type.
 *
 * A nan stays a nan. */
#ifndef DLV3_ACTIVATION_H
#define DLV3_ACTIVATION_H

#include "simd.h"

static inline double activate(int64_t act, double z) {
  double six = z < -3 ? 0 : z > 3 ? 6 : z + 3; /* relu6(z + 3) */
  switch (act) {
  case ACT_RELU: return z < 0 ? 0 : z;
  case ACT_RELU6: return z < 0 ? 0 : z > 6 ? 6 : z;
  case ACT_HARDSWISH: return z * six / 6;
  case ACT_HARDSIGMOID: return six / 6;
  default: return z;
  }
}

/* v[0..n) = act(v): for functions that are compiled for several instruction sets. */
#define ACTIVATE_PIECE(name, T) \
  INLINE void name(T *v, int64_t n, int64_t act) { \
    switch (act) { \
    case ACT_RELU: \
      for (int64_t i = 0; i < n; i++) v[i] = v[i] < 0 ? 0 : v[i]; \
      break; \
    case ACT_RELU6: \
      for (int64_t i = 0; i < n; i++) v[i] = v[i] < 0 ? 0 : v[i] > 6 ? 6 : v[i]; \
      break; \
    case ACT_HARDSWISH: \
      for (int64_t i = 0; i < n; i++) { \
        T six = v[i] + 3; \
        six = six < 0 ? 0 : six > 6 ? 6 : six; \
        v[i] = v[i] * six * ((T)1 / 6); \
      } \
      break; \
    case ACT_HARDSIGMOID: \
      for (int64_t i = 0; i < n; i++) { \
        T six = v[i] + 3; \
        six = six < 0 ? 0 : six > 6 ? 6 : six; \
        v[i] = six * ((T)1 / 6); \
      } \
      break; \
    default: break; \
    } \
  }

ACTIVATE_PIECE(activate_piece, float)
ACTIVATE_PIECE(activate_piece_f64, double)

#endif
