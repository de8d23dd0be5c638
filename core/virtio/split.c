/* The split ring ([VIRTIO1.2 2.7]): descriptor table, available ring, used ring. Called
 * from queue.c only, VM lock held, areas mapped.
 *
 *     available (driver writes): flags u16, idx u16, ring[size] u16, used_event u16
 *     used      (device writes): flags u16, idx u16, ring[size] {id u32, len u32}, avail_event u16
 *
 * Legacy layouts and the driver's notifications being switched off by the used ring's
 * flags are left out: without event index we simply take every notification. */
#include "core/base/le.h"
#include "core/virtio/queue.h"

#define AVAIL_IDX 2u
#define AVAIL_RING 4u
#define AVAIL_NO_INTERRUPT 1u
#define USED_IDX 2u
#define USED_RING 4u

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

/* Follows an indirect table. It is a chain of its own, whose indices are the table's. */
static bool walk_indirect(struct virtqueue *q, struct virtq_chain *c, const struct desc *d,
						  unsigned count) {
	if (!q->indirect)
		return virtq_bad(q, "an indirect table that was not negotiated"), false;
	if (d->flags & VIRTQ_DESC_NEXT)
		return virtq_bad(q, "an indirect table that is not the end of its chain"), false;
	if (!d->len || d->len % VIRTQ_DESC_SIZE)
		return virtq_bad(q, "an indirect table of a broken length"), false;
	uint32_t entries = d->len / VIRTQ_DESC_SIZE, i = 0;
	for (;;) {
		uint8_t raw[VIRTQ_DESC_SIZE];
		if (++count > VIRTQ_CHAIN_DESCS)
			return virtq_bad(q, "a chain that loops or is too long"), false;
		if (!virtq_read_indirect(q, d->addr, i, raw))
			return false;
		uint16_t flags = le16_get(raw + 12);
		if (flags & VIRTQ_DESC_INDIRECT)
			return virtq_bad(q, "an indirect table in an indirect table"), false;
		if (!virtq_chain_add(q, c, le64_get(raw), le32_get(raw + 8), flags & VIRTQ_DESC_WRITE))
			return false;
		if (!(flags & VIRTQ_DESC_NEXT))
			return true;
		i = le16_get(raw + 14);
		if (i >= entries)
			return virtq_bad(q, "a descriptor outside of its indirect table"), false;
	}
}

static bool walk(struct virtqueue *q, struct virtq_chain *c, uint16_t i) {
	for (unsigned count = 1;; count++) {
		if (i >= q->size)
			return virtq_bad(q, "a descriptor outside of the table"), false;
		if (count > q->size)
			return virtq_bad(q, "a chain that loops"), false;
		const uint8_t *p = q->desc_host + (size_t)i * VIRTQ_DESC_SIZE;
		struct desc d = {guest_load64(p), guest_load32(p + 8), guest_load16(p + 12),
						 guest_load16(p + 14)};
		if (d.flags & VIRTQ_DESC_INDIRECT)
			return walk_indirect(q, c, &d, count - 1);
		if (!virtq_chain_add(q, c, d.addr, d.len, d.flags & VIRTQ_DESC_WRITE))
			return false;
		if (!(d.flags & VIRTQ_DESC_NEXT))
			return true;
		i = d.next;
	}
}

/* How many chains wait; asks for a notification of the next one before it says 0. */
static uint16_t waiting(struct virtqueue *q) {
	uint16_t n = (uint16_t)(guest_acquire16(q->driver_host + AVAIL_IDX) - q->next_avail);
	if (n || !q->event_idx)
		return n;
	uint64_t avail_event = USED_RING + 8ull * q->size;
	guest_store16(q->device_host + avail_event, q->next_avail);
	mem_written(virtq_mem(q), q->device + avail_event, 2);
	/* The driver may have added one just before it could see that. */
	guest_fence();
	return (uint16_t)(guest_acquire16(q->driver_host + AVAIL_IDX) - q->next_avail);
}

enum virtq_found split_pop(struct virtqueue *q, struct virtq_chain *c) {
	uint16_t n = waiting(q);
	if (!n)
		return VIRTQ_NONE;
	if (n > q->size)
		return virtq_bad(q, "an available index that jumped");
	c->id = guest_load16(q->driver_host + AVAIL_RING + 2 * (q->next_avail % q->size));
	c->ndescs = 1;
	if (!walk(q, c, c->id))
		return VIRTQ_BAD;
	q->next_avail++;
	return VIRTQ_CHAIN;
}

void split_push(struct virtqueue *q, const struct virtq_used *used, unsigned n) {
	for (unsigned i = 0; i < n; i++) {
		uint64_t off = USED_RING + 8ull * (q->next_used % q->size);
		guest_store32(q->device_host + off, used[i].id);
		guest_store32(q->device_host + off + 4, used[i].len);
		mem_written(virtq_mem(q), q->device + off, 8);
		q->next_used++;
		q->unsignalled++;
	}
	guest_release16(q->device_host + USED_IDX, q->next_used);
	mem_written(virtq_mem(q), q->device + USED_IDX, 2);
}

bool split_wants_interrupt(struct virtqueue *q) {
	if (!q->event_idx)
		return !(guest_load16(q->driver_host) & AVAIL_NO_INTERRUPT);
	uint16_t used_event = guest_load16(q->driver_host + AVAIL_RING + 2 * q->size);
	return virtq_need_event(used_event, q->next_used, (uint16_t)(q->next_used - q->unsignalled));
}
