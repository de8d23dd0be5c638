/* See ext.h. */
#include "ctl/image/ext.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <et/com_err.h>
#include <ext2fs/ext2fs.h>

#include "core/base/bits.h"
#include "core/base/le.h"

#define READ_MAX (4ull << 30) /* bytes, of one file system: what ends all circles in it */
#define GROUPS_MAX (1u << 20) /* libext2fs holds 64 bytes for each; 128 TiB as usually made */
#define ENTRIES_MAX 65536u	  /* of one folder */

struct ext {
	ext2_filsys fs;
	struct struct_io_channel channel;
	struct block *disk;
	uint64_t offset, len, left;
};

/* ---- libext2fs's disk ---------------------------------------------------------------------- */

static _Thread_local struct ext *opening; /* its open() gets nothing but a name */

static errcode_t io_open(const char *name, int flags, io_channel *channel) {
	opening->channel.block_size = 1024;
	opening->channel.refcount = 1;
	*channel = &opening->channel;
	return 0;
}

static errcode_t io_close(io_channel channel) {
	return 0; /* part of struct ext */
}

static errcode_t io_set_blksize(io_channel channel, int size) {
	channel->block_size = size;
	return 0;
}

/* A negative count is bytes. */
static errcode_t io_read64(io_channel channel, unsigned long long at, int count, void *data) {
	struct ext *x = channel->private_data;
	uint64_t size = (uint64_t)channel->block_size;
	uint64_t n = count < 0 ? (uint64_t) - (int64_t)count : (uint64_t)count * size;
	if (at > x->len / size || n > x->len - at * size || n > x->left)
		return EXT2_ET_SHORT_READ;
	x->left -= n;
	int r = block_read_sync(x->disk, x->offset + at * size, data, (size_t)n);
	return r ? (errcode_t)-r : 0;
}

static errcode_t io_read(io_channel channel, unsigned long at, int count, void *data) {
	return io_read64(channel, at, count, data);
}

static errcode_t io_write64(io_channel channel, unsigned long long at, int count,
							const void *data) {
	return EXT2_ET_RO_FILSYS;
}

static errcode_t io_write(io_channel channel, unsigned long at, int count, const void *data) {
	return EXT2_ET_RO_FILSYS;
}

static errcode_t io_flush(io_channel channel) {
	return 0;
}

static struct struct_io_manager manager = {
	.magic = EXT2_ET_MAGIC_IO_MANAGER,
	.name = "a part of a disk",
	.open = io_open,
	.close = io_close,
	.set_blksize = io_set_blksize,
	.read_blk = io_read,
	.write_blk = io_write,
	.flush = io_flush,
	.read_blk64 = io_read64,
	.write_blk64 = io_write64,
};

/* ---- opening ------------------------------------------------------------------------------- */

/* Before the library allocates by what the superblock says: 1 for none, or an error. */
static int judge(struct block *disk, uint64_t offset, uint64_t len, struct err *e) {
	uint8_t s[1024];
	if (len < 2048 || offset > disk->size || len > disk->size - offset)
		return 1;
	int r = block_read_sync(disk, offset + 1024, s, sizeof(s));
	if (r)
		return block_fail(e, r, "reading a superblock");
	if (le16_get(s + 0x38) != EXT2_SUPER_MAGIC)
		return 1;
	uint32_t shift = le32_get(s + 0x18), per_group = le32_get(s + 0x20);
	uint64_t blocks = le32_get(s + 0x04);
	if (le32_get(s + 0x60) & EXT4_FEATURE_INCOMPAT_64BIT)
		blocks |= (uint64_t)le32_get(s + 0x150) << 32;
	if (shift > 6 || !per_group || blocks > len >> (10 + shift))
		return err_set(e, ERR_INVAL, "its superblock is damaged, or the disk was cut short");
	if (blocks / per_group >= GROUPS_MAX)
		return err_set(e, ERR_NOTSUP, "it has more than %u groups of blocks", GROUPS_MAX);
	return 0;
}

int ext_open(struct ext **out, struct block *disk, uint64_t offset, uint64_t len, struct err *e) {
	int r = judge(disk, offset, len, e);
	if (r)
		return r;
	struct ext *x = calloc(1, sizeof(*x));
	if (!x)
		return err_set(e, ERR_NOMEM, "no memory");
	*x = (struct ext){.disk = disk, .offset = offset, .len = len, .left = READ_MAX};
	x->channel = (struct struct_io_channel){
		.magic = EXT2_ET_MAGIC_IO_CHANNEL,
		.manager = &manager,
		.name = (char *)manager.name,
		.private_data = x,
	};
	add_error_table(&et_ext2_error_table); /* once more is no harm */
	opening = x;
	errcode_t bad = ext2fs_open(manager.name, EXT2_FLAG_64BITS, 0, 0, &manager, &x->fs);
	opening = NULL;
	if (bad) {
		r = err_set(e, ERR_INVAL, "%.160s", error_message(bad));
		free(x);
		return r;
	}
	*out = x;
	return 0;
}

