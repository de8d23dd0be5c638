/* joist disk create, joist disk resize. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "ctl/cli/disk_verb.h"

static int read_qcow2(const struct cli_args *a, struct qcow2_create_options *o) {
	uint64_t cluster = cli_size(a, "cluster-size"), bits = cli_number(a, "refcount-bits");
	o->version = strcmp(cli_text(a, "compat"), "v2") == 0 ? 2 : 3;
	if (!is_pow2(cluster) || cluster < 512 || cluster > (2u << 20))
		return cli_usage(a->verb, "--cluster-size %s: a power of two from 512 to 2M",
						 cli_text(a, "cluster-size"));
	o->cluster_bits = (unsigned)__builtin_ctzll(cluster);
	if (!is_pow2(bits) || bits > 64)
		return cli_usage(a->verb, "--refcount-bits %s: a power of two up to 64",
						 cli_text(a, "refcount-bits"));
	o->refcount_order_set = true;
	o->refcount_order = (unsigned)__builtin_ctzll(bits);
	o->lazy_refcounts = cli_flag(a, "lazy-refcounts");
	o->backing = cli_text(a, "backing");
	return 0;
}

static int create(const struct cli_args *a) {
	struct qcow2_create_options o = {0};
	struct err e = {{0}};
	enum image_format format;
	char name[DISK_NAME];
	const char *path, *text = a->noperands > 1 ? a->operands[1] : NULL;
	int r = disk_named(name, cli_text(a, "format"), a->operands[0], &e);
	if (!r)
		r = image_format_of(name, &format, &path, &e);
	if (r)
		return disk_fail(r, &e);
	if (text && !cli_read_size(text, &o.size))
		return cli_usage(a->verb, "%s: not a size (examples: 512M, 20G)", text);
	if (text && (!o.size || o.size % 512))
		return cli_usage(a->verb, "%s: a multiple of 512 bytes, and not 0", text);
	r = read_qcow2(a, &o);
	if (r)
		return r;
	if (!text && !o.backing)
		return cli_usage(a->verb, "needs a size, as 20G, or --backing FILE");
	if (format > IMAGE_QCOW2)
		return cli_usage(a->verb, "%s: images of this kind can only be read; qcow2 or raw", path);
	if (format == IMAGE_RAW && o.backing)
		return cli_usage(a->verb, "a raw image has no backing file; call it %s.qcow2 or qcow2:%s",
						 path, path);
	r = format == IMAGE_RAW ? image_create_raw(path, o.size, &e) : image_create_qcow2(path, &o, &e);
	return r ? disk_fail(r, &e) : CLI_OK;
}

static const struct cli_option create_options[] = {
	{"backing", 'b', CLI_FILE, "FILE", "Show this image's contents where nothing was written yet",
	 NULL, NULL, false},
	{"format", 'f', CLI_CHOICE, "FORMAT", "Whatever the file is called", NULL, "qcow2 raw", false},
	{"cluster-size", 0, CLI_SIZE, "SIZE", "Unit of allocation of qcow2", "64K", NULL, false},
	{"refcount-bits", 0, CLI_NUMBER, "N", "Width of qcow2's reference counts", "16", NULL, false},
	{"compat", 0, CLI_CHOICE, "VERSION", "Version of qcow2", "v3", "v2 v3", false},
	{"lazy-refcounts", 0, CLI_FLAG, NULL, "Permit other programs to write counts late", NULL, NULL,
	 false},
	{0},
};

const struct cli_verb cli_verb_disk_create = {
	.name = "disk create",
	.operands = "FILE [SIZE]",
	.min_operands = 1,
	.max_operands = 2,
	.summary = "make an empty disk image",
	.about = "Makes an image: qcow2 if it is called FILE.qcow2 or qcow2:FILE, else raw. Neither "
			 "takes room for what is not written yet. A file that exists is never touched.\n\n"
			 "With --backing, the image is an overlay: it begins with the contents of the other, "
			 "which must not change any more. Without SIZE it is as big as that one. A relative "
			 "name is relative to the new image's folder.",
	.examples = "  joist disk create root.qcow2 20G\n"
				"  joist disk create web.qcow2 --backing debian.qcow2\n",
	.options = create_options,
	.run = create,
};

static int change(struct image *i, uint64_t size, struct err *e) {
	if (i->format == IMAGE_QCOW2)
		return image_about(e, i->path, qcow2_resize(&i->qcow2, size, e));
	if (!i->file.is_file)
		return err_set(e, ERR_NOTSUP, "%s is a device; its size is its own", i->path);
	if (ftruncate(i->file.fd, (off_t)size) < 0)
		return err_set(e, errno, "%s cannot be resized: %s", i->path, strerror(errno));
	i->file.gate.size = size;
	return 0;
}

static int resize(const struct cli_args *a) {
	const char *text = a->operands[1];
	struct image_options o = {0};
	struct err e = {{0}}, closing = {{0}};
	struct image *i;
	uint64_t size;
	if (!cli_read_size(text + (text[0] == '+'), &size) || size % 512)
		return cli_usage(a->verb, "%s: not a size; 20G, or +5G for so much more", text);
	int r = image_open(&i, a->operands[0], &o, &e);
	if (r)
		return disk_fail(r, &e);
	if (text[0] == '+')
		size += i->top->size;
	if (size < i->top->size && !cli_flag(a, "shrink"))
		r = err_set(
			&e, ERR_INVAL,
			"%s has %llu bytes; what lies beyond %llu would be lost, --shrink if you mean it",
			i->path, (unsigned long long)i->top->size, (unsigned long long)size);
	else if (!size)
		r = err_set(&e, ERR_INVAL, "a disk cannot have 0 bytes");
	else
		r = change(i, size, &e);
	int c = image_close(i, &closing);
	if (r)
		return disk_fail(r, &e);
	return c ? disk_fail(c, &closing) : CLI_OK;
}

static const struct cli_option resize_options[] = {
	{"shrink", 0, CLI_FLAG, NULL, "Cut off the end, with what is on it", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_disk_resize = {
	.name = "disk resize",
	.operands = "FILE SIZE|+SIZE",
	.min_operands = 2,
	.max_operands = 2,
	.summary = "change a disk image's size",
	.about =
		"Changes the size of the disk. What is new reads as zeroes; partitions and file systems "
		"on it are the guest's to grow. No VM may have the image.",
	.examples = "  joist disk resize root.qcow2 +10G\n",
	.options = resize_options,
	.run = resize,
};
