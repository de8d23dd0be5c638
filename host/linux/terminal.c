/* See terminal.h. */
#include "host/linux/terminal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

/* In sanitizer builds, their runtime handles crashes and offers this instead. */
void __sanitizer_set_death_callback(void (*fn)(void)) __attribute__((weak));

static struct termios saved;
static int saved_fd;
static volatile sig_atomic_t raw;

void terminal_restore(void) {
	int keep = errno;
	if (raw) {
		raw = 0;
		/* Discards input that was typed for the guest; it must not reach the shell. From the
		 * background this would stop us with SIGTTOU, which nobody is there to continue. */
		sigset_t block, old;
		sigemptyset(&block);
		sigaddset(&block, SIGTTOU);
		pthread_sigmask(SIG_BLOCK, &block, &old);
		tcsetattr(saved_fd, TCSAFLUSH, &saved);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	}
	errno = keep;
}

/* A crash: the terminal first, then die the same death. */
static void on_fatal(int sig) {
	terminal_restore();
	signal(sig, SIG_DFL);
	raise(sig);
}

bool terminal_make_raw(int fd) {
	static bool installed;
	if (raw)
		return true;
	if (!isatty(fd) || tcgetpgrp(fd) != getpgrp() || tcgetattr(fd, &saved) < 0)
		return false;
	if (!installed) {
		static const int fatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGQUIT, SIGSYS};
		for (unsigned i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++) {
			struct sigaction old,
				sa = {.sa_handler = on_fatal, .sa_flags = SA_RESETHAND | SA_NODEFER};
			/* Whoever has a handler already (an engine, a sanitizer) keeps it. */
			if (sigaction(fatal[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL &&
				!(old.sa_flags & SA_SIGINFO))
				sigaction(fatal[i], &sa, NULL);
		}
		if (__sanitizer_set_death_callback)
			__sanitizer_set_death_callback(terminal_restore);
		atexit(terminal_restore);
		installed = true;
	}
	struct termios t = saved;
	cfmakeraw(&t);
	saved_fd = fd;
	raw = 1; /* before the change: a signal in between restores, which does no harm */
	if (tcsetattr(fd, TCSANOW, &t) < 0) {
		raw = 0;
		return false;
	}
	return true;
}

bool terminal_is_raw(void) {
	return raw;
}
