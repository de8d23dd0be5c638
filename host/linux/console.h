/* A guest's serial line on two file descriptors. Input and output have a thread each, so
 * that a reader or writer that is slow (a stopped pager, a terminal under Ctrl-S) never
 * holds the VM lock: the guest's port just stays busy, as a real one does.
 *
 * The back end's functions are called with the VM lock held; the device's are called from
 * the two threads, which take that lock. Lock order: VM lock, then the console's own. */
#ifndef HOST_LINUX_CONSOLE_H
#define HOST_LINUX_CONSOLE_H

#include <pthread.h>

#include "core/base/err.h"
#include "core/vm/backend.h"
#include "core/vm/vm.h"

#define CONSOLE_RING 65536 /* bytes between the guest and a slow reader */

struct console {
	const struct vm_host *vm; /* for its lock */
	struct char_device device;
	int in, out; /* -1: none */
	int wake;	 /* eventfd: the input thread shall look again */
	bool escape; /* TERMINAL_ESCAPE in the input calls `escaped` */
	void (*escaped)(void *opaque);
	void (*broken)(void *opaque, int error); /* nobody reads the output any more */
	void *opaque;

	pthread_mutex_t lock;
	pthread_cond_t data, drained;
	uint8_t ring[CONSOLE_RING];
	size_t head, count; /* of ring: next byte out, bytes waiting */
	bool quit, was_full, dead;
	bool started;
	pthread_t in_thread, out_thread;

	/* What the guest says of itself: see console_panic(). */
	unsigned panic_at; /* characters of the phrase seen in a row; UINT_MAX: not in this line */
	bool panicked;
	unsigned why_len;
	char why[120];
};

/* `opaque` is what the callbacks get. Fill in fields above `lock` first. */
int console_create(struct console *c, struct err *e);
struct char_backend console_backend(struct console *c);
int console_start(struct console *c, struct char_device device, struct err *e);

/* Waits until all output is out, at most `ms`: is it, or is nobody there any more to read it?
 * VM lock not held. */
bool console_drain(struct console *c, unsigned ms);
void console_destroy(struct console *c);

/* Did a Linux guest print that it panicked since the last console_forget()? Then what it
 * said was the reason. A guest without a pvpanic driver has no other way to tell. */
const char *console_panic(struct console *c);
void console_forget(struct console *c);

#endif
