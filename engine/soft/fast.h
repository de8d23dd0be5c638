/* The hot paths of memory and operand access, for inlining into handlers. The
 * same functions exist out of line in access.c and operand.c. */
#ifndef ENGINE_SOFT_FAST_H
#define ENGINE_SOFT_FAST_H

#include "engine/soft/soft.h"

uint64_t soft_read_slow(struct soft_vcpu *c, gva_t gva, unsigned size, bool user);
void soft_write_slow(struct soft_vcpu *c, gva_t gva, unsigned size, uint64_t val, bool user);
gva_t soft_linear_slow(struct soft_vcpu *c, unsigned seg, uint64_t off, unsigned size,
					   enum soft_access kind);

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Host address of [gva, gva+size) if the TLB allows that access in one piece, else NULL. */
static inline uint8_t *fast_host(struct soft_vcpu *c, gva_t gva, unsigned size,
								 enum soft_access kind, bool user) {
	struct soft_tlb_entry *e = &c->tlb[user][(gva >> 12) & (SOFT_TLB - 1)];
	if (likely(e->tag[kind] == (gva & ~PAGE_MASK) && (gva & PAGE_MASK) + size <= PAGE_SIZE))
		return e->host + (gva & PAGE_MASK);
	return NULL;
}

static inline uint64_t fast_load(const uint8_t *p, unsigned size) {
	switch (size) {
	case 1:
		return *p;
	case 2:
		return *(const uint16_t *)p;
	case 4:
		return *(const uint32_t *)p;
	default:
		return *(const uint64_t *)p;
	}
}

static inline void fast_store(uint8_t *p, unsigned size, uint64_t val) {
	switch (size) {
	case 1:
		*p = (uint8_t)val;
		break;
	case 2:
		*(uint16_t *)p = (uint16_t)val;
		break;
	case 4:
		*(uint32_t *)p = (uint32_t)val;
		break;
	default:
		*(uint64_t *)p = val;
	}
}

/* memcpy() of the C library uses the vector registers, which hold the guest's. */
static inline void fast_copy(void *dst, const void *src, unsigned len) {
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(len) : : "memory");
}

/* A store into the page that the running block came from may change the block: x86 sees
 * such a change at once, so look again ([SDM3 8.1.3]). */
static inline void fast_note_store(struct soft_vcpu *c, const uint8_t *p) {
	if (unlikely(((uintptr_t)p & ~PAGE_MASK) == (uintptr_t)c->code_page))
		c->leave_block = true;
}

static inline uint64_t fast_read_linear(struct soft_vcpu *c, gva_t gva, unsigned size, bool user) {
	uint8_t *p = fast_host(c, gva, size, ACCESS_READ, user);
	if (likely(p && !c->align_check))
		return fast_load(p, size);
	return soft_read_slow(c, gva, size, user);
}

static inline void fast_write_linear(struct soft_vcpu *c, gva_t gva, unsigned size, uint64_t val,
									 bool user) {
	uint8_t *p = fast_host(c, gva, size, ACCESS_WRITE, user);
	if (likely(p && !c->align_check)) {
		fast_store(p, size, val);
		fast_note_store(c, p);
	} else {
		soft_write_slow(c, gva, size, val, user);
	}
}

static inline gva_t fast_linear(struct soft_vcpu *c, unsigned seg, uint64_t off, unsigned size,
								enum soft_access kind) {
	if (likely(c->flat)) {
		gva_t gva = off;
		if (unlikely(seg >= SEG_FS))
			gva += c->s->seg[seg].base;
		/* Canonical for the first and the last byte. */
		if (likely(((gva + (1ull << 47)) >> 48) == 0 &&
				   ((gva + size - 1 + (1ull << 47)) >> 48) == 0))
			return gva;
	}
	return soft_linear_slow(c, seg, off, size, kind);
}

static inline bool fast_user(const struct soft_vcpu *c) {
	return c->cpl == 3;
}

static inline uint64_t fast_read(struct soft_vcpu *c, unsigned seg, uint64_t off, unsigned size) {
	return fast_read_linear(c, fast_linear(c, seg, off, size, ACCESS_READ), size, fast_user(c));
}

static inline void fast_write(struct soft_vcpu *c, unsigned seg, uint64_t off, unsigned size,
							  uint64_t val) {
	fast_write_linear(c, fast_linear(c, seg, off, size, ACCESS_WRITE), size, val, fast_user(c));
}

