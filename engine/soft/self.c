/* Blocks that check themselves: for code that is rewritten again and again (immediates that are
 * counted up, inline caches of JIT compilers, code and data that take turns in a line).
 *
 * Usually a store into code stops the world and kills the blocks that it touches; the code is
 * made into blocks anew. Where that has happened some times to the same bytes of a line of 64, with
 * few other blocks made meanwhile, the line is `restless`: no other block depends on it, and what
 * begins there is made self-checking. Such a block compares the bytes that it was made from with
 * those in memory each time it is entered. So it need not be told of stores, from wherever they
 * come. It ends behind what may store, and is no longer than JIT_SELF_BYTES: it never runs on past
 * its own change, and another vCPU's is seen at the next block.
 *
 * Several versions of one block are chained, oldest first: where one finds other bytes it goes to
 * the next one, the last one to C, which makes one more. If there are enough, the code is
 * interpreted an instruction at a time, and once in a while the versions are thrown away: they may
 * be of times long past. From then on the immediates of MOV and of arithmetic are loaded from the
 * code, and not compared: where they never repeat, one version will do.
 *
 * All of it with jit->lock held or the world stopped. */
#include "core/base/check.h"
#include "core/base/string.h"
#include "engine/soft/fast.h"
#include "engine/soft/jit.h"

#define KILLS 4			/* to be restless */
#define FEW_BLOCKS 1000 /* made between two of them */
#define LEN_MAX 32		/* a store of more is no patch: a page gets a new use */
#define MISSES 64		/* before the versions are thrown away, twice as many each time */
#define RESTARTS_MAX 6
#define SAMPLES_CALM 64 /* times found running: a check at each entry costs more than it saves */

static const uint8_t *line_of(const uint8_t *host) {
	return host - ((uintptr_t)host & 63);
}

static struct jit_restless *entry_of(const struct jit *j, const uint8_t *line) {
	uint64_t h = ((uintptr_t)line >> 6) * 0x9e3779b97f4a7c15ull;
	return (struct jit_restless *)&j->restless[h >> 52 & (JIT_RESTLESS - 1)];
}

void jit_self_note_kill(struct jit *j, const uint8_t *host, uint64_t len) {
	if (len > LEN_MAX)
		return;
	for (const uint8_t *line = line_of(host); line < host + len; line += 64) {
		struct jit_restless *r = entry_of(j, line);
		unsigned from = host > line ? (unsigned)(host - line) : 0;
		unsigned to = (unsigned)MIN((uint64_t)(host + len - line), 64u);
		uint64_t bytes = ~0ull >> (64 - (to - from)) << from;
		if (r->line != line)
			*r = (struct jit_restless){.line = line};
		else if (j->blocks - r->blocks > FEW_BLOCKS)
			*r = (struct jit_restless){.line = line, .restarts = r->restarts};
		r->blocks = j->blocks;
		/* A kernel patches each place of its code once while it boots: that is no unrest. */
		if (r->kills < KILLS && r->stored & bytes)
			j->unrest |= ++r->kills == KILLS;
		r->stored |= bytes;
	}
}

bool jit_is_restless(const struct jit *j, const uint8_t *host, unsigned len) {
	if (j->off & JIT_OFF_SELF)
		return false;
	for (const uint8_t *line = line_of(host); line < host + len; line += 64) {
		const struct jit_restless *r = entry_of(j, line);
		if (r->line == line && r->kills >= KILLS)
			return true;
	}
	return false;
}

/* Its first instruction must not reach into the next page. */
bool jit_self_wanted(const struct jit *j, const uint8_t *host) {
	return ((uintptr_t)host & PAGE_MASK) + X86_MAX_LEN <= PAGE_SIZE &&
		   jit_restless(j, host, X86_MAX_LEN);
}

bool jit_self_fits(const struct jit_block *b) {
	if (!b->bytes || !b->loose)
		return !b->bytes || memcmp(b->bytes, b->host, b->len) == 0;
	for (unsigned n = 0; n < b->len; n++)
		if (!(b->loose >> n & 1) && b->bytes[n] != b->host[n])
			return false;
	return true;
}

struct jit_block *jit_self_make(struct soft_vcpu *c, const uint8_t *host, uint64_t rip,
								uint32_t key, struct jit_block *last) {
	struct jit *j = c->soft->jit;
	uint8_t *bytes = jit_arena(j, JIT_SELF_BYTES);
	unsigned len = MIN(JIT_SELF_BYTES, PAGE_SIZE - (unsigned)((uintptr_t)host & PAGE_MASK));
	if (!bytes)
		return NULL;
	/* Others may be writing: what is translated is what will be compared. */
	fast_copy(bytes, host, len);
	const struct jit_restless *r = entry_of(j, line_of(host));
	bool loose = r->line == line_of(host) && r->restarts;
	struct jit_block *b = jit_translate_self(c, bytes, host, rip, key, loose);
	if (!b)
		return NULL;
	check(b->len <= len && b->changed);
	j->self_blocks++;
	b->first_version = b;
	if (!last)
		return b;
	b->first_version = last->first_version;
	last->next_version = b;
	struct jit_link *l = last->changed;
	l->to = b;
	l->next = b->incoming;
	b->incoming = l;
	jit_put_rel32(l->patch, b->entry, j->exec);
	return b;
}

bool jit_self_miss(struct jit *j, struct jit_block *first) {
	struct jit_restless *r = entry_of(j, line_of(first->host));
	j->self_misses++;
	if (++first->misses < MISSES << r->restarts)
		return false;
	j->self_restarts++;
	if (r->restarts < RESTARTS_MAX)
		r->restarts++;
	return true;
}

bool jit_self_sampled(struct jit_block *b) {
	return ++b->samples >= SAMPLES_CALM;
}

void jit_self_calm(struct jit *j, const struct jit_block *b) {
	for (const uint8_t *line = line_of(b->host); line < b->host + JIT_SELF_BYTES; line += 64) {
		struct jit_restless *r = entry_of(j, line);
		if (r->line == line)
			*r = (struct jit_restless){0};
	}
	j->self_calmed++;
}
