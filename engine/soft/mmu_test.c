/* What the software TLB keeps, and what it must forget: large pages, address spaces, A20. */
#include "engine/soft/system_fake.h"

static bool try_read(gva_t gva) {
	if (__builtin_setjmp(c->unwind))
		return false;
	soft_sys_read(c, gva, 8);
	return true;
}

/* INVLPG of any address of a large page forgets all of it. */
static void invlpg_drops_large_pages(void **unused) {
	enter_long(0);
	assert_true(try_read(0x21000));
	assert_true(try_read(0x150000));
	put(0x12000, 8, 0);
	assert_true(try_read(0x21000)); /* still in the TLB */
	insn.opnd[0].kind = OPND_MEM;
	insn.base = insn.index = X86_REG_NONE;
	insn.disp = 0x20000;
	assert_true(try_op(op_invlpg));
	assert_raises(try_read(0x21000), VEC_PF, 0);
	assert_raises(try_read(0x150000), VEC_PF, 0);
}

/* A page that both address spaces map, each to its own page of RAM. */
#define OWN 0x40000
#define NOFLUSH (1ull << 63)

static bool write_cr3(uint64_t val) {
	if (__builtin_setjmp(c->unwind))
		return false;
	soft_set_cr3(c, val);
	return true;
}

static bool invpcid(unsigned type, unsigned pcid, uint64_t gva) {
	put(0x1ff000, 8, pcid);
	put(0x1ff008, 8, gva);
	s->gpr[RDI] = type;
	insn.opnd[0] = (struct x86_opnd){.kind = OPND_GPR, .reg = RDI, .size = 8};
	insn.base = insn.index = X86_REG_NONE;
	insn.seg = SEG_DS;
	insn.disp = 0x1ff000;
	return try_op(op_invpcid);
}

static uint64_t own(void) {
	return soft_sys_read(c, OWN, 8);
}

/* What is kept over a change of PCIDs, and what ends it. */
static void address_spaces(void **unused) {
	if (!soft_has_feature(c, X86_FEAT_PCID) || !soft_has_feature(c, X86_FEAT_INVPCID))
		skip();
	enter_long(0);
	/* Two spaces, at 10000h and 50000h, of 2 MiB each in pages of 4 KiB. */
	for (unsigned n = 0; n < 2; n++) {
		uint32_t at = n ? 0x50000 : 0x10000;
		put(at, 8, (at + 0x1000) | 7);
		put(at + 0x1000, 8, (at + 0x2000) | 7);
		put(at + 0x2000, 8, (at + 0x3000) | 7);
		for (unsigned p = 0; p < 512; p++)
			put(at + 0x3000 + p * 8, 8, p << 12 | 7);
		put(at + 0x3000 + (OWN >> 12) * 8, 8, (n ? 0x61000u : 0x60000u) | 7);
	}
	put(0x60000, 8, 0xaaaa);
	put(0x61000, 8, 0xbbbb);
	put(0x62000, 8, 0xcccc);
	uint32_t pte = 0x13000 + (OWN >> 12) * 8;
	soft_tlb_flush(c, true);
	soft_set_cr4(c, CR4_PAE | CR4_PCIDE);
	assert_true(write_cr3(0x10001));
	assert_true(own() == 0xaaaa);
	assert_true(write_cr3(0x50002));
	assert_true(own() == 0xbbbb);
	uint64_t misses = c->tlb_misses;
	assert_true(write_cr3(0x10001 | NOFLUSH)); /* it is still there, though its tables changed */
	put(pte, 8, 0x62007);
	assert_true(own() == 0xaaaa);
	assert_true(write_cr3(0x50002 | NOFLUSH));
	assert_true(own() == 0xbbbb);
	assert_int_equal(c->tlb_misses, misses);
	assert_true(write_cr3(0x10001)); /* a flush */
	assert_true(own() == 0xcccc);
	/* From the other space: one address, one context, all. */
	for (unsigned type = 0; type < 4; type++) {
		put(pte, 8, type & 1 ? 0x62007 : 0x60007);
		assert_true(write_cr3(0x50002 | NOFLUSH));
		assert_true(invpcid(type, 1, OWN));
		assert_true(write_cr3(0x10001 | NOFLUSH));
		assert_true(own() == (type & 1 ? 0xcccc : 0xaaaa));
	}
	/* Of the space itself. */
	put(pte, 8, 0x60007);
	assert_true(invpcid(0, 1, OWN));
	assert_true(own() == 0xaaaa);
	/* Another PCID's request leaves this one alone. */
	put(pte, 8, 0x62007);
	assert_true(invpcid(1, 2, 0));
	assert_true(own() == 0xaaaa);
	/* More spaces than there are sets. */
	assert_true(write_cr3(0x10001));
	assert_true(own() == 0xcccc);
	for (unsigned n = 0; n < 3 * SOFT_SPACES; n++) {
		assert_true(write_cr3(0x50010 + n));
		assert_true(own() == 0xbbbb);
	}
	put(pte, 8, 0x60007);
	assert_true(write_cr3(0x10001 | NOFLUSH));
	assert_true(own() == 0xaaaa); /* it was forgotten */
	/* New code: no store from any of them goes unseen. */
	soft_sys_write(c, OWN, 8, 0xaaaa);
	assert_true(write_cr3(0x50002));
	soft_tlb_purge_writes(c, ram.host + 0x60000);
	assert_true(write_cr3(0x10001 | NOFLUSH));
	assert_null(fast_host(c, OWN, 8, ACCESS_WRITE, false));
	assert_non_null(fast_host(c, OWN, 8, ACCESS_READ, false));
}

/* Without A20, physical addresses lose bit 20: of data and, with paging, of tables and pages. */
static void a20_masks_memory(void **unused) {
	put(0x3500, 8, 0x1111);
	put(0x103500, 8, 0x2222);
	assert_true(soft_sys_read(c, 0x103500, 8) == 0x2222);
	mem_set_a20(&vm.mem, false);
	soft_tlb_flush(c, true); /* what engine_soft.mem_changed brings about */
	assert_true(soft_sys_read(c, 0x103500, 8) == 0x1111);
	soft_sys_write(c, 0x103508, 8, 0x3333);
	assert_true(get(0x3508, 8) == 0x3333 && !get(0x103508, 8));
	mem_set_a20(&vm.mem, true);
	soft_tlb_flush(c, true);
	assert_true(soft_sys_read(c, 0x103500, 8) == 0x2222);
	enter_long(0);
	s->cr3 |= 1u << 20; /* wraps to the tables that enter_long() made */
	mem_set_a20(&vm.mem, false);
	soft_tlb_flush(c, true);
	assert_true(try_read(0x150000));
	assert_true(soft_sys_read(c, 0x103500, 8) == 0x1111);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		T(invlpg_drops_large_pages),
		T(address_spaces),
		T(a20_masks_memory),
	};
	return cmocka_run_group_tests_name("soft_mmu", tests, NULL, NULL);
}
