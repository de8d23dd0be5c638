/* The block device over a disk in memory that completes at once, or when told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/le.h"
#include "core/base/string.h"
#include "core/virtio/blk.h"
#include "test/unit/virtio_driver.h"

#define DISK_SIZE 65536u
#define T_IN 0
#define T_OUT 1
#define T_FLUSH 4
#define T_GET_ID 8
#define T_DISCARD 11
#define T_ZEROES 13
#define F_FLUSH F(9)
#define F_WCE F(11)
#define F_DISCARD F(13)
#define F_ZEROES F(14)
#define HEADER DRV_DATA
#define STATUS (DRV_DATA + 0x100)
#define DATA (DRV_DATA + 0x1000)

struct disk {
	struct block_backend backend;
	uint8_t bytes[DISK_SIZE];
	bool later; /* keep requests until disk_complete() */
	int error;
	struct block_request *waiting[64];
	unsigned nwaiting, submitted, flushed, discarded, zeroed, fua;
	uint64_t largest_nsegs;
};

static void execute(struct disk *k, struct block_request *r) {
	uint64_t at = r->offset, sum = 0;
	for (unsigned i = 0; i < r->nsegs; i++)
		sum += r->segs[i].len;
	if (r->op == BLOCK_READ || r->op == BLOCK_WRITE) {
		assert_int_equal(sum, r->len);
		assert_true(r->len % 512 == 0 && r->offset % 512 == 0 && r->len);
		assert_true(r->nsegs <= BLOCK_SEGMENTS - 2);
	}
	assert_true(r->offset + r->len <= DISK_SIZE);
	for (unsigned i = 0; i < r->nsegs && !k->error; i++) {
		if (r->op == BLOCK_READ)
			memcpy(r->segs[i].host, k->bytes + at, r->segs[i].len);
		else
			memcpy(k->bytes + at, r->segs[i].host, r->segs[i].len);
		at += r->segs[i].len;
	}
	if (r->op == BLOCK_ZEROES)
		memset(k->bytes + r->offset, 0, r->len);
	k->flushed += r->op == BLOCK_FLUSH;
	k->discarded += r->op == BLOCK_DISCARD;
	k->zeroed += r->op == BLOCK_ZEROES;
	k->fua += r->fua;
	k->largest_nsegs = MAX(k->largest_nsegs, r->nsegs);
	r->done(r, k->error);
}

static void disk_submit(void *opaque, struct block_request *r) {
	struct disk *k = opaque;
	k->submitted++;
	if (k->later)
		k->waiting[k->nwaiting++] = r;
	else
		execute(k, r);
}

static void disk_complete(struct disk *k, unsigned i) {
	struct block_request *r = k->waiting[i];
	k->waiting[i] = k->waiting[--k->nwaiting];
	execute(k, r);
}

struct rig {
	struct drv d;
	struct disk disk;
	struct drv_ring r[2];
};

static struct rig rig;

static void make(struct rig *g, bool read_only, unsigned queues) {
	memset(g, 0, sizeof(*g));
	drv_init(&g->d);
	g->disk.backend = (struct block_backend){.submit = disk_submit,
											 .opaque = &g->disk,
											 .size = DISK_SIZE,
											 .block_size = 512,
											 .read_only = read_only,
											 .discard = true,
											 .serial = "12345678901234567890"};
	for (unsigned i = 0; i < DISK_SIZE; i++)
		g->disk.bytes[i] = (uint8_t)(i / 512 + i);
	drv_attach(&g->d, virtio_blk_create(&g->d.vm, &g->disk.backend, queues));
}

static void begin(struct rig *g, uint64_t features, uint16_t size) {
	assert_true(drv_handshake(&g->d, features | F_V1));
	for (unsigned i = 0; i < g->d.dev->nvq && i < 2; i++)
		drv_ring_init(&g->d, &g->r[i], i, size);
	drv_driver_ok(&g->d);
}

