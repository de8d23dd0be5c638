/* libFuzzer: the log of a VHDX, against a second reading of [MS-VHDX 2.3.3] that takes the steps of
 * the text as they stand, and applies what is found to a copy of the file.
 *
 * The input is a list of entries to put into a ring, wherever, one over the other; their checksums
 * are right unless the input says otherwise, since no fuzzer guesses them. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/crc32c.h"
#include "core/block/import_int.h"

#define SECTOR 4096u
#define LOG_AT (1u << 20)
#define LOG_LEN (1u << 20)
#define RING (LOG_LEN / SECTOR)
#define FILE_LEN (LOG_AT + LOG_LEN)
#define ROOM (FILE_LEN + (1u << 20)) /* places go beyond the file's end */

static const uint8_t guid[16] = "the right one ";
static uint8_t file[FILE_LEN], want[ROOM], got[ROOM];
static uint32_t known[RING]; /* what valid() said, plus 1 */

struct input {
	const uint8_t *p;
	size_t len;
};

static uint32_t byte(struct input *in) {
	if (!in->len)
		return 0;
	in->len--;
	return *in->p++;
}

static uint64_t taken;

static void *take(void *opaque, size_t size) {
	taken += size;
	check(taken <= 4u << 20);
	return calloc(1, size);
}

static void give(void *opaque, void *p, size_t size) {
	check(taken >= size);
	taken -= size;
	free(p);
}

static const struct block_host host = {.alloc = take, .free = give};

static void submit(void *self, struct block_request *r) {
	uint64_t at = r->offset;
	for (unsigned i = 0; i < r->nsegs; i++) {
		uint64_t n = r->segs[i].len, have = at < FILE_LEN ? MIN(n, FILE_LEN - at) : 0;
		if (have)
			memcpy(r->segs[i].host, file + at, have);
		memset(r->segs[i].host + have, 0, n - have);
		at += n;
	}
	block_done(r, 0);
}

static const struct block_ops ops = {"fuzz", submit, NULL, NULL};

static uint8_t *ring(uint32_t sector) {
	return file + LOG_AT + sector % RING * SECTOR;
}

/* One entry, built flat and copied into the ring. */
static uint32_t put_entry(struct input *in, uint32_t at, uint64_t number) {
	static uint8_t b[148 * SECTOR];
	uint32_t how = byte(in), count = byte(in), tail = byte(in);
	count = count == 255 ? 140 : count % 6; /* 126 descriptors have room in the first sector */
	uint32_t next = count > 126 ? 2 : 1;
	memset(b, 0, (next + count + 3) * SECTOR);
	for (uint32_t i = 0; i < count; i++) {
		uint8_t *d = b + 64 + i * 32;
		uint32_t kind = byte(in), place = byte(in) << 8;
		place = (place | byte(in)) % (ROOM / SECTOR);
		le64_put(d + 16, (uint64_t)place * SECTOR);
		le64_put(d + 24, number);
		if (kind & 1) {
			memcpy(d, "zero", 4);
			le64_put(d + 8, (uint64_t)MIN(kind >> 1, ROOM / SECTOR - place) * SECTOR);
			continue;
		}
		uint8_t *s = b + next++ * SECTOR;
		memset(s, (int)kind, SECTOR);
		memcpy(d, "desc", 4);
		memset(d + 4, (int)kind + 1, 12);
		memcpy(s, "data", 4);
		le32_put(s + 4, (uint32_t)(number >> 32));
		le32_put(s + SECTOR - 4, (uint32_t)number);
	}
	next += how & 3; /* more than it needs: allowed */
	memcpy(b, "loge", 4);
	le32_put(b + 8, next * SECTOR);
	le32_put(b + 12, (how & 4 ? at : tail) % RING * SECTOR);
	le64_put(b + 16, number);
	le32_put(b + 24, count);
	memcpy(b + 32, guid, 16);
	le64_put(b + 48, FILE_LEN - (how & 8 ? 0 : SECTOR));
	le64_put(b + 56, (uint64_t)(how >> 4) << 19);
	if (how == 0xf1) { /* anything */
		uint32_t where = byte(in) << 8;
		where |= byte(in);
		b[where % (next * SECTOR)] ^= (uint8_t)byte(in);
	}
	le32_put(b + 4, 0);
	le32_put(b + 4, ~crc32c_add(CRC32C_START, b, next * SECTOR) ^ (how == 0xf2));
	for (uint32_t i = 0; i < next; i++)
		memcpy(ring(at + i), b + i * SECTOR, SECTOR);
	return next;
}

