/* Tests of the boot loaders on images made here: good ones, ones cut at every
 * length, and ones that lie. Each image stands at the end of its own allocation, so
 * that the sanitizers see a read past it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/base/le.h"
#include "core/boot/elf.h"
#include "core/boot/entry.h"
#include "core/boot/linux.h"
#include "core/x86/regs.h"

#define RAM MIB(16)

struct guest {
	struct mem_space mem;
	struct mem_region ram;
	struct boot_range map[3];
	struct boot_params p;
	struct x86_state s;
	struct err e;
};

static int setup(void **state) {
	struct guest *g = calloc(1, sizeof(*g));
	mem_init(&g->mem);
	g->ram = (struct mem_region){
		.name = "ram", .size = RAM, .kind = MEM_RAM, .host = aligned_alloc(4096, RAM)};
	memset(g->ram.host, 0xcc, RAM);
	mem_add(&g->mem, &g->ram);
	g->map[0] = (struct boot_range){0, 0x9f000, BOOT_RAM};
	g->map[1] = (struct boot_range){0xe0000, 0x20000, BOOT_RESERVED};
	g->map[2] = (struct boot_range){MIB(1), RAM - MIB(1), BOOT_RAM};
	g->p = (struct boot_params){.mem = &g->mem,
								.append = "quiet",
								.map = g->map,
								.nmap = 3,
								.low_end = RAM,
								.rsdp = 0xe0000};
	*state = g;
	return 0;
}

static int teardown(void **state) {
	struct guest *g = *state;
	free(g->ram.host);
	free(g);
	return 0;
}

static int load(struct guest *g, const uint8_t *image, size_t len) {
	uint8_t *copy = malloc(len ? len : 1);
	if (len)
		memcpy(copy, image, len);
	g->p.kernel = (struct boot_image){.data = copy, .len = len, .name = "test"};
	g->e.text[0] = 0;
	g->s = (struct x86_state){0};
	int r = boot_load(&g->p, &g->s, &g->e);
	assert_true(r == 0 || strlen(g->e.text) > 10);
	free(copy);
	return r;
}

static void refused(struct guest *g, const uint8_t *image, size_t len, const char *word) {
	assert_true(load(g, image, len) < 0);
	if (!strstr(g->e.text, word))
		fail_msg("\"%s\" does not say \"%s\"", g->e.text, word);
}

#define BZ_LEN (512 * 3 + 4096)

static void make_bzimage(uint8_t d[BZ_LEN]) {
	memset(d, 0, BZ_LEN);
	d[HDR_SETUP_SECTS] = 2;
	le32_put(d + HDR_SYSSIZE, 4096 / 16);
	le16_put(d + HDR_BOOT_FLAG, LINUX_BOOT_FLAG);
	d[HDR_JUMP] = 0xeb;
	d[HDR_JUMP + 1] = 0x6a;
	le32_put(d + HDR_MAGIC, LINUX_MAGIC);
	le16_put(d + HDR_VERSION, 0x20f);
	d[HDR_LOADFLAGS] = LOADED_HIGH;
	le32_put(d + HDR_INITRD_ADDR_MAX, 0x7fffffff);
	le32_put(d + HDR_KERNEL_ALIGNMENT, MIB(2));
	d[HDR_RELOCATABLE] = 1;
	le16_put(d + HDR_XLOADFLAGS, XLF_KERNEL_64);
	le32_put(d + HDR_CMDLINE_SIZE, 2047);
	le64_put(d + HDR_PREF_ADDRESS, MIB(8));
	le32_put(d + HDR_INIT_SIZE, MIB(4));
	memset(d + 512 * 3, 0x90, 4096);
}

static void test_bzimage(void **state) {
	struct guest *g = *state;
	uint8_t d[BZ_LEN], initrd[5000];
	make_bzimage(d);
	memset(initrd, 0x77, sizeof(initrd));
	g->p.initrd = (struct boot_image){.data = initrd, .len = sizeof(initrd)};
	assert_int_equal(load(g, d, sizeof(d)), 0);
	const uint8_t *ram = g->ram.host, *zp = ram + LOW_ZERO_PAGE;
	assert_memory_equal(ram + MIB(8), d + 512 * 3, 4096);
	assert_int_equal(g->s.rip, MIB(8) + 0x200);
	assert_int_equal(g->s.gpr[RSI], LOW_ZERO_PAGE);
	assert_int_equal(g->s.efer, EFER_LME | EFER_LMA);
	assert_true(g->s.seg[SEG_CS].attr & SEG_ATTR_L);
	assert_int_equal(g->s.seg[SEG_CS].sel, 0x10);
	assert_int_equal(g->s.rflags, 2);
	assert_int_equal(zp[ZP_E820_ENTRIES], 3);
	assert_int_equal(le64_get(zp + ZP_E820_TABLE + 40), MIB(1));
	assert_int_equal(le64_get(zp + ZP_ACPI_RSDP), 0xe0000);
	assert_int_equal(le16_get(zp + HDR_VERSION), 0x20f);
	assert_int_equal(zp[HDR_TYPE_OF_LOADER], 0xff);
	assert_string_equal((const char *)ram + le32_get(zp + HDR_CMD_LINE_PTR), "quiet");
	uint32_t at = le32_get(zp + HDR_RAMDISK_IMAGE);
	assert_int_equal(le32_get(zp + HDR_RAMDISK_SIZE), sizeof(initrd));
	assert_int_equal(at, align_down(RAM - sizeof(initrd), 4096));
	assert_memory_equal(ram + at, initrd, sizeof(initrd));
	/* The entry's page tables map its own address to itself. */
	const uint8_t *pml4 = ram + g->s.cr3, *pdpt = ram + (le64_get(pml4) & ~0xfffull);
	const uint8_t *pd = ram + (le64_get(pdpt) & ~0xfffull);
	assert_int_equal(le64_get(pd + 8 * 4), MIB(8) | PTE_P | PTE_W | PTE_PS);
}

