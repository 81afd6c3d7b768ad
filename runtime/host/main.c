/* main.c - the host program: finds the Lua library, runs scripts, -e lines, stdin or the REPL.
 *
 * One of the two files that know Lua's C API (the other is repl.c) and may print and end the
 * process. Everything else that a script sees of the runtime goes through dlv3.h and LuaJIT's
 * FFI. */
#define _GNU_SOURCE /* environ */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include <ctype.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dlv3.h"
#include "host.h"

static const char usage[] =
    "usage: dlv3 [options] [script.lua [arguments]]\n"
    "\n"
    "Runs a Lua script; without one, the REPL (or standard input, where that is not a terminal).\n"
    "\n"
    "  -e CODE     run CODE; may be given several times; with dlv3, nn, optim, data, models loaded\n"
    "  -i          start the REPL after the script or the CODEs\n"
    "  -           run standard input as a script\n"
    "  --version   print the version and what it was built with\n"
    "  --help      print this text; `dlv3 script.lua --help` prints that of the script\n"
    "\n"
    "environment:\n"
    "  DLV3_NUM_THREADS=N   threads of the cpu kernels; without it, the processors that affinity and cgroups allow\n"
    "  DLV3_VERBOSE=1       print every op with its implementation, time and shapes; 2: also why others declined\n"
    "  DLV3_IMPL=NAME       prefer that implementation: ref, onednn, ... (ref: the plain loops)\n"
    "\n"
    "scripts that come with it, from any folder: dlv3 train_voc, validate, predict, plot_lr, check_data,\n"
    "make_shapes, bench; each has --help\n";

static char executable[PATH_MAX];
static char root[PATH_MAX]; /* the folder of lua/, models/ and scripts/; no slash at the end */

/* -- Errors ------------------------------------------------------------------------------------ */

/* Replaces unprintable bytes of the text at the top of the stack by \xNN. */
static void escape(lua_State *L) {
  size_t length;
  const char *text = lua_tolstring(L, -1, &length);
  char *out = lua_newuserdata(L, 4 * length + 1);
  int64_t n = dlv3_printable(out, (int64_t)(4 * length + 1), text, (int64_t)length);
  lua_pushlstring(L, out, (size_t)n);
  lua_replace(L, -3);
  lua_pop(L, 1);
}

/* The path of a file relative to the root, if it is below. */
static const char *short_name(const char *file) {
  size_t n = strlen(root);
  return !strncmp(file, root, n) && file[n] == '/' ? file + n + 1 : file;
}

/* Whether text begins with a position in Lua code, "scripts/train_voc.lua:98". */
static bool is_place(const char *text) {
  const char *end = strstr(text, ".lua:");
  return end && end < text + strcspn(text, " '\n") && isdigit((unsigned char)end[5]);
}

/* Pushes text with positions in Lua code relative to the root; paths of the user's files stay
 * absolute. */
static void push_short(lua_State *L, const char *text) {
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  for (const char *at; (at = strstr(text, root));) {
    const char *name = short_name(at), *next = name > at ? name : at + 1;
    luaL_addlstring(&b, text, (size_t)((name > at && is_place(name) ? at : next) - text));
    text = next;
  }
  luaL_addstring(&b, text);
  luaL_pushresult(&b);
}

/* Pushes "models/deeplabv3.lua:58 in forward" for a frame. */
static void push_place(lua_State *L, const lua_Debug *frame) {
  const char *file = frame->source[0] == '@' || frame->source[0] == '=' ? frame->source + 1 : frame->short_src;
  lua_pushfstring(L, "%s:%d%s%s", short_name(file), frame->currentline, frame->name ? " in " : "",
                  frame->name ? frame->name : "");
}

/* Appends the callers that are Lua code outside the library. The first is the position of the
 * message itself, so a single one is omitted. */
static void add_traceback(lua_State *L, luaL_Buffer *b) {
  lua_Debug frame;
  int seen = 0;
  for (int level = 1; lua_getstack(L, level, &frame) && seen < 9; level++) {
    lua_getinfo(L, "Snl", &frame);
    if (frame.currentline <= 0 || strstr(frame.source, "lua/dlv3/")) continue;
    if (seen++ == 0) continue;
    luaL_addstring(b, "\n  from ");
    push_place(L, &frame);
    luaL_addvalue(b);
  }
}

