/* Boot loaders: put an image into guest RAM and set the first vCPU to its entry.
 * They stand in for firmware; the images are hostile bytes. Used by a board
 * after each reset, VM lock held, no vCPU running.
 *
 * Formats: Linux bzImage through its 64-bit entry, ELF with a PVH note (32-bit
 * entry), ELF64 Linux vmlinux (64-bit entry), and flat test images. */
#ifndef CORE_BOOT_BOOT_H
#define CORE_BOOT_BOOT_H

#include "core/base/err.h"
#include "core/vm/mem.h"
#include "core/vm/vcpu.h"

/* A file's bytes: in memory, or read where they are wanted, so that there is no second copy of
 * them. Neither `data` nor `read`: there is none. */
struct boot_image {
	const uint8_t *data;
	size_t len;
	const char *name; /* for messages; may be NULL */
	/* Puts [off, off + n), which lies within len, to `buf`, often right into guest RAM. What is
	 * read twice may differ. false: it cannot be read. */
	bool (*read)(void *opaque, uint64_t off, void *buf, size_t n);
	void *opaque;
};

static inline bool boot_image_present(const struct boot_image *i) {
	return i->data || i->read;
}

enum boot_format {
	BOOT_AUTO,	  /* by magic: bzImage or ELF; anything else is refused */
	BOOT_BZIMAGE, /* as BOOT_AUTO found it; not to be asked for */
	BOOT_ELF,
	/* Raw bytes at a fixed address, entered there. The mode is the one the name says. */
	BOOT_FLAT_REAL,	  /* 16-bit, flat_at default 0x7c00, CS:IP = 0000:7c00 */
	BOOT_FLAT_PROT32, /* 32-bit, paging off, flat 4 GiB segments; default 1 MiB */
	BOOT_FLAT_LONG64, /* 64-bit, the first 4 GiB mapped one to one; default 1 MiB */
};

/* Types of struct boot_range: those of E820 ([ACPI6.4 15]). */
enum { BOOT_RAM = 1, BOOT_RESERVED = 2, BOOT_ACPI = 3, BOOT_NVS = 4 };

struct boot_range {
	gpa_t base;
	uint64_t size;
	uint32_t type;
};

#define BOOT_RANGES 16

/* What the board tells a loader. */
struct boot_params {
	struct mem_space *mem;
	struct boot_image kernel, initrd;
	const char *append; /* never NULL */
	enum boot_format format;
	gpa_t flat_at;
	const struct boot_range *map; /* sorted, what the guest is told of memory */
	unsigned nmap;
	gpa_t low_end; /* end of the RAM that starts at 1 MiB and lies below 4 GiB */
	gpa_t rsdp;	   /* the ACPI root pointer; 0: none */
};

/* Loads by format and sets `state`, which is in its reset values. 0, or -ERR_* and the
 * sentence. RAM may have been written in part when it fails. */
int boot_load(const struct boot_params *p, struct x86_state *state, struct err *e);

/* The single loaders; boot_load() picks among them. */
int boot_bzimage(const struct boot_params *p, struct x86_state *state, struct err *e);
int boot_elf(const struct boot_params *p, struct x86_state *state, struct err *e);
int boot_flat(const struct boot_params *p, struct x86_state *state, struct err *e);

#endif
