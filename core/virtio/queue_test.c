/* Rings and the handshake, seen from a driver; the device is one that keeps what it pops. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/le.h"
#include "core/base/string.h"
#include "test/unit/virtio_driver.h"

#define F_PACKED F(VIRTIO_F_RING_PACKED)
#define F_EVENT F(VIRTIO_F_EVENT_IDX)
#define F_INDIRECT F(VIRTIO_F_INDIRECT_DESC)

/* A device that takes everything and gives it back when told. */
struct keeper {
	struct virtio_device dev;
	struct virtq_chain chain[64];
	unsigned n, notified;
	bool echo; /* give back at once */
};

static void keep(void *self, unsigned queue) {
	struct keeper *k = self;
	k->notified++;
	while (k->n < 64 && virtqueue_pop(&k->dev.vq[queue], &k->chain[k->n])) {
		if (k->echo)
			virtqueue_push(&k->dev.vq[queue], &k->chain[k->n], k->chain[k->n].in_len);
		else
			k->n++;
	}
	virtqueue_notify(&k->dev.vq[queue]);
}

static const struct virtio_device_ops keeper_ops = {.name = "keeper", .id = 42, .notify = keep};

struct rig {
	struct drv d;
	struct keeper k;
	struct drv_ring r;
};

static struct rig rig;

static void rig_init(void) {
	memset(&rig, 0, sizeof(rig));
	drv_init(&rig.d);
	assert_true(virtio_device_init(&rig.k.dev, &rig.d.vm, &keeper_ops, &rig.k, 1, 2, 256));
	drv_attach(&rig.d, &rig.k.dev);
}

static void rig_start(uint64_t features, uint16_t size) {
	rig_init();
	assert_true(drv_handshake(&rig.d, features | F_V1));
	drv_ring_init(&rig.d, &rig.r, 0, size);
	drv_driver_ok(&rig.d);
	assert_false(drv_needs_reset(&rig.d));
}

static int teardown(void **state) {
	drv_free(&rig.d);
	return 0;
}

/* Runs a case for both formats, with and without event index. */
static const uint64_t formats[] = {0, F_EVENT, F_PACKED, F_PACKED | F_EVENT};
#define FOR_FORMATS(f)                                                                             \
	for (unsigned i_ = 0; i_ < 4; i_++)                                                            \
		for (uint64_t f = formats[i_], once_ = 1; once_; once_ = 0, drv_free(&rig.d))

static void test_identity(void **state) {
	rig_init();
	assert_int_equal(drv_reg(&rig.d, 0x00), 0x74726976);
	assert_int_equal(drv_reg(&rig.d, 0x04), 2);
	assert_int_equal(drv_reg(&rig.d, 0x08), 42);
	drv_set_reg(&rig.d, 0x30, 1);
	assert_int_equal(drv_reg(&rig.d, 0x34), 256);
	drv_set_reg(&rig.d, 0x30, 2);
	assert_int_equal(drv_reg(&rig.d, 0x34), 0);
	assert_int_equal(drv_reg(&rig.d, 0xb0), 0xffffffff);
	/* Registers are words. */
	assert_int_equal(mem_io_read(&rig.d.vm.mem, DRV_MMIO, 2), 0);
}

static void test_handshake(void **state) {
	rig_init();
	assert_false(drv_handshake(&rig.d, 1));			   /* no VERSION_1 */
	assert_false(drv_handshake(&rig.d, F_V1 | F(5)));  /* not offered */
	assert_false(drv_handshake(&rig.d, F_V1 | F(33))); /* ACCESS_PLATFORM */
	/* DRIVER_OK does not stick without FEATURES_OK, nor does a queue. */
	drv_ring_init(&rig.d, &rig.r, 0, 8);
	assert_int_equal(drv_reg(&rig.d, 0x44), 0);
	drv_set_reg(&rig.d, 0x70, 7);
	assert_int_equal(drv_reg(&rig.d, 0x70) & 4, 0);
	assert_true(drv_handshake(&rig.d, F_V1 | 1));
	/* Features are frozen. */
	drv_set_reg(&rig.d, 0x24, 0);
	drv_set_reg(&rig.d, 0x20, 0xffffffff);
	assert_true(rig.k.dev.driver_features == (F_V1 | 1));
	/* Bits are never cleared but by reset. */
	drv_set_reg(&rig.d, 0x70, 1);
	assert_int_equal(drv_reg(&rig.d, 0x70), 11);
	drv_set_reg(&rig.d, 0x70, 0);
	assert_int_equal(drv_reg(&rig.d, 0x70), 0);
	assert_true(rig.k.dev.driver_features == 0);
}

