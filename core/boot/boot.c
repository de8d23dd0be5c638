/* Finds an image's format by its magic numbers and calls its loader. */
#include "core/boot/boot.h"

#include "core/base/bits.h"
#include "core/base/le.h"
#include "core/boot/elf.h"
#include "core/boot/entry.h"
#include "core/boot/linux.h"

#define HEAD (HDR_VERSION + 2)

static bool is_bzimage(const uint8_t head[HEAD], size_t len) {
	return len >= HEAD && le16_get(head + HDR_BOOT_FLAG) == LINUX_BOOT_FLAG &&
		   le32_get(head + HDR_MAGIC) == LINUX_MAGIC;
}

static bool is_elf(const uint8_t head[HEAD], size_t len) {
	return len >= 4 && le32_get(head) == ELF_MAGIC;
}

/* Says what it was instead, as far as four bytes can tell. */
static int refuse(const struct boot_image *k, const uint8_t d[HEAD], struct err *e) {
	const char *name = k->name ? k->name : "the kernel";
	if (k->len < HEAD)
		return err_set(e, ERR_INVAL, "%s is not a kernel: it has only %zu bytes", name, k->len);
	const char *what = "";
	if (d[0] == 0x1f && d[1] == 0x8b)
		what = " (gzip: unpack it first)";
	else if (d[0] == 0xfd && d[1] == '7')
		what = " (xz: unpack it first)";
	else if (le32_get(d) == 0xfd2fb528)
		what = " (zstd: unpack it first)";
	else if (le32_get(d) == 0xfb494651)
		what = " (a qcow2 disk: give it with --disk)";
	else if (le32_get(d) == 0x37303730)
		what = " (cpio: give it with --initrd)";
	else if (d[0] == '!' && d[1] == '<')
		what = " (an archive or Debian package)";
	return err_set(e, ERR_INVAL,
				   "%s is not a kernel: it starts with %02x %02x %02x %02x%s; wanted is a Linux "
				   "bzImage or an ELF file for x86",
				   name, d[0], d[1], d[2], d[3], what);
}

int boot_load(const struct boot_params *p, struct x86_state *state, struct err *e) {
	if (p->nmap > BOOT_RANGES)
		return err_set(e, ERR_INVAL, "%u memory ranges are too many", p->nmap);
	switch (p->format) {
	case BOOT_FLAT_REAL:
	case BOOT_FLAT_PROT32:
	case BOOT_FLAT_LONG64:
		return boot_flat(p, state, e);
	case BOOT_AUTO:
	case BOOT_BZIMAGE:
	case BOOT_ELF:
		break;
	}
	uint8_t head[HEAD] = {0};
	int r = boot_get_image(&p->kernel, 0, head, MIN(p->kernel.len, sizeof(head)), e);
	if (r)
		return r;
	if (is_elf(head, p->kernel.len))
		return boot_elf(p, state, e);
	if (is_bzimage(head, p->kernel.len))
		return boot_bzimage(p, state, e);
	return refuse(&p->kernel, head, e);
}