void ext_close(struct ext *x) {
	if (!x)
		return;
	ext2fs_free(x->fs);
	free(x);
}

void ext_root(const struct ext *x, char *text, size_t size) {
	static const uint8_t none[16];
	const uint8_t *u = x->fs->super->s_uuid;
	const uint8_t *label = (const uint8_t *)x->fs->super->s_volume_name;
	size_t n = 0;
	*text = 0;
	if (memcmp(u, none, sizeof(none)) != 0) {
		snprintf(text, size,
				 "UUID=%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0],
				 u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13],
				 u[14], u[15]);
		return;
	}
	/* The label gets into a command line: only what cannot end its word there. */
	while (n < 16 && label[n] > ' ' && label[n] < 127 && label[n] != '"')
		n++;
	if (n && (n == 16 || !label[n]))
		snprintf(text, size, "LABEL=%.*s", (int)n, (const char *)label);
}

/* ---- files --------------------------------------------------------------------------------- */

static int find(struct ext *x, const char *path, ext2_ino_t *ino, struct ext2_inode *inode) {
	errcode_t bad = ext2fs_namei_follow(x->fs, EXT2_ROOT_INO, EXT2_ROOT_INO, path, ino);
	return bad || ext2fs_read_inode(x->fs, *ino, inode) ? -ERR_NOENT : 0;
}

enum ext_kind ext_look(struct ext *x, const char *path) {
	struct ext2_inode inode;
	ext2_ino_t ino;
	if (find(x, path, &ino, &inode))
		return EXT_NONE;
	return LINUX_S_ISREG(inode.i_mode)	 ? EXT_FILE
		   : LINUX_S_ISDIR(inode.i_mode) ? EXT_FOLDER
										 : EXT_OTHER;
}

struct each {
	void (*entry)(void *opaque, const char *name);
	void *opaque;
	unsigned n;
};

static int on_entry(struct ext2_dir_entry *d, int offset, int block_size, char *buf, void *opaque) {
	struct each *each = opaque;
	char name[EXT2_NAME_LEN + 1];
	size_t n = (size_t)ext2fs_dirent_name_len(d);
	if (++each->n > ENTRIES_MAX)
		return DIRENT_ABORT;
	memcpy(name, d->name, n);
	name[n] = 0;
	if (strlen(name) == n && !strchr(name, '/'))
		each->entry(each->opaque, name);
	return 0;
}

void ext_each(struct ext *x, const char *path, void (*entry)(void *opaque, const char *name),
			  void *opaque) {
	struct each each = {entry, opaque, 0};
	struct ext2_inode inode;
	ext2_ino_t ino;
	if (find(x, path, &ino, &inode) == 0 && LINUX_S_ISDIR(inode.i_mode))
		ext2fs_dir_iterate(x->fs, ino, 0, NULL, on_entry, &each);
}

static int copy(ext2_file_t from, uint64_t size, int to, const char *path, struct err *e) {
	static char buf[1 << 16];
	while (size) {
		unsigned n = 0;
		errcode_t bad = ext2fs_file_read(from, buf, (unsigned)MIN(size, (uint64_t)sizeof(buf)), &n);
		if (bad || !n)
			return err_set(e, ERR_IO, "%.80s in the disk cannot be read: %.100s", path,
						   bad ? error_message(bad) : "it ends early");
		size -= n;
		for (unsigned done = 0; done < n;) {
			ssize_t w = write(to, buf + done, n - done);
			if (w < 0 && errno == EINTR)
				continue;
			if (w <= 0)
				return err_set(e, w < 0 ? errno : ERR_IO, "cannot copy %.80s out of the disk: %s",
							   path, strerror(w < 0 ? errno : EIO));
			done += (unsigned)w;
		}
	}
	return fsync(to) < 0
			   ? err_set(e, errno, "cannot flush the copy of %.80s: %s", path, strerror(errno))
			   : 0;
}

int ext_copy(struct ext *x, const char *path, const char *to, uint64_t max, struct err *e) {
	struct ext2_inode inode;
	ext2_ino_t ino;
	ext2_file_t file;
	if (find(x, path, &ino, &inode) || !LINUX_S_ISREG(inode.i_mode))
		return err_set(e, ERR_NOENT, "there is no file %.150s in the disk", path);
	uint64_t size = EXT2_I_SIZE(&inode);
	if (!size || size > max)
		return err_set(e, ERR_INVAL, "%.120s in the disk has %llu bytes, not 1 to %llu", path,
					   (unsigned long long)size, (unsigned long long)max);
	errcode_t bad = ext2fs_file_open(x->fs, ino, 0, &file);
	if (bad)
		return err_set(e, ERR_IO, "%.80s in the disk cannot be read: %.100s", path,
					   error_message(bad));
	int r, fd = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		r = err_set(e, errno, "cannot make %.150s: %s", to, strerror(errno));
	else
		r = copy(file, size, fd, path, e);
	ext2fs_file_close(file);
	if (fd >= 0)
		close(fd);
	if (fd >= 0 && r)
		unlink(to);
	return r;
}
