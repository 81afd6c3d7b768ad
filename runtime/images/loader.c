/* loader.c - the data workers: threads that decode, resize, flip and crop samples ahead of the
 * next batch.
 *
 * A ring of slots holds samples as 8-bit pictures, in the order of delivery. Workers claim
 * positions in that order. The host thread waits for the positions of its batch and writes them,
 * normalized, into a new tensor. Only the host thread uses tensors and calls the functions of
 * dlv3.h. Random numbers depend on (seed, epoch, index) alone, so batches are equal for any number
 * of workers and after a resume. The transforms are those of torchvision's reference, with
 * Pillow's resizing. */
#include "core/executor.h"
#include "image.h"
#include "image_file.h"
#include "normalize.h"
#include "resize.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { EMPTY, FILLED, READY, FAILED }; /* FILLED: the host has put a sample in the slot */

typedef struct {
  int32_t state;
  bool has_mask;
  picture image, mask;          /* the result */
  picture in_image, in_mask;    /* the sample as tensors ... */
  char *image_path, *mask_path; /* ... or as paths; owned */
  char name[64];
  status code;
  char message[2048];
} slot;

typedef struct { /* scratch space of a worker */
  byte_buffer file;
  picture image, mask;
  resize_space resize;
} workspace;

struct dlv3_loader {
  dlv3_loader_config config;
  normalize_table table;
  uint8_t allowed[256]; /* labels */
  int64_t n;            /* samples of the data set */

  pthread_t *threads;
  int32_t n_threads;
  pthread_mutex_t lock;
  pthread_cond_t work, done;
  /* guarded by the lock: all below */
  bool quit, running;
  int32_t busy; /* workers that process a sample */
  slot *slots;
  int64_t capacity;
  int64_t epoch, *order, n_order, claimed, filled, delivered;
  int32_t batch;
};

/* -- One sample -------------------------------------------------------------------------------- */

static status check_labels(const dlv3_loader *l, const picture *mask, const char *name) {
  int64_t n = mask->h * mask->w;
  const uint8_t *p = mask->data, *end = p + n;
  while (p < end && l->allowed[*p]) p++;
  if (p == end) return DLV3_OK;
  int64_t at = p - mask->data;
  return fail(DLV3_ERR_FORMAT,
              "%s: label %d at x %lld, y %lld (counted from 0); expected 0..%d, or %d for ignored pixels\n"
              "  check the number of classes; scripts/check_data.lua lists every mask with such labels",
              name, *p, (long long)(at % mask->w), (long long)(at / mask->w), (int)l->config.num_classes - 1,
              (int)l->config.ignore_index);
}

static status check_same_size(const picture *image, const picture *mask, const char *image_name,
                              const char *mask_name) {
  if (image->h == mask->h && image->w == mask->w) return DLV3_OK;
  bool turned = image->h == mask->w && image->w == mask->h;
  return fail(DLV3_ERR_FORMAT, "%s: the mask is %lldx%lld pixels but its image %s is %lldx%lld (width x height)%s",
              mask_name, (long long)mask->w, (long long)mask->h, image_name, (long long)image->w, (long long)image->h,
              turned ? "\n  the photo may have an EXIF orientation; save it upright" : "");
}

/* Pads the picture outside the h x w pixels at the top left. */
static void fill_rest(picture *p, int64_t h, int64_t w, uint8_t value) {
  int64_t c = p->channels;
  for (int64_t y = 0; y < h && w < p->w; y++) memset(p->data + (y * p->w + w) * c, value, (size_t)((p->w - w) * c));
  memset(p->data + h * p->w * c, value, (size_t)((p->h - h) * p->w * c));
}

/* A whole number in [0, n). */
static int64_t random_below(uint32_t word, int64_t n) { return (int64_t)((uint64_t)word * (uint64_t)n >> 32); }

/* RandomResize, RandomHorizontalFlip, RandomCrop with padding at the right and bottom. Pixels
 * outside the crop are not computed. */