/* Replaces the message at the top of the stack by the one of lua/dlv3/repl/method_hint.lua. */
static void add_hint(lua_State *L) {
  if (!strstr(lua_tostring(L, -1), "attempt to call method")) return;
  lua_getglobal(L, "require");
  lua_pushliteral(L, "dlv3.repl.method_hint");
  if (lua_pcall(L, 1, 1, 0) == 0) {
    lua_pushvalue(L, -2);
    if (lua_pcall(L, 1, 1, 0) == 0 && lua_isstring(L, -1))
      lua_replace(L, -2);
    else
      lua_pop(L, 1);
  } else
    lua_pop(L, 1);
}

/* Turns any error object into text with a short traceback. */
static int message_handler(lua_State *L) {
  if (!lua_isstring(L, 1)) {
    if (luaL_callmeta(L, 1, "__tostring") && lua_isstring(L, -1))
      lua_replace(L, 1);
    else {
      lua_pushfstring(L, "(the error is a %s)", luaL_typename(L, 1));
      lua_replace(L, 1);
    }
  }
  lua_settop(L, 1);
  escape(L);
  push_short(L, lua_tostring(L, 1));
  add_hint(L);
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  lua_pushvalue(L, 2);
  luaL_addvalue(&b);
  add_traceback(L, &b);
  luaL_pushresult(&b);
  return 1;
}

static int report_error(lua_State *L, int failed) {
  if (!failed) return 0;
  if (lua_isstring(L, -1)) escape(L);
  const char *message = lua_tostring(L, -1);
  fflush(stdout);
  dlv3_world_take_turn();
  fprintf(stderr, "dlv3: %s%s\n", dlv3_world_label(), message ? message : "an error without a message");
  lua_pop(L, 1);
  return 1;
}

/* Calls the function below its n arguments, with the traceback. Returns 0 or 1 after having printed
 * the error. */
static int call_function(lua_State *L, int n) {
  int base = lua_gettop(L) - n;
  lua_pushcfunction(L, message_handler);
  lua_insert(L, base);
  int failed = lua_pcall(L, n, 0, base);
  lua_remove(L, base);
  return report_error(L, failed);
}

/* -- Paths ------------------------------------------------------------------------------------- */

static bool is_root(const char *dir) {
  char probe[PATH_MAX + 64];
  int n = snprintf(probe, sizeof probe, "%s/lua/dlv3/core/ffi.lua", dir);
  return n < (int)sizeof probe && access(probe, R_OK) == 0;
}

static void find_executable(void) {
  ssize_t n = readlink("/proc/self/exe", executable, sizeof executable - 1);
  executable[n > 0 ? n : 0] = 0;
}

/* The program is in the root, in build/san/ below it, or in PREFIX/bin with the library in
 * PREFIX/share/dlv3. */
static int find_root(void) {
  static const char *const below[] = {"", "/..", "/../..", "/../share/dlv3"};
  char exe[PATH_MAX], candidate[PATH_MAX + 32];
  if (!executable[0]) {
    fprintf(stderr, "dlv3: can not find the folder of the program: /proc/self/exe is not readable\n");
    return 1;
  }
  strcpy(exe, executable);
  *strrchr(exe, '/') = 0;
  for (size_t i = 0; i < sizeof below / sizeof *below; i++) {
    snprintf(candidate, sizeof candidate, "%s%s", exe, below[i]);
    if (is_root(candidate) && realpath(candidate, root)) return 0;
  }
  fprintf(stderr,
          "dlv3: the Lua library is missing: no lua/dlv3/core/ffi.lua in %s, two levels above, "
          "or in %s/../share/dlv3\n",
          exe, exe);
  return 1;
}

/* Pushes {NAME = value} of the variables that begin with DLV3_. */
static void push_environment(lua_State *L) {
  lua_newtable(L);
  for (char **variable = environ; variable && *variable; variable++) {
    const char *value = strchr(*variable, '=');
    if (strncmp(*variable, "DLV3_", 5) || !value) continue;
    lua_pushlstring(L, *variable, (size_t)(value - *variable));
    lua_pushstring(L, value + 1);
    lua_rawset(L, -3);
  }
}

/* The module dlv3.host: {executable, root, environment}, for scripts and tests that run others. */
static void set_host_module(lua_State *L) {
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "loaded");
  lua_newtable(L);
  lua_pushstring(L, executable);
  lua_setfield(L, -2, "executable");
  lua_pushstring(L, root);
  lua_setfield(L, -2, "root");
  push_environment(L);
  lua_setfield(L, -2, "environment");
  lua_setfield(L, -2, "dlv3.host");
  lua_pop(L, 2);
}

