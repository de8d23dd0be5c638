/* Images as disks of a VM, raw and qcow2, by io_uring and by threads: data comes back, bounds
 * hold, locks exclude, holes are zero. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/linux/disk.h"
#include "host/linux/disk_io.h"
#include "host/linux/image.h"
#include "host/linux/ledger.h"

#define SIZE (1u << 20)

static pthread_mutex_t vm_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t finished = PTHREAD_COND_INITIALIZER;

static void lock(void *opaque) {
	pthread_mutex_lock(&vm_lock);
}

static void unlock(void *opaque) {
	pthread_mutex_unlock(&vm_lock);
}

static const struct vm_host vm = {.lock = lock, .unlock = unlock};
static struct host_disk_options writable;
static const struct host_disk_options read_only = {.read_only = true};

/* Which of them this turn is about. */
static bool is_qcow2;

struct fixture {
	char path[48];
	struct host_disk *disk;
};

static int setup(void **state) {
	struct fixture *f = calloc(1, sizeof(*f));
	snprintf(f->path, sizeof(f->path), "/var/tmp/joist-disk-XXXXXX.%s", is_qcow2 ? "qcow2" : "raw");
	int fd = mkstemps(f->path, is_qcow2 ? 6 : 4);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, SIZE), 0);
	close(fd);
	if (is_qcow2) {
		struct qcow2_create_options o = {.size = SIZE};
		assert_int_equal(unlink(f->path), 0);
		assert_int_equal(image_create_qcow2(f->path, &o, NULL), 0);
	}
	assert_int_equal(host_disk_open(&f->disk, f->path, &writable, &vm, NULL), 0);
	*state = f;
	return 0;
}

static int teardown(void **state) {
	struct fixture *f = *state;
	if (f->disk)
		host_disk_close(f->disk);
	unlink(f->path);
	free(f);
	return 0;
}

struct result {
	bool done;
	int error;
};

static void done(struct block_request *r, int error) {
	struct result *x = r->opaque;
	x->error = error;
	x->done = true;
	pthread_cond_signal(&finished);
}

static int submit(struct host_disk *d, struct block_request *r) {
	const struct block_backend *b = host_disk_backend(d);
	struct result x = {0};
	r->done = done;
	r->opaque = &x;
	lock(NULL);
	b->submit(b->opaque, r);
	while (!x.done)
		pthread_cond_wait(&finished, &vm_lock);
	unlock(NULL);
	return x.error;
}

static int transfer(struct host_disk *d, enum block_op op, uint64_t offset, void *buf,
					uint64_t len) {
	/* Two segments, the first odd in size, so that vectors are cut in the middle. */
	struct block_request r = {.op = op, .offset = offset, .len = len, .nsegs = 2};
	uint64_t first = len > 100 ? 100 : len;
	r.segs[0] = (struct block_segment){buf, first};
	r.segs[1] = (struct block_segment){(uint8_t *)buf + first, len - first};
	return submit(d, &r);
}

static void test_round_trip(void **state) {
	struct fixture *f = *state;
	static uint8_t out[65536], in[65536];
	for (unsigned i = 0; i < sizeof(out); i++)
		out[i] = (uint8_t)(i * 7 + (i >> 8));
	assert_int_equal(transfer(f->disk, BLOCK_WRITE, 4096, out, sizeof(out)), 0);
	assert_int_equal(transfer(f->disk, BLOCK_READ, 4096, in, sizeof(in)), 0);
	assert_memory_equal(in, out, sizeof(in));
	struct block_request flush = {.op = BLOCK_FLUSH};
	assert_int_equal(submit(f->disk, &flush), 0);
	struct block_request fua = {
		.op = BLOCK_WRITE, .offset = 0, .len = 512, .fua = true, .nsegs = 1};
	fua.segs[0] = (struct block_segment){out, 512};
	assert_int_equal(submit(f->disk, &fua), 0);
}

/* Whole pages go another way than the rest if the page cache is left out; each sees the other. */
static void test_aligned(void **state) {
	struct fixture *f = *state;
	static uint8_t out[65536] __attribute__((aligned(4096))),
		in[65536] __attribute__((aligned(4096)));
	struct block_request w = {.op = BLOCK_WRITE, .offset = 8192, .len = sizeof(out), .nsegs = 1},
						 r = {.op = BLOCK_READ, .offset = 8192, .len = sizeof(in), .nsegs = 1};
	for (unsigned round = 0; round < 8; round++) {
		bool mixed = round & 1;
		memset(out, 0x30 + (int)round, sizeof(out));
		w.segs[0] = (struct block_segment){out, sizeof(out)};
		r.segs[0] = (struct block_segment){in, sizeof(in)};
		assert_int_equal(mixed ? transfer(f->disk, BLOCK_WRITE, 8192, out, sizeof(out))
							   : submit(f->disk, &w),
						 0);
		assert_int_equal(
			mixed ? submit(f->disk, &r) : transfer(f->disk, BLOCK_READ, 8192, in, sizeof(in)), 0);
		assert_memory_equal(in, out, sizeof(in));
	}
}

