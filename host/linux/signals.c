/* See signals.h. */
#include "host/linux/signals.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "host/linux/terminal.h"

static void our_signals(sigset_t *set) {
	sigemptyset(set);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGHUP);
	sigaddset(set, SIGTSTP);
}

static void ready(void *opaque, uint32_t events) {
	struct signals *s = opaque;
	struct signalfd_siginfo info;
	if (read(s->source.fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGTSTP) {
		bool raw = terminal_is_raw();
		terminal_restore();
		raise(SIGSTOP); /* the shell takes over, until SIGCONT */
		if (raw)
			terminal_make_raw(s->raw_fd);
		return;
	}
	s->end(s->opaque, (int)info.ssi_signo);
}

int signals_create(struct signals *s, struct loop *l, struct err *e) {
	sigset_t set;
	our_signals(&set);
	signal(SIGPIPE, SIG_IGN); /* a write to nobody is an error code */
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	s->loop = l;
	s->source = (struct loop_source){signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), ready, s};
	if (s->source.fd < 0)
		return err_set(e, errno, "cannot listen for signals: %s", strerror(errno));
	int r = loop_add(l, &s->source, EPOLLIN);
	if (r) {
		close(s->source.fd);
		return err_set(e, -r, "cannot listen for signals: %s", strerror(-r));
	}
	return 0;
}

void signals_destroy(struct signals *s) {
	loop_remove(s->loop, &s->source);
	close(s->source.fd);
}
