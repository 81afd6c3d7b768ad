/* dlv3.h - the public interface of the runtime: opaque handles, status codes, no callbacks, no
 * global variables.
 *
 * Every function that can fail returns dlv3_status; dlv3_last_error() is the reason, per thread.
 * Pointers to results come first. Strings are NUL-terminated UTF-8. Sizes are in elements unless
 * they say bytes.
 *
 * LuaJIT parses this file too (the build preprocesses it with DLV3_CDEF and embeds the text), so
 * it contains declarations only: enums for constants, fixed-size ints, no aggregates by value, no
 * function pointers, no varargs. */
#ifndef DLV3_H
#define DLV3_H

#ifndef DLV3_CDEF
#include <stddef.h>
#include <stdint.h>
#define DLV3_API __attribute__((visibility("default")))
#define DLV3_MUST __attribute__((warn_unused_result))
#else
#define DLV3_API
#define DLV3_MUST
#endif

typedef struct dlv3_tensor dlv3_tensor;
typedef struct dlv3_loader dlv3_loader;
typedef struct dlv3_backward_run dlv3_backward_run;
typedef struct dlv3_file dlv3_file;
typedef int32_t dlv3_status;

enum {
  DLV3_OK = 0,
  DLV3_ERR_ARG,         /* an argument is out of range or missing          */
  DLV3_ERR_SHAPE,       /* shapes do not fit each other                    */
  DLV3_ERR_DTYPE,       /* dtypes do not fit each other or are unsupported */
  DLV3_ERR_DEVICE,      /* tensors on several devices, or no such device   */
  DLV3_ERR_RELEASED,    /* a handle whose storage was released             */
  DLV3_ERR_OOM,         /* out of memory: Lua collects and retries once    */
  DLV3_ERR_IO,          /* a file cannot be read or written                */
  DLV3_ERR_FORMAT,      /* the content of a file has another format        */
  DLV3_ERR_DAMAGED,     /* an image file is damaged                         */
  DLV3_ERR_AUTOGRAD,    /* backward cannot run                             */
  DLV3_ERR_INTERRUPTED, /* Ctrl-C                                          */
  DLV3_ERR_INTERNAL,    /* a bug in dlv3                                    */
  DLV3_DECLINED,        /* an implementation declines; internal to dispatch */
  DLV3_PENDING          /* dlv3_backward_next: a Lua function is next       */
};

enum { /* promotion order: the larger of two is the common dtype, bf16 with f16 gives f32 */
       DLV3_BOOL = 0,
       DLV3_U8,
       DLV3_I32,
       DLV3_I64,
       DLV3_F16,
       DLV3_BF16,
       DLV3_F32,
       DLV3_F64,
       DLV3_DTYPES
};

enum { DLV3_MAX_DIMS = 8, DLV3_MAX_INPUTS = 128, DLV3_MAX_OUTPUTS = 4, DLV3_MAX_SLOTS = 48 };

/* One 8-byte attribute slot. The attribute struct of an op is an array of these: see
 * runtime/ops.def. */
typedef union {
  int64_t i;
  double f;
} dlv3_attr;

/* -- Errors, build, devices -------------------------------------------------------------------- */

DLV3_API const char *dlv3_last_error(void);
/* Copies s with control characters (except newline and tab), changes of text direction and invalid
 * UTF-8 as \xNN: as much as fits in room bytes with a 0 at the end (4 n + 1 are always enough).
 * Returns the number of bytes before the 0. */
