/* See hostmem.h. [man 5 proc], [Documentation/admin-guide/cgroup-v2.rst of Linux]. */
#include "ctl/store/hostmem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "core/base/fmt.h"
#include "ctl/cli/table.h"
#include "ctl/def/def.h"
#include "ctl/store/store.h"
#include "host/linux/log.h"

#define GROUPS "/sys/fs/cgroup"

/* systemd gives a user's programs up to 200, and everything else 0 or less: above those, and low
 * enough that among VMs still the biggest one is taken. */
#define OOM_SCORE_ADJ 300

/* The number behind `key` in a file of lines; `none` if there is no such line. */
static uint64_t value_in(const char *path, const char *key, uint64_t none) {
	char line[256];
	size_t len = strlen(key);
	FILE *f = fopen(path, "re");
	uint64_t val = none;
	while (f && fgets(line, sizeof(line), f)) {
		if (strncmp(line, key, len) == 0 && strchr(": ", line[len])) {
			val = strtoull(line + len + 1, NULL, 10);
			break;
		}
	}
	if (f)
		fclose(f);
	return val;
}

/* The number that is all of a file; "max", or none: UINT64_MAX. */
static uint64_t value_of(const char *dir, const char *file) {
	char path[600], text[32] = "";
	snprintf(path, sizeof(path), "%s/%s", dir, file);
	FILE *f = fopen(path, "re");
	bool good = f && fgets(text, sizeof(text), f) && text[0] >= '0' && text[0] <= '9';
	if (f)
		fclose(f);
	return good ? strtoull(text, NULL, 10) : UINT64_MAX;
}

/* What may still be charged to a group; files in the page cache give way. */
static uint64_t left_in(const char *dir) {
	char path[600];
	uint64_t max = MIN(value_of(dir, "memory.max"), value_of(dir, "memory.high")),
			 used = value_of(dir, "memory.current");
	if (max == UINT64_MAX || used == UINT64_MAX)
		return UINT64_MAX;
	snprintf(path, sizeof(path), "%s/memory.stat", dir);
	uint64_t cache = MIN(value_in(path, "inactive_file", 0), used);
	return max > used - cache ? max - (used - cache) : 0;
}

uint64_t hostmem_available(void) {
	char line[400], dir[500] = "";
	uint64_t kib = value_in("/proc/meminfo", "MemAvailable", UINT64_MAX);
	uint64_t least = kib == UINT64_MAX ? kib : kib * 1024;
	FILE *f = fopen("/proc/self/cgroup", "re");
	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, "0::/", 4) == 0)
			snprintf(dir, sizeof(dir), GROUPS "%.*s", (int)strcspn(line + 3, "\n"), line + 3);
	if (f)
		fclose(f);
	while (strlen(dir) >= strlen(GROUPS)) {
		least = MIN(least, left_in(dir));
		*strrchr(dir, '/') = 0;
	}
	return least;
}

uint64_t hostmem_kills(void) {
	return value_in("/proc/vmstat", "oom_kill", 0);
}

void hostmem_offer_oneself(void) {
	char text[16] = "";
	int fd = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return;
	if (read(fd, text, sizeof(text) - 1) > 0 && atoi(text) < OOM_SCORE_ADJ) {
		snprintf(text, sizeof(text), "%d\n", OOM_SCORE_ADJ);
		if (pwrite(fd, text, strlen(text), 0) < 0)
			log_line(LOG_DEBUG, "oom_score_adj: %s", strerror(errno));
	}
	close(fd);
}

/* What a running VM may yet take of what it was promised. */
static uint64_t outstanding(const struct store_vm *vm) {
	char path[PATHS_MAX];
	struct def d = {0};
	struct err e;
	uint64_t bytes = 0;
	unsigned long long size, resident = 0;
	if (paths_join(path, sizeof(path), vm->dir, "vm.yaml", &e) == 0 &&
		def_read(&d, path, &e) == 0 && !cli_read_size(def_text(&d, "memory"), &bytes))
		bytes = 0;
	def_free(&d);
	snprintf(path, sizeof(path), "/proc/%d/statm", vm->pid);
	FILE *f = fopen(path, "re");
	if (f && fscanf(f, "%llu %llu", &size, &resident) != 2)
		resident = 0;
	if (f)
		fclose(f);
	resident *= (unsigned long long)sysconf(_SC_PAGESIZE);
	return bytes > resident ? bytes - resident : 0;
}

void hostmem_check(const char *name, const char *id, uint64_t bytes) {
	char want[24], more[24], there[24];
	uint64_t available = hostmem_available(), promised = 0;
	unsigned others = 0;
	struct store_list l;
	struct err e;
	if (store_list(&l, &e))
		return;
	for (unsigned i = 0; i < l.n; i++) {
		if (l.vms[i].phase != STORE_RUNNING || l.vms[i].pid <= 0 ||
			(id && !strcmp(l.vms[i].id, id)))
			continue;
		promised += outstanding(&l.vms[i]);
		others++;
	}
	store_list_free(&l);
	if (promised + bytes <= available)
		return;
	table_size(want, bytes);
	table_size(more, promised);
	table_size(there, available);
	if (promised)
		log_say(
			"warning: %s%sthis VM may take %s of memory, and %u that run %s more of what they were "
			"promised, but there is %s left here: when it runs out, the kernel kills a VM. Give "
			"less with -m, or 'joist update VM --memory SIZE'",
			name ? name : "", name ? ": " : "", want, others, more, there);
	else
		log_say(
			"warning: %s%sthis VM may take %s of memory, but there is %s left here: when it runs "
			"out, the kernel kills a VM. Give it less with -m",
			name ? name : "", name ? ": " : "", want, there);
}
