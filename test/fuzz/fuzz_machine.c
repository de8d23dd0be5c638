/* See fuzz_machine.h. */
#include "test/fuzz/fuzz_machine.h"

#include <stdlib.h>
#include <string.h>

static void nothing(void *opaque) {
}

static void kick(void *opaque, unsigned vcpu) {
}

static void power(void *opaque, enum vm_power what) {
}

static void *alloc(void *opaque, size_t size) {
	return calloc(1, size);
}

static size_t out(void *opaque, const uint8_t *buf, size_t len) {
	return len;
}

static void fill(void *opaque, void *buf, size_t len) {
	memset(buf, 7, len);
}

static void submit(void *opaque, struct block_request *r) {
	/* Touches each byte that the device handed out, so that the sanitizers see it. */
	for (unsigned i = 0; i < r->nsegs; i++)
		memset(r->segs[i].host, 0x55, r->op == BLOCK_READ ? r->segs[i].len : 0);
	r->done(r, 0);
}

static void make(struct fuzz_machine *m, const char *board) {
	static const uint8_t hlt[] = {0xf4};
	struct err e;
	fake_clock_init(&m->clock);
	m->host = (struct vm_host){nothing, nothing, kick, power, alloc, m, NULL};
	vm_init(&m->vm, &m->host, &m->clock.clock);
	m->ram = aligned_alloc(4096, FUZZ_RAM);
	m->disk = (struct block_backend){.submit = submit, .size = 1 << 20, .block_size = 512};
	const struct board_config c = {
		.board = board,
		.memory = FUZZ_RAM,
		.cpus = 2,
		.kernel = {hlt, sizeof(hlt), "hlt"},
		.force = BOOT_FLAT_LONG64,
		.serial = {.write = out},
		.console = {.write = out},
		.rng = {fill, NULL},
		.disks = {&m->disk, &m->disk},
		.ndisks = 2,
		.disk_nvme = {false, board[0] == 'p'},
		.test_ports = true,
	};
	if (board_create(&m->vm, m->ram, &c, &m->board, &e))
		abort();
}

struct fuzz_machine *fuzz_machine(const char *board) {
	static struct fuzz_machine machines[2];
	struct fuzz_machine *m = &machines[board[0] == 'm'];
	struct err e;
	if (!m->board)
		make(m, board);
	memset(m->ram, 0, 0x40000); /* all of it would take most of the time */
	vm_reset(&m->vm);
	if (board_load(m->board, &e))
		abort();
	return m;
}
