/* The log of a VHDX [MS-VHDX 2.3]: what was still to be written when the image's user ended. It is
 * replayed in memory: a gate over the file that shows what the file would hold afterwards. Nothing
 * is written.
 *
 * The log is a ring of sectors of 4 KiB, and has entries: a header and descriptors ("zeroes go
 * there", "this sector goes there"), then the sectors. Those that count are the newest run of whole
 * entries with consecutive numbers in which the last one's tail lies, from that tail on.
 *
 * All of it is kept (LOG_MAX), and beside it a list of where what goes (PIECES_MAX), sorted and
 * without overlaps: newest first, older ones get only what is left free. */
#include "core/base/crc32c.h"
#include "core/block/import_int.h"

#define SECTOR 4096u
#define LOG_MAX (64u << 20) /* writers make logs of 1 MiB */
#define PIECES_MAX 32768u
#define PLACE_MAX (1ull << 56) /* the gate's limit of files */

enum entry_header {
	CHECKSUM = 4,
	LENGTH = 8,
	TAIL = 12,
	NUMBER = 16,
	COUNT = 24,
	GUID = 32,
	FLUSHED_SIZE = 48,
	LAST_SIZE = 56,
	HEADER_LEN = 64,
};

enum descriptor {
	D_TRAILING = 4,
	D_LEADING = 8, /* of data */
	D_LENGTH = 8,  /* of zeroes */
	D_PLACE = 16,
	D_NUMBER = 24,
	D_LEN = 32,
};

/* What is known of the entry that begins at a sector. */
struct entry {
	bool judged;
	uint32_t sectors; /* 0: there is no whole one */
	uint32_t tail;	  /* a sector */
	uint64_t number;
};

struct piece {
	uint64_t at, len;
	const uint8_t *data; /* NULL: zeroes */
};

struct log {
	const struct block_host *host;
	struct block *file;
	uint8_t *data;
	uint32_t sectors;
	const uint8_t *guid;
	struct entry *entries; /* by their first sector */
	uint64_t sum_left;	   /* so many bytes may still be summed */
	struct piece *pieces;
	uint32_t npieces;
	uint64_t size;
};

static uint8_t *sector(const struct log *l, uint32_t n) {
	return l->data + (uint64_t)(n % l->sectors) * SECTOR;
}

static uint8_t *descriptor(const struct log *l, uint32_t first, uint32_t n) {
	uint64_t at = HEADER_LEN + (uint64_t)n * D_LEN;
	return sector(l, first + (uint32_t)(at / SECTOR)) + at % SECTOR;
}

static uint32_t descriptor_sectors(uint32_t count) {
	return (uint32_t)((HEADER_LEN + (uint64_t)count * D_LEN + SECTOR - 1) / SECTOR);
}

static bool is_data(const uint8_t *d) {
	return memcmp(d, "desc", 4) == 0;
}

static bool is_place(uint64_t at, uint64_t len) {
	return at % SECTOR == 0 && len % SECTOR == 0 && len <= PLACE_MAX && at <= PLACE_MAX - len;
}

/* Each descriptor and sector of the entry says whose it is. */
static bool holds_together(const struct log *l, uint32_t first, const struct entry *x,
						   uint32_t count) {
	uint32_t next = descriptor_sectors(count);
	for (uint32_t i = 0; i < count; i++) {
		const uint8_t *d = descriptor(l, first, i);
		if (le64_get(d + D_NUMBER) != x->number)
			return false;
		if (memcmp(d, "zero", 4) == 0) {
			if (!is_place(le64_get(d + D_PLACE), le64_get(d + D_LENGTH)))
				return false;
			continue;
		}
		const uint8_t *s = sector(l, first + next++);
		if (!is_data(d) || next > x->sectors || !is_place(le64_get(d + D_PLACE), SECTOR) ||
			memcmp(s, "data", 4) != 0 || le32_get(s + 4) != x->number >> 32 ||
			le32_get(s + SECTOR - 4) != (uint32_t)x->number)
			return false;
	}
	return next <= x->sectors;
}

static bool sum_is_right(struct log *l, uint32_t first, uint32_t sectors) {
	static const uint8_t none[4];
	const uint8_t *h = sector(l, first);
	if ((uint64_t)sectors * SECTOR > l->sum_left) {
		l->sum_left = 0;
		return false;
	}
	l->sum_left -= (uint64_t)sectors * SECTOR;
	uint32_t crc = crc32c_add(CRC32C_START, h, CHECKSUM);
	crc = crc32c_add(crc, none, sizeof(none));
	crc = crc32c_add(crc, h + CHECKSUM + 4, SECTOR - CHECKSUM - 4);
	for (uint32_t i = 1; i < sectors; i++)
		crc = crc32c_add(crc, sector(l, first + i), SECTOR);
	return ~crc == le32_get(h + CHECKSUM);
}

