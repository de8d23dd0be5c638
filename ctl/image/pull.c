/* See pull.h. curl(1) downloads: it knows proxies, certificates and how to go on. Files arrive in
 * images/.pull/ under a name made of their URL, are compared with the publisher's SHA256SUMS or
 * SHA512SUMS and only then become an image. */
#include "ctl/image/pull.h"

#include <errno.h>
#include <sha256.h>
#include <sha512.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "ctl/image/build.h"
#include "host/linux/file.h"

/* Paths are below `base`. Where the publisher has no kernel and initrd beside the disk, they are
 * taken out of it. */
#define CHECKSUM_MAX 129 /* SHA-512 in hexadecimal, and a 0 */

static const struct known {
	const char *name, *base, *disk, *kernel, *initrd, *disk_sums, *kernel_sums, *append;
} known[] = {
	{.name = "debian-12",
	 .base = "https://cloud.debian.org/images/cloud/bookworm/latest/",
	 .disk = "debian-12-genericcloud-amd64.qcow2",
	 .disk_sums = "SHA512SUMS"},
	{.name = "debian-13",
	 .base = "https://cloud.debian.org/images/cloud/trixie/latest/",
	 .disk = "debian-13-genericcloud-amd64.qcow2",
	 .disk_sums = "SHA512SUMS"},
	{"ubuntu-24.04", "https://cloud-images.ubuntu.com/releases/noble/release/",
	 "ubuntu-24.04-server-cloudimg-amd64.img",
	 "unpacked/ubuntu-24.04-server-cloudimg-amd64-vmlinuz-generic",
	 "unpacked/ubuntu-24.04-server-cloudimg-amd64-initrd-generic", "SHA256SUMS",
	 "unpacked/SHA256SUMS", "root=LABEL=cloudimg-rootfs rw console=ttyS0 quiet"},
	{"ubuntu-22.04", "https://cloud-images.ubuntu.com/releases/jammy/release/",
	 "ubuntu-22.04-server-cloudimg-amd64.img",
	 "unpacked/ubuntu-22.04-server-cloudimg-amd64-vmlinuz-generic",
	 "unpacked/ubuntu-22.04-server-cloudimg-amd64-initrd-generic", "SHA256SUMS",
	 "unpacked/SHA256SUMS", "root=LABEL=cloudimg-rootfs rw console=ttyS0 quiet"},
};

struct pull {
	const struct pull_request *q;
	char dir[PATHS_MAX - 100];
};

static const char *last_part(const char *url) {
	const char *slash = strrchr(url, '/');
	return slash ? slash + 1 : url;
}

/* Exit codes of curl(1). */
enum { CURL_HTTP_ERROR = 22, CURL_NO_RANGES = 33 };

/* The last line that curl said, and what to do where that is not plain. */
static int download_failed(const char *url, const char *log, int code, struct err *e) {
	struct host_file f = {0};
	char said[110] = "curl failed";
	host_file_read(&f, log, "log", NULL);
	while (f.len && f.data[f.len - 1] < ' ')
		f.len--;
	size_t at = f.len;
	while (at && f.data[at - 1] >= ' ')
		at--;
	if (f.len > at)
		snprintf(said, sizeof(said), "%.*s", (int)MIN(f.len - at, sizeof(said) - 1),
				 (char *)f.data + at);
	host_file_free(&f);
	if (code == CURL_HTTP_ERROR)
		return err_set(e, ERR_NOENT, "%.120s: %s", url, said);
	return err_set(e, ERR_IO, "%.70s: %s; try again, or name a proxy in https_proxy", url, said);
}

