/* See fake_file.h. */
#include "test/block/fake_file.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/check.h"

#define SECTOR 512u

uint32_t fake_random(uint32_t *state) {
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

static void reserve(struct fake_file *f, uint64_t len) {
	if (len <= f->room)
		return;
	uint64_t room = len + len / 2 + 65536;
	f->now = realloc(f->now, room);
	f->stable = realloc(f->stable, room);
	check(f->now && f->stable && room < (1u << 30));
	memset(f->now + f->room, 0, room - f->room);
	memset(f->stable + f->room, 0, room - f->room);
	f->room = room;
}

static int note(struct fake_file *f, const struct block_request *r) {
	if (f->npending == f->pending_room) {
		f->pending_room = f->pending_room * 2 + 64;
		f->pending = realloc(f->pending, f->pending_room * sizeof(*f->pending));
	}
	struct fake_write *w = &f->pending[f->npending];
	*w = (struct fake_write){r->offset, r->len, calloc(1, r->len), 0};
	uint64_t pos = 0;
	for (unsigned i = 0; r->op == BLOCK_WRITE && i < r->nsegs; i++) {
		memcpy(w->data + pos, r->segs[i].host, r->segs[i].len);
		pos += r->segs[i].len;
	}
	return (int)f->npending++;
}

static void read_into(struct fake_file *f, struct block_request *r) {
	uint64_t at = r->offset;
	for (unsigned i = 0; i < r->nsegs; i++) {
		uint64_t n = r->segs[i].len, have = at < f->now_len ? f->now_len - at : 0;
		have = have < n ? have : n;
		memcpy(r->segs[i].host, f->now + at, have);
		memset(r->segs[i].host + have, 0, n - have);
		at += n;
	}
}

/* All that was done before the flush came is stable now. */
static void settle(struct fake_file *f, uint64_t flushed_at) {
	unsigned keep = 0;
	int moved[4096];
	check(f->npending <= 4096);
	for (unsigned i = 0; i < f->npending; i++) {
		struct fake_write *w = &f->pending[i];
		if (w->done_at && w->done_at < flushed_at) {
			memcpy(f->stable + w->offset, w->data, w->len);
			if (w->offset + w->len > f->stable_len)
				f->stable_len = w->offset + w->len;
			free(w->data);
			moved[i] = -1;
		} else {
			moved[i] = (int)keep;
			f->pending[keep++] = *w;
		}
	}
	f->npending = keep;
	for (unsigned i = 0; i < f->nqueue; i++)
		if (f->pending_index[i] >= 0)
			f->pending_index[i] = moved[f->pending_index[i]];
}

static void complete(struct fake_file *f, unsigned i) {
	struct block_request *r = f->queue[i];
	uint64_t at = f->queued_at[i];
	int p = f->pending_index[i], error = 0;
	f->nqueue--;
	f->queue[i] = f->queue[f->nqueue];
	f->queued_at[i] = f->queued_at[f->nqueue];
	f->pending_index[i] = f->pending_index[f->nqueue];
	f->events++;
	if (f->fail_at && (f->events == f->fail_at || (f->fail_on && f->events > f->fail_at)))
		error = -ERR_IO;
	if (r->op == BLOCK_READ) {
		if (!error)
			read_into(f, r);
	} else if (r->op == BLOCK_FLUSH) {
		if (!error)
			settle(f, at);
	} else {
		struct fake_write *w = &f->pending[p];
		if (error) /* some of it may have got there all the same */
			w->len = fake_random(&f->random) % (w->len / SECTOR + 1) * SECTOR;
		w->done_at = f->events;
		memcpy(f->now + w->offset, w->data, w->len);
		if (w->offset + w->len > f->now_len)
			f->now_len = w->offset + w->len;
	}
	block_done(r, error);
}

static void submit(void *self, struct block_request *r) {
	struct fake_file *f = self;
	if (f->before && r->op != BLOCK_READ)
		f->before(f->opaque);
	check(f->nqueue < 256);
	unsigned i = f->nqueue++;
	f->queue[i] = r;
	f->queued_at[i] = ++f->events;
	f->pending_index[i] = -1;
	if (r->op != BLOCK_READ && r->op != BLOCK_FLUSH) {
		reserve(f, r->offset + r->len);
		f->pending_index[i] = note(f, r);
	}
	if (!f->late)
		complete(f, i);
}

bool fake_file_pump(struct fake_file *f) {
	if (!f->nqueue)
		return false;
	complete(f, fake_random(&f->random) % f->nqueue);
	return true;
}

static const struct block_ops ops = {"fake", submit, NULL, NULL};

void fake_file_init(struct fake_file *f, uint32_t seed) {
	memset(f, 0, sizeof(*f));
	f->random = seed * 2654435761u + 1;
	f->gate = (struct block){.ops = &ops, .self = f, .growable = true};
	reserve(f, 65536);
}

void fake_file_free(struct fake_file *f) {
	for (unsigned i = 0; i < f->npending; i++)
		free(f->pending[i].data);
	free(f->pending);
	free(f->now);
	free(f->stable);
	memset(f, 0, sizeof(*f));
}

void fake_file_cut(const struct fake_file *f, struct fake_file *out, uint32_t seed) {
	uint32_t random = seed * 2246822519u + 1;
	uint32_t likely = fake_random(&random) % 101; /* from nothing to all of it */
	fake_file_init(out, seed);
	reserve(out, f->room);
	memcpy(out->now, f->stable, f->room);
	out->now_len = f->stable_len;
	for (unsigned i = 0; i < f->npending; i++) {
		const struct fake_write *w = &f->pending[i];
		for (uint64_t s = 0; s < w->len; s += SECTOR) {
			uint64_t n = w->len - s < SECTOR ? w->len - s : SECTOR;
			if (fake_random(&random) % 100 >= likely)
				continue;
			memcpy(out->now + w->offset + s, w->data + s, n);
			if (w->offset + s + n > out->now_len)
				out->now_len = w->offset + s + n;
		}
	}
	memcpy(out->stable, out->now, out->room);
	out->stable_len = out->gate.size = out->now_len;
}
