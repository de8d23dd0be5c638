/* What the loaders share: CPU states at entry ([SDM3 3, 4] for the tables that
 * they need), and putting command line and initrd into RAM. See entry.h. */
#include "core/boot/entry.h"

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/le.h"
#include "core/base/string.h"
#include "core/x86/regs.h"

/* Selectors that both Linux (__BOOT_CS, __BOOT_DS) and PVH are happy with. */
#define SEL_CODE 0x10
#define SEL_DATA 0x18
#define SEL_TSS 0x20

#define ATTR_CODE64 (0xbu | SEG_ATTR_S | SEG_ATTR_P | SEG_ATTR_L | SEG_ATTR_G)
#define ATTR_CODE32 (0xbu | SEG_ATTR_S | SEG_ATTR_P | SEG_ATTR_DB | SEG_ATTR_G)
#define ATTR_DATA (0x3u | SEG_ATTR_S | SEG_ATTR_P | SEG_ATTR_DB | SEG_ATTR_G)
#define ATTR_TSS (0xbu | SEG_ATTR_P)

bool boot_put(const struct boot_params *p, gpa_t gpa, const void *buf, uint64_t len) {
	return !len || mem_write(p->mem, gpa, buf, len);
}

int boot_get_image(const struct boot_image *i, uint64_t off, void *buf, size_t len, struct err *e) {
	check(off <= i->len && len <= i->len - off);
	if (i->data)
		memcpy(buf, i->data + off, len);
	else if (len && !i->read(i->opaque, off, buf, len))
		return err_set(e, ERR_IO, "%s cannot be read: its file is shorter than it was, or broken",
					   boot_name(i, "the image"));
	return 0;
}

int boot_put_image(const struct boot_params *p, gpa_t gpa, const struct boot_image *i, uint64_t off,
				   uint64_t len, struct err *e) {
	while (len) {
		struct mem_segment s = mem_segment(p->mem, gpa, len, true);
		if (!s.host || !s.len)
			return err_set(e, ERR_INVAL, "the guest has no RAM at 0x%llx for %s",
						   (unsigned long long)gpa, boot_name(i, "the image"));
		int r = boot_get_image(i, off, s.host, s.len, e);
		mem_written(p->mem, gpa, s.len);
		if (r)
			return r;
		gpa += s.len;
		off += s.len;
		len -= s.len;
	}
	return 0;
}

bool boot_zero(const struct boot_params *p, gpa_t gpa, uint64_t len) {
	while (len) {
		struct mem_segment s = mem_segment(p->mem, gpa, len, true);
		if (!s.host || !s.len)
			return false;
		memset(s.host, 0, s.len);
		mem_written(p->mem, gpa, s.len);
		gpa += s.len;
		len -= s.len;
	}
	return true;
}

static int no_low_ram(struct err *e) {
	return err_set(e, ERR_INVAL, "the guest has no RAM below 640 KiB to start a kernel from");
}

/* A descriptor of base 0 and the largest limit; the TSS has its own. [SDM3 3.4.5] */
static void put_descriptor(uint8_t *gdt, unsigned sel, uint32_t attr, uint32_t limit) {
	le16_put(gdt + sel, (uint16_t)limit);
	gdt[sel + 5] = (uint8_t)attr;
	gdt[sel + 6] = (uint8_t)((attr >> 8 & 0xf0) | (limit >> 16 & 0xf));
}

static void set_segment(struct x86_segment *s, uint16_t sel, uint32_t attr, uint32_t limit) {
	*s = (struct x86_segment){.sel = sel, .attr = attr, .limit = limit};
}

