/* tuning_cache.c - results of timing kernels, for later runs: text files in the user's cache
 * folder, one choice per line, "key TAB value". A key contains everything that the choice depends
 * on.
 *
 * A file called NAME is DLV3_CACHE/NAME, else $XDG_CACHE_HOME/dlv3/NAME, else ~/.cache/dlv3/NAME.
 * The cache only saves time: a file that does not exist, can not be read or written or has another
 * format is ignored without a message. Whoever reads a value checks it. Files are written by
 * file.c, so that other processes see the old or the new file. */
#include "core/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { MOST_BYTES = 1 << 22, MOST_PATH = 4096 };

static const char head[] = "# Choices that dlv3 made by timing. A removed line is timed again.\n";

/* The folder of the files; false where there is none. */
static bool find_folder(char *folder, size_t n) {
  const char *own = getenv("DLV3_CACHE"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  int used = -1;
  if (own && *own)
    used = snprintf(folder, n, "%s", own);
  else if (cache && *cache == '/')
    used = snprintf(folder, n, "%s/dlv3", cache); /* the XDG standard ignores relative paths */
  else if (home && *home == '/')
    used = snprintf(folder, n, "%s/.cache/dlv3", home);
  return used > 0 && (size_t)used < n;
}

static bool find_path(char *path, size_t n, const char *folder, const char *file) {
  const int used = snprintf(path, n, "%s/%s", folder, file);
  return used > 0 && (size_t)used < n;
}

/* The file's text, to be freed, or NULL. */
static char *text_of(const char *path) {
  dlv3_file *f;
  if (dlv3_file_open(&f, path) != DLV3_OK) return NULL;
  const int64_t n = dlv3_file_size(f);
  char *text = n <= MOST_BYTES ? calloc(1, (size_t)n + 1) : NULL;
  if (text && dlv3_file_read(f, text, 0, n) != DLV3_OK) {
    free(text);
    text = NULL;
  }
  dlv3_file_close(f);
  return text;
}

/* Whether a text can be one side of a line. */
static bool plain(const char *text) {
  for (const char *p = text; *p; p++)
    if ((unsigned char)*p < ' ' || *p == 127) return false;
  return *text != 0;
}

/* The next choice after *at, terminated in place in the text; false at the end. Lines of another
 * format are skipped. */
static bool next_choice(char **at, char **key, char **value) {
  for (char *end; (end = strchr(*at, '\n'));) {
    char *line = *at, *tab = memchr(line, '\t', (size_t)(end - line));
    *end = 0;
    *at = end + 1;
    if (!tab) continue;
    *tab = 0;
    *key = line;
    *value = tab + 1;
    if (plain(*key) && plain(*value)) return true;
  }
  return false;
}

bool tuning_find(char *value, size_t n, const char *file, const char *key) {
  char folder[MOST_PATH], path[MOST_PATH], *k, *v;
  bool found = false;
  char *text = find_folder(folder, sizeof folder) && find_path(path, sizeof path, folder, file) ? text_of(path) : NULL,
       *at = text;
  while (text && !found && next_choice(&at, &k, &v)) found = !strcmp(k, key) && (size_t)snprintf(value, n, "%s", v) < n;
  free(text);
  return found;
}

static status put_choice(dlv3_file *f, const char *key, const char *value) {
  TRY(dlv3_file_write(f, key, (int64_t)strlen(key)));
  TRY(dlv3_file_write(f, "\t", 1));
  TRY(dlv3_file_write(f, value, (int64_t)strlen(value)));
  return dlv3_file_write(f, "\n", 1);
}

/* Opens the new version of the file, which one process at a time can do, so that no addition is
 * lost. Waits some milliseconds for another process, unless that failed before. */
static bool open_successor(dlv3_file **f, const char *path) {
  static int32_t tries = 300;
  const struct timespec moment = {0, 2000000};
  for (int32_t i = 0; i < tries; i++, nanosleep(&moment, NULL))
    if (dlv3_file_create(f, path) == DLV3_OK) return true;
  tries = 1;
  return false;
}

void tuning_keep(const char *file, const char *key, const char *value) {
  char folder[MOST_PATH], path[MOST_PATH], *k, *v;
  dlv3_file *f;
  if (!plain(key) || !plain(value) || !find_folder(folder, sizeof folder)
      || !find_path(path, sizeof path, folder, file))
    return;
  if (dlv3_make_dir(folder) != DLV3_OK || access(folder, W_OK) || !open_successor(&f, path)) return;
  char *text = text_of(path), *at = text;
  status st = dlv3_file_write(f, head, sizeof head - 1);
  while (text && st == DLV3_OK && next_choice(&at, &k, &v))
    if (strcmp(k, key)) st = put_choice(f, k, v);
  if (st == DLV3_OK) st = put_choice(f, key, value);
  if (st == DLV3_OK) st = dlv3_file_commit(f);
  dlv3_file_close(f);
  free(text);
}
