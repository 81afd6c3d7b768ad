/* lock.c - a lock on a folder, for one process at a time.
 *
 * The lock is on an open file (flock), so it ends with its process in every case. It is on a file
 * and not on the folder, since NFS locks only what is open for writing. Folders are compared by
 * device and inode. */
#include "core/core.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct dlv3_lock {
  int folder, file; /* while it is open no other folder can get its inode */
};

DLV3_API void dlv3_lock_free(dlv3_lock *lock) {
  if (!lock) return;
  if (lock->file >= 0) close(lock->file);
  if (lock->folder >= 0) close(lock->folder);
  free(lock);
}

static status open_lock(dlv3_lock *lock, const char *path, bool *busy) {
  lock->folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock->folder < 0) return fail(DLV3_ERR_IO, "%s: the folder can not be opened: %s", path, strerror(errno));
  lock->file = openat(lock->folder, ".lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (lock->file < 0) return fail(DLV3_ERR_IO, "%s/.lock: can not be written: %s", path, strerror(errno));
  *busy = flock(lock->file, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK; /* file systems without locks: not locked */
  return DLV3_OK;
}

DLV3_API dlv3_status dlv3_lock_folder(dlv3_lock **out, const char *path) {
  dlv3_lock *lock = calloc(1, sizeof *lock);
  if (!lock) return fail(DLV3_ERR_OOM, "%s: out of memory", path);
  lock->folder = lock->file = -1;
  bool busy = false;
  status st = open_lock(lock, path, &busy);
  *out = st == DLV3_OK && !busy ? lock : NULL;
  if (!*out) dlv3_lock_free(lock);
  return st;
}

DLV3_API int32_t dlv3_lock_is_of(const dlv3_lock *lock, const char *path) {
  struct stat mine, there;
  return !fstat(lock->folder, &mine) && !stat(path, &there) && mine.st_ino == there.st_ino
         && mine.st_dev == there.st_dev;
}
