/* Queues ([NVME1.4 4]). A command is copied once out of guest memory and then judged. Commands
 * come from a pool; when it is empty, queues wait. When a completion queue is full, its commands
 * keep their places until the driver moves the head. */
#include "core/nvme/nvme_int.h"

#include "core/base/fmt.h"

void nvme_fail(struct nvme *n, const char *what) {
	if (!(n->csts & NVME_CSTS_CFS))
		log_line(LOG_DEBUG, "nvme: %s; the controller waits for a reset", what);
	n->csts |= NVME_CSTS_CFS;
}

/* The pin, for drivers without MSI-X: any vector's queue with unread entries. */
void nvme_update_irq(struct nvme *n) {
	bool level = false;
	for (unsigned i = 0; i < NVME_QUEUES; i++) {
		const struct nvme_cq *q = &n->cq[i];
		level |=
			q->made && q->interrupts && q->head != q->tail && !(n->intms >> (q->vector & 31) & 1);
	}
	pci_set_intx(&n->pci, level && !pci_msix_enabled(&n->pci));
}

static bool full(const struct nvme_cq *q) {
	return (q->tail + 1) % q->size == q->head;
}

/* Puts the answer into the completion queue; false: no room. */
static bool post(struct nvme_command *c) {
	struct nvme *n = c->n;
	struct nvme_sq *sq = &n->sq[c->sq];
	struct nvme_cq *q = &n->cq[sq->cq];
	uint8_t e[16] = {0};
	if (full(q))
		return false;
	le32_put(e, c->result);
	le16_put(e + 8, (uint16_t)sq->head);
	le16_put(e + 10, (uint16_t)c->sq);
	memcpy(e + 12, c->bytes + 2, 2);
	/* "Do not retry", but for errors of the medium. */
	uint16_t status = c->status, dnr = status && status != NVME_INTERNAL && status >> 8 != 2;
	le16_put(e + 14, (uint16_t)(q->phase | status << 1 | dnr << 15));
	if (!mem_write(&n->vm->mem, q->base + q->tail * 16ull, e, sizeof(e)))
		nvme_fail(n, "a completion queue is not in memory");
	q->tail = (q->tail + 1) % q->size;
	if (!q->tail)
		q->phase = !q->phase;
	if (q->interrupts && pci_msix_enabled(&n->pci))
		pci_msix_notify(&n->pci, q->vector);
	nvme_update_irq(n);
	return true;
}

static void release(struct nvme_command *c) {
	c->owner = NVME_FREE;
	if (c->n->stopping && !nvme_busy(c->n))
		nvme_stopped(c->n);
}

/* The command is over. It may come from inside of nvme_start(). */
void nvme_end(struct nvme_command *c, uint16_t status) {
	if (c->owner == NVME_ORPHAN) {
		release(c);
		return;
	}
	c->status = status;
	if (post(c))
		release(c);
	else
		c->owner = NVME_ENDED;
}

bool nvme_busy(const struct nvme *n) {
	for (unsigned i = 0; i < NVME_COMMANDS; i++)
		if (n->commands[i].owner == NVME_IN_WORK || n->commands[i].owner == NVME_ORPHAN)
			return true;
	return n->flushing;
}

void nvme_stop_queue(struct nvme *n, unsigned sq) {
	for (unsigned i = 0; i < NVME_COMMANDS; i++) {
		struct nvme_command *c = &n->commands[i];
		if (c->owner == NVME_FREE || c->sq != sq)
			continue;
		c->owner = c->owner == NVME_IN_WORK || c->owner == NVME_ORPHAN ? NVME_ORPHAN : NVME_FREE;
	}
	n->sq[sq].made = false;
}

void nvme_start(struct nvme_command *c) {
	c->owner = NVME_IN_WORK;
	c->result = 0;
	uint16_t status = c->sq ? nvme_io(c) : nvme_admin(c);
	if (status != NVME_LATER)
		nvme_end(c, status);
}

static struct nvme_command *take(struct nvme *n) {
	for (unsigned i = 0; i < NVME_COMMANDS; i++)
		if (n->commands[i].owner == NVME_FREE)
			return &n->commands[i];
	return NULL;
}

static bool ready(const struct nvme *n) {
	return (n->csts & (NVME_CSTS_RDY | NVME_CSTS_CFS)) == NVME_CSTS_RDY && !n->stopping;
}

/* One command of one queue. */
static bool fetch(struct nvme *n, unsigned i) {
	struct nvme_sq *q = &n->sq[i];
	struct nvme_command *c;
	if (!ready(n) || !q->made || q->head == q->tail || !(c = take(n)))
		return false;
	if (!mem_read(&n->vm->mem, q->base + q->head * 64ull, c->bytes, sizeof(c->bytes))) {
		nvme_fail(n, "a submission queue is not in memory");
		return false;
	}
	q->head = (q->head + 1) % q->size;
	c->sq = i;
	nvme_start(c);
	return true;
}

void nvme_run(struct nvme *n) {
	bool more = true;
	if (n->running)
		return;
	n->running = true;
	for (unsigned i = 0; i < NVME_COMMANDS; i++)
		if (n->commands[i].owner == NVME_ENDED && post(&n->commands[i]))
			release(&n->commands[i]);
	while (more) { /* in turn, [NVME1.4 4.13] round robin */
		more = false;
		for (unsigned i = 0; i < NVME_QUEUES; i++)
			more |= fetch(n, i);
	}
	n->running = false;
}
