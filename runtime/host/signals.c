/* signals.c - signals that end a process as a flag: a script finishes its step and saves, the REPL
 * returns to its prompt. */
#include "core/core.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static volatile sig_atomic_t pending, interrupts;

/* A second signal ends the process: the program does not poll. But not within this time of the
 * first, seconds: supervisors (timeout, mpirun) signal both the process and its group, once
 * each. */
static const double same_request = 0.3;
static volatile double first_at;

/* Printed at once: a step may take a minute, and without an answer a person presses Ctrl-C
 * again. */
static char notice[160];

static void on_signal(int number) {
  double now = dlv3_now(); /* clock_gettime is allowed in a handler */
  if (!pending) {
    pending = number;
    if (interrupts) interrupt_set(true);
    first_at = now;
    int kept = errno;
    if (notice[0] && write(2, notice, strlen(notice)) < 0) {} /* stderr is closed: nothing to do */
    errno = kept;
  } else if (number != SIGPIPE
             && now - first_at > same_request) { /* each write to a closed pipe raises SIGPIPE again */
    signal(number, SIG_DFL);
    raise(number);
  }
}

DLV3_API void dlv3_signals_catch(int32_t interrupt, const char *note) {
  struct sigaction action;
  snprintf(notice, sizeof notice, "%s", note ? note : "");
  memset(&action, 0, sizeof action);
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  /* The REPL wants a read to return with EINTR; a training run does not. */
  action.sa_flags = interrupt ? 0 : SA_RESTART;
  interrupts = interrupt != 0;
  if (!interrupts) interrupt_set(false);
  if (interrupts && pending) interrupt_set(true);
  sigaction(SIGINT, &action, NULL);
  if (interrupt) return; /* with a person at a prompt the others still end the process at once */
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGPIPE, &action, NULL);
  struct sigaction before;
  if (!sigaction(SIGHUP, NULL, &before) && before.sa_handler != SIG_IGN) sigaction(SIGHUP, &action, NULL);
}

DLV3_API int32_t dlv3_signal_pending(void) { return (int32_t)pending; }
DLV3_API void dlv3_signal_clear(void) {
  interrupt_set(false);
  pending = 0;
}
