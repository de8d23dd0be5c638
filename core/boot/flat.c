/* Flat test images: raw bytes at a fixed address, entered at their first byte
 * with SP/ESP/RSP = LOW_STACK (real mode: 0x7000). For test/guest; see
 * enum boot_format for modes and default addresses. */
#include "core/base/bits.h"
#include "core/boot/entry.h"

static int enter_real(struct x86_state *s, gpa_t at, struct err *e) {
	if (at >= MIB(1))
		return err_set(e, ERR_INVAL, "a real-mode image cannot start at 0x%llx",
					   (unsigned long long)at);
	/* 0000:xxxx where that reaches, else a segment of its own. */
	uint16_t sel = at < KIB(64) ? 0 : (uint16_t)(at >> 4);
	for (unsigned i = SEG_ES; i <= SEG_GS; i++) {
		s->seg[i].sel = i == SEG_CS ? sel : 0;
		s->seg[i].base = (uint64_t)s->seg[i].sel << 4;
	}
	s->rip = at - s->seg[SEG_CS].base;
	s->gpr[RSP] = 0x7000;
	s->activity = CPU_RUNNING;
	return 0;
}

int boot_flat(const struct boot_params *p, struct x86_state *state, struct err *e) {
	gpa_t at = p->flat_at;
	if (!at)
		at = p->format == BOOT_FLAT_REAL ? 0x7c00 : HIGH_START;
	if (at >= GIB(4))
		return err_set(e, ERR_INVAL, "an image cannot start at 0x%llx, above 4 GiB",
					   (unsigned long long)at);
	if (!p->kernel.len)
		return err_set(e, ERR_INVAL, "%s is empty", boot_name(&p->kernel, "the image"));
	struct mem_segment s = mem_segment(p->mem, at, p->kernel.len, true);
	if (!s.host || s.len < p->kernel.len)
		return err_set(e, ERR_FBIG, "%s: %zu bytes at 0x%llx do not fit into the guest's memory",
					   boot_name(&p->kernel, "the image"), p->kernel.len, (unsigned long long)at);
	int r = boot_put_image(p, at, &p->kernel, 0, p->kernel.len, e);
	if (r)
		return r;
	if (p->format == BOOT_FLAT_REAL)
		return enter_real(state, at, e);
	if (p->format == BOOT_FLAT_PROT32)
		return boot_enter_prot32(p, state, (uint32_t)at, e);
	return boot_enter_long64(p, state, at, e);
}
