/* virtio traditional memory balloon, id 5 ([VIRTIO1.2 5.5]): inflate and deflate queues,
 * DEFLATE_ON_OOM, and free page reporting, with which a guest tells of pages that it does not
 * use without being asked.
 *
 * Page numbers and reported ranges come from the guest; what is not whole pages of RAM is
 * skipped. Giving pages back is a hint: at worst the guest loses what it said it had no use for.
 * Pages in the balloon need not be kept by us, so nothing of them is remembered.
 *
 * Left out: statistics, page poison (reported pages may read as zero, and a guest that wants
 * another pattern does not use reporting then), free page hints. VM lock held; the back end's
 * discard is quick (madvise). */
#include "core/virtio/balloon.h"

#include "core/base/bits.h"
#include "core/base/le.h"
#include "core/base/string.h"
#include "core/vm/vm.h"

#define F_DEFLATE_ON_OOM 2
#define F_REPORTING 5

enum { CONFIG_NUM_PAGES = 0, CONFIG_ACTUAL = 4 };
enum { QUEUE_INFLATE = 0, QUEUE_DEFLATE = 1, QUEUE_REPORTING = 2, QUEUES = 3 };

#define QUEUE_SIZE 128
#define BALLOON_PAGE 4096u /* whatever the guest's page size is */
#define PFNS 256		   /* Linux sends as many at once */

struct virtio_balloon {
	struct virtio_device dev;
	struct balloon_backend backend;
	uint64_t reported;
	struct virtq_chain chain;
	uint8_t pfns[PFNS * 4];
};

static void discard(struct virtio_balloon *b, gpa_t gpa, uint64_t len) {
	while (len) {
		struct mem_segment s = mem_segment(b->dev.mem, gpa, len, true);
		if (!s.host || !s.len)
			return;
		b->backend.discard(b->backend.opaque, s.host, s.len);
		mem_written(b->dev.mem, gpa, s.len);
		gpa += s.len;
		len -= s.len;
	}
}

/* A list of page numbers; runs of them go back in one piece. */
static void inflate(struct virtio_balloon *b) {
	gpa_t start = 0;
	uint64_t len = 0, off = 0;
	size_t n;
	while ((n = virtq_chain_read(&b->chain, off, b->pfns, sizeof(b->pfns)) & ~(size_t)3) != 0) {
		for (size_t i = 0; i < n; i += 4) {
			gpa_t page = (gpa_t)le32_get(b->pfns + i) * BALLOON_PAGE;
			if (len && page == start + len) {
				len += BALLOON_PAGE;
			} else if (len && page + BALLOON_PAGE == start) {
				start = page; /* Linux hands them out downwards, too */
				len += BALLOON_PAGE;
			} else {
				discard(b, start, len);
				start = page;
				len = BALLOON_PAGE;
			}
		}
		off += n;
	}
	discard(b, start, len);
}

/* Free pages lie there as the chain's buffers; whole pages only. */
static void report(struct virtio_balloon *b) {
	const struct virtq_chain *c = &b->chain;
	for (unsigned i = c->nout; i < (unsigned)c->nout + c->nin; i++) {
		gpa_t start = align_up(c->seg[i].gpa, BALLOON_PAGE);
		gpa_t end = align_down(c->seg[i].gpa + c->seg[i].len, BALLOON_PAGE);
		if (start >= end)
			continue;
		discard(b, start, end - start);
		b->reported += end - start;
	}
}

static void notify(void *self, unsigned queue) {
	struct virtio_balloon *b = self;
	struct virtqueue *q = &b->dev.vq[queue];
	if (queue == QUEUE_REPORTING && !virtio_device_has(&b->dev, F_REPORTING))
		return;
	while (virtqueue_pop(q, &b->chain)) {
		if (queue == QUEUE_INFLATE)
			inflate(b);
		else if (queue == QUEUE_REPORTING)
			report(b);
		/* Deflated pages are the guest's again; it finds them when it touches them. */
		virtqueue_push(q, &b->chain, 0);
	}
	virtqueue_notify(q);
}

static void config_write(void *self, unsigned off, unsigned size, uint32_t val) {
	struct virtio_balloon *b = self;
	if (off == CONFIG_ACTUAL && size == 4)
		le32_put(b->dev.config + CONFIG_ACTUAL, val);
}

static void reset(void *self) {
	struct virtio_balloon *b = self;
	le32_put(b->dev.config + CONFIG_ACTUAL, 0);
}

static void state(struct state_io *io, void *self) {
	struct virtio_balloon *b = self;
	state_bytes(io, "config", b->dev.config, 8);
	state_u64(io, "reported", &b->reported);
}

static const struct virtio_device_ops ops = {
	.name = "virtio-balloon",
	.id = VIRTIO_ID_BALLOON,
	.notify = notify,
	.config_write = config_write,
	.reset = reset,
	.state = state,
};

struct virtio_balloon *virtio_balloon_create(struct vm *vm, const struct balloon_backend *backend) {
	struct virtio_balloon *b = vm_alloc(vm, sizeof(*b));
	if (!b || !virtio_device_init(&b->dev, vm, &ops, b, BIT(F_DEFLATE_ON_OOM) | BIT(F_REPORTING),
								  QUEUES, QUEUE_SIZE))
		return NULL;
	b->backend = *backend;
	return b;
}

struct virtio_device *virtio_balloon_device(struct virtio_balloon *b) {
	return &b->dev;
}

void virtio_balloon_set_target(struct virtio_balloon *b, uint64_t bytes) {
	uint32_t pages = (uint32_t)MIN(bytes / BALLOON_PAGE, UINT32_MAX);
	if (pages == le32_get(b->dev.config + CONFIG_NUM_PAGES))
		return;
	le32_put(b->dev.config + CONFIG_NUM_PAGES, pages);
	virtio_device_config_changed(&b->dev);
}

void virtio_balloon_get_stats(const struct virtio_balloon *b, struct virtio_balloon_stats *out) {
	*out = (struct virtio_balloon_stats){
		.target = (uint64_t)le32_get(b->dev.config + CONFIG_NUM_PAGES) * BALLOON_PAGE,
		.actual = (uint64_t)le32_get(b->dev.config + CONFIG_ACTUAL) * BALLOON_PAGE,
		.reported = b->reported,
	};
}
