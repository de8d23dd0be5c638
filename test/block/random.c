/* Random requests, many at once, against qcow2 images of all kinds, with a model of what each
 * sector may hold.
 *
 *     random differ FROM COUNT   every read is right, at the end all of it, and check is content
 *     random cut FROM COUNT      the power is cut before every write and flush: the image opens,
 *                                has no errors but leaks, and holds what was flushed
 *     random fail FROM COUNT     every request to the file fails in turn: nothing flushed is
 *                                lost, nothing is corrupt
 *
 * FROM is the first seed, and a failure names the one that failed. TAP. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/block/qcow2.h"
#include "host/linux/inflate.h"
#include "test/block/fake_file.h"

#define SECTOR 512u
#define SECTORS_MAX 4096
#define SLOTS 8
#define VALUES 24 /* that a sector may hold at once */

/* What may be in a sector: `tag` of a write, 0 for zeroes. Oldest first. */
struct value {
	uint32_t tag;
	uint64_t submitted, done; /* done 0: not, or with an error */
	bool maybe;				  /* what was there before is right, too: a discard */
};

struct sector {
	unsigned n;
	struct value v[VALUES];
};

struct slot {
	struct block_request r;
	struct world *w;
	bool used;
	uint32_t first, n; /* sectors */
	uint32_t tag;
	uint64_t submitted;
	uint8_t *data;
};

struct world {
	uint32_t seed, random, tag, sectors;
	uint64_t time;
	struct fake_file file, backing_file;
	struct block image, backing;
	struct fake_file twin_file; /* of the backing image, for looks from the side */
	struct block twin;
	bool has_backing, wrong;
	char why[200];
	struct sector s[SECTORS_MAX];
	struct slot slots[SLOTS];
	unsigned errors; /* of requests */
	bool may_fail, cutting;
	uint32_t cuts;
	struct qcow2_create_options options;
};

static void wrong(struct world *w, const char *fmt, ...) {
	va_list ap;
	if (w->wrong)
		return;
	w->wrong = true;
	va_start(ap, fmt);
	vsnprintf(w->why, sizeof(w->why), fmt, ap);
	va_end(ap);
}

static uint32_t roll(struct world *w, uint32_t n) {
	return fake_random(&w->random) % n;
}

static void paint(uint8_t *sector, uint32_t tag, uint32_t index) {
	memset(sector, 0, SECTOR);
	for (unsigned i = 0; tag && i < SECTOR; i += 8) {
		memcpy(sector + i, &tag, 4);
		memcpy(sector + i + 4, &index, 4);
	}
}

static bool holds(const struct sector *s, const uint8_t *data, uint32_t index) {
	uint8_t want[SECTOR];
	for (unsigned i = s->n; i-- > 0;) {
		paint(want, s->v[i].tag, index);
		if (memcmp(want, data, SECTOR) == 0)
			return true;
		if (s->v[i].done && !s->v[i].maybe)
			return false;
	}
	return false;
}

/* After a cut, anything since the last flush. */
static bool held(const struct sector *s, const uint8_t *data, uint32_t index) {
	uint8_t want[SECTOR];
	for (unsigned i = s->n; i-- > 0;) {
		paint(want, s->v[i].tag, index);
		if (memcmp(want, data, SECTOR) == 0)
			return true;
	}
	return false;
}

static void add_value(struct world *w, struct sector *s, struct value v) {
	if (s->n == VALUES) { /* keeps the oldest, as what may have been flushed last */
		wrong(w, "test: a sector got too many values");
		return;
	}
	s->v[s->n++] = v;
}

/* A flush that came at `when` is done: what was overwritten before is gone. */
static void forget(struct world *w, uint64_t when) {
	for (uint32_t i = 0; i < w->sectors; i++) {
		struct sector *s = &w->s[i];
		unsigned keep = 0;
		for (unsigned k = 0; k < s->n; k++)
			if (s->v[k].done && s->v[k].done <= when && !s->v[k].maybe)
				keep = k;
		memmove(s->v, s->v + keep, (s->n - keep) * sizeof(s->v[0]));
		s->n -= keep;
	}
}

