/* Virtqueues: one interface over split and packed rings ([VIRTIO1.2 2.7], [VIRTIO1.2 2.8]).
 *
 * A device pops chains of buffers, works on them and pushes them back, in any order.
 * Everything in a ring is written by a hostile guest, possibly while we read it: each
 * field is read once, into our own memory, and only then judged. What cannot be served
 * (a loop, an address that is not RAM, readable after writable ...) makes the device
 * need a reset; the queue then pops nothing more. VM lock held throughout; the guest's
 * vCPUs run on and write their side of the ring, hence acquire and release here. */
#ifndef CORE_VIRTIO_QUEUE_H
#define CORE_VIRTIO_QUEUE_H

#include "core/base/types.h"
#include "core/vm/mem.h"
#include "core/vm/state.h"

#define VIRTQ_SIZE_MAX 256
#define VIRTQ_CHAIN_DESCS 256 /* the longest chain that is served, indirect tables included */
#define VIRTQ_SEGMENTS 272	  /* those, and some that cross from one region into the next */

struct virtio_device;

/* A piece of a buffer as host memory. */
struct virtq_segment {
	gpa_t gpa;
	uint8_t *host;
	uint32_t len;
};

/* A buffer that the guest made available: `nout` segments that the device reads, then
 * `nin` that it writes. Owned by whoever popped it. Lengths sum up to at most 4 GiB. */
struct virtq_chain {
	uint16_t id;	 /* split: the head's index; packed: the buffer id */
	uint16_t ndescs; /* packed: how many ring slots it took */
	uint16_t nout, nin;
	uint32_t epoch; /* of the queue when it was popped; others are not pushed */
	uint64_t out_len, in_len;
	struct virtq_segment seg[VIRTQ_SEGMENTS];
};

struct virtqueue {
	struct virtio_device *dev;
	uint16_t index, max_size;
	/* Set through the transport. */
	uint16_t size;
	uint16_t vector; /* of MSI-X; the PCI transport's */
	bool enabled;
	uint64_t desc, driver, device; /* guest-physical addresses of the three areas */
	/* Positions. Split rings count without bound, packed ones from 0 to size - 1. */
	uint16_t next_avail, next_used;
	bool avail_wrap, used_wrap;
	uint16_t unsignalled; /* used slots since the last look at interrupt suppression */
	/* Ours. */
	bool packed, event_idx, indirect;
	uint32_t epoch;	 /* grows when the queue is enabled, disabled or reset */
	uint32_t budget; /* pops left in this turn */
	bool again;		 /* the budget ran out: a timer continues */
	/* The areas as host memory, valid while the memory map is the one of map_seq. */
	bool mapped;
	uint32_t map_seq;
	uint8_t *desc_host, *driver_host, *device_host;
};

/* Takes the next available chain. false: none, or this turn's budget is used up (the
 * device's notify is called again later), or the device needs a reset. Asks the driver
 * for a notification before it says that there is none. */
bool virtqueue_pop(struct virtqueue *q, struct virtq_chain *c);

/* Gives a chain back; `written` bytes of its writable part were filled. A chain from
 * before a reset is dropped. */
void virtqueue_push(struct virtqueue *q, const struct virtq_chain *c, uint64_t written);

/* What is known of a chain that is done: enough to push it. */
struct virtq_used {
	uint16_t id, ndescs;
	uint32_t len;
};

/* Gives back several chains of one epoch so that the driver sees all of them or none. */
void virtqueue_push_all(struct virtqueue *q, uint32_t epoch, const struct virtq_used *used,
						unsigned n);

/* Where the next chain is; going back to there makes those available again that were popped
 * since, if none of them was pushed. */
struct virtq_mark {
	uint16_t next_avail;
	bool avail_wrap;
};
static inline struct virtq_mark virtqueue_mark(const struct virtqueue *q) {
	return (struct virtq_mark){q->next_avail, q->avail_wrap};
}
static inline void virtqueue_rewind(struct virtqueue *q, struct virtq_mark m) {
	q->next_avail = m.next_avail;
	q->avail_wrap = m.avail_wrap;
}

/* Interrupts the driver if chains were pushed and it wants to know. */
void virtqueue_notify(struct virtqueue *q);
/* Would that interrupt it now? If not, what was pushed until here needs no interrupt any more. */
bool virtqueue_owes(struct virtqueue *q);