static const struct entry *entry_at(struct log *l, uint32_t first) {
	struct entry *x = &l->entries[first];
	const uint8_t *h = sector(l, first);
	if (x->judged)
		return x;
	x->judged = true;
	uint32_t len = le32_get(h + LENGTH), tail = le32_get(h + TAIL), count = le32_get(h + COUNT);
	struct entry found = {true, len / SECTOR, tail / SECTOR, le64_get(h + NUMBER)};
	if (memcmp(h, "loge", 4) == 0 && memcmp(h + GUID, l->guid, 16) == 0 && len % SECTOR == 0 &&
		found.sectors && found.sectors <= l->sectors && tail % SECTOR == 0 &&
		found.tail < l->sectors && found.number && count <= (len - HEADER_LEN) / D_LEN &&
		holds_together(l, first, &found, count) && sum_is_right(l, first, found.sectors))
		*x = found;
	return x;
}

struct run {
	uint32_t start, head; /* sectors: where the first and the last entry begin */
	uint32_t sectors;	  /* of all of them; 0: there are none */
	uint64_t number;	  /* of the head */
};

static struct run run_at(struct log *l, uint32_t start) {
	struct run c = {start, start, 0, 0};
	for (;;) {
		uint32_t next = (start + c.sectors) % l->sectors;
		const struct entry *x = entry_at(l, next);
		if (!x->sectors || x->sectors > l->sectors - c.sectors ||
			(c.sectors && x->number != c.number + 1))
			return c;
		c.head = next;
		c.number = x->number;
		c.sectors += x->sectors;
		if (c.sectors == l->sectors)
			return c;
	}
}

/* Cuts off what lies before the head's tail; false: none of the entries is that tail. */
static bool cut_to_tail(struct log *l, struct run *c) {
	uint32_t at = c->start, tail = l->entries[c->head].tail, before = 0;
	while (before < c->sectors && at != tail) {
		before += l->entries[at].sectors;
		at = (at + l->entries[at].sectors) % l->sectors;
	}
	if (before == c->sectors)
		return false;
	c->start = at;
	c->sectors -= before;
	return true;
}

/* [MS-VHDX 2.3.3]. What is scanned is counted: a run may fill the whole ring. */
static struct run find_active(struct log *l) {
	struct run best = {0};
	for (uint64_t scanned = 0; scanned < l->sectors;) {
		struct run c = run_at(l, (uint32_t)scanned);
		uint32_t all = c.sectors;
		bool good = all && cut_to_tail(l, &c);
		if (good && c.number > best.number)
			best = c;
		scanned += good ? all : 1;
	}
	return best;
}