struct reader {
	const uint8_t *data;
	unsigned reads, fail_at;
};

static bool read_part(void *opaque, uint64_t off, void *buf, size_t n) {
	struct reader *r = opaque;
	memcpy(buf, r->data + off, n);
	return ++r->reads != r->fail_at;
}

/* Images that are read piece by piece: the same guest as from memory, and a file that fails at any
 * of its reads is said to. */
static void test_reader(void **state) {
	struct guest *g = *state;
	uint8_t d[BZ_LEN], initrd[5000], *want = malloc(RAM);
	struct reader kernel = {.data = d}, rd = {.data = initrd};
	make_bzimage(d);
	memset(initrd, 0x77, sizeof(initrd));
	g->p.initrd = (struct boot_image){.data = initrd, .len = sizeof(initrd)};
	assert_int_equal(load(g, d, sizeof(d)), 0);
	memcpy(want, g->ram.host, RAM);
	memset(g->ram.host, 0xcc, RAM); /* as setup() */
	g->p.kernel = (struct boot_image){
		.len = sizeof(d), .name = "vmlinuz", .read = read_part, .opaque = &kernel};
	g->p.initrd =
		(struct boot_image){.len = sizeof(initrd), .name = "rd", .read = read_part, .opaque = &rd};
	assert_int_equal(boot_load(&g->p, &g->s, &g->e), 0);
	assert_memory_equal(want, g->ram.host, RAM);
	for (unsigned n = kernel.reads; n; n--) {
		kernel.reads = 0;
		kernel.fail_at = n;
		assert_int_equal(boot_load(&g->p, &g->s, &g->e), -ERR_IO);
		assert_non_null(strstr(g->e.text, "vmlinuz cannot be read"));
	}
	kernel.fail_at = 0;
	rd = (struct reader){initrd, 0, 1};
	assert_int_equal(boot_load(&g->p, &g->s, &g->e), -ERR_IO);
	assert_non_null(strstr(g->e.text, "rd cannot be read"));
	free(want);
}

static void test_bzimage_32(void **state) {
	struct guest *g = *state;
	uint8_t d[BZ_LEN];
	make_bzimage(d);
	le16_put(d + HDR_XLOADFLAGS, 0);
	assert_int_equal(load(g, d, sizeof(d)), 0);
	assert_int_equal(g->s.rip, MIB(8));
	assert_int_equal(g->s.gpr[RSI], LOW_ZERO_PAGE);
	assert_int_equal(g->s.gpr[RBP] | g->s.gpr[RDI] | g->s.gpr[RBX], 0);
	assert_int_equal(g->s.efer, 0);
	assert_int_equal(g->s.cr0 & (CR0_PE | CR0_PG), CR0_PE);
	assert_int_equal(g->s.seg[SEG_CS].sel, 0x10);
	assert_int_equal(g->s.seg[SEG_DS].sel, 0x18);
	assert_int_equal(g->s.seg[SEG_CS].attr & (SEG_ATTR_L | SEG_ATTR_DB), SEG_ATTR_DB);
}

static void test_bzimage_moves(void **state) {
	struct guest *g = *state;
	uint8_t d[BZ_LEN];
	make_bzimage(d);
	le64_put(d + HDR_PREF_ADDRESS, MIB(15));
	assert_int_equal(load(g, d, sizeof(d)), 0);
	assert_int_equal(g->s.rip, MIB(2) + 0x200);
	d[HDR_RELOCATABLE] = 0;
	refused(g, d, sizeof(d), "--memory");
}

