/* repl.c - the module dlv3.terminal for lua/dlv3/repl/init.lua: lines read with libedit, Ctrl-C,
 * completion.
 *
 * Uses libedit's own interface and not its readline one, which swallows the first Ctrl-C. Functions
 * of the module:
 *   start(complete)   before the first read; complete(line before the cursor) returns the length of
 *                     the word to be completed and an array of the possible words
 *   read(prompt)      a line without its newline; nil at the end of the input; false for Ctrl-C
 *   remember(line)    adds a line to the history
 *   interruptible(on) Ctrl-C raises an error in running Lua code (interpreted code only: the JIT
 *                     must be off)
 *   finish()          restores the terminal */
#include <lauxlib.h>
#include <lua.h>

#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include "dlv3.h"
#include "host.h"

static EditLine *editor;
static History *history_list;
static char prompt[64];
static int complete_ref = LUA_NOREF;
static lua_State *reading; /* the state that is inside read(), for the completion */
static volatile sig_atomic_t resized, continued;

static char *prompt_text(EditLine *el) {
  (void)el;
  return prompt;
}

static void on_terminal(int number) {
  if (number == SIGWINCH)
    resized = 1;
  else
    continued = 1;
}

/* One character for libedit; -1 ends the line: Ctrl-C. */
static int read_character(EditLine *el, wchar_t *out) {
  char bytes[8];
  size_t used = 0;
  mbstate_t state;
  for (;;) {
    if (resized) {
      resized = 0;
      el_resize(el);
    }
    if (continued) {
      continued = 0;
      el_set(el, EL_PREP_TERM, 1);
      el_set(el, EL_REFRESH);
    } /* resumed after Ctrl-Z */
    ssize_t n = read(0, bytes + used, 1);
    if (n < 0 && errno == EINTR) {
      if (dlv3_signal_pending()) return -1;
      continue;
    }
    if (n <= 0) return (int)n;
    memset(&state, 0, sizeof state);
    size_t length = mbrtowc(out, bytes, ++used, &state);
    if (length == (size_t)-2 && used < sizeof bytes) continue; /* more bytes to come */
    if (length == (size_t)-1 || length == (size_t)-2) *out = L'?';
    if (length == 0) *out = 0;
    return 1;
  }
}

/* -- Completion -------------------------------------------------------------------------------- */

/* The number of bytes at the beginning that all words at the top of the stack share. */
static size_t shared_prefix(lua_State *L, int n) {
  size_t shared = 0;
  for (int i = 1; i <= n; i++) {
    lua_rawgeti(L, -1, i);
    lua_rawgeti(L, -2, 1);
    const char *a = lua_tostring(L, -2), *b = lua_tostring(L, -1);
    size_t same = 0;
    while (a && b && a[same] && a[same] == b[same]) same++;
    shared = i == 1 || same < shared ? same : shared;
    lua_pop(L, 2);
  }
  return shared;
}

static void list_words(lua_State *L, int n) {
  size_t widest = 1;
  for (int i = 1; i <= n; i++) {
    lua_rawgeti(L, -1, i);
    size_t length = lua_objlen(L, -1);
    widest = length > widest ? length : widest;
    lua_pop(L, 1);
  }
  int columns = 80, lines;
  if (el_get(editor, EL_GETTC, "co", &columns) || columns < 20) columns = 80;
  int across = columns / ((int)widest + 2);
  across = across < 1 ? 1 : across;
  lines = (n + across - 1) / across;
  putchar('\n');
  for (int row = 0; row < lines; row++) {
    for (int i = row; i < n; i += lines) {
      lua_rawgeti(L, -1, i + 1);
      printf("%-*s", (int)widest + 2, lua_tostring(L, -1));
      lua_pop(L, 1);
    }
    putchar('\n');
  }
  fflush(stdout);
}

/* With complete's results at the top of the stack: changes the line or lists the words. */
static unsigned char use_completion(lua_State *L, EditLine *el) {
  if (!lua_isnumber(L, -2) || !lua_istable(L, -1)) return CC_ERROR;
  size_t typed = (size_t)lua_tointeger(L, -2);
  int n = (int)lua_objlen(L, -1);
  if (n == 0) return CC_ERROR;
  size_t shared = shared_prefix(L, n);
  if (shared > typed || n == 1) {
    lua_rawgeti(L, -1, 1);
    lua_pushlstring(L, lua_tostring(L, -1), shared);
    el_deletestr(el, (int)typed); /* upper and lower case may differ */
    el_insertstr(el, lua_tostring(L, -1));
    lua_pop(L, 2);
    return CC_REFRESH;
  }
  list_words(L, n);
  return CC_REDISPLAY;
}