/* The first piece that ends behind `at`. */
static uint32_t find_piece(const struct log *l, uint64_t at) {
	uint32_t low = 0, high = l->npieces;
	while (low < high) {
		uint32_t mid = low + (high - low) / 2;
		if (l->pieces[mid].at + l->pieces[mid].len <= at)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static int add_piece(struct log *l, uint64_t at, uint64_t len, const uint8_t *data, struct err *e) {
	for (uint64_t end = at + len, n; at < end; at += n) {
		uint32_t i = find_piece(l, at);
		struct piece *p = &l->pieces[i];
		if (i < l->npieces && p->at <= at) { /* a newer one's */
			n = MIN(end, p->at + p->len) - at;
			continue;
		}
		if (l->npieces == PIECES_MAX)
			return err_set(e, ERR_FBIG, "the image's log changes more than %u places", PIECES_MAX);
		n = (i < l->npieces ? MIN(end, p->at) : end) - at;
		memmove(p + 1, p, (l->npieces++ - i) * sizeof(*p));
		/* Data are one sector, and pieces lie at whole sectors: all of it or nothing. */
		*p = (struct piece){at, n, data};
		l->size = MAX(l->size, at + n);
	}
	return 0;
}

/* Descriptors took twelve bytes of each sector away, for marks in their place. */
static void restore(uint8_t *s, const uint8_t *d) {
	memcpy(s, d + D_LEADING, 8);
	memcpy(s + SECTOR - 4, d + D_TRAILING, 4);
}

static int replay_entry(struct log *l, uint32_t first, struct err *e) {
	uint32_t count = le32_get(sector(l, first) + COUNT), data = 0;
	int r = 0;
	for (uint32_t i = 0; i < count; i++)
		data += is_data(descriptor(l, first, i));
	uint32_t next = descriptor_sectors(count) + data;
	for (uint32_t i = count; !r && i--;) { /* the last one counts */
		const uint8_t *d = descriptor(l, first, i);
		uint8_t *s = is_data(d) ? sector(l, first + --next) : NULL;
		if (s)
			restore(s, d);
		r = add_piece(l, le64_get(d + D_PLACE), s ? SECTOR : le64_get(d + D_LENGTH), s, e);
	}
	return r;
}

static int replay(struct log *l, const struct run *c, struct err *e) {
	uint32_t *starts = l->host->alloc(l->host->opaque, l->sectors * sizeof(*starts)), n = 0;
	int r = starts ? 0 : err_set(e, ERR_NOMEM, "no memory for the image's log");
	if (r)
		return r;
	for (uint32_t done = 0; done < c->sectors; done += l->entries[starts[n++]].sectors)
		starts[n] = (c->start + done) % l->sectors;
	while (!r && n--)
		r = replay_entry(l, starts[n], e);
	l->host->free(l->host->opaque, starts, l->sectors * sizeof(*starts));
	return r;
}

static int judge_sizes(struct log *l, const uint8_t *head, struct err *e) {
	uint64_t flushed = le64_get(head + FLUSHED_SIZE), last = le64_get(head + LAST_SIZE);
	if (l->file->size < flushed)
		return err_set(e, ERR_INVAL,
					   "the image is truncated: it has %llu bytes, and had %llu when its log was "
					   "written",
					   (unsigned long long)l->file->size, (unsigned long long)flushed);
	if (last > PLACE_MAX)
		return err_set(e, ERR_INVAL, "the image's log is damaged: it wants a file of %llu bytes",
					   (unsigned long long)last);
	l->size = MAX(l->file->size, last);
	return 0;
}

static int open_log(struct log *l, struct err *e) {
	/* Whole entries lie beside each other; halves that were overwritten add a little. */
	l->sum_left = (uint64_t)l->sectors * SECTOR * 4 + 1;
	struct run active = find_active(l);
	if (!l->sum_left)
		return err_set(e, ERR_INVAL, "the image's log is damaged: its entries lie over each other");
	if (!active.sectors)
		return err_set(e, ERR_INVAL,
					   "the image was not closed, and its log is damaged: it has no run of whole "
					   "entries to replay");
	int r = judge_sizes(l, sector(l, active.head), e);
	return r ? r : replay(l, &active, e);
}

static void submit(void *self, struct block_request *r) {
	const struct log *l = self;
	int error = r->op == BLOCK_READ ? 0 : -ERR_PERM;
	for (uint64_t pos = 0, n; !error && pos < r->len; pos += n) {
		uint64_t at = r->offset + pos;
		uint32_t i = find_piece(l, at);
		const struct piece *p = i < l->npieces ? &l->pieces[i] : NULL;
		n = r->len - pos;
		if (p && p->at <= at) {
			n = MIN(n, p->at + p->len - at);
			block_fill(r, pos, p->data ? p->data + (at - p->at) : NULL, n);
		} else {
			n = p ? MIN(n, p->at - at) : n;
			error = import_pass(l->file, at, r, pos, n);
		}
	}
	block_done(r, error);
}

static void forget_entries(struct log *l) {
	if (l->entries)
		l->host->free(l->host->opaque, l->entries, l->sectors * sizeof(*l->entries));
	l->entries = NULL;
}

static int close(void *self) {
	struct log *l = self;
	const struct block_host *h = l->host;
	forget_entries(l);
	if (l->data)
		h->free(h->opaque, l->data, (uint64_t)l->sectors * SECTOR);
	if (l->pieces)
		h->free(h->opaque, l->pieces, PIECES_MAX * sizeof(*l->pieces));
	h->free(h->opaque, l, sizeof(*l));
	return 0;
}

static const struct block_ops ops = {"vhdx log", submit, NULL, close};

int import_vhdx_replay(struct import *m, uint64_t at, uint32_t len, const uint8_t guid[16],
					   struct err *e) {
	const struct block_host *h = m->host;
	if (!len || len % (1u << 20) || at % (1u << 20))
		return err_set(e, ERR_INVAL, "the image's header is damaged: a log of %u bytes at %llu",
					   len, (unsigned long long)at);
	if (len > LOG_MAX)
		return err_set(e, ERR_FBIG,
					   "the image was not closed, and its log of %u MiB is longer than the %u MiB "
					   "that are replayed; open and close it once with the program that wrote it",
					   len >> 20, LOG_MAX >> 20);
	struct log *l = h->alloc(h->opaque, sizeof(*l));
	if (!l)
		return err_set(e, ERR_NOMEM, "no memory for the image's log");
	*l = (struct log){.host = h, .file = m->file, .sectors = len / SECTOR, .guid = guid};
	l->data = import_table(m, at, len, e);
	int r = l->data ? 0 : -ERR_INVAL;
	if (!r) {
		l->entries = h->alloc(h->opaque, l->sectors * sizeof(*l->entries));
		l->pieces = h->alloc(h->opaque, PIECES_MAX * sizeof(*l->pieces));
		r = l->entries && l->pieces ? open_log(l, e)
									: err_set(e, ERR_NOMEM, "no memory for the image's log");
	}
	if (r) {
		close(l);
		return r;
	}
	forget_entries(l);
	l->guid = NULL; /* the caller's */
	m->log = (struct block){
		.ops = &ops, .self = l, .size = l->size, .read_only = true, .growable = true};
	m->file = &m->log;
	return 0;
}
