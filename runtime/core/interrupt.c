/* interrupt.c - the interrupt flag: host/signals.c sets it, calls and the data loader poll it. */
#include <signal.h>

#include "core.h"

static volatile sig_atomic_t interrupted;

void interrupt_set(bool on) { interrupted = on; }
bool interrupt_wanted(void) { return interrupted; }