/* Downloads, or goes on with it; `path` gets where it is. */
static int fetch(struct pull *p, const char *url, char *path, size_t size, struct err *e) {
	char hex[65], log[PATHS_MAX], what[120];
	if (strncmp(url, "http://", 7) && strncmp(url, "https://", 8) && strncmp(url, "file://", 7))
		return err_set(e, ERR_INVAL, "%.100s: not an address that begins with https:// or http://",
					   url);
	SHA256Data((const uint8_t *)url, strlen(url), hex);
	snprintf(path, size, "%s/%.16s", p->dir, hex);
	snprintf(log, sizeof(log), "%s/%.16s.log", p->dir, hex);
	snprintf(what, sizeof(what), "%.80s", last_part(url));
	unlink(log);
	char *argv[] = {"curl", "-fsSL", "-C", "-", "--retry", "3", "-o", path, (char *)url, NULL};
	int r = build_run(argv, log, what, path, 0, p->q->quiet, e);
	/* This server cannot go on in the middle, today or tomorrow. */
	if (r == CURL_NO_RANGES && unlink(path) == 0)
		r = build_run(argv, log, what, path, 0, p->q->quiet, e);
	if (r == -ERR_NOENT)
		return err_set(e, ERR_NOTSUP, "there is no curl here (apt-get install curl)");
	if (r > 0)
		r = download_failed(url, log, r, e);
	unlink(log);
	return r;
}

/* A broken copy must not be gone on with for ever. */
static int compare(const char *path, const char *want, const char *url, struct err *e) {
	char hex[CHECKSUM_MAX];
	if (!(strlen(want) == 64 ? SHA256File(path, hex) : SHA512File(path, hex)))
		return err_set(e, errno, "cannot read %s: %s", path, strerror(errno));
	if (strcasecmp(hex, want) == 0)
		return 0;
	unlink(path);
	return err_set(e, ERR_IO, "%.60s has checksum %.16s..., not %.16s...: it is damaged, not kept",
				   last_part(url), hex, want);
}

/* The line "HEX *NAME" or "HEX  NAME" of a file as sha256sum(1) or sha512sum(1) writes it. */
static int find_sum(const char *path, const char *name, char hex[CHECKSUM_MAX], struct err *e) {
	struct host_file f;
	int r = host_file_read(&f, path, "checksums", e);
	if (r)
		return r;
	size_t len = strlen(name);
	r = err_set(e, ERR_NOENT, "the publisher's checksums have none for %s", name);
	for (size_t at = 0; at < f.len;) {
		const char *line = (char *)f.data + at, *end = memchr(line, '\n', f.len - at);
		size_t n = end ? (size_t)(end - line) : f.len - at;
		size_t digits = n > len + 2 ? n - len - 2 : 0;
		if ((digits == 64 || digits == 128) && memcmp(line + digits + 2, name, len) == 0) {
			memcpy(hex, line, digits);
			hex[digits] = 0;
			r = 0;
			break;
		}
		at += n + 1;
	}
	host_file_free(&f);
	return r;
}

/* Where `k` lies: at its publisher's, or on the user's mirror under the same path. */
static int base_of(const struct known *k, char *base, size_t size, struct err *e) {
	const char *mirror = getenv("JOIST_IMAGE_MIRROR");
	if (!mirror || !*mirror) {
		snprintf(base, size, "%s", k->base);
		return 0;
	}
	size_t n = strlen(mirror);
	if (n > 150)
		return err_set(e, ERR_INVAL, "JOIST_IMAGE_MIRROR has more than 150 characters");
	while (n && mirror[n - 1] == '/')
		n--;
	const char *path = strchr(strstr(k->base, "://") + 3, '/');
	snprintf(base, size, "%.*s%s", (int)n, mirror, path);
	return 0;
}

static int fetch_known(struct pull *p, const struct known *k, const char *file, const char *sums,
					   char *path, size_t size, struct err *e) {
	char url[400], base[300], hex[CHECKSUM_MAX], list[PATHS_MAX];
	int bad = base_of(k, base, sizeof(base), e);
	if (bad)
		return bad;
	snprintf(url, sizeof(url), "%s%s", base, sums);
	int r = fetch(p, url, list, sizeof(list), e);
	if (r == 0)
		r = find_sum(list, last_part(file), hex, e);
	unlink(list); /* asked for anew each time */
	snprintf(url, sizeof(url), "%s%s", base, file);
	if (r || (r = fetch(p, url, path, size, e)) != 0)
		return r;
	return compare(path, hex, url, e);
}