DLV3_API int64_t dlv3_printable(char *out, int64_t room, const char *s, int64_t n);
DLV3_API const char *dlv3_version(void);               /* "0.1.0"                                             */
DLV3_API const char *dlv3_build_info(void);            /* what it was built with, one line per library */
DLV3_API int32_t dlv3_device_count(void);              /* 0 is the cpu, 1 is cuda:0; opens the plug-in */
DLV3_API int32_t dlv3_device_open_count(void);         /* does not open the plug-in              */
DLV3_API const char *dlv3_device_name(int32_t device); /* "cpu", "cuda:0"               */
/* "cuda" is cuda:0; "auto": the first GPU, else the cpu. */
DLV3_API DLV3_MUST dlv3_status dlv3_device_find(int32_t *device, const char *name);
DLV3_API DLV3_MUST dlv3_status dlv3_device_sync(int32_t device); /* waits; reports errors of earlier work */
DLV3_API const char *dlv3_cuda_state(void); /* the CUDA libraries and devices, or what is missing  */
/* Chooses another libdlv3_cuda.so, before a GPU is used. */
DLV3_API DLV3_MUST dlv3_status dlv3_cuda_library(const char *path);
DLV3_API int32_t dlv3_tf32_allowed(void); /* whether f32 convolutions on a GPU may use TF32; default DLV3_TF32 */
DLV3_API void dlv3_allow_tf32(int32_t allow);
/* Whether cuDNN's engines are chosen by timing; default DLV3_CUDNN_BENCHMARK. */
DLV3_API int32_t dlv3_cudnn_benchmark(void);
DLV3_API void dlv3_set_cudnn_benchmark(int32_t on);
DLV3_API int32_t dlv3_processors(void); /* of the machine */
/* The quota of the process's control groups, in processors; infinite: none. root: "", in tests a
 * folder. */
DLV3_API double dlv3_cpu_quota(const char *root);
DLV3_API int32_t dlv3_num_threads(void);
DLV3_API DLV3_MUST dlv3_status dlv3_set_num_threads(int32_t n);
DLV3_API void dlv3_set_verbose(int32_t level);                  /* as DLV3_VERBOSE                     */
DLV3_API DLV3_MUST dlv3_status dlv3_set_impl(const char *name); /* as DLV3_IMPL; "" = best first        */
DLV3_API double dlv3_now(void);                                 /* seconds, monotonic                  */
/* Floating-point operations per second in f32 or bf16; 0: unknown. */
DLV3_API double dlv3_measure_peak(int32_t dtype);

/* Signals: after _catch SIGINT only sets a flag; a second one, at least 0.3 s later, ends the
 * process. interrupt 1 (the REPL): dlv3_call fails with DLV3_ERR_INTERRUPTED while the flag is
 * set. interrupt 0 (training): the caller polls, and SIGTERM, SIGHUP (unless it was ignored, as by
 * nohup) and SIGPIPE set the flag too. note: text that the first signal writes to stderr, up to
 * 159 bytes; NULL: none. */
DLV3_API void dlv3_signals_catch(int32_t interrupt, const char *note);
DLV3_API int32_t dlv3_signal_pending(void); /* the signal's number, 0 = none */
DLV3_API void dlv3_signal_clear(void);

/* -- Tensors ----------------------------------------------------------------------------------- */

/* A new dense tensor, content undefined. Dense is row-major, but channels-last for 4 dimensions. */
DLV3_API DLV3_MUST dlv3_status dlv3_tensor_new(dlv3_tensor **out, int32_t dtype, int32_t ndim, const int64_t *size,
                                               int32_t device);
DLV3_API void dlv3_tensor_free(dlv3_tensor *t);    /* drops the caller's reference; never fails      */
DLV3_API void dlv3_tensor_release(dlv3_tensor *t); /* frees the bytes now; the handle becomes stale */
DLV3_API int32_t dlv3_tensor_released(const dlv3_tensor *t);
DLV3_API int32_t dlv3_tensor_dtype(const dlv3_tensor *t);
DLV3_API int32_t dlv3_tensor_device(const dlv3_tensor *t);
DLV3_API int32_t dlv3_tensor_ndim(const dlv3_tensor *t);
DLV3_API int64_t dlv3_tensor_size(const dlv3_tensor *t, int32_t axis); /* axis from 0 */
DLV3_API int64_t dlv3_tensor_stride(const dlv3_tensor *t, int32_t axis);
DLV3_API int64_t dlv3_tensor_numel(const dlv3_tensor *t);
DLV3_API int32_t dlv3_tensor_is_dense(const dlv3_tensor *t);
/* Promises that the content will not change: a kernel that stores it in another form may free the
 * plain bytes. */
DLV3_API void dlv3_tensor_freeze(dlv3_tensor *t);
DLV3_API int64_t dlv3_tensor_version(const dlv3_tensor *t); /* increases with every in-place change of the storage */
/* Host copies in logical row-major order, converted: f64 for any dtype (exact but for i64 above
 * 2^53). */
