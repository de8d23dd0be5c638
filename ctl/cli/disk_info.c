/* joist disk info, joist disk check. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/bits.h"
#include "ctl/cli/disk_verb.h"
#include "ctl/cli/table.h"

static uint64_t used_by(int fd) {
	struct stat st;
	return fd >= 0 && fstat(fd, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

static uint64_t used(const struct image *i) {
	uint64_t sum = used_by(i->file.fd);
	for (unsigned k = 0; k < i->nparts; k++)
		sum += used_by(i->parts[k].fd);
	return sum;
}

static json_t *describe(const struct image *i) {
	json_t *j =
		json_pack("{s:s, s:s, s:I, s:I}", "file", i->path, "format", image_format_names[i->format],
				  "size", (json_int_t)i->top->size, "used", (json_int_t)used(i));
	if (i->nparts)
		json_object_set_new(j, "files", json_integer(i->nparts));
	if (i->format == IMAGE_VHDX)
		json_object_set_new(j, "dirty", json_boolean(import_was_replayed(i->top)));
	if (i->format != IMAGE_QCOW2)
		return j;
	const struct qcow2_info *q = qcow2_get_info(&i->qcow2);
	json_object_set_new(j, "version", json_integer(q->version));
	json_object_set_new(j, "cluster-size", json_integer(1ll << q->cluster_bits));
	json_object_set_new(j, "refcount-bits", json_integer(1ll << q->refcount_order));
	json_object_set_new(j, "compression",
						json_string(q->compression == BLOCK_ZSTD ? "zstd" : "zlib"));
	json_object_set_new(j, "lazy-refcounts", json_boolean(q->lazy_refcounts));
	json_object_set_new(j, "dirty", json_boolean(q->dirty));
	json_object_set_new(j, "corrupt", json_boolean(q->corrupt));
	json_object_set_new(j, "snapshots", json_integer(q->snapshots));
	if (q->backing[0]) {
		json_object_set_new(j, "backing", json_string(q->backing));
		json_object_set_new(j, "backing-format", json_string(q->backing_format));
	}
	return j;
}

static void print(const struct image *i) {
	char size[24], room[24];
	printf("%s: %s, %s, %s used\n", i->path, image_format_names[i->format],
		   table_size(size, i->top->size), table_size(room, used(i)));
	if (i->nparts)
		printf("  describes %u files beside it\n", i->nparts);
	if (i->format == IMAGE_VHDX && import_was_replayed(i->top))
		printf("  not closed properly: read as its log says\n");
	if (i->format != IMAGE_QCOW2)
		return;
	const struct qcow2_info *q = qcow2_get_info(&i->qcow2);
	printf("  qcow2 version %u, clusters of %s, %u-bit counts%s%s%s\n", q->version,
		   table_size(size, 1ull << q->cluster_bits), 1u << q->refcount_order,
		   q->compression == BLOCK_ZSTD ? ", zstd" : "", q->dirty ? ", not closed properly" : "",
		   q->corrupt ? ", CORRUPT" : "");
	if (q->snapshots)
		printf("  %u snapshots inside\n", q->snapshots);
	if (q->backing[0])
		printf("  over %s (%s)\n", q->backing, q->backing_format);
}

static int info(const struct cli_args *a) {
	struct image_options o = {
		.read_only = true, .look = true, .check = true, .alone = !cli_flag(a, "chain")};
	struct err e = {{0}};
	struct image *i;
	o.disk = (unsigned)MIN(cli_number(a, "disk"), (uint64_t)UINT32_MAX);
	int r = image_open(&i, a->operands[0], &o, &e);
	if (r)
		return disk_fail(r, &e);
	json_t *list = json_array();
	for (const struct image *x = i; x; x = x->backing) {
		if (cli_flag(a, "json"))
			json_array_append_new(list, describe(x));
		else
			print(x);
	}
	if (cli_flag(a, "json")) {
		json_dumpf(cli_flag(a, "chain") ? list : json_array_get(list, 0), stdout, JSON_INDENT(2));
		putchar('\n');
	}
	json_decref(list);
	image_close(i, NULL);
	return CLI_OK;
}

static const struct cli_option info_options[] = {
	{"chain", 0, CLI_FLAG, NULL, "Its backing files, too", NULL, NULL, false},
	{"disk", 0, CLI_NUMBER, "N", "Which disk of an .ova that has several, from 1", NULL, NULL,
	 false},
	{"json", 0, CLI_FLAG, NULL, "Print JSON", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_disk_info = {
	.name = "disk info",
	.operands = "FILE",
	.min_operands = 1,
	.max_operands = 1,
	.summary = "show what a disk image is",
	.about = "Shows format, size and what the image depends on. Also of images that a VM uses.",
	.options = info_options,
	.run = info,
};

static void print_result(const struct qcow2_check_result *c, bool repair) {
	uint64_t left = c->corruptions + (c->wrong - c->wrong_fixed);
	if (c->corruptions)
		printf("%" PRIu64 " entries point where nothing is or two would share\n", c->corruptions);
	if (c->wrong)
		printf("%" PRIu64 " wrong reference counts or flags%s\n", c->wrong,
			   c->wrong_fixed == c->wrong ? ", repaired" : "");
	if (c->leaks)
		printf("%" PRIu64 " clusters leaked%s\n", c->leaks,
			   c->leaks_fixed == c->leaks ? ", freed" : "; harmless, --repair frees them");
	if (!left && !c->leaks)
		printf("no errors");
	else if (!left)
		printf("no other errors");
	else
		printf("%" PRIu64 " errors%s", left, repair ? " left" : "; --repair may help");
	printf(", %" PRIu64 " of %" PRIu64 " clusters allocated\n", c->allocated, c->clusters);
}

static void print_json(const struct qcow2_check_result *c) {
	json_t *j = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "corruptions",
						  (json_int_t)c->corruptions, "wrong", (json_int_t)c->wrong, "wrong-fixed",
						  (json_int_t)c->wrong_fixed, "leaks", (json_int_t)c->leaks, "leaks-fixed",
						  (json_int_t)c->leaks_fixed, "clusters", (json_int_t)c->clusters,
						  "allocated", (json_int_t)c->allocated, "end", (json_int_t)c->end);
	json_dumpf(j, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(j);
}

static int check(const struct cli_args *a) {
	bool repair = cli_flag(a, "repair");
	struct image_options o = {.read_only = !repair, .alone = true, .check = true};
	struct qcow2_check_result c = {0};
	struct err e = {{0}}, closing = {{0}};
	struct image *i;
	int r = image_open(&i, a->operands[0], &o, &e);
	if (r)
		return disk_fail(r, &e);
	if (i->format != IMAGE_QCOW2)
		r = err_set(&e, ERR_NOTSUP, "%s is %s: only qcow2 can be checked", i->path,
					image_format_names[i->format]);
	else
		r = image_about(&e, i->path, qcow2_check(&i->qcow2, repair, &c, &e));
	int closed = image_close(i, &closing);
	if (r || closed)
		return disk_fail(r ? r : closed, r ? &e : &closing);
	if (cli_flag(a, "json"))
		print_json(&c);
	else
		print_result(&c, repair);
	return c.corruptions || c.wrong != c.wrong_fixed ? CLI_FAILED : CLI_OK;
}

static const struct cli_option check_options[] = {
	{"repair", 'r', CLI_FLAG, NULL, "Correct reference counts, free what leaked", NULL, NULL,
	 false},
	{"json", 0, CLI_FLAG, NULL, "Print JSON", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_disk_check = {
	.name = "disk check",
	.operands = "FILE",
	.min_operands = 1,
	.max_operands = 1,
	.summary = "look for errors in a qcow2 image",
	.about =
		"Walks all tables of the image. Exit code 0: no errors (leaked clusters are none: they "
		"take room and harm nothing, and a power cut may leave some), 1: errors. The file "
		"system on the disk is not looked at.",
	.options = check_options,
	.run = check,
};
