/* What firmware would have done before a kernel starts: the memory map, the ACPI
 * tables at E0000h, memory types, virtual wire mode, and the kernel itself. */
#include "core/acpi/acpi.h"
#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/board/board.h"
#include "core/board/parts.h"
#include "core/x86/cpuid.h"

#define EBDA 0x9fc00u /* where RAM ends for a PC's software */
#define TABLES 0xe0000u
#define TABLES_SIZE 0x20000u

#define MTRR_ENABLED BIT(11)
#define MTRR_WRITE_BACK 6

static unsigned memory_map(const struct board *b, struct boot_range map[BOOT_RANGES]) {
	unsigned n = 0;
	map[n++] = (struct boot_range){0, EBDA, BOOT_RAM};
	map[n++] = (struct boot_range){TABLES, TABLES_SIZE, BOOT_RESERVED};
	map[n++] = (struct boot_range){MIB(1), b->low_end - MIB(1), BOOT_RAM};
	if (b->acpi.ecam_base)
		map[n++] = (struct boot_range){b->acpi.ecam_base, MIB(1), BOOT_RESERVED};
	if (b->ram_high.size)
		map[n++] = (struct boot_range){b->ram_high.base, b->ram_high.size, BOOT_RAM};
	return n;
}

static int put_tables(struct board *b, struct err *e) {
	struct mem_segment s = mem_segment(&b->vm->mem, TABLES, TABLES_SIZE, true);
	check(s.host && s.len == TABLES_SIZE);
	int64_t len = acpi_build(&b->acpi, s.host, TABLES_SIZE, TABLES, e);
	mem_written(&b->vm->mem, TABLES, TABLES_SIZE);
	return len < 0 ? (int)len : 0;
}

/* On every processor, as firmware leaves them: everything is write-back unless page
 * tables say otherwise. And the processor's signature, that reset leaves in EDX. */
static void set_registers(struct board *b) {
	for (unsigned i = 0; i < b->vm->nvcpus; i++) {
		struct x86_state *s = &b->vm->vcpus[i]->state;
		s->mtrr_def_type = MTRR_ENABLED | MTRR_WRITE_BACK;
		if (b->config.cpuid)
			s->gpr[RDX] = b->config.cpuid->signature;
	}
}

int board_load(struct board *b, struct err *e) {
	struct boot_range map[BOOT_RANGES];
	const struct board_config *c = &b->config;
	set_registers(b);
	if (!boot_image_present(&c->kernel))
		return 0;
	int r = put_tables(b, e);
	if (r)
		return r;
	lapic_virtual_wire(&b->lapic[0]);
	const struct boot_params p = {
		.mem = &b->vm->mem,
		.kernel = c->kernel,
		.initrd = c->initrd,
		.append = c->append ? c->append : "",
		.format = c->force,
		.flat_at = c->flat_at,
		.map = map,
		.nmap = memory_map(b, map),
		.low_end = b->low_end,
		.rsdp = TABLES,
	};
	return boot_load(&p, &b->vm->vcpus[0]->state, e);
}
