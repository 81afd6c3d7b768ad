/* file.c - reading files, and writing them atomically: a process that is killed at any moment
 * leaves the old or the new file; directories.
 *
 * Tensors are converted between the row-major order of a file and their layout in pieces, or
 * copied where the two agree. Reading uses pread, not mmap: a file that another program truncates
 * must give an error, not a signal. lua/dlv3/io/files.lua interprets the bytes (containers,
 * headers). Every message begins with the path. */
#include "core/executor.h"
#include "core/row_iterator.h"
#include "crc.h"

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

/* Bytes of the buffer for layout conversion and small writes, and of one read before its CRC is
 * computed, so that they are still in the processor's cache. */
enum { BUFFER = 1 << 18 };
enum { PIECE = 1 << 28 }; /* the most bytes of one system call */

struct dlv3_file {
  char *path, *temporary; /* temporary: the file until commit; NULL when reading */
  int fd;
  int64_t size, position; /* reading: of the file; writing: where the next byte goes        */
  int64_t buffered;       /* bytes of the buffer that are not in the file yet               */
  uint32_t crc;
  bool counts_crc;
  _Alignas(8) char buffer[BUFFER];
};

static status fail_errno(const char *path, const char *what) {
  int reason = errno;
  const char *remedy = "";
  if (reason == EFBIG) remedy = "; raise the limit on the size of files (ulimit -f)";
  if (reason == ENOSPC) remedy = "; free some space";
  return fail(DLV3_ERR_IO, "%s: %s: %s%s", path, what, strerror(reason), remedy);
}

