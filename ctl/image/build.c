/* See build.h. mmdebstrap(1) makes the root file system; its last hook, which runs inside of
 * whatever namespace mmdebstrap uses for an unprivileged user, makes the disk with mke2fs -d and
 * hands out kernel and initrd. The namespace's root is nobody outside, so the three files
 * that it writes are made beforehand, open to all, in a folder that nobody can list. */
#include "ctl/image/build.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/image/disk.h"

static const char packages[] =
	"systemd-sysv,dbus,udev,linux-image-cloud-amd64,initramfs-tools,zstd,e2fsprogs,cloud-init,"
	"openssh-server,qemu-guest-agent,netplan.io,systemd-resolved,sudo,iproute2,iputils-ping,"
	"ca-certificates,curl,procps,kmod,less,vim-tiny";

/* Runs in the hook's shell; $1 is the root file system, $OUT where the files are. */
static const char hook[] =
	"set -e; "
	"printf 'LABEL=root / ext4 defaults 0 1\\n' >\"$1/etc/fstab\"; "
	/* What a first boot needs not wait for: RSA host keys, which are slow to find, and settings for
	 * a boot loader and a locale that the image does not have. User-data may say otherwise. */
	"printf '%s\\n' 'datasource_list: [ NoCloud, None ]' 'ssh_genkeytypes: [ed25519, ecdsa]' "
	"'grub_dpkg: {enabled: false}' 'locale: false' >\"$1/etc/cloud/cloud.cfg.d/90-joist.cfg\"; "
	"rm -f \"$1\"/etc/ssh/ssh_host_* \"$1\"/var/cache/apt/archives/*.deb; : "
	">\"$1/etc/machine-id\"; "
	"printf 'localhost\\n' >\"$1/etc/hostname\"; "
	/* One initramfs, and with what this machine may have its root on: by itself Debian makes it
	 * twice here (INITRD below), with all drivers. virtio and nvme that are built in are no harm.
	 */
	"printf 'MODULES=list\\n' >\"$1/etc/initramfs-tools/conf.d/joist\"; "
	"printf '%s\\n' virtio_pci virtio_mmio virtio_blk nvme ext4 "
	">>\"$1/etc/initramfs-tools/modules\"; "
	"v=$(cd \"$1/boot\" && echo vmlinuz-*); "
	"chroot \"$1\" update-initramfs -c -k \"${v#vmlinuz-}\"; "
	/* That was for the building, not for the VM's own dpkg. */
	"rm -f \"$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap\"; "
	"cat \"$1\"/boot/vmlinuz-* >\"$OUT/vmlinuz\"; cat \"$1\"/boot/initrd.img-* >\"$OUT/initrd\"; "
	/* What keeps services from starting in the chroot must not keep them from it in the VM;
	 * mmdebstrap itself puts both away only after this hook. */
	"rm -f \"$1/usr/sbin/policy-rc.d\"; "
	"[ ! -e \"$1/sbin/start-stop-daemon.REAL\" ] || "
	"mv -f \"$1/sbin/start-stop-daemon.REAL\" \"$1/sbin/start-stop-daemon\"; "
	/* Without /proc, /sys and /dev, which are mounted below $1. */
	"mount --bind \"$1\" \"$OUT/root\"; "
	"mke2fs -q -F -t ext4 -L root -E lazy_itable_init=1,nodiscard -d \"$OUT/root\" "
	"\"$OUT/disk.raw\"; "
	"umount \"$OUT/root\"";

struct staging {
	char top[200], dir[260];
};

static int make_file(const char *dir, const char *name, uint64_t size, struct err *e) {
	char path[PATHS_MAX];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || fchmod(fd, 0666) < 0 || ftruncate(fd, (off_t)size) < 0) {
		int r = err_set(e, errno, "cannot make %s: %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
		return r;
	}
	close(fd);
	return 0;
}

