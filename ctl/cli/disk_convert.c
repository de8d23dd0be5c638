/* joist disk convert, commit, rebase: contents from one image to another. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "ctl/cli/disk_verb.h"
#include "host/linux/inflate.h"

/* Whether `name` was left half written. */
static int finish(struct image *to, const char *path, int r, struct err *e) {
	int c = image_close(to, r ? NULL : e);
	if (r || c)
		unlink(path);
	return r ? r : c;
}

struct packer {
	enum block_compression type;
	uint64_t cluster;
	uint8_t *in, *out;
};

/* A cluster at `at`: nothing for zeroes, packed where that is shorter, else as it is. */
static int pack_cluster(const struct packer *p, struct block *from, struct block *to, uint64_t at,
						struct err *e) {
	size_t have = (size_t)MIN(p->cluster, from->size - at);
	size_t room = (size_t)MIN(p->cluster, to->size - at);
	memset(p->in, 0, p->cluster);
	int r = block_read_sync(from, at, p->in, have);
	if (r)
		return err_set(e, -r, "cannot read at %llu: %s", (unsigned long long)at, strerror(-r));
	if (!p->in[0] && memcmp(p->in, p->in + 1, p->cluster - 1) == 0)
		return 0;
	size_t n = host_deflate(p->type, p->out, p->cluster - 1, p->in, p->cluster);
	r = n ? qcow2_write_packed(to, at, p->out, n) : block_write_sync(to, at, p->in, room);
	return r ? err_set(e, -r, "cannot write at %llu: %s", (unsigned long long)at, strerror(-r)) : 0;
}

static int pack_all(const struct cli_args *a, struct image *from, struct image *to, struct err *e) {
	struct packer p = {.type = qcow2_get_info(to->top)->compression,
					   .cluster = qcow2_cluster_size(to->top)};
	struct block *b = from->top;
	struct disk_copy c;
	int r = disk_copy_start(&c, "Converting", b->size, cli_flag(a, "quiet"), e);
	p.in = malloc(p.cluster);
	p.out = malloc(p.cluster);
	if (!r && (!p.in || !p.out))
		r = err_set(e, ERR_NOMEM, "no memory to compress with");
	for (uint64_t at = 0, run = 0; !r && at < b->size; at += run) {
		enum block_state state;
		/* Whole clusters; a hole is as long as it is. */
		r = block_map_sync(b, at, MIN(b->size - at, 1024 * p.cluster), &run, &state);
		if (r) {
			err_set(e, -r, "cannot read the tables of %s: %s", from->path, strerror(-r));
			break;
		}
		bool empty = state == BLOCK_IS_ZERO || (state == BLOCK_ABSENT && !from->backing);
		if (empty && run >= p.cluster) {
			run = align_down(run, p.cluster);
		} else {
			run = MIN(p.cluster, b->size - at);
			r = pack_cluster(&p, b, to->top, at, e);
		}
		disk_copy_show(&c, at + run);
	}
	disk_copy_end(&c);
	free(p.in);
	free(p.out);
	return r;
}

static int copy_all(const struct cli_args *a, struct image *from, struct image *to, struct err *e) {
	struct disk_copy c;
	struct block *b = from->top;
	int r = disk_copy_start(&c, "Converting", b->size, cli_flag(a, "quiet"), e);
	for (uint64_t at = 0, run = 0; !r && at < b->size; at += run) {
		enum block_state state;
		r = block_map_sync(b, at, MIN(b->size - at, (uint64_t)DISK_COPY_STEP), &run, &state);
		if (r)
			err_set(e, -r, "cannot read the tables of %s: %s", from->path, strerror(-r));
		else if (state != BLOCK_IS_ZERO && (state == BLOCK_IS_DATA || from->backing))
			r = disk_copy_range(&c, b, to->top, at, run, true, e);
		disk_copy_show(&c, at + run);
	}
	disk_copy_end(&c);
	return r;
}

