/* See table.h. */
#include "ctl/cli/table.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void table_cell(struct table *t, const char *fmt, ...) {
	char *text = NULL;
	va_list ap;
	if (t->rows == t->room) {
		unsigned room = t->room ? t->room * 2 : 64;
		char **more = realloc(t->cells, room * sizeof(*more));
		if (!more)
			return;
		t->cells = more;
		t->room = room;
	}
	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	va_end(ap);
	t->cells[t->rows++] = text;
}

void table_start(struct table *t, unsigned columns, const char *const *heads) {
	*t = (struct table){.columns = columns};
	for (unsigned i = 0; i < columns; i++)
		table_cell(t, "%s", heads[i]);
}

static const char *at(const struct table *t, unsigned i) {
	return t->cells[i] ? t->cells[i] : "";
}

void table_free(struct table *t) {
	for (unsigned i = 0; i < t->rows; i++)
		free(t->cells[i]);
	free(t->cells);
}

/* [RFC 4180 2], but lines end as everywhere here. */
void table_print_csv(struct table *t) {
	for (unsigned i = 0; i < t->rows; i++) {
		const char *text = at(t, i);
		bool plain = !strpbrk(text, ",\"\n");
		if (!plain)
			putchar('"');
		for (; *text; text++) {
			if (*text == '"')
				putchar('"');
			putchar(*text);
		}
		printf("%s%c", plain ? "" : "\"", (i + 1) % t->columns ? ',' : '\n');
	}
	table_free(t);
}

void table_print(struct table *t) {
	size_t width[TABLE_COLUMNS] = {0};
	for (unsigned i = 0; i < t->rows; i++)
		if (strlen(at(t, i)) > width[i % t->columns])
			width[i % t->columns] = strlen(at(t, i));
	for (unsigned i = 0; i < t->rows; i++) {
		bool last = (i + 1) % t->columns == 0;
		if (last)
			printf("%s\n", at(t, i));
		else
			printf("%-*s", (int)width[i % t->columns] + 3, at(t, i));
	}
	table_free(t);
}

const char *table_duration(char buf[24], int64_t s) {
	static const struct {
		int64_t seconds;
		const char *unit;
	} units[] = {{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}};
	if (s < 0)
		s = 0;
	for (unsigned i = 0; i < 4; i++)
		if (s >= 2 * units[i].seconds || i == 3) {
			snprintf(buf, 24, "%lld %s", (long long)(s / units[i].seconds), units[i].unit);
			break;
		}
	return buf;
}

const char *table_size(char buf[24], uint64_t bytes) {
	static const char units[] = "KMGT";
	unsigned u = 0;
	uint64_t tenths = bytes * 10 / 1024;
	while (tenths >= 10240 && units[u + 1]) {
		tenths /= 1024;
		u++;
	}
	if (tenths % 10 && tenths < 1000)
		snprintf(buf, 24, "%llu.%llu%c", (unsigned long long)(tenths / 10),
				 (unsigned long long)(tenths % 10), units[u]);
	else
		snprintf(buf, 24, "%llu%c", (unsigned long long)(tenths / 10), units[u]);
	return buf;
}
