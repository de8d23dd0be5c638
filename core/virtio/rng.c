/* virtio entropy device, id 4 ([VIRTIO1.2 5.4]): one queue whose buffers are filled with
 * random bytes. It has neither features nor configuration space. VM lock held. */
#include "core/virtio/rng.h"

#include "core/base/bits.h"
#include "core/vm/vm.h"

/* A buffer is filled up to here; a device may give less than was asked for
 * ([VIRTIO1.2 5.4.6.2]), and a 4 GiB one shall not hold the VM lock for seconds. */
#define FILL_MAX 4096u
#define QUEUE_SIZE 64

struct virtio_rng {
	struct virtio_device dev;
	struct rng_backend backend;
	struct virtq_chain chain;
};

static uint64_t fill(struct virtio_rng *r) {
	const struct virtq_chain *c = &r->chain;
	uint64_t done = 0;
	for (unsigned i = c->nout; i < (unsigned)c->nout + c->nin && done < FILL_MAX; i++) {
		size_t n = MIN((uint64_t)c->seg[i].len, FILL_MAX - done);
		r->backend.fill(r->backend.opaque, c->seg[i].host, n);
		mem_written(r->dev.mem, c->seg[i].gpa, n);
		done += n;
	}
	return done;
}

static void notify(void *self, unsigned queue) {
	struct virtio_rng *r = self;
	struct virtqueue *q = &r->dev.vq[queue];
	while (virtqueue_pop(q, &r->chain)) {
		if (!r->chain.in_len) {
			virtio_device_fail(&r->dev, queue, "a buffer that cannot be written");
			return;
		}
		virtqueue_push(q, &r->chain, fill(r));
	}
	virtqueue_notify(q);
}

static const struct virtio_device_ops ops = {
	.name = "virtio-rng",
	.id = VIRTIO_ID_RNG,
	.notify = notify,
};

struct virtio_device *virtio_rng_create(struct vm *vm, const struct rng_backend *backend) {
	struct virtio_rng *r = vm_alloc(vm, sizeof(*r));
	if (!r || !virtio_device_init(&r->dev, vm, &ops, r, 0, 1, QUEUE_SIZE))
		return NULL;
	r->backend = *backend;
	return &r->dev;
}
