/* Partition tables: ours by hand, and thousands with seeded damage. Whole disks are in test/cli. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/le.h"
#include "core/block/parts.h"

#define SECTORS 256u
static uint8_t bytes[SECTORS * 512];
static unsigned reads;

static void submit(void *self, struct block_request *r) {
	uint64_t at = r->offset;
	reads++;
	for (unsigned i = 0; i < r->nsegs; i++) {
		memcpy(r->segs[i].host, bytes + at, r->segs[i].len);
		at += r->segs[i].len;
	}
	block_done(r, 0);
}

static const struct block_ops ops = {"test", submit, NULL, NULL};
static struct block disk = {.ops = &ops, .size = sizeof(bytes), .read_only = true};

static void put_mbr(unsigned sector, unsigned i, uint8_t type, uint32_t first, uint32_t n) {
	uint8_t *s = bytes + sector * 512, *entry = s + 446 + i * 16;
	entry[4] = type;
	le32_put(entry + 8, first);
	le32_put(entry + 12, n);
	s[510] = 0x55;
	s[511] = 0xaa;
}

static void put_gpt(unsigned i, uint64_t first, uint64_t last) {
	uint8_t *h = bytes + 512, *entry = bytes + 1024 + i * 128;
	memcpy(h, "EFI PART", 8);
	le64_put(h + 72, 2);
	le32_put(h + 80, 128);
	le32_put(h + 84, 128);
	memset(entry, 7, 16);
	le64_put(entry + 32, first);
	le64_put(entry + 40, last);
}

static struct parts look(void) {
	struct parts p;
	assert_int_equal(parts_read(&disk, &p, NULL), 0);
	return p;
}

static void nothing(void **state) {
	memset(bytes, 0, sizeof(bytes));
	assert_int_equal(look().kind, PARTS_NONE);
	memset(bytes, 0x41, 510); /* a boot sector's program */
	bytes[510] = 0x55;
	bytes[511] = 0xaa;
	assert_int_equal(look().kind, PARTS_NONE);
	struct block tiny = {.ops = &ops, .size = 100, .read_only = true};
	struct parts p;
	assert_int_equal(parts_read(&tiny, &p, NULL), 0);
	assert_int_equal(p.kind, PARTS_NONE);
}

static void mbr(void **state) {
	memset(bytes, 0, sizeof(bytes));
	put_mbr(0, 0, 0x83, 40, 10);
	put_mbr(0, 1, 0x83, 250, 10); /* past the end */
	put_mbr(0, 2, 0x05, 100, 100);
	put_mbr(100, 0, 0x83, 1, 20);
	put_mbr(100, 1, 0x05, 50, 30);
	put_mbr(150, 0, 0x83, 2, 20);
	struct parts p = look();
	assert_int_equal(p.kind, PARTS_MBR);
	assert_int_equal(p.n, 3);
	assert_int_equal(p.damaged, 1);
	assert_int_equal(p.part[0].number, 1);
	assert_int_equal(p.part[1].number, 5);
	assert_int_equal(p.part[1].offset, 101 * 512);
	assert_int_equal(p.part[2].number, 6);
	assert_int_equal(p.part[2].offset, 152 * 512);
	assert_int_equal(p.part[2].len, 20 * 512);
	put_mbr(150, 1, 0x05, 50, 30); /* in a circle */
	reads = 0;
	assert_int_equal(look().damaged, 2);
	assert_in_range(reads, 10, 100);
}

static void gpt(void **state) {
	memset(bytes, 0, sizeof(bytes));
	put_mbr(0, 0, 0xee, 1, SECTORS - 1);
	put_gpt(0, 40, 49);
	put_gpt(1, 60, 59);		   /* upside down */
	put_gpt(2, 60, SECTORS);   /* one too many */
	put_gpt(3, 0, UINT64_MAX); /* wraps */
	put_gpt(14, 100, SECTORS - 1);
	struct parts p = look();
	assert_int_equal(p.kind, PARTS_GPT);
	assert_int_equal(p.n, 2);
	assert_int_equal(p.damaged, 3);
	assert_int_equal(p.part[0].len, 10 * 512);
	assert_int_equal(p.part[1].number, 15);
	le32_put(bytes + 512 + 84, 0);
	assert_int_equal(look().n, 0);
}

/* What the callers rely on: within the disk, not too many, and an end. */
static void damage(void **state) {
	uint32_t x = 1;
	for (unsigned round = 0; round < 20000; round++) {
		if (round % 16 == 0) {
			memset(bytes, 0, sizeof(bytes));
			put_mbr(0, 0, 0x83, 40, 10);
			put_mbr(0, 1, 0x05, 100, 100);
			put_mbr(100, 0, 0x83, 1, 20);
			put_mbr(100, 1, 0x05, 50, 30);
			if (round % 32) {
				put_gpt(0, 40, 49);
				put_gpt(5, 100, 199);
			}
		}
		x = x * 1664525 + 1013904223;
		uint32_t at = x >> 8, value = x >> 3;
		static const struct {
			unsigned from, len;
		} spans[] = {{446, 66}, {512, 96}, {1024, 1024}, {100 * 512 + 446, 66}};
		bytes[spans[round & 3].from + at % spans[round & 3].len] = (uint8_t)value;
		reads = 0;
		struct parts p = look();
		assert_in_range(p.n, 0, PARTS_MAX);
		assert_in_range(reads, 1, 140);
		for (unsigned i = 0; i < p.n; i++) {
			assert_true(p.part[i].len >= 512 && p.part[i].offset >= 512);
			assert_true(p.part[i].offset <= sizeof(bytes) &&
						p.part[i].len <= sizeof(bytes) - p.part[i].offset);
		}
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing),
		cmocka_unit_test(mbr),
		cmocka_unit_test(gpt),
		cmocka_unit_test(damage),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
