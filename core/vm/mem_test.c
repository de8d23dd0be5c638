#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/vm/mem.h"

/* A chip that remembers its last access and answers with its own bytes. */
struct chip {
	uint8_t bytes[0x2000];
	unsigned reads, writes, last_size;
	uint64_t last_off;
};

static uint64_t chip_read(void *dev, uint64_t off, unsigned size) {
	struct chip *c = dev;
	uint64_t v = 0;
	c->reads++;
	c->last_off = off;
	c->last_size = size;
	memcpy(&v, c->bytes + off, size);
	return v | (size < 8 ? ~0ull << (size * 8) : 0); /* junk above must be ignored */
}

static void chip_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
	struct chip *c = dev;
	c->writes++;
	c->last_off = off;
	c->last_size = size;
	memcpy(c->bytes + off, &val, size);
}

static const struct io_ops any_ops = {chip_read, chip_write, 0, 0};
static const struct io_ops dword_ops = {chip_read, chip_write, 4, 4};
static const struct io_ops byte_ops = {chip_read, chip_write, 1, 1};

static uint8_t ram_bytes[0x10000] __attribute__((aligned(4096)));
static uint8_t rom_bytes[0x2000] __attribute__((aligned(4096)));
static struct mem_space m;
static struct mem_region ram, rom, mmio;
static struct chip chip;
static unsigned changes, rings;

static void rung(void *opaque) {
	rings++;
}

static uint64_t written_bytes;

static void changed(void *opaque) {
	changes++;
}

static void written(void *opaque, gpa_t gpa, uint64_t len) {
	written_bytes += len;
}

static int setup(void **state) {
	mem_init(&m);
	memset(&chip, 0, sizeof(chip));
	memset(ram_bytes, 0, sizeof(ram_bytes));
	memset(rom_bytes, 0xc3, sizeof(rom_bytes));
	changes = rings = 0;
	written_bytes = 0;
	m.listener = (struct mem_listener){changed, written, rung, &m};
	ram = (struct mem_region){
		"ram", 0, sizeof(ram_bytes), MEM_RAM, 0, ram_bytes, NULL, NULL, 0, NULL, 0, 0};
	rom = (struct mem_region){"rom", 0x4000, 0x2000, MEM_ROM, 1, rom_bytes,
							  NULL,	 NULL,	 0,		 NULL,	  0, 0};
	mmio = (struct mem_region){"chip",	 0x8000, 0x2000, MEM_MMIO, 2, NULL,
							   &any_ops, &chip,	 0,		 NULL,	   0, 0};
	mem_add(&m, &ram);
	mem_add(&m, &rom);
	mem_add(&m, &mmio);
	return 0;
}

static void overlays_split_ranges(void **state) {
	assert_int_equal(changes, 3);
	assert_int_equal(m.nflat, 6);
	struct mem_range r = mem_find(&m, 0x3fff);
	assert_ptr_equal(r.region, &ram);
	assert_int_equal(r.start, 0);
	assert_int_equal(r.end, 0x4000);
	assert_ptr_equal(mem_find(&m, 0x4000).region, &rom);
	assert_ptr_equal(mem_find(&m, 0x6000).region, &ram);
	assert_ptr_equal(mem_find(&m, 0x9fff).region, &mmio);
	assert_ptr_equal(mem_find(&m, 0x10000).region, NULL);
	assert_ptr_equal(mem_find(&m, UINT64_MAX).region, NULL);
	mem_remove(&m, &rom);
	mem_remove(&m, &mmio);
	assert_int_equal(m.nflat, 2);
	assert_int_equal(mem_find(&m, 0x4000).end, 0x10000);
	mem_remove(&m, &ram);
	assert_int_equal(m.nflat, 1);
}