static int teardown(void **state) {
	drv_free(&rig.d);
	return 0;
}

static void header(uint64_t at, uint32_t type, uint64_t sector) {
	uint8_t *p = rig.d.ram + at;
	le32_put(p, type);
	le32_put(p + 4, 0);
	le64_put(p + 8, sector);
}

/* One request with its data in one piece; returns the status, -1 while in work. */
static int request(uint32_t type, uint64_t sector, uint32_t len) {
	bool to_guest = type == T_IN || type == T_GET_ID;
	header(HEADER, type, sector);
	rig.d.ram[STATUS] = 0xee;
	struct drv_buf b[3] = {{HEADER, 16, false}, {DATA, len, to_guest}, {STATUS, 1, true}};
	uint16_t id = drv_add(&rig.r[0], b, 3), got;
	uint32_t written;
	drv_kick(&rig.r[0]);
	if (!drv_used(&rig.r[0], &got, &written))
		return -1;
	assert_int_equal(got, id);
	assert_int_equal(written, to_guest ? len + 1 : 1);
	return rig.d.ram[STATUS];
}

static void test_read_write(void **state) {
	make(&rig, false, 1);
	for (unsigned k = 0; k < 2; k++) {
		begin(&rig, F_FLUSH | (k ? F(VIRTIO_F_RING_PACKED) : 0), 64);
		assert_int_equal(request(T_IN, 3, 1024), 0);
		assert_memory_equal(rig.d.ram + DATA, rig.disk.bytes + 3 * 512, 1024);
		memset(rig.d.ram + DATA, 0x77 + (int)k, 2048);
		assert_int_equal(request(T_OUT, 124, 2048), 0);
		assert_memory_equal(rig.disk.bytes + 124 * 512, rig.d.ram + DATA, 2048);
		assert_int_equal(rig.disk.fua, 0);
		assert_int_equal(request(T_FLUSH, 0, 0), 0);
		assert_int_equal(rig.disk.flushed, k + 1);
		memset(rig.d.ram + DATA, 0, 32);
		assert_int_equal(request(T_GET_ID, 0, 20), 0);
		assert_memory_equal(rig.d.ram + DATA, "12345678901234567890", 21);
		assert_int_equal(request(T_GET_ID, 0, 4), 0);
		assert_int_equal(request(99, 0, 0), 2);
		assert_int_equal(request(T_IN, 0, 0), 0);
	}
}

static void test_bad_requests(void **state) {
	make(&rig, false, 1);
	begin(&rig, F_FLUSH | F(VIRTIO_F_RING_PACKED), 64);
	unsigned before = rig.disk.submitted;
	assert_int_equal(request(T_IN, 128, 512), 1);
	assert_int_equal(request(T_IN, 127, 1024), 1);
	assert_int_equal(request(T_IN, UINT64_MAX, 512), 1);
	assert_int_equal(request(T_IN, 1ull << 55, 512), 1);
	assert_int_equal(request(T_IN, 0, 511), 1);
	assert_int_equal(request(T_OUT, 127, 1024), 1);
	assert_int_equal(request(T_DISCARD, 0, 16), 2); /* not agreed on */
	assert_int_equal(rig.disk.submitted, before);
	rig.disk.error = -ERR_IO;
	assert_int_equal(request(T_IN, 0, 512), 1);
	assert_int_equal(request(T_OUT, 0, 512), 1);
	assert_int_equal(request(T_FLUSH, 0, 0), 1);
	rig.disk.error = -ERR_NOTSUP;
	assert_int_equal(request(T_FLUSH, 0, 0), 2);
	assert_false(drv_needs_reset(&rig.d));
	/* No place for the status; no whole header. */
	struct drv_buf b[2] = {{HEADER, 16, false}, {HEADER, 15, false}};
	drv_add(&rig.r[0], b, 1);
	drv_kick(&rig.r[0]);
	assert_true(drv_needs_reset(&rig.d));
	begin(&rig, 0, 64);
	b[0].len = 15;
	b[1] = (struct drv_buf){STATUS, 1, true};
	drv_add(&rig.r[0], b, 2);
	drv_kick(&rig.r[0]);
	assert_true(drv_needs_reset(&rig.d));
}