static void test_descriptor(void **state) {
	struct fixture *f = *state;
	struct disk_file_options o = {.direct = writable.direct, .growable = true};
	static uint8_t page[4096] __attribute__((aligned(4096)));
	struct block_request r = {.len = 4096, .offset = 4096, .nsegs = 1};
	struct disk_file file;
	assert_int_equal(disk_file_open(&file, f->path, &o, NULL), 0);
	r.segs[0] = (struct block_segment){page, 4096};
	assert_int_equal(disk_file_descriptor(&file, &r), o.direct ? file.direct : file.fd);
	r.offset = 512;
	assert_int_equal(disk_file_descriptor(&file, &r), file.fd);
	r.offset = 4096;
	r.segs[0] = (struct block_segment){page, 512};
	assert_int_equal(disk_file_descriptor(&file, &r), file.fd);
	r.segs[0] = (struct block_segment){page + 512, 4096};
	assert_int_equal(disk_file_descriptor(&file, &r), file.fd);
	disk_file_close(&file);
}

/* Slow enough, and in order; how much slower than that is the host's business. */
static void test_limits(void **state) {
	struct fixture *f = *state;
	struct host_disk_limits l = {{0, 0}, {100, 1}}, none = {{0, 0}, {0, 0}};
	static uint8_t buf[4096];
	struct timespec from, to;
	struct err e;
	host_disk_set_limits(f->disk, &l);
	clock_gettime(CLOCK_MONOTONIC, &from);
	for (unsigned i = 0; i < 11; i++)
		assert_int_equal(transfer(f->disk, BLOCK_WRITE, 0, buf, 512), 0);
	clock_gettime(CLOCK_MONOTONIC, &to);
	assert_true((to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000 >= 90);
	/* A request beyond the burst goes, and the next pays for it until the limit is lifted. */
	l = (struct host_disk_limits){{1, 1}, {0, 0}};
	host_disk_set_limits(f->disk, &l);
	assert_int_equal(transfer(f->disk, BLOCK_WRITE, 0, buf, 4096), 0);
	struct result x = {false, 0};
	struct block_request r = {.op = BLOCK_READ, .len = 512, .nsegs = 1, .done = done, .opaque = &x};
	r.segs[0] = (struct block_segment){buf, 512};
	lock(NULL);
	host_disk_backend(f->disk)->submit(host_disk_backend(f->disk)->opaque, &r);
	assert_false(x.done);
	unlock(NULL);
	host_disk_set_limits(f->disk, &none);
	lock(NULL);
	while (!x.done)
		pthread_cond_wait(&finished, &vm_lock);
	unlock(NULL);
	assert_int_equal(host_disk_read_limits("10M,burst=1G,iops=500,iops-burst=1K", &l, &e), 0);
	assert_true(l.bytes.rate == 10 << 20 && l.bytes.burst == 1 << 30);
	assert_true(l.requests.rate == 500 && l.requests.burst == 1024);
	assert_int_equal(host_disk_read_limits("iops=5", &l, &e), 0);
	assert_true(l.bytes.rate == 0 && l.requests.rate == 5);
	assert_int_equal(host_disk_read_limits("none", &l, &e), 0);
	static const char *const bad[] = {"",	   "M",		  "10X",	 "packets=5",
									  "iops=", "burst=5", "1M,iops", "-1"};
	for (unsigned i = 1; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(host_disk_read_limits(bad[i], &l, &e), -ERR_INVAL);
}

/* Whether the file system that the tests use can. */
static bool direct_works(void) {
	char path[] = "/var/tmp/joist-direct-XXXXXX";
	int fd = mkstemp(path), direct = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	close(fd);
	unlink(path);
	if (direct < 0)
		return false;
	close(direct);
	return true;
}

static void test_zeroes_and_discard(void **state) {
	struct fixture *f = *state;
	static uint8_t ones[8192], in[8192], zero[4096];
	memset(ones, 0xff, sizeof(ones));
	assert_int_equal(transfer(f->disk, BLOCK_WRITE, 0, ones, sizeof(ones)), 0);
	struct block_request r = {.op = BLOCK_ZEROES, .offset = 0, .len = 4096};
	assert_int_equal(submit(f->disk, &r), 0);
	assert_int_equal(transfer(f->disk, BLOCK_READ, 0, in, sizeof(in)), 0);
	assert_memory_equal(in, zero, 4096);
	assert_memory_equal(in + 4096, ones, 4096);
	r = (struct block_request){.op = BLOCK_DISCARD, .offset = 4096, .len = 4096};
	assert_int_equal(submit(f->disk, &r), 0);
}

static void test_bounds(void **state) {
	struct fixture *f = *state;
	uint8_t buf[1024] = {0};
	assert_int_equal(transfer(f->disk, BLOCK_READ, SIZE, buf, 512), -ERR_INVAL);
	assert_int_equal(transfer(f->disk, BLOCK_READ, SIZE - 512, buf, 1024), -ERR_INVAL);
	assert_int_equal(transfer(f->disk, BLOCK_WRITE, UINT64_MAX - 511, buf, 1024), -ERR_INVAL);
	assert_int_equal(transfer(f->disk, BLOCK_READ, SIZE - 512, buf, 512), 0);
	/* Segments that do not add up to the length. */
	struct block_request r = {.op = BLOCK_WRITE, .len = 1024, .nsegs = 1};
	r.segs[0] = (struct block_segment){buf, 512};
	assert_int_equal(submit(f->disk, &r), -ERR_INVAL);
	r = (struct block_request){.op = BLOCK_ZEROES, .offset = 512, .len = UINT64_MAX - 100};
	assert_int_equal(submit(f->disk, &r), -ERR_INVAL);
}

static void test_locks(void **state) {
	struct fixture *f = *state;
	struct host_disk *second;
	struct err e;
	assert_int_equal(host_disk_open(&second, f->path, &writable, &vm, &e), -ERR_BUSY);
	assert_non_null(strstr(e.text, "in use"));
	assert_int_equal(host_disk_open(&second, f->path, &read_only, &vm, &e), -ERR_BUSY);
	host_disk_close(f->disk);
	f->disk = NULL;
	struct host_disk *first;
	assert_int_equal(host_disk_open(&first, f->path, &read_only, &vm, &e), 0);
	assert_int_equal(host_disk_open(&second, f->path, &read_only, &vm, &e), 0);
	uint8_t buf[512] = {0};
	assert_int_equal(transfer(second, BLOCK_WRITE, 0, buf, 512), -ERR_PERM);
	assert_int_equal(transfer(second, BLOCK_READ, 0, buf, 512), 0);
	host_disk_close(first);
	host_disk_close(second);
}

/* Beside another VM on the same device a large request goes in pieces, and nobody sees that. */
static void test_pieces(void **state) {
	struct fixture *f = *state;
	static uint8_t out[SIZE], in[SIZE];
	char book[] = "/var/tmp/joist-book-XXXXXX";
	struct stat st;
	int fd = mkstemp(book);
	assert_true(fd >= 0 && stat(f->path, &st) == 0);
	struct ledger *mine = ledger_open(book, 100, 100), *other = ledger_open(book, 100, 100);
	assert_true(mine && other);
	host_disk_close(f->disk);
	struct host_disk_options o = {.ledger = mine, .direct = writable.direct};
	assert_int_equal(host_disk_open(&f->disk, f->path, &o, &vm, NULL), 0);
	int disk = ledger_add_disk(other, st.st_dev), again = ledger_add_disk(mine, st.st_dev);
	ledger_disk_begin(other, disk, 1, true); /* and it stays there */
	assert_true(ledger_disk_near(mine, again));
	for (unsigned i = 0; i < SIZE; i++)
		out[i] = (uint8_t)(i * 11 + (i >> 8) + (i >> 16));
	assert_int_equal(transfer(f->disk, BLOCK_WRITE, 512, out, SIZE - 1024), 0);
	assert_int_equal(transfer(f->disk, BLOCK_READ, 512, in, SIZE - 1024), 0);
	assert_memory_equal(in, out, SIZE - 1024);
	assert_true(transfer(f->disk, BLOCK_READ, 512, in, SIZE) < 0);
	ledger_disk_end(other, disk, 1);
	host_disk_close(f->disk);
	f->disk = NULL;
	ledger_close(mine);
	ledger_close(other);
	close(fd);
	unlink(book);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
		cmocka_unit_test_setup_teardown(test_aligned, setup, teardown),
		cmocka_unit_test_setup_teardown(test_descriptor, setup, teardown),
		cmocka_unit_test_setup_teardown(test_zeroes_and_discard, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bounds, setup, teardown),
		cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_locks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pieces, setup, teardown),
	};
	static const char *const cached_names[] = {"host_disk_raw", "host_disk_qcow2"};
	static const char *const direct_names[] = {"host_disk_raw_direct", "host_disk_qcow2_direct"};
	int failed = 0;
	for (unsigned i = 0; i < 8; i++) {
		const char *const *names = i & 4 ? direct_names : cached_names;
		struct disk_io *io;
		is_qcow2 = i & 1;
		writable.direct = i & 4;
		if (writable.direct && !direct_works())
			break;
		setenv("JOIST_DISK_IO", i & 2 ? "threads" : "uring", 1);
		if (disk_io_create(&io, NULL) == 0)
			io->ops->destroy(io);
		else
			continue; /* a container without io_uring */
		failed += cmocka_run_group_tests_name(is_qcow2 ? names[1] : names[0], tests, NULL, NULL);
	}
	return failed;
}