static void test_enable_judged(void **state) {
	static const struct {
		uint64_t features;
		uint32_t size, desc, driver, device;
		bool good;
	} cases[] = {
		{0, 8, 0x10000, 0x11000, 0x12000, true},
		{0, 7, 0x10000, 0x11000, 0x12000, false}, /* split: powers of two */
		{F_PACKED, 7, 0x10000, 0x11000, 0x12000, true},
		{0, 0, 0x10000, 0x11000, 0x12000, false},
		{0, 512, 0x10000, 0x11000, 0x12000, false},
		{0, 0x10008, 0x10000, 0x11000, 0x12000, false},
		{0, 8, 0x10008, 0x11000, 0x12000, false}, /* alignment */
		{0, 8, 0x10000, 0x11001, 0x12000, false},
		{0, 8, 0x10000, 0x11000, 0x12002, false},
		{F_PACKED, 8, 0x10000, 0x11002, 0x12000, false},
		{0, 8, 0x80000000, 0x11000, 0x12000, false},	 /* nothing there */
		{0, 8, 0x10000, 0x11000, DRV_ROM, false},		 /* not writable */
		{F_PACKED, 8, DRV_ROM, 0x11000, 0x12000, false}, /* not writable */
		{0, 8, 0xfffc0, 0x11000, 0x12000, false},		 /* crosses */
		{0, 8, 0x10000, DRV_MMIO, 0x12000, false},
	};
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		rig_init();
		struct drv *d = &rig.d;
		assert_true(drv_handshake(d, F_V1 | cases[i].features));
		drv_set_reg(d, 0x30, 0);
		drv_set_reg(d, 0x38, cases[i].size);
		drv_set_reg(d, 0x80, cases[i].desc);
		drv_set_reg(d, 0x90, cases[i].driver);
		drv_set_reg(d, 0xa0, cases[i].device);
		drv_set_reg(d, 0x44, 1);
		assert_int_equal(drv_reg(d, 0x44), cases[i].good);
		assert_int_equal(drv_needs_reset(d), !cases[i].good);
		drv_driver_ok(d);
		assert_int_equal(d->irq.level, !cases[i].good); /* configuration interrupt */
		if (cases[i].good) {
			/* Its registers are fixed now. */
			drv_set_reg(d, 0x80, 0x80000000);
			assert_int_equal(rig.k.dev.vq[0].desc, cases[i].desc);
		}
		drv_free(d);
	}
	rig_init();
}

static void test_flow(void **state) {
	FOR_FORMATS(f) {
		rig_start(f, 8);
		uint16_t id, got;
		uint32_t len;
		struct drv_buf b[3] = {
			{DRV_DATA, 5, false}, {DRV_DATA + 16, 3, false}, {DRV_DATA + 64, 9, true}};
		memcpy(rig.d.ram + DRV_DATA, "hello", 5);
		memcpy(rig.d.ram + DRV_DATA + 16, "you", 3);
		id = drv_add(&rig.r, b, 3);
		drv_kick(&rig.r);
		assert_int_equal(rig.k.n, 1);
		struct virtq_chain *c = &rig.k.chain[0];
		assert_int_equal(c->nout, 2);
		assert_int_equal(c->nin, 1);
		assert_int_equal(c->out_len, 8);
		assert_int_equal(c->in_len, 9);
		char text[16] = {0};
		assert_int_equal(virtq_chain_read(c, 3, text, sizeof(text)), 5);
		assert_string_equal(text, "loyou");
		assert_false(drv_used(&rig.r, &got, &len));
		assert_int_equal(virtq_chain_write(&rig.k.dev.vq[0], c, 4, "123456789", 9), 5);
		assert_memory_equal(rig.d.ram + DRV_DATA + 68, "12345\0", 6);
		virtqueue_push(&rig.k.dev.vq[0], c, 9);
		assert_false(rig.d.irq.level);
		virtqueue_notify(&rig.k.dev.vq[0]);
		assert_true(rig.d.irq.level);
		assert_int_equal(drv_reg(&rig.d, 0x60), VIRTIO_ISR_QUEUE);
		drv_set_reg(&rig.d, 0x64, 1);
		assert_false(rig.d.irq.level);
		assert_true(drv_used(&rig.r, &got, &len));
		assert_int_equal(got, id);
		assert_int_equal(len, 9);
		assert_false(drv_used(&rig.r, &got, &len));
	}
	rig_init();
}

