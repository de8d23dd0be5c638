/* Private to core/boot: what the loaders share. The layout of low memory, CPU
 * states at a kernel's entry, Linux's zero page, and where an initrd goes. */
#ifndef CORE_BOOT_ENTRY_H
#define CORE_BOOT_ENTRY_H

#include "core/boot/boot.h"

/* Low RAM as a loader leaves it; all of it free for the guest once it has read it.
 * Linux's real-mode trampoline finds its own place below 640 KiB. */
#define LOW_GDT 0x500u
#define LOW_START_INFO 0x6000u /* PVH's */
#define LOW_ZERO_PAGE 0x7000u
#define LOW_PML4 0x9000u
#define LOW_PDPT 0xa000u
#define LOW_PD 0xb000u /* four pages: 4 GiB in pages of 2 MiB */
#define LOW_STACK 0x1fff0u
#define LOW_CMDLINE 0x20000u
#define LOW_CMDLINE_MAX 0x10000u /* with its terminator */
#define LOW_END 0x9f000u
#define HIGH_START 0x100000u

/* [gpa, gpa + len) of the guest's RAM, written or zeroed; false: not all of it is RAM. */
bool boot_put(const struct boot_params *p, gpa_t gpa, const void *buf, uint64_t len);
/* A part of an image, which lies within it: to `buf`, or into RAM. -ERR_IO or -ERR_INVAL: it cannot
 * be read, there is no RAM. */
int boot_get_image(const struct boot_image *i, uint64_t off, void *buf, size_t len, struct err *e);
int boot_put_image(const struct boot_params *p, gpa_t gpa, const struct boot_image *i, uint64_t off,
				   uint64_t len, struct err *e);
bool boot_zero(const struct boot_params *p, gpa_t gpa, uint64_t len);

/* Writes the GDT and, for 64 bits, the page tables, and sets the CPU to the entry. */
int boot_enter_long64(const struct boot_params *p, struct x86_state *s, uint64_t rip,
					  struct err *e);
int boot_enter_prot32(const struct boot_params *p, struct x86_state *s, uint32_t eip,
					  struct err *e);

/* Puts the command line at LOW_CMDLINE; `max` is the longest that the kernel takes. */
int boot_put_cmdline(const struct boot_params *p, uint64_t max, struct err *e);

/* Puts the initrd as high as possible, wholly within [above, max_end) and RAM below the
 * PCI hole. *at is 0 when there is none. */
int boot_put_initrd(const struct boot_params *p, gpa_t above, uint64_t max_end, gpa_t *at,
					struct err *e);

/* Completes `zp` (4096 bytes, the setup header already in it) with memory map, command
 * line, initrd and root pointer, and writes it to LOW_ZERO_PAGE. */
int boot_put_zero_page(const struct boot_params *p, uint8_t *zp, gpa_t initrd, struct err *e);

static inline const char *boot_name(const struct boot_image *i, const char *what) {
	return i->name ? i->name : what;
}

#endif
