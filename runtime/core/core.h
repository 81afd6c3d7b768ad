/* core.h - what the rooms of the runtime and the kernels share: errors, storages, tensors, ops, the
 * tape. The layers of this room are in docs/architecture.md.
 *
 * Private: kernels see backend.h (which includes this), users see dlv3.h. One host thread calls
 * ops, so reference counts are plain integers; data workers (images/loader.c) touch no tensor. */
#ifndef DLV3_CORE_H
#define DLV3_CORE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "dlv3.h"

typedef dlv3_tensor tensor;
typedef dlv3_status status;

/* -- Errors ------------------------------------------------------------------------------------ */

/* Stores the message of this thread and returns the code: `return fail(DLV3_ERR_SHAPE, "conv2d: x
 * has ...", ...)`. */
status fail(status code, const char *format, ...) __attribute__((format(printf, 2, 3), cold));
/* Appends to the stored message (context added on the way out) and returns the code again. */
status fail_more(status code, const char *format, ...) __attribute__((format(printf, 2, 3), cold));

#define TRY(expr) \
  do { \
    status try_status_ = (expr); \
    if (try_status_ != DLV3_OK) return try_status_; \
  } while (0)
/* The same with one exit label, for functions that own something. */
#define TRY_GOTO(st, expr, label) \
  do { \
    if (((st) = (expr)) != DLV3_OK) goto label; \
  } while (0)

enum { TEXT = 160 };
/* "x [2, 64, 129, 129] f32 cpu" into a caller's buffer of TEXT bytes; name may be "". Returns
 * buf. */
const char *tensor_text(char *buf, const char *name, const tensor *t);
/* "[2, 64]" into a caller's buffer of TEXT bytes. */
const char *sizes_text(char *buf, int32_t ndim, const int64_t *size);

/* -- Dtypes and devices ------------------------------------------------------------------------ */

const char *dtype_name(int32_t dtype);
int32_t dtype_bytes(int32_t dtype);
static inline bool is_float(int32_t dtype) { return dtype >= DLV3_F16; }
/* The common dtype of two: the later in the enum; bf16 with f16 gives f32. */
int32_t dtype_promote(int32_t a, int32_t b);

/* -- Storages ---------------------------------------------------------------------------------- */

/* A prepared form of a storage's content that a kernel keeps with it, such as a packed weight.
 * Freed with the storage, or when a newer one replaces it. On a device that captures graphs it is
 * rewritten in place, where version says that it is outdated: see program/graph.c. A renewed form
 * is also written by an op that changes all of the storage (cuda's sgd_). */
typedef struct prepared {
  struct prepared *next;
  uint64_t key;            /* which form this is, chosen by the implementation       */
  int64_t version, offset; /* of the content that it was made from                   */
  void (*destroy)(struct prepared *);
  status (*restore)(const struct prepared *, void *dst); /* writes the storage's plain bytes; NULL: this form can not */
  bool renewed;                                          /* its version is an arena_version                        */
} prepared;

typedef struct storage {
  int32_t refs, device;
  int64_t bytes;
  char *data;                         /* NULL: released                                         */
  int64_t own_version, slice_changes; /* see storage_version, arena_version                   */
  struct storage *parent;             /* a slice of an arena: data points into the parent's     */
  int32_t slices;                     /* how many storages have this one as their parent        */
  struct prepared *prepared;
  bool frozen;                 /* see storage_surrender                                  */
  bool borrowed;               /* data belongs to an executor, not to the allocator      */
  int32_t scope;               /* depth of the scope that frees it; 0 = none             */
  struct storage *next, *prev; /* all live storages: scopes and the out-of-memory report */
} storage;

status storage_new(storage **out, int64_t bytes, int32_t device);
status storage_slice(storage **out, storage *parent, int64_t byte_offset, int64_t bytes);
void scope_inherit(storage *s, const storage *owner); /* s leaves the scopes that do not contain owner */
storage *storage_retain(storage *s);
void storage_drop(storage *s);    /* drops a reference                                   */
void storage_release(storage *s); /* frees the bytes now, whatever references there are  */
/* surrender frees the plain bytes of a frozen storage whose content a prepared form also has, so
 * that a weight that only convolutions read is held once. restore brings the plain bytes back; it
 * fails with DLV3_ERR_RELEASED where the storage was released or no form has its content. */