/* package.path: the library, then the folder of the script, then Lua's default. */
static void set_package_path(lua_State *L, const char *script) {
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "path");
  const char *rest = lua_tostring(L, -1);
  lua_pushfstring(L, "%s/lua/?.lua;%s/lua/?/init.lua;%s/?.lua;%s/?/init.lua;", root, root, root, root);
  if (script && strrchr(script, '/')) {
    lua_pushlstring(L, script, (size_t)(strrchr(script, '/') - script));
    lua_pushfstring(L, "%s/?.lua;", lua_tostring(L, -1));
    lua_remove(L, -2);
  } else
    lua_pushliteral(L, "");
  lua_pushstring(L, rest ? rest : "");
  lua_concat(L, 3);
  lua_setfield(L, -3, "path");
  lua_pop(L, 2);
}

/* -- Running ----------------------------------------------------------------------------------- */

typedef struct {
  int argc;
  char **argv;
  int script; /* index of the script in argv, argc if there is none */
  bool interactive, has_code, version, help;
  bool failed; /* bad usage                                          */
} command;

static command parse_arguments(int argc, char **argv) {
  command c = {.argc = argc, .argv = argv, .script = argc};
  for (int i = 1; i < argc; i++) {
    const char *a = argv[i];
    if (a[0] != '-' || !strcmp(a, "-")) {
      c.script = i;
      break;
    }
    if (!strcmp(a, "--")) {
      c.script = i + 1;
      break;
    }
    if (!strcmp(a, "--version") || !strcmp(a, "-v"))
      c.version = true;
    else if (!strcmp(a, "--help") || !strcmp(a, "-h"))
      c.help = true;
    else if (!strcmp(a, "-i"))
      c.interactive = true;
    else if (!strcmp(a, "-e") && i + 1 < argc) {
      c.has_code = true;
      i++;
    } else {
      if (!strcmp(a, "-e"))
        fprintf(stderr, "dlv3: -e needs the code to run, as in dlv3 -e 'print(1)'\n");
      else
        fprintf(stderr, "dlv3: no option '%s'; `dlv3 --help` lists them (options of a script come after its name)\n",
                a);
      c.failed = true;
      break;
    }
  }
  return c;
}

/* The global arg, as in luajit: arg[0] is the script, options before it have negative indices. */
static void set_arg(lua_State *L, const command *c) {
  lua_createtable(L, c->argc, c->argc);
  for (int i = 0; i < c->argc; i++) {
    lua_pushstring(L, c->argv[i]);
    lua_rawseti(L, -2, c->script < c->argc ? i - c->script : i);
  }
  lua_setglobal(L, "arg");
}

static int require_module(lua_State *L, const char *name) {
  lua_getglobal(L, "require");
  lua_pushstring(L, name);
  return call_function(L, 1);
}

static int run_codes(lua_State *L, const command *c) {
  for (int i = 1; i < c->script; i++) {
    if (strcmp(c->argv[i], "-e")) continue;
    const char *code = c->argv[++i];
    if (report_error(L, luaL_loadbuffer(L, code, strlen(code), "=-e")) || call_function(L, 0)) return 1;
  }
  return 0;
}

static bool is_file(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 && !S_ISDIR(st.st_mode);
}

/* A script by its path, or one of dlv3's own from any working directory: scripts/train_voc.lua,
 * train_voc. */
static const char *find_script(const char *name, char *path, size_t size) {
  static const char *const before[] = {"", "scripts/", "scripts/"}, *const after[] = {"", "", ".lua"};
  if (is_file(name)) return name;
  for (int i = 0; i < 3 && name[0] != '/' && name[0] != '.'; i++) {
    int n = snprintf(path, size, "%s/%s%s%s", root, before[i], name, after[i]);
    if (n < (int)size && is_file(path)) return path;
  }
  return name;
}

static int run_script(lua_State *L, const command *c) {
  const char *name = c->argv[c->script];
  char path[PATH_MAX + 64];
  if (report_error(L, luaL_loadfile(L, strcmp(name, "-") ? find_script(name, path, sizeof path) : NULL))) return 1;
  for (int i = c->script + 1; i < c->argc; i++) lua_pushstring(L, c->argv[i]);
  return call_function(L, c->argc - c->script - 1);
}

