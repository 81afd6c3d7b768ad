/* cudnn_plan.cu - which of cuDNN's engines a convolution is run by, and its plan.
 *
 * cuDNN's heuristics name engines for a problem, best guess first. The first that is deterministic,
 * exact enough and has a plan is kept, by problem and device. Where DLV3_CUDNN_BENCHMARK or
 * dlv3.cudnn_benchmark(true) asks for it, each of them is run a few times on memory of its own, and
 * the fastest is kept; a file remembers it for later runs (runtime/files/tuning_cache.c), so that those take
 * the same engine without timing. Clocks differ from run to run, and engines in the last digits:
 * hence not by default. While a stream is captured nothing can be timed, and the first is taken.
 *
 * How a convolution becomes a graph, and how a plan is run: cudnn.cu. */
#include "cudnn_plan.h"

#include <stdio.h>
#include <stdlib.h>

#include "cuda/support/vendor.h"

enum {
  BUCKETS = 1024,
  RUNS = 5,
  KEY = 700,
  MOST_PLANS = 1024, /* of 100 KB of the host's memory each: 30 sizes of photos through ResNet-50 */
  MOST_ENGINES =
      64, /* for a 3x3 convolution cuDNN 9.19 names some 30 configurations; those for f32 without TF32 come last */
  MOST_TIMED = 16
};
static const int64_t most_workspace = (int64_t)2 << 30;
static const char choices[] = "cudnn_engines.txt";

static plan *plans[BUCKETS];
static int n_plans;

/* -- Engines ----------------------------------------------------------------------------------- */

/* What the heuristics of one mode name, best guess first. */
typedef struct {
  descriptor config[MOST_ENGINES];
  int64_t n;
} engine_list;

static const struct {
  char letter; /* in the file of choices */
  cudnnBackendHeurMode_t mode;
} modes[] = {{'A', CUDNN_HEUR_MODE_A}, {'B', CUDNN_HEUR_MODE_B}, {'F', CUDNN_HEUR_MODE_FALLBACK}};
enum { MODES = sizeof modes / sizeof *modes };

static void engines_of(engine_list *out, descriptor graph, cudnnBackendHeurMode_t mode) {
  int64_t n = 0;
  builder b = build(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  set(&b, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &graph);
  set(&b, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  descriptor heuristics = finish(&b);
  bool good = heuristics != NULL;
  memset(out, 0, sizeof *out);
  for (int i = 0; i < MOST_ENGINES && good; i++)
    good = cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &out->config[i]) == CUDNN_STATUS_SUCCESS;
  good = good
         && cudnnBackendGetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                     MOST_ENGINES, &n, out->config)
                == CUDNN_STATUS_SUCCESS;
  out->n = good ? least(n, MOST_ENGINES) : 0;
  drop(heuristics);
}

static void drop_engines(engine_list *e) {
  for (int i = 0; i < MOST_ENGINES; i++) drop(e->config[i]);
}

/* The engine of a configuration, or NULL. */
static descriptor engine_in(descriptor config) {
  int64_t n = 0;
  descriptor engine = NULL;
  if (cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) != CUDNN_STATUS_SUCCESS) return NULL;
  if (cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n, &engine)
      == CUDNN_STATUS_SUCCESS)
    return engine;
  drop(engine);
  return NULL;
}

/* cuDNN's number of the engine, -1 where it says none. */
static int64_t number_of(descriptor config) {
  int64_t n = 0, number = -1;
  descriptor engine = engine_in(config);
  if (engine
      && cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &n, &number)
             != CUDNN_STATUS_SUCCESS)
    number = -1;
  drop(engine);
  return number;
}

static bool any_order(void) { return switched("DLV3_NONDETERMINISTIC", false); }

/* What cuDNN says of an engine, note n as bit n; all of them where it says nothing. */
static uint64_t notes_of(descriptor config) {
  cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
  int64_t n = 0;
  uint64_t bits = 0;
  descriptor engine = engine_in(config);
  if (!engine
      || cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                  CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &n, notes)
             != CUDNN_STATUS_SUCCESS)
    bits = ~(uint64_t)0;
  for (int64_t i = 0; i < n; i++) bits |= (uint64_t)1 << notes[i];
  drop(engine);
  return bits;
}
static bool noted(uint64_t notes, cudnnBackendNumericalNote_t note) { return notes >> note & 1; }

