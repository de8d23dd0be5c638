/* Between the files of the NVMe controller:
 *
 *     nvme.c         registers, reset, state; the PCI function
 *     nvme_queue.c   submission and completion queues, interrupts, the life of a command
 *     nvme_admin.c   commands of the admin queue
 *     nvme_io.c      reads, writes, flushes, and where their data lies
 *
 * VM lock held everywhere. */
#ifndef CORE_NVME_NVME_INT_H
#define CORE_NVME_NVME_INT_H

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/le.h"
#include "core/base/string.h"
#include "core/nvme/nvme.h"

#define NVME_QUEUES 17 /* the admin queue, and 16 for I/O */
#define NVME_ENTRIES 256u
#define NVME_COMMANDS 64
#define NVME_EVENTS 4 /* asynchronous event requests that may wait */
#define NVME_PAGE 4096u
#define NVME_MDTS 6 /* a command moves at most 2^6 pages */
#define NVME_SEGMENTS 65
#define NVME_SECTOR 512u
#define NVME_RANGES 256u

enum {
	NVME_CAP = 0x00,
	NVME_VS = 0x08,
	NVME_INTMS = 0x0c,
	NVME_INTMC = 0x10,
	NVME_CC = 0x14,
	NVME_CSTS = 0x1c,
	NVME_AQA = 0x24,
	NVME_ASQ = 0x28,
	NVME_ACQ = 0x30,
	NVME_DOORBELLS = 0x1000,
	NVME_BAR_SIZE = 0x4000,
};

#define NVME_CC_EN 1u
#define NVME_CC_SHN(cc) ((cc) >> 14 & 3)
#define NVME_CSTS_RDY 1u
#define NVME_CSTS_CFS 2u
#define NVME_CSTS_SHST (3u << 2)

/* Status: type << 8 | code ([NVME1.4 4.6.1]). */
enum nvme_status {
	NVME_OK = 0,
	NVME_BAD_OPCODE = 0x01,
	NVME_BAD_FIELD = 0x02,
	NVME_DATA_ERROR = 0x04,
	NVME_INTERNAL = 0x06,
	NVME_BAD_NAMESPACE = 0x0b,
	NVME_BAD_PRP = 0x13,
	NVME_OUT_OF_RANGE = 0x80,
	NVME_BAD_CQ = 0x100,
	NVME_BAD_QID = 0x101,
	NVME_BAD_SIZE = 0x102,
	NVME_TOO_MANY_EVENTS = 0x105,
	NVME_BAD_VECTOR = 0x108,
	NVME_BAD_LOG = 0x109,
	NVME_BAD_DELETE = 0x10c,
	NVME_NOT_SAVEABLE = 0x10d,
	NVME_WRITE_FAULT = 0x280,
	NVME_READ_ERROR = 0x281,
	NVME_READ_ONLY = 0x182,
};

#define NVME_LATER 0xffffu /* no status: it is answered by a completion */

struct nvme_sq {
	bool made;
	uint32_t size, head, tail, cq;
	gpa_t base;
};

struct nvme_cq {
	bool made, phase, interrupts;
	uint32_t size, head, tail, vector;
	gpa_t base;
};

enum nvme_owner {
	NVME_FREE,
	NVME_IN_WORK, /* the back end's */
	NVME_ORPHAN,  /* the same, and the queue is gone */
	NVME_ENDED,	  /* the completion queue is full */
	NVME_LOADED,  /* from a saved state, to be started */
};

struct nvme_command {
	struct block_request io;
	struct nvme *n;
	enum nvme_owner owner;
	uint32_t sq;
	uint16_t status;
	uint32_t result;
	uint8_t bytes[64];
	gpa_t gpa[NVME_SEGMENTS]; /* of each segment */
	uint32_t range, ranges;	  /* of a dataset management */
	uint8_t list[NVME_RANGES * 16];
};

struct nvme {
	struct pci_device pci;
	struct vm *vm;
	const struct block_backend *backend;
	uint32_t intms, cc, csts, aqa;
	uint64_t asq, acq;
	uint32_t events; /* asynchronous event requests that wait */
	uint16_t event_id[NVME_EVENTS];
	uint32_t write_cache;
	bool stopping; /* disabled, but commands are still in work */
	bool flushing; /* for a shutdown */
	bool running;  /* in nvme_run() */
	struct block_request shutdown;
	struct nvme_sq sq[NVME_QUEUES];
	struct nvme_cq cq[NVME_QUEUES];
	struct nvme_command commands[NVME_COMMANDS];
};

/* nvme_queue.c */
void nvme_run(struct nvme *n); /* fetches what there is and answers what has ended */
void nvme_end(struct nvme_command *c, uint16_t status);
void nvme_update_irq(struct nvme *n);
bool nvme_busy(const struct nvme *n);
void nvme_stop_queue(struct nvme *n, unsigned sq); /* its commands become orphans */
void nvme_start(struct nvme_command *c);
void nvme_fail(struct nvme *n, const char *what);

/* nvme_admin.c, nvme_io.c: a status, or NVME_LATER. */
uint16_t nvme_admin(struct nvme_command *c);
uint16_t nvme_io(struct nvme_command *c);
/* Fills c->io's segments with the command's data pages. */
uint16_t nvme_map_data(struct nvme_command *c, uint64_t len, bool to_guest);
/* Copies between a buffer and the command's data pages. */
uint16_t nvme_copy_data(struct nvme_command *c, void *buf, uint64_t len, bool to_guest);

/* nvme.c */
void nvme_stopped(struct nvme *n); /* a command that kept the controller from stopping ended */

#endif
