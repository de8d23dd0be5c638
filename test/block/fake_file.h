/* A file in memory that is as nasty as a disk may be: it completes requests late and in any
 * order, fails the n-th one, and after a power cut has of what was not flushed any sectors that
 * it likes. */
#ifndef TEST_BLOCK_FAKE_FILE_H
#define TEST_BLOCK_FAKE_FILE_H

#include "core/block/block.h"

struct fake_write {
	uint64_t offset, len;
	uint8_t *data;
	uint64_t done_at; /* event number; 0: not yet */
};

struct fake_file {
	struct block gate;
	uint8_t *now, *stable; /* what reads see; what certainly survives */
	uint64_t now_len, stable_len, room;
	struct fake_write *pending; /* since the last flush, oldest first */
	unsigned npending, pending_room;
	struct block_request *queue[256]; /* in work */
	uint64_t queued_at[256];
	int pending_index[256];
	unsigned nqueue;
	bool late;		  /* completions wait for fake_file_pump() */
	uint64_t events;  /* requests that came in */
	uint64_t fail_at; /* this one fails; 0: none */
	bool fail_on;	  /* and all after it */
	uint32_t random;
	/* Called before a write or flush takes effect. */
	void (*before)(void *opaque);
	void *opaque;
};

uint32_t fake_random(uint32_t *state);
void fake_file_init(struct fake_file *f, uint32_t seed);
void fake_file_free(struct fake_file *f);
/* Completes one request, whichever. False: there is none. */
bool fake_file_pump(struct fake_file *f);
/* What a power cut leaves; `out` is a file of its own. */
void fake_file_cut(const struct fake_file *f, struct fake_file *out, uint32_t seed);

#endif
