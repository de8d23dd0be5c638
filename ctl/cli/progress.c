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

static int width(void) {
	struct winsize w;
	return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 20 ? w.ws_col - 1 : 79;
}

void progress_show(struct progress *p, const char *console) {
	int64_t s = (progress_now_ms() - p->start_ms) / 1000;
	char line[400];
	if (!p->on)
		return;
	int n = snprintf(line, sizeof(line), "%s, %lld s%s%s", p->what, (long long)s,
					 console && console[0] ? ": " : "", console ? console : "");
	fprintf(stderr, "\r\033[K%.*s", MIN(n, width()), line);
	fflush(stderr);
	p->shown = true;
}

void progress_end(struct progress *p) {
	if (p->shown)
		fprintf(stderr, "\r\033[K");
	p->shown = false;
}

unsigned progress_rows(const struct progress *p) {
	struct winsize w;
	return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_row > 3 ? w.ws_row - 2u : 20;
}

void progress_rewind(struct progress *p) {
	if (p->lines)
		fprintf(stderr, "\033[%uA\r\033[J", p->lines);
	p->lines = 0;
	fflush(stderr);
}

void progress_line(struct progress *p, const char *text) {
	if (!p->on)
		return;
	fprintf(stderr, "%.*s\n", width(), text);
	p->lines++;
}