static void test_ranges(void **state) {
	make(&rig, false, 1);
	begin(&rig, F_DISCARD | F_ZEROES, 64);
	uint8_t *range = rig.d.ram + DATA;
	memset(range, 0, 64);
	le64_put(range, 4);
	le32_put(range + 8, 2);
	assert_int_equal(request(T_ZEROES, 0, 16), 0);
	assert_int_equal(rig.disk.bytes[4 * 512], 0);
	assert_int_equal(rig.disk.bytes[6 * 512 - 1], 0);
	assert_int_equal(rig.disk.bytes[6 * 512], 6);
	assert_int_equal(request(T_DISCARD, 0, 16), 0);
	assert_int_equal(rig.disk.discarded, 1);
	le32_put(range + 12, 1);
	assert_int_equal(request(T_ZEROES, 0, 16), 0);
	assert_int_equal(request(T_DISCARD, 0, 16), 2);
	le32_put(range + 12, 2);
	assert_int_equal(request(T_ZEROES, 0, 16), 2);
	le32_put(range + 12, 0);
	assert_int_equal(request(T_ZEROES, 0, 32), 1); /* two ranges */
	assert_int_equal(request(T_ZEROES, 0, 15), 1);
	le64_put(range, 127);
	assert_int_equal(request(T_ZEROES, 0, 16), 1);
	le64_put(range, UINT64_MAX);
	assert_int_equal(request(T_ZEROES, 0, 16), 1);
}

static void test_read_only(void **state) {
	make(&rig, true, 1);
	assert_false(drv_handshake(&rig.d, F_V1 | F_ZEROES));
	begin(&rig, F(5), 64);
	assert_int_equal(request(T_IN, 0, 512), 0);
	assert_int_equal(request(T_OUT, 0, 512), 1);
	assert_int_equal(rig.disk.submitted, 1);
}

/* Durability follows from what was agreed on and from the writeback switch. */
static void test_write_cache(void **state) {
	make(&rig, false, 1);
	begin(&rig, 0, 64);
	assert_int_equal(request(T_OUT, 0, 512), 0);
	assert_int_equal(rig.disk.fua, 1);
	begin(&rig, F_FLUSH | F_WCE, 64);
	assert_int_equal(request(T_OUT, 0, 512), 0);
	assert_int_equal(rig.disk.fua, 1);
	mem_io_write(&rig.d.vm.mem, DRV_MMIO + 0x100 + 32, 1, 0);
	assert_int_equal(mem_io_read(&rig.d.vm.mem, DRV_MMIO + 0x100 + 32, 1), 0);
	assert_int_equal(request(T_OUT, 0, 512), 0);
	assert_int_equal(rig.disk.fua, 2);
	drv_set_reg(&rig.d, 0x70, 0);
	assert_int_equal(mem_io_read(&rig.d.vm.mem, DRV_MMIO + 0x100 + 32, 1), 1);
	assert_int_equal(mem_io_read(&rig.d.vm.mem, DRV_MMIO + 0x100, 4), DISK_SIZE / 512);
}