/* Whether an engine may be used: its sums always in one order, its inputs as exact as they were
 * asked to be. f32 on tensor cores is TF32; engines that convert f32 to half precision are never
 * wanted. */
static bool allowed(uint64_t notes, const problem *p) {
  if (noted(notes, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) && !any_order()) return false;
  if (noted(notes, CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION)
      || noted(notes, CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS))
    return false;
  return !noted(notes, CUDNN_NUMERICAL_NOTE_TENSOR_CORE) || p->dtype != DLV3_F32 || p->tf32;
}

/* The plan of an engine configuration, or NULL; *starved where memory was wanting. */
static descriptor plan_of_config(descriptor config, cudnnHandle_t handle, int64_t *workspace, bool *starved) {
  int64_t n = 0;
  builder b = build(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  set(&b, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config);
  set(&b, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
  descriptor d = finish(&b);
  *starved |= short_of_memory(b.e);
  if (d
      && cudnnBackendGetAttribute(d, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &n, workspace)
             == CUDNN_STATUS_SUCCESS
      && *workspace <= most_workspace)
    return d;
  drop(d);
  return NULL;
}

/* Fills the plan by the engine at a place of the list; false where that may not be used or has no
 * plan. */
static bool take(plan *made, const engine_list *e, int64_t at, cudnnHandle_t handle) {
  if (allowed(notes_of(e->config[at]), &made->of))
    made->descriptor = plan_of_config(e->config[at], handle, &made->workspace, &made->starved);
  if (made->descriptor) made->engine = number_of(e->config[at]);
  return made->descriptor != NULL;
}

/* In 16 bits those on tensor cores come first. For maps of few channels the heuristics put engines
 * before them that turn the maps round in memory: 9.19 on an H100 for 64 channels to 24 at 120 x
 * 120 one that asks for 40 MB, both maps. */
static void take_first(plan *made, const engine_list *e, cudnnHandle_t handle) {
  for (int wanted = dtype_bytes(made->of.dtype) == 2; wanted >= 0; wanted--)
    for (int64_t i = 0; i < e->n; i++)
      if ((!wanted || noted(notes_of(e->config[i]), CUDNN_NUMERICAL_NOTE_TENSOR_CORE)) && take(made, e, i, handle))
        return;
}

/* -- Timing ------------------------------------------------------------------------------------ */

/* Memory that engines are tried on: the caller's stays as it is, and none of it is left to the
 * pool, which never splits. */
typedef struct {
  void *part[OPERANDS], *workspace;
  int64_t workspace_bytes;
} trial;

/* Every byte 0x3c is a plain number in f32, bf16 and f16: products stay plain too, and are work, as
 * those of zeros are not. */
static bool make_trial(trial *t, const op_call *c, const problem *p) {
  const conv *v = &p->v;
  const int64_t of_x = v->n * v->h * v->w * v->c, of_w = v->k * v->r * v->s * (v->c / v->groups),
                of_y = v->n * v->oh * v->ow * v->k;
  const int64_t elements[OPERANDS] = {of_x, of_w, of_y, p->bias ? v->k : 0, p->residual ? of_y : 0};
  const cudaStream_t stream = stream_of(c);
  for (int i = 0; i < OPERANDS; i++) {
    const int64_t bytes = elements[i] * dtype_bytes(p->dtype);
    if (bytes
        && (cudaMalloc(&t->part[i], (size_t)bytes) != cudaSuccess
            || cudaMemsetAsync(t->part[i], 0x3c, (size_t)bytes, stream) != cudaSuccess))
      return false;
  }
  return true;
}

static bool make_workspace(trial *t, int64_t bytes) {
  if (bytes <= t->workspace_bytes) return true;
  cudaFree(t->workspace);
  t->workspace = NULL, t->workspace_bytes = 0;
  if (cudaMalloc(&t->workspace, (size_t)bytes) != cudaSuccess) return false;
  return t->workspace_bytes = bytes, true;
}

static void drop_trial(trial *t) {
  for (int i = 0; i < OPERANDS; i++) cudaFree(t->part[i]);
  cudaFree(t->workspace);
}

/* Milliseconds of the fastest of some runs, negative where it does not run. All are queued behind a
 * first one, which loads the kernels, so that the host is not waited for where the device is the
 * slower of the two. */
static float time_of(plan *p, const op_call *c, cudnnHandle_t handle, trial *t) {
  cudaEvent_t behind[RUNS + 1] = {};
  float best = -1;
  bool good = make_workspace(t, p->workspace);
  const cudaStream_t stream = stream_of(c);
  for (int i = 0; good && i <= RUNS; i++) good = cudaEventCreateWithFlags(&behind[i], cudaEventDefault) == cudaSuccess;
  for (int i = 0; good && i <= RUNS; i++)
    good = cudnn_queue(p, handle, t->part, t->workspace) == CUDNN_STATUS_SUCCESS
           && cudaEventRecord(behind[i], stream) == cudaSuccess;
  good = cudaStreamSynchronize(stream) == cudaSuccess && good; /* a plan may not go while it runs */
  for (int i = 0; good && i < RUNS; i++) {
    float ms = 0;
    good = cudaEventElapsedTime(&ms, behind[i], behind[i + 1]) == cudaSuccess;
    if (best < 0 || ms < best) best = ms;
  }
  for (int i = 0; i <= RUNS; i++)
    if (behind[i]) cudaEventDestroy(behind[i]);
  return good ? best : -1;
}

/* Fills the plan by the fastest engine of the list and returns its place, -1 where none could be
 * timed. */
static int64_t take_fastest(plan *made, const engine_list *e, const op_call *c, cudnnHandle_t handle, trial *t) {
  float least_ms = 0;
  int64_t best = -1, timed = 0;
  for (int64_t i = 0; i < e->n && timed < MOST_TIMED; i++) {
    plan tried = {};
    tried.of = made->of;
    if (!take(&tried, e, i, handle)) continue;
    timed++;
    const float ms = time_of(&tried, c, handle, t);
    const bool faster = ms >= 0 && (best < 0 || ms < least_ms);
    drop(faster ? made->descriptor : tried.descriptor);
    if (faster)
      made->descriptor = tried.descriptor, made->workspace = tried.workspace, made->engine = tried.engine,
      least_ms = ms, best = i;
  }
  return best;
}

/* -- Choices that are remembered --------------------------------------------------------------- */

/* All that a choice depends on, in words: the GPU, cuDNN, the problem (its memory is always
 * channels-last). */
static void key_of(char *text, size_t n, const problem *p) {
  static const char *const names[] = {"forward", "backward input", "backward weight"};
  const auto dtype = [](int32_t d) { return d == DLV3_BF16 ? "bf16" : d == DLV3_F16 ? "f16" : "f32"; };
  const conv *v = &p->v;
  cudaDeviceProp gpu;
  memset(&gpu, 0, sizeof gpu);
  cudaGetDeviceProperties(&gpu, p->device - 1);
  snprintf(text, n,
           "%.250s sm_%d%d, cudnn %lld: %s %s%s%s%s%s%s, nhwc, n %lld, c %lld, h %lld, w %lld, k %lld, r %lld, s %lld, "
           "oh %lld, ow %lld, groups %lld, stride %lld %lld, padding %lld %lld, dilation %lld %lld",
           gpu.name, gpu.major, gpu.minor, (long long)cudnnGetVersion(), names[p->pass], dtype(p->dtype),
           p->residual ? " + residual" : "", p->bias ? " + bias" : "",
           p->relu  ? " relu"
           : p->add ? " added"
                    : "",
           p->tf32 ? ", tf32" : "", any_order() ? ", any order" : "", (long long)v->n, (long long)v->c, (long long)v->h,
           (long long)v->w, (long long)v->k, (long long)v->r, (long long)v->s, (long long)v->oh, (long long)v->ow,
           (long long)v->groups, (long long)v->stride.h, (long long)v->stride.w, (long long)v->padding.h,
           (long long)v->padding.w, (long long)v->dilation.h, (long long)v->dilation.w);
}

static void remember(const char *key, char letter, int64_t at, int64_t number) {
  char text[80];
  snprintf(text, sizeof text, "%c %lld engine %lld", letter, (long long)at, (long long)number);
  tuning_keep(choices, key, text);
}

/* Fills the plan by the remembered engine. The place in the heuristics' list says which one; its
 * number has to be the one that was there, or it is another list. */
static bool take_remembered(plan *made, const char *key, descriptor graph, cudnnHandle_t handle) {
  char text[80], letter = 0;
  int at = -1, end = 0;
  long long number = -1;
  if (!tuning_find(text, sizeof text, choices, key)) return false;
  if (sscanf(text, "%c %4d engine %15lld%n", &letter, &at, &number, &end) != 3 || text[end]) return false;
  for (int m = 0; m < MODES; m++) {
    if (modes[m].letter != letter) continue;
    engine_list e;
    engines_of(&e, graph, modes[m].mode);
    const bool found = at >= 0 && at < e.n && number_of(e.config[at]) == number && take(made, &e, at, handle);
    drop_engines(&e);
    return found;
  }
  return false;
}

/* -- Plans ------------------------------------------------------------------------------------- */

/* Fills the plan from the first mode that has an engine for it: by timing and with a note of it, or
 * by the first engine. */
static void search(plan *made, const char *key, descriptor graph, const op_call *c, cudnnHandle_t handle) {
  trial t = {};
  const bool timed = made->of.benchmark && !stream_captured(stream_of(c)) && make_trial(&t, c, &made->of);
  for (int m = 0; m < MODES && !made->descriptor; m++) {
    engine_list e;
    engines_of(&e, graph, modes[m].mode);
    const int64_t best = timed ? take_fastest(made, &e, c, handle, &t) : -1;
    if (best >= 0)
      remember(key, modes[m].letter, best, number_of(e.config[best]));
    else
      take_first(made, &e, handle);
    drop_engines(&e);
  }
  drop_trial(&t);
}

/* Of many sizes of maps in turn: all plans of a device go but those that a graph may hold kernels
 * of. None may run meanwhile. */
static void forget_plans(int32_t device) {
  const cudaStream_t stream = stream_on(device);
  if (!stream || stream_captured(stream) || cudaStreamSynchronize(stream) != cudaSuccess) return;
  for (plan *&bucket : plans)
    for (plan **at = &bucket; *at;) {
      plan *p = *at;
      if (p->captured || p->of.device != device) {
        at = &p->next;
        continue;
      }
      *at = p->next, n_plans--;
      drop(p->descriptor);
      free(p);
    }
}

status cudnn_plan_of(plan **out, const op_call *c, const problem *p, cudnnHandle_t handle) {
  plan **bucket = &plans[hash_of(p, sizeof *p) % BUCKETS];
  for (plan *at = *bucket; at; at = at->next)
    if (!memcmp(&at->of, p, sizeof *p)) return *out = at, DLV3_OK;
  if (n_plans >= MOST_PLANS) forget_plans(p->device);
  plan *made = (plan *)calloc(1, sizeof *made);
  if (!made) return fail_call(c, DLV3_ERR_OOM, "out of memory for a plan");
  made->of = *p;
  char key[KEY] = "";
  graph_of g;
  cudnn_graph_make(&g, p, handle);
  if (p->benchmark) key_of(key, sizeof key, p);
  if (g.graph && !(p->benchmark && take_remembered(made, key, g.graph, handle))) search(made, key, g.graph, c, handle);
  cudnn_graph_drop(&g);
  cudaGetLastError(); /* engines that did not work out leave errors behind */
  if (!made->descriptor && made->starved)
    return free(made), fail_call(c, DLV3_ERR_OOM, "out of memory for cudnn's plan");
  made->next = *bucket, n_plans++;
  return *bucket = *out = made, DLV3_OK;
}
