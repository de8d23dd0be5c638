/* Commands of the I/O queues ([NVME1.4 6]): Flush, Write, Read, Write Zeroes, Dataset Management
 * (deallocate). Data lies where a list of pages says ([NVME1.4 4.3]). Left out: SGLs, metadata,
 * protection information, Compare, Verify, reservations. */
#include "core/nvme/nvme_int.h"

enum { FLUSH = 0, WRITE = 1, READ = 2, WRITE_ZEROES = 8, DATASET = 9 };

#define FUA (1u << 30) /* in dword 12 */
#define DEALLOCATE 4u  /* in dword 11 */
#define PRP_PER_PAGE (NVME_PAGE / 8)

static uint32_t dword(const struct nvme_command *c, unsigned i) {
	return le32_get(c->bytes + i * 4);
}

/* One page or part of it; what is contiguous becomes one segment. */
static uint16_t add_page(struct nvme_command *c, gpa_t gpa, uint64_t len, bool to_guest) {
	struct block_request *io = &c->io;
	struct mem_segment s = mem_segment(&c->n->vm->mem, gpa, len, to_guest);
	if (!s.host || s.len < len)
		return NVME_DATA_ERROR;
	struct block_segment *last = io->nsegs ? &io->segs[io->nsegs - 1] : NULL;
	if (last && last->host + last->len == s.host && c->gpa[io->nsegs - 1] + last->len == gpa) {
		last->len += len;
		return NVME_OK;
	}
	if (io->nsegs == NVME_SEGMENTS)
		return NVME_BAD_FIELD;
	c->gpa[io->nsegs] = gpa;
	io->segs[io->nsegs++] = (struct block_segment){s.host, len};
	return NVME_OK;
}

uint16_t nvme_map_data(struct nvme_command *c, uint64_t len, bool to_guest) {
	gpa_t prp1 = le64_get(c->bytes + 24), prp2 = le64_get(c->bytes + 32);
	uint64_t n = MIN(len, NVME_PAGE - prp1 % NVME_PAGE);
	c->io.nsegs = 0;
	if (len > (uint64_t)NVME_PAGE << NVME_MDTS || (c->bytes[1] & 0xc0))
		return NVME_BAD_FIELD;
	uint16_t status = add_page(c, prp1, n, to_guest);
	len -= n;
	if (status || !len)
		return status;
	if (len <= NVME_PAGE)
		return prp2 % NVME_PAGE ? NVME_BAD_PRP : add_page(c, prp2, len, to_guest);
	/* A list; its last entry may point to the next part of it. */
	gpa_t at = prp2;
	if (at % 8)
		return NVME_BAD_PRP;
	while (!status && len) {
		uint8_t e[8];
		if (!mem_read(&c->n->vm->mem, at, e, sizeof(e)))
			return NVME_DATA_ERROR;
		gpa_t page = le64_get(e);
		if (page % NVME_PAGE)
			return NVME_BAD_PRP;
		if (at % NVME_PAGE == NVME_PAGE - 8 && len > NVME_PAGE) {
			at = page;
			if (!mem_read(&c->n->vm->mem, at, e, sizeof(e)))
				return NVME_DATA_ERROR;
			page = le64_get(e);
			if (page % NVME_PAGE)
				return NVME_BAD_PRP;
		}
		n = MIN(len, NVME_PAGE);
		status = add_page(c, page, n, to_guest);
		len -= n;
		at += 8;
	}
	return status;
}

uint16_t nvme_copy_data(struct nvme_command *c, void *buf, uint64_t len, bool to_guest) {
	uint8_t *p = buf;
	uint16_t status = nvme_map_data(c, len, to_guest);
	for (unsigned i = 0; !status && i < c->io.nsegs; i++) {
		const struct block_segment *s = &c->io.segs[i];
		if (to_guest) {
			memcpy(s->host, p, s->len);
			mem_written(&c->n->vm->mem, c->gpa[i], s->len);
		} else {
			memcpy(p, s->host, s->len);
		}
		p += s->len;
	}
	return status;
}

static bool next_range(struct nvme_command *c);

static uint16_t status_of(const struct nvme_command *c, int error) {
	if (!error)
		return NVME_OK;
	if (error == -ERR_NOTSUP)
		return NVME_BAD_FIELD;
	return c->io.op == BLOCK_READ ? NVME_READ_ERROR : NVME_WRITE_FAULT;
}

