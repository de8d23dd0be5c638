/* What a quiet VM and its noisy neighbour do, for test/bench/neighbour.py, and network traffic of a
 * fixed amount, for net_cost.py. Static: the guest has no libraries.
 *
 *   pulse cpu SECONDS              units of some milliseconds of arithmetic
 *   pulse disk SECONDS FILE        4 KiB reads and, one in four, writes past the page cache, random
 *   pulse net SECONDS IP PORT      round trips of 1 KiB over TCP to a host that echoes
 *   pulse mem SECONDS              pieces of 1 MiB copied in 32 MiB, and 4096 reads that wait for
 *                                  one another, random
 *     each prints "pulse: begins MODE" and, at its end, "pulse: MODE COUNT SECONDS P50 P99", the
 *     percentiles in microseconds
 *   pulse hog CPUS FILE IP PORT    all of it without an end: spins, writes FILE in pieces of 1 MiB,
 *                                  copies all the memory that is free to and fro, sends to a
 *                                  host that takes everything
 *   pulse gate IP PORT             waits until the host says something, so that several begin
 *                                  at once
 *   pulse trips COUNT IP PORT      as net, so many
 *   pulse up MIB IP PORT           sends so much and waits until it is taken
 *   pulse down MIB IP PORT         takes so much; each ends with "pulse: MODE AMOUNT"
 *   pulse serve [PORT]             the host: "pulse: ports ECHO TAKER GIVER", on the loopback, or
 *                                  these three from PORT on everywhere; they cost as little as
 *                                  may be, what is taken is not even copied
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include <linux/fs.h>

#define UNITS 2000000
#define BIG (1u << 20)

static uint32_t took_us[UNITS];
static uint8_t big[BIG] __attribute__((aligned(4096)));

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int die(const char *what) {
	perror(what);
	return 1;
}

static uint64_t random64(void) {
	static uint64_t x = 88172645463325252u;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

struct work {
	int fd;
	uint64_t pages; /* of the file */
};

static int unit_cpu(struct work *w) {
	volatile uint64_t sum = 0;
	for (unsigned i = 0; i < 1000000; i++)
		sum = sum * 31 + i;
	return 0;
}

static int unit_disk(struct work *w) {
	off_t at = (off_t)(random64() % w->pages * 4096);
	ssize_t n = random64() % 4 ? pread(w->fd, big, 4096, at) : pwrite(w->fd, big, 4096, at);
	return n != 4096;
}

static int unit_net(struct work *w) {
	if (send(w->fd, big, 1024, 0) != 1024)
		return 1;
	for (ssize_t got = 0, n; got < 1024; got += n)
		if ((n = recv(w->fd, big, (size_t)(1024 - got), 0)) <= 0)
			return 1;
	return 0;
}

#define MEM (32u << 20)

static int unit_mem(struct work *w) {
	static uint64_t *mem, at;
	if (!mem) {
		mem = malloc(MEM);
		if (!mem)
			return 1;
		for (size_t i = 0; i < MEM / 8; i++)
			mem[i] = random64();
	}
	memcpy(big, (uint8_t *)mem + random64() % (MEM / BIG) * BIG, BIG);
	memcpy((uint8_t *)mem + random64() % (MEM / BIG) * BIG, big, BIG);
	for (unsigned i = 0; i < 4096; i++)
		at = mem[(at + i) % (MEM / 8)];
	return 0;
}

