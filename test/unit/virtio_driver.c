/* See virtio_driver.h. */
#include "test/unit/virtio_driver.h"

#include <assert.h>
#include <stdlib.h>

#include "core/base/le.h"
#include "core/base/string.h"
#include "core/virtio/mmio.h"

static void *alloc(void *opaque, size_t size) {
	struct drv *d = opaque;
	return d->blocks[d->nblocks++] = calloc(1, size);
}

static uint8_t *pages(struct drv *d, size_t size) {
	uint8_t *p = d->blocks[d->nblocks++] = aligned_alloc(PAGE_SIZE, size);
	memset(p, 0, size);
	return p;
}

static void add(struct drv *d, struct mem_region *r, enum mem_kind kind, gpa_t base, uint64_t size,
				uint8_t *host) {
	*r = (struct mem_region){.name = "ram", .base = base, .size = size, .kind = kind, .host = host};
	mem_add(&d->vm.mem, r);
}

void drv_init(struct drv *d) {
	memset(d, 0, sizeof(*d));
	fake_clock_init(&d->time);
	fake_irq_init(&d->irq);
	d->host = (struct vm_host){.alloc = alloc, .opaque = d};
	vm_init(&d->vm, &d->host, &d->time.clock);
	d->ram = pages(d, DRV_RAM);
	d->ram2 = pages(d, DRV_RAM2);
	d->rom = pages(d, PAGE_SIZE);
	add(d, &d->ram_region, MEM_RAM, 0, DRV_RAM, d->ram);
	add(d, &d->ram2_region, MEM_RAM, DRV_RAM, DRV_RAM2, d->ram2);
	add(d, &d->rom_region, MEM_ROM, DRV_ROM, PAGE_SIZE, d->rom);
}

void drv_free(struct drv *d) {
	while (d->nblocks)
		free(d->blocks[--d->nblocks]);
}

void drv_attach(struct drv *d, struct virtio_device *dev) {
	d->dev = dev;
	virtio_mmio_create(&d->vm, dev, DRV_MMIO, &d->irq.line, 0);
}

uint32_t drv_reg(struct drv *d, unsigned off) {
	return (uint32_t)mem_io_read(&d->vm.mem, DRV_MMIO + off, 4);
}

void drv_set_reg(struct drv *d, unsigned off, uint32_t val) {
	mem_io_write(&d->vm.mem, DRV_MMIO + off, 4, val);
}

bool drv_handshake(struct drv *d, uint64_t features) {
	d->features = features;
	drv_set_reg(d, 0x70, 0);
	drv_set_reg(d, 0x70, 1);
	drv_set_reg(d, 0x70, 3);
	for (unsigned i = 0; i < 2; i++) {
		drv_set_reg(d, 0x24, i);
		drv_set_reg(d, 0x20, (uint32_t)(features >> (32 * i)));
	}
	drv_set_reg(d, 0x70, 11);
	return drv_reg(d, 0x70) & VIRTIO_STATUS_FEATURES_OK;
}

void drv_driver_ok(struct drv *d) {
	drv_set_reg(d, 0x70, 15);
}

static bool packed(const struct drv_ring *r) {
	return r->d->features & F(VIRTIO_F_RING_PACKED);
}

void drv_ring_init(struct drv *d, struct drv_ring *r, unsigned index, uint16_t size) {
	memset(r, 0, sizeof(*r));
	r->d = d;
	r->index = index;
	r->size = size;
	r->wrap = r->used_wrap = true;
	r->desc = 0x10000 + index * 0x4000ull;
	r->driver = r->desc + 0x1000;
	r->device = r->desc + 0x2000;
	memset(d->ram + r->desc, 0, 0x4000);
	drv_set_reg(d, 0x30, index);
	drv_set_reg(d, 0x38, size);
	drv_set_reg(d, 0x80, (uint32_t)r->desc);
	drv_set_reg(d, 0x90, (uint32_t)r->driver);
	drv_set_reg(d, 0xa0, (uint32_t)r->device);
	drv_set_reg(d, 0x44, 1);
}

static void put_desc(uint8_t *p, const struct drv_buf *b, uint16_t w12, uint16_t w14) {
	le64_put(p, b->gpa);
	le32_put(p + 8, b->len);
	le16_put(p + 12, w12);
	le16_put(p + 14, w14);
}