static void done(struct block_request *io, int error) {
	struct nvme_command *c = io->opaque;
	struct nvme *n = c->n;
	if (io->op == BLOCK_READ)
		for (unsigned i = 0; i < io->nsegs; i++)
			mem_written(&n->vm->mem, c->gpa[i], io->segs[i].len);
	if (!error && c->owner == NVME_IN_WORK && io->op == BLOCK_DISCARD && next_range(c))
		return;
	nvme_end(c, status_of(c, error));
	nvme_run(n);
}

static uint16_t send(struct nvme_command *c, enum block_op op, uint64_t offset, uint64_t len) {
	const struct block_backend *b = c->n->backend;
	c->io.op = op;
	c->io.offset = offset;
	c->io.len = len;
	c->io.done = done;
	c->io.opaque = c;
	b->submit(b->opaque, &c->io);
	return NVME_LATER;
}

static bool in_range(const struct nvme_command *c, uint64_t lba, uint64_t n) {
	uint64_t all = c->n->backend->size / NVME_SECTOR;
	return lba <= all && n <= all - lba;
}

static uint16_t transfer(struct nvme_command *c, uint8_t opcode) {
	uint64_t lba = le64_get(c->bytes + 40), n = (dword(c, 12) & 0xffff) + 1;
	if (!in_range(c, lba, n))
		return NVME_OUT_OF_RANGE;
	if (opcode != READ && c->n->backend->read_only)
		return NVME_READ_ONLY;
	c->io.nsegs = 0;
	/* [NVME1.4 5.21.1.6] with the write cache off, a write that is done is durable */
	c->io.fua = opcode == WRITE && ((dword(c, 12) & FUA) || !c->n->write_cache);
	if (opcode == WRITE_ZEROES)
		return send(c, BLOCK_ZEROES, lba * NVME_SECTOR, n * NVME_SECTOR);
	uint16_t status = nvme_map_data(c, n * NVME_SECTOR, opcode == READ);
	if (status)
		return status;
	return send(c, opcode == READ ? BLOCK_READ : BLOCK_WRITE, lba * NVME_SECTOR, n * NVME_SECTOR);
}

/* Sends the next range that is not empty; false: there is none. All were judged before. */
static bool next_range(struct nvme_command *c) {
	while (c->range < c->ranges) {
		const uint8_t *r = c->list + 16ull * c->range++;
		uint64_t n = le32_get(r + 4);
		if (!n)
			continue;
		c->io.nsegs = 0;
		send(c, BLOCK_DISCARD, le64_get(r + 8) * NVME_SECTOR, n * NVME_SECTOR);
		return true;
	}
	return false;
}

static uint16_t dataset(struct nvme_command *c) {
	c->range = 0;
	c->ranges = (dword(c, 10) & 0xff) + 1;
	c->io.fua = false;
	if (!(dword(c, 11) & DEALLOCATE))
		return NVME_OK; /* hints about access */
	if (c->n->backend->read_only)
		return NVME_READ_ONLY;
	uint16_t status = nvme_copy_data(c, c->list, c->ranges * 16ull, false);
	for (unsigned i = 0; !status && i < c->ranges; i++)
		if (!in_range(c, le64_get(c->list + i * 16 + 8), le32_get(c->list + i * 16 + 4)))
			status = NVME_OUT_OF_RANGE;
	if (status || !c->n->backend->discard)
		return status;
	return next_range(c) ? NVME_LATER : NVME_OK;
}

uint16_t nvme_io(struct nvme_command *c) {
	uint32_t nsid = dword(c, 1);
	uint8_t opcode = c->bytes[0];
	if (nsid != 1 && !(opcode == FLUSH && nsid == 0xffffffff))
		return NVME_BAD_NAMESPACE;
	switch (opcode) {
	case FLUSH:
		c->io.nsegs = 0;
		c->io.fua = false;
		return send(c, BLOCK_FLUSH, 0, 0);
	case WRITE:
	case READ:
	case WRITE_ZEROES:
		return transfer(c, opcode);
	case DATASET:
		return dataset(c);
	default:
		return NVME_BAD_OPCODE;
	}
}
