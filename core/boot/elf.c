/* ELF kernels: with a PVH note through its 32-bit entry (EBX = start info), an
 * ELF64 file without one as a Linux vmlinux through its 64-bit entry (RSI = zero
 * page). Segments go to their physical addresses, which must be RAM above 1 MiB.
 * Every number in the file is hostile; offsets are checked before each use. */
#include "core/boot/elf.h"

#include "core/base/bits.h"
#include "core/base/le.h"
#include "core/base/string.h"
#include "core/boot/entry.h"
#include "core/boot/linux.h"

#define NOTES 4096u /* kernels have some hundred bytes */

struct phdr {
	uint32_t type;
	uint64_t offset, vaddr, paddr, filesz, memsz, align;
};

struct elf {
	const struct boot_image *image;
	bool is64;
	uint64_t entry, phoff;
	unsigned phnum, phentsize;
	gpa_t end;			/* of the highest segment */
	bool pvh, loaded;	/* what was found */
	bool entry_is_phys; /* some segment holds `entry` as a physical address */
	uint32_t pvh_entry;
	uint64_t phys_entry; /* `entry`, translated where a segment holds it */
};

static bool in_file(const struct boot_image *k, uint64_t off, uint64_t len) {
	return off <= k->len && len <= k->len - off;
}

static int bad(const struct elf *f, const char *what, struct err *e) {
	return err_set(e, ERR_INVAL, "%s is damaged or truncated: %s lies outside of its %zu bytes",
				   boot_name(f->image, "the kernel"), what, f->image->len);
}

static int read_header(struct elf *f, struct err *e) {
	const struct boot_image *k = f->image;
	uint8_t d[64] = {0};
	int r = boot_get_image(k, 0, d, MIN(k->len, sizeof(d)), e);
	if (r)
		return r;
	if (!in_file(k, 0, 52) || (d[ELF_CLASS] == ELF_CLASS64 && !in_file(k, 0, 64)))
		return bad(f, "the ELF header", e);
	unsigned machine = le16_get(d + 18);
	f->is64 = d[ELF_CLASS] == ELF_CLASS64;
	if (d[ELF_DATA] != ELF_LSB || machine != (f->is64 ? EM_X86_64 : EM_386) ||
		(!f->is64 && d[ELF_CLASS] != ELF_CLASS32))
		return err_set(e, ERR_NOTSUP, "%s is not for x86: ELF class %u, machine %u",
					   boot_name(k, "the kernel"), d[ELF_CLASS], machine);
	f->entry = f->is64 ? le64_get(d + 24) : le32_get(d + 24);
	f->phoff = f->is64 ? le64_get(d + 32) : le32_get(d + 28);
	f->phentsize = le16_get(d + (f->is64 ? 54 : 42));
	f->phnum = le16_get(d + (f->is64 ? 56 : 44));
	if (f->phentsize < (f->is64 ? 56u : 32u) ||
		!in_file(k, f->phoff, (uint64_t)f->phnum * f->phentsize))
		return bad(f, "the program header table", e);
	f->phys_entry = f->entry;
	return 0;
}

static int read_phdr(const struct elf *f, unsigned i, struct phdr *h, struct err *e) {
	uint8_t d[56];
	int r =
		boot_get_image(f->image, f->phoff + (uint64_t)i * f->phentsize, d, f->is64 ? 56 : 32, e);
	if (r)
		return r;
	if (f->is64)
		*h = (struct phdr){le32_get(d),		 le64_get(d + 8),  le64_get(d + 16), le64_get(d + 24),
						   le64_get(d + 32), le64_get(d + 40), le64_get(d + 48)};
	else
		*h = (struct phdr){le32_get(d),		 le32_get(d + 4),  le32_get(d + 8), le32_get(d + 12),
						   le32_get(d + 16), le32_get(d + 20), le32_get(d + 28)};
	return 0;
}

static int load_segment(const struct boot_params *p, struct elf *f, const struct phdr *h,
						struct err *e) {
	if (!in_file(f->image, h->offset, h->filesz) || h->filesz > h->memsz)
		return bad(f, "a segment", e);
	if (!h->memsz)
		return 0;
	if (h->paddr < HIGH_START || h->paddr > p->low_end || h->memsz > p->low_end - h->paddr)
		return err_set(e, ERR_FBIG,
					   "%s wants %llu KiB at 0x%llx; the guest's memory for it reaches from 1 MiB "
					   "to %llu MiB",
					   boot_name(f->image, "the kernel"), (unsigned long long)(h->memsz >> 10),
					   (unsigned long long)h->paddr, (unsigned long long)(p->low_end >> 20));
	int r = boot_put_image(p, h->paddr, f->image, h->offset, h->filesz, e);
	if (r)
		return r;
	if (!boot_zero(p, h->paddr + h->filesz, h->memsz - h->filesz))
		return err_set(e, ERR_INVAL, "no RAM at 0x%llx for the kernel",
					   (unsigned long long)h->paddr);
	f->loaded = true;
	f->end = MAX(f->end, h->paddr + h->memsz);
	/* Linux states its entry as a physical address, others as a virtual one. */
	if (f->entry - h->paddr < h->memsz)
		f->entry_is_phys = true;
	if (f->entry - h->vaddr < h->memsz)
		f->phys_entry = f->entry - h->vaddr + h->paddr;
	return 0;
}