DLV3_API DLV3_MUST dlv3_status dlv3_tensor_to_f64(double *dst, const dlv3_tensor *t);
DLV3_API DLV3_MUST dlv3_status dlv3_tensor_from_f64(dlv3_tensor *t, const double *src);
/* The element at a logical row-major position, as f64. */
DLV3_API DLV3_MUST dlv3_status dlv3_tensor_at(double *value, const dlv3_tensor *t, int64_t position);
/* An asynchronous read of a tensor of one element: begin starts the copy to the host, and work
 * queued later does not delay it. value waits for the copy; it can be called again. */
typedef struct dlv3_later dlv3_later;
DLV3_API DLV3_MUST dlv3_status dlv3_later_begin(dlv3_later **out, const dlv3_tensor *t);
DLV3_API DLV3_MUST dlv3_status dlv3_later_value(double *value, dlv3_later *l);
DLV3_API void dlv3_later_free(dlv3_later *l);
/* Raw bytes in logical row-major order, the tensor's own dtype; n_bytes must be numel * size of an
 * element. */
DLV3_API DLV3_MUST dlv3_status dlv3_tensor_to_bytes(void *dst, const dlv3_tensor *t, int64_t n_bytes);
DLV3_API DLV3_MUST dlv3_status dlv3_tensor_from_bytes(dlv3_tensor *t, const void *src, int64_t n_bytes);
/* A tensor of these sizes and strides (elements, from 0 up) on the storage of t, a dense 1-d
 * tensor, from its element offset on; it may not reach outside of t. */
DLV3_API DLV3_MUST dlv3_status dlv3_tensor_window(dlv3_tensor **out, const dlv3_tensor *t, int32_t ndim,
                                                  const int64_t *size, const int64_t *stride, int64_t offset);
/* The address of the first element: two live tensors of equal address, dtype, sizes and strides
 * have the same elements. */
DLV3_API int64_t dlv3_tensor_address(const dlv3_tensor *t);
DLV3_API DLV3_MUST dlv3_status dlv3_tensor_to_device(dlv3_tensor **out, const dlv3_tensor *t, int32_t device);
/* Moves t's content into arena[offset, offset + numel) (elements; same dtype and device) and makes
 * t share it. The arena lives at least as long as t. */
DLV3_API DLV3_MUST dlv3_status dlv3_tensor_rebase(dlv3_tensor *t, dlv3_tensor *arena, int64_t offset);
/* t gets the storage, dtype and device of from (a parameter moved or cast in place) and keeps its
 * own scope; its grad is dropped. */
DLV3_API DLV3_MUST dlv3_status dlv3_tensor_assign(dlv3_tensor *t, dlv3_tensor *from);

/* -- Ops --------------------------------------------------------------------------------------- */

DLV3_API int32_t dlv3_op_count(void);
DLV3_API const char *dlv3_op_name(int32_t op);
DLV3_API const char *dlv3_op_signature(int32_t op); /* "x* w* b? -> y"                        */
DLV3_API const char *dlv3_op_attrs(int32_t op);     /* "stride:pair=1 padding:pair=0 "        */
DLV3_API const char *dlv3_op_doc(int32_t op);
DLV3_API int32_t dlv3_op_flags(int32_t op);                     /* bit 0: has a gradient, bit 1: a view   */
DLV3_API const char *dlv3_op_impls(int32_t op, int32_t device); /* "onednn gemm ref"          */
DLV3_API const char *dlv3_op_chosen(int32_t op); /* the implementation of this op's last call, "" before it */
DLV3_API int64_t dlv3_op_engine(int32_t op); /* the number of the library's engine that ran it; -1 where it has none */
/* Calls an op. in: n_in handles, NULL for an absent optional; attr: the slots of the op, without
 * defaults (NULL only for ops without attributes); out: receives new references. */
DLV3_API DLV3_MUST dlv3_status dlv3_call(int32_t op, dlv3_tensor *const *in, int32_t n_in, const dlv3_attr *attr,
                                         dlv3_tensor **out);

/* -- Kernels compiled from source text (kernel.c) ---------------------------------------------- */

