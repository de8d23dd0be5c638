/* Progress on a terminal; see launch.h. */
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "ctl/cli/launch.h"

int64_t progress_now_ms(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void progress_start(struct progress *p, const char *what, bool quiet) {
	*p = (struct progress){.what = what, .start_ms = progress_now_ms()};
	p->on = !quiet && isatty(STDERR_FILENO);
}

void progress_show(struct progress *p, const char *console) {
	struct winsize w;
	int64_t s = (progress_now_ms() - p->start_ms) / 1000;
	char line[400];
	if (!p->on)
		return;
	int n = snprintf(line, sizeof(line), "%s, %lld s%s%s", p->what, (long long)s,
					 console && console[0] ? ": " : "", console ? console : "");
	int width = ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 20 ? w.ws_col - 1 : 79;
	fprintf(stderr, "\r\033[K%.*s", MIN(n, width), line);
	fflush(stderr);
	p->shown = true;
}

void progress_end(struct progress *p) {
	if (p->shown)
		fprintf(stderr, "\r\033[K");
	p->shown = false;
}
