/* libFuzzer: other programs' images. The first byte picks the format, the second which part of the
 * file the rest begins at, so that tables at fixed places are reached; magic numbers are put in,
 * and checksums are made right. Logs of VHDX are fuzz_vhdx_log.c's. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/crc32c.h"
#include "core/base/le.h"
#include "core/block/import.h"

#define FILE_LEN (1u << 20)
#define TEXT_LEN (128u << 10)

static uint64_t taken;

static void *take(void *opaque, size_t size) {
	taken += size;
	check(taken <= IMPORT_MAP_MAX + (140u << 20)); /* a table, a log, what they are read into */
	return calloc(1, size);
}

static void give(void *opaque, void *p, size_t size) {
	check(taken >= size);
	taken -= size;
	free(p);
}

static int inflate(void *opaque, enum block_compression type, void *out, size_t out_len,
				   const void *in, size_t in_len) {
	memset(out, in_len ? *(const uint8_t *)in : 0, out_len);
	return in_len & 1 ? -ERR_IO : 0;
}

static const struct block_host host = {.alloc = take, .free = give, .inflate = inflate};

struct file {
	struct block gate;
	uint8_t data[FILE_LEN];
};

static void submit(void *self, struct block_request *r) {
	struct file *f = self;
	uint64_t at = r->offset;
	for (unsigned i = 0; i < r->nsegs; i++) {
		uint64_t n = r->segs[i].len, have = at < FILE_LEN ? MIN(n, FILE_LEN - at) : 0;
		if (have)
			memcpy(r->segs[i].host, f->data + at, have);
		memset(r->segs[i].host + have, 0, n - have);
		at += n;
	}
	block_done(r, 0);
}

static const struct block_ops ops = {"fuzz", submit, NULL, NULL};

static void put_sum(uint8_t *p, size_t len) {
	le32_put(p + 4, 0);
	le32_put(p + 4, ~crc32c_add(CRC32C_START, p, len));
}

static void put_magic(struct file *f, unsigned format) {
	static const uint8_t vdi[] = {0x7f, 0x10, 0xda, 0xbe, 1, 0, 1, 0};
	switch (format) {
	case IMPORT_VMDK:
		memcpy(f->data, "KDMV", 4);
		break;
	case IMPORT_VHD:
		memcpy(f->data, "conectix", 8);
		break;
	case IMPORT_VHDX:
		memcpy(f->data, "vhdxfile", 8);
		memcpy(f->data + (64 << 10), "head", 4);
		put_sum(f->data + (64 << 10), 4096);
		memcpy(f->data + (192 << 10), "regi", 4);
		put_sum(f->data + (192 << 10), 64 << 10);
		break;
	case IMPORT_VDI:
		memcpy(f->data + 0x40, vdi, sizeof(vdi));
		break;
	}
}

static void use(struct block *b) {
	static uint8_t buf[70000];
	for (unsigned i = 0; b->size && i < 4; i++) {
		uint64_t n = MIN(sizeof(buf), b->size);
		block_read_sync(b, i & 1 ? b->size - n : b->size / 3 * (i / 2) % (b->size - n + 1), buf, n);
	}
}

/* All files of a descriptor are the file that it is in. */
static void use_extents(struct block *image, struct file *f, const struct import_extent *x,
						unsigned n) {
	struct block *files[IMPORT_EXTENTS];
	struct err e;
	put_magic(f, IMPORT_VMDK);
	for (unsigned i = 0; i < n; i++) {
		check(x[i].kind == IMPORT_ZERO || (x[i].name[0] && x[i].name[0] != '.'));
		check(!strchr(x[i].name, '/'));
		files[i] = x[i].kind == IMPORT_ZERO ? NULL : &f->gate;
	}
	if (import_open_extents(image, x, files, n, &host, &e) == 0)
		use(image);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
	static const uint32_t starts[] = {0,		 0x100,			  192 << 10,
									  256 << 10, FILE_LEN - 1024, FILE_LEN / 2};
	static struct file f;
	static struct import_extent extents[IMPORT_EXTENTS];
	struct block image = {0}, inner = {0};
	struct err e;
	unsigned n;
	if (len < 2)
		return 0;
	memset(f.data, 0, sizeof(f.data));
	uint32_t at = starts[data[1] % ARRAY_LEN(starts)];
	memcpy(f.data + at, data + 2, MIN(len - 2, FILE_LEN - at));
	if (!(data[0] & 0x80))
		put_magic(&f, data[0] % 6);
	f.gate = (struct block){
		.ops = &ops, .self = &f, .size = FILE_LEN, .growable = true, .read_only = true};
	switch (data[0] % 6) {
	case 4:
		if (import_open_ova(&inner, &f.gate, data[1] / ARRAY_LEN(starts), &host, &e) == 0 &&
			import_open(&image, &inner, IMPORT_VMDK, &host, &e) == 0)
			use(&image);
		break;
	case 5:
		memcpy(f.data, "# Disk DescriptorFile\n", 22);
		f.gate.size = TEXT_LEN; /* descriptors are small */
		if (import_vmdk_extents(&f.gate, &host, extents, &n, &e) == 1)
			use_extents(&image, &f, extents, n);
		break;
	default:
		if (import_open(&image, &f.gate, (enum import_format)(data[0] % 6), &host, &e) == 0)
			use(&image);
	}
	block_close(&image);
	block_close(&inner);
	check(!taken);
	return 0;
}
