/* See fuzz_boot.h. */
#include "test/fuzz/fuzz_boot.h"

#include <stdlib.h>
#include <string.h>

#define RAM (4u << 20)

static _Alignas(4096) uint8_t ram[RAM];

void fuzz_boot(const uint8_t *image, size_t len, bool initrd,
			   int (*load)(const struct boot_params *p, struct x86_state *s, struct err *e)) {
	static const uint8_t rd[5000] = {0};
	static const struct boot_range map[] = {{0, 0x9f000, BOOT_RAM},
											{0x100000, RAM - 0x100000, BOOT_RAM}};
	struct mem_space mem;
	struct mem_region region = {.name = "ram", .size = RAM, .kind = MEM_RAM, .host = ram};
	struct boot_params p = {.mem = &mem,
							.kernel = {.data = image, .len = len, .name = "fuzz"},
							.append = "console=ttyS0",
							.map = map,
							.nmap = 2,
							.low_end = RAM,
							.rsdp = 0xe0000};
	struct x86_state s;
	struct err e = {{0}};
	if (initrd)
		p.initrd = (struct boot_image){.data = rd, .len = sizeof(rd)};
	memset(&s, 0, sizeof(s));
	mem_init(&mem);
	mem_add(&mem, &region);
	int r = load(&p, &s, &e);
	if (r > 0 || (r < 0 && !e.text[0]) || (r == 0 && s.activity != CPU_RUNNING))
		abort();
}