static status transform_train(const dlv3_loader *l, workspace *w, slot *s, const picture *image, const picture *mask,
                              int64_t index) {
  enum { DATA = 1 }; /* distinguishes these random numbers from others of the seed */
  const dlv3_loader_config *c = &l->config;
  uint32_t words[4];
  philox(words, c->seed, (uint64_t)index, (uint64_t)l->epoch << 8 | DATA);
  int64_t h = image->h, width = image->w, crop = c->crop;
  resize_shorter(&h, &width, c->resize_min + random_below(words[0], c->resize_max - c->resize_min + 1));
  bool flip = philox_uniform(words[1]) < c->flip;
  int64_t top = random_below(words[2], (h > crop ? h - crop : 0) + 1),
          left = random_below(words[3], (width > crop ? width - crop : 0) + 1);
  window part = {top, top + crop < h ? top + crop : h, left, left + crop < width ? left + crop : width};
  if (flip) part = (window){part.y0, part.y1, width - part.x1, width - part.x0}; /* the crop is after the flip */
  int64_t nh = part.y1 - part.y0, nw = part.x1 - part.x0;
  TRY(picture_reserve(&s->image, h, width, 0)); /* the whole picture must be within the pixel limit too */
  TRY(picture_reserve(&s->image, crop, crop, 3));
  TRY(resize_bilinear_into(&s->image, image, h, width, part, flip, &w->resize));
  fill_rest(&s->image, nh, nw, 0);
  if (!mask) return DLV3_OK;
  TRY(picture_reserve(&s->mask, crop, crop, 1));
  TRY(resize_nearest_into(&s->mask, mask, h, width, part, flip, &w->resize));
  fill_rest(&s->mask, nh, nw, (uint8_t)c->ignore_index);
  return DLV3_OK;
}

static status transform_eval(const dlv3_loader *l, workspace *w, slot *s, const picture *image, const picture *mask) {
  int64_t h = image->h, width = image->w;
  if (l->config.resize_min) resize_shorter(&h, &width, l->config.resize_min);
  window all = {0, h, 0, width};
  TRY(resize_bilinear(&s->image, image, h, width, all, &w->resize));
  return mask ? resize_nearest(&s->mask, mask, h, width, all, &w->resize) : DLV3_OK;
}

static status offer_to_skip(status st) {
  if (st != DLV3_ERR_DAMAGED) return st;
  return fail(
      st, "%s\n  --skip-damaged of train_voc and validate (data.skip_damaged) leaves out damaged files and lists them",
      dlv3_last_error());
}

static status make_sample(const dlv3_loader *l, workspace *w, slot *s, int64_t index) {
  const char *image_path = s->image_path, *mask_path = s->mask_path;
  const picture *image = &s->in_image, *mask = s->has_mask ? &s->in_mask : NULL;
  if (image_path) {
    TRY(offer_to_skip(picture_read(&w->image, image_path, &w->file, false, NULL)));
    image = &w->image;
  }
  if (mask_path) {
    TRY(offer_to_skip(picture_read_mask(&w->mask, mask_path, &w->file)));
    mask = &w->mask;
  }
  s->has_mask = mask != NULL;
  if (mask) {
    TRY(check_same_size(image, mask, image_path ? image_path : s->name, mask_path ? mask_path : s->name));
    TRY(check_labels(l, mask, mask_path ? mask_path : s->name));
  }
  status st = l->config.train ? transform_train(l, w, s, image, mask, index) : transform_eval(l, w, s, image, mask);
  return st == DLV3_OK ? st : fail(st, "%s: %s", image_path ? image_path : s->name, dlv3_last_error());
}

/* -- Workers ----------------------------------------------------------------------------------- */

/* The first position that no worker may claim yet. */
static int64_t claim_limit(const dlv3_loader *l) { return l->running ? l->filled : 0; }

static void *worker_loop(void *context) {
  dlv3_loader *l = context;
  workspace w = {{0}};
  pthread_mutex_lock(&l->lock);
  while (!l->quit) {
    if (l->claimed >= claim_limit(l)) {
      pthread_cond_wait(&l->work, &l->lock);
      continue;
    }
    int64_t position = l->claimed++, index = l->order[position];
    slot *s = &l->slots[position % l->capacity];
    l->busy++;
    pthread_mutex_unlock(&l->lock);
    status st = make_sample(l, &w, s, index);
    if (st != DLV3_OK) {
      s->code = st;
      snprintf(s->message, sizeof s->message, "%s", dlv3_last_error());
    }
    pthread_mutex_lock(&l->lock);
    s->state = st == DLV3_OK ? READY : FAILED;
    l->busy--;
    pthread_cond_broadcast(&l->done);
  }
  pthread_mutex_unlock(&l->lock);
  bytes_free(&w.file);
  picture_free(&w.image);
  picture_free(&w.mask);
  resize_space_free(&w.resize);
  return NULL;
}

