/* NVMe controller ([NVME1.4]): registers, MSI-X and pin interrupts, one admin and up to 16 I/O
 * queue pairs, one namespace of 512-byte blocks.
 *
 * A disabled controller says so (CSTS.RDY 0) only when its back end has given back all commands:
 * until then they may write guest memory. A shutdown flushes. What was in work when the machine
 * was saved is executed again after the load.
 *
 * Left out: SGLs, several namespaces, controller memory buffer, doorbell buffers, weighted
 * arbitration, NVM subsystem reset. */
#include "core/nvme/nvme_int.h"

#define VENDOR 0x1af4
#define DEVICE 0x10f5 /* drivers go by the class */
#define BAR_REGS 0
#define BAR_MSIX 2

/* Queues of 256 entries, contiguous; ready within 10 s; the NVM command set; 4 KiB pages. */
#define CAP_VALUE ((NVME_ENTRIES - 1) | 1ull << 16 | 20ull << 24 | 1ull << 37)

static uint64_t register_read(const struct nvme *n, unsigned off) {
	switch (off) {
	case NVME_CAP:
		return CAP_VALUE;
	case NVME_CAP + 4:
		return CAP_VALUE >> 32;
	case NVME_VS:
		return 0x00010400;
	case NVME_INTMS:
	case NVME_INTMC:
		return n->intms;
	case NVME_CC:
		return n->cc;
	case NVME_CSTS:
		return n->csts;
	case NVME_AQA:
		return n->aqa;
	case NVME_ASQ:
		return n->asq;
	case NVME_ASQ + 4:
		return n->asq >> 32;
	case NVME_ACQ:
		return n->acq;
	case NVME_ACQ + 4:
		return n->acq >> 32;
	default:
		return 0;
	}
}

static uint64_t regs_read(void *dev, uint64_t off, unsigned size) {
	const struct nvme *n = dev;
	if (off >= NVME_DOORBELLS)
		return 0;
	uint64_t low = register_read(n, (unsigned)off & ~3u) & 0xffffffff;
	return size == 8 ? low | register_read(n, ((unsigned)off & ~3u) + 4) << 32 : low;
}

static void forget_queues(struct nvme *n) {
	for (unsigned i = 0; i < NVME_QUEUES; i++) {
		nvme_stop_queue(n, i);
		n->cq[i].made = false;
	}
	n->events = 0;
	nvme_update_irq(n);
}

void nvme_stopped(struct nvme *n) {
	n->stopping = false;
	n->csts &= ~(NVME_CSTS_RDY | NVME_CSTS_CFS);
}

static void disable(struct nvme *n) {
	forget_queues(n);
	n->stopping = true;
	n->csts &= ~NVME_CSTS_SHST;
	if (!nvme_busy(n))
		nvme_stopped(n);
}

static void enable(struct nvme *n) {
	uint32_t sq = (n->aqa & 0xfff) + 1, cq = (n->aqa >> 16 & 0xfff) + 1;
	/* Page size 4 KiB, round robin, the NVM command set, entries of 64 and 16 bytes. */
	if ((n->cc >> 4 & 0x3ff) != 0 || sq < 2 || cq < 2 || sq > NVME_ENTRIES * 16 ||
		n->asq % NVME_PAGE || n->acq % NVME_PAGE || n->stopping) {
		nvme_fail(n, "enabled with settings that it does not have");
		return;
	}
	n->sq[0] = (struct nvme_sq){.made = true, .size = sq, .base = n->asq};
	n->cq[0] = (struct nvme_cq){
		.made = true, .phase = true, .interrupts = true, .size = cq, .base = n->acq};
	n->csts |= NVME_CSTS_RDY;
}

static void shutdown_done(struct block_request *r, int error) {
	struct nvme *n = r->opaque;
	n->flushing = false;
	if (n->stopping && !nvme_busy(n))
		nvme_stopped(n);
	else if (NVME_CC_SHN(n->cc))
		n->csts = (n->csts & ~NVME_CSTS_SHST) | 2u << 2;
}

static void shutdown(struct nvme *n) {
	if (n->flushing)
		return;
	n->csts = (n->csts & ~NVME_CSTS_SHST) | 1u << 2;
	n->flushing = true;
	n->shutdown.op = BLOCK_FLUSH;
	n->shutdown.offset = n->shutdown.len = 0;
	n->shutdown.nsegs = 0;
	n->shutdown.fua = false;
	n->shutdown.done = shutdown_done;
	n->shutdown.opaque = n;
	n->backend->submit(n->backend->opaque, &n->shutdown);
}