typedef struct dlv3_kernel dlv3_kernel;
/* The kernel `name` (as C++ names it, scale<float>) of CUDA C source text, for a device; compiled
 * on first use and never freed. The message of a failure contains the compiler's log. */
DLV3_API DLV3_MUST dlv3_status dlv3_kernel_find(dlv3_kernel **out, const char *source, const char *name,
                                                int32_t device);
/* Launches it. grid and block: x, y, z; shared: bytes. Argument i is tensors[i], with kinds[i] 1
 * where the kernel may write it, else 0, or, where that is NULL, numbers[i] as the dtype kinds[i];
 * at most DLV3_MAX_SLOTS. Tensors must be dense. */
DLV3_API DLV3_MUST dlv3_status dlv3_kernel_launch(dlv3_kernel *k, const int64_t *grid, const int64_t *block,
                                                  int64_t shared, dlv3_tensor *const *tensors, const dlv3_attr *numbers,
                                                  const int32_t *kinds, int32_t n);

/* -- Many processes (collectives/world.c)
 * -------------------------------------------------------- */

typedef struct {
  int32_t rank, size, local_rank, local_size; /* local: among the ranks of this host */
  char host[64];
} dlv3_world;
/* Opens MPI, once, where a launcher (mpirun, srun) started this process; else rank 0 of 1. */
DLV3_API DLV3_MUST dlv3_status dlv3_world_open(dlv3_world *out);
/* "rank 1 on node7: " in front of messages; "" for a single process. Does not open MPI. */
DLV3_API const char *dlv3_world_label(void);
/* A rank that fails waits for those before it, whose message ends all ranks: an error on all ranks
 * is printed once. */
DLV3_API void dlv3_world_take_turn(void);
DLV3_API const char *dlv3_mpi_state(void); /* "Open MPI 4.1.4, MPICH 4.0.2": what was built in */

/* -- Record and replay (record.c) -------------------------------------------------------------- */

typedef struct dlv3_program dlv3_program;
/* Until _end or _abort, calls compute nothing: they are recorded, and their outputs have no
 * content. args: the tensors that every run provides, with the same dtype, sizes and strides. */
DLV3_API DLV3_MUST dlv3_status dlv3_record_begin(dlv3_tensor *const *args, int32_t n_args);
DLV3_API DLV3_MUST dlv3_status dlv3_record_end(dlv3_program **out, dlv3_tensor *const *results, int32_t n_results);
DLV3_API void dlv3_record_abort(void);
DLV3_API int32_t dlv3_recording(void);
/* A run: prepare allocates memory and binds arguments, and may be repeated after an error; run then
 * executes the steps. results: new references. */
DLV3_API DLV3_MUST dlv3_status dlv3_program_prepare(dlv3_program *p, dlv3_tensor *const *args);
DLV3_API DLV3_MUST dlv3_status dlv3_program_run(dlv3_program *p, dlv3_tensor **results);
DLV3_API void dlv3_program_free(dlv3_program *p);
DLV3_API int32_t dlv3_program_current(const dlv3_program *p); /* 0: an outside tensor has another storage now */
/* A recorded tensor that the function still references, as text; "": none. */
DLV3_API const char *dlv3_program_escaped(const dlv3_program *p);
DLV3_API int64_t dlv3_program_arena(const dlv3_program *p); /* bytes for intermediates                         */
DLV3_API int64_t dlv3_program_steps(const dlv3_program *p); /* how many kernels a run calls                    */
/* On devices with graphs a program is captured as one graph (graph.c): the number of captures and
 * of launches so far, and why a program could not be captured ("": all could). */
DLV3_API int64_t dlv3_graph_captures(void);
DLV3_API int64_t dlv3_graph_launches(void);
DLV3_API const char *dlv3_graph_refused(void);

/* -- Autograd ---------------------------------------------------------------------------------- */

