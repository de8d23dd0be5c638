/* Virtqueues: what both ring formats share. Judges descriptors, maps rings, keeps the
 * turn's budget, decides on interrupts. See queue.h for the contract, split.c and
 * packed.c for the formats.
 *
 * DEVIATION: each of a ring's three areas has to lie in one memory region; a board has
 * one region of RAM below and one above 4 GiB, and no driver puts a ring across the gap. */
#include "core/virtio/queue.h"

#include "core/base/bits.h"
#include "core/base/le.h"
#include "core/base/string.h"
#include "core/virtio/device.h"

struct mem_space *virtq_mem(const struct virtqueue *q) {
	return q->dev->mem;
}

enum virtq_found virtq_bad(struct virtqueue *q, const char *why) {
	virtio_device_fail(q->dev, q->index, why);
	return VIRTQ_BAD;
}

void virtqueue_init(struct virtqueue *q, struct virtio_device *d, unsigned index,
					uint16_t max_size) {
	*q = (struct virtqueue){.dev = d, .index = (uint16_t)index, .max_size = max_size};
	virtqueue_reset(q);
}

void virtqueue_reset(struct virtqueue *q) {
	q->enabled = q->mapped = q->again = false;
	q->size = q->max_size;
	q->vector = VIRTIO_NO_VECTOR;
	q->desc = q->driver = q->device = 0;
	q->next_avail = q->next_used = q->unsignalled = 0;
	q->avail_wrap = q->used_wrap = true; /* [VIRTIO1.2 2.8.1] both counters start at 1 */
	q->budget = 0;
	q->epoch++;
}

/* The format follows from the features that the driver accepted. */
static void set_format(struct virtqueue *q) {
	uint64_t f = q->dev->driver_features;
	q->packed = f & BIT(VIRTIO_F_RING_PACKED);
	q->event_idx = f & BIT(VIRTIO_F_EVENT_IDX);
	q->indirect = f & BIT(VIRTIO_F_INDIRECT_DESC);
}

static bool size_ok(const struct virtqueue *q) {
	return q->size && q->size <= q->max_size && (q->packed || is_pow2(q->size));
}

/* [VIRTIO1.2 2.7] and [VIRTIO1.2 2.8.10.1] have the alignments. */
static bool aligned(const struct virtqueue *q) {
	return !(q->desc & 15) && !(q->driver & (q->packed ? 3 : 1)) && !(q->device & 3);
}

static uint8_t *map_area(struct virtqueue *q, gpa_t gpa, uint64_t len, bool write) {
	struct mem_segment s = mem_segment(q->dev->mem, gpa, len, write);
	return s.len >= len ? s.host : NULL;
}

/* Makes the host pointers good for the current memory map. */
static bool map_rings(struct virtqueue *q) {
	uint32_t seq = __atomic_load_n(&q->dev->mem->seq, __ATOMIC_RELAXED);
	if (q->mapped && q->map_seq == seq)
		return true;
	uint64_t n = q->size;
	q->desc_host = map_area(q, q->desc, n * VIRTQ_DESC_SIZE, q->packed);
	q->driver_host = map_area(q, q->driver, q->packed ? 4 : 6 + 2 * n, false);
	q->device_host = map_area(q, q->device, q->packed ? 4 : 6 + 8 * n, true);
	q->mapped = q->desc_host && q->driver_host && q->device_host;
	q->map_seq = seq;
	if (!q->mapped)
		virtq_bad(q, "a ring is not in RAM");
	return q->mapped;
}

void virtqueue_enable(struct virtqueue *q, bool on) {
	if (on == q->enabled)
		return;
	q->epoch++;
	q->mapped = false;
	if (!on) {
		/* Only virtio-mmio can do this; what the driver set up for it stays. */
		q->enabled = q->again = false;
		q->next_avail = q->next_used = q->unsignalled = 0;
		q->avail_wrap = q->used_wrap = true;
		return;
	}
	set_format(q);
	if (!size_ok(q))
		virtq_bad(q, "enabled with an impossible size");
	else if (!aligned(q))
		virtq_bad(q, "enabled with a misaligned ring");
	else
		q->enabled = map_rings(q);
}