static void segments_stay_within(void **state) {
	struct mem_segment s = mem_segment(&m, 0x3ff0, 0x100, true);
	assert_ptr_equal(s.host, ram_bytes + 0x3ff0);
	assert_int_equal(s.len, 0x10);
	assert_null(mem_segment(&m, 0x4000, 1, true).host);
	assert_ptr_equal(mem_segment(&m, 0x4001, 1, false).host, rom_bytes + 1);
	assert_null(mem_segment(&m, 0x8000, 1, false).host);
	assert_null(mem_segment(&m, UINT64_MAX, UINT64_MAX, false).host);
}

static void copies_cross_regions(void **state) {
	uint8_t buf[0x40];
	ram_bytes[0x3fff] = 0x11;
	assert_true(mem_read(&m, 0x3fff, buf, 2));
	assert_int_equal(buf[0], 0x11);
	assert_int_equal(buf[1], 0xc3);
	assert_false(mem_write(&m, 0x3fff, buf, 2)); /* into ROM */
	assert_int_equal(rom_bytes[0], 0xc3);
	assert_false(mem_read(&m, 0x7ff0, buf, 0x40)); /* into MMIO */
	assert_false(mem_read(&m, 0xfff0, buf, 0x40)); /* past the end */
	assert_false(mem_read(&m, UINT64_MAX - 1, buf, 0x40));
	assert_false(mem_write(&m, 0x1000, buf, UINT64_MAX));
	assert_true(mem_write(&m, 0x1000, buf, 0));
}

static void a20_is_a_change_of_the_map(void **state) {
	unsigned before = changes;
	assert_true(mem_a20_mask(&m) == ~0ull);
	mem_set_a20(&m, true);
	assert_int_equal(changes, before);
	mem_set_a20(&m, false);
	assert_true(mem_a20_mask(&m) == ~0x100000ull);
	mem_set_a20(&m, false);
	assert_int_equal(changes, before + 1);
	mem_set_a20(&m, true);
	assert_true(mem_a20_mask(&m) == ~0ull);
	assert_int_equal(changes, before + 2);
}

static void writes_are_noticed(void **state) {
	uint8_t dirty[1] = {0}, buf[0x1002] = {1};
	m.dirty = dirty;
	m.dirty_pages = 3;
	assert_true(mem_write(&m, 0xfff, buf, sizeof(buf)));
	assert_int_equal(dirty[0], 7);
	assert_int_equal(written_bytes, sizeof(buf));
	dirty[0] = 0;
	mem_written(&m, 0x2fff, UINT64_MAX); /* hostile lengths stop at the bitmap's end */
	assert_int_equal(dirty[0], 4);
}

static void accesses_reach_the_chip(void **state) {
	mem_io_write(&m, 0x8010, 8, 0x1122334455667788ull);
	assert_int_equal(chip.writes, 1);
	assert_int_equal(chip.last_off, 0x10);
	assert_true(mem_io_read(&m, 0x8012, 4) == 0x33445566);
	assert_int_equal(mem_io_read(&m, 0x8010, 3), 0x667788); /* split: 2 + 1 */
	assert_true(mem_io_read(&m, 0x20000, 8) == ~0ull);
	assert_true(mem_io_read(&m, 0x20000, 4) == 0xffffffff);
	mem_io_write(&m, 0x4000, 4, 0);
	assert_int_equal(rom_bytes[0], 0xc3);
	ram_bytes[0x7ffe] = 0xaa;
	ram_bytes[0x7fff] = 0xbb;
	chip.bytes[0] = 0xcc;
	assert_true(mem_io_read(&m, 0x7ffe, 4) == 0x00ccbbaa);
	mem_io_write(&m, 0x9fff, 2, 0x5566);
	assert_int_equal(chip.bytes[0x1fff], 0x66);
	assert_int_equal(ram_bytes[0xa000], 0x55);
	assert_true(mem_io_read(&m, UINT64_MAX, 2) == 0xff); /* wraps to RAM at 0 */
}