DLV3_API int32_t dlv3_grad_enabled(void);
DLV3_API void dlv3_set_grad_enabled(int32_t on);
DLV3_API int32_t dlv3_requires_grad(const dlv3_tensor *t); /* 1: a leaf that requires grad, 2: computed from one */
DLV3_API DLV3_MUST dlv3_status dlv3_set_requires_grad(dlv3_tensor *t, int32_t on);
DLV3_API dlv3_tensor *dlv3_tensor_grad(dlv3_tensor *t);                                 /* a new reference or NULL */
DLV3_API DLV3_MUST dlv3_status dlv3_tensor_set_grad(dlv3_tensor *t, dlv3_tensor *grad); /* NULL clears */
DLV3_API DLV3_MUST dlv3_status dlv3_tensor_detach(dlv3_tensor **out, dlv3_tensor *t);
/* backward: begin with the loss and its gradient (NULL = 1 for a single element), then call next
 * until it returns DLV3_OK. DLV3_PENDING: run the Lua function `custom_id` on grads (n_grads new
 * references, NULL = none), pass its results to dlv3_backward_give, call next again. end frees the
 * run, complete or not. */
DLV3_API DLV3_MUST dlv3_status dlv3_backward_begin(dlv3_backward_run **run, dlv3_tensor *loss, dlv3_tensor *grad);
DLV3_API DLV3_MUST dlv3_status dlv3_backward_next(dlv3_backward_run *run, int64_t *custom_id, dlv3_tensor **grads,
                                                  int32_t *n_grads);
DLV3_API DLV3_MUST dlv3_status dlv3_backward_give(dlv3_backward_run *run, dlv3_tensor *const *grads, int32_t n_grads);
DLV3_API int32_t dlv3_backward_inputs(const dlv3_backward_run *run); /* of the waiting Lua function */
DLV3_API void dlv3_backward_end(dlv3_backward_run *run);
/* Records a node of the Lua function custom_id, from in to out. _freed returns the ids of freed
 * nodes. */
DLV3_API DLV3_MUST dlv3_status dlv3_custom_node(int64_t custom_id, dlv3_tensor *const *in, int32_t n_in,
                                                dlv3_tensor *const *out, int32_t n_out);
DLV3_API int32_t dlv3_custom_freed(int64_t *ids, int32_t max);

/* -- Memory ------------------------------------------------------------------------------------ */

DLV3_API int32_t dlv3_scope_push(void);         /* returns the depth to pop to                                */
DLV3_API void dlv3_scope_keep(dlv3_tensor *t);  /* t's storage moves to the enclosing scope                */
DLV3_API void dlv3_scope_leave(dlv3_tensor *t); /* t's storage leaves all scopes                        */
/* t lives as long as owner: its storage leaves the scopes that owner's is not in. */
DLV3_API void dlv3_scope_inherit(dlv3_tensor *t, const dlv3_tensor *owner);
DLV3_API void dlv3_scope_pop(int32_t depth); /* frees every storage made since the matching push        */
DLV3_API int64_t dlv3_memory_live(int32_t device);
DLV3_API int64_t dlv3_memory_peak(int32_t device);
DLV3_API int64_t dlv3_memory_reserved(int32_t device);
DLV3_API void dlv3_memory_reset_peak(int32_t device);
DLV3_API void dlv3_memory_flush(int32_t device); /* returns cached blocks to the system                  */
DLV3_API void dlv3_memory_limit(int64_t bytes);  /* the limit of the cpu allocator; 0 = none             */
/* 1: the host language should run a full collection, since much was allocated after the last 1. */
DLV3_API int32_t dlv3_memory_pressure(void);
/* The largest live tensors of a device as text; -1: of the device that ran out of memory last. */
DLV3_API const char *dlv3_memory_largest(int32_t device);

/* -- Random numbers ---------------------------------------------------------------------------- */

/* Philox 4x32-10 keyed by (seed, stream); n doubles in [0,1) from counter on. The same in every
 * build. */
DLV3_API void dlv3_random(double *out, int32_t n, uint64_t seed, uint64_t stream, uint64_t counter);
/* A permutation of 0..n-1 drawn from (seed, stream). */
DLV3_API void dlv3_permutation(int64_t *out, int64_t n, uint64_t seed, uint64_t stream);

/* -- Files ------------------------------------------------------------------------------------- */