/* Header, data and status cut at odd places; more segments than the back end takes. */
static void test_framing(void **state) {
	make(&rig, false, 1);
	begin(&rig, F_FLUSH, 256);
	struct drv_buf b[256];
	for (unsigned type = 0; type < 2; type++) {
		unsigned n = 0;
		header(HEADER, type, 8);
		for (unsigned i = 0; i < 16; i += 4)
			b[n++] = (struct drv_buf){HEADER + i, 4, false};
		for (unsigned i = 0; i < 8192; i += 40) /* 205 of them */
			b[n++] = (struct drv_buf){DATA + i, MIN(40, 8192 - i), type == T_IN};
		b[n++] = (struct drv_buf){STATUS, 1, true};
		rig.d.ram[STATUS] = 0xee;
		drv_add(&rig.r[0], b, n);
		drv_kick(&rig.r[0]);
		assert_int_equal(rig.d.ram[STATUS], 0);
		assert_memory_equal(rig.d.ram + DATA, rig.disk.bytes + 8 * 512, 8192);
		for (unsigned i = 0; i < 8192; i++)
			rig.d.ram[DATA + i] = (uint8_t)(i * 7);
	}
	assert_int_equal(rig.disk.submitted, 4);
	assert_int_equal(rig.disk.largest_nsegs, 128);
	/* Segments so small that a full list of them makes no sector. */
	unsigned n = 0;
	header(HEADER, T_IN, 0);
	b[n++] = (struct drv_buf){HEADER, 16, false};
	for (unsigned i = 0; i < 200; i++)
		b[n++] = (struct drv_buf){DATA + i, i == 199 ? 512 - 199 : 1, true};
	b[n++] = (struct drv_buf){STATUS, 1, true};
	drv_add(&rig.r[0], b, n);
	drv_kick(&rig.r[0]);
	assert_int_equal(rig.d.ram[STATUS], 1);
	assert_false(drv_needs_reset(&rig.d));
}

/* Sixteen requests of their own header, data and status, in work. */
static void fill(unsigned n, uint32_t type) {
	for (unsigned i = 0; i < n; i++) {
		gpa_t at = DATA + 0x400 * i;
		header(at, type, i % 128);
		rig.d.ram[at + 16] = 0xee;
		struct drv_buf b[3] = {{at, 16, false}, {at + 512, 512, type == T_IN}, {at + 16, 1, true}};
		drv_add(&rig.r[0], b, 3);
	}
	drv_kick(&rig.r[0]);
}

static void test_async(void **state) {
	make(&rig, false, 1);
	for (unsigned k = 0; k < 2; k++) {
		begin(&rig, F_FLUSH | (k ? F(VIRTIO_F_RING_PACKED) : 0), 256);
		rig.disk.later = true;
		fill(80, T_IN); /* the pool has 64 */
		assert_int_equal(rig.disk.nwaiting, 64);
		uint16_t id;
		uint32_t len;
		assert_false(drv_used(&rig.r[0], &id, &len));
		unsigned raised = rig.d.irq.raised, served = 0;
		while (rig.disk.nwaiting) {
			disk_complete(&rig.disk, rig.disk.nwaiting / 2);
			served++;
			assert_int_equal(rig.d.irq.raised, raised + served);
			drv_set_reg(&rig.d, 0x64, 3);
			assert_true(drv_used(&rig.r[0], &id, &len));
		}
		assert_int_equal(served, 80);
		for (unsigned i = 0; i < 80; i++)
			assert_memory_equal(rig.d.ram + DATA + 0x400 * i + 512, rig.disk.bytes + 512 * i, 512);
	}
}

/* The driver resets while the back end works: nothing lands in rings, the status tells. */
static void test_reset_in_flight(void **state) {
	make(&rig, false, 1);
	begin(&rig, F_FLUSH, 256);
	rig.disk.later = true;
	fill(10, T_IN);
	drv_set_reg(&rig.d, 0x70, 0);
	assert_int_not_equal(drv_reg(&rig.d, 0x70), 0);
	while (rig.disk.nwaiting > 5)
		disk_complete(&rig.disk, 0);
	assert_int_not_equal(drv_reg(&rig.d, 0x70), 0);
	/* A driver that does not wait may go on. */
	begin(&rig, F_FLUSH, 256);
	assert_int_equal(drv_reg(&rig.d, 0x70), 15);
	fill(3, T_IN);
	assert_int_equal(rig.disk.nwaiting, 8);
	while (rig.disk.nwaiting)
		disk_complete(&rig.disk, 0);
	uint16_t id;
	uint32_t len;
	for (unsigned i = 0; i < 3; i++)
		assert_true(drv_used(&rig.r[0], &id, &len));
	assert_false(drv_used(&rig.r[0], &id, &len));
	drv_set_reg(&rig.d, 0x70, 0);
	assert_int_equal(drv_reg(&rig.d, 0x70), 0);
}