static bool usable(const struct virtqueue *q) {
	return q->enabled && virtio_device_live(q->dev);
}

bool virtqueue_pop(struct virtqueue *q, struct virtq_chain *c) {
	if (!usable(q) || !map_rings(q))
		return false;
	if (!q->budget) {
		q->again = true;
		virtio_device_again(q->dev);
		return false;
	}
	c->nout = c->nin = 0;
	c->out_len = c->in_len = 0;
	c->ndescs = 0;
	c->epoch = q->epoch;
	if ((q->packed ? packed_pop(q, c) : split_pop(q, c)) != VIRTQ_CHAIN)
		return false;
	q->budget--;
	return true;
}

void virtqueue_push_all(struct virtqueue *q, uint32_t epoch, const struct virtq_used *used,
						unsigned n) {
	if (!n || epoch != q->epoch || !usable(q) || !map_rings(q))
		return;
	if (q->packed)
		packed_push(q, used, n);
	else
		split_push(q, used, n);
}

void virtqueue_push(struct virtqueue *q, const struct virtq_chain *c, uint64_t written) {
	const struct virtq_used used = {c->id, c->ndescs, (uint32_t)MIN(written, UINT32_MAX)};
	virtqueue_push_all(q, c->epoch, &used, 1);
}

bool virtqueue_owes(struct virtqueue *q) {
	if (!q->unsignalled || !usable(q) || !map_rings(q))
		return false;
	/* What we pushed must be visible before we look whether the driver went to sleep. */
	guest_fence();
	if (q->packed ? packed_wants_interrupt(q) : split_wants_interrupt(q))
		return true;
	q->unsignalled = 0;
	return false;
}

void virtqueue_notify(struct virtqueue *q) {
	if (!virtqueue_owes(q))
		return;
	virtio_device_interrupt(q->dev, q);
	q->unsignalled = 0;
}

bool virtq_chain_add(struct virtqueue *q, struct virtq_chain *c, gpa_t gpa, uint32_t len,
					 bool write) {
	if (!write && c->nin)
		return virtq_bad(q, "a readable buffer after a writable one"), false;
	if (gpa + len < gpa)
		return virtq_bad(q, "a buffer that wraps around the address space"), false;
	/* [VIRTIO1.2 2.7.5.2] at most 2^32 bytes in all */
	if (c->out_len + c->in_len + len > GIB(4))
		return virtq_bad(q, "a chain of more than 4 GiB"), false;
	*(write ? &c->in_len : &c->out_len) += len;
	while (len) { /* a buffer of no bytes adds nothing */
		struct mem_segment s = mem_segment(q->dev->mem, gpa, len, write);
		if (!s.host || !s.len)
			return virtq_bad(q, "a buffer that is not in RAM"), false;
		if (c->nout + c->nin == VIRTQ_SEGMENTS)
			return virtq_bad(q, "a chain of too many pieces"), false;
		c->seg[c->nout + c->nin] = (struct virtq_segment){gpa, s.host, (uint32_t)s.len};
		if (write)
			c->nin++;
		else
			c->nout++;
		gpa += s.len;
		len -= (uint32_t)s.len;
	}
	return true;
}

bool virtq_read_indirect(struct virtqueue *q, gpa_t table, uint32_t i, uint8_t desc[16]) {
	if (mem_read(q->dev->mem, table + (uint64_t)i * VIRTQ_DESC_SIZE, desc, VIRTQ_DESC_SIZE))
		return true;
	return virtq_bad(q, "an indirect table that is not in RAM"), false;
}

