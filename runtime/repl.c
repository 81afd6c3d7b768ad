/* repl.c - the module dlv3.terminal: reading lines with libedit, for lua/dlv3/repl.lua. */
#include <lauxlib.h>
#include <lua.h>

#include "host.h"

void repl_open(lua_State *L) { (void)L; }