/* Workers block signals: the host thread handles them. */
static status start_threads(dlv3_loader *l) {
  sigset_t all, before;
  sigfillset(&all);
  l->threads = calloc((size_t)l->config.workers, sizeof *l->threads);
  if (!l->threads) return fail(DLV3_ERR_OOM, "loader: out of memory");
  pthread_sigmask(SIG_BLOCK, &all, &before);
  int error = 0;
  while (l->n_threads < l->config.workers && !(error = pthread_create(&l->threads[l->n_threads], NULL, worker_loop, l)))
    l->n_threads++;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (!error) return DLV3_OK;
  errno = error;
  return fail(DLV3_ERR_INTERNAL, "loader: %d of %d worker threads could be started: %m", (int)l->n_threads,
              (int)l->config.workers);
}

/* With the lock held: ends the epoch and waits for the samples in progress. */
static void stop_epoch(dlv3_loader *l) {
  l->running = false;
  while (l->busy) pthread_cond_wait(&l->done, &l->lock);
}

/* -- Making and freeing ------------------------------------------------------------------------ */

static status check_config(const dlv3_loader_config *c) {
  if (c->workers < 1 || c->workers > 256)
    return fail(DLV3_ERR_ARG, "loader: workers must be within 1..256, got %d", (int)c->workers);
  if (c->ahead < 1 || c->ahead > 1024)
    return fail(DLV3_ERR_ARG, "loader: batches ahead must be within 1..1024, got %d", (int)c->ahead);
  if (c->num_classes < 0 || c->num_classes > 256)
    return fail(DLV3_ERR_ARG, "loader: num_classes must be within 0..256 (labels have 8 bits), got %d",
                (int)c->num_classes);
  if (c->ignore_index < 0 || c->ignore_index > 255)
    return fail(DLV3_ERR_ARG, "loader: ignore_index must be within 0..255 (labels have 8 bits), got %d",
                (int)c->ignore_index);
  if (!c->train && (c->resize_min < 0 || c->resize_min > PICTURE_MAX_PIXELS))
    return fail(DLV3_ERR_ARG, "loader: the size must be at least 1 (0: the image's own), got %d", (int)c->resize_min);
  if (c->train && (c->resize_min < 1 || c->resize_max < c->resize_min || c->resize_max > PICTURE_MAX_PIXELS))
    return fail(DLV3_ERR_ARG, "loader: the range of sizes must be within 1.. and not empty, got %d..%d",
                (int)c->resize_min, (int)c->resize_max);
  if (c->train && (c->crop < 1 || c->crop > PICTURE_MAX_PIXELS))
    return fail(DLV3_ERR_ARG, "loader: the crop must be at least 1, got %d", (int)c->crop);
  return DLV3_OK;
}

DLV3_API dlv3_status dlv3_loader_new(dlv3_loader **out, const dlv3_loader_config *config, int64_t n) {
  TRY(check_config(config));
  if (n < 0) return fail(DLV3_ERR_ARG, "loader: %lld samples", (long long)n);
  dlv3_loader *l = calloc(1, sizeof *l);
  if (!l) return fail(DLV3_ERR_OOM, "loader: out of memory");
  l->config = *config;
  l->n = n;
  pthread_mutex_init(&l->lock, NULL);
  pthread_cond_init(&l->work, NULL);
  pthread_cond_init(&l->done, NULL);
  for (int32_t v = 0; v < 256; v++)
    l->allowed[v] = !config->num_classes || v < config->num_classes || v == config->ignore_index;
  status st = normalize_table_make(&l->table, config->mean, config->std, config->dtype);
  if (st == DLV3_OK) st = start_threads(l);
  if (st == DLV3_OK)
    *out = l;
  else
    dlv3_loader_free(l);
  return st;
}

static void free_slots(dlv3_loader *l) {
  for (int64_t i = 0; i < l->capacity; i++) {
    slot *s = &l->slots[i];
    picture_free(&s->image);
    picture_free(&s->mask);
    picture_free(&s->in_image);
    picture_free(&s->in_mask);
    free(s->image_path);
    free(s->mask_path);
  }
  free(l->slots);
  l->slots = NULL;
  l->capacity = 0;
}

DLV3_API void dlv3_loader_free(dlv3_loader *l) {
  if (!l) return;
  pthread_mutex_lock(&l->lock);
  l->quit = true;
  l->running = false;
  pthread_cond_broadcast(&l->work);
  pthread_mutex_unlock(&l->lock);
  for (int32_t i = 0; i < l->n_threads; i++) pthread_join(l->threads[i], NULL);
  free_slots(l);
  pthread_cond_destroy(&l->work);
  pthread_cond_destroy(&l->done);
  pthread_mutex_destroy(&l->lock);
  free(l->threads);
  free(l->order);
  free(l);
}