static void write_cc(struct nvme *n, uint32_t val) {
	uint32_t old = n->cc;
	n->cc = val & 0x00fffff1;
	if ((old ^ val) & NVME_CC_EN) {
		if (val & NVME_CC_EN)
			enable(n);
		else
			disable(n);
	}
	if (NVME_CC_SHN(val) && !NVME_CC_SHN(old))
		shutdown(n);
	else if (!NVME_CC_SHN(val))
		n->csts &= ~NVME_CSTS_SHST;
}

static void doorbell(struct nvme *n, unsigned i, uint32_t val) {
	if (i / 2 >= NVME_QUEUES)
		return;
	if (i & 1) {
		struct nvme_cq *q = &n->cq[i / 2];
		if (!q->made || val >= q->size)
			return;
		q->head = val;
		nvme_update_irq(n);
	} else {
		struct nvme_sq *q = &n->sq[i / 2];
		if (!q->made || val >= q->size)
			return;
		q->tail = val;
	}
	nvme_run(n);
}

static void set_half(uint64_t *reg, unsigned off, uint32_t val) {
	unsigned shift = off & 4 ? 32 : 0;
	*reg = (*reg & ~(0xffffffffull << shift)) | (uint64_t)val << shift;
}

static void register_write(struct nvme *n, unsigned off, uint32_t val) {
	switch (off) {
	case NVME_INTMS:
		n->intms |= val;
		nvme_update_irq(n);
		break;
	case NVME_INTMC:
		n->intms &= ~val;
		nvme_update_irq(n);
		break;
	case NVME_CC:
		write_cc(n, val);
		break;
	case NVME_AQA:
		n->aqa = val & 0x0fff0fff;
		break;
	case NVME_ASQ:
	case NVME_ASQ + 4:
		set_half(&n->asq, off, val);
		break;
	case NVME_ACQ:
	case NVME_ACQ + 4:
		set_half(&n->acq, off, val);
		break;
	}
}

static void regs_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
	struct nvme *n = dev;
	if (off % 4)
		return;
	if (off >= NVME_DOORBELLS) {
		doorbell(n, (unsigned)(off - NVME_DOORBELLS) / 4, (uint32_t)val & 0xffff);
		return;
	}
	register_write(n, (unsigned)off, (uint32_t)val);
	if (size == 8)
		register_write(n, (unsigned)off + 4, (uint32_t)(val >> 32));
}

static const struct io_ops regs_ops = {regs_read, regs_write, 4, 8};

static void cfg_written(struct pci_device *pci, unsigned off, unsigned size) {
	nvme_update_irq((struct nvme *)pci); /* MSI-X may have been switched */
}

static void reset(void *self) {
	struct nvme *n = self;
	n->intms = n->cc = n->aqa = 0;
	n->asq = n->acq = 0;
	n->write_cache = 1;
	pci_device_reset(&n->pci);
	disable(n);
}

static void queue_state(struct state_io *io, struct nvme *n, unsigned i) {
	struct nvme_sq *s = &n->sq[i];
	struct nvme_cq *q = &n->cq[i];
	state_bool(io, "sq", &s->made);
	state_u32_below(io, "sq-size", &s->size, NVME_ENTRIES * 16 + 1);
	state_u32_below(io, "sq-head", &s->head, MAX(s->size, 1u));
	state_u32_below(io, "sq-tail", &s->tail, MAX(s->size, 1u));
	state_u32_below(io, "sq-cq", &s->cq, NVME_QUEUES);
	state_u64(io, "sq-base", &s->base);
	state_bool(io, "cq", &q->made);
	state_bool(io, "phase", &q->phase);
	state_bool(io, "interrupts", &q->interrupts);
	state_u32_below(io, "cq-size", &q->size, NVME_ENTRIES * 16 + 1);
	state_u32_below(io, "cq-head", &q->head, MAX(q->size, 1u));
	state_u32_below(io, "cq-tail", &q->tail, MAX(q->size, 1u));
	state_u32_below(io, "vector", &q->vector, n->pci.msix.nvectors);
	state_u64(io, "cq-base", &q->base);
	if (io->loading && ((s->made && s->size < 2) || (q->made && q->size < 2)))
		state_fail(io, "a queue without entries");
}