static void sizes_are_split_and_widened(void **state) {
	mmio.ops = &dword_ops;
	mem_io_write(&m, 0x8000, 8, 0x8877665544332211ull);
	assert_int_equal(chip.writes, 2);
	assert_int_equal(mem_io_read(&m, 0x8001, 1), 0x22);
	assert_int_equal(chip.last_size, 4);
	assert_int_equal(chip.last_off, 0);
	assert_int_equal(mem_io_read(&m, 0x8003, 2), 0x5544);
	mem_io_write(&m, 0x8002, 1, 0xee);
	assert_int_equal(mem_io_read(&m, 0x8000, 4), 0x44ee2211);
	mmio.ops = &byte_ops;
	chip.writes = 0;
	mem_io_write(&m, 0x8000, 4, 0x01020304);
	assert_int_equal(chip.writes, 4);
	assert_int_equal(mem_io_read(&m, 0x8000, 4), 0x01020304);
}

static void top_of_the_space_is_safe(void **state) {
	struct mem_region top = {
		"top", UINT64_MAX - 0xfff, 0x1000, MEM_MMIO, 2, NULL, &any_ops, &chip, 0, NULL, 0, 0};
	mem_add(&m, &top);
	assert_ptr_equal(mem_find(&m, UINT64_MAX - 1).region, &top);
	mem_io_write(&m, UINT64_MAX - 3, 8, 0);
	mem_remove(&m, &top);
	top.size = UINT64_MAX;
	mem_add(&m, &top);
	assert_ptr_equal(mem_find(&m, UINT64_MAX - 5).region, &top);
	mem_remove(&m, &top);
}

static void ports_dispatch(void **state) {
	struct port_region a = {"a", 0x60, 1, &any_ops, &chip, 0, 0};
	struct port_region b = {"b", 0x61, 4, &byte_ops, &chip, 0, 0};
	struct port_region top = {"top", 0xffff, 1, &any_ops, &chip, 0, 0};
	port_add(&m, &a);
	port_add(&m, &b);
	port_add(&m, &top);
	port_write(&m, 0x61, 4, 0x44332211);
	assert_int_equal(chip.writes, 4);
	assert_int_equal(port_read(&m, 0x61, 2), 0x2211);
	assert_int_equal(port_read(&m, 0x60, 2), 0x1111); /* one byte of each */
	assert_int_equal(port_read(&m, 0x70, 2), 0xffff);
	assert_int_equal(port_read(&m, 0x64, 2), 0xff44);
	assert_true(port_read(&m, 0xffff, 4) == 0xffffff11);
	port_write(&m, 0xffff, 4, 0x99);
	port_remove(&m, &a);
	assert_int_equal(port_read(&m, 0x60, 1), 0xff);
}

static void bells_are_announced(void **state) {
	static const struct mem_bell bells[] = {{0x10, 4, 0}, {0x10, 4, 1}};
	mem_set_bells(&m, &mmio, NULL, 0); /* there were none */
	assert_int_equal(rings, 0);
	mem_set_bells(&m, &mmio, bells, 2);
	assert_int_equal(rings, 1);
	assert_ptr_equal(mem_find(&m, 0x8000).region->bells, bells);
	mem_set_bells(&m, &mmio, NULL, 0);
	assert_int_equal(rings, 2);
	assert_int_equal(mmio.nbells, 0);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(overlays_split_ranges, setup),
		cmocka_unit_test_setup(segments_stay_within, setup),
		cmocka_unit_test_setup(copies_cross_regions, setup),
		cmocka_unit_test_setup(a20_is_a_change_of_the_map, setup),
		cmocka_unit_test_setup(writes_are_noticed, setup),
		cmocka_unit_test_setup(accesses_reach_the_chip, setup),
		cmocka_unit_test_setup(sizes_are_split_and_widened, setup),
		cmocka_unit_test_setup(top_of_the_space_is_safe, setup),
		cmocka_unit_test_setup(ports_dispatch, setup),
		cmocka_unit_test_setup(bells_are_announced, setup),
	};
	return cmocka_run_group_tests_name("mem", tests, NULL, NULL);
}