static void test_bzimage_truncated(void **state) {
	struct guest *g = *state;
	uint8_t d[BZ_LEN];
	make_bzimage(d);
	for (size_t len = 0; len + 15 < sizeof(d); len++)
		refused(g, d, len, len < HDR_VERSION + 2 ? "not a kernel" : "truncated");
	assert_int_equal(load(g, d, sizeof(d) - 15), 0); /* the padding may be missing */
}

static void test_bzimage_refused(void **state) {
	struct guest *g = *state;
	uint8_t d[BZ_LEN];
	make_bzimage(d);
	le16_put(d + HDR_VERSION, 0x20b);
	refused(g, d, sizeof(d), "2.11");
	make_bzimage(d);
	le32_put(d + HDR_SYSSIZE, 0xffffffff);
	refused(g, d, sizeof(d), "truncated");
	make_bzimage(d);
	le32_put(d + HDR_SYSSIZE, 0);
	refused(g, d, sizeof(d), "truncated");
	make_bzimage(d);
	le32_put(d + HDR_INIT_SIZE, 0xffffffff);
	refused(g, d, sizeof(d), "4096 MiB");
	make_bzimage(d);
	le64_put(d + HDR_PREF_ADDRESS, UINT64_MAX - 100);
	le32_put(d + HDR_KERNEL_ALIGNMENT, 0x80000000);
	refused(g, d, sizeof(d), "--memory");
	make_bzimage(d);
	le32_put(d + HDR_CMDLINE_SIZE, 4);
	refused(g, d, sizeof(d), "command line has 5 characters");
	make_bzimage(d);
	uint8_t *big = calloc(1, RAM);
	g->p.initrd = (struct boot_image){.data = big, .len = RAM, .name = "initrd.img"};
	refused(g, d, sizeof(d), "initrd initrd.img has 16384 KiB, but only 4096 KiB");
	g->p.initrd.len = MIB(4) + 1;
	refused(g, d, sizeof(d), "initrd");
	g->p.initrd.len = MIB(4);
	assert_int_equal(load(g, d, sizeof(d)), 0);
	le32_put(d + HDR_INITRD_ADDR_MAX, 0);
	refused(g, d, sizeof(d), "initrd");
	g->p.initrd = (struct boot_image){0};
	free(big);
	memset(d, 0x5a, sizeof(d));
	refused(g, d, sizeof(d), "5a 5a 5a 5a");
	d[0] = 0x1f, d[1] = 0x8b;
	refused(g, d, sizeof(d), "gzip");
}

#define ELF_LEN 1024

/* Two segments, and a note if `pvh`. */
static void make_elf(uint8_t d[ELF_LEN], bool pvh) {
	memset(d, 0, ELF_LEN);
	le32_put(d, ELF_MAGIC);
	d[ELF_CLASS] = ELF_CLASS64;
	d[ELF_DATA] = ELF_LSB;
	le16_put(d + 18, EM_X86_64);
	le64_put(d + 24, 0xffffffff80200010);
	le64_put(d + 32, 64);
	le16_put(d + 54, 56);
	le16_put(d + 56, pvh ? 2 : 1);
	uint8_t *h = d + 64;
	le32_put(h, PT_LOAD);
	le64_put(h + 8, 512);
	le64_put(h + 16, 0xffffffff80200000);
	le64_put(h + 24, MIB(2));
	le64_put(h + 32, 512);
	le64_put(h + 40, 8192);
	memset(d + 512, 0x90, 512);
	h += 56;
	le32_put(h, PT_NOTE);
	le64_put(h + 8, 256);
	le64_put(h + 32, 40);
	le64_put(h + 48, 4);
	uint8_t *n = d + 256;
	le32_put(n, 4);
	le32_put(n + 4, 4);
	le32_put(n + 8, 6); /* another one first */
	memcpy(n + 12, "Xen", 4);
	n += 20;
	le32_put(n, 4);
	le32_put(n + 4, 4);
	le32_put(n + 8, NOTE_PHYS32_ENTRY);
	memcpy(n + 12, "Xen", 4);
	le32_put(n + 16, 0x200020);
}

