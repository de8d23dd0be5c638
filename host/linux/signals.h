/* Signals as events of the loop: SIGINT, SIGTERM and SIGHUP ask to end, SIGTSTP and
 * SIGCONT hand the terminal back and take it again. Must be created before any thread,
 * so that all threads inherit the blocked mask. */
#ifndef HOST_LINUX_SIGNALS_H
#define HOST_LINUX_SIGNALS_H

#include "host/linux/loop.h"

struct signals {
	struct loop *loop;
	struct loop_source source;
	void (*end)(void *opaque, int signo);
	void *opaque;
	int raw_fd; /* the terminal to make raw again after a stop; -1: none */
};

int signals_create(struct signals *s, struct loop *l, struct err *e);
void signals_destroy(struct signals *s);

#endif