static bool kept(const struct nvme_command *c) {
	return c->owner == NVME_IN_WORK || c->owner == NVME_ENDED || c->owner == NVME_LOADED;
}

/* Only the bytes of a command go out: it is executed again. One that has ended and found no
 * room for its answer, too: reads, writes and their like can be repeated. */
static void commands_state(struct state_io *io, struct nvme *n) {
	uint32_t count = 0;
	for (unsigned i = 0; i < NVME_COMMANDS; i++) {
		struct nvme_command *c = &n->commands[i];
		if (io->loading && (c->owner == NVME_LOADED || c->owner == NVME_ENDED))
			c->owner = NVME_FREE;
		else if (!io->loading)
			count += kept(c);
	}
	state_u32_below(io, "commands", &count, NVME_COMMANDS + 1);
	for (unsigned i = 0; i < NVME_COMMANDS && count && !io->error; i++) {
		struct nvme_command *c = &n->commands[i];
		if (io->loading ? c->owner != NVME_FREE : !kept(c))
			continue;
		state_u32_below(io, "queue", &c->sq, NVME_QUEUES);
		state_bytes(io, "command", c->bytes, sizeof(c->bytes));
		if (io->loading)
			c->owner = NVME_LOADED;
		count--;
	}
	if (io->loading && count && !io->error)
		state_fail(io, "more commands than there is room for");
}

static void state(struct state_io *io, void *self) {
	struct nvme *n = self;
	pci_device_state(io, &n->pci);
	state_u32(io, "intms", &n->intms);
	state_u32(io, "cc", &n->cc);
	state_u32(io, "csts", &n->csts);
	state_u32(io, "aqa", &n->aqa);
	state_u64(io, "asq", &n->asq);
	state_u64(io, "acq", &n->acq);
	state_u32(io, "write-cache", &n->write_cache);
	state_u32_below(io, "events", &n->events, NVME_EVENTS + 1);
	for (unsigned i = 0; i < NVME_EVENTS; i++)
		state_u16(io, "event", &n->event_id[i]);
	for (unsigned i = 0; i < NVME_QUEUES; i++)
		queue_state(io, n, i);
	commands_state(io, n);
	if (!io->loading || io->error)
		return;
	for (unsigned i = 0; i < NVME_QUEUES; i++)
		if (n->sq[i].made && !n->cq[n->sq[i].cq].made)
			state_fail(io, "a submission queue without its completion queue");
	for (unsigned i = 0; i < NVME_COMMANDS; i++)
		if (n->commands[i].owner == NVME_LOADED && !n->sq[n->commands[i].sq].made)
			n->commands[i].owner = NVME_FREE;
}

static void loaded(void *self) {
	struct nvme *n = self;
	if (!(n->cc & NVME_CC_EN) && (n->csts & NVME_CSTS_RDY))
		nvme_stopped(n); /* saved while it was stopping */
	if (NVME_CC_SHN(n->cc) && (n->csts & NVME_CSTS_SHST) == 1u << 2 && !n->flushing)
		shutdown(n);
	nvme_update_irq(n);
	for (unsigned i = 0; i < NVME_COMMANDS; i++)
		if (n->commands[i].owner == NVME_LOADED)
			nvme_start(&n->commands[i]);
	nvme_run(n);
}

static const struct device_ops device_ops = {"nvme", 1, reset, state, loaded};

bool nvme_create(struct vm *vm, struct pci_bus *bus, const struct block_backend *backend,
				 uint8_t devfn) {
	struct nvme *n = vm_alloc(vm, sizeof(*n));
	if (!n)
		return false;
	n->vm = vm;
	n->backend = backend;
	for (unsigned i = 0; i < NVME_COMMANDS; i++)
		n->commands[i].n = n;
	pci_device_init(&n->pci, "nvme", VENDOR, DEVICE, 0x010802, 1, VENDOR, DEVICE);
	pci_add_bar(&n->pci, BAR_REGS, PCI_BAR_MEM32, NVME_BAR_SIZE, &regs_ops, n);
	pci_add_msix(&n->pci, BAR_MSIX, NVME_QUEUES);
	n->pci.cfg_written = cfg_written;
	pci_bus_add(bus, &n->pci, devfn);
	vm_add_device(vm, &device_ops, devfn, n);
	return true;
}