static int stage(struct staging *s, uint64_t size, struct err *e) {
	const char *tmp = getenv("TMPDIR");
	uint64_t secret[2];
	snprintf(s->top, sizeof(s->top), "%.150s/joist-build-XXXXXX",
			 tmp && tmp[0] == '/' ? tmp : "/var/tmp");
	if (getrandom(secret, sizeof(secret), 0) != sizeof(secret) || !mkdtemp(s->top))
		return err_set(e, errno, "cannot make a folder like %s: %s", s->top, strerror(errno));
	snprintf(s->dir, sizeof(s->dir), "%s/%016llx%016llx", s->top, (unsigned long long)secret[0],
			 (unsigned long long)secret[1]);
	if (mkdir(s->dir, 0711) < 0 || chmod(s->dir, 0711) < 0 || chmod(s->top, 0711) < 0)
		return err_set(e, errno, "cannot make the folder %s: %s", s->dir, strerror(errno));
	char root[300];
	int r;
	snprintf(root, sizeof(root), "%s/root", s->dir);
	if (mkdir(root, 0755) < 0)
		return err_set(e, errno, "cannot make the folder %s: %s", root, strerror(errno));
	if ((r = make_file(s->dir, "disk.raw", size, e)) != 0 ||
		(r = make_file(s->dir, "vmlinuz", 0, e)) != 0)
		return r;
	return make_file(s->dir, "initrd", 0, e);
}

/* Nothing that wrote it has done so. */
static int flush(const char *path, struct err *e) {
	int fd = open(path, O_RDONLY | O_CLOEXEC), r = 0;
	if (fd < 0 || fsync(fd) < 0)
		r = err_set(e, errno, "cannot flush %s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	return r;
}

static int collect(const struct staging *s, struct vm_image *i, struct err *e) {
	static const char *const files[] = {"disk.raw", "vmlinuz", "initrd"};
	char from[PATHS_MAX], to[PATHS_MAX];
	for (unsigned k = 0; k < 3; k++) {
		struct stat st;
		int r;
		snprintf(from, sizeof(from), "%s/%s", s->dir, files[k]);
		if ((r = paths_join(to, sizeof(to), i->dir, files[k], e)) != 0)
			return r;
		if (stat(from, &st) < 0 || st.st_size == 0)
			return err_set(e, ERR_IO, "mmdebstrap left no %s behind", files[k]);
		if ((r = flush(from, e)) != 0)
			return r;
		if (rename(from, to) < 0 && (r = disk_copy(from, to, e)) != 0)
			return r;
	}
	return 0;
}

static int debootstrap(const struct build_request *q, const struct staging *s, const char *log,
					   struct err *e) {
	char include[2048], script[2048];
	snprintf(include, sizeof(include), "--include=%s%s%s", packages, q->include ? "," : "",
			 q->include ? q->include : "");
	snprintf(script, sizeof(script), "--customize-hook=OUT=%s; %s", s->dir, hook);
	/* INITRD: the kernel's package makes none, since the hook does. The whole image is flushed at
	 * its end; what dpkg flushes after each file before that is in vain. */
	char *argv[] = {"env",
					"INITRD=No",
					"mmdebstrap",
					"--variant=minbase",
					include,
					"--aptopt=Apt::Install-Recommends \"false\"",
					"--dpkgopt=force-unsafe-io",
					script,
					"--format=null",
					(char *)q->release,
					"/dev/null",
					(char *)q->mirror,
					NULL};
	int r = build_run(argv, log, "building", NULL, 0, q->quiet, e);
	if (r == -ERR_NOENT)
		return err_set(e, ERR_NOTSUP, "there is no mmdebstrap here (apt-get install mmdebstrap)");
	if (r > 0) {
		cli_error("what mmdebstrap said is in %s", log);
		return err_set(e, ERR_IO, "mmdebstrap failed with exit code %d", r);
	}
	return r;
}

int build_debian(const struct build_request *q, struct err *e) {
	struct vm_image i;
	struct staging s = {{0}, {0}};
	char log[PATHS_MAX], dir[PATHS_MAX];
	int r = paths_data(dir, sizeof(dir), "logs", e);
	if (r || (r = image_begin(&i, q->name, e)) != 0)
		return r;
	snprintf(log, sizeof(log), "%.900s/build-%s.log", dir, q->name);
	unlink(log);
	r = stage(&s, q->size, e);
	if (r == 0)
		r = debootstrap(q, &s, log, e);
	if (r == 0)
		r = collect(&s, &i, e);
	if (s.top[0])
		paths_remove_tree(s.top, NULL);
	snprintf(i.disk, sizeof(i.disk), "disk.raw");
	snprintf(i.append, sizeof(i.append), "root=LABEL=root rw console=ttyS0 quiet");
	snprintf(i.source, sizeof(i.source), "mmdebstrap %s", q->release);
	i.size = q->size;
	i.cloud_init = true;
	if (r == 0)
		r = image_publish(&i, q->replace, e);
	if (r)
		image_abandon(&i);
	return r;
}
