/* joist image build, pull, import, ls, rm. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "ctl/cli/table.h"
#include "ctl/image/build.h"
#include "ctl/image/disk.h"
#include "ctl/image/pull.h"

static int bad_name(const struct cli_verb *v, const char *name) {
	return cli_usage(v, "%s: not an image's name (up to 63 of a-z, 0-9 and .:_-)", name);
}

/* ---- build ---------------------------------------------------------------------------- */

/* "debian", or with a release after it as others write it: debian-12, debian:trixie. NULL: it is
 * something else. */
static const char *release_of(const char *operand, const char *preset) {
	static const char *const known[][2] = {
		{"12", "bookworm"},	  {"bookworm", "bookworm"}, {"13", "trixie"},
		{"trixie", "trixie"}, {"sid", "sid"},			{"unstable", "sid"},
	};
	if (strncmp(operand, "debian", 6) != 0)
		return NULL;
	if (!operand[6])
		return preset;
	for (unsigned i = 0; strchr("-:/", operand[6]) && i < ARRAY_LEN(known); i++)
		if (strcmp(operand + 7, known[i][0]) == 0)
			return known[i][1];
	return NULL;
}

static int build(const struct cli_args *a) {
	struct err e;
	struct build_request q = {
		.mirror = cli_text(a, "mirror"),
		.include = cli_text(a, "include"),
		.size = cli_size(a, "size"),
		.replace = cli_flag(a, "replace"),
		.quiet = cli_flag(a, "quiet"),
	};
	const char *what = a->noperands ? a->operands[0] : "debian";
	q.release = release_of(what, cli_text(a, "release"));
	if (!q.release)
		return cli_usage(a->verb,
						 "%s: only debian, debian-12 and debian-13 can be built; 'joist "
						 "image pull' knows others",
						 what);
	q.name = cli_nth(a, "name", 0) ? cli_text(a, "name") : what;
	if (!image_valid_name(q.name))
		return bad_name(a->verb, q.name);
	struct vm_image old;
	if (!q.replace && image_find(&old, q.name, &e) == 0) {
		cli_error("there is an image %s already; --replace builds it anew", q.name);
		return CLI_WRONG_STATE;
	}
	if (q.size < 1ull << 30)
		return cli_usage(a->verb, "--size %s: Debian needs 1G at least", cli_text(a, "size"));
	int r = build_debian(&q, &e);
	if (r)
		return cli_fail(r, &e);
	printf("%s\n", q.name);
	return CLI_OK;
}