/* Many times around rings of good and odd sizes, with chains of changing length. */
static void test_wrap(void **state) {
	FOR_FORMATS(f) {
		rig_start(f, f & F_PACKED ? 7 : 8);
		rig.k.echo = true;
		for (unsigned i = 0; i < 70000; i++) {
			struct drv_buf b[3] = {{DRV_DATA, 1, true}, {DRV_DATA, 1, true}, {DRV_DATA, 1, true}};
			uint16_t id = drv_add(&rig.r, b, 1 + i % 3), got;
			uint32_t len;
			drv_kick(&rig.r);
			assert_true(drv_used(&rig.r, &got, &len));
			assert_int_equal(got, id);
			assert_int_equal(len, 1 + i % 3);
		}
		assert_false(drv_needs_reset(&rig.d));
	}
	rig_init();
}

/* Completions in another order than submissions. */
static void test_out_of_order(void **state) {
	FOR_FORMATS(f) {
		rig_start(f, 16);
		struct virtqueue *q = &rig.k.dev.vq[0];
		for (unsigned round = 0; round < 100; round++) {
			uint16_t id[3], got;
			uint32_t len;
			for (unsigned i = 0; i < 3; i++) {
				struct drv_buf b[2] = {{DRV_DATA + i, 1, false}, {DRV_DATA + 8 * i, i + 1, true}};
				id[i] = drv_add(&rig.r, b, 2);
			}
			drv_kick(&rig.r);
			assert_int_equal(rig.k.n, 3);
			for (unsigned i = 3; i-- > 0;)
				virtqueue_push(q, &rig.k.chain[i], i + 1);
			for (unsigned i = 3; i-- > 0;) {
				assert_true(drv_used(&rig.r, &got, &len));
				assert_int_equal(got, id[i]);
				assert_int_equal(len, i + 1);
			}
			rig.k.n = 0;
		}
	}
	rig_init();
}

static void test_indirect(void **state) {
	FOR_FORMATS(f) {
		rig_start(f | F_INDIRECT, 8);
		struct drv_buf b[20];
		for (unsigned i = 0; i < 20; i++)
			b[i] = (struct drv_buf){DRV_DATA + 0x100 * i, i + 1, i >= 10};
		uint16_t id = drv_add_indirect(&rig.r, 0x70000, b, 20), got;
		uint32_t len;
		drv_kick(&rig.r);
		assert_int_equal(rig.k.n, 1);
		assert_int_equal(rig.k.chain[0].nout, 10);
		assert_int_equal(rig.k.chain[0].nin, 10);
		assert_int_equal(rig.k.chain[0].out_len, 55);
		assert_int_equal(rig.k.chain[0].in_len, 155);
		virtqueue_push(&rig.k.dev.vq[0], &rig.k.chain[0], 7);
		assert_true(drv_used(&rig.r, &got, &len));
		assert_int_equal(got, id);
		assert_int_equal(len, 7);
	}
	rig_init();
}

/* A buffer over two regions is two segments; one of no bytes is none. */
static void test_segments(void **state) {
	FOR_FORMATS(f) {
		rig_start(f, 8);
		struct drv_buf b[3] = {
			{DRV_RAM - 4, 8, false}, {0xdead0000, 0, false}, {DRV_ROM, 4, false}};
		drv_add(&rig.r, b, 3);
		memcpy(rig.d.ram + DRV_RAM - 4, "abcd", 4);
		memcpy(rig.d.ram2, "efgh", 4);
		memcpy(rig.d.rom, "ROM!", 4);
		drv_kick(&rig.r);
		assert_int_equal(rig.k.n, 1);
		assert_int_equal(rig.k.chain[0].nout, 3);
		char text[16] = {0};
		virtq_chain_read(&rig.k.chain[0], 0, text, 12);
		assert_string_equal(text, "abcdefghROM!");
	}
	rig_init();
}