/* -- An epoch ---------------------------------------------------------------------------------- */

static status make_slots(dlv3_loader *l, int32_t batch) {
  int64_t capacity = (int64_t)batch * l->config.ahead, least = (int64_t)batch + l->config.workers;
  if (capacity < least) capacity = least;
  if (capacity == l->capacity) return DLV3_OK;
  free_slots(l);
  l->slots = calloc((size_t)capacity, sizeof *l->slots);
  if (!l->slots) return fail(DLV3_ERR_OOM, "loader: out of memory");
  l->capacity = capacity;
  return DLV3_OK;
}

static status begin_epoch(dlv3_loader *l, int64_t epoch, const int64_t *order, int64_t n, int64_t first,
                          int32_t batch) {
  TRY(make_slots(l, batch));
  free(l->order);
  l->order = malloc((size_t)n * sizeof *order + 1);
  if (!l->order) return fail(DLV3_ERR_OOM, "loader: out of memory for %lld indices", (long long)n);
  memcpy(l->order, order, (size_t)n * sizeof *order);
  for (int64_t i = 0; i < l->capacity; i++) l->slots[i].state = EMPTY;
  l->epoch = epoch;
  l->n_order = n;
  l->batch = batch;
  l->claimed = l->filled = l->delivered = first;
  l->running = true;
  return DLV3_OK;
}

DLV3_API dlv3_status dlv3_loader_start(dlv3_loader *l, int64_t epoch, const int64_t *order, int64_t n, int64_t first,
                                       int32_t batch) {
  if (batch < 1 || batch > 1 << 20)
    return fail(DLV3_ERR_ARG, "loader: the batch size must be at least 1, got %d", (int)batch);
  if (n < 0 || first < 0 || first > n)
    return fail(DLV3_ERR_ARG, "loader: expected 0 to %lld samples to skip, got %lld", (long long)n, (long long)first);
  for (int64_t i = 0; i < n; i++)
    if (order[i] < 0 || order[i] >= l->n)
      return fail(DLV3_ERR_ARG, "loader: index %lld of a data set of %lld samples", (long long)order[i],
                  (long long)l->n);
  pthread_mutex_lock(&l->lock);
  stop_epoch(l);
  status st = begin_epoch(l, epoch, order, n, first, batch);
  pthread_cond_broadcast(&l->work);
  pthread_mutex_unlock(&l->lock);
  return st;
}

/* -- Samples from the host
 * ---------------------------------------------------------------------- */

DLV3_API int64_t dlv3_loader_wanted(dlv3_loader *l) {
  pthread_mutex_lock(&l->lock);
  int64_t ahead = l->delivered + l->capacity, end = ahead < l->n_order ? ahead : l->n_order;
  int64_t wanted = l->running ? end - l->filled : 0;
  pthread_mutex_unlock(&l->lock);
  return wanted;
}

static status replace_path(char **to, const char *path) {
  free(*to);
  *to = NULL;
  if (path && !(*to = strdup(path))) return fail(DLV3_ERR_OOM, "loader: out of memory");
  return DLV3_OK;
}

DLV3_API dlv3_status dlv3_loader_put(dlv3_loader *l, const char *name, const dlv3_tensor *image, const char *image_path,
                                     const dlv3_tensor *mask, const char *mask_path) {
  if (dlv3_loader_wanted(l) < 1) return fail(DLV3_ERR_ARG, "loader: all slots are full; take a batch first");
  if (!image && !image_path) return fail(DLV3_ERR_ARG, "%s: the image is missing", name);
  slot *s = &l->slots[l->filled % l->capacity]; /* free: no worker uses it before `filled` increases */
  snprintf(s->name, sizeof s->name, "%s", name);
  s->has_mask = mask || mask_path;
  TRY(replace_path(&s->image_path, image_path));
  TRY(replace_path(&s->mask_path, mask_path));
  if (!image_path) TRY(picture_from_tensor(&s->in_image, image, name, false));
  if (mask && !mask_path) TRY(picture_from_tensor(&s->in_mask, mask, name, true));
  pthread_mutex_lock(&l->lock);
  s->state = FILLED;
  l->filled++;
  pthread_cond_signal(&l->work);
  pthread_mutex_unlock(&l->lock);
  return DLV3_OK;
}

/* -- The batch --------------------------------------------------------------------------------- */

