/* Commands of the admin queue ([NVME1.4 5]): queues, Identify, features, log pages (all empty),
 * Abort (which never finds anything), asynchronous events (which never come). Left out: firmware
 * download, namespace management, format, security, and all that is optional. */
#include "core/nvme/nvme_int.h"

enum {
	DELETE_SQ = 0x00,
	CREATE_SQ = 0x01,
	GET_LOG = 0x02,
	DELETE_CQ = 0x04,
	CREATE_CQ = 0x05,
	IDENTIFY = 0x06,
	ABORT = 0x08,
	SET_FEATURES = 0x09,
	GET_FEATURES = 0x0a,
	ASYNC_EVENT = 0x0c,
};

enum {
	FEATURE_WRITE_CACHE = 0x06,
	FEATURE_QUEUES = 0x07,
};

static uint32_t dword(const struct nvme_command *c, unsigned i) {
	return le32_get(c->bytes + i * 4);
}

static void text(uint8_t *to, size_t size, const char *s) {
	for (size_t i = 0; i < size; i++)
		to[i] = (uint8_t)(*s ? *s++ : ' ');
}

static void identify_controller(const struct nvme *n, uint8_t *p) {
	le16_put(p, le16_get(n->pci.cfg + PCI_VENDOR));
	le16_put(p + 2, le16_get(n->pci.cfg + PCI_SUBVENDOR));
	text(p + 4, 20, n->backend->serial);
	text(p + 24, 40, "Joist disk");
	text(p + 64, 8, "1");
	p[77] = NVME_MDTS;
	le16_put(p + 78, 1);		  /* controller id */
	le32_put(p + 80, 0x00010400); /* version */
	p[258] = 3;					  /* aborts at once, 0-based */
	p[259] = NVME_EVENTS - 1;
	p[260] = 3;				  /* one firmware slot, read-only */
	p[512] = 0x66;			  /* submission queue entries: 64 bytes */
	p[513] = 0x44;			  /* completion queue entries: 16 bytes */
	le32_put(p + 516, 1);	  /* namespaces */
	le16_put(p + 520, 4 | 8); /* dataset management, write zeroes */
	p[525] = 1 | 3 << 1;	  /* a volatile write cache; flush takes the broadcast namespace */
}

static void identify_namespace(const struct nvme *n, uint8_t *p) {
	uint64_t blocks = n->backend->size / NVME_SECTOR;
	le64_put(p, blocks);
	le64_put(p + 8, blocks);
	le64_put(p + 16, blocks);
	p[24] = 0x10;						 /* NPWG and friends below are valid */
	p[33] = n->backend->discard ? 1 : 0; /* deallocated blocks read as zeroes or as before */
	p[99] = n->backend->read_only;		 /* NSATTR: write protected */
	p[128 + 2] = 9;						 /* LBA format 0: 512 bytes, no metadata */
	le16_put(p + 64, 7);				 /* 4 KiB are written best, 0-based */
	le16_put(p + 66, 7);
	le16_put(p + 68, 7);
	le16_put(p + 70, 7);
	le16_put(p + 72, 7);
}

static uint16_t identify(struct nvme_command *c) {
	uint8_t page[NVME_PAGE] = {0};
	uint32_t nsid = dword(c, 1);
	switch (dword(c, 10) & 0xff) {
	case 0:
		if (nsid == 1)
			identify_namespace(c->n, page);
		else if (nsid == 0 || nsid > 1)
			return NVME_BAD_NAMESPACE;
		break;
	case 1:
		identify_controller(c->n, page);
		break;
	case 2: /* active namespaces above nsid */
		if (nsid >= 0xfffffffe)
			return NVME_BAD_NAMESPACE;
		if (!nsid)
			le32_put(page, 1);
		break;
	case 3: /* identifiers: a UUID made of the serial, so that it stays the same */
		if (nsid != 1)
			return NVME_BAD_NAMESPACE;
		page[0] = 3;
		page[1] = 16;
		memcpy(page + 4, c->n->backend->serial, MIN(str_len(c->n->backend->serial), 16));
		page[4 + 6] = (uint8_t)((page[4 + 6] & 0x0f) | 0x80); /* version 8: custom */
		page[4 + 8] = (uint8_t)((page[4 + 8] & 0x3f) | 0x80);
		break;
	default:
		return NVME_BAD_FIELD;
	}
	return nvme_copy_data(c, page, sizeof(page), true);
}

static uint16_t create_cq(struct nvme_command *c) {
	struct nvme *n = c->n;
	uint32_t id = dword(c, 10) & 0xffff, size = (dword(c, 10) >> 16) + 1, flags = dword(c, 11);
	gpa_t base = le64_get(c->bytes + 24);
	if (!id || id >= NVME_QUEUES || n->cq[id].made)
		return NVME_BAD_QID;
	if (size < 2 || size > NVME_ENTRIES)
		return NVME_BAD_SIZE;
	if (base % NVME_PAGE || !(flags & 1)) /* contiguous, as CAP.CQR says */
		return NVME_BAD_FIELD;
	if (flags >> 16 >= n->pci.msix.nvectors)
		return NVME_BAD_VECTOR;
	n->cq[id] = (struct nvme_cq){.made = true,
								 .phase = true,
								 .interrupts = flags & 2,
								 .size = size,
								 .vector = flags >> 16,
								 .base = base};
	return NVME_OK;
}