static void test_pvh(void **state) {
	struct guest *g = *state;
	uint8_t d[ELF_LEN], initrd[100] = {1};
	make_elf(d, true);
	g->p.initrd = (struct boot_image){.data = initrd, .len = sizeof(initrd)};
	assert_int_equal(load(g, d, sizeof(d)), 0);
	const uint8_t *ram = g->ram.host;
	assert_int_equal(g->s.rip, 0x200020);
	assert_int_equal(g->s.cr0, CR0_PE | CR0_ET);
	assert_int_equal(g->s.efer, 0);
	assert_int_equal(ram[MIB(2)], 0x90);
	assert_int_equal(ram[MIB(2) + 512], 0);
	assert_int_equal(ram[MIB(2) + 8191], 0);
	assert_int_equal(ram[MIB(2) + 8192], 0xcc);
	const uint8_t *si = ram + g->s.gpr[RBX];
	assert_int_equal(le32_get(si), START_INFO_MAGIC);
	assert_int_equal(le32_get(si + 12), 1);
	const uint8_t *mod = ram + le64_get(si + 16);
	assert_memory_equal(ram + le64_get(mod), initrd, sizeof(initrd));
	assert_int_equal(le64_get(mod + 8), sizeof(initrd));
	assert_string_equal((const char *)ram + le64_get(si + 24), "quiet");
	assert_int_equal(le64_get(si + 32), 0xe0000);
	assert_int_equal(le32_get(si + 48), 3);
	assert_int_equal(le32_get(ram + le64_get(si + 40) + 24 + 16), BOOT_RESERVED);
}

static void test_vmlinux(void **state) {
	struct guest *g = *state;
	uint8_t d[ELF_LEN];
	make_elf(d, false);
	assert_int_equal(load(g, d, sizeof(d)), 0);
	assert_int_equal(g->s.rip, MIB(2) + 0x10);
	assert_int_equal(g->s.gpr[RSI], LOW_ZERO_PAGE);
	assert_int_equal(le32_get(g->ram.host + LOW_ZERO_PAGE + HDR_MAGIC), LINUX_MAGIC);
	le64_put(d + 24, MIB(2) + 0x20);
	assert_int_equal(load(g, d, sizeof(d)), 0);
	assert_int_equal(g->s.rip, MIB(2) + 0x20);
}

static void test_elf_refused(void **state) {
	struct guest *g = *state;
	uint8_t d[ELF_LEN];
	make_elf(d, true);
	for (size_t len = 0; len < sizeof(d); len++)
		assert_true(load(g, d, len) < 0);
	le16_put(d + 18, 183);
	refused(g, d, sizeof(d), "not for x86");
	make_elf(d, true);
	le64_put(d + 64 + 24, 0x1000); /* over the loader's own tables */
	refused(g, d, sizeof(d), "from 1 MiB");
	make_elf(d, true);
	le64_put(d + 64 + 40, UINT64_MAX - 5);
	refused(g, d, sizeof(d), "16 MiB");
	make_elf(d, true);
	le64_put(d + 64 + 32, 8193); /* more in the file than in memory */
	refused(g, d, sizeof(d), "damaged");
	make_elf(d, true);
	le64_put(d + 32, UINT64_MAX - 3);
	refused(g, d, sizeof(d), "program header");
	make_elf(d, true);
	le32_put(d + 256, 0xfffffff0); /* a note's name without end */
	refused(g, d, sizeof(d), "note");
	make_elf(d, true);
	le32_put(d + 64, 0);
	refused(g, d, sizeof(d), "PT_LOAD");
}

static void test_flat(void **state) {
	struct guest *g = *state;
	static const uint8_t code[] = {0xf4, 1, 2, 3};
	g->p.format = BOOT_FLAT_REAL;
	assert_int_equal(load(g, code, 4), 0);
	assert_int_equal(g->s.rip, 0x7c00);
	assert_memory_equal(g->ram.host + 0x7c00, code, 4);
	g->p.flat_at = 0x98765;
	assert_int_equal(load(g, code, 4), 0);
	assert_int_equal(g->s.seg[SEG_CS].base + g->s.rip, 0x98765);
	g->p.flat_at = MIB(1);
	refused(g, code, 4, "real-mode");
	g->p.flat_at = 0;
	g->p.format = BOOT_FLAT_PROT32;
	assert_int_equal(load(g, code, 4), 0);
	assert_int_equal(g->s.rip, MIB(1));
	g->p.format = BOOT_FLAT_LONG64;
	assert_int_equal(load(g, code, 4), 0);
	assert_true(g->s.efer & EFER_LMA);
	g->p.flat_at = RAM - 3;
	refused(g, code, 4, "do not fit");
	g->p.flat_at = GIB(8);
	refused(g, code, 4, "4 GiB");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
	const struct CMUnitTest tests[] = {
		TEST(test_bzimage),
		TEST(test_bzimage_32),
		TEST(test_bzimage_moves),
		TEST(test_bzimage_truncated),
		TEST(test_bzimage_refused),
		TEST(test_pvh),
		TEST(test_vmlinux),
		TEST(test_elf_refused),
		TEST(test_flat),
		TEST(test_reader),
	};
	return cmocka_run_group_tests_name("boot", tests, NULL, NULL);
}
