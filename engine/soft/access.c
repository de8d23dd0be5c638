/* Guest memory accesses that the fast paths do not take: segments with limits,
 * TLB misses, page crossings, MMIO, ROM, watched data, alignment checks.
 * [SDM3 5.3-5.5] for segmentation, [SDM3 17.2.4] for data breakpoints. */
#include "core/base/string.h"
#include "engine/soft/fast.h"
#include "engine/soft/jit.h"

/* ---- segmentation ------------------------------------------------------------------- */

static void SOFT_NORETURN segment_fault(struct soft_vcpu *c, unsigned seg) {
	soft_raise_error(c, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
}

gva_t soft_linear_slow(struct soft_vcpu *c, unsigned seg, uint64_t off, unsigned size,
					   enum soft_access kind) {
	const struct x86_segment *sr = &c->s->seg[seg];
	if (c->mode == X86_MODE_64) {
		gva_t gva = off + (seg >= SEG_FS ? sr->base : 0);
		if (!soft_canonical(gva) || !soft_canonical(gva + size - 1))
			segment_fault(c, seg);
		return gva;
	}
	if (soft_protected(c)) {
		if (sr->attr & SEG_ATTR_UNUSABLE)
			segment_fault(c, seg);
		bool code = sr->attr & 8, rw = sr->attr & 2;
		if (kind == ACCESS_WRITE ? code || !rw : kind == ACCESS_READ && code && !rw)
			segment_fault(c, seg);
	}
	uint32_t first = (uint32_t)off;
	uint64_t last = (uint64_t)first + size - 1;
	if ((sr->attr & 0xc) == 4 && (sr->attr & SEG_ATTR_S)) { /* expand-down data */
		uint64_t top = sr->attr & SEG_ATTR_DB ? 0xffffffff : 0xffff;
		if (first <= sr->limit || last > top)
			segment_fault(c, seg);
	} else if (last > sr->limit) {
		segment_fault(c, seg);
	}
	return (uint32_t)(sr->base + first);
}

gva_t soft_linear(struct soft_vcpu *c, unsigned seg, uint64_t off, unsigned size,
				  enum soft_access kind) {
	return fast_linear(c, seg, off, size, kind);
}

/* Outside of 64-bit mode linear addresses have 32 bits, and so has the second page's. */
static gva_t wrap(const struct soft_vcpu *c, gva_t gva) {
	return c->mode == X86_MODE_64 || c->long_mode ? gva : (uint32_t)gva;
}

/* ---- what every slow access checks -------------------------------------------------- */

static void check_alignment(struct soft_vcpu *c, gva_t gva, unsigned size, bool user) {
	if (c->align_check && user && is_pow2(size) && (gva & (size - 1)))
		soft_raise_error(c, VEC_AC, 0);
}

/* Notes data breakpoints that [gva, gva+len) touches; they trap after the instruction. */
static void check_watch(struct soft_vcpu *c, gva_t gva, unsigned len, bool write) {
	if (!c->data_breakpoints)
		return;
	for (unsigned n = 0; n < 4; n++) {
		unsigned ctl = (unsigned)(c->s->dr7 >> (16 + n * 4)) & 15;
		if (!(c->s->dr7 >> (n * 2) & 3) || !((ctl & 3) == 3 || ((ctl & 3) == 1 && write)))
			continue;
		static const uint8_t lengths[4] = {1, 2, 8, 4};
		unsigned blen = lengths[ctl >> 2];
		gva_t start = c->s->dr[n] & ~(gva_t)(blen - 1);
		if (gva < start + blen && start < gva + len) {
			c->db_pending |= 1u << n;
			c->leave_block = true;
		}
	}
}

void soft_code_written(struct soft_vcpu *c, gpa_t gpa, unsigned len) {
	if (c->soft->jit && jit_is_code_page(c->soft, gpa))
		jit_code_written(c, gpa, len);
}

bool soft_is_ram(const struct soft_vcpu *c, gpa_t gpa) {
	struct mem_range r = mem_find(&c->v->vm->mem, gpa);
	return r.region && r.region->kind == MEM_RAM;
}

/* One access that lies within a page whose entry is `e`. */
static uint64_t page_read(struct soft_vcpu *c, struct soft_tlb_entry *e, gva_t gva, unsigned size) {
	if (e->host)
		return fast_load(e->host + (gva & PAGE_MASK), size);
	c->exit = (struct vm_exit){
		.kind = EXIT_MMIO,
		.mmio = {.gpa = e->gpa + (gva & PAGE_MASK), .size = (uint8_t)size},
	};
	soft_exit(c);
	return c->exit.mmio.val & size_mask(size);
}

static void page_write(struct soft_vcpu *c, struct soft_tlb_entry *e, gva_t gva, unsigned size,
					   uint64_t val) {
	/* The tag says whether it is RAM: ROM has a host address but only for reading. */
	struct mem_range r = {0};
	if (e->host) {
		r = mem_find(&c->v->vm->mem, e->gpa);
		if (r.region && r.region->kind == MEM_RAM) {
			uint8_t *p = e->host + (gva & PAGE_MASK);
			fast_store(p, size, val);
			fast_note_store(c, p);
			soft_code_written(c, e->gpa + (gva & PAGE_MASK), size);
			return;
		}
	}
	c->exit = (struct vm_exit){
		.kind = EXIT_MMIO,
		.mmio = {.gpa = e->gpa + (gva & PAGE_MASK),
				 .size = (uint8_t)size,
				 .write = true,
				 .val = val},
	};
	soft_exit(c);
}

uint64_t soft_read_slow(struct soft_vcpu *c, gva_t gva, unsigned size, bool user) {
	unsigned in_page = PAGE_SIZE - (unsigned)(gva & PAGE_MASK);
	check_watch(c, gva, size, false);
	if (size <= in_page) {
		struct soft_tlb_entry *e = soft_translate(c, gva, ACCESS_READ, user);
		check_alignment(c, gva, size, user);
		return page_read(c, e, gva, size);
	}
	struct soft_tlb_entry first = *soft_translate(c, gva, ACCESS_READ, user);
	gva_t second_gva = wrap(c, gva + in_page);
	struct soft_tlb_entry second = *soft_translate(c, second_gva, ACCESS_READ, user);
	check_alignment(c, gva, size, user);
	uint64_t val = 0;
	for (unsigned n = 0; n < size; n++)
		val |= (n < in_page ? page_read(c, &first, gva + n, 1)
							: page_read(c, &second, second_gva + n - in_page, 1))
			   << (n * 8);
	return val;
}

void soft_write_slow(struct soft_vcpu *c, gva_t gva, unsigned size, uint64_t val, bool user) {
	unsigned in_page = PAGE_SIZE - (unsigned)(gva & PAGE_MASK);
	check_watch(c, gva, size, true);
	if (size <= in_page) {
		struct soft_tlb_entry *e = soft_translate(c, gva, ACCESS_WRITE, user);
		check_alignment(c, gva, size, user);
		page_write(c, e, gva, size, val);
		return;
	}
	struct soft_tlb_entry first = *soft_translate(c, gva, ACCESS_WRITE, user);
	gva_t second_gva = wrap(c, gva + in_page);
	struct soft_tlb_entry second = *soft_translate(c, second_gva, ACCESS_WRITE, user);
	check_alignment(c, gva, size, user);
	for (unsigned n = 0; n < size; n++, val >>= 8) {
		if (n < in_page)
			page_write(c, &first, gva + n, 1, val & 0xff);
		else
			page_write(c, &second, second_gva + n - in_page, 1, val & 0xff);
	}
}

/* ---- the contract of soft.h ----------------------------------------------------------- */

uint64_t soft_read(struct soft_vcpu *c, unsigned seg, uint64_t off, unsigned size) {
	return fast_read(c, seg, off, size);
}

void soft_write(struct soft_vcpu *c, unsigned seg, uint64_t off, unsigned size, uint64_t val) {
	fast_write(c, seg, off, size, val);
}

uint64_t soft_read_linear(struct soft_vcpu *c, gva_t gva, unsigned size, bool user) {
	return fast_read_linear(c, gva, size, user);
}

void soft_write_linear(struct soft_vcpu *c, gva_t gva, unsigned size, uint64_t val, bool user) {
	fast_write_linear(c, gva, size, val, user);
}

void soft_probe_linear(struct soft_vcpu *c, gva_t gva, unsigned len, enum soft_access kind,
					   bool user) {
	for (uint64_t done = 0; done < len;) {
		gva_t at = wrap(c, gva + done);
		soft_translate(c, at, kind, user);
		done += PAGE_SIZE - (at & PAGE_MASK);
	}
}

void soft_probe(struct soft_vcpu *c, unsigned seg, uint64_t off, unsigned len,
				enum soft_access kind) {
	gva_t gva = fast_linear(c, seg, off, len, kind);
	soft_probe_linear(c, gva, len, kind, fast_user(c));
	if (len <= 8)
		check_alignment(c, gva, len, fast_user(c));
}

void soft_read_bytes(struct soft_vcpu *c, unsigned seg, uint64_t off, void *buf, unsigned len) {
	bool user = fast_user(c);
	gva_t gva = fast_linear(c, seg, off, len, ACCESS_READ);
	soft_probe_linear(c, gva, len, ACCESS_READ, user);
	uint8_t *out = buf;
	check_watch(c, gva, len, false);
	for (unsigned done = 0; done < len;) {
		gva_t at = wrap(c, gva + done);
		unsigned n = MIN(len - done, PAGE_SIZE - (unsigned)(at & PAGE_MASK));
		struct soft_tlb_entry *e = soft_translate(c, at, ACCESS_READ, user);
		if (e->host) {
			/* 16 bytes and less in one go where the host does it so, as hardware would. */
			fast_copy(out + done, e->host + (at & PAGE_MASK), n);
			done += n;
			continue;
		}
		struct soft_tlb_entry mmio = *e;
		unsigned piece = MIN(n, 8);
		while (!is_pow2(piece))
			piece--;
		uint64_t val = page_read(c, &mmio, at, piece);
		fast_copy(out + done, &val, piece);
		done += piece;
	}
}

void soft_write_bytes(struct soft_vcpu *c, unsigned seg, uint64_t off, const void *buf,
					  unsigned len) {
	bool user = fast_user(c);
	gva_t gva = fast_linear(c, seg, off, len, ACCESS_WRITE);
	soft_probe_linear(c, gva, len, ACCESS_WRITE, user);
	const uint8_t *in = buf;
	check_watch(c, gva, len, true);
	for (unsigned done = 0; done < len;) {
		gva_t at = wrap(c, gva + done);
		unsigned n = MIN(len - done, PAGE_SIZE - (unsigned)(at & PAGE_MASK));
		uint8_t *p = fast_host(c, at, n, ACCESS_WRITE, user);
		if (p) {
			fast_copy(p, in + done, n);
			fast_note_store(c, p);
			done += n;
			continue;
		}
		struct soft_tlb_entry e = *soft_translate(c, at, ACCESS_WRITE, user);
		unsigned piece = MIN(n, 8);
		while (!is_pow2(piece))
			piece--;
		uint64_t val = 0;
		fast_copy(&val, in + done, piece);
		page_write(c, &e, at, piece, val);
		done += piece;
	}
}

uint8_t *soft_rmw(struct soft_vcpu *c, unsigned seg, uint64_t off, unsigned size) {
	gva_t gva = fast_linear(c, seg, off, size, ACCESS_WRITE);
	bool user = fast_user(c);
	uint8_t *p = fast_host(c, gva, size, ACCESS_WRITE, user);
	if (likely(p && !c->align_check))
		return p;
	soft_probe_linear(c, gva, size, ACCESS_WRITE, user);
	if (!(size == 16))
		check_alignment(c, gva, size, user);
	p = fast_host(c, gva, size, ACCESS_WRITE, user);
	return p;
}
