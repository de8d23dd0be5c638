/* Copying disks; see disk_verb.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/bits.h"
#include "ctl/cli/disk_verb.h"
#include "ctl/cli/table.h"

#define ZERO_UNIT 4096u /* so many zeroes in a row are not written */

int disk_fail(int r, const struct err *e) {
	return cli_fail(r, e);
}

int disk_named(char name[DISK_NAME], const char *format, const char *file, struct err *e) {
	int n = snprintf(name, DISK_NAME, "%s%s%s", format ? format : "", format ? ":" : "", file);
	return n < DISK_NAME ? 0 : err_set(e, ERR_RANGE, "%.80s...: the path is too long", file);
}

int disk_copy_start(struct disk_copy *c, const char *what, uint64_t total, bool quiet,
					struct err *e) {
	*c = (struct disk_copy){.total = total, .buf = malloc(DISK_COPY_STEP)};
	if (!c->buf)
		return err_set(e, ERR_NOMEM, "no memory to copy with");
	progress_start(&c->bar, what, quiet);
	return 0;
}

void disk_copy_show(struct disk_copy *c, uint64_t done) {
	char text[128], bar[21], all[24];
	unsigned percent = c->total ? (unsigned)(done * 100.0 / c->total) : 100;
	if (done < c->total && done - c->done < (8u << 20) && done > c->done)
		return;
	c->done = done;
	for (unsigned i = 0; i < 20; i++)
		bar[i] = i < percent / 5 ? '#' : '.';
	bar[20] = 0;
	snprintf(text, sizeof(text), "[%s] %u%% of %s", bar, percent, table_size(all, c->total));
	progress_show(&c->bar, text);
}

void disk_copy_end(struct disk_copy *c) {
	progress_end(&c->bar);
	free(c->buf);
	c->buf = NULL;
}

static bool all_zero(const uint8_t *p, size_t n) {
	return !n || (!p[0] && memcmp(p, p + 1, n - 1) == 0);
}

/* One buffer's worth, data and zeroes apart. */
static int write_parts(struct disk_copy *c, struct block *to, uint64_t offset, size_t n,
					   bool clean) {
	size_t at = 0;
	int r = 0;
	while (!r && at < n) {
		bool zero = all_zero(c->buf + at, MIN(ZERO_UNIT, n - at));
		size_t end = at;
		while (end < n && all_zero(c->buf + end, MIN(ZERO_UNIT, n - end)) == zero)
			end = MIN(end + ZERO_UNIT, n);
		if (!zero)
			r = block_write_sync(to, offset + at, c->buf + at, end - at);
		else if (!clean)
			r = block_zeroes_sync(to, offset + at, end - at);
		at = end;
	}
	return r;
}

int disk_copy_range(struct disk_copy *c, struct block *from, struct block *to, uint64_t offset,
					uint64_t len, bool clean, struct err *e) {
	uint64_t have = offset < from->size ? MIN(len, from->size - offset) : 0;
	int r = 0;
	for (uint64_t at = 0; at < have;) {
		size_t n = (size_t)MIN(have - at, (uint64_t)DISK_COPY_STEP);
		r = block_read_sync(from, offset + at, c->buf, n);
		if (r)
			return err_set(e, -r, "cannot read at %llu: %s", (unsigned long long)(offset + at),
						   strerror(-r));
		r = write_parts(c, to, offset + at, n, clean);
		if (r)
			return err_set(e, -r, "cannot write at %llu: %s", (unsigned long long)(offset + at),
						   strerror(-r));
		at += n;
	}
	if (have < len && !clean)
		r = block_zeroes_sync(to, offset + have, len - have);
	return r ? err_set(e, -r, "cannot write at %llu: %s", (unsigned long long)(offset + have),
					   strerror(-r))
			 : 0;
}