/* The second reading: the length of a valid entry in sectors, or 0. */
static uint32_t judge(uint32_t first) {
	static uint8_t b[LOG_LEN];
	const uint8_t *h = ring(first);
	uint32_t len = le32_get(h + 8), count = le32_get(h + 24), data = 0;
	uint64_t number = le64_get(h + 16);
	if (memcmp(h, "loge", 4) != 0 || !len || len % SECTOR || len > LOG_LEN ||
		le32_get(h + 12) % SECTOR || le32_get(h + 12) >= LOG_LEN || !number ||
		memcmp(h + 32, guid, 16) != 0)
		return 0;
	for (uint32_t i = 0; i < len / SECTOR; i++)
		memcpy(b + i * SECTOR, ring(first + i), SECTOR);
	uint32_t sum = le32_get(b + 4);
	le32_put(b + 4, 0);
	if (sum != ~crc32c_add(CRC32C_START, b, len) || 64 + (uint64_t)count * 32 > len)
		return 0;
	uint32_t top = (64 + count * 32 + SECTOR - 1) / SECTOR;
	for (uint32_t i = 0; i < count; i++) {
		const uint8_t *d = b + 64 + i * 32;
		uint64_t place = le64_get(d + 16), n = SECTOR;
		if (memcmp(d, "zero", 4) == 0) {
			n = le64_get(d + 8);
		} else if (memcmp(d, "desc", 4) == 0) {
			const uint8_t *s = b + (top + data++) * SECTOR;
			if (s >= b + len || memcmp(s, "data", 4) != 0 || le32_get(s + 4) != number >> 32 ||
				le32_get(s + SECTOR - 4) != (uint32_t)number)
				return 0;
		} else {
			return 0;
		}
		if (le64_get(d + 24) != number || place % SECTOR || n % SECTOR || n > BIT(56) ||
			place > BIT(56) - n)
			return 0;
	}
	return len / SECTOR;
}

static uint32_t valid(uint32_t first) {
	if (!known[first])
		known[first] = 1 + judge(first);
	return known[first] - 1;
}

/* Into `want`; what lies beyond it is not looked at. */
static void apply(uint32_t first) {
	const uint8_t *h = ring(first);
	uint32_t count = le32_get(h + 24), next = (64 + count * 32 + SECTOR - 1) / SECTOR;
	for (uint32_t i = 0; i < count; i++) {
		const uint8_t *d = ring(first + (64 + i * 32) / SECTOR) + (64 + i * 32) % SECTOR;
		uint64_t place = le64_get(d + 16);
		if (memcmp(d, "zero", 4) == 0) {
			uint64_t n = place < ROOM ? MIN(le64_get(d + 8), ROOM - place) : 0;
			memset(want + MIN(place, (uint64_t)ROOM), 0, n);
			continue;
		}
		const uint8_t *s = ring(first + next++);
		if (place > ROOM - SECTOR)
			continue;
		memcpy(want + place, s, SECTOR);
		memcpy(want + place, d + 8, 8);
		memcpy(want + place + SECTOR - 4, d + 4, 4);
	}
}

/* The active sequence's tail and head; false: there is none. */
static bool search(uint32_t *tail, uint32_t *head) {
	uint64_t best = 0;
	for (uint32_t current = 0; current < RING;) {
		uint32_t starts[RING], n = 0, all = 0, len;
		uint64_t number = 0;
		while ((len = valid((current + all) % RING)) != 0 && all + len <= RING) {
			uint64_t x = le64_get(ring(current + all) + 16);
			if (n && x != number + 1)
				break;
			starts[n++] = (current + all) % RING;
			number = x;
			all += len;
			if (all == RING)
				break;
		}
		bool inside = false;
		uint32_t to = n ? le32_get(ring(starts[n - 1]) + 12) / SECTOR : 0;
		for (uint32_t i = 0; i < n; i++)
			inside |= starts[i] == to;
		if (inside && number > best) {
			best = number;
			*tail = to;
			*head = starts[n - 1];
		}
		current += inside ? all : 1;
	}
	return best != 0;
}

static void compare(struct import *m, bool found, int r, uint32_t tail, uint32_t head) {
	bool truncated = found && le64_get(ring(head) + 48) > FILE_LEN;
	bool far = found && le64_get(ring(head) + 56) > BIT(56);
	check((r == 0) == (found && !truncated && !far));
	if (r)
		return;
	memset(want, 0, sizeof(want));
	memcpy(want, file, FILE_LEN);
	for (uint32_t at = tail;; at = (at + valid(at)) % RING) {
		apply(at);
		if (at == head)
			break;
	}
	check(m->file->size >= FILE_LEN && m->file->size >= le64_get(ring(head) + 56));
	check(block_read_sync(m->file, 0, got, ROOM) == 0);
	check(memcmp(got, want, ROOM) == 0);
	for (uint32_t i = 0; i < 40; i++) { /* pieces of it */
		uint32_t at = i * 104729u % (ROOM - 9999);
		check(block_read_sync(m->file, at, got, 9999) == 0);
		check(memcmp(got, want + at, 9999) == 0);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
	struct input in = {data, len};
	struct block gate = {.ops = &ops, .size = FILE_LEN, .growable = true, .read_only = true};
	struct import m = {.host = &host, .file = &gate};
	struct err e;
	uint64_t number = byte(&in);
	uint32_t at = byte(&in), tail = 0, head = 0;
	if (number & 0x80)
		number = 0xfffffff0u + number; /* across 32 bits */
	for (uint32_t i = 0; i < FILE_LEN / SECTOR; i++)
		memset(file + i * SECTOR, (int)i, SECTOR);
	memset(known, 0, sizeof(known));
	for (unsigned i = 0; in.len && i < 16; i++) {
		uint32_t go = byte(&in); /* mostly the next one behind the last */
		uint32_t n = put_entry(&in, at, number);
		at = (go & 0x80 ? go * 2 : at + n) % RING;
		number += go & 0x40 ? go & 0x3f : 1;
	}
	bool found = search(&tail, &head);
	int r = import_vhdx_replay(&m, LOG_AT, LOG_LEN, guid, &e);
	compare(&m, found, r, tail, head);
	block_close(&m.log);
	check(!taken);
	return 0;
}
