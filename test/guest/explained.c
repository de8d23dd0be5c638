/* See explained.h. */
#include "test/guest/explained.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT 65536

int explained_read(struct explained *e, const char *path) {
	FILE *f = fopen(path, "re");
	if (!f)
		return -1;
	e->text = calloc(1, LIMIT);
	size_t n = fread(e->text, 1, LIMIT - 1, f);
	fclose(f);
	return n ? 0 : -1;
}

/* Is there a line "name: what..." with a reason? `what` may go on behind the line's text. */
static bool find(const struct explained *e, const char *name, const char *what) {
	size_t len = strlen(name);
	for (const char *p = e->text; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : NULL) {
		const char *reason = strstr(p, " -- "), *end = p + strcspn(p, "\n");
		if (*p == '#' || !reason || reason > end || strncmp(p, name, len) != 0 ||
			strncmp(p + len, ": ", 2) != 0)
			continue;
		size_t text = (size_t)(reason - p) - len - 2;
		if (text && strncmp(p + len + 2, what, text) == 0)
			return true;
	}
	return false;
}

unsigned explained_report(const struct explained *e, const char *name, const char *verdict,
						  const char *report) {
	unsigned n = 0;
	if (!e->text)
		return 0;
	for (const char *p = report; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : NULL) {
		const char *what = !strncmp(p, "FAIL ", 5)			? p + 5
						   : !strncmp(p, "UNEXPECTED ", 11) ? p
															: NULL;
		if (!what)
			continue;
		if (!find(e, name, what))
			return 0;
		n++;
	}
	/* Other than by failed checks: it died, or reported less than it should. */
	if (!strstr(verdict, "checks failed")) {
		char end[500];
		snprintf(end, sizeof(end), "end: %s", verdict);
		if (!find(e, name, end))
			return 0;
		n++;
	}
	return n;
}