size_t virtq_chain_read(const struct virtq_chain *c, uint64_t off, void *buf, size_t len) {
	size_t done = 0;
	for (unsigned i = 0; i < c->nout && done < len; i++) {
		const struct virtq_segment *s = &c->seg[i];
		if (off >= s->len) {
			off -= s->len;
			continue;
		}
		size_t n = MIN(s->len - (size_t)off, len - done);
		memcpy((uint8_t *)buf + done, s->host + off, n);
		done += n;
		off = 0;
	}
	return done;
}

size_t virtq_chain_write(struct virtqueue *q, const struct virtq_chain *c, uint64_t off,
						 const void *buf, size_t len) {
	size_t done = 0;
	for (unsigned i = c->nout; i < c->nout + c->nin && done < len; i++) {
		const struct virtq_segment *s = &c->seg[i];
		if (off >= s->len) {
			off -= s->len;
			continue;
		}
		size_t n = MIN(s->len - (size_t)off, len - done);
		memcpy(s->host + off, (const uint8_t *)buf + done, n);
		mem_written(q->dev->mem, s->gpa + off, n);
		done += n;
		off = 0;
	}
	return done;
}

void virtq_chain_state(struct state_io *io, struct virtqueue *q, struct virtq_chain *c) {
	state_u16(io, "chain.id", &c->id);
	state_u16(io, "chain.ndescs", &c->ndescs);
	state_u16(io, "chain.nout", &c->nout);
	state_u16(io, "chain.nin", &c->nin);
	if (io->error)
		return;
	if (c->nout > VIRTQ_SEGMENTS || c->nin > VIRTQ_SEGMENTS - c->nout) {
		state_fail(io, "a chain of too many pieces");
		c->nout = c->nin = 0;
		return;
	}
	if (io->loading) {
		c->epoch = q->epoch;
		c->out_len = c->in_len = 0;
		/* Where a packed ring's next used slot is computed from it, and an index is. */
		if (q->packed ? c->ndescs == 0 || c->ndescs > q->size : c->id >= q->size)
			state_fail(io, "a chain that its ring cannot hold");
	}
	for (unsigned i = 0; i < (unsigned)c->nout + c->nin; i++) {
		struct virtq_segment *s = &c->seg[i];
		state_u64(io, "seg.gpa", &s->gpa);
		state_u32(io, "seg.len", &s->len);
		if (io->loading) {
			s->host = NULL;
			*(i < c->nout ? &c->out_len : &c->in_len) += s->len;
		}
	}
	if (io->loading && c->out_len + c->in_len > GIB(4))
		state_fail(io, "a chain of more than 4 GiB");
}

bool virtq_chain_resolve(struct virtqueue *q, struct virtq_chain *c) {
	for (unsigned i = 0; i < (unsigned)c->nout + c->nin; i++) {
		struct virtq_segment *s = &c->seg[i];
		struct mem_segment m = mem_segment(q->dev->mem, s->gpa, s->len, i >= c->nout);
		if (!m.host || m.len < s->len)
			return virtq_bad(q, "a saved buffer is not in RAM"), false;
		s->host = m.host;
	}
	return true;
}

void virtqueue_state(struct state_io *io, struct virtqueue *q) {
	state_u16(io, "size", &q->size);
	state_u16(io, "vector", &q->vector);
	state_bool(io, "enabled", &q->enabled);
	state_u64(io, "desc", &q->desc);
	state_u64(io, "driver", &q->driver);
	state_u64(io, "device", &q->device);
	state_u16(io, "next_avail", &q->next_avail);
	state_u16(io, "next_used", &q->next_used);
	state_bool(io, "avail_wrap", &q->avail_wrap);
	state_bool(io, "used_wrap", &q->used_wrap);
	state_u16(io, "unsignalled", &q->unsignalled);
	if (!io->loading || io->error)
		return;
	q->mapped = q->again = false;
	q->epoch++;
	set_format(q);
	if (q->enabled && (!size_ok(q) || !aligned(q)))
		state_fail(io, "an impossible queue");
	else if (q->enabled && q->packed && (q->next_avail >= q->size || q->next_used >= q->size))
		state_fail(io, "a queue position outside of its ring");
}