static inline uint64_t fast_ea(const struct soft_vcpu *c, const struct x86_insn *i) {
	uint64_t ea = (uint64_t)i->disp;
	if (i->base < 16)
		ea += c->s->gpr[i->base];
	else if (i->base == X86_REG_RIP)
		ea += c->next_rip;
	if (i->index < 16)
		ea += c->s->gpr[i->index] << i->scale;
	if (likely(i->addrsize == 8))
		return ea;
	return i->addrsize == 4 ? (uint32_t)ea : (uint16_t)ea;
}

static inline uint64_t fast_reg(const struct soft_vcpu *c, unsigned reg, unsigned size) {
	if (unlikely(reg & X86_REG_HIGH))
		return (uint8_t)(c->s->gpr[reg & 3] >> 8);
	return c->s->gpr[reg] & size_mask(size);
}

static inline void fast_set_reg(struct soft_vcpu *c, unsigned reg, unsigned size, uint64_t val) {
	uint64_t *r = &c->s->gpr[reg & 15];
	switch (size) {
	case 8:
		*r = val;
		break;
	case 4:
		*r = (uint32_t)val;
		break;
	case 2:
		*(uint16_t *)r = (uint16_t)val;
		break;
	default:
		if (reg & X86_REG_HIGH)
			((uint8_t *)&c->s->gpr[reg & 3])[1] = (uint8_t)val;
		else
			*(uint8_t *)r = (uint8_t)val;
	}
}

static inline uint64_t fast_get(struct soft_vcpu *c, const struct x86_insn *i, unsigned n) {
	const struct x86_opnd *o = &i->opnd[n];
	switch (o->kind) {
	case OPND_GPR:
		return fast_reg(c, o->reg, o->size);
	case OPND_MEM:
		return fast_read(c, i->seg, fast_ea(c, i), o->size);
	case OPND_IMM:
		return i->imm;
	default:
		return soft_get(c, i, n);
	}
}

static inline void fast_put(struct soft_vcpu *c, const struct x86_insn *i, unsigned n,
							uint64_t val) {
	const struct x86_opnd *o = &i->opnd[n];
	if (o->kind == OPND_GPR)
		fast_set_reg(c, o->reg, o->size, val);
	else
		fast_write(c, i->seg, fast_ea(c, i), o->size, val);
}

/* A read-modify-write of operand 0, check first: begin() gives the old value, end() stores
 * the new one. The pointer is NULL for a register or for memory that is not plain RAM. */
struct rmw {
	uint8_t *host;
	uint64_t off;
	bool memory;
};

static inline uint64_t rmw_begin(struct soft_vcpu *c, const struct x86_insn *i, struct rmw *m) {
	const struct x86_opnd *o = &i->opnd[0];
	m->host = NULL;
	m->memory = o->kind == OPND_MEM;
	if (!m->memory)
		return fast_reg(c, o->reg, o->size);
	m->off = fast_ea(c, i);
	m->host = soft_rmw(c, i->seg, m->off, o->size);
	if (likely(m->host != NULL))
		return fast_load(m->host, o->size);
	soft_probe(c, i->seg, m->off, o->size, ACCESS_WRITE);
	return soft_read(c, i->seg, m->off, o->size);
}

static inline void rmw_end(struct soft_vcpu *c, const struct x86_insn *i, struct rmw *m,
						   uint64_t val) {
	const struct x86_opnd *o = &i->opnd[0];
	if (!m->memory) {
		fast_set_reg(c, o->reg, o->size, val);
	} else if (likely(m->host != NULL)) {
		fast_store(m->host, o->size, val);
		fast_note_store(c, m->host);
	} else {
		soft_write(c, i->seg, m->off, o->size, val);
	}
}

/* Arithmetic flags as LAHF and SETO have them: AH = SF ZF AF PF CF, AL = OF. */
static inline uint32_t flags_to_ax(uint64_t rflags) {
	return (uint32_t)((rflags & 0xff) << 8 | (rflags >> 11 & 1));
}

static inline void flags_from_ax(struct soft_vcpu *c, uint32_t ax) {
	c->s->rflags = (c->s->rflags & ~(uint64_t)RFLAGS_ARITH) | (ax >> 8 & 0xd5) | (ax & 1) << 11;
}

#endif