DLV3_API DLV3_MUST dlv3_status dlv3_file_open(dlv3_file **f, const char *path); /* for reading             */
DLV3_API int64_t dlv3_file_size(const dlv3_file *f);
/* dst NULL: read for dlv3_file_crc alone */
DLV3_API DLV3_MUST dlv3_status dlv3_file_read(dlv3_file *f, void *dst, int64_t offset, int64_t n_bytes);
/* Little-endian elements of t's dtype at offset, in row-major order of t's logical shape. */
DLV3_API DLV3_MUST dlv3_status dlv3_file_read_tensor(dlv3_file *f, dlv3_tensor *t, int64_t offset);
/* Writing: to path + a temporary suffix; commit syncs and renames over path, close without commit
 * removes it. */
DLV3_API DLV3_MUST dlv3_status dlv3_file_create(dlv3_file **f, const char *path);
DLV3_API DLV3_MUST dlv3_status dlv3_file_write(dlv3_file *f, const void *src, int64_t n_bytes);
DLV3_API DLV3_MUST dlv3_status dlv3_file_write_tensor(dlv3_file *f, const dlv3_tensor *t); /* row-major bytes      */
DLV3_API int64_t dlv3_file_position(const dlv3_file *f);
/* CRC-32 of the bytes read or written since the last call; the first call starts counting. */
DLV3_API uint32_t dlv3_file_crc(dlv3_file *f);
DLV3_API DLV3_MUST dlv3_status dlv3_file_patch(dlv3_file *f, int64_t offset, const void *src, int64_t n_bytes);
DLV3_API DLV3_MUST dlv3_status dlv3_file_commit(dlv3_file *f);
DLV3_API void dlv3_file_close(dlv3_file *f);

/* Locks a folder for this process: *out is NULL where another process has locked it. is_of: whether
 * the folder at path is the locked one, and not another that replaced it. */
typedef struct dlv3_lock dlv3_lock;
DLV3_API DLV3_MUST dlv3_status dlv3_lock_folder(dlv3_lock **out, const char *path);
DLV3_API int32_t dlv3_lock_is_of(const dlv3_lock *lock, const char *path);
DLV3_API void dlv3_lock_free(dlv3_lock *lock);

/* Directories and paths, for scripts. kind: 0 does not exist, 1 a file, 2 a directory. */
DLV3_API int32_t dlv3_path_kind(const char *path);
DLV3_API int32_t dlv3_path_is_link(const char *path); /* a symbolic link; kind is that of its target */
/* A text that is equal for all paths of a file: its device and inode; for a file that does not
 * exist, those of the nearest existing folder above it and the rest of the path. Free with
 * dlv3_text_free. */
DLV3_API DLV3_MUST dlv3_status dlv3_path_identity(char **identity, const char *path);
DLV3_API int64_t dlv3_name_max(const char *folder);             /* the longest name of a file in it, bytes */
DLV3_API DLV3_MUST dlv3_status dlv3_make_dir(const char *path); /* with its parents                     */
DLV3_API DLV3_MUST dlv3_status dlv3_list_dir(char **names, const char *path); /* sorted, one a line; dlv3_text_free */
DLV3_API void dlv3_text_free(char *text);
DLV3_API int32_t dlv3_is_terminal(int32_t fd);
DLV3_API int64_t dlv3_peak_rss(void); /* bytes                                */
DLV3_API int64_t dlv3_getpid(void);

/* -- Images ------------------------------------------------------------------------------------ */

typedef struct {
  int32_t orientation; /* 1 to 8, from EXIF, or XMP where EXIF has none                  */
  int32_t bits;        /* of a channel, as stored: 1, 2, 4, 8, 16                        */
  char damage[256];    /* the damage of a file that was decoded with tolerant; ""        */
} dlv3_image_info;

/* A JPEG or PNG by content. The whole is u8 [3,h,w] RGB (physically h,w,3), alpha dropped, palettes
 * and grey expanded, CMYK converted, 16 bits reduced to their high byte. orient = 1 applies the
 * orientation. tolerant = 1 decodes the intact part of a damaged file: a JPEG with wrong or missing
 * data, a PNG with a wrong checksum outside its pixels; with 0 these are errors. */
DLV3_API DLV3_MUST dlv3_status dlv3_image_read(dlv3_tensor **image, dlv3_image_info *info, const char *path,
                                               int32_t orient, int32_t tolerant);