static status file_new(dlv3_file **out, const char *path) {
  dlv3_file *f = calloc(1, sizeof *f);
  if (f) {
    f->fd = -1;
    f->path = strdup(path);
  }
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

/* -- Reading ----------------------------------------------------------------------------------- */

static status open_for_reading(dlv3_file *f) {
  struct stat info;
  f->fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* non-blocking: opening a pipe must not wait */
  if (f->fd < 0) return fail_errno(f->path, "can not be opened");
  if (fstat(f->fd, &info)) return fail_errno(f->path, "can not be read");
  if (S_ISDIR(info.st_mode)) return fail(DLV3_ERR_IO, "%s: is a directory, expected a file", f->path);
  if (!S_ISREG(info.st_mode)) return fail(DLV3_ERR_IO, "%s: is not a regular file", f->path);
  f->size = info.st_size;
  return DLV3_OK;
}

DLV3_API dlv3_status dlv3_file_open(dlv3_file **out, const char *path) {
  dlv3_file *f;
  TRY(file_new(&f, path));
  status st = open_for_reading(f);
  if (st == DLV3_OK)
    *out = f;
  else
    dlv3_file_close(f);
  return st;
}

DLV3_API int64_t dlv3_file_size(const dlv3_file *f) { return f->size; }

static status check_readable(const dlv3_file *f, int64_t offset, int64_t n) {
  if (f->temporary) return fail(DLV3_ERR_ARG, "%s: is open for writing", f->path);
  if (offset < 0 || n < 0 || n > f->size || offset > f->size - n)
    return fail(DLV3_ERR_FORMAT, "%s: truncated: %lld bytes at %lld are past its end (%lld bytes)", f->path,
                (long long)n, (long long)offset, (long long)f->size);
  return DLV3_OK;
}

static status read_at(dlv3_file *f, char *dst, int64_t offset, int64_t n) {
  while (n > 0) {
    ssize_t got = pread(f->fd, dst, (size_t)(n < PIECE ? n : PIECE), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(f->path, "can not be read");
    if (got == 0) return fail(DLV3_ERR_IO, "%s: was truncated while it was read", f->path);
    dst += got;
    offset += got;
    n -= got;
  }
  return DLV3_OK;
}

static void count_crc(dlv3_file *f, const void *bytes, int64_t n) {
  if (f->counts_crc) f->crc = crc_of(f->crc, bytes, n);
}

static status read_straight(dlv3_file *f, char *dst, int64_t offset, int64_t n_bytes);

DLV3_API dlv3_status dlv3_file_read(dlv3_file *f, void *dst, int64_t offset, int64_t n_bytes) {
  TRY(check_readable(f, offset, n_bytes));
  if (dst) return read_straight(f, dst, offset, n_bytes);
  for (int64_t done = 0; done < n_bytes; done += BUFFER) {
    int64_t now = n_bytes - done < BUFFER ? n_bytes - done : BUFFER;
    TRY(read_at(f, f->buffer, offset + done, now));
    count_crc(f, f->buffer, now);
  }
  return DLV3_OK;
}

/* -- Tensors ----------------------------------------------------------------------------------- */

/* A position in the row-major order of a tensor's elements. */
typedef struct {
  row_iterator w;
  int64_t at; /* within the row */
} cursor;

/* Copies n elements between the tensor, from the cursor on, and packed bytes. */
static void move_elements(cursor *c, const tensor *t, char *flat, int64_t n, bool to_tensor) {
  int64_t width = dtype_bytes(t->dtype), row = c->w.size[c->w.ndim - 1], stride = c->w.stride[c->w.ndim - 1];
  while (n > 0) {
    int64_t run = n < row - c->at ? n : row - c->at;
    copy_row(t->st->data + (c->w.offset + c->at * stride) * width, flat, run, stride, width, to_tensor);
    flat += run * width;
    n -= run;
    c->at += run;
    if (c->at == row) {
      row_iterator_next(&c->w);
      c->at = 0;
    }
  }
}

static bool one_run(const row_iterator *w) { return w->ndim == 1 && (w->stride[0] == 1 || w->size[0] == 1); }

static status check_tensor(const dlv3_file *f, const tensor *t) {
  char text[TEXT];
  TRY(check_host_access(f->path));
  if (!t->st->data)
    return fail(DLV3_ERR_RELEASED, "%s: the tensor was released\n  %s", f->path, tensor_text(text, "", t));
  return DLV3_OK;
}

/* Bytes of a bool tensor other than 0 become 1. */
static void tame_bools(char *p, int64_t n) {
  for (int64_t i = 0; i < n; i++) p[i] = p[i] != 0;
}

/* Reads to the host, copies to the device of t, and from there into t. */
static status read_to_device(dlv3_file *f, tensor *t, int64_t offset) {
  tensor *here = NULL, *there = NULL;
  status st = tensor_new(&here, t->dtype, t->ndim, t->size, 0);
  if (st == DLV3_OK) st = dlv3_file_read_tensor(f, here, offset);
  if (st == DLV3_OK) st = tensor_to_device(&there, here, t->st->device);
  if (st == DLV3_OK) st = op_run_untracked(OP_copy_, (tensor *[]){t, there}, 2, NULL, NULL);
  tensor_drop(here);
  tensor_drop(there);
  return st;
}

/* -- Pieces that threads read in parallel: most of the time is spent in page faults of new memory
 * -- */

enum { GROUP = 64 };
typedef struct {
  dlv3_file *f;
  char *dst;       /* the bytes are stored here unchanged; NULL: in the rows of t from the cursor on */
  const tensor *t; /* NULL: plain memory */
  cursor from;
  int64_t offset, n, piece,
      rows;      /* bytes: where in the file, in all, of a piece; rows of the outermost axis in a piece */
  int64_t first; /* piece of this group */
  uint32_t crc[GROUP];
  _Atomic bool failed;
} pieces;

static int64_t piece_bytes(const pieces *g, int64_t i) {
  int64_t left = g->n - i * g->piece;
  return left < g->piece ? left : g->piece;
}

static bool read_piece(pieces *g, int64_t i) {
  int64_t at = (g->first + i) * g->piece, n = piece_bytes(g, g->first + i);
  char *to = g->dst ? g->dst + at : kernel_scratch(g->piece);
  if (!to || read_at(g->f, to, g->offset + at, n) != DLV3_OK) return false;
  if (g->f->counts_crc) g->crc[i] = crc_of(0, to, n);
  if (g->t && g->t->dtype == DLV3_BOOL) tame_bools(to, n);
  if (g->dst) return true;
  cursor c = g->from;
  c.w.offset += (g->first + i) * g->rows * c.w.stride[0];
  move_elements(&c, g->t, to, n / dtype_bytes(g->t->dtype), true);
  return true;
}

static void read_some(void *ctx, int64_t begin, int64_t end) {
  pieces *g = ctx;
  for (int64_t i = begin; i < end; i++) {
    if (!read_piece(g, i)) g->failed = true;
  }
}

static status read_pieces(pieces *g) {
  int64_t all = (g->n + g->piece - 1) / g->piece;
  for (g->first = 0; g->first < all; g->first += GROUP) {
    int64_t some = all - g->first < GROUP ? all - g->first : GROUP;
    parallel_for(some, 1, read_some, g);
    if (g->failed) { /* the message went to the thread that failed: repeat it here */
      TRY(dlv3_file_read(g->f, NULL, g->offset, g->n));
      return fail(DLV3_ERR_OOM, "%s: out of memory while it was read", g->f->path);
    }
    for (int64_t i = 0; g->f->counts_crc && i < some; i++)
      g->f->crc = crc_joined(g->f->crc, g->crc[i], piece_bytes(g, g->first + i));
  }
  return DLV3_OK;
}

static status read_straight(dlv3_file *f, char *dst, int64_t offset, int64_t n_bytes) {
  return read_pieces(&(pieces){.f = f, .dst = dst, .offset = offset, .n = n_bytes, .piece = BUFFER});
}

DLV3_API dlv3_status dlv3_file_read_tensor(dlv3_file *f, dlv3_tensor *t, int64_t offset) {
  int64_t n = numel(t), width = dtype_bytes(t->dtype);
  TRY(check_tensor(f, t));
  TRY(check_readable(f, offset, n * width));
  if (!n) return DLV3_OK;
  if (t->st->device) return read_to_device(f, t, offset);
  storage_changed(t->st, 1);
  pieces g = {.f = f, .t = t, .from = {.w = row_iterator_of(t)}, .offset = offset, .n = n * width, .piece = BUFFER};
  if (one_run(&g.from.w)) {
    g.dst = data_of(t);
    return read_pieces(&g);
  }
  int64_t row = g.n / g.from.w.size[0]; /* bytes per index of the outermost axis */
  if (g.from.w.ndim > 1 && row <= BUFFER) {
    g.rows = BUFFER / row;
    g.piece = g.rows * row;
    return read_pieces(&g);
  }
  int64_t most = BUFFER / width;
  for (int64_t done = 0; done < n; done += most) {
    int64_t now = n - done < most ? n - done : most;
    TRY(read_at(f, f->buffer, offset + done * width, now * width));
    count_crc(f, f->buffer, now * width);
    if (t->dtype == DLV3_BOOL) tame_bools(f->buffer, now);
    move_elements(&g.from, t, f->buffer, now, true);
  }
  return DLV3_OK;
}

/* -- Writing ----------------------------------------------------------------------------------- */

/* Opens and locks NAME.part. One that a killed process left is reused; one that another process is
 * writing is an error. */
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
    if (!fstat(f->fd, &mine) && !stat(f->temporary, &there) && mine.st_ino == there.st_ino
        && mine.st_dev == there.st_dev) {
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

/* Follows links: the link stays and its target is replaced. */
static status resolve(dlv3_file *f) {
  struct stat info;
  if (!stat(f->path, &info)) {
    if (S_ISDIR(info.st_mode)) return fail(DLV3_ERR_IO, "%s: is a directory, expected a file to write", f->path);
    if (!S_ISREG(info.st_mode)) return fail(DLV3_ERR_IO, "%s: is not a regular file, and is not replaced", f->path);
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

static size_t folder_length(const char *path) { /* with its slash; 0: the current folder */
  const char *slash = strrchr(path, '/');
  return slash ? (size_t)(slash - path) + 1 : 0;
}

/* path + ".part". A name that would be too long is shortened and gets its checksum, so that two
 * long names with the same beginning have different temporary files. NULL: out of memory. */
static char *part_of(const char *path) {
  size_t length = strlen(path), folder = folder_length(path), name = length - folder;
  char *part = malloc(length + sizeof ".12345678.part"), checksum[16] = "";
  if (!part) return NULL;
  memcpy(part, path, folder);
  part[folder] = 0;
  size_t most = (size_t)dlv3_name_max(part), keep = name;
  if (name + strlen(".part") > most) {
    snprintf(checksum, sizeof checksum, ".%08x", crc_of(0, path + folder, (int64_t)name));
    keep = most > strlen(".12345678.part") ? most - strlen(".12345678.part") : 0;
    if (keep > name) keep = name;
    while (keep && ((unsigned char)path[folder + keep] & 0xc0) == 0x80) keep--; /* between UTF-8 characters */
  }
  snprintf(part + folder, length - folder + sizeof ".12345678.part", "%.*s%s.part", (int)keep, path + folder, checksum);
  return part;
}

static status open_for_writing(dlv3_file *f) {
  TRY(resolve(f));
  f->temporary = part_of(f->path);
  if (!f->temporary) return fail(DLV3_ERR_OOM, "%s: out of memory", f->path);
  return open_part(f);
}

DLV3_API dlv3_status dlv3_file_create(dlv3_file **out, const char *path) {
  dlv3_file *f;
  TRY(file_new(&f, path));
  status st = open_for_writing(f);
  if (st == DLV3_OK)
    *out = f;
  else
    dlv3_file_close(f);
  return st;
}

static status write_at(dlv3_file *f, const char *src, int64_t offset, int64_t n) {
  while (n > 0) {
    ssize_t put = pwrite(f->fd, src, (size_t)(n < PIECE ? n : PIECE), offset);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return fail_errno(f->path, "can not be written");
    src += put;
    offset += put;
    n -= put;
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
  if (n_bytes < 0)
    return fail(DLV3_ERR_ARG, "%s: expected 0 or more bytes to write, got %lld", f->path, (long long)n_bytes);
  count_crc(f, src, n_bytes);
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
  cursor c = {.w = row_iterator_of(t)};
  if (one_run(&c.w)) return dlv3_file_write(f, data_of(t), n * width);
  TRY(flush(f)); /* from here on the buffer holds whole pieces */
  for (int64_t done = 0; done < n; done += most) {
    int64_t now = n - done < most ? n - done : most;
    move_elements(&c, t, f->buffer, now, false);
    count_crc(f, f->buffer, now * width);
    f->position += now * width;
    f->buffered = now * width;
    TRY(flush(f));
  }
  return DLV3_OK;
}

DLV3_API int64_t dlv3_file_position(const dlv3_file *f) { return f->position; }

DLV3_API uint32_t dlv3_file_crc(dlv3_file *f) {
  uint32_t crc = f->crc;
  f->crc = 0;
  f->counts_crc = true;
  return crc;
}

DLV3_API dlv3_status dlv3_file_patch(dlv3_file *f, int64_t offset, const void *src, int64_t n_bytes) {
  TRY(check_writable(f));
  if (offset < 0 || n_bytes < 0 || offset > f->position - n_bytes)
    return fail(DLV3_ERR_ARG, "%s: %lld bytes at %lld were never written", f->path, (long long)n_bytes,
                (long long)offset);
  TRY(flush(f));
  return write_at(f, src, offset, n_bytes);
}

/* The new name is durable only after the directory is synced. Some file systems can not sync a
 * directory; an error is ignored. */
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
  f->temporary = NULL; /* no temporary file is left to remove */
  f->size = f->position;
  sync_directory_of(f->path);
  return DLV3_OK;
}

/* -- Directories and the process --------------------------------------------------------------- */

DLV3_API int32_t dlv3_path_kind(const char *path) {
  struct stat info;
  if (stat(path, &info)) return 0;
  return S_ISDIR(info.st_mode) ? 2 : 1;
}

DLV3_API int32_t dlv3_path_is_link(const char *path) {
  struct stat info;
  return !lstat(path, &info) && S_ISLNK(info.st_mode);
}

DLV3_API int64_t dlv3_name_max(const char *folder) {
  long most = pathconf(*folder ? folder : ".", _PC_NAME_MAX);
  return most > 0 ? most : NAME_MAX;
}

DLV3_API dlv3_status dlv3_path_identity(char **out, const char *path) {
  char whole[PATH_MAX], there[PATH_MAX];
  struct stat info;
  size_t length = 0, n;
  if (strlen(path) >= sizeof whole)
    return fail(DLV3_ERR_ARG, "a path has at most %d bytes, got %zu", PATH_MAX - 1, strlen(path));
  for (const char *p = path; *p; p++) /* a//b is a/b */
    if (*p != '/' || !length || whole[length - 1] != '/') whole[length++] = *p;
  whole[length] = 0;
  memcpy(there, whole, length + 1);
  n = length;
  while (n && stat(there, &info)) { /* the longest part of it that exists */
    if (there[n - 1] == '/') n--;
    while (n && there[n - 1] != '/') n--;
    there[n] = 0;
  }
  if (!n && stat(".", &info)) return fail_errno(path, "the current folder can not be read");
  *out = malloc(length - n + sizeof "0123456789abcdef:0123456789abcdef/");
  if (!*out) return fail(DLV3_ERR_OOM, "%s: out of memory", path);
  snprintf(*out, length - n + sizeof "0123456789abcdef:0123456789abcdef/", "%llx:%llx/%s",
           (unsigned long long)info.st_dev, (unsigned long long)info.st_ino, whole + n);
  return DLV3_OK;
}

static status make_one(const char *path) {
  if (!mkdir(path, 0777)) return DLV3_OK;
  int reason = errno;
  int32_t kind = dlv3_path_kind(path);
  if (kind == 2) return DLV3_OK;
  if (kind == 1) return fail(DLV3_ERR_IO, "%s: is a file, expected a directory or nothing", path);
  errno = reason;
  return fail_errno(path, "the directory can not be created");
}

DLV3_API dlv3_status dlv3_make_dir(const char *path) {
  char part[PATH_MAX];
  size_t n = strlen(path);
  if (n == 0 || n >= sizeof part)
    return fail(DLV3_ERR_ARG, "the name of a directory must have 1 to %d characters, got %zu", PATH_MAX - 1, n);
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

/* The sorted names, one per line. */
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
      if (!more)
        full = true;
      else
        names = more;
    }
    if (!full && !(names[n++] = strdup(e->d_name))) {
      full = true;
      n--;
    }
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

/* From /proc/self/status: getrusage's figure includes the program that started this one. */
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
