/* Linux's "zero page", struct boot_params of its x86 boot protocol
 * (Documentation/arch/x86/zero-page.rst and boot.rst): what firmware would have
 * told the kernel. Video is left at zero: there is no text screen. */
#include "core/base/le.h"
#include "core/boot/entry.h"
#include "core/boot/linux.h"

int boot_put_zero_page(const struct boot_params *p, uint8_t *zp, gpa_t initrd, struct err *e) {
	le64_put(zp + ZP_ACPI_RSDP, p->rsdp);
	for (unsigned i = 0; i < p->nmap; i++) {
		uint8_t *at = zp + ZP_E820_TABLE + i * 20;
		le64_put(at, p->map[i].base);
		le64_put(at + 8, p->map[i].size);
		le32_put(at + 16, p->map[i].type);
	}
	zp[ZP_E820_ENTRIES] = (uint8_t)p->nmap;
	zp[HDR_TYPE_OF_LOADER] = 0xff; /* none that has a number */
	le32_put(zp + HDR_CMD_LINE_PTR, LOW_CMDLINE);
	le32_put(zp + HDR_RAMDISK_IMAGE, (uint32_t)initrd);
	le32_put(zp + HDR_RAMDISK_SIZE, initrd ? (uint32_t)p->initrd.len : 0);
	if (!boot_put(p, LOW_ZERO_PAGE, zp, ZP_SIZE))
		return err_set(e, ERR_INVAL, "the guest has no RAM at 0x%x for the kernel's zero page",
					   LOW_ZERO_PAGE);
	return 0;
}