void storage_surrender(storage *s);
status storage_restore(storage *s);
/* Whether the bytes are allocated or can be restored. */
bool storage_alive(const storage *s);
/* Increases when the content changes, also through the arena that it is a slice of. */
static inline int64_t storage_version(const storage *s) {
  return s->own_version + (s->parent ? s->parent->own_version : 0);
}
/* Increases when the content changes, also through a slice of it. */
static inline int64_t arena_version(const storage *s) { return storage_version(s) + s->slice_changes; }
static inline void storage_changed(storage *s, int64_t times) {
  s->own_version += times;
  if (s->parent) s->parent->slice_changes += times;
}

/* -- Tensors ----------------------------------------------------------------------------------- */

struct node;

struct dlv3_tensor {
  int32_t refs, dtype, ndim;
  bool requires_grad; /* a leaf that gets a .grad                               */
  int64_t size[DLV3_MAX_DIMS], stride[DLV3_MAX_DIMS], offset; /* in elements                  */
  storage *st;
  tensor *grad;
  struct node *node; /* the op that made it, NULL for leaves                   */
  int32_t node_out;  /* which of its outputs                                   */
};

/* An output as infer describes it: a dense tensor to allocate, or (views) a window on the storage
 * of input 0. */
typedef struct spec {
  int32_t dtype, ndim;
  int64_t size[DLV3_MAX_DIMS];
  bool none; /* this call does not have this output                    */
} spec;

status tensor_new(tensor **out, int32_t dtype, int32_t ndim, const int64_t *size, int32_t device);
/* A header on the same storage, no gradient, no node. */
status tensor_alias(tensor **out, const tensor *t);
/* Restores a surrendered storage; fails where t was released. `what` begins the message. */
status check_alive(const tensor *t, const char *what);
/* host_access.c. A dense copy on another device, no gradient; on t's own device t itself,
 * retained. */
status tensor_to_device(tensor **out, const tensor *t, int32_t device);
tensor *tensor_retain(tensor *t);
void tensor_drop(tensor *t); /* NULL is fine */
static inline int64_t numel(const tensor *t) {
  int64_t n = 1;
  for (int32_t i = 0; i < t->ndim; i++) n *= t->size[i];
  return n;
}
static inline int64_t tensor_bytes(const tensor *t) { return numel(t) * dtype_bytes(t->dtype); }
static inline void *data_of(const tensor *t) { return t->st->data + t->offset * dtype_bytes(t->dtype); }
bool same_sizes(const tensor *a, const tensor *b);
/* Row-major strides, or channels-last for 4 dimensions: what "dense" means here. */
void dense_strides(int32_t ndim, const int64_t *size, int64_t *stride);
bool is_dense(const tensor *t);

/* -- Ops --------------------------------------------------------------------------------------- */

/* Attribute types; each is made of 8-byte slots, so that Lua can fill them from the table's
 * text. */
typedef int64_t attr_int;
typedef int64_t attr_bool;
typedef int64_t attr_axis;     /* from 0, or negative from the end; infer normalises it  */
typedef int64_t attr_position; /* likewise                                              */
typedef int64_t attr_dtype;
typedef int64_t attr_act; /* ACT_*                                                  */
typedef double attr_real;
typedef struct {
  int64_t h, w;
} attr_pair;
typedef struct {
  int64_t n, v[DLV3_MAX_DIMS];
} attr_dims; /* sizes, or axes (then 0-based or negative) */
typedef attr_dims attr_axes;

enum { ACT_NONE, ACT_RELU, ACT_RELU6, ACT_HARDSWISH, ACT_HARDSIGMOID }; /* attr_act, by name from Lua */

/* The attribute types, for tables that are indexed by them: ATTR_int, ... */
#define ATTR_TYPES(EACH) \
  EACH(int) EACH(bool) EACH(axis) EACH(position) EACH(dtype) EACH(act) EACH(real) EACH(pair) EACH(dims) EACH(axes)
#define ATTR(type) ATTR_##type,
enum { ATTR_TYPES(ATTR) ATTR_TYPE_COUNT };
#undef ATTR

#define A(name, type, def) attr_##type name;
#define NONE
#define OP(name, signature, attrs, flags, doc) \
  typedef struct { \
    attrs \
  } name##_attr;
#include "ops.def"
#undef OP
#define OP(name, signature, attrs, flags, doc) OP_##name,
enum {
#include "ops.def"
  OP_COUNT
};
#undef OP
#undef NONE
#undef A

