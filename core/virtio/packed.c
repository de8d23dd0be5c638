/* The packed ring ([VIRTIO1.2 2.8]): one ring of descriptors that driver and device both
 * write, and two event suppression structures. Called from queue.c only, VM lock held,
 * areas mapped.
 *
 *     descriptor:  addr u64, len u32, id u16, flags u16
 *     suppression: offset and wrap counter u16, flags u16
 *
 * A descriptor is available when its AVAIL bit equals our wrap counter and its USED bit
 * does not; used ones have both equal. Used descriptors are written in the order of
 * completion, so they may overwrite those of chains that are still in work. */
#include "core/base/le.h"
#include "core/virtio/queue.h"

#define DESC_AVAIL (1u << 7)
#define DESC_USED (1u << 15)

#define EVENT_ENABLE 0u
#define EVENT_DISABLE 1u
#define EVENT_DESC 2u

static uint8_t *slot(struct virtqueue *q, unsigned i) {
	return q->desc_host + (size_t)i * VIRTQ_DESC_SIZE;
}

static bool available(uint16_t flags, bool wrap) {
	return !!(flags & DESC_AVAIL) == wrap && !!(flags & DESC_USED) != wrap;
}

/* The whole table is the chain, in its order; NEXT means nothing in it [VIRTIO1.2 2.8.7]. */
static bool walk_indirect(struct virtqueue *q, struct virtq_chain *c, uint64_t table, uint32_t len,
						  uint16_t flags) {
	if (!q->indirect)
		return virtq_bad(q, "an indirect table that was not negotiated"), false;
	if (flags & VIRTQ_DESC_NEXT)
		return virtq_bad(q, "an indirect table inside of a chain"), false;
	if (!len || len % VIRTQ_DESC_SIZE)
		return virtq_bad(q, "an indirect table of a broken length"), false;
	if (len / VIRTQ_DESC_SIZE > VIRTQ_CHAIN_DESCS)
		return virtq_bad(q, "a chain that is too long"), false;
	for (uint32_t i = 0; i < len / VIRTQ_DESC_SIZE; i++) {
		uint8_t raw[VIRTQ_DESC_SIZE];
		if (!virtq_read_indirect(q, table, i, raw))
			return false;
		uint16_t f = le16_get(raw + 14);
		if (f & VIRTQ_DESC_INDIRECT)
			return virtq_bad(q, "an indirect table in an indirect table"), false;
		if (!virtq_chain_add(q, c, le64_get(raw), le32_get(raw + 8), f & VIRTQ_DESC_WRITE))
			return false;
	}
	return true;
}

static bool walk(struct virtqueue *q, struct virtq_chain *c, uint16_t flags) {
	unsigned i = q->next_avail;
	for (unsigned count = 1;; count++) {
		const uint8_t *p = slot(q, i);
		uint64_t addr = guest_load64(p);
		uint32_t len = guest_load32(p + 8);
		c->id = guest_load16(p + 12); /* the last one's counts */
		c->ndescs = (uint16_t)count;
		if (flags & VIRTQ_DESC_INDIRECT) {
			if (count > 1)
				return virtq_bad(q, "an indirect table inside of a chain"), false;
			return walk_indirect(q, c, addr, len, flags);
		}
		if (!virtq_chain_add(q, c, addr, len, flags & VIRTQ_DESC_WRITE))
			return false;
		if (!(flags & VIRTQ_DESC_NEXT))
			return true;
		if (count == q->size)
			return virtq_bad(q, "a chain that loops"), false;
		i = i + 1 == q->size ? 0 : i + 1;
		/* Written before the first one's flags, which we acquired. */
		flags = guest_load16(slot(q, i) + 14);
	}
}

static bool next_flags(struct virtqueue *q, uint16_t *flags) {
	*flags = guest_acquire16(slot(q, q->next_avail) + 14);
	return available(*flags, q->avail_wrap);
}

enum virtq_found packed_pop(struct virtqueue *q, struct virtq_chain *c) {
	uint16_t flags;
	if (!next_flags(q, &flags)) {
		/* Ask for a notification of the next one; then the driver may have added it just
		 * before it could see that. */
		guest_store16(q->device_host, (uint16_t)(q->next_avail | q->avail_wrap << 15));
		guest_release16(q->device_host + 2, q->event_idx ? EVENT_DESC : EVENT_ENABLE);
		mem_written(virtq_mem(q), q->device, 4);
		guest_fence();
		if (!next_flags(q, &flags))
			return VIRTQ_NONE;
	}
	if (!walk(q, c, flags))
		return VIRTQ_BAD;
	unsigned next = q->next_avail + (unsigned)c->ndescs;
	if (next >= q->size) {
		next -= q->size;
		q->avail_wrap = !q->avail_wrap;
	}
	q->next_avail = (uint16_t)next;
	return VIRTQ_CHAIN;
}

/* The driver looks at the slots in order: the first one's flags are written last. */
void packed_push(struct virtqueue *q, const struct virtq_used *used, unsigned n) {
	uint16_t first_flags = 0;
	uint8_t *first = slot(q, q->next_used);
	for (unsigned i = 0; i < n; i++) {
		uint8_t *p = slot(q, q->next_used);
		uint16_t flags = q->used_wrap ? DESC_AVAIL | DESC_USED : 0;
		if (used[i].len)
			flags |= VIRTQ_DESC_WRITE; /* "len" is valid [VIRTIO1.2 2.8.4] */
		guest_store32(p + 8, used[i].len);
		guest_store16(p + 12, used[i].id);
		if (i)
			guest_release16(p + 14, flags);
		else
			first_flags = flags;
		mem_written(virtq_mem(q), q->desc + (uint64_t)q->next_used * VIRTQ_DESC_SIZE,
					VIRTQ_DESC_SIZE);
		unsigned next = q->next_used + (unsigned)used[i].ndescs;
		if (next >= q->size) {
			next -= q->size;
			q->used_wrap = !q->used_wrap;
		}
		q->next_used = (uint16_t)next;
		q->unsignalled = (uint16_t)(q->unsignalled + used[i].ndescs);
	}
	guest_release16(first + 14, first_flags);
}

bool packed_wants_interrupt(struct virtqueue *q) {
	uint16_t flags = guest_load16(q->driver_host + 2) & 3;
	if (flags != EVENT_DESC || !q->event_idx)
		return flags != EVENT_DISABLE;
	uint16_t off_wrap = guest_load16(q->driver_host);
	uint16_t event = off_wrap & 0x7fff;
	/* Count on from the start of our lap; an event of the lap before lies below 0. */
	if (!!(off_wrap >> 15) != q->used_wrap)
		event = (uint16_t)(event - q->size);
	return virtq_need_event(event, q->next_used, (uint16_t)(q->next_used - q->unsignalled));
}