/* Looks for the PVH entry among the notes of one segment, as far as NOTES bytes go. */
static int read_notes(struct elf *f, const struct phdr *h, struct err *e) {
	uint8_t notes[NOTES];
	if (!in_file(f->image, h->offset, h->filesz))
		return bad(f, "a note segment", e);
	uint64_t left = MIN(h->filesz, NOTES), align = h->align == 8 ? 8 : 4;
	int r = boot_get_image(f->image, h->offset, notes, left, e);
	const uint8_t *d = notes;
	while (!r && left >= 12) {
		uint64_t namesz = le32_get(d), descsz = le32_get(d + 4);
		uint64_t desc = align_up(12 + namesz, align), next = align_up(desc + descsz, align);
		if (desc + descsz > left && h->filesz > NOTES)
			break;
		if (desc + descsz > left)
			return bad(f, "a note", e);
		if (le32_get(d + 8) == NOTE_PHYS32_ENTRY && namesz == 4 && !memcmp(d + 12, "Xen", 4) &&
			descsz >= 4) {
			f->pvh = true;
			f->pvh_entry = le32_get(d + desc);
			return 0;
		}
		next = MIN(next, left);
		d += next;
		left -= next;
	}
	return r;
}

static int load_segments(const struct boot_params *p, struct elf *f, struct err *e) {
	int r = 0;
	for (unsigned i = 0; !r && i < f->phnum; i++) {
		struct phdr h;
		r = read_phdr(f, i, &h, e);
		if (!r && h.type == PT_LOAD)
			r = load_segment(p, f, &h, e);
		else if (!r && h.type == PT_NOTE)
			r = read_notes(f, &h, e);
	}
	if (!r && !f->loaded)
		r = err_set(e, ERR_INVAL, "%s has nothing to load: no PT_LOAD segment",
					boot_name(f->image, "the kernel"));
	return r;
}

/* Start info, module list and memory map behind one another at LOW_START_INFO. */
static int put_start_info(const struct boot_params *p, gpa_t initrd, struct err *e) {
	uint8_t b[START_INFO_SIZE + START_INFO_MODULE + BOOT_RANGES * START_INFO_RANGE] = {0};
	uint8_t *module = b + START_INFO_SIZE, *map = module + START_INFO_MODULE;
	le32_put(b, START_INFO_MAGIC);
	le32_put(b + 4, 1); /* version */
	if (initrd) {
		le32_put(b + 12, 1);
		le64_put(b + 16, LOW_START_INFO + START_INFO_SIZE);
		le64_put(module, initrd);
		le64_put(module + 8, p->initrd.len);
	}
	le64_put(b + 24, LOW_CMDLINE);
	le64_put(b + 32, p->rsdp);
	le64_put(b + 40, LOW_START_INFO + START_INFO_SIZE + START_INFO_MODULE);
	le32_put(b + 48, p->nmap);
	for (unsigned i = 0; i < p->nmap; i++, map += START_INFO_RANGE) {
		le64_put(map, p->map[i].base);
		le64_put(map + 8, p->map[i].size);
		le32_put(map + 16, p->map[i].type);
	}
	if (!boot_put(p, LOW_START_INFO, b, sizeof(b)))
		return err_set(e, ERR_INVAL, "the guest has no RAM at 0x%x for the start info",
					   LOW_START_INFO);
	return 0;
}

static int enter_pvh(const struct boot_params *p, struct x86_state *state, const struct elf *f,
					 gpa_t initrd, struct err *e) {
	int r = put_start_info(p, initrd, e);
	if (!r)
		r = boot_enter_prot32(p, state, f->pvh_entry, e);
	state->gpr[RBX] = LOW_START_INFO;
	return r;
}

/* A vmlinux carries no setup header: this one says what its bzImage would. */
static int enter_linux64(const struct boot_params *p, struct x86_state *state, const struct elf *f,
						 gpa_t initrd, struct err *e) {
	uint8_t zp[ZP_SIZE] = {0};
	le16_put(zp + HDR_BOOT_FLAG, LINUX_BOOT_FLAG);
	le32_put(zp + HDR_MAGIC, LINUX_MAGIC);
	le16_put(zp + HDR_VERSION, 0x20c);
	zp[HDR_LOADFLAGS] = LOADED_HIGH;
	le32_put(zp + HDR_KERNEL_ALIGNMENT, (uint32_t)MIB(2));
	int r = boot_put_zero_page(p, zp, initrd, e);
	if (!r)
		r = boot_enter_long64(p, state, f->entry_is_phys ? f->entry : f->phys_entry, e);
	state->gpr[RSI] = LOW_ZERO_PAGE;
	return r;
}

int boot_elf(const struct boot_params *p, struct x86_state *state, struct err *e) {
	struct elf f = {.image = &p->kernel};
	gpa_t initrd = 0;
	int r = read_header(&f, e);
	if (!r)
		r = load_segments(p, &f, e);
	if (!r && !f.pvh && !f.is64)
		r = err_set(e, ERR_NOTSUP,
					"%s is a 32-bit ELF file without a PVH note: it cannot be booted",
					boot_name(&p->kernel, "the kernel"));
	if (!r)
		r = boot_put_cmdline(p, LOW_CMDLINE_MAX, e);
	if (!r)
		r = boot_put_initrd(p, f.end, GIB(4), &initrd, e);
	if (r)
		return r;
	return f.pvh ? enter_pvh(p, state, &f, initrd, e) : enter_linux64(p, state, &f, initrd, e);
}