/* Both entries: flat segments, interrupts off, everything else as reset left it. */
static int enter(const struct boot_params *p, struct x86_state *s, uint32_t code, uint64_t rip,
				 struct err *e) {
	uint8_t gdt[0x28] = {0};
	put_descriptor(gdt, SEL_CODE, code, 0xfffff);
	put_descriptor(gdt, SEL_DATA, ATTR_DATA, 0xfffff);
	put_descriptor(gdt, SEL_TSS, ATTR_TSS, 0x67);
	if (!boot_put(p, LOW_GDT, gdt, sizeof(gdt)))
		return no_low_ram(e);
	s->gdtr = (struct x86_dtable){.base = LOW_GDT, .limit = sizeof(gdt) - 1};
	s->idtr = (struct x86_dtable){0};
	for (unsigned i = SEG_ES; i <= SEG_GS; i++)
		set_segment(&s->seg[i], SEL_DATA, ATTR_DATA, 0xffffffff);
	set_segment(&s->seg[SEG_CS], SEL_CODE, code, 0xffffffff);
	set_segment(&s->seg[SEG_TR], SEL_TSS, ATTR_TSS, 0x67);
	set_segment(&s->seg[SEG_LDTR], 0, SEG_ATTR_UNUSABLE, 0);
	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = 0;
	s->gpr[RSP] = LOW_STACK;
	s->rip = rip;
	s->rflags = 2;
	s->activity = CPU_RUNNING;
	return 0;
}

int boot_enter_prot32(const struct boot_params *p, struct x86_state *s, uint32_t eip,
					  struct err *e) {
	s->cr0 = CR0_PE | CR0_ET;
	s->cr4 = 0;
	s->efer = 0;
	return enter(p, s, ATTR_CODE32, eip, e);
}

int boot_enter_long64(const struct boot_params *p, struct x86_state *s, uint64_t rip,
					  struct err *e) {
	uint8_t page[PAGE_SIZE] = {0};
	le64_put(page, LOW_PDPT | PTE_P | PTE_W);
	bool ok = boot_put(p, LOW_PML4, page, PAGE_SIZE);
	for (unsigned i = 0; i < 4; i++)
		le64_put(page + 8 * i, (LOW_PD + i * PAGE_SIZE) | PTE_P | PTE_W);
	ok = ok && boot_put(p, LOW_PDPT, page, PAGE_SIZE);
	for (unsigned i = 0; ok && i < 4; i++) {
		for (unsigned j = 0; j < 512; j++)
			le64_put(page + 8 * j, GIB(i) | MIB(2 * j) | PTE_P | PTE_W | PTE_PS);
		ok = boot_put(p, LOW_PD + i * PAGE_SIZE, page, PAGE_SIZE);
	}
	if (!ok)
		return no_low_ram(e);
	s->cr0 = CR0_PE | CR0_ET | CR0_PG;
	s->cr3 = LOW_PML4;
	s->cr4 = CR4_PAE;
	s->efer = EFER_LME | EFER_LMA;
	return enter(p, s, ATTR_CODE64, rip, e);
}

int boot_put_cmdline(const struct boot_params *p, uint64_t max, struct err *e) {
	size_t len = str_len(p->append);
	if (max > LOW_CMDLINE_MAX - 1)
		max = LOW_CMDLINE_MAX - 1;
	if (len > max)
		return err_set(e, ERR_INVAL,
					   "the command line has %zu characters, the kernel takes at most %llu: "
					   "shorten --append",
					   len, (unsigned long long)max);
	if (!boot_put(p, LOW_CMDLINE, p->append, len + 1))
		return no_low_ram(e);
	return 0;
}

int boot_put_initrd(const struct boot_params *p, gpa_t above, uint64_t max_end, gpa_t *at,
					struct err *e) {
	*at = 0;
	if (!boot_image_present(&p->initrd) || !p->initrd.len)
		return 0;
	uint64_t end = MIN(max_end, p->low_end), len = p->initrd.len;
	above = align_up(above, PAGE_SIZE);
	if (end < above || len > end - above || align_down(end - len, PAGE_SIZE) < above)
		return err_set(e, ERR_FBIG,
					   "initrd %s has %llu KiB, but only %llu KiB of memory are free for it: "
					   "give the guest more --memory",
					   boot_name(&p->initrd, "image"), (unsigned long long)(len >> 10),
					   (unsigned long long)(end > above ? (end - above) >> 10 : 0));
	*at = align_down(end - len, PAGE_SIZE);
	return boot_put_image(p, *at, &p->initrd, 0, len, e);
}
