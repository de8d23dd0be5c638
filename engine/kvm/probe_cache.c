/* The probe's answer, kept in $XDG_RUNTIME_DIR/joist/kvm-probe until the host is booted anew: one
 * line "BOOT-ID DEVICE INODE VERSION usable|WHY". The folder is the user's own and goes away
 * with the session; without one nothing is kept. A damaged file is as good as none: it can
 * only make the engine choice wrong, which --engine overrides. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/fmt.h"
#include "engine/kvm/kvm.h"
#include "engine/kvm/probe.h"

/* Raised whenever the probe asks for something else. */
#define PROBE_VERSION 2

static bool cache_path(char *path, size_t size, bool make) {
	const char *dir = getenv("XDG_RUNTIME_DIR");
	if (!dir || dir[0] != '/')
		return false;
	if (fmt_text(path, size, "%s/joist", dir) >= size)
		return false;
	if (make && mkdir(path, 0700) < 0 && errno != EEXIST)
		return false;
	return fmt_text(path, size, "%s/joist/kvm-probe", dir) < size;
}

/* What the answer holds for. Access rights are part of it: they change while the host is up. */
static bool make_key(char *key, size_t size) {
	char boot[64] = "";
	struct stat st;
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t n = read(fd, boot, sizeof(boot) - 1);
	close(fd);
	if (n <= 0)
		return false;
	boot[strcspn(boot, "\n")] = 0;
	if (stat(kvm_device(), &st) < 0 || access(kvm_device(), R_OK | W_OK) < 0)
		return false;
	return fmt_text(key, size, "%s %llx %llx %u ", boot, (unsigned long long)st.st_rdev,
					(unsigned long long)st.st_ino, PROBE_VERSION) < size;
}

bool kvm_probe_recall(struct engine_probe *p) {
	char path[512], key[200], text[600];
	if (!make_key(key, sizeof(key)) || !cache_path(path, sizeof(path), false))
		return false;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return false;
	struct stat st;
	ssize_t n =
		fstat(fd, &st) == 0 && st.st_uid == geteuid() ? read(fd, text, sizeof(text) - 1) : 0;
	close(fd);
	if (n <= 0)
		return false;
	text[n] = 0;
	text[strcspn(text, "\n")] = 0;
	size_t len = strlen(key);
	if (strncmp(text, key, len) != 0 || !text[len])
		return false;
	p->usable = !strcmp(text + len, "usable");
	if (!p->usable)
		fmt_text(p->why, sizeof(p->why), "%s", text + len);
	struct engine_finding *f = &p->findings[p->nfindings++];
	f->ok = p->usable;
	fmt_text(f->what, sizeof(f->what), "probe");
	fmt_text(f->found, sizeof(f->found), "as found earlier since the host booted");
	return true;
}

void kvm_probe_remember(const struct engine_probe *p) {
	char path[512], temp[540], key[200], text[600];
	if (!make_key(key, sizeof(key)) || !cache_path(path, sizeof(path), true))
		return;
	fmt_text(temp, sizeof(temp), "%s.%d", path, (int)getpid());
	size_t len = fmt_text(text, sizeof(text), "%s%s\n", key, p->usable ? "usable" : p->why);
	int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return;
	bool ok = len < sizeof(text) && write(fd, text, len) == (ssize_t)len;
	if (close(fd) < 0 || !ok || rename(temp, path) < 0)
		unlink(temp);
}