enum {
  GRAD = 1, /* has a backward rule                                                          */
  NOGRAD = 0,
  VIEW = 2,    /* infer may set is_view, view_stride and view_offset: then no kernel runs      */
  STRIDED = 4, /* the kernel takes inputs of any stride; others get dense ones                 */
  PROMOTE = 8, /* inputs are cast to their common dtype before infer                           */
  NONDET = 16, /* draws random numbers: two runs differ unless the state is put back           */
  PACKED = 32  /* input 1 is a weight whose plain bytes may be surrendered                     */
};

typedef struct op_info op_info;

/* A call in progress: infer reads in and attr and fills spec; kernels read in, out and attr. */
typedef struct {
  int32_t op;
  const op_info *info;
  int32_t n_in;
  tensor **in; /* NULL: an optional one that is absent                   */
  void *attr;  /* a private copy: infer may normalise it                 */
  int32_t n_out;
  struct spec spec[DLV3_MAX_OUTPUTS];
  bool is_view;                                    /* set by the infer of a VIEW op: no kernel runs           */
  int64_t view_stride[DLV3_MAX_DIMS], view_offset; /* in elements, absolute in the storage     */
  tensor *out[DLV3_MAX_OUTPUTS];
  bool asked; /* the implementation was chosen by name: it must not decline for being slower */
} op_call;

struct backward_call;

/* An attribute of an op. def: its default as ops.def has it. */
typedef struct {
  const char *name, *def;
  int32_t type; /* ATTR_* */
} op_attribute;

enum { MOST_NAMED_INPUTS = 12 };

struct op_info {
  const char *name, *signature, *doc;
  const op_attribute *attributes;
  int32_t flags, n_attributes, attr_slots;
  status (*infer)(op_call *c);
  status (*backward)(struct backward_call *b);
  /* parsed from the signature at start */
  int32_t n_in, n_out;                                 /* n_in counts the declared ones; variadic: any number of them */
  bool variadic;                                       /* "xs... -> y"                                           */
  uint32_t in_optional, in_saved, in_place, out_saved; /* bit i: input or output i           */
  const char *in_name[MOST_NAMED_INPUTS], *out_name[DLV3_MAX_OUTPUTS];
};
extern op_info op_table[OP_COUNT];
int32_t attribute_slots(int32_t type); /* 8-byte slots of an attribute of that type */

/* Calls an op from C. in: array of n_in tensors; out: receives the new references (NULL if the op
 * has none). */
status op_run(int32_t op, tensor *const *in, int32_t n_in, const void *attr, tensor **out);
status op_run_untracked(int32_t op, tensor *const *in, int32_t n_in, const void *attr, tensor **out); /* off the tape */
#define IN(...) ((tensor *[]){__VA_ARGS__}), (int32_t)(sizeof((tensor *[]){__VA_ARGS__}) / sizeof(tensor *))

/* Checks for infer functions; messages name the op, its tensors and what was expected. */
const char *call_text(char *buf, size_t n, const op_call *c); /* every tensor of the call, one line  */
status fail_call(const op_call *c, status code, const char *format, ...) __attribute__((format(printf, 3, 4), cold));
status check_ndim(const op_call *c, int32_t i, int32_t ndim);
status check_float(const op_call *c, int32_t i);
status check_dtype(const op_call *c, int32_t i, int32_t dtype);
status check_sizes(const op_call *c, int32_t i, int32_t ndim, const int64_t *size);
status normalize_axis(const op_call *c, int64_t *axis, int32_t ndim); /* negative -> from the end  */
static inline void spec_like(spec *s, const tensor *t) {
  s->none = false;
  s->dtype = t->dtype;
  s->ndim = t->ndim;
  memcpy(s->size, t->size, sizeof s->size);
}
static inline void spec_set(spec *s, int32_t dtype, int32_t ndim, const int64_t *size) {
  s->none = false;
  s->dtype = dtype;
  s->ndim = ndim;
  if (ndim) memcpy(s->size, size, (size_t)ndim * sizeof *size);
}

/* -- The tape ---------------------------------------------------------------------------------- */

typedef struct {
  tensor *t;       /* a detached alias, NULL if not saved                    */
  int64_t version; /* of its storage when it was saved                       */
  bool recomputed; /* not saved: the node that made this input recomputes it */
} saved;

typedef struct edge {
  struct node *node; /* the node that made this input; NULL: none              */
  int32_t out;
  tensor *leaf; /* a leaf that requires grad; NULL otherwise              */
} edge;