static uint16_t create_sq(struct nvme_command *c) {
	struct nvme *n = c->n;
	uint32_t id = dword(c, 10) & 0xffff, size = (dword(c, 10) >> 16) + 1, flags = dword(c, 11);
	uint32_t cq = flags >> 16;
	gpa_t base = le64_get(c->bytes + 24);
	if (!id || id >= NVME_QUEUES || n->sq[id].made)
		return NVME_BAD_QID;
	if (!cq || cq >= NVME_QUEUES || !n->cq[cq].made)
		return NVME_BAD_CQ;
	if (size < 2 || size > NVME_ENTRIES)
		return NVME_BAD_SIZE;
	if (base % NVME_PAGE || !(flags & 1))
		return NVME_BAD_FIELD;
	n->sq[id] = (struct nvme_sq){.made = true, .size = size, .cq = cq, .base = base};
	return NVME_OK;
}

static uint16_t delete_sq(struct nvme_command *c) {
	uint32_t id = dword(c, 10) & 0xffff;
	if (!id || id >= NVME_QUEUES || !c->n->sq[id].made)
		return NVME_BAD_QID;
	/* Commands that are still in work end unanswered. */
	nvme_stop_queue(c->n, id);
	return NVME_OK;
}

static uint16_t delete_cq(struct nvme_command *c) {
	struct nvme *n = c->n;
	uint32_t id = dword(c, 10) & 0xffff;
	if (!id || id >= NVME_QUEUES || !n->cq[id].made)
		return NVME_BAD_QID;
	for (unsigned i = 0; i < NVME_QUEUES; i++)
		if (n->sq[i].made && n->sq[i].cq == id)
			return NVME_BAD_DELETE;
	n->cq[id].made = false;
	nvme_update_irq(n);
	return NVME_OK;
}

/* Features that have no effect here take what they are given and say 0. */
static uint16_t features(struct nvme_command *c, bool set) {
	struct nvme *n = c->n;
	uint32_t id = dword(c, 10);
	if (set && id >> 31)
		return NVME_NOT_SAVEABLE;
	switch (id & 0xff) {
	case FEATURE_WRITE_CACHE:
		if (set)
			n->write_cache = dword(c, 11) & 1;
		else
			c->result = n->write_cache;
		return NVME_OK;
	case FEATURE_QUEUES:
		c->result = (NVME_QUEUES - 2) | (NVME_QUEUES - 2) << 16;
		return NVME_OK;
	case 0x01: /* arbitration */
	case 0x02: /* power */
	case 0x04: /* temperature */
	case 0x05: /* error recovery */
	case 0x08: /* interrupt coalescing */
	case 0x09: /* of a vector */
	case 0x0a: /* write atomicity */
	case 0x0b: /* events */
		return NVME_OK;
	default:
		return NVME_BAD_FIELD;
	}
}

static uint16_t get_log(struct nvme_command *c) {
	uint64_t len = ((uint64_t)(dword(c, 11) & 0xffff) << 16 | dword(c, 10) >> 16) + 1;
	uint8_t page[NVME_PAGE] = {0};
	unsigned id = dword(c, 10) & 0xff;
	if (id < 1 || id > 3)
		return NVME_BAD_LOG;
	if (id == 2) {
		le16_put(page + 1, 300); /* kelvin */
		page[3] = 100;			 /* spare, percent */
		page[4] = 10;
	}
	if (id == 3)
		page[0] = 1; /* the active slot */
	return nvme_copy_data(c, page, MIN(len * 4, sizeof(page)), true);
}

/* Waits for ever: there are no events. A reset forgets it. */
static uint16_t async_event(struct nvme_command *c) {
	if (c->n->events == NVME_EVENTS)
		return NVME_TOO_MANY_EVENTS;
	c->n->event_id[c->n->events++] = le16_get(c->bytes + 2);
	c->owner = NVME_FREE;
	return NVME_LATER;
}

uint16_t nvme_admin(struct nvme_command *c) {
	switch (c->bytes[0]) {
	case DELETE_SQ:
		return delete_sq(c);
	case CREATE_SQ:
		return create_sq(c);
	case GET_LOG:
		return get_log(c);
	case DELETE_CQ:
		return delete_cq(c);
	case CREATE_CQ:
		return create_cq(c);
	case IDENTIFY:
		return identify(c);
	case ABORT:
		c->result = 1;
		return NVME_OK;
	case SET_FEATURES:
		return features(c, true);
	case GET_FEATURES:
		return features(c, false);
	case ASYNC_EVENT:
		return async_event(c);
	default:
		return NVME_BAD_OPCODE;
	}
}