static void done(struct block_request *r, int error) {
	struct slot *x = r->opaque;
	struct world *w = x->w;
	w->time++;
	if (error) {
		w->errors++;
		if (!w->may_fail)
			wrong(w, "request %d at %u fails with %d", r->op, x->first, error);
	} else if (r->op == BLOCK_READ) {
		for (uint32_t i = 0; i < x->n; i++)
			if (!holds(&w->s[x->first + i], x->data + i * SECTOR, x->first + i))
				wrong(w, "sector %u reads wrong", x->first + i);
	} else if (r->op == BLOCK_FLUSH) {
		forget(w, x->submitted);
	} else {
		for (uint32_t i = 0; i < x->n; i++) {
			struct sector *s = &w->s[x->first + i];
			for (unsigned k = 0; k < s->n; k++)
				if (s->v[k].submitted == x->submitted)
					s->v[k].done = w->time;
		}
		if (r->fua) /* as if these sectors alone had been flushed */
			for (uint32_t i = 0; i < x->n; i++) {
				struct sector *s = &w->s[x->first + i];
				s->v[0] = s->v[s->n - 1];
				s->n = 1;
			}
	}
	free(x->data);
	x->data = NULL;
	x->used = false;
}

static bool overlaps(const struct world *w, uint32_t first, uint32_t n) {
	for (unsigned i = 0; i < SLOTS; i++)
		if (w->slots[i].used && w->slots[i].r.op != BLOCK_FLUSH &&
			first < w->slots[i].first + w->slots[i].n && w->slots[i].first < first + n)
			return true;
	return false;
}

static bool full(const struct world *w, uint32_t first, uint32_t n) {
	for (uint32_t i = 0; i < n; i++)
		if (w->s[first + i].n >= VALUES - 1)
			return true;
	return false;
}

static void add_segments(struct world *w, struct slot *x) {
	uint64_t left = (uint64_t)x->n * SECTOR, at = 0;
	while (left) {
		uint64_t n = x->r.nsegs < 6 ? 1 + roll(w, (uint32_t)left) : left;
		x->r.segs[x->r.nsegs++] = (struct block_segment){x->data + at, n};
		at += n;
		left -= n;
	}
}

static void submit_random(struct world *w) {
	struct slot *x = NULL;
	for (unsigned i = 0; i < SLOTS && !x; i++)
		x = w->slots[i].used ? NULL : &w->slots[i];
	if (!x)
		return;
	uint32_t dice = roll(w, 100);
	enum block_op op = dice < 30   ? BLOCK_READ
					   : dice < 75 ? BLOCK_WRITE
					   : dice < 83 ? BLOCK_ZEROES
					   : dice < 91 ? BLOCK_DISCARD
								   : BLOCK_FLUSH;
	uint32_t n = 1 + roll(w, roll(w, 4) ? 24 : w->sectors), first = roll(w, w->sectors);
	n = MIN(n, w->sectors - first);
	if (op != BLOCK_FLUSH && overlaps(w, first, n))
		return;
	if (op > BLOCK_READ && op != BLOCK_FLUSH && full(w, first, n))
		op = BLOCK_FLUSH;
	memset(x, 0, sizeof(*x));
	x->w = w;
	x->used = true;
	x->first = first;
	x->n = n;
	x->submitted = ++w->time;
	x->r = (struct block_request){.op = op, .done = done, .opaque = x};
	if (op != BLOCK_FLUSH) {
		x->r.offset = (uint64_t)first * SECTOR;
		x->r.len = (uint64_t)n * SECTOR;
	}
	if (op == BLOCK_READ || op == BLOCK_WRITE) {
		x->data = malloc((size_t)n * SECTOR);
		add_segments(w, x);
	}
	if (op == BLOCK_WRITE) {
		x->tag = ++w->tag;
		x->r.fua = roll(w, 12) == 0;
		for (uint32_t i = 0; i < n; i++)
			paint(x->data + i * SECTOR, x->tag, first + i);
	}
	if (op != BLOCK_READ && op != BLOCK_FLUSH)
		for (uint32_t i = 0; i < n; i++)
			add_value(w, &w->s[first + i],
					  (struct value){x->tag, x->submitted, 0, op == BLOCK_DISCARD});
	block_submit(&w->image, &x->r);
}

/* All sectors of an image, against the model. */
static void verify(struct world *w, struct block *image, const char *when,
				   bool (*right)(const struct sector *, const uint8_t *, uint32_t)) {
	uint8_t *buf = malloc(w->sectors * SECTOR);
	int r = block_read_sync(image, 0, buf, w->sectors * SECTOR);
	if (r)
		wrong(w, "%s: cannot read: %d", when, r);
	for (uint32_t i = 0; !r && i < w->sectors; i++)
		if (!right(&w->s[i], buf + i * SECTOR, i)) {
			uint32_t tag;
			memcpy(&tag, buf + i * SECTOR, 4);
			wrong(w, "%s: sector %u holds what it must not (%u)", when, i, tag);
		}
	free(buf);
}

