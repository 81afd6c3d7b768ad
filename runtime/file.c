/* file.c - reading files and writing them so that a kill at any moment leaves the old or the new one; directories.
 *
 * Tensors go between a file's row-major order and their own layout in pieces, straight where the two agree. Reading is
 * by pread, not mmap: a file that another program cuts short must give an error, not a signal. What the bytes mean
 * (containers, headers) is Lua's: lua/dlv3/files.lua. Every message begins with the path. */
#include "record.h"
#include "walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum { BUFFER = 1 << 18 };         /* bytes on the way between layouts, and of small writes  */
enum { PIECE = 1 << 28 };          /* the most that one read or write of the system is asked */

struct dlv3_file {
  char *path, *temporary;          /* temporary: where it is written until commit; NULL when reading */
  int fd;
  int64_t size, position;          /* reading: of the file; writing: where the next byte goes        */
  int64_t buffered;                /* bytes of the buffer that are not in the file yet               */
  uint32_t crc;
  _Alignas(8) char buffer[BUFFER];
};

static status fail_errno(const char *path, const char *what) {
  int reason = errno;
  return fail(DLV3_ERR_IO, "%s: %s: %s", path, what, strerror(reason));
}

static status file_new(dlv3_file **out, const char *path) {
  dlv3_file *f = calloc(1, sizeof *f);
  if (f) f->fd = -1, f->path = strdup(path);
  if (!f || !f->path) {
    free(f);
    return fail(DLV3_ERR_OOM, "%s: out of memory", path);
  }
  *out = f;
  return DLV3_OK;
}

DLV3_API void dlv3_file_close(dlv3_file *f) {
  if (!f) return;
  if (f->temporary && f->fd >= 0) unlink(f->temporary);
  if (f->fd >= 0) close(f->fd);
  free(f->temporary);
  free(f->path);
  free(f);
}

/* -- Reading ----------------------------------------------------------------------------------------------- */

static status open_for_reading(dlv3_file *f) {
  struct stat info;
  f->fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not make it wait: it is refused below */
  if (f->fd < 0) return fail_errno(f->path, "can not be opened");
  if (fstat(f->fd, &info)) return fail_errno(f->path, "can not be read");
  if (S_ISDIR(info.st_mode)) return fail(DLV3_ERR_IO, "%s: is a directory, a file was expected", f->path);
  if (!S_ISREG(info.st_mode)) return fail(DLV3_ERR_IO, "%s: is not a regular file", f->path);
  f->size = info.st_size;
  return DLV3_OK;
}

DLV3_API dlv3_status dlv3_file_open(dlv3_file **out, const char *path) {
  dlv3_file *f;
  TRY(file_new(&f, path));
  status st = open_for_reading(f);
  if (st == DLV3_OK) *out = f;
  else dlv3_file_close(f);
  return st;
}

DLV3_API int64_t dlv3_file_size(const dlv3_file *f) { return f->size; }

static status check_readable(const dlv3_file *f, int64_t offset, int64_t n) {
  if (f->temporary) return fail(DLV3_ERR_ARG, "%s: is open for writing", f->path);
  if (offset < 0 || n < 0 || n > f->size || offset > f->size - n)
    return fail(DLV3_ERR_FORMAT, "%s: truncated: %lld bytes at %lld are past its end (%lld bytes)", f->path, (long long)n, (long long)offset, (long long)f->size);
  return DLV3_OK;
}

