/* host.h - what the two files of the host program share. Needs lua.h before it. */
#ifndef DLV3_HOST_H
#define DLV3_HOST_H

/* Offers the module dlv3.terminal (line editing, interrupts) to require. */
void repl_open(lua_State *L);

#endif