static void check_image(struct world *w, struct block *image, const char *when, bool leaks) {
	struct qcow2_check_result c;
	struct err e = {{0}};
	if (qcow2_check(image, false, &c, &e))
		wrong(w, "%s: %s", when, e.text);
	if (c.corruptions || c.wrong)
		wrong(w, "%s: %llu corruptions, %llu wrong", when, (unsigned long long)c.corruptions,
			  (unsigned long long)c.wrong);
	if (c.leaks && !leaks)
		wrong(w, "%s: %llu leaks", when, (unsigned long long)c.leaks);
	if (!c.leaks)
		return;
	if (qcow2_check(image, true, &c, &e) || qcow2_check(image, false, &c, &e) || c.leaks)
		wrong(w, "%s: repair leaves %llu leaks", when, (unsigned long long)c.leaks);
}

static int open_image(struct world *w, struct fake_file *f, struct block *out) {
	struct block *backing = f == &w->file ? &w->backing : &w->twin;
	struct qcow2_open_options o = {.backing = w->has_backing ? backing : NULL, .discard = true};
	struct err e = {{0}};
	int r = qcow2_open(out, &f->gate, &host_block, &o, &e);
	if (r && !w->may_fail)
		wrong(w, "cannot open: %s", e.text);
	return r;
}

static void verify_copy(struct world *w, struct fake_file *copy, const char *when) {
	struct block image = {0};
	bool may_fail = w->may_fail;
	w->may_fail = false;
	if (open_image(w, copy, &image) == 0) {
		verify(w, &image, when, held);
		check_image(w, &image, when, true);
		if (block_close(&image))
			wrong(w, "%s: cannot close", when);
	}
	w->may_fail = may_fail;
}

static void cut_here(void *opaque) {
	struct world *w = opaque;
	struct fake_file copy;
	char when[64];
	if (!w->cutting || w->wrong)
		return;
	snprintf(when, sizeof(when), "cut %u", ++w->cuts);
	fake_file_cut(&w->file, &copy, w->seed * 1000 + w->cuts);
	verify_copy(w, &copy, when);
	fake_file_free(&copy);
}

static void make_backing(struct world *w) {
	struct qcow2_create_options o = {.size = SECTOR * (1 + roll(w, w->sectors + 50))};
	o.cluster_bits = 9 + roll(w, 8);
	uint8_t sector[SECTOR];
	fake_file_init(&w->backing_file, w->seed);
	check(qcow2_create(&w->backing_file.gate, &host_block, &o, NULL) == 0);
	struct qcow2_open_options rw = {0};
	check(qcow2_open(&w->backing, &w->backing_file.gate, &host_block, &rw, NULL) == 0);
	for (uint32_t i = 0; i < o.size / SECTOR; i++) {
		if (roll(w, 3) == 0)
			continue;
		uint32_t tag = ++w->tag;
		paint(sector, tag, i);
		check(block_write_sync(&w->backing, i * SECTOR, sector, SECTOR) == 0);
		if (i < w->sectors)
			w->s[i].v[0].tag = tag;
	}
	check(block_close(&w->backing) == 0);
	rw.read_only = true;
	check(qcow2_open(&w->backing, &w->backing_file.gate, &host_block, &rw, NULL) == 0);
	fake_file_cut(&w->backing_file, &w->twin_file, 1);
	check(qcow2_open(&w->twin, &w->twin_file.gate, &host_block, &rw, NULL) == 0);
	w->options.backing = "base";
	w->options.backing_format = "qcow2";
}

static void make(struct world *w, uint32_t seed) {
	struct qcow2_create_options *o = &w->options;
	memset(w, 0, sizeof(*w));
	w->seed = seed;
	w->random = seed * 2654435761u + 12345;
	w->sectors = 200 + roll(w, 1200);
	o->size = (uint64_t)w->sectors * SECTOR;
	o->version = 2 + roll(w, 4) / 1 % 2;
	o->cluster_bits = 9 + roll(w, 8);
	o->lazy_refcounts = o->version == 3 && roll(w, 2);
	if (o->version == 3) {
		o->refcount_order_set = true;
		o->refcount_order = roll(w, 7);
	}
	for (uint32_t i = 0; i < w->sectors; i++) {
		w->s[i].n = 1;
		w->s[i].v[0] = (struct value){.done = 1};
	}
	w->has_backing = roll(w, 2);
	if (w->has_backing)
		make_backing(w);
	fake_file_init(&w->file, seed);
	struct err e = {{0}};
	if (qcow2_create(&w->file.gate, &host_block, o, &e))
		wrong(w, "cannot create: %s", e.text);
}