static int convert(const struct cli_args *a) {
	struct image_options read = {.read_only = true}, write = {0};
	struct qcow2_create_options o = {0};
	struct image *from, *to;
	struct err e = {{0}};
	enum image_format format;
	char source[DISK_NAME], target[DISK_NAME];
	const char *path;
	read.disk = (unsigned)MIN(cli_number(a, "disk"), (uint64_t)UINT32_MAX);
	int r = disk_named(source, cli_text(a, "from"), a->operands[0], &e);
	if (r || (r = disk_named(target, cli_text(a, "to"), a->operands[1], &e)) != 0 ||
		(r = image_open(&from, source, &read, &e)) != 0)
		return disk_fail(r, &e);
	o.size = align_up(from->top->size, 512);
	const char *compress = cli_text(a, "compress");
	o.zstd = compress && strcmp(compress, "zstd") == 0;
	r = image_format_of(target, &format, &path, &e);
	if (!r && compress && format != IMAGE_QCOW2)
		r = err_set(&e, ERR_INVAL, "%s: only qcow2 images can be compressed", path);
	if (!r && format > IMAGE_QCOW2)
		r = err_set(&e, ERR_NOTSUP, "%s: images of this kind can only be read; qcow2 or raw", path);
	if (!r)
		r = format == IMAGE_RAW ? image_create_raw(path, o.size, &e)
								: image_create_qcow2(path, &o, &e);
	if (!r) {
		r = image_open(&to, target, &write, &e);
		if (!r)
			r = finish(to, path, compress ? pack_all(a, from, to, &e) : copy_all(a, from, to, &e),
					   &e);
		else
			unlink(path);
	}
	image_close(from, NULL);
	return r ? disk_fail(r, &e) : CLI_OK;
}

static const struct cli_option convert_options[] = {
	{"from", 'f', CLI_CHOICE, "FORMAT", "Of FROM, whatever it is called", NULL,
	 "raw qcow2 vmdk vhd vhdx vdi", false},
	{"to", 'O', CLI_CHOICE, "FORMAT", "Of TO, whatever it is called", NULL, "raw qcow2", false},
	{"compress", 'c', CLI_CHOICE, "HOW", "Compress the clusters of a qcow2 image", NULL,
	 "zlib zstd", false},
	{"disk", 0, CLI_NUMBER, "N", "Which disk of an .ova that has several, from 1", NULL, NULL,
	 false},
	{"quiet", 'q', CLI_FLAG, NULL, "No progress bar", NULL, NULL, false},
	{0},
};