/* A new turn: as many pops as the ring has slots. */
static inline void virtqueue_refresh(struct virtqueue *q) {
	q->budget = q->size;
}

/* Copies out of the readable part, or into the writable one, at byte `off`; returns how
 * many bytes of it there were. */
size_t virtq_chain_read(const struct virtq_chain *c, uint64_t off, void *buf, size_t len);
size_t virtq_chain_write(struct virtqueue *q, const struct virtq_chain *c, uint64_t off,
						 const void *buf, size_t len);

/* A chain that the device holds while the machine is saved: goes out as guest-physical
 * addresses, because its descriptors may be overwritten by now ([VIRTIO1.2 2.8.1]). */
void virtq_chain_state(struct state_io *io, struct virtqueue *q, struct virtq_chain *c);
/* Finds the loaded chain's memory again; false: it is not there, the device is failed. */
bool virtq_chain_resolve(struct virtqueue *q, struct virtq_chain *c);

/* For device.c. */
void virtqueue_init(struct virtqueue *q, struct virtio_device *d, unsigned index,
					uint16_t max_size);
void virtqueue_reset(struct virtqueue *q);
void virtqueue_enable(struct virtqueue *q, bool on);
void virtqueue_state(struct state_io *io, struct virtqueue *q);

/* For split.c and packed.c. */
#define VIRTQ_DESC_NEXT 1u
#define VIRTQ_DESC_WRITE 2u
#define VIRTQ_DESC_INDIRECT 4u
#define VIRTQ_DESC_SIZE 16u

enum virtq_found { VIRTQ_NONE, VIRTQ_CHAIN, VIRTQ_BAD };

/* Judges one buffer descriptor and appends its memory; false: the device is failed. */
bool virtq_chain_add(struct virtqueue *q, struct virtq_chain *c, gpa_t gpa, uint32_t len,
					 bool write);
/* Reads descriptor `i` of an indirect table, whole and once. */
bool virtq_read_indirect(struct virtqueue *q, gpa_t table, uint32_t i, uint8_t desc[16]);
/* The driver broke the ring's rules; always VIRTQ_BAD. */
enum virtq_found virtq_bad(struct virtqueue *q, const char *why);
struct mem_space *virtq_mem(const struct virtqueue *q);

/* As in [VIRTIO1.2 2.7.10]: did the index move over `event` on its way to `now`? */
static inline bool virtq_need_event(uint16_t event, uint16_t now, uint16_t old) {
	return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

enum virtq_found split_pop(struct virtqueue *q, struct virtq_chain *c);
void split_push(struct virtqueue *q, const struct virtq_used *used, unsigned n);
bool split_wants_interrupt(struct virtqueue *q);

enum virtq_found packed_pop(struct virtqueue *q, struct virtq_chain *c);
void packed_push(struct virtqueue *q, const struct virtq_used *used, unsigned n);
bool packed_wants_interrupt(struct virtqueue *q);

/* Single accesses to what the guest shares with us. */
static inline uint16_t guest_load16(const uint8_t *p) {
	return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_RELAXED);
}
static inline uint32_t guest_load32(const uint8_t *p) {
	return __atomic_load_n((const uint32_t *)(const void *)p, __ATOMIC_RELAXED);
}
static inline uint64_t guest_load64(const uint8_t *p) {
	return __atomic_load_n((const uint64_t *)(const void *)p, __ATOMIC_RELAXED);
}
static inline uint16_t guest_acquire16(const uint8_t *p) {
	return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE);
}
static inline void guest_store16(uint8_t *p, uint16_t v) {
	__atomic_store_n((uint16_t *)(void *)p, v, __ATOMIC_RELAXED);
}
static inline void guest_store32(uint8_t *p, uint32_t v) {
	__atomic_store_n((uint32_t *)(void *)p, v, __ATOMIC_RELAXED);
}
static inline void guest_release16(uint8_t *p, uint16_t v) {
	__atomic_store_n((uint16_t *)(void *)p, v, __ATOMIC_RELEASE);
}
/* Our store before our next load: each side publishes, then looks at the other. */
static inline void guest_fence(void) {
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

#endif
