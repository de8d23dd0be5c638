/* What all boards have in common: checking the config, RAM, vCPUs, the list of
 * parts, and choosing between pc.c and micro.c. See board.h. */
#include "core/board/board.h"

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/fmt.h"
#include "core/base/string.h"
#include "core/board/parts.h"
#include "core/x86/cpuid.h"

static const struct board_kind *const kinds[] = {&board_pc, &board_micro};

const char *const board_names[] = {"pc", "micro", NULL};

static int check_config(const struct board_config *c, struct err *e) {
	if (c->memory < BOARD_MEMORY_MIN || c->memory > BOARD_MEMORY_MAX)
		return err_set(e, ERR_RANGE, "memory of %llu MiB: a guest can have %llu MiB to %llu GiB",
					   (unsigned long long)(c->memory >> 20), BOARD_MEMORY_MIN >> 20,
					   BOARD_MEMORY_MAX >> 30);
	if (c->memory & PAGE_MASK)
		return err_set(e, ERR_INVAL, "memory of %llu bytes is not a multiple of 4 KiB",
					   (unsigned long long)c->memory);
	if (c->cpuid && c->memory > BIT(c->cpuid->phys_bits) - GIB(1))
		return err_set(e, ERR_RANGE, "memory of %llu MiB is more than CPU model %s can address",
					   (unsigned long long)(c->memory >> 20), c->cpuid->model);
	if (!c->cpus || c->cpus > VM_VCPUS)
		return err_set(e, ERR_RANGE, "%u CPUs: a guest can have 1 to %u", c->cpus, VM_VCPUS);
	if (c->ndisks > BOARD_DISKS)
		return err_set(e, ERR_RANGE, "%u disks: a guest can have up to %u", c->ndisks, BOARD_DISKS);
	if (c->nnets > BOARD_NETS)
		return err_set(e, ERR_RANGE, "%u network cards: a guest can have up to %u", c->nnets,
					   BOARD_NETS);
	if (c->nchannels > BOARD_CHANNELS)
		return err_set(e, ERR_RANGE, "%u channels: a guest can have up to %u", c->nchannels,
					   BOARD_CHANNELS);
	return 0;
}

static const struct board_kind *find_kind(const char *name) {
	for (unsigned i = 0; i < ARRAY_LEN(kinds); i++)
		if (str_eq(name, kinds[i]->name))
			return kinds[i];
	return NULL;
}

/* RAM up to the hole that PCI and the chips use below 4 GiB, the rest from 4 GiB on. */
static void add_ram(struct board *b, uint8_t *ram) {
	uint64_t low = MIN(b->config.memory, RAM_LOW_MAX), high = b->config.memory - low;
	b->low_end = low;
	b->ram_low =
		(struct mem_region){.name = "ram", .base = 0, .size = low, .kind = MEM_RAM, .host = ram};
	mem_add(&b->vm->mem, &b->ram_low);
	if (!high)
		return;
	b->ram_high = (struct mem_region){
		.name = "ram-high", .base = GIB(4), .size = high, .kind = MEM_RAM, .host = ram + low};
	mem_add(&b->vm->mem, &b->ram_high);
}

static int add_vcpus(struct board *b, struct err *e) {
	struct vm *vm = b->vm;
	vm->cpuid = b->config.cpuid;
	b->lapic = vm_alloc(vm, b->config.cpus * sizeof(*b->lapic));
	for (unsigned i = 0; i < b->config.cpus; i++) {
		if (!b->lapic || !vcpu_create(vm, i))
			return err_set(e, ERR_NOMEM, "no memory for %u vCPUs", b->config.cpus);
	}
	return 0;
}

int board_create(struct vm *vm, uint8_t *ram, const struct board_config *config, struct board **out,
				 struct err *e) {
	const struct board_kind *kind = find_kind(config->board);
	if (!kind)
		return err_set(e, ERR_INVAL, "no board is called \"%s\": there are pc and micro",
					   config->board);
	int r = check_config(config, e);
	if (r)
		return r;
	struct board *b = vm_alloc(vm, sizeof(*b));
	if (!b)
		return err_set(e, ERR_NOMEM, "no memory for the board");
	b->vm = vm;
	b->kind = kind;
	b->config = *config;
	add_ram(b, ram);
	r = add_vcpus(b, e);
	if (r)
		return r;
	board_wire_cpus(b);
	r = kind->create(b, e);
	if (r)
		return r;
	*out = b;
	return 0;
}

unsigned board_phys_bits(const struct board *b) {
	return b->config.cpuid ? b->config.cpuid->phys_bits : 48;
}

void board_add_mmio(struct board *b, struct mem_region *r, const char *name, gpa_t base,
					uint64_t size, const struct io_ops *ops, void *dev) {
	*r = (struct mem_region){.name = name,
							 .base = base,
							 .size = size,
							 .kind = MEM_MMIO,
							 .priority = 1,
							 .ops = ops,
							 .dev = dev};
	mem_add(&b->vm->mem, r);
	board_part(b, name, "memory %llx", (unsigned long long)base);
}

void board_add_port(struct board *b, struct port_region *r, const char *name, uint16_t base,
					uint32_t size, const struct io_ops *ops, void *dev) {
	*r = (struct port_region){.name = name, .base = base, .size = size, .ops = ops, .dev = dev};
	port_add(&b->vm->mem, r);
	board_part(b, name, "port %x", base);
}

void board_part(struct board *b, const char *name, const char *fmt, ...) {
	check(b->nparts < BOARD_PARTS);
	struct board_part *p = &b->parts[b->nparts++];
	va_list ap;
	p->name = name;
	va_start(ap, fmt);
	fmt_vtext(p->where, sizeof(p->where), fmt, ap);
	va_end(ap);
}

void board_list(struct board *b, void (*line)(void *out, const char *name, const char *where),
				void *out) {
	for (unsigned i = 0; i < b->nparts; i++)
		line(out, b->parts[i].name, b->parts[i].where);
}

struct char_device board_serial_device(struct board *b) {
	return ns16550_char_device(&b->com1);
}

struct char_device board_console_device(struct board *b) {
	return b->console && b->first_channel ? virtio_console_port(b->console, 0)
										  : (struct char_device){0};
}

struct char_device board_channel_device(struct board *b, unsigned i) {
	check(i < b->config.nchannels);
	return virtio_console_port(b->console, b->first_channel + i);
}

bool board_set_balloon(struct board *b, uint64_t bytes) {
	if (!b->balloon)
		return false;
	virtio_balloon_set_target(b->balloon, bytes);
	return virtio_device_live(virtio_balloon_device(b->balloon));
}

void board_balloon(struct board *b, uint64_t *target, uint64_t *actual, uint64_t *reported) {
	struct virtio_balloon_stats s = {0, 0, 0};
	if (b->balloon)
		virtio_balloon_get_stats(b->balloon, &s);
	*target = s.target;
	*actual = s.actual;
	*reported = s.reported;
}

struct net_device board_net_device(struct board *b, unsigned i) {
	check(i < b->config.nnets);
	return virtio_net_port(b->nets[i]);
}

struct vsock_device board_vsock_device(struct board *b) {
	check(b->vsock);
	return virtio_vsock_port(b->vsock);
}

void board_channel_set_open(struct board *b, unsigned i, bool open) {
	check(i < b->config.nchannels);
	virtio_console_set_open(b->console, b->first_channel + i, open);
}

bool board_power_button(struct board *b) {
	return acpi_pm_power_button(&b->pm);
}
