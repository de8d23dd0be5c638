/* The address map: regions as they were added, and the flat sorted list made of
 * them on every change. Changes are rare (a PCI BAR moves) and looked-up addresses
 * are many, so the list is simply rebuilt; the sequence lock lets any thread look
 * up meanwhile. Regions of equal priority: the one added first answers. */
#include "core/vm/mem.h"

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/le.h"
#include "core/base/string.h"

#define MEM_TOP UINT64_MAX /* end of the last range; the last byte counts to it too */

void mem_init(struct mem_space *m) {
	memset(m, 0, sizeof(*m));
	m->flat[0] = (struct mem_range){.start = 0, .end = MEM_TOP};
	m->nflat = 1;
}

/* A BAR that the guest put at the very top would wrap; its last byte is given up instead. */
static gpa_t region_end(const struct mem_region *r) {
	return r->size > MEM_TOP - r->base ? MEM_TOP : r->base + r->size;
}

static struct mem_region *region_at(const struct mem_space *m, gpa_t gpa) {
	struct mem_region *best = NULL;
	for (unsigned i = 0; i < m->nregions; i++) {
		struct mem_region *r = m->regions[i];
		if (gpa >= r->base && gpa < region_end(r) && (!best || r->priority > best->priority))
			best = r;
	}
	return best;
}

static void range_set(struct mem_range *at, gpa_t start, gpa_t end, struct mem_region *r) {
	__atomic_store_n(&at->start, start, __ATOMIC_RELAXED);
	__atomic_store_n(&at->end, end, __ATOMIC_RELAXED);
	__atomic_store_n(&at->region, r, __ATOMIC_RELAXED);
}

