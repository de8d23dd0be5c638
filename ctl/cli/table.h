/* Tables for people: columns as wide as their longest cell. */
#ifndef CTL_CLI_TABLE_H
#define CTL_CLI_TABLE_H

#include "core/base/types.h"

#define TABLE_COLUMNS 12

struct table {
	unsigned columns, rows, room;
	char **cells; /* the heads are the first row */
};

void table_start(struct table *t, unsigned columns, const char *const *heads);
/* printf into the next cell; rows are filled from left to right. */
void table_cell(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void table_print(struct table *t); /* on stdout; frees it */
void table_print_csv(struct table *t);
void table_free(struct table *t);

/* "3 minutes", "2 h", "5 d": how long ago or how long, in a few characters. */
const char *table_duration(char buf[24], int64_t seconds);
/* "512M", "1.5G". */
const char *table_size(char buf[24], uint64_t bytes);

#endif