static status read_at(dlv3_file *f, char *dst, int64_t offset, int64_t n) {
  while (n > 0) {
    ssize_t got = pread(f->fd, dst, (size_t)(n < PIECE ? n : PIECE), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(f->path, "can not be read");
    if (got == 0) return fail(DLV3_ERR_IO, "%s: became shorter while it was read", f->path);
    dst += got, offset += got, n -= got;
  }
  return DLV3_OK;
}

DLV3_API dlv3_status dlv3_file_read(dlv3_file *f, void *dst, int64_t offset, int64_t n_bytes) {
  TRY(check_readable(f, offset, n_bytes));
  return read_at(f, dst, offset, n_bytes);
}

/* -- Tensors ----------------------------------------------------------------------------------------------- */

/* A place in the row-major sequence of a tensor's elements. */
typedef struct {
  walk w;
  int64_t at;                      /* within the row */
} cursor;

/* Moves n elements between the tensor, from the cursor on, and packed bytes. */
static void move_elements(cursor *c, const tensor *t, char *flat, int64_t n, bool to_tensor) {
  int64_t width = dtype_bytes(t->dtype), row = c->w.size[c->w.ndim - 1], stride = c->w.stride[c->w.ndim - 1];
  while (n > 0) {
    int64_t run = n < row - c->at ? n : row - c->at;
    copy_row(t->st->data + (c->w.offset + c->at * stride) * width, flat, run, stride, width, to_tensor);
    flat += run * width, n -= run, c->at += run;
    if (c->at == row) {
      walk_next(&c->w);
      c->at = 0;
    }
  }
}

static bool one_run(const walk *w) { return w->ndim == 1 && (w->stride[0] == 1 || w->size[0] == 1); }

static status check_tensor(const dlv3_file *f, const tensor *t) {
  char text[TEXT];
  TRY(not_recording(f->path));
  if (!t->st->data) return fail(DLV3_ERR_RELEASED, "%s: the tensor was released\n  %s", f->path, tensor_text(text, "", t));
  return DLV3_OK;
}

/* A bool is 0 or 1 whatever a file says. */
static void tame_bools(char *p, int64_t n) {
  for (int64_t i = 0; i < n; i++) p[i] = p[i] != 0;
}

/* Read here, sent there, put where t has its elements. */
static status read_to_device(dlv3_file *f, tensor *t, int64_t offset) {
  tensor *here = NULL, *there = NULL;
  bool grad = dlv3_grad_enabled();
  dlv3_set_grad_enabled(false);
  status st = tensor_new(&here, t->dtype, t->ndim, t->size, 0);
  if (st == DLV3_OK) st = dlv3_file_read_tensor(f, here, offset);
  if (st == DLV3_OK) st = tensor_to_device(&there, here, t->st->device);
  if (st == DLV3_OK) st = op_run(OP_copy_, (tensor *[]){t, there}, 2, NULL, NULL);
  dlv3_set_grad_enabled(grad);
  tensor_drop(here), tensor_drop(there);
  return st;
}

/* A tensor on its way from the file, in pieces that threads read at once: first touches of new memory cost as much as the copy. */
typedef struct {
  dlv3_file *f;
  tensor *t;
  int64_t offset, n, most;         /* most: elements of a piece */
  walk w;
  char *straight;                  /* where the elements lie as in the file; NULL: they do not */
  int32_t failed;
} reading;

static cursor cursor_at(const walk *w, int64_t element) {
  cursor c = {.w = *w, .at = element % w->size[w->ndim - 1]};
  element /= w->size[w->ndim - 1];
  for (int32_t i = w->ndim - 2; i >= 0; i--) {
    c.w.index[i] = element % w->size[i];
    c.w.offset += c.w.index[i] * w->stride[i];
    element /= w->size[i];
  }
  return c;
}

enum { STRAIGHT_PIECE = 1 << 20, MOVED_PIECE = 1 << 16 }; /* bytes */

static status read_piece(const reading *r, int64_t piece) {
  _Alignas(8) char buffer[MOVED_PIECE];
  const int64_t width = dtype_bytes(r->t->dtype), first = piece * r->most, n = r->n - first < r->most ? r->n - first : r->most;
  char *to = r->straight ? r->straight + first * width : buffer;
  TRY(read_at(r->f, to, r->offset + first * width, n * width));
  if (r->t->dtype == DLV3_BOOL) tame_bools(to, n);
  cursor c = cursor_at(&r->w, first);
  if (!r->straight) move_elements(&c, r->t, buffer, n, true);
  return DLV3_OK;
}

static void read_pieces(void *ctx, int64_t begin, int64_t end) {
  reading *r = ctx;
  for (int64_t i = begin; i < end; i++)
    if (read_piece(r, i) != DLV3_OK) __atomic_store_n(&r->failed, 1, __ATOMIC_RELAXED);
}

DLV3_API dlv3_status dlv3_file_read_tensor(dlv3_file *f, dlv3_tensor *t, int64_t offset) {
  int64_t n = numel(t), width = dtype_bytes(t->dtype);
  TRY(check_tensor(f, t));
  TRY(check_readable(f, offset, n * width));
  if (!n) return DLV3_OK;
  if (t->st->device) return read_to_device(f, t, offset);
  storage_changed(t->st, 1);
  reading r = {.f = f, .t = t, .offset = offset, .n = n, .w = walk_of(t)};
  r.straight = one_run(&r.w) ? data_of(t) : NULL;
  r.most = (r.straight ? STRAIGHT_PIECE : MOVED_PIECE) / width;
  const int64_t pieces = (n + r.most - 1) / r.most;
  parallel_for(pieces, r.straight ? 1 : STRAIGHT_PIECE / MOVED_PIECE, read_pieces, &r);
  for (int64_t i = 0; i < pieces && r.failed; i++) TRY(read_piece(&r, i)); /* here, for the message of this thread */
  return DLV3_OK;
}

/* -- Writing ----------------------------------------------------------------------------------------------- */

/* Opens NAME.part for this process alone. A left-over one of a killed process is taken over; one that another
 * process is writing is an error. */
static status open_part(dlv3_file *f) {
  struct stat mine, there;
  for (int tries = 0; tries < 10; tries++) {
    f->fd = open(f->temporary, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (f->fd < 0) return fail_errno(f->path, "can not be written");
    if (flock(f->fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) {
      close(f->fd);
      f->fd = -1;
      return fail(DLV3_ERR_IO, "%s: another process is writing it", f->path);
    }
    /* it may have been renamed between open and lock */
    if (!fstat(f->fd, &mine) && !stat(f->temporary, &there) && mine.st_ino == there.st_ino && mine.st_dev == there.st_dev) {
      if (S_ISREG(mine.st_mode) && !ftruncate(f->fd, 0)) return DLV3_OK;
      close(f->fd);
      f->fd = -1;
      return fail(DLV3_ERR_IO, "%s: can not be written: %s is in the way", f->path, f->temporary);
    }
    close(f->fd);
    f->fd = -1;
  }
  return fail(DLV3_ERR_IO, "%s: another process is writing it", f->path);
}

/* A link is followed, so that it stays a link. */
static status resolve(dlv3_file *f) {
  struct stat info;
  if (!stat(f->path, &info)) {
    if (S_ISDIR(info.st_mode)) return fail(DLV3_ERR_IO, "%s: is a directory, a file was to be written", f->path);
    if (!S_ISREG(info.st_mode)) return fail(DLV3_ERR_IO, "%s: is not a regular file, it is left as it is", f->path);
    char *real = realpath(f->path, NULL);
    if (!real) return fail_errno(f->path, "can not be written");
    if (!lstat(f->path, &info) && S_ISLNK(info.st_mode)) {
      free(f->path);
      f->path = real;
    } else {
      free(real);
    }
  }
  return DLV3_OK;
}

static status open_for_writing(dlv3_file *f) {
  TRY(resolve(f));
  size_t length = strlen(f->path);
  char *part = malloc(length + sizeof ".part");
  if (!part) return fail(DLV3_ERR_OOM, "%s: out of memory", f->path);
  memcpy(part, f->path, length);
  memcpy(part + length, ".part", sizeof ".part");
  f->temporary = part;
  return open_part(f);
}

DLV3_API dlv3_status dlv3_file_create(dlv3_file **out, const char *path) {
  dlv3_file *f;
  TRY(file_new(&f, path));
  status st = open_for_writing(f);
  if (st == DLV3_OK) *out = f;
  else dlv3_file_close(f);
  return st;
}

static status write_at(dlv3_file *f, const char *src, int64_t offset, int64_t n) {
  while (n > 0) {
    ssize_t put = pwrite(f->fd, src, (size_t)(n < PIECE ? n : PIECE), offset);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return fail_errno(f->path, "can not be written");
    src += put, offset += put, n -= put;
  }
  return DLV3_OK;
}

static status check_writable(const dlv3_file *f) {
  if (!f->temporary) return fail(DLV3_ERR_ARG, "%s: is not open for writing", f->path);
  return DLV3_OK;
}

static status flush(dlv3_file *f) {
  int64_t n = f->buffered;
  f->buffered = 0;
  return write_at(f, f->buffer, f->position - n, n);
}

DLV3_API dlv3_status dlv3_file_write(dlv3_file *f, const void *src, int64_t n_bytes) {
  TRY(check_writable(f));
  if (n_bytes < 0) return fail(DLV3_ERR_ARG, "%s: %lld bytes can not be written", f->path, (long long)n_bytes);
  f->crc = (uint32_t)crc32_z(f->crc, src, (size_t)n_bytes);
  if (n_bytes > BUFFER - f->buffered) TRY(flush(f));
  f->position += n_bytes;
  if (n_bytes > BUFFER) return write_at(f, src, f->position - n_bytes, n_bytes);
  if (n_bytes) memcpy(f->buffer + f->buffered, src, (size_t)n_bytes);
  f->buffered += n_bytes;
  return DLV3_OK;
}

DLV3_API dlv3_status dlv3_file_write_tensor(dlv3_file *f, const dlv3_tensor *t) {
  int64_t n = numel(t), width = dtype_bytes(t->dtype), most = BUFFER / width;
  TRY(check_writable(f));
  TRY(check_tensor(f, t));
  if (!n) return DLV3_OK;
  if (t->st->device) {
    tensor *here;
    TRY(tensor_to_device(&here, t, 0));
    status st = dlv3_file_write_tensor(f, here);
    tensor_drop(here);
    return st;
  }
  cursor c = {.w = walk_of(t)};
  if (one_run(&c.w)) return dlv3_file_write(f, data_of(t), n * width);
  TRY(flush(f)); /* the buffer carries whole pieces from here on */
  for (int64_t done = 0; done < n; done += most) {
    int64_t now = n - done < most ? n - done : most;
    move_elements(&c, t, f->buffer, now, false);
    f->crc = (uint32_t)crc32_z(f->crc, (const void *)f->buffer, (size_t)(now * width));
    f->position += now * width, f->buffered = now * width;
    TRY(flush(f));
  }
  return DLV3_OK;
}

DLV3_API int64_t dlv3_file_position(const dlv3_file *f) { return f->position; }

DLV3_API uint32_t dlv3_file_crc(dlv3_file *f) {
  uint32_t crc = f->crc;
  f->crc = 0;
  return crc;
}

DLV3_API dlv3_status dlv3_file_patch(dlv3_file *f, int64_t offset, const void *src, int64_t n_bytes) {
  TRY(check_writable(f));
  if (offset < 0 || n_bytes < 0 || offset > f->position - n_bytes)
    return fail(DLV3_ERR_ARG, "%s: %lld bytes at %lld were never written", f->path, (long long)n_bytes, (long long)offset);
  TRY(flush(f));
  return write_at(f, src, offset, n_bytes);
}

/* The new name is in the directory for good only once the directory is written too. Not every file system lets one
 * sync a directory: then its own promises have to do. */
static void sync_directory_of(const char *path) {
  const char *slash = strrchr(path, '/');
  char *directory = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
  int fd = directory ? open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
  if (fd >= 0) {
    (void)!fsync(fd);
    close(fd);
  }
  free(directory);
}

DLV3_API dlv3_status dlv3_file_commit(dlv3_file *f) {
  TRY(check_writable(f));
  TRY(flush(f));
  if (fsync(f->fd)) return fail_errno(f->path, "can not be written");
  if (rename(f->temporary, f->path)) return fail_errno(f->path, "can not be written");
  free(f->temporary);
  f->temporary = NULL; /* nothing is left to remove; it can only be closed now */
  f->size = f->position;
  sync_directory_of(f->path);
  return DLV3_OK;
}

/* -- Directories and the process --------------------------------------------------------------------------- */

DLV3_API int32_t dlv3_path_kind(const char *path) {
  struct stat info;
  if (stat(path, &info)) return 0;
  return S_ISDIR(info.st_mode) ? 2 : 1;
}

static status make_one(const char *path) {
  if (!mkdir(path, 0777)) return DLV3_OK;
  int reason = errno;
  int32_t kind = dlv3_path_kind(path);
  if (kind == 2) return DLV3_OK;
  if (kind == 1) return fail(DLV3_ERR_IO, "%s: is a file, a directory was to be made", path);
  errno = reason;
  return fail_errno(path, "the directory can not be made");
}

DLV3_API dlv3_status dlv3_make_dir(const char *path) {
  char part[PATH_MAX];
  size_t n = strlen(path);
  if (n == 0 || n >= sizeof part) return fail(DLV3_ERR_ARG, "a directory's name has 1 to %d characters, not %zu", PATH_MAX - 1, n);
  memcpy(part, path, n + 1);
  for (size_t i = 1; i < n; i++) {
    if (part[i] != '/' || part[i - 1] == '/') continue;
    part[i] = 0;
    TRY(make_one(part));
    part[i] = '/';
  }
  return make_one(part);
}

static int compare_names(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* The sorted names, one a line. */
static char *joined(char **names, size_t n) {
  size_t bytes = 1;
  for (size_t i = 0; i < n; i++) bytes += strlen(names[i]) + 1;
  char *text = malloc(bytes), *p = text;
  if (!text) return NULL;
  for (size_t i = 0; i < n; i++) {
    size_t length = strlen(names[i]);
    memcpy(p, names[i], length);
    p += length;
    *p++ = '\n';
  }
  *p = 0;
  return text;
}

DLV3_API dlv3_status dlv3_list_dir(char **out, const char *path) {
  DIR *d = opendir(path);
  if (!d) return fail_errno(path, "the directory can not be read");
  char **names = NULL;
  size_t n = 0, room = 0;
  bool full = false;
  for (struct dirent *e; !full && (e = readdir(d));) {
    if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || strchr(e->d_name, '\n')) continue;
    if (n == room) {
      room = room ? room * 2 : 64;
      char **more = realloc(names, room * sizeof *names);
      if (!more) full = true;
      else names = more;
    }
    if (!full && !(names[n++] = strdup(e->d_name))) full = true, n--;
  }
  closedir(d);
  if (n) qsort(names, n, sizeof *names, compare_names);
  char *text = full ? NULL : joined(names, n);
  for (size_t i = 0; i < n; i++) free(names[i]);
  free(names);
  if (!text) return fail(DLV3_ERR_OOM, "%s: out of memory for its list", path);
  *out = text;
  return DLV3_OK;
}

DLV3_API void dlv3_text_free(char *text) { free(text); }
DLV3_API int32_t dlv3_is_terminal(int32_t fd) { return isatty(fd) == 1; }
DLV3_API int64_t dlv3_getpid(void) { return getpid(); }

/* From the process's own status: getrusage's figure also knows the program that started this one. */
DLV3_API int64_t dlv3_peak_rss(void) {
  char line[256];
  long long kib = -1;
  FILE *status_file = fopen("/proc/self/status", "re");
  while (status_file && fgets(line, sizeof line, status_file))
    if (sscanf(line, "VmHWM: %lld", &kib) == 1) break;
  if (status_file) fclose(status_file);
  struct rusage usage;
  if (kib < 0 && !getrusage(RUSAGE_SELF, &usage)) kib = usage.ru_maxrss;
  return kib < 0 ? 0 : kib * 1024;
}