static void flat_rebuild(struct mem_space *m) {
	/* Every address where the answer can change, sorted, without repeats. */
	gpa_t edge[MEM_FLAT];
	unsigned nedges = 0;
	edge[nedges++] = 0;
	for (unsigned i = 0; i < m->nregions; i++) {
		gpa_t ends[2] = {m->regions[i]->base, region_end(m->regions[i])};
		for (unsigned k = 0; k < 2; k++) {
			unsigned at = nedges;
			while (at && edge[at - 1] > ends[k])
				at--;
			if ((at && edge[at - 1] == ends[k]) || ends[k] == MEM_TOP)
				continue;
			memmove(&edge[at + 1], &edge[at], (nedges - at) * sizeof(edge[0]));
			edge[at] = ends[k];
			nedges++;
		}
	}

	uint32_t seq = m->seq;
	__atomic_store_n(&m->seq, seq + 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	unsigned n = 0;
	for (unsigned i = 0; i < nedges; i++) {
		gpa_t end = i + 1 < nedges ? edge[i + 1] : MEM_TOP;
		struct mem_region *r = region_at(m, edge[i]);
		if (n && m->flat[n - 1].region == r)
			__atomic_store_n(&m->flat[n - 1].end, end, __ATOMIC_RELAXED);
		else
			range_set(&m->flat[n++], edge[i], end, r);
	}
	__atomic_store_n(&m->nflat, n, __ATOMIC_RELAXED);
	__atomic_store_n(&m->seq, seq + 2, __ATOMIC_RELEASE);
	if (m->listener.changed)
		m->listener.changed(m->listener.opaque);
}

void mem_add(struct mem_space *m, struct mem_region *r) {
	check(!r->added && r->size && m->nregions < MEM_REGIONS);
	if (r->kind == MEM_RAM || r->kind == MEM_ROM) {
		check(r->host && !((r->base | r->size) & PAGE_MASK));
		check(r->base < BIT(52) && r->size <= BIT(52));
	} else {
		check(r->kind == MEM_MMIO && r->ops);
	}
	m->regions[m->nregions++] = r;
	r->added = true;
	flat_rebuild(m);
}

void mem_remove(struct mem_space *m, struct mem_region *r) {
	unsigned i = 0;
	while (i < m->nregions && m->regions[i] != r)
		i++;
	check(i < m->nregions && r->added);
	m->nregions--;
	memmove(&m->regions[i], &m->regions[i + 1], (m->nregions - i) * sizeof(m->regions[0]));
	r->added = false;
	flat_rebuild(m);
}

void mem_set_bells(struct mem_space *m, struct mem_region *r, const struct mem_bell *bells,
				   unsigned n) {
	check(r->kind == MEM_MMIO);
	if (!r->nbells && !n)
		return;
	for (unsigned i = 0; i < n; i++)
		check(bells[i].off < r->size && bells[i].size <= 4);
	r->bells = bells;
	r->nbells = n;
	if (m->listener.bells)
		m->listener.bells(m->listener.opaque);
}

void port_add(struct mem_space *m, struct port_region *r) {
	check(!r->added && r->size && r->size <= 0x10000 && r->ops && m->nports < PORT_REGIONS);
	m->ports[m->nports++] = r;
	r->added = true;
}

void port_remove(struct mem_space *m, struct port_region *r) {
	unsigned i = 0;
	while (i < m->nports && m->ports[i] != r)
		i++;
	check(i < m->nports && r->added);
	m->nports--;
	memmove(&m->ports[i], &m->ports[i + 1], (m->nports - i) * sizeof(m->ports[0]));
	r->added = false;
}

struct mem_range mem_find(const struct mem_space *m, gpa_t gpa) {
	struct mem_range found;
	uint32_t seq;
	do {
		seq = __atomic_load_n(&m->seq, __ATOMIC_ACQUIRE) & ~1u;
		unsigned lo = 0, hi = __atomic_load_n(&m->nflat, __ATOMIC_RELAXED);
		while (hi - lo > 1) {
			unsigned mid = (lo + hi) / 2;
			if (__atomic_load_n(&m->flat[mid].start, __ATOMIC_RELAXED) <= gpa)
				lo = mid;
			else
				hi = mid;
		}
		found.start = __atomic_load_n(&m->flat[lo].start, __ATOMIC_RELAXED);
		found.end = __atomic_load_n(&m->flat[lo].end, __ATOMIC_RELAXED);
		found.region = __atomic_load_n(&m->flat[lo].region, __ATOMIC_RELAXED);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
	} while (__atomic_load_n(&m->seq, __ATOMIC_RELAXED) != seq);
	return found;
}

struct mem_segment mem_segment(struct mem_space *m, gpa_t gpa, uint64_t len, bool write) {
	struct mem_range at = mem_find(m, gpa);
	struct mem_segment s = {NULL, MIN(len, at.end - gpa)};
	const struct mem_region *r = at.region;
	if (r && (r->kind == MEM_RAM || (r->kind == MEM_ROM && !write)))
		s.host = r->host + (gpa - r->base);
	return s;
}

static bool copy(struct mem_space *m, gpa_t gpa, uint8_t *buf, uint64_t len, bool write) {
	if (len > MEM_TOP - gpa)
		return false;
	while (len) {
		struct mem_segment s = mem_segment(m, gpa, len, write);
		if (!s.host || !s.len)
			return false;
		if (write) {
			memcpy(s.host, buf, s.len);
			mem_written(m, gpa, s.len);
		} else {
			memcpy(buf, s.host, s.len);
		}
		gpa += s.len;
		buf += s.len;
		len -= s.len;
	}
	return true;
}

bool mem_read(struct mem_space *m, gpa_t gpa, void *buf, uint64_t len) {
	return copy(m, gpa, buf, len, false);
}

bool mem_write(struct mem_space *m, gpa_t gpa, const void *buf, uint64_t len) {
	return copy(m, gpa, (uint8_t *)(uintptr_t)buf, len, true);
}

void mem_set_a20(struct mem_space *m, bool on) {
	if (m->a20_off == !on)
		return;
	__atomic_store_n(&m->a20_off, !on, __ATOMIC_RELAXED);
	if (m->listener.changed)
		m->listener.changed(m->listener.opaque);
}

void mem_track(struct mem_space *m, uint8_t *bitmap, uint64_t pages) {
	m->dirty = bitmap;
	m->dirty_pages = bitmap ? pages : 0;
	if (m->listener.changed)
		m->listener.changed(m->listener.opaque);
}

void mem_note_dirty(struct mem_space *m, gpa_t gpa, uint64_t len) {
	if (!m->dirty)
		return;
	uint64_t last = (gpa + MIN(len - 1, MEM_TOP - gpa)) >> 12;
	for (uint64_t p = gpa >> 12; p <= last && p < m->dirty_pages; p++)
		__atomic_fetch_or(&m->dirty[p >> 3], (uint8_t)(1u << (p & 7)), __ATOMIC_RELAXED);
}

void mem_written(struct mem_space *m, gpa_t gpa, uint64_t len) {
	if (!len)
		return;
	mem_note_dirty(m, gpa, len);
	if (m->listener.written)
		m->listener.written(m->listener.opaque, gpa, len);
}

/* ---- dispatch of accesses ----------------------------------------------------------- */

/* One step of an access of `left` bytes at `off`: the largest size the chip takes. A narrower
 * access than its smallest goes to the aligned unit around it. */
struct io_step {
	uint64_t off;	/* for the chip */
	unsigned size;	/* for the chip */
	unsigned shift; /* bytes of the unit before ours */
	unsigned len;	/* bytes of ours */
};

static struct io_step io_next(const struct io_ops *ops, uint64_t off, unsigned left) {
	unsigned max = ops->max_size ? ops->max_size : 8, min = ops->min_size ? ops->min_size : 1;
	unsigned size = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
	size = MIN(size, max);
	if (size >= min)
		return (struct io_step){off, size, 0, size};
	unsigned shift = off & (min - 1);
	return (struct io_step){off - shift, min, shift, MIN(size, min - shift)};
}

static uint64_t io_read(const struct io_ops *ops, void *dev, uint64_t room, uint64_t off,
						unsigned size) {
	uint64_t val = 0;
	for (unsigned done = 0; done < size;) {
		struct io_step s = io_next(ops, off + done, size - done);
		uint64_t part = ~0ull;
		if (ops->read && s.off + s.size <= room)
			part = ops->read(dev, s.off, s.size) >> (s.shift * 8);
		val |= (part & size_mask(s.len)) << (done * 8);
		done += s.len;
	}
	return val;
}

static void io_write(const struct io_ops *ops, void *dev, uint64_t room, uint64_t off,
					 unsigned size, uint64_t val) {
	for (unsigned done = 0; done < size;) {
		struct io_step s = io_next(ops, off + done, size - done);
		uint64_t part = (val >> (done * 8)) & size_mask(s.len);
		if (ops->write && s.off + s.size <= room) {
			if (s.len < s.size) { /* keep the unit's other bytes */
				uint64_t old = ops->read ? ops->read(dev, s.off, s.size) : 0;
				uint64_t mask = size_mask(s.len) << (s.shift * 8);
				part = (old & ~mask) | part << (s.shift * 8);
			}
			ops->write(dev, s.off, s.size, part);
		}
		done += s.len;
	}
}

static uint64_t region_read(const struct mem_region *r, uint64_t off, unsigned size) {
	if (r->kind == MEM_MMIO)
		return io_read(r->ops, r->dev, r->size, off, size);
	uint64_t val = 0;
	memcpy(&val, r->host + off, size);
	return val;
}

static void region_write(struct mem_space *m, const struct mem_region *r, uint64_t off,
						 unsigned size, uint64_t val) {
	if (r->kind == MEM_RAM) {
		memcpy(r->host + off, &val, size);
		mem_written(m, r->base + off, size);
	} else if (r->ops) {
		io_write(r->ops, r->dev, r->size, off, size, val);
	}
}

uint64_t mem_io_read(struct mem_space *m, gpa_t gpa, unsigned size) {
	check(size >= 1 && size <= 8);
	struct mem_range at = mem_find(m, gpa);
	if (at.end - gpa >= size)
		return at.region ? region_read(at.region, gpa - at.region->base, size) : size_mask(size);
	uint64_t val = 0;
	for (unsigned i = 0; i < size; i++) {
		at = mem_find(m, gpa + i); /* the top wraps to 0, as on the bus */
		uint64_t byte = 0xff;
		if (at.region)
			byte = region_read(at.region, gpa + i - at.region->base, 1);
		val |= byte << (i * 8);
	}
	return val;
}

void mem_io_write(struct mem_space *m, gpa_t gpa, unsigned size, uint64_t val) {
	check(size >= 1 && size <= 8);
	struct mem_range at = mem_find(m, gpa);
	if (at.end - gpa >= size) {
		if (at.region)
			region_write(m, at.region, gpa - at.region->base, size, val);
		return;
	}
	for (unsigned i = 0; i < size; i++) {
		at = mem_find(m, gpa + i);
		if (at.region)
			region_write(m, at.region, gpa + i - at.region->base, 1, (val >> (i * 8)) & 0xff);
	}
}

/* Whoever answers at `port`. A PC has some thirty of them, so a walk is as fast as anything. */
static const struct port_region *port_find(const struct mem_space *m, uint32_t port) {
	for (unsigned i = 0; i < m->nports; i++)
		if (port >= m->ports[i]->base && port - m->ports[i]->base < m->ports[i]->size)
			return m->ports[i];
	return NULL;
}

uint64_t port_read(struct mem_space *m, uint16_t port, unsigned size) {
	check(size >= 1 && size <= 8);
	const struct port_region *r = port_find(m, port);
	if (r && port - r->base + size <= r->size)
		return io_read(r->ops, r->dev, r->size, port - r->base, size);
	if (size == 1)
		return 0xff;
	uint64_t val = 0;
	for (unsigned i = 0; i < size; i++)
		val |= (port + i > 0xffff ? 0xff : port_read(m, (uint16_t)(port + i), 1)) << (i * 8);
	return val;
}

void port_write(struct mem_space *m, uint16_t port, unsigned size, uint64_t val) {
	check(size >= 1 && size <= 8);
	const struct port_region *r = port_find(m, port);
	if (r && port - r->base + size <= r->size) {
		io_write(r->ops, r->dev, r->size, port - r->base, size, val);
		return;
	}
	for (unsigned i = 0; size > 1 && i < size && port + i <= 0xffff; i++)
		port_write(m, (uint16_t)(port + i), 1, (val >> (i * 8)) & 0xff);
}
