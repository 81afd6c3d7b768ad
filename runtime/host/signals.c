/* signals.c - signals that end a process as a flag: a script finishes its step and saves, the REPL
 * returns to its prompt. */
#include "core/core.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static volatile sig_atomic_t pending, interrupts;

/* A second signal ends the process as if nothing had been caught: nobody polls. But not one within
 * this time of the first: supervisors (timeout, mpirun) signal the process and its group, which is
 * one wish. */
static const double same_wish = 0.3;
static volatile double first_at;

/* Said at once: a step may take a minute, and a person who sees nothing asks again. */
static char said[160];

static void on_signal(int number) {
  double now = dlv3_now(); /* clock_gettime is allowed in a handler */
  if (!pending) {
    pending = number;
    if (interrupts) interrupt_set(true);
    first_at = now;
    int kept = errno;
    if (said[0] && write(2, said, strlen(said)) < 0) {} /* nobody listens */
    errno = kept;
  } else if (number != SIGPIPE
             && now - first_at > same_wish) { /* each line for a reader that is gone raises one more */
    signal(number, SIG_DFL);
    raise(number);
  }
}

DLV3_API void dlv3_signals_catch(int32_t interrupt, const char *note) {
  struct sigaction action;
  snprintf(said, sizeof said, "%s", note ? note : "");
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