typedef struct node {
  int32_t refs, op; /* op == OP_COUNT: a Lua function, custom_id              */
  int64_t seq, custom_id;
  bool done; /* backward has run: the saved tensors are dropped        */
  int32_t n_in, n_out;
  edge *edges;   /* [n_in]                                                 */
  spec *in_spec; /* [n_in] shape and dtype of the inputs                   */
  spec out_spec[DLV3_MAX_OUTPUTS];
  int32_t device;
  saved *in; /* [n_in]                                                 */
  saved out[DLV3_MAX_OUTPUTS];
  const struct executor *executor; /* the one that was current when it was made         */
  bool can_recompute;              /* output 0, from what this node saved                    */
  tensor *recomputed;              /* output 0 again, while backward runs                    */
  dlv3_attr attr[DLV3_MAX_SLOTS];
  tensor *grad_out[DLV3_MAX_OUTPUTS]; /* filled while backward runs                            */
  struct node *visit;                 /* list of a backward run                                 */
  int64_t mark;
} node;

/* What a backward rule sees. grad_y[i]: gradient of output i, NULL where none arrived. The rule
 * stores new references in grad_x[i] for inputs with needs[i], of the input's own shape and dtype,
 * or adds into grad_into(b, i) or grad_so_far(b, i). */
typedef struct backward_call {
  node *n;
  const void *attr;
  int32_t n_in;
  tensor **in, *out[DLV3_MAX_OUTPUTS]; /* those that the signature marks as saved, else NULL         */
  const spec *in_spec;
  tensor *grad_y[DLV3_MAX_OUTPUTS], **grad_x;
  bool *needs;
} backward_call;

/* Whether the gradient of input i is wanted. */
static inline bool needs_grad(const node *n, int32_t i) { return n->edges[i].leaf || n->edges[i].node; }

status node_record(op_call *c, tensor *const *original_in);
void node_drop(node *n);
/* Whether t is the recomputable output of a node that still has what it saved, and unchanged. */
bool is_recomputable(const tensor *t);

/* What the tape asks of the ops, as it asks for their shape and backward rules; defined in
 * runtime/ops/saves.c. Whether the first output of a call is recomputed in backward from what its
 * own node saves, so that other nodes need not save it. */
bool can_recompute(const op_call *c);
/* Recomputes that output: a new reference in y. */
status recompute(const node *n, tensor **y);
/* The inputs and outputs, one bit each, that the signature marks as saved for backward but that
 * this call does not need. n: the call's node. */
void unused_saves(const op_call *c, const node *n, uint32_t *in, uint32_t *out);

/* The tensor that the gradient of input i is to be added to in place: the leaf's .grad or a zero
 * tensor of this run. Borrowed. For kernels that accumulate (gradients of parameters). */
status grad_into(backward_call *b, int32_t i, tensor **out);
/* The gradients of input i summed so far, where a kernel may add to the sum in place; else NULL. */
tensor *grad_so_far(const backward_call *b, int32_t i);

/* -- Random numbers ---------------------------------------------------------------------------- */

/* Philox 4x32-10: four 32-bit words for (key, counter). */
void philox(uint32_t out[4], uint64_t key, uint64_t counter_low, uint64_t counter_high);
static inline float philox_uniform(uint32_t word) { return (float)(word >> 8) * 0x1p-24f; } /* [0,1) */

/* -- The process ------------------------------------------------------------------------------- */

/* interrupt.c. The flag that runtime/host sets at a signal; each call polls it. */
void interrupt_set(bool on);
bool interrupt_wanted(void);

/* parts.c. The path of a part of dlv3 that is a library of its own: beside the program, in the
 * build, or where `make install` puts it. NULL: none of them. */
const char *find_part(char *path, size_t n, const char *name);
/* Opens the part at path (flags: dlopen's) and finds its function `entry`. The part exports the
 * string dlv3_contract, a checksum of the headers that both sides were compiled from (made by the
 * Makefile): where it is not `contract`, the part was built for another version of them and is
 * refused. */
status part_open(void **function, const char *path, int flags, const char *entry, const char *contract);

/* What this process may use of the machine's processors: its affinity and the quotas of its control
 * groups. */
int32_t processors_allowed(void);
/* One rank's share, where `sharing` ranks may use its processors and `local` ranks the quota. */
int32_t processors_shared(int32_t sharing, int32_t local);

/* Threads of the cpu backend (kernels/cpu/support/parallel.c): n independent items in chunks that
 * depend on n and grain only. */
void parallel_for(int64_t n, int64_t grain, void (*body)(void *ctx, int64_t begin, int64_t end), void *ctx);
int32_t parallel_threads(void);
/* Scratch memory of this thread, aligned to 64 bytes, until its next call; NULL: out of
 * memory. */
void *kernel_scratch(int64_t bytes);

#endif