static int pull_known(struct pull *p, const struct known *k, struct err *e) {
	char disk[PATHS_MAX], kernel[PATHS_MAX], initrd[PATHS_MAX], hex[65], source[300];
	bool beside = k->kernel != NULL;
	int r = 0;
	if (beside)
		r = fetch_known(p, k, k->kernel, k->kernel_sums, kernel, sizeof(kernel), e);
	if (!r && beside)
		r = fetch_known(p, k, k->initrd, k->kernel_sums, initrd, sizeof(initrd), e);
	if (r || (r = fetch_known(p, k, k->disk, k->disk_sums, disk, sizeof(disk), e)) != 0)
		return r;
	/* What `image ls --json` tells is the SHA-256, whatever the publisher gave. */
	if (!SHA256File(disk, hex))
		return err_set(e, errno, "cannot read %s: %s", disk, strerror(errno));
	snprintf(source, sizeof(source), "%s%s", k->base, k->disk);
	r = image_import(&(struct import_request){.name = p->q->name,
											  .disk = disk,
											  .kernel = beside ? kernel : NULL,
											  .initrd = beside ? initrd : NULL,
											  .append = p->q->append ? p->q->append : k->append,
											  .source = source,
											  .sha256 = hex,
											  .cloud_init = true,
											  .replace = p->q->replace},
					 e);
	if (r == 0) {
		unlink(disk);
		if (beside) {
			unlink(kernel);
			unlink(initrd);
		}
	}
	return r;
}

static int pull_url(struct pull *p, struct err *e) {
	const struct pull_request *q = p->q;
	char disk[PATHS_MAX], kernel[PATHS_MAX], initrd[PATHS_MAX];
	int r;
	if (!q->sha256)
		return err_set(e, ERR_INVAL, "%.100s: give its checksum with --sha256", q->what);
	if (strlen(q->sha256) != 64)
		return err_set(e, ERR_INVAL, "--sha256 %.70s: not 64 hexadecimal digits", q->sha256);
	if ((r = fetch(p, q->what, disk, sizeof(disk), e)) != 0 ||
		(r = compare(disk, q->sha256, q->what, e)) != 0 ||
		(q->kernel && (r = fetch(p, q->kernel, kernel, sizeof(kernel), e)) != 0) ||
		(q->initrd && (r = fetch(p, q->initrd, initrd, sizeof(initrd), e)) != 0))
		return r;
	r = image_import(&(struct import_request){.name = q->name,
											  .disk = disk,
											  .kernel = q->kernel ? kernel : NULL,
											  .initrd = q->initrd ? initrd : NULL,
											  .append = q->append,
											  .source = q->what,
											  .sha256 = q->sha256,
											  .cloud_init = true,
											  .replace = q->replace},
					 e);
	if (r == 0)
		unlink(disk);
	if (r == 0 && q->kernel)
		unlink(kernel);
	if (r == 0 && q->initrd)
		unlink(initrd);
	return r;
}

int pull_image(const struct pull_request *q, struct err *e) {
	struct pull p = {.q = q};
	struct vm_image old;
	struct cli_suggest s = {.wanted = q->what};
	int r = paths_data(p.dir, sizeof(p.dir), "images/.pull", e);
	if (r)
		return r;
	if (!q->replace && image_find(&old, q->name, e) == 0)
		return err_set(e, ERR_EXIST, "there is an image %s already; --replace pulls it anew",
					   q->name);
	if (strstr(q->what, "://"))
		return pull_url(&p, e);
	for (unsigned i = 0; i < ARRAY_LEN(known); i++) {
		if (strcmp(known[i].name, q->what) == 0)
			return pull_known(&p, &known[i], e);
		cli_suggest_add(&s, known[i].name);
	}
	if (s.best)
		return err_set(e, ERR_NOENT, "no known image %.60s (did you mean %s?)", q->what, s.best);
	return err_set(e, ERR_NOENT,
				   "no known image %.60s: there is debian-12, debian-13, ubuntu-22.04, "
				   "ubuntu-24.04, or a URL",
				   q->what);
}