static int run_command(lua_State *L, const command *c) {
  bool script = c->script < c->argc, from_stdin = !script && !c->has_code && !c->interactive && !isatty(0);
  bool repl = c->interactive || (!script && !c->has_code && !from_stdin);
  if (require_module(L, "dlv3.core.strict") || require_module(L, "dlv3.cli.environment")) return 1;
  if ((c->has_code || repl) && require_module(L, "dlv3.repl.repl_globals")) return 1;
  if (c->has_code && run_codes(L, c)) return 1;
  if (script && run_script(L, c) && !repl) return 1;
  if (from_stdin && (report_error(L, luaL_loadfile(L, NULL)) || call_function(L, 0))) return 1;
  return repl ? require_module(L, "dlv3.repl") : 0;
}

/* os.exit that closes the state first: unfinished files are removed and worker threads end. */
static int close_and_exit(lua_State *L) {
  lua_settop(L, 1);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_pushboolean(L, 1);
  lua_call(L, 2, 0);
  return 0;
}

static void replace_exit(lua_State *L) {
  lua_getglobal(L, "os");
  lua_getfield(L, -1, "exit");
  lua_pushcclosure(L, close_and_exit, 1);
  lua_setfield(L, -2, "exit");
  lua_pop(L, 1);
}

/* -- Settings of libraries --------------------------------------------------------------------- */

/* Environment variables that libgomp and the C library read when they are loaded, and our defaults
 * where the user has set none.
 *   GOMP_SPINCOUNT: OpenMP's threads spin for milliseconds after each loop by default. On a machine
 *     that others use too they then wait for each other's time slices: two trainings at once ran 15
 *     times slower than one. A short spin costs nothing alone and makes that 5 times.
 *   GLIBC_TUNABLES: malloc's memory lies on small pages by default, and each costs a fault when it
 *     is first touched. The heap on huge pages, and blocks below 4 MiB in it (the cpu backend maps
 *     larger ones itself), the weights of a model are there sooner. */
static const struct {
  const char *name, *other, *value; /* other: a variable that also sets it, NULL: none */
} settings[] = {
    {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "1000"},
    {"GLIBC_TUNABLES", NULL, "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4194304"},
};
enum { SETTINGS = sizeof settings / sizeof *settings };

static const char restarted[] = "DLV3_RESTARTED"; /* a letter per setting: y for our default, n for the user's */

/* Sets them by starting the program again. The second start removes them from the environment, so
 * that child processes do not inherit them. */
static void set_libraries(char **argv) {
  char ours[SETTINGS + 1] = "";
  const char *mark = getenv(restarted);
  for (int i = 0; mark && i < SETTINGS && mark[i]; i++)
    if (mark[i] == 'y') unsetenv(settings[i].name);
  if (mark) {
    unsetenv(restarted);
    return;
  }
  for (int i = 0; i < SETTINGS; i++) {
    const bool given = getenv(settings[i].name) || (settings[i].other && getenv(settings[i].other));
    ours[i] = !given && !setenv(settings[i].name, settings[i].value, 1) ? 'y' : 'n';
  }
  if (!strchr(ours, 'y')) return; /* the user has set all of them: no restart */
  if (executable[0] && !setenv(restarted, ours, 1)) execv(executable, argv);
  for (int i = 0; i < SETTINGS; i++) /* the start failed: continue without the settings */
    if (ours[i] == 'y') unsetenv(settings[i].name);
  unsetenv(restarted);
}

int main(int argc, char **argv) {
  signal(SIGXFSZ, SIG_IGN); /* a file over the size limit is an error of write(), with a message */
  find_executable();
  set_libraries(argv);
  command c = parse_arguments(argc, argv);
  if (c.failed) return 2;
  if (c.help) return fputs(usage, stdout) < 0;
  if (c.version) return printf("dlv3 %s\n%s", dlv3_version(), dlv3_build_info()) < 0;
  if (find_root()) return 1;
  lua_State *L = luaL_newstate();
  if (!L) {
    fprintf(stderr, "dlv3: out of memory for LuaJIT\n");
    return 1;
  }
  luaL_openlibs(L);
  set_package_path(L, c.script < argc ? argv[c.script] : NULL);
  set_arg(L, &c);
  replace_exit(L);
  set_host_module(L);
  repl_open(L);
  int failed = run_command(L, &c);
  fflush(stdout);
  lua_close(L); /* runs finalizers: unfinished files are removed */
  return failed;
}