static void test_bad_buffers(void **state) {
	static const struct {
		struct drv_buf b[2];
		unsigned n;
	} cases[] = {
		{{{DRV_MMIO, 4, false}}, 1},   {{{0xdead0000, 4, false}}, 1},
		{{{DRV_ROM, 4, true}}, 1},	   {{{DRV_RAM + DRV_RAM2 - 4, 8, true}}, 1},
		{{{0, 0xffffffff, true}}, 1},  {{{UINT64_MAX - 2, 8, true}}, 1},
		{{{UINT64_MAX, 1, false}}, 1}, {{{DRV_DATA, 4, true}, {DRV_DATA, 4, false}}, 2}, /* order */
	};
	FOR_FORMATS(f) {
		for (unsigned i = 0; i < 2 * ARRAY_LEN(cases); i++) {
			rig_start(f | F_INDIRECT, 8);
			unsigned k = i / 2, before = fake_log_count;
			struct drv_buf good = {DRV_DATA, 4, true};
			drv_add(&rig.r, &good, 1);
			if (i & 1)
				drv_add_indirect(&rig.r, 0x70000, cases[k].b, cases[k].n);
			else
				drv_add(&rig.r, cases[k].b, cases[k].n);
			drv_kick(&rig.r);
			assert_true(drv_needs_reset(&rig.d));
			assert_int_equal(fake_log_count, before + 1);
			assert_int_equal(drv_reg(&rig.d, 0x60), VIRTIO_ISR_CONFIG);
			assert_true(rig.d.irq.level);
			/* Nothing moves any more ... */
			uint16_t id;
			uint32_t len;
			assert_int_equal(rig.k.n, 1);
			virtqueue_push(&rig.k.dev.vq[0], &rig.k.chain[0], 0);
			virtqueue_notify(&rig.k.dev.vq[0]);
			assert_false(drv_used(&rig.r, &id, &len));
			drv_kick(&rig.r);
			assert_int_equal(rig.k.n, 1);
			/* ... until the driver resets it. */
			assert_true(drv_handshake(&rig.d, f | F_V1));
			assert_false(rig.d.irq.level);
			drv_ring_init(&rig.d, &rig.r, 0, 8);
			drv_driver_ok(&rig.d);
			drv_add(&rig.r, &good, 1);
			drv_kick(&rig.r);
			assert_int_equal(rig.k.n, 2);
			/* A chain from before the reset is dropped. */
			virtqueue_push(&rig.k.dev.vq[0], &rig.k.chain[0], 0);
			assert_false(drv_used(&rig.r, &id, &len));
			virtqueue_push(&rig.k.dev.vq[0], &rig.k.chain[1], 0);
			assert_true(drv_used(&rig.r, &id, &len));
			if (i + 1 < 2 * ARRAY_LEN(cases))
				drv_free(&rig.d);
		}
	}
	rig_init();
}

static void expect_broken(void) {
	drv_kick(&rig.r);
	assert_true(drv_needs_reset(&rig.d));
	assert_int_equal(rig.k.n, 0);
	drv_free(&rig.d);
}

static void put(gpa_t gpa, uint64_t addr, uint32_t len, uint16_t w12, uint16_t w14) {
	uint8_t *p = rig.d.ram + gpa;
	le64_put(p, addr);
	le32_put(p + 8, len);
	le16_put(p + 12, w12);
	le16_put(p + 14, w14);
}

static void offer(uint16_t head) {
	le16_put(rig.d.ram + rig.r.driver + 4, head);
	le16_put(rig.d.ram + rig.r.driver + 2, 1);
}

static void test_split_rules(void **state) {
	gpa_t table = 0x70000;
	rig_start(0, 8); /* a loop */
	put(rig.r.desc, DRV_DATA, 4, 1, 1);
	put(rig.r.desc + 16, DRV_DATA, 4, 1, 0);
	offer(0);
	expect_broken();
	rig_start(0, 8); /* head outside */
	offer(8);
	expect_broken();
	rig_start(0, 8); /* next outside */
	put(rig.r.desc, DRV_DATA, 4, 1, 0x1234);
	offer(0);
	expect_broken();
	rig_start(0, 8); /* more than the ring holds */
	le16_put(rig.d.ram + rig.r.driver + 2, 9);
	expect_broken();
	rig_start(0, 8); /* indirect, but not agreed on */
	put(rig.r.desc, table, 16, 4, 0);
	offer(0);
	expect_broken();
	static const struct {
		uint32_t len;
		uint16_t flags, f0, next0;
	} cases[] = {
		{0, 4, 0, 0},		   /* empty */
		{24, 4, 0, 0},		   /* not a multiple */
		{32, 5, 0, 0},		   /* and NEXT */
		{32, 4, 4, 0},		   /* nested */
		{32, 4, 1, 0},		   /* loops */
		{32, 4, 1, 2},		   /* leaves the table */
		{0xfffffff0, 4, 1, 0}, /* huge, and loops */
	};
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		rig_start(F_INDIRECT, 8);
		put(rig.r.desc, table, cases[i].len, cases[i].flags, 0);
		put(table, DRV_DATA, 4, cases[i].f0, cases[i].next0);
		offer(0);
		expect_broken();
	}
	rig_start(F_INDIRECT, 8); /* a table that is not there */
	put(rig.r.desc, 0xdead0000, 32, 4, 0);
	offer(0);
	expect_broken();
	rig_init();
}

