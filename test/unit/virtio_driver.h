/* The other side of virtio, for unit tests: a small machine with RAM and one virtio-mmio
 * device, and a driver that does the handshake and fills rings of both formats. */
#ifndef TEST_UNIT_VIRTIO_DRIVER_H
#define TEST_UNIT_VIRTIO_DRIVER_H

#include "core/base/bits.h"
#include "core/virtio/device.h"
#include "core/vm/vm.h"
#include "test/unit/fake.h"

#define DRV_MMIO 0xd0000000ull
#define DRV_RAM MIB(1)		/* at 0 */
#define DRV_RAM2 0x10000ull /* right above it, but another region */
#define DRV_ROM 0x200000ull /* one page */
#define DRV_DATA 0x80000ull /* free for a test's buffers */

#define F(bit) BIT(bit)
#define F_V1 F(VIRTIO_F_VERSION_1)

struct drv {
	struct fake_clock time;
	struct fake_irq irq;
	struct vm_host host;
	struct vm vm;
	struct mem_region ram_region, ram2_region, rom_region;
	uint8_t *ram, *ram2, *rom;
	struct virtio_device *dev;
	uint64_t features; /* as agreed on */
	void *blocks[64];  /* what the VM took */
	unsigned nblocks;
};

struct drv_ring {
	struct drv *d;
	unsigned index;
	uint16_t size;
	gpa_t desc, driver, device;
	uint16_t next; /* descriptor slot */
	uint16_t avail, used;
	bool wrap, used_wrap;
	uint16_t slots[256]; /* packed: that the chain with this id took */
};

struct drv_buf {
	gpa_t gpa;
	uint32_t len;
	bool write;
};

void drv_init(struct drv *d);
void drv_free(struct drv *d);
/* Attaches the device to virtio-mmio at DRV_MMIO. */
void drv_attach(struct drv *d, struct virtio_device *dev);

uint32_t drv_reg(struct drv *d, unsigned off);
void drv_set_reg(struct drv *d, unsigned off, uint32_t val);

/* Reset, features, FEATURES_OK; false: the device did not accept. */
bool drv_handshake(struct drv *d, uint64_t features);
void drv_driver_ok(struct drv *d);
void drv_ring_init(struct drv *d, struct drv_ring *r, unsigned index, uint16_t size);

/* Makes a chain available (no notification); returns its id. */
uint16_t drv_add(struct drv_ring *r, const struct drv_buf *buf, unsigned n);
uint16_t drv_add_indirect(struct drv_ring *r, gpa_t table, const struct drv_buf *buf, unsigned n);
void drv_kick(struct drv_ring *r);
/* Takes one used chain. */
bool drv_used(struct drv_ring *r, uint16_t *id, uint32_t *len);
/* Which used chain is to raise an interrupt: the `n`th from here (1: the next one). */
void drv_set_used_event(struct drv_ring *r, uint16_t n);
void drv_set_no_interrupt(struct drv_ring *r, bool on);

/* Saves the whole VM; loads it into another one made alike. */
size_t drv_save(struct drv *d, uint8_t *buf, size_t size);
int drv_load(struct drv *d, const uint8_t *buf, size_t size);

bool drv_needs_reset(struct drv *d);

#endif