static void test_queues(void **state) {
	make(&rig, false, 2);
	begin(&rig, F(12), 64);
	assert_int_equal(mem_io_read(&rig.d.vm.mem, DRV_MMIO + 0x100 + 34, 2), 2);
	header(HEADER, T_IN, 1);
	struct drv_buf b[3] = {{HEADER, 16, false}, {DATA, 512, true}, {STATUS, 1, true}};
	drv_add(&rig.r[1], b, 3);
	drv_kick(&rig.r[1]);
	uint16_t id;
	uint32_t len;
	assert_false(drv_used(&rig.r[0], &id, &len));
	assert_true(drv_used(&rig.r[1], &id, &len));
	assert_int_equal(len, 513);
}

/* Saved in the middle of work, loaded elsewhere: everything is executed there. */
static void test_state(void **state) {
	static uint8_t buf[1 << 20];
	static struct rig other;
	for (unsigned k = 0; k < 2; k++) {
		make(&rig, false, 1);
		begin(&rig, F_FLUSH | (k ? F(VIRTIO_F_RING_PACKED) : 0), 256);
		rig.disk.later = true;
		fill(80, T_OUT);
		for (unsigned i = 0; i < 20; i++) /* out of order, so packed slots are overwritten */
			disk_complete(&rig.disk, rig.disk.nwaiting / 2);
		size_t size = drv_save(&rig.d, buf, sizeof(buf));
		/* Not into one that is at work. */
		assert_int_not_equal(drv_load(&rig.d, buf, size), 0);
		make(&other, false, 1);
		memcpy(other.d.ram, rig.d.ram, DRV_RAM);
		memcpy(other.disk.bytes, rig.disk.bytes, DISK_SIZE);
		assert_int_equal(drv_load(&other.d, buf, size), 0);
		other.r[0] = rig.r[0];
		other.r[0].d = &other.d;
		other.d.features = rig.d.features;
		uint16_t id;
		uint32_t len;
		for (unsigned i = 0; i < 80; i++) {
			assert_true(drv_used(&other.r[0], &id, &len));
			assert_int_equal(len, 1);
			assert_int_equal(other.d.ram[DATA + 0x400 * i + 16], 0);
		}
		assert_false(drv_used(&other.r[0], &id, &len));
		assert_true(other.d.irq.level);
		/* Damaged states are refused or stood. */
		for (size_t i = 0; i < size; i += 1 + i / 64) {
			virtio_device_reset(other.d.dev);
			buf[i] ^= 0x81;
			drv_load(&other.d, buf, size);
			buf[i] ^= 0x81;
		}
		drv_free(&other.d);
		if (!k)
			drv_free(&rig.d);
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_read_write, teardown),
		cmocka_unit_test_teardown(test_bad_requests, teardown),
		cmocka_unit_test_teardown(test_ranges, teardown),
		cmocka_unit_test_teardown(test_read_only, teardown),
		cmocka_unit_test_teardown(test_write_cache, teardown),
		cmocka_unit_test_teardown(test_framing, teardown),
		cmocka_unit_test_teardown(test_async, teardown),
		cmocka_unit_test_teardown(test_reset_in_flight, teardown),
		cmocka_unit_test_teardown(test_queues, teardown),
		cmocka_unit_test_teardown(test_state, teardown),
	};
	return cmocka_run_group_tests_name("virtio_blk", tests, NULL, NULL);
}