typedef struct {
  const dlv3_loader *l;
  char *image;
  uint8_t *target; /* NULL: none */
  int64_t h, w;
} batch_writer;

/* Writes rows begin..end-1, counted over all samples. Pixels outside a sample are 0 after
 * normalization, and ignore_index in the target. */
static void write_rows(void *context, int64_t begin_row, int64_t end_row) {
  const batch_writer *b = context;
  int32_t width = dtype_bytes(b->l->config.dtype);
  for (int64_t r = begin_row; r < end_row; r++) {
    const slot *s = &b->l->slots[(b->l->delivered + r / b->h) % b->l->capacity];
    int64_t y = r % b->h, used = y < s->image.h ? s->image.w : 0;
    char *row = b->image + r * b->w * 3 * width;
    if (used) normalize_pixels(row, s->image.data + y * used * 3, used, &b->l->table, width);
    memset(row + used * 3 * width, 0, (size_t)((b->w - used) * 3 * width));
    if (!b->target) continue;
    if (used) memcpy(b->target + r * b->w, s->mask.data + y * used, (size_t)used);
    memset(b->target + r * b->w + used, b->l->config.ignore_index, (size_t)(b->w - used));
  }
}

static void wait_a_moment(dlv3_loader *l) { /* wakes up to poll for an interrupt */
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_nsec += 50000000;
  if (until.tv_nsec >= 1000000000) {
    until.tv_sec++;
    until.tv_nsec -= 1000000000;
  }
  pthread_cond_timedwait(&l->done, &l->lock, &until);
}

/* With the lock held: waits for the n samples from `delivered` on. */
static status wait_for(dlv3_loader *l, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    slot *s = &l->slots[(l->delivered + i) % l->capacity];
    while (s->state != READY && s->state != FAILED) {
      if (interrupt_wanted()) return fail(DLV3_ERR_INTERRUPTED, "interrupted");
      if (l->delivered + i >= l->filled)
        return fail(DLV3_ERR_ARG, "loader: got %lld samples, expected %lld for the batch", (long long)i, (long long)n);
      wait_a_moment(l);
    }
    if (s->state == FAILED) {
      stop_epoch(l);
      return fail(s->code, "%s", s->message);
    }
  }
  return DLV3_OK;
}

static status make_batch(dlv3_loader *l, int64_t n, tensor **image, tensor **target) {
  batch_writer b = {.l = l};
  const slot *first = &l->slots[l->delivered % l->capacity];
  TRY(check_host_access("the data loader"));
  for (int64_t i = 0; i < n; i++) {
    const slot *s = &l->slots[(l->delivered + i) % l->capacity];
    if (s->has_mask != first->has_mask)
      return fail(DLV3_ERR_ARG,
                  "%s and %s: one has a mask and the other has none; give all samples of a loader a mask, or none",
                  first->name, s->name);
    if (s->image.h > b.h) b.h = s->image.h;
    if (s->image.w > b.w) b.w = s->image.w;
  }
  TRY(tensor_new(image, l->config.dtype, 4, (int64_t[]){n, 3, b.h, b.w}, 0));
  *target = NULL;
  if (first->has_mask) {
    status st = tensor_new(target, DLV3_U8, 3, (int64_t[]){n, b.h, b.w}, 0);
    if (st != DLV3_OK) {
      tensor_drop(*image);
      *image = NULL;
      return st;
    }
    b.target = data_of(*target);
  }
  b.image = data_of(*image);
  parallel_for(n * b.h, 64, write_rows, &b);
  return DLV3_OK;
}

DLV3_API dlv3_status dlv3_loader_next(dlv3_loader *l, dlv3_tensor **image, dlv3_tensor **target) {
  *image = *target = NULL;
  pthread_mutex_lock(&l->lock);
  if (!l->running) {
    pthread_mutex_unlock(&l->lock);
    return fail(DLV3_ERR_ARG, "loader: no epoch is in progress; begin one (also after an error)");
  }
  int64_t n = l->n_order - l->delivered;
  if (n > l->batch) n = l->batch;
  status st = wait_for(l, n);
  pthread_mutex_unlock(&l->lock);
  if (st != DLV3_OK || !n) return st;
  TRY(make_batch(l, n, image, target)); /* workers do not touch READY slots */
  pthread_mutex_lock(&l->lock);
  for (int64_t i = 0; i < n; i++) l->slots[(l->delivered + i) % l->capacity].state = EMPTY;
  l->delivered += n;
  pthread_cond_broadcast(&l->work);
  pthread_mutex_unlock(&l->lock);
  return DLV3_OK;
}