static const struct cli_option quiet_options[] = {
	{"quiet", 'q', CLI_FLAG, NULL, "No progress bar", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_disk_convert = {
	.name = "disk convert",
	.operands = "FROM TO",
	.min_operands = 2,
	.max_operands = 2,
	.summary = "copy a disk image into another format",
	.about =
		"Copies what the disk FROM holds, backing files included, into the new image TO. The "
		"names say the formats: FILE.qcow2 or qcow2:FILE, raw:FILE or any other; FROM may "
		"also be a .vmdk (of several files: the one that describes the others, which lie "
		"beside it), .vhd, .vhdx (one that was not closed is read as if its log had been "
		"replayed), .vdi or .ova. Zeroes take no room. An image that could not be completed is "
		"removed again.",
	.examples = "  joist disk convert disk.img disk.qcow2\n"
				"  joist disk convert -c zstd web.qcow2 small.qcow2\n",
	.options = convert_options,
	.run = convert,
};

/* What this image itself holds goes down; then it is emptied. */
static int commit_all(const struct cli_args *a, struct image *i, struct err *e) {
	struct disk_copy c;
	struct block *top = i->top, *base = i->backing->top;
	if (base->size < top->size)
		return err_set(e, ERR_INVAL,
					   "%s has %llu bytes and its backing file only %llu; `joist disk resize` that "
					   "first",
					   i->path, (unsigned long long)top->size, (unsigned long long)base->size);
	int r = disk_copy_start(&c, "Committing", top->size, cli_flag(a, "quiet"), e);
	for (uint64_t at = 0, run = 0; !r && at < top->size; at += run) {
		enum block_state state;
		r = block_map_sync(top, at, MIN(top->size - at, (uint64_t)DISK_COPY_STEP), &run, &state);
		if (r)
			err_set(e, -r, "cannot read the tables of %s: %s", i->path, strerror(-r));
		else if (state == BLOCK_IS_DATA)
			r = disk_copy_range(&c, top, base, at, run, false, e);
		else if (state == BLOCK_IS_ZERO && (r = block_zeroes_sync(base, at, run)) != 0)
			err_set(e, -r, "cannot write at %llu: %s", (unsigned long long)at, strerror(-r));
		disk_copy_show(&c, at + run);
	}
	disk_copy_end(&c);
	if (!r && (r = block_flush_sync(base)) != 0)
		err_set(e, -r, "the backing file could not be written: %s", strerror(-r));
	return r;
}

static int commit(const struct cli_args *a) {
	struct image_options o = {.read_only = true, .backing_rw = true};
	struct err e = {{0}};
	struct image *i;
	int r = image_open(&i, a->operands[0], &o, &e);
	if (r)
		return disk_fail(r, &e);
	if (!i->backing)
		r = err_set(&e, ERR_INVAL, "%s has no backing file to commit to", i->path);
	else
		r = commit_all(a, i, &e);
	int c = image_close(i, r ? NULL : &e);
	return r || c ? disk_fail(r ? r : c, &e) : CLI_OK;
}

const struct cli_verb cli_verb_disk_commit = {
	.name = "disk commit",
	.operands = "FILE",
	.min_operands = 1,
	.max_operands = 1,
	.summary = "write an overlay's contents into its backing file",
	.about =
		"Writes what FILE holds into its backing file, which must be in use by nobody. "
		"Afterwards both show the same disk, and FILE can be removed. Other overlays over that "
		"backing file are ruined: it is their contents, too.",
	.options = quiet_options,
	.run = commit,
};

/* Keeps what the disk shows: where old and new backing differ, the image gets the data. */
static int keep_contents(const struct cli_args *a, struct image *i, struct block *neu,
						 struct err *e) {
	static uint8_t other[DISK_COPY_STEP];
	struct disk_copy c;
	struct block *top = i->top;
	int r = disk_copy_start(&c, "Rebasing", top->size, cli_flag(a, "quiet"), e);
	for (uint64_t at = 0, run = 0; !r && at < top->size; at += run) {
		enum block_state state;
		r = block_map_sync(top, at, MIN(top->size - at, (uint64_t)DISK_COPY_STEP), &run, &state);
		if (!r && state == BLOCK_ABSENT) {
			uint64_t have = neu && at < neu->size ? MIN(run, neu->size - at) : 0;
			memset(other, 0, run);
			r = block_read_sync(top, at, c.buf, run);
			if (!r && have)
				r = block_read_sync(neu, at, other, have);
			if (!r && memcmp(c.buf, other, run) != 0)
				r = block_write_sync(top, at, c.buf, run);
		}
		if (r)
			err_set(e, -r, "%s at %llu: %s", i->path, (unsigned long long)at, strerror(-r));
		disk_copy_show(&c, at + run);
	}
	disk_copy_end(&c);
	return r;
}

/* `name` as the image will see it: without a prefix, and with its format. */
static int rebase_to(const struct cli_args *a, struct image *i, const char *name, struct err *e) {
	struct image_options look = {.read_only = true};
	enum image_format format;
	struct image *neu = NULL;
	const char *path = NULL;
	char full[4096];
	int r = 0;
	if (name) {
		r = image_format_of(name, &format, &path, e);
		const char *slash = strrchr(i->path, '/');
		snprintf(full, sizeof(full), "%s:%.*s%s", image_format_names[r ? 0 : format],
				 slash && path[0] != '/' ? (int)(slash - i->path) + 1 : 0, i->path,
				 path ? path : "");
		if (!r)
			r = image_open(&neu, full, &look, e);
	}
	if (!r && !cli_flag(a, "unsafe"))
		r = keep_contents(a, i, neu ? neu->top : NULL, e);
	if (!r)
		r = image_about(
			e, i->path,
			qcow2_set_backing(&i->qcow2, path, path ? image_format_names[format] : NULL, e));
	image_close(neu, NULL);
	return r;
}

static int rebase(const struct cli_args *a) {
	struct image_options o = {.alone = cli_flag(a, "unsafe")};
	struct err e = {{0}};
	struct image *i;
	const char *backing = a->noperands > 1 ? a->operands[1] : cli_text(a, "backing");
	int r = image_open(&i, a->operands[0], &o, &e);
	if (r)
		return disk_fail(r, &e);
	if (i->format != IMAGE_QCOW2)
		r = err_set(&e, ERR_INVAL, "%s is raw: it has no backing file", i->path);
	else
		r = rebase_to(a, i, backing && *backing ? backing : NULL, &e);
	int c = image_close(i, r ? NULL : &e);
	return r || c ? disk_fail(r ? r : c, &e) : CLI_OK;
}

static const struct cli_option rebase_options[] = {
	{"backing", 'b', CLI_FILE, "BACKING", "The same as BACKING", NULL, NULL, false},
	{"unsafe", 'u', CLI_FLAG, NULL,
	 "Only change the name in the image, for a backing file that was moved", NULL, NULL, false},
	{"quiet", 'q', CLI_FLAG, NULL, "No progress bar", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_disk_rebase = {
	.name = "disk rebase",
	.operands = "FILE [BACKING]",
	.min_operands = 1,
	.max_operands = 2,
	.summary = "give a qcow2 image another backing file, or none",
	.about =
		"The disk keeps its contents: what differs between the old backing file and BACKING is "
		"copied into FILE. Without BACKING everything is, and FILE stands alone. A relative name "
		"is relative to the folder of FILE.",
	.examples = "  joist disk rebase web.qcow2\n"
				"  joist disk rebase --unsafe web.qcow2 qcow2:/images/debian-12.qcow2\n",
	.options = rebase_options,
	.run = rebase,
};