static void unmake(struct world *w) {
	if (w->has_backing) {
		block_close(&w->backing);
		fake_file_free(&w->backing_file);
		block_close(&w->twin);
		fake_file_free(&w->twin_file);
	}
	fake_file_free(&w->file);
}

static bool pump(struct world *w) {
	bool a = w->has_backing && fake_file_pump(&w->backing_file);
	return fake_file_pump(&w->file) || a;
}

static void late(struct world *w, bool on) {
	w->file.late = w->backing_file.late = on;
}

static void busy_time(struct world *w, unsigned requests) {
	late(w, true);
	for (unsigned i = 0; i < requests && !w->wrong; i++) {
		submit_random(w);
		while (roll(w, 3) && pump(w)) {
		}
	}
	while (pump(w)) {
	}
	for (unsigned i = 0; i < SLOTS; i++)
		if (w->slots[i].used)
			wrong(w, "request %d at %u was never answered", w->slots[i].r.op, w->slots[i].first);
	late(w, false);
}

/* Ends in the middle of things if something is wrong already. */
static void differ(struct world *w, uint32_t seed) {
	make(w, seed);
	for (unsigned round = 0; round < 3 && !w->wrong; round++) {
		if (open_image(w, &w->file, &w->image))
			return;
		busy_time(w, 150);
		if (w->wrong)
			return;
		verify(w, &w->image, "at the end", holds);
		if (block_close(&w->image))
			wrong(w, "cannot close");
		if (open_image(w, &w->file, &w->image))
			return;
		verify(w, &w->image, "opened again", holds);
		check_image(w, &w->image, "opened again", false);
		block_close(&w->image);
	}
}

static void cut(struct world *w, uint32_t seed) {
	make(w, seed);
	w->file.before = cut_here;
	w->file.opaque = w;
	if (open_image(w, &w->file, &w->image))
		return;
	w->cutting = true;
	busy_time(w, 60);
	if (!w->wrong && block_close(&w->image))
		wrong(w, "cannot close");
	w->cutting = false;
}

static void fail(struct world *w, uint32_t seed) {
	static struct world first;
	uint64_t events;
	make(&first, seed);
	if (open_image(&first, &first.file, &first.image) == 0) {
		busy_time(&first, 25);
		block_close(&first.image);
	}
	events = first.file.events;
	unmake(&first);
	for (uint64_t n = 1; n <= events + 4; n++) {
		make(w, seed);
		uint64_t at_open = w->file.events;
		w->may_fail = true;
		w->file.fail_at = at_open + n;
		w->file.fail_on = n & 1;
		struct fake_file copy;
		if (open_image(w, &w->file, &w->image) == 0) {
			busy_time(w, 25);
			block_close(&w->image); /* it may fail, too */
		}
		if (!w->wrong) {
			fake_file_cut(&w->file, &copy, seed + (uint32_t)n);
			verify_copy(w, &copy, "after an error");
			fake_file_free(&copy);
		}
		if (w->wrong) {
			fprintf(stderr, "# error at request %llu%s\n", (unsigned long long)n,
					w->file.fail_on ? " and on" : "");
			return;
		}
		if (n < events + 4)
			unmake(w);
	}
}

int main(int argc, char **argv) {
	static struct world w;
	void (*kind)(struct world *, uint32_t) = NULL;
	if (argc == 4)
		kind = strcmp(argv[1], "differ") == 0 ? differ
			   : strcmp(argv[1], "cut") == 0  ? cut
			   : strcmp(argv[1], "fail") == 0 ? fail
											  : NULL;
	if (!kind) {
		fprintf(stderr, "usage: random differ|cut|fail FROM COUNT\n");
		return 2;
	}
	uint32_t from = (uint32_t)atoi(argv[2]), count = (uint32_t)atoi(argv[3]), bad = 0;
	unsigned long long cuts = 0;
	for (uint32_t seed = from; seed < from + count && bad < 5; seed++) {
		kind(&w, seed);
		cuts += w.cuts;
		if (w.wrong) {
			bad++;
			printf("# seed %u (version %u, clusters of %u, refcounts of %u%s): %s\n", seed,
				   w.options.version, 1u << w.options.cluster_bits, 1u << w.options.refcount_order,
				   w.has_backing ? ", backing" : "", w.why);
		} else {
			unmake(&w);
		}
	}
	printf("1..1\n%sok 1 - %s: seeds %u to %u", bad ? "not " : "", argv[1], from, from + count - 1);
	if (cuts)
		printf(", %llu power cuts", cuts);
	printf("\n");
	return bad ? 1 : 0;
}