static uint16_t make_available(struct drv_ring *r, const struct drv_buf *buf, unsigned n,
							   uint16_t extra) {
	uint8_t *desc = r->d->ram + r->desc, *driver = r->d->ram + r->driver;
	uint16_t head = r->next;
	if (!packed(r)) {
		for (unsigned i = 0; i < n; i++) {
			uint16_t at = r->next, next = (uint16_t)((at + 1) % r->size);
			uint16_t flags = (uint16_t)((i + 1 < n ? 1 : 0) | (buf[i].write ? 2 : 0) | extra);
			put_desc(desc + 16 * at, &buf[i], flags, next);
			r->next = next;
		}
		le16_put(driver + 4 + 2 * (r->avail % r->size), head);
		le16_put(driver + 2, ++r->avail);
		return head;
	}
	uint16_t id = (uint16_t)(r->avail++ % r->size), first = 0;
	r->slots[id] = (uint16_t)n;
	for (unsigned i = 0; i < n; i++) {
		uint16_t flags = (uint16_t)((i + 1 < n ? 1 : 0) | (buf[i].write ? 2 : 0) | extra);
		flags |= (uint16_t)(r->wrap ? 1u << 7 : 1u << 15);
		if (!i)
			first = flags;
		put_desc(desc + 16 * r->next, &buf[i], id, i ? flags : (uint16_t)(r->wrap ? 0 : 1u << 7));
		if (++r->next == r->size) {
			r->next = 0;
			r->wrap = !r->wrap;
		}
	}
	le16_put(desc + 16 * head + 14, first);
	return id;
}

uint16_t drv_add(struct drv_ring *r, const struct drv_buf *buf, unsigned n) {
	return make_available(r, buf, n, 0);
}

uint16_t drv_add_indirect(struct drv_ring *r, gpa_t table, const struct drv_buf *buf, unsigned n) {
	for (unsigned i = 0; i < n; i++) {
		uint16_t flags = (uint16_t)((i + 1 < n && !packed(r) ? 1 : 0) | (buf[i].write ? 2 : 0));
		uint16_t next = (uint16_t)(i + 1);
		put_desc(r->d->ram + table + 16 * i, &buf[i], packed(r) ? 0 : flags,
				 packed(r) ? flags : next);
	}
	struct drv_buf t = {table, 16 * n, false};
	return make_available(r, &t, 1, 4);
}

void drv_kick(struct drv_ring *r) {
	drv_set_reg(r->d, 0x50, r->index);
}

bool drv_used(struct drv_ring *r, uint16_t *id, uint32_t *len) {
	if (!packed(r)) {
		const uint8_t *device = r->d->ram + r->device;
		if (le16_get(device + 2) == r->used)
			return false;
		*id = (uint16_t)le32_get(device + 4 + 8 * (r->used % r->size));
		*len = le32_get(device + 8 + 8 * (r->used % r->size));
		r->used++;
		return true;
	}
	const uint8_t *p = r->d->ram + r->desc + 16 * r->used;
	uint16_t flags = le16_get(p + 14);
	if (!!(flags & 1u << 7) != r->used_wrap || !!(flags & 1u << 15) != r->used_wrap)
		return false;
	*id = le16_get(p + 12);
	*len = le32_get(p + 8);
	r->used = (uint16_t)(r->used + r->slots[*id % 256]);
	if (r->used >= r->size) {
		r->used = (uint16_t)(r->used - r->size);
		r->used_wrap = !r->used_wrap;
	}
	return true;
}

void drv_set_used_event(struct drv_ring *r, uint16_t n) {
	uint8_t *driver = r->d->ram + r->driver;
	if (!packed(r)) {
		le16_put(driver + 4 + 2 * r->size, (uint16_t)(r->used + n - 1));
		return;
	}
	unsigned at = r->used + n - 1u;
	bool wrap = r->used_wrap;
	if (at >= r->size) {
		at -= r->size;
		wrap = !wrap;
	}
	le16_put(driver, (uint16_t)(at | (unsigned)wrap << 15));
	le16_put(driver + 2, 2);
}

void drv_set_no_interrupt(struct drv_ring *r, bool on) {
	le16_put(r->d->ram + r->driver + (packed(r) ? 2 : 0), on);
}

size_t drv_save(struct drv *d, uint8_t *buf, size_t size) {
	struct state_io io;
	state_io_save(&io, buf, size);
	vm_state(&d->vm, &io);
	assert(!io.error && io.pos <= size);
	return io.pos;
}

int drv_load(struct drv *d, const uint8_t *buf, size_t size) {
	struct state_io io;
	state_io_load(&io, buf, size);
	vm_state(&d->vm, &io);
	return io.error;
}

bool drv_needs_reset(struct drv *d) {
	return drv_reg(d, 0x70) & VIRTIO_STATUS_NEEDS_RESET;
}