static unsigned char complete_word(EditLine *el, int key) {
  (void)key;
  lua_State *L = reading;
  if (!L || complete_ref == LUA_NOREF) return CC_ERROR;
  const LineInfo *line = el_line(el);
  int top = lua_gettop(L);
  lua_rawgeti(L, LUA_REGISTRYINDEX, complete_ref);
  lua_pushlstring(L, line->buffer, (size_t)(line->cursor - line->buffer));
  unsigned char result = lua_pcall(L, 1, 2, 0) ? CC_ERROR : use_completion(L, el);
  lua_settop(L, top);
  return result;
}

/* -- The module -------------------------------------------------------------------------------- */

static int start_terminal(lua_State *L) {
  if (!lua_isfunction(L, 1)) return luaL_error(L, "start: expected a function for completion");
  lua_pushvalue(L, 1);
  complete_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");
  editor = el_init("dlv3", stdin, stdout, stderr);
  history_list = history_init();
  if (!editor || !history_list) return luaL_error(L, "the terminal can not be used: libedit did not start");
  HistEvent event;
  history(history_list, &event, H_SETSIZE, 2000);
  history(history_list, &event, H_SETUNIQUE, 1);
  el_set(editor, EL_PROMPT, prompt_text);
  el_set(editor, EL_EDITOR, "emacs");
  el_set(editor, EL_HIST, history, history_list);
  el_set(editor, EL_GETCFN, read_character);
  el_set(editor, EL_ADDFN, "dlv3-complete", "completes names", complete_word);
  el_set(editor, EL_BIND, "^I", "dlv3-complete", NULL);
  el_set(editor, EL_BIND, "^R", "em-inc-search-prev", NULL);
  el_source(editor, NULL);
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_terminal;
  sigaction(SIGWINCH, &action, NULL);
  sigaction(SIGCONT, &action, NULL);
  return 0;
}

static int read_line(lua_State *L) {
  snprintf(prompt, sizeof prompt, "%s", luaL_checkstring(L, 1));
  if (!editor) return luaL_error(L, "read: call start first");
  int n = 0;
  lua_State *outer = reading;
  reading = L;
  const char *line = el_gets(editor, &n);
  reading = outer;
  if (dlv3_signal_pending()) {
    dlv3_signal_clear();
    el_reset(editor);
    printf("^C\n");
    lua_pushboolean(L, 0);
  } else if (!line || n <= 0) {
    printf("\n");
    lua_pushnil(L);
  } else
    lua_pushlstring(L, line, (size_t)n - (line[n - 1] == '\n'));
  fflush(stdout);
  return 1;
}

static int add_to_history(lua_State *L) {
  HistEvent event;
  if (history_list) history(history_list, &event, H_ENTER, luaL_checkstring(L, 1));
  return 0;
}

static void poll_interrupt(lua_State *L, lua_Debug *frame) {
  (void)frame;
  if (dlv3_signal_pending()) luaL_error(L, "interrupted");
}

/* The hook runs after so many instructions: cheap, and fast enough for a person. */
static int interruptible(lua_State *L) {
  if (lua_toboolean(L, 1))
    lua_sethook(L, poll_interrupt, LUA_MASKCOUNT, 10000);
  else
    lua_sethook(L, NULL, 0, 0);
  return 0;
}

static int restore_terminal(lua_State *L) {
  (void)L;
  if (editor) el_end(editor);
  if (history_list) history_end(history_list);
  editor = NULL;
  history_list = NULL;
  return 0;
}

static int open_terminal(lua_State *L) {
  static const luaL_Reg functions[] = {{"start", start_terminal},    {"read", read_line},
                                       {"remember", add_to_history}, {"interruptible", interruptible},
                                       {"finish", restore_terminal}, {NULL, NULL}};
  lua_newtable(L);
  for (const luaL_Reg *f = functions; f->name; f++) {
    lua_pushcfunction(L, f->func);
    lua_setfield(L, -2, f->name);
  }
  return 1;
}

void repl_open(lua_State *L) {
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "preload");
  lua_pushcfunction(L, open_terminal);
  lua_setfield(L, -2, "dlv3.terminal");
  lua_pop(L, 2);
}
