/* libFuzzer: qcow2 images. The input is a file; it is opened, read, written, checked and
 * repaired. Whatever it says, no memory but its own is touched, no more than QCOW2_MEMORY_MAX is
 * taken, and all of it is given back. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/block/qcow2.h"

#define FILE_MAX (4u << 20) /* what writes may make of it */

struct file {
	struct block gate;
	uint8_t *data;
	uint64_t room;
};

static uint64_t taken;

static void *take(void *opaque, size_t size) {
	taken += size;
	check(taken <= QCOW2_MEMORY_MAX);
	return calloc(1, size);
}

static void give(void *opaque, void *p, size_t size) {
	check(taken >= size);
	taken -= size;
	free(p);
}

/* "Decompresses" without a library: what matters is who calls it with what. */
static int inflate(void *opaque, enum block_compression type, void *out, size_t out_len,
				   const void *in, size_t in_len) {
	uint8_t sum = 0;
	for (size_t i = 0; i < in_len; i++)
		sum += ((const uint8_t *)in)[i];
	memset(out, sum, out_len);
	return sum & 1 ? -ERR_IO : 0;
}

static const struct block_host host = {.alloc = take, .free = give, .inflate = inflate};

static void submit(void *self, struct block_request *r) {
	struct file *f = self;
	uint64_t at = r->offset;
	if (r->op == BLOCK_WRITE && r->offset + r->len > FILE_MAX) {
		block_done(r, -ERR_NOSPC);
		return;
	}
	for (unsigned i = 0; i < r->nsegs && r->op != BLOCK_FLUSH; i++) {
		struct block_segment *s = &r->segs[i];
		if (r->op == BLOCK_READ) {
			uint64_t have = at < f->room ? MIN(s->len, f->room - at) : 0;
			if (have)
				memcpy(s->host, f->data + at, have);
			memset(s->host + have, 0, s->len - have);
		} else if (r->op == BLOCK_WRITE) {
			if (at + s->len > f->room) {
				f->data = realloc(f->data, at + s->len);
				memset(f->data + f->room, 0, at + s->len - f->room);
				f->room = at + s->len;
			}
			memcpy(f->data + at, s->host, s->len);
		}
		at += s->len;
	}
	block_done(r, 0);
}

static const struct block_ops ops = {"fuzz", submit, NULL, NULL};

static void use(struct block *image, uint32_t seed) {
	static uint8_t buf[150000];
	for (unsigned i = 0; i < 12; i++, seed = seed * 1664525 + 1013904223) {
		uint64_t len = 512 * (1 + (seed >> 8) % 290), at = (uint64_t)seed * 512;
		if (!image->size)
			return;
		len = MIN(len, image->size);
		at = i & 1 ? at % (image->size - len + 1) : 0;
		switch (seed % 4) {
		case 0:
			block_zeroes_sync(image, at, len);
			break;
		case 1:
			block_write_sync(image, at, buf, len);
			break;
		default:
			block_read_sync(image, at, buf, len);
		}
		if (i == 6)
			block_flush_sync(image);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* A good image with something in it, of which the input changes bytes: most of what is opened then
 * gets past the first look. Pairs of a position (3 bytes) and a byte to put there. */
static void patch(struct file *f, unsigned kind, const uint8_t *data, size_t len) {
	struct qcow2_create_options o = {.size = 300 * 512, .cluster_bits = kind & 1 ? 9 : 12};
	struct qcow2_open_options rw = {0};
	static uint8_t sector[512] = {1, 2, 3};
	struct block image;
	o.version = kind & 2 ? 2 : 3;
	o.refcount_order = o.version == 3 && (kind & 4) ? 1 : 4;
	o.refcount_order_set = true;
	check(qcow2_create(&f->gate, &host, &o, NULL) == 0);
	check(qcow2_open(&image, &f->gate, &host, &rw, NULL) == 0);
	for (unsigned i = 0; i < 20; i++)
		check(block_write_sync(&image, i * 7 * 512, sector, 512) == 0);
	check(block_close(&image) == 0);
	for (; len >= 4; data += 4, len -= 4)
		f->data[(data[0] | data[1] << 8 | (data[2] & 1) << 16) % f->room] = data[3];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
	if (len < 5 || len > (1 << 20))
		return 0;
	struct qcow2_open_options o = {.read_only = data[0] & 1, .check = data[0] & 2, .discard = true};
	bool patched = data[0] & 32;
	struct file f = {.data = malloc(len - 5), .room = len - 5};
	struct block image = {0};
	struct qcow2_check_result c;
	struct err e;
	uint32_t seed;
	memcpy(&seed, data + 1, 4);
	memcpy(f.data, data + 5, len - 5);
	f.gate = (struct block){
		.ops = &ops, .self = &f, .size = len - 5, .growable = true, .read_only = o.read_only};
	if (patched) {
		f.gate.size = f.room = 0;
		f.gate.read_only = false;
		patch(&f, seed, data + 5, len - 5);
		f.gate.read_only = o.read_only;
	}
	if (qcow2_open(&image, &f.gate, &host, &o, &e) == 0) {
		if (o.check)
			qcow2_check(&image, data[0] & 4, &c, &e);
		else
			use(&image, seed);
		if (!o.read_only && (data[0] & 8))
			qcow2_resize(&image, (uint64_t)(seed % 5000) * 512, &e);
		if (!o.read_only && (data[0] & 16))
			qcow2_set_backing(&image, "name", "raw", &e);
		block_close(&image);
	}
	check(!taken);
	free(f.data);
	return 0;
}
