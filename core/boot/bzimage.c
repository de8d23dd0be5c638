/* Linux bzImage by the x86 boot protocol (Documentation/arch/x86/boot.rst): the real-mode setup
 * code is not run, its header is copied to the zero page and the protected-mode part is entered
 * with RSI = zero page: at its start + 0x200 in long mode or, where the kernel is a 32-bit one, at
 * its start in flat protected mode.
 *
 * Every field of the header is hostile. Left out: the 16-bit entry, the 32-bit one of 64-bit
 * kernels (from 3.8 on they have the other), and loading above 4 GiB. */
#include "core/base/bits.h"
#include "core/base/le.h"
#include "core/base/string.h"
#include "core/boot/entry.h"
#include "core/boot/linux.h"

#define ENTRY64 0x200
#define VERSION_MIN 0x20c /* the first with xloadflags */

struct header {
	uint64_t setup_len, kernel_len; /* bytes in the file */
	uint64_t load_at, init_size;	/* memory the kernel uses until it reads its map */
	uint64_t initrd_end, cmdline_max;
	unsigned end;				/* of the header in the file */
	unsigned entry;				/* from load_at: ENTRY64, or 0 in protected mode */
	uint8_t bytes[HDR_MAX_END]; /* the file's first, read once */
};

static int truncated(const struct boot_image *k, uint64_t want, struct err *e) {
	return err_set(e, ERR_INVAL,
				   "%s is truncated: its header speaks of %llu bytes, the file has %zu; "
				   "copy it again",
				   boot_name(k, "the kernel"), (unsigned long long)want, k->len);
}

static int read_header(const struct boot_params *p, struct header *h, struct err *e) {
	const struct boot_image *k = &p->kernel;
	const uint8_t *d = h->bytes;
	if (k->len < HDR_END)
		return truncated(k, HDR_END, e);
	int r = boot_get_image(k, 0, h->bytes, MIN(k->len, sizeof(h->bytes)), e);
	if (r)
		return r;
	unsigned version = le16_get(d + HDR_VERSION);
	if (version < VERSION_MIN)
		return err_set(e, ERR_NOTSUP,
					   "%s is too old: boot protocol %u.%02u, needed is 2.12 (Linux 3.8)",
					   boot_name(k, "the kernel"), version >> 8, version & 0xff);
	h->entry = le16_get(d + HDR_XLOADFLAGS) & XLF_KERNEL_64 ? ENTRY64 : 0;
	h->end = HDR_JUMP + 2 + d[HDR_JUMP + 1];
	if (h->end < HDR_END)
		h->end = HDR_END;
	if (h->end > HDR_MAX_END)
		h->end = HDR_MAX_END;

	unsigned sects = d[HDR_SETUP_SECTS] ? d[HDR_SETUP_SECTS] : 4;
	h->setup_len = (sects + 1) * 512;
	h->kernel_len = (uint64_t)le32_get(d + HDR_SYSSIZE) * 16;
	/* The size is rounded up to 16, which not every build pads the file to. */
	if (h->kernel_len < 16 + ENTRY64 || k->len + 15 < h->setup_len + h->kernel_len)
		return truncated(k, h->setup_len + h->kernel_len, e);
	h->kernel_len = MIN(h->kernel_len, k->len - h->setup_len);

	h->load_at = le64_get(d + HDR_PREF_ADDRESS);
	h->init_size = MAX((uint64_t)le32_get(d + HDR_INIT_SIZE), h->kernel_len);
	h->initrd_end = (uint64_t)le32_get(d + HDR_INITRD_ADDR_MAX) + 1;
	h->cmdline_max = le32_get(d + HDR_CMDLINE_SIZE);
	return 0;
}

static bool fits(const struct boot_params *p, const struct header *h, uint64_t at) {
	return at >= HIGH_START && at <= p->low_end && h->init_size <= p->low_end - at;
}

/* Where it prefers to be, else, if it can move, as low as it can. */
static int choose_address(const struct boot_params *p, struct header *h, struct err *e) {
	const uint8_t *d = h->bytes;
	uint64_t align = le32_get(d + HDR_KERNEL_ALIGNMENT);
	if (fits(p, h, h->load_at))
		return 0;
	if (d[HDR_RELOCATABLE] && is_pow2(align) && align >= PAGE_SIZE) {
		uint64_t low = align_up(HIGH_START, align);
		if (fits(p, h, low)) {
			h->load_at = low;
			return 0;
		}
	}
	return err_set(e, ERR_FBIG,
				   "%s needs %llu MiB of memory at 0x%llx, the guest's ends at %llu MiB: "
				   "give the guest more --memory",
				   boot_name(&p->kernel, "the kernel"),
				   (unsigned long long)((h->init_size + MIB(1) - 1) >> 20),
				   (unsigned long long)h->load_at, (unsigned long long)(p->low_end >> 20));
}

int boot_bzimage(const struct boot_params *p, struct x86_state *state, struct err *e) {
	struct header h = {0};
	gpa_t initrd = 0;
	int r = read_header(p, &h, e);
	if (!r)
		r = choose_address(p, &h, e);
	if (!r)
		r = boot_put_cmdline(p, h.cmdline_max, e);
	if (!r)
		r = boot_put_initrd(p, h.load_at + h.init_size, h.initrd_end, &initrd, e);
	if (r)
		return r;
	r = boot_put_image(p, h.load_at, &p->kernel, h.setup_len, h.kernel_len, e);
	if (r)
		return r;

	uint8_t zp[ZP_SIZE] = {0};
	memcpy(zp + HDR_START, h.bytes + HDR_START, h.end - HDR_START);
	le64_put(zp + HDR_SETUP_DATA, 0);
	r = boot_put_zero_page(p, zp, initrd, e);
	if (!r && h.entry)
		r = boot_enter_long64(p, state, h.load_at + h.entry, e);
	else if (!r) /* below 4 GiB: boot_params.low_end is */
		r = boot_enter_prot32(p, state, (uint32_t)h.load_at, e);
	state->gpr[RSI] = LOW_ZERO_PAGE;
	return r;
}