/* A mask: the indices of a palette PNG or the values of a grey one (1, 2, 4, 8 bits, as they are),
 * u8 [h,w]; RGB is refused. */
DLV3_API DLV3_MUST dlv3_status dlv3_mask_read(dlv3_tensor **mask, const char *path);
/* Resized exactly as PIL does it. image u8 [3,h,w]: bilinear with antialiasing; mask u8 [h,w]:
 * nearest. */
DLV3_API DLV3_MUST dlv3_status dlv3_image_resize(dlv3_tensor **out, const dlv3_tensor *image, int64_t h, int64_t w);
DLV3_API DLV3_MUST dlv3_status dlv3_mask_resize(dlv3_tensor **out, const dlv3_tensor *mask, int64_t h, int64_t w);
/* Network input f32 [1,3,h,w] (dtype: f32, bf16, f16, f64): (x / 255 - mean[c]) / std[c], in f32
 * arithmetic. */
DLV3_API DLV3_MUST dlv3_status dlv3_image_normalize(dlv3_tensor **out, const dlv3_tensor *image, const float *mean,
                                                    const float *std, int32_t dtype);
/* counts[256]: how many pixels of a mask u8 [h,w] have each value; first[256]: position y * w + x
 * of the first one, or -1. */
DLV3_API DLV3_MUST dlv3_status dlv3_mask_count(int64_t *counts, int64_t *first, const dlv3_tensor *mask);
/* PNG, atomically. u8 [3,h,w] RGB; u8 [4,h,w] RGBA; u8 [h,w] with palette (256*3 bytes), or grey
 * where palette is NULL. */
DLV3_API DLV3_MUST dlv3_status dlv3_png_write(const char *path, const dlv3_tensor *image, const uint8_t *palette);
/* JPEG, atomically. u8 [3,h,w]; quality 1..100. */
DLV3_API DLV3_MUST dlv3_status dlv3_jpeg_write(const char *path, const dlv3_tensor *image, int32_t quality);

/* -- The data loader: C threads, no Lua in them ------------------------------------------------ */

typedef struct {
  int32_t train; /* 1: random resize, flip, crop; 0: shorter side to resize_min                        */
  int32_t resize_min, resize_max; /* the shorter side, inclusive range; 0 without train: the image's own size  */
  int32_t crop; /* height and width of a training crop                                                */
  double flip;  /* probability                                                                        */
  float mean[3], std[3];
  int32_t num_classes; /* labels are 0..num_classes-1 and ignore_index; other values are errors. 0: any    */
  int32_t ignore_index;
  int32_t dtype;   /* of the image batch                                                                 */
  int32_t workers; /* threads, at least 1                                                                */
  int32_t ahead;   /* batches prepared ahead                                                                 */
  uint64_t seed;
} dlv3_loader_config;

/* A loader of a data set of n samples, which dlv3_loader_put provides. */
DLV3_API DLV3_MUST dlv3_status dlv3_loader_new(dlv3_loader **out, const dlv3_loader_config *config, int64_t n);
/* Starts an epoch: order holds n indices (0-based) to deliver, the first `first` of them are
 * skipped (resume). */
DLV3_API DLV3_MUST dlv3_status dlv3_loader_start(dlv3_loader *l, int64_t epoch, const int64_t *order, int64_t n,
                                                 int64_t first, int32_t batch);
/* The next batch: image [b,3,h,w], target u8 [b,h,w] (NULL without masks); *image = NULL at the end
 * of the epoch. */
DLV3_API DLV3_MUST dlv3_status dlv3_loader_next(dlv3_loader *l, dlv3_tensor **image, dlv3_tensor **target);
/* The host puts `wanted` samples, in the order of the epoch, each as u8 tensors ([3,h,w], mask
 * [h,w]; copied) or as paths; then next can return a batch. name: of the sample, for messages.
 * mask and mask_path NULL: no target. */
DLV3_API int64_t dlv3_loader_wanted(dlv3_loader *l);
DLV3_API DLV3_MUST dlv3_status dlv3_loader_put(dlv3_loader *l, const char *name, const dlv3_tensor *image,
                                               const char *image_path, const dlv3_tensor *mask, const char *mask_path);
DLV3_API void dlv3_loader_free(dlv3_loader *l);

#endif