static void test_packed_rules(void **state) {
	gpa_t table = 0x70000;
	const uint16_t avail = 1u << 7;
	rig_start(F_PACKED, 4); /* NEXT without end */
	for (unsigned i = 0; i < 4; i++)
		put(rig.r.desc + 16 * i, DRV_DATA, 4, 0, avail | 1);
	expect_broken();
	static const struct {
		uint32_t len;
		uint16_t flags, f0;
	} cases[] = {{0, 4, 0}, {24, 4, 0}, {32, 5, 0}, {32, 4, 4}, {0xfffffff0, 4, 0}};
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		rig_start(F_PACKED | F_INDIRECT, 8);
		put(rig.r.desc, table, cases[i].len, 0, avail | cases[i].flags);
		put(table, DRV_DATA, 4, 0, cases[i].f0);
		expect_broken();
	}
	rig_start(F_PACKED | F_INDIRECT, 8); /* a table inside of a chain */
	put(rig.r.desc, DRV_DATA, 4, 0, avail | 1);
	put(rig.r.desc + 16, table, 16, 0, avail | 4);
	expect_broken();
	rig_start(F_PACKED, 8); /* not agreed on */
	put(rig.r.desc, table, 16, 0, avail | 4);
	expect_broken();
	rig_start(F_PACKED, 8); /* a used descriptor is not available */
	put(rig.r.desc, table, 16, 0, avail | 1u << 15);
	drv_kick(&rig.r);
	assert_int_equal(rig.k.n, 0);
	assert_false(drv_needs_reset(&rig.d));
}

/* Interrupts only when the driver asked for them. */
static void test_event_index(void **state) {
	for (unsigned k = 0; k < 2; k++) {
		rig_start(F_EVENT | (k ? F_PACKED : 0), 16);
		rig.k.echo = true;
		for (unsigned round = 0; round < 50; round++) {
			unsigned before = rig.d.irq.raised, at = 1 + round % 5;
			drv_set_used_event(&rig.r, (uint16_t)at);
			for (unsigned i = 1; i <= 7; i++) {
				struct drv_buf b = {DRV_DATA, 4, true};
				uint16_t id;
				uint32_t len;
				drv_add(&rig.r, &b, 1);
				drv_kick(&rig.r);
				assert_int_equal(rig.d.irq.raised - before, i >= at);
				drv_set_reg(&rig.d, 0x64, 3);
				assert_true(drv_used(&rig.r, &id, &len));
			}
		}
		drv_free(&rig.d);
	}
	/* Without event index: a flag. */
	for (unsigned k = 0; k < 2; k++) {
		rig_start(k ? F_PACKED : 0, 16);
		rig.k.echo = true;
		struct drv_buf b = {DRV_DATA, 4, true};
		drv_set_no_interrupt(&rig.r, true);
		drv_add(&rig.r, &b, 1);
		drv_kick(&rig.r);
		assert_false(rig.d.irq.level);
		drv_set_no_interrupt(&rig.r, false);
		drv_add(&rig.r, &b, 1);
		drv_kick(&rig.r);
		assert_true(rig.d.irq.level);
		drv_free(&rig.d);
	}
	rig_init();
}

/* The device says which available index it wants to be notified of. */
static void test_kick_suppression(void **state) {
	rig_start(F_EVENT, 8);
	const uint8_t *avail_event = rig.d.ram + rig.r.device + 4 + 8 * 8;
	struct drv_buf b = {DRV_DATA, 4, true};
	for (unsigned i = 0; i < 3; i++)
		drv_add(&rig.r, &b, 1);
	assert_int_equal(le16_get(avail_event), 0);
	drv_kick(&rig.r);
	assert_int_equal(le16_get(avail_event), 3);
	drv_free(&rig.d);
	rig_start(F_EVENT | F_PACKED, 4);
	for (unsigned i = 0; i < 3; i++)
		drv_add(&rig.r, &b, 1);
	drv_kick(&rig.r);
	assert_int_equal(le16_get(rig.d.ram + rig.r.device), 3 | 1u << 15);
	assert_int_equal(le16_get(rig.d.ram + rig.r.device + 2), 2);
	virtqueue_push(&rig.k.dev.vq[0], &rig.k.chain[0], 0);
	drv_add(&rig.r, &b, 1);
	drv_kick(&rig.r);
	assert_int_equal(le16_get(rig.d.ram + rig.r.device), 0); /* the next lap */
}