static const struct cli_option build_options[] = {
	{"name", 'n', CLI_TEXT, "NAME", "The image's name, else what was asked for", NULL, NULL, false},
	{"release", 0, CLI_TEXT, "NAME", "Debian's release", "bookworm", "bookworm trixie sid", false},
	{"size", 0, CLI_SIZE, "SIZE", "Of the disk; VMs may have bigger ones", "4G", NULL, false},
	{"include", 0, CLI_TEXT, "PACKAGES", "More packages, with commas between", NULL, NULL, false},
	{"mirror", 0, CLI_TEXT, "URL", "Where packages come from, else as this host's apt", NULL, NULL,
	 false},
	{"replace", 0, CLI_FLAG, NULL, "Replace an image of this name", NULL, NULL, false},
	{"quiet", 'q', CLI_FLAG, NULL, "No progress", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_image_build = {
	.name = "image build",
	.operands = "[debian|debian-12|debian-13]",
	.max_operands = 1,
	.complete = "debian debian-12 debian-13",
	.summary = "make an image from Debian's packages",
	.about = "Makes a bootable image with mmdebstrap: kernel, systemd, cloud-init, openssh-server, "
			 "qemu-guest-agent. Needs no root where user namespaces are allowed (package uidmap). "
			 "It takes some minutes; what mmdebstrap says is kept in a log.",
	.examples = "  joist image build debian\n"
				"  joist image build debian --name web --include nginx --size 8G\n",
	.options = build_options,
	.run = build,
};

/* ---- import ---------------------------------------------------------------------------- */

static const char *base_name(const char *path) {
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

/* "Debian-12.qcow2" as "debian-12". */
static void name_of_file(const char *path, char *name, size_t size) {
	snprintf(name, size, "%s", base_name(path));
	for (char *p = name; *p; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p |= 0x20;
	char *dot = strrchr(name, '.');
	if (dot && dot != name)
		*dot = 0;
}

static int import(const struct cli_args *a) {
	struct err e;
	struct import_request q = {
		.disk = a->operands[0],
		.kernel = cli_text(a, "kernel"),
		.initrd = cli_text(a, "initrd"),
		.append = cli_text(a, "append"),
		.no_kernel = cli_flag(a, "no-kernel"),
		.cloud_init = cli_flag(a, "cloud-init"),
		.replace = cli_flag(a, "replace"),
		.source = a->operands[0],
	};
	char name[STORE_NAME];
	name_of_file(a->operands[0], name, sizeof(name));
	q.name = cli_text(a, "name") ? cli_text(a, "name") : name;
	if (!image_valid_name(q.name))
		return bad_name(a->verb, q.name);
	int r = image_import(&q, &e);
	if (r)
		return cli_fail(r, &e);
	printf("%s\n", q.name);
	return CLI_OK;
}

static const struct cli_option import_options[] = {
	{"name", 'n', CLI_TEXT, "NAME", "The image's name, else the file's", NULL, NULL, false},
	{"kernel", 0, CLI_FILE, "FILE", "Kernel that boots it, else the newest in the disk", NULL, NULL,
	 false},
	{"initrd", 0, CLI_FILE, "FILE", "Initial RAM disk for the kernel", NULL, NULL, false},
	{"no-kernel", 0, CLI_FLAG, NULL, "Without one: VMs made from it name theirs", NULL, NULL,
	 false},
	{"append", 0, CLI_TEXT, "TEXT",
	 "The kernel's command line, else one with the root file system's UUID, or, with --kernel, "
	 "'root=/dev/vda rw console=ttyS0'",
	 NULL, NULL, false},
	{"cloud-init", 0, CLI_FLAG, NULL, "It runs cloud-init, if not found there: VMs get a seed",
	 NULL, NULL, false},
	{"replace", 0, CLI_FLAG, NULL, "Replace an image of this name", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_image_import = {
	.name = "image import",
	.operands = "FILE",
	.min_operands = 1,
	.max_operands = 1,
	.summary = "make an image from a disk file",
	.about =
		"Copies a disk file, raw or qcow2, into the images. Joist has no firmware: it takes the "
		"newest kernel with its initial RAM disk out of /boot of an ext2, ext3 or ext4 file "
		"system in the disk (GPT, MBR, or no partitions), or those that --kernel and --initrd "
		"name. Nothing is mounted. The boot loader's settings in the disk are not read.",
	.examples = "  joist image import debian-12-genericcloud-amd64.qcow2 --name debian-12\n"
				"  joist image import disk.raw --kernel vmlinuz --initrd initrd.img\n",
	.options = import_options,
	.run = import,
};

/* ---- pull ------------------------------------------------------------------------------ */

static int pull(const struct cli_args *a) {
	struct err e;
	struct pull_request q = {
		.what = a->operands[0],
		.name = cli_text(a, "name"),
		.sha256 = cli_text(a, "sha256"),
		.kernel = cli_text(a, "kernel"),
		.initrd = cli_text(a, "initrd"),
		.append = cli_text(a, "append"),
		.replace = cli_flag(a, "replace"),
		.quiet = cli_flag(a, "quiet"),
	};
	char name[STORE_NAME];
	name_of_file(a->operands[0], name, sizeof(name));
	if (!q.name)
		q.name = strchr(a->operands[0], '/') ? name : a->operands[0];
	if (!image_valid_name(q.name))
		return bad_name(a->verb, q.name);
	int r = pull_image(&q, &e);
	if (r == -ERR_INVAL)
		return cli_usage(a->verb, "%s", e.text);
	if (r)
		return cli_fail(r, &e);
	printf("%s\n", q.name);
	return CLI_OK;
}

static const struct cli_option pull_options[] = {
	{"name", 'n', CLI_TEXT, "NAME", "The image's name here", NULL, NULL, false},
	{"sha256", 0, CLI_TEXT, "HEX", "Checksum of the disk, for a URL", NULL, NULL, false},
	{"kernel", 0, CLI_TEXT, "URL", "Kernel, for a URL, else the newest in the disk", NULL, NULL,
	 false},
	{"initrd", 0, CLI_TEXT, "URL", "Initial RAM disk, for a URL", NULL, NULL, false},
	{"append", 0, CLI_TEXT, "TEXT", "The kernel's command line", NULL, NULL, false},
	{"replace", 0, CLI_FLAG, NULL, "Replace an image of this name", NULL, NULL, false},
	{"quiet", 'q', CLI_FLAG, NULL, "No progress", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_image_pull = {
	.name = "image pull",
	.operands = "NAME|URL",
	.min_operands = 1,
	.max_operands = 1,
	.complete = "debian-12 debian-13 ubuntu-22.04 ubuntu-24.04",
	.summary = "download a distribution's cloud image",
	.about =
		"Downloads a cloud image that is known by name (debian-12, debian-13, ubuntu-22.04, "
		"ubuntu-24.04) and compares it with the publisher's checksums; or what a URL leads to, "
		"compared with --sha256. Kernel and initial RAM disk are the publisher's or, where it "
		"has none beside the disk, taken out of it as with 'joist image import'. A download "
		"that broke off goes on where it was. Uses curl. JOIST_IMAGE_MIRROR=URL names a server "
		"that has the publishers' paths.",
	.examples = "  joist image pull debian-12\n"
				"  joist image pull ubuntu-24.04\n",
	.options = pull_options,
	.run = pull,
};

/* ---- ls, rm ---------------------------------------------------------------------------- */

static json_t *to_json(const struct vm_image *i) {
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:b, s:b}", "name", i->name,
					 "folder", i->dir, "source", i->source, "append", i->append, "sha256",
					 i->sha256, "size", (json_int_t)i->size, "used", (json_int_t)i->used, "created",
					 (json_int_t)i->created, "kernel", i->kernel, "cloud-init", i->cloud_init);
}

static int ls(const struct cli_args *a) {
	static const char *const heads[] = {"NAME", "SIZE", "ON DISK", "AGE", "KERNEL", "SOURCE"};
	struct image_list l;
	struct err e;
	struct table t;
	int r = image_list(&l, &e);
	if (r)
		return cli_fail(r, &e);
	json_t *list = json_array();
	if (!cli_flag(a, "json") && !cli_flag(a, "quiet"))
		table_start(&t, 6, heads);
	for (unsigned i = 0; i < l.n; i++) {
		const struct vm_image *x = &l.images[i];
		char size[24], used[24], age[24];
		if (cli_flag(a, "json")) {
			json_array_append_new(list, to_json(x));
		} else if (cli_flag(a, "quiet")) {
			printf("%s\n", x->name);
		} else {
			table_cell(&t, "%s", x->name);
			table_cell(&t, "%s", table_size(size, x->size));
			table_cell(&t, "%s", table_size(used, x->used));
			table_cell(&t, "%s", table_duration(age, time(NULL) - x->created));
			table_cell(&t, "%s", x->kernel ? "yes" : "no");
			table_cell(&t, "%s", x->source);
		}
	}
	if (cli_flag(a, "json")) {
		json_dumpf(list, stdout, JSON_INDENT(2));
		putchar('\n');
	} else if (!cli_flag(a, "quiet")) {
		table_print(&t);
	}
	json_decref(list);
	image_list_free(&l);
	return CLI_OK;
}

static const struct cli_option ls_options[] = {
	{"json", 0, CLI_FLAG, NULL, "Print JSON", NULL, NULL, false},
	{"quiet", 'q', CLI_FLAG, NULL, "Only the names", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_image_ls = {
	.name = "image ls",
	.summary = "list images",
	.options = ls_options,
	.run = ls,
};

static int rm(const struct cli_args *a) {
	int worst = CLI_OK;
	for (unsigned k = 0; k < a->noperands; k++) {
		struct vm_image i;
		struct err e;
		int r = image_find(&i, a->operands[k], &e);
		if (r == 0)
			r = image_remove(&i, &e);
		if (r)
			worst = cli_fail(r, &e);
	}
	return worst;
}

const struct cli_verb cli_verb_image_rm = {
	.name = "image rm",
	.operands = "IMAGE...",
	.min_operands = 1,
	.max_operands = CLI_OPERANDS,
	.complete = "image",
	.summary = "remove images",
	.about = "Removes images that no VM was made from.",
	.run = rm,
};
