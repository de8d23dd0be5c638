/* The guest-physical address space and the port space: who answers where.
 *
 * Regions are added by a board (RAM, ROM, chips) and moved by PCI (BARs). Where
 * two overlap the one with the higher priority answers; nobody answers all ones.
 * Changes happen with the VM lock held; look-ups may run at any time on any
 * thread (a sequence lock makes them see one map or the next, never half). */
#ifndef CORE_VM_MEM_H
#define CORE_VM_MEM_H

#include "core/base/types.h"
#include "core/vm/io.h"

#define MEM_REGIONS 128 /* a full PCI bus with six BARs on many devices */
#define MEM_FLAT (2 * MEM_REGIONS + 1)
#define PORT_REGIONS 128
#define PAGE_SIZE 4096u
#define PAGE_MASK 0xfffull

/* A register of a device by which a driver only says "look at this queue". A write there may come
 * later, when the guest has gone on, so that an engine need not stop for it; several may come as
 * one. Writes of `size` bytes with the value `val`; size 0: any write, the value does not matter.
 */
struct mem_bell {
	uint32_t off;
	uint8_t size;
	uint32_t val;
};

/* An index register: a write to it changes nothing but what the next accesses to its device mean.
 * So an engine may hold such writes back until any vCPU comes out of the guest, and must then do
 * them first, in their order. `latch` in the two structs below is its size, at the region's begin;
 * 0: there is none. Registers that share their bytes with another one are none: PCI's address port
 * has the PC's reset port in it. */

enum mem_kind { MEM_NONE, MEM_RAM, MEM_ROM, MEM_MMIO };

/* Owned by whoever adds it (usually a field of a chip or board), which keeps it alive
 * and unmoved until it is removed. RAM and ROM: `host` points to `size` bytes, base and
 * size are multiples of a page. */
struct mem_region {
	const char *name;
	gpa_t base;
	uint64_t size;
	enum mem_kind kind;
	int priority; /* 0 for RAM; overlays above it have more */
	uint8_t *host;
	const struct io_ops *ops; /* MMIO; and for ROM, writes go here if set */
	void *dev;
	bool added;
	const struct mem_bell *bells; /* see mem_set_bells() */
	unsigned nbells;
	uint8_t latch; /* bytes, see above */
};

struct port_region {
	const char *name;
	uint16_t base;
	uint32_t size; /* up to 65536 */
	const struct io_ops *ops;
	void *dev;
	bool added;
	uint8_t latch; /* bytes, see above */
};

/* A maximal run of addresses with one answerer. */
struct mem_range {
	gpa_t start, end; /* [start, end) */
	struct mem_region *region;
};

/* Who wants to know of changes: the engine. */
struct mem_listener {
	/* The map changed; forget every translation. */
	void (*changed)(void *opaque);
	/* [gpa, gpa+len) of RAM was written by a device (not by a vCPU). May run on any
	 * thread that holds the VM lock. */
	void (*written)(void *opaque, gpa_t gpa, uint64_t len);
	/* The bells of some region changed. May be NULL. */
	void (*bells)(void *opaque);
	void *opaque;
};

struct mem_space {
	uint32_t seq; /* odd while the flat map is being rewritten */
	unsigned nflat, nregions, nports;
	struct mem_range flat[MEM_FLAT];
	struct mem_region *regions[MEM_REGIONS];
	struct port_region *ports[PORT_REGIONS];
	struct mem_listener listener;
	bool a20_off;	/* see mem_set_a20() */
	uint8_t *dirty; /* bitmap of written pages, see mem_track(); NULL: not tracking */
	uint64_t dirty_pages;
};

void mem_init(struct mem_space *m);

/* Adding or removing fails only on our own mistake (checked): too many regions, a RAM
 * region off page bounds, a region added twice. To move one: remove, change base, add. */
void mem_add(struct mem_space *m, struct mem_region *r);
void mem_remove(struct mem_space *m, struct mem_region *r);
void port_add(struct mem_space *m, struct port_region *r);
void port_remove(struct mem_space *m, struct port_region *r);

/* The bells of a region of kind MEM_MMIO from now on, whether it is added or not; they stay the
 * caller's. A late write comes through the region's ops, with the VM lock held, and never while
 * all vCPUs stand still. */
void mem_set_bells(struct mem_space *m, struct mem_region *r, const struct mem_bell *bells,
				   unsigned n);

/* The range that holds `gpa`; its region is NULL where nobody answers. */
struct mem_range mem_find(const struct mem_space *m, gpa_t gpa);

/* A piece of guest RAM or ROM as host memory. */
struct mem_segment {
	uint8_t *host; /* NULL: not RAM (or, for writing, not writable) */
	uint64_t len;  /* bytes from gpa on that are contiguous, at most what was asked */
};

/* Hands out the segment at `gpa`. `write`: only RAM, and the caller must call
 * mem_written() on what it wrote. Never crosses a region; loop for more. */
struct mem_segment mem_segment(struct mem_space *m, gpa_t gpa, uint64_t len, bool write);

/* Copies between guest RAM/ROM and a buffer. false if any byte of the range is not RAM
 * (for writes: RAM only); then nothing is promised about the destination, but no byte
 * outside of [gpa, gpa+len) is ever touched. For devices' DMA; VM lock held. */
bool mem_read(struct mem_space *m, gpa_t gpa, void *buf, uint64_t len);
bool mem_write(struct mem_space *m, gpa_t gpa, const void *buf, uint64_t len);

/* The A20 wire of the processors: without it their physical addresses lose bit 20. Devices' do not.
 * On after mem_init(). VM lock held. An engine that leaves physical addresses to hardware
 * (KVM) cannot honour it. */
void mem_set_a20(struct mem_space *m, bool on);

/* What a processor's physical addresses are masked with. */
static inline gpa_t mem_a20_mask(const struct mem_space *m) {
	return __atomic_load_n(&m->a20_off, __ATOMIC_RELAXED) ? ~(1ull << 20) : ~0ull;
}

/* Has the pages of RAM noted that are written from now on, by vCPUs and devices: a bitmap, one bit
 * a page from gpa 0 on, set atomically; it stays the caller's. NULL: not any more. Whoever has
 * cleared bits calls it again with the same bitmap, before the guest goes on: an engine notes a
 * page only once. VM lock held, while no vCPU runs. */
void mem_track(struct mem_space *m, uint8_t *bitmap, uint64_t pages);

/* Notes the pages of [gpa, gpa + len), if they are to be noted; for engines. */
void mem_note_dirty(struct mem_space *m, gpa_t gpa, uint64_t len);

/* Says that a device wrote [gpa, gpa+len) of RAM through a segment. */
void mem_written(struct mem_space *m, gpa_t gpa, uint64_t len);

/* Dispatch of one access to whoever answers; crosses regions bytewise. Size 1..8.
 * Reads of nothing are all ones, writes to nothing and to ROM are lost. VM lock held. */
uint64_t mem_io_read(struct mem_space *m, gpa_t gpa, unsigned size);
void mem_io_write(struct mem_space *m, gpa_t gpa, unsigned size, uint64_t val);
uint64_t port_read(struct mem_space *m, uint16_t port, unsigned size);
void port_write(struct mem_space *m, uint16_t port, unsigned size, uint64_t val);

#endif