/* A guest that keeps a queue full gets its turns, but lets go of the lock in between. */
static void test_budget(void **state) {
	rig_start(0, 8);
	rig.k.echo = true;
	struct drv_buf b = {DRV_DATA, 4, true};
	for (unsigned i = 0; i < 8; i++)
		drv_add(&rig.r, &b, 1);
	rig.k.notified = 0;
	drv_kick(&rig.r);
	assert_int_equal(rig.k.notified, 1);
	assert_true(rig.d.vm.timers.first != NULL);
	drv_add(&rig.r, &b, 1); /* no kick: it comes back by itself */
	timers_run(&rig.d.vm.timers, 1);
	assert_int_equal(rig.k.notified, 2);
	assert_int_equal(le16_get(rig.d.ram + rig.r.device + 2), 9);
	assert_true(rig.d.vm.timers.first == NULL);
}

/* What was available before DRIVER_OK is served then; nothing is before. */
static void test_early_kick(void **state) {
	rig_init();
	assert_true(drv_handshake(&rig.d, F_V1));
	drv_ring_init(&rig.d, &rig.r, 0, 8);
	struct drv_buf b = {DRV_DATA, 4, true};
	drv_add(&rig.r, &b, 1);
	drv_kick(&rig.r);
	assert_int_equal(rig.k.n, 0);
	drv_driver_ok(&rig.d);
	assert_int_equal(rig.k.n, 1);
	drv_set_reg(&rig.d, 0x50, 77); /* no such queue */
}

/* Queues go on after a load exactly where they were. */
static void test_state(void **state) {
	static uint8_t buf[65536];
	FOR_FORMATS(f) {
		rig_start(f, 8);
		rig.k.echo = true;
		struct drv_buf b[3] = {{DRV_DATA, 1, true}, {DRV_DATA, 1, true}, {DRV_DATA, 1, true}};
		uint16_t id, got;
		uint32_t len;
		for (unsigned i = 0; i < 1003; i++) {
			drv_add(&rig.r, b, 3);
			drv_kick(&rig.r);
			assert_true(drv_used(&rig.r, &got, &len));
		}
		/* One more, not noticed yet. */
		id = drv_add(&rig.r, b, 2);
		size_t size = drv_save(&rig.d, buf, sizeof(buf));
		drv_set_reg(&rig.d, 0x70, 0);
		assert_int_equal(drv_load(&rig.d, buf, size), 0);
		assert_true(drv_used(&rig.r, &got, &len));
		assert_int_equal(got, id);
		drv_add(&rig.r, b, 1);
		drv_kick(&rig.r);
		assert_true(drv_used(&rig.r, &got, &len));
		assert_false(drv_needs_reset(&rig.d));
		/* Damaged states are refused or stood. */
		for (size_t i = 0; i < size; i++) {
			buf[i] ^= 0x55;
			drv_load(&rig.d, buf, size);
			drv_kick(&rig.r);
			buf[i] ^= 0x55;
			virtio_device_reset(&rig.k.dev);
		}
	}
	rig_init();
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_identity, teardown),
		cmocka_unit_test_teardown(test_handshake, teardown),
		cmocka_unit_test_teardown(test_enable_judged, teardown),
		cmocka_unit_test_teardown(test_flow, teardown),
		cmocka_unit_test_teardown(test_wrap, teardown),
		cmocka_unit_test_teardown(test_out_of_order, teardown),
		cmocka_unit_test_teardown(test_indirect, teardown),
		cmocka_unit_test_teardown(test_segments, teardown),
		cmocka_unit_test_teardown(test_bad_buffers, teardown),
		cmocka_unit_test_teardown(test_split_rules, teardown),
		cmocka_unit_test_teardown(test_packed_rules, teardown),
		cmocka_unit_test_teardown(test_event_index, teardown),
		cmocka_unit_test_teardown(test_kick_suppression, teardown),
		cmocka_unit_test_teardown(test_budget, teardown),
		cmocka_unit_test_teardown(test_early_kick, teardown),
		cmocka_unit_test_teardown(test_state, teardown),
	};
	return cmocka_run_group_tests_name("virtio_queue", tests, NULL, NULL);
}