static int by_value(const void *a, const void *b) {
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

static int measure(const char *mode, double seconds, int (*unit)(struct work *), struct work *w) {
	unsigned n = 0;
	printf("pulse: begins %s\n", mode);
	fflush(stdout);
	double start = now(), end = start + seconds, t = start;
	while (t < end && n < UNITS) {
		double before = t;
		if (unit(w))
			return die(mode);
		t = now();
		took_us[n++] = (uint32_t)((t - before) * 1e6);
	}
	qsort(took_us, n, sizeof(took_us[0]), by_value);
	printf("pulse: %s %u %.3f %u %u\n", mode, n, t - start, took_us[n / 2],
		   took_us[(uint64_t)n * 99 / 100]);
	return 0;
}

static int open_disk(const char *path, struct work *w) {
	uint64_t size = 0;
	w->fd = open(path, O_RDWR | O_DIRECT);
	if (w->fd < 0 || ioctl(w->fd, BLKGETSIZE64, &size) < 0)
		return die(path);
	w->pages = size / 4096;
	return 0;
}

static int dial(const char *ip, const char *port) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
	inet_pton(AF_INET, ip, &a.sin_addr);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		return -1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static int hog_memory(void) {
	struct sysinfo info;
	sysinfo(&info);
	size_t half = (size_t)info.freeram / 8 * 3;
	uint8_t *a = malloc(half), *b = malloc(half);
	if (!a || !b)
		return die("memory");
	for (;;) {
		memcpy(a, b, half);
		memcpy(b, a, half);
		__asm__ volatile("" : : "r"(a), "r"(b) : "memory");
	}
}

static int hog(char **argv) {
	struct work w = {0, 0};
	int s = dial(argv[2], argv[3]);
	if (s < 0)
		return die(argv[2]);
	if (open_disk(argv[1], &w))
		return 1;
	for (int i = atoi(argv[0]); i > 0; i--)
		if (fork() == 0)
			for (;;)
				unit_cpu(&w);
	if (fork() == 0)
		for (uint64_t at = 0;; at = (at + BIG) % (w.pages * 4096))
			if (pwrite(w.fd, big, BIG, (off_t)at) < 0)
				return die("write");
	if (fork() == 0)
		return hog_memory();
	printf("pulse: hogs\n");
	fflush(stdout);
	while (send(s, big, BIG, 0) > 0)
		;
	return die("send");
}

static int trips(int fd, long count) {
	struct work w = {fd, 0};
	for (long i = 0; i < count; i++)
		if (unit_net(&w))
			return die("trips");
	return 0;
}

static int up(int fd, long mib) {
	for (long i = 0; i < mib; i++)
		for (ssize_t sent = 0, n; sent < BIG; sent += n)
			if ((n = send(fd, big, (size_t)(BIG - sent), 0)) <= 0)
				return die("up");
	shutdown(fd, SHUT_WR);
	return recv(fd, big, 1, 0) == 0 ? 0 : die("up");
}

static int down(int fd, long mib) {
	int64_t left = (int64_t)mib * BIG;
	for (ssize_t n; left > 0; left -= n)
		if ((n = recv(fd, big, left < BIG ? (size_t)left : BIG, 0)) <= 0)
			return die("down");
	return 0;
}

static int amount(char **argv, int (*move)(int fd, long amount)) {
	int fd = dial(argv[3], argv[4]);
	if (fd < 0 || move(fd, atol(argv[2])))
		return die(argv[1]);
	printf("pulse: %s %ld\n", argv[1], atol(argv[2]));
	return 0;
}

/* Port 0: any, of the loopback. */
static int listen_at(int *port) {
	struct sockaddr_in a = {.sin_family = AF_INET,
							.sin_port = htons((uint16_t)*port),
							.sin_addr.s_addr = htonl(*port ? INADDR_ANY : INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, len) < 0 || listen(fd, 8) < 0 ||
		getsockname(fd, (struct sockaddr *)&a, &len) < 0)
		return -1;
	*port = ntohs(a.sin_port);
	return fd;
}

enum { ECHO, TAKER, GIVER, SERVICES };

static void serve_one(int fd, int service) {
	int one = 1;
	ssize_t n;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	while (service == GIVER && send(fd, big, BIG, MSG_NOSIGNAL) > 0)
		;
	while ((n = recv(fd, big, BIG, service == ECHO ? 0 : MSG_TRUNC)) >
		   0) /* [man 7 tcp]: discards */
		if (service == ECHO && send(fd, big, (size_t)n, MSG_NOSIGNAL) != n)
			return;
}

static int serve(int port) {
	int ports[SERVICES];
	struct pollfd l[SERVICES];
	for (int i = 0; i < SERVICES; i++) {
		ports[i] = port ? port + i : 0;
		if ((l[i] = (struct pollfd){.fd = listen_at(&ports[i]), .events = POLLIN}).fd < 0)
			return die("serve");
	}
	signal(SIGCHLD, SIG_IGN);
	printf("pulse: ports %d %d %d\n", ports[ECHO], ports[TAKER], ports[GIVER]);
	fflush(stdout);
	while (poll(l, SERVICES, -1) > 0)
		for (int i = 0; i < SERVICES; i++) {
			int c = l[i].revents ? accept(l[i].fd, NULL, NULL) : -1;
			if (c >= 0 && fork() == 0) {
				serve_one(c, i);
				_exit(0);
			}
			if (c >= 0)
				close(c);
		}
	return die("serve");
}

int main(int argc, char **argv) {
	struct work w = {0, 0};
	double seconds = argc > 2 ? atof(argv[2]) : 0;
	if (argc == 3 && strcmp(argv[1], "cpu") == 0)
		return measure("cpu", seconds, unit_cpu, &w);
	if (argc == 4 && strcmp(argv[1], "disk") == 0)
		return open_disk(argv[3], &w) || measure("disk", seconds, unit_disk, &w);
	if (argc == 5 && strcmp(argv[1], "net") == 0)
		return (w.fd = dial(argv[3], argv[4])) < 0 ? die("net")
												   : measure("net", seconds, unit_net, &w);
	if (argc == 3 && strcmp(argv[1], "mem") == 0)
		return unit_mem(&w) || measure("mem", seconds, unit_mem, &w);
	if (argc == 4 && strcmp(argv[1], "gate") == 0)
		return (w.fd = dial(argv[2], argv[3])) < 0 || recv(w.fd, big, 1, 0) != 1;
	if (argc == 5 && strcmp(argv[1], "trips") == 0)
		return amount(argv, trips);
	if (argc == 5 && strcmp(argv[1], "up") == 0)
		return amount(argv, up);
	if (argc == 5 && strcmp(argv[1], "down") == 0)
		return amount(argv, down);
	if ((argc == 2 || argc == 3) && strcmp(argv[1], "serve") == 0)
		return serve(argc == 3 ? atoi(argv[2]) : 0);
	if (argc == 6 && strcmp(argv[1], "hog") == 0)
		return hog(argv + 2);
	return 2;
}
