/* What cards are plugged into, without a guest: forwards that come and go, named networks,
 * limits, and what users write. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/net/offload.h"
#include "core/net/udp.h"
#include "host/linux/net.h"
#include "host/linux/net_store.h"

/* One lock for all: the devices' fields below are under it. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void vm_lock(void *opaque) {
	pthread_mutex_lock(&lock);
}

static void vm_unlock(void *opaque) {
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static const struct vm_host vm = {.lock = vm_lock, .unlock = vm_unlock};

struct guest {
	struct host_net *net;
	uint8_t mac[6];
	unsigned count; /* of frames that came */
	struct frame last;
	uint8_t data[FRAME_MAX];
	bool full, link;
};

static struct guest a, b;

static bool receive(void *dev, const struct frame *f) {
	struct guest *g = dev;
	if (g->full)
		return false;
	/* Neighbour discovery and the like of the gateway are not what is looked for. */
	if (f->data[12] == 0x86 && f->data[13] == 0xdd)
		return true;
	memcpy(g->data, f->data, f->len);
	g->last = *f;
	g->count++;
	return true;
}

static uint64_t flush(void *dev) {
	return UINT64_MAX;
}

static void writable(void *dev) {
}

static void set_link(void *dev, bool up) {
	((struct guest *)dev)->link = up;
}

static void start(struct guest *g, const char *text, const char *name) {
	struct host_net_config c = {.hostname = name};
	struct err e = {{0}};
	memset(g, 0, sizeof(*g));
	assert_int_equal(host_net_read(text, &c, &e), 0);
	if (host_net_create(&g->net, &c, &vm, &e))
		fail_msg("%s", e.text);
	host_net_mac(g->net, g->mac);
	assert_int_equal(
		host_net_start(g->net, (struct net_device){receive, flush, writable, set_link, g}, &e), 0);
}

/* false: the queue is full. */
static bool give(struct guest *g, const struct frame *f) {
	struct net_backend be = host_net_backend(g->net);
	vm_lock(NULL);
	uint8_t *room = be.room(be.opaque);
	if (room) {
		struct frame copy = *f;
		memcpy(room, f->data, f->len);
		copy.data = room;
		be.send(be.opaque, &copy);
		be.kick(be.opaque, UINT64_MAX);
	}
	vm_unlock(NULL);
	return room;
}

static void wait_count(struct guest *g, unsigned n) {
	vm_lock(NULL);
	while (g->count < n)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

static unsigned count_of(struct guest *g) {
	vm_lock(NULL);
	unsigned n = g->count;
	vm_unlock(NULL);
	return n;
}

static bool connects(unsigned port) {
	struct sockaddr_in to = {.sin_family = AF_INET,
							 .sin_port = htons((uint16_t)port),
							 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	bool good = connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0;
	close(fd);
	return good;
}

static unsigned free_port(void) {
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
	getsockname(fd, (struct sockaddr *)&at, &len);
	close(fd);
	return ntohs(at.sin_port);
}

static void test_forwards(void **state) {
	struct err e = {{0}};
	struct host_net_forward f, list[4];
	char text[64];
	unsigned port = free_port();
	start(&a, "user", NULL);
	snprintf(text, sizeof(text), "%u:80", port);
	assert_int_equal(host_net_read_forward(text, &f, &e), 0);
	assert_false(connects(port));
	assert_int_equal(host_net_add_forward(a.net, &f, &e), 0);
	assert_true(connects(port));
	wait_count(&a, 1); /* it asks for the guest's address */
	assert_int_equal(host_net_add_forward(a.net, &f, &e), -ERR_EXIST);
	assert_int_equal(host_net_forwards(a.net, list, 4), 1);
	host_net_forward_text(&list[0], text);
	char want[64];
	snprintf(want, sizeof(want), "127.0.0.1:%u:80/tcp", port);
	assert_string_equal(text, want);
	assert_int_equal(host_net_remove_forward(a.net, &f, &e), 0);
	assert_false(connects(port));
	assert_int_equal(host_net_remove_forward(a.net, &f, &e), -ERR_NOENT);
	host_net_set_link(a.net, false);
	assert_false(a.link || host_net_link(a.net));
	host_net_destroy(a.net);
}

static size_t datagram(uint8_t *f, const struct guest *from, uint32_t ip, const struct guest *to,
					   size_t len) {
	struct udp_ends e = {.from = ip, .to = 0x0a4d000c, .from_port = 1000, .to_port = 2000};
	memcpy(e.from_mac, from->mac, 6);
	if (to)
		memcpy(e.to_mac, to->mac, 6);
	else
		memset(e.to_mac, 255, 6);
	memset(f + UDP_PAYLOAD, 0x5a, len);
	return udp_make(f, &e, len);
}

static void test_lan(void **state) {
	static uint8_t f[FRAME_MAX];
	struct err e = {{0}};
	assert_int_equal(net_store_create("Lab", NULL, &e), -ERR_INVAL);
	assert_int_equal(net_store_create("lab", "10.77.0.0/16", &e), -ERR_INVAL);
	assert_int_equal(net_store_create("lab", "10.77.0.0/24", &e), 0);
	assert_int_equal(net_store_create("lab", NULL, &e), -ERR_EXIST);
	assert_int_equal(net_store_create("other", NULL, &e), 0);
	start(&a, "lab", "a");
	start(&b, "lab", "b");
	static const uint8_t macs[2][6] = {{0x52, 0x54, 10, 77, 0, 11}, {0x52, 0x54, 10, 77, 0, 12}};
	assert_memory_equal(a.mac, macs[0], 6);
	assert_memory_equal(b.mac, macs[1], 6);
	/* The same name twice. */
	struct host_net_config c = {.kind = HOST_NET_LAN, .name = "lab", .hostname = "a"};
	struct host_net *n;
	assert_int_equal(host_net_create(&n, &c, &vm, &e), -ERR_BUSY);
	/* To all, to one that is not known yet, and back. */
	struct frame frame = {.data = f, .len = datagram(f, &a, 0x0a4d000b, NULL, 100)};
	assert_true(give(&a, &frame));
	wait_count(&b, 1);
	assert_int_equal(b.last.len, frame.len);
	assert_memory_equal(b.data, f, frame.len);
	frame.len = datagram(f, &b, 0x0a4d000c, &a, 200);
	assert_true(give(&b, &frame));
	wait_count(&a, 1);
	assert_memory_equal(a.data, f, frame.len);
	/* Somebody else's address does not get out; what follows does. */
	frame.len = datagram(f, &a, 0x0a4d000c, &b, 10);
	assert_true(give(&a, &frame));
	frame.len = datagram(f, &a, 0x0a4d000b, &b, 20);
	assert_true(give(&a, &frame));
	wait_count(&b, 2);
	assert_int_equal(b.last.len, frame.len);
	/* Large ones go as they are, with what is left to do. */
	frame.len = datagram(f, &a, 0x0a4d000b, &b, 40000);
	frame.csum = true;
	frame.csum_start = 34;
	frame.csum_offset = 6;
	frame.gso = FRAME_GSO_UDP;
	frame.gso_size = 1000;
	assert_true(frame_valid(&frame));
	for (unsigned i = 0; i < 100; i++)
		while (!give(&a, &frame))
			usleep(1000);
	wait_count(&b, 102);
	assert_int_equal(b.last.len, frame.len);
	assert_int_equal(b.last.gso, FRAME_GSO_UDP);
	assert_int_equal(b.last.gso_size, 1000);
	assert_true(b.last.csum);
	assert_memory_equal(b.data, f, frame.len);
	assert_int_equal(net_store_remove("lab", &e), -ERR_BUSY);
	host_net_destroy(a.net);
	host_net_destroy(b.net);
	assert_int_equal(net_store_remove("lab", &e), 0);
	assert_int_equal(net_store_remove("other", &e), 0);
	assert_int_equal(net_store_remove("lab", &e), -ERR_NOENT);
}

/* Frames wait for their turn, in order; lifting the limit lets all of them go. */
static void test_limits(void **state) {
	static uint8_t f[2048];
	struct err e = {{0}};
	struct host_net_limits slow, none;
	assert_int_equal(host_net_read_limits("packets=1,packet-burst=5", &slow, &e), 0);
	assert_int_equal(host_net_read_limits("none", &none, &e), 0);
	assert_int_equal(net_store_create("lab", "10.77.0.0/24", &e), 0);
	start(&a, "lab", "a");
	start(&b, "lab", "b");
	struct frame frame = {.data = f, .len = datagram(f, &b, 0x0a4d000c, &a, 10)};
	assert_true(give(&b, &frame)); /* frames for an unknown one may be lost */
	wait_count(&a, 1);
	host_net_set_limits(a.net, &slow);
	for (unsigned i = 0; i < 200; i++) {
		frame.len = datagram(f, &a, 0x0a4d000b, &b, 100 + i);
		assert_true(give(&a, &frame));
	}
	wait_count(&b, 5);
	assert_true(count_of(&b) < 200); /* else 195 seconds have passed */
	host_net_set_limits(a.net, &none);
	wait_count(&b, 200);
	assert_int_equal(b.last.len, frame.len);
	/* On the way in, too; and while paused nothing comes at all. */
	host_net_pause(b.net, true);
	unsigned before = count_of(&b);
	for (unsigned i = 0; i < 20; i++)
		assert_true(give(&a, &frame));
	host_net_set_limits(b.net, &slow);
	usleep(20000);
	assert_int_equal(count_of(&b), before);
	host_net_pause(b.net, false);
	wait_count(&b, before + 5);
	host_net_set_limits(b.net, &none);
	wait_count(&b, before + 20);
	struct host_net_counters c;
	host_net_counters(a.net, &c);
	assert_int_equal(c.tx_frames, 220);
	host_net_destroy(a.net);
	host_net_destroy(b.net);
	assert_int_equal(net_store_remove("lab", &e), 0);
}

/* A VM that takes nothing holds up what another one sends to a third once, not with each frame. */
static void test_stuck(void **state) {
	static uint8_t f[FRAME_MAX];
	static struct guest third;
	struct err e = {{0}};
	assert_int_equal(net_store_create("lab", "10.77.0.0/24", &e), 0);
	start(&a, "lab", "a");
	start(&b, "lab", "b");
	start(&third, "lab", "c");
	struct frame frame = {.data = f, .len = datagram(f, &b, 0x0a4d000c, NULL, 10)};
	assert_true(give(&b, &frame));
	frame.len = datagram(f, &third, 0x0a4d000d, NULL, 10);
	assert_true(give(&third, &frame));
	wait_count(&a, 2);
	wait_count(&third, 1);
	vm_lock(NULL);
	b.full = true;
	vm_unlock(NULL);
	/* More than its network's queue and its socket's hold. */
	unsigned sent = 0, more = 100;
	frame.len = datagram(f, &a, 0x0a4d000b, &b, 40000);
	for (; sent < 60; sent++)
		while (!give(&a, &frame))
			usleep(1000);
	for (unsigned i = 0; i < more; i++) {
		frame.len = datagram(f, &a, 0x0a4d000b, &b, 40000);
		while (!give(&a, &frame))
			usleep(1000);
		frame.len = datagram(f, &a, 0x0a4d000b, &third, 10);
		while (!give(&a, &frame))
			usleep(1000);
	}
	/* With a wait each, 50 s would have gone by. */
	wait_count(&third, 1 + more);
	/* What it could not take is lost; it takes frames again. */
	vm_lock(NULL);
	b.full = false;
	vm_unlock(NULL);
	struct net_backend be = host_net_backend(b.net);
	vm_lock(NULL);
	be.readable(be.opaque);
	vm_unlock(NULL);
	unsigned n = 0;
	for (bool came = false; !came;) {
		frame.len = datagram(f, &a, 0x0a4d000b, &b, 77);
		assert_true(give(&a, &frame));
		usleep(5000);
		vm_lock(NULL);
		came = b.last.len == frame.len;
		n = b.count;
		vm_unlock(NULL);
	}
	assert_in_range(n, 2, sent + more);
	host_net_destroy(a.net);
	host_net_destroy(b.net);
	host_net_destroy(third.net);
	assert_int_equal(net_store_remove("lab", &e), 0);
}

static uint64_t sent_now(void) {
	struct host_net_counters c;
	host_net_counters(a.net, &c);
	return c.tx_now;
}

/* Small frames to somebody who is known go out while the thread sleeps; nothing else does. */
static void test_now(void **state) {
	static uint8_t f[FRAME_MAX];
	struct err e = {{0}};
	struct host_net_limits slow;
	assert_int_equal(net_store_create("lab", "10.77.0.0/24", &e), 0);
	start(&a, "lab", "a");
	start(&b, "lab", "b");
	struct frame frame = {.data = f, .len = datagram(f, &a, 0x0a4d000b, &b, 10)};
	usleep(20000);
	assert_true(give(&a, &frame)); /* not known yet */
	wait_count(&b, 1);
	assert_int_equal(sent_now(), 0);
	frame.len = datagram(f, &b, 0x0a4d000c, &a, 10);
	assert_true(give(&b, &frame));
	wait_count(&a, 1);
	/* In order, whoever sends them; sooner or later the thread is asleep. */
	unsigned n = 1;
	for (; n < 100 || !sent_now(); n++) {
		frame.len = datagram(f, &a, 0x0a4d000b, &b, n % 1000);
		assert_true(give(&a, &frame));
		wait_count(&b, n + 1);
		assert_int_equal(b.last.len, frame.len);
		if (n >= 50)
			usleep(2000);
	}
	uint64_t now = sent_now();
	assert_in_range(now, 1, n);
	/* To all, to the gateway, a large one: not now, but they go. */
	usleep(20000);
	frame.len = datagram(f, &a, 0x0a4d000b, NULL, 10);
	assert_true(give(&a, &frame));
	wait_count(&b, ++n);
	static const struct guest gateway = {.mac = {0x52, 0x55, 10, 77, 0, 1}};
	usleep(20000);
	frame.len = datagram(f, &a, 0x0a4d000b, &gateway, 10);
	assert_true(give(&a, &frame));
	usleep(20000);
	frame.len = datagram(f, &a, 0x0a4d000b, &b, 3000);
	assert_true(give(&a, &frame));
	wait_count(&b, ++n);
	assert_int_equal(sent_now(), now);
	/* Somebody else's address gets no further now than later. */
	for (unsigned i = 0; i < 20; i++) {
		usleep(2000);
		frame.len = datagram(f, &a, 0x0a4d000c, &b, 10);
		assert_true(give(&a, &frame));
	}
	frame.len = datagram(f, &a, 0x0a4d000b, &b, 20);
	assert_true(give(&a, &frame));
	wait_count(&b, ++n);
	assert_int_equal(count_of(&b), n);
	assert_int_equal(b.last.len, frame.len);
	/* A limit holds. */
	assert_int_equal(host_net_read_limits("packets=1,packet-burst=5", &slow, &e), 0);
	host_net_set_limits(a.net, &slow);
	for (unsigned i = 0; i < 200; i++) {
		usleep(100);
		frame.len = datagram(f, &a, 0x0a4d000b, &b, 100 + i);
		assert_true(give(&a, &frame));
	}
	wait_count(&b, n + 5);
	assert_true(count_of(&b) < n + 200); /* else 195 seconds have passed */
	assert_int_equal(host_net_read_limits("none", &slow, &e), 0);
	host_net_set_limits(a.net, &slow);
	wait_count(&b, n + 200);
	assert_int_equal(b.last.len, frame.len);
	/* Somebody who has gone takes nothing along. */
	host_net_destroy(b.net);
	for (unsigned i = 0; i < 20; i++) {
		usleep(2000);
		assert_true(give(&a, &frame));
	}
	host_net_destroy(a.net);
	assert_int_equal(net_store_remove("lab", &e), 0);
}

static void test_text(void **state) {
	struct err e = {{0}};
	struct host_net_config c = {0};
	struct host_net_forward f;
	struct host_net_limits l;
	assert_int_equal(host_net_read("user,mac=52:54:00:aB:cd:ef,mtu=9000,loopback", &c, &e), 0);
	assert_int_equal(c.mac[3], 0xab);
	assert_int_equal(c.mtu, 9000);
	assert_true(c.loopback);
	static const char *const bad[] = {"",
									  "User",
									  "user=x",
									  "bridge",
									  "tap=",
									  "tap=a/b",
									  "x_y",
									  "user,mac=52:54:00:ab:cd",
									  "user,mac=52:54:00:ab:cd:ef:",
									  "user,mtu=1",
									  "lab,loopback",
									  "user,mtu",
									  "user,x=1",
									  "tap=sixteen-letters-"};
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(host_net_read(bad[i], &c, &e), -ERR_INVAL);
	assert_int_equal(host_net_read_forward("0.0.0.0:5353:53/udp", &f, &e), 0);
	assert_true(f.udp && !f.host.s_addr && f.host_port == 5353 && f.guest_port == 53);
	static const char *const no[] = {"",		"80",	   ":80",	  "80:",	  "80:0",
									 "1:65536", "x:1:2",   "1:2:3:4", "1:2/icmp", "-1:2",
									 "1:+2",	"::1:1:2", " 1:2"};
	for (unsigned i = 0; i < sizeof(no) / sizeof(no[0]); i++)
		assert_int_equal(host_net_read_forward(no[i], &f, &e), -ERR_INVAL);
	assert_int_equal(host_net_read_limits("10M,burst=1M,packets=5K", &l, &e), 0);
	assert_int_equal(l.tx_bytes.rate, 10 << 20);
	assert_int_equal(l.rx_bytes.burst, 1 << 20);
	assert_int_equal(l.rx_frames.rate, 5120);
	assert_int_equal(host_net_read_limits("100Mbit", &l, &e), 0);
	assert_int_equal(l.tx_bytes.rate, 12500000);
	static const char *const not [] = {"0",			"x",		  "1X",			 "-1",
									   "10M,burst", "10M,bust=1", "99999999999G"};
	for (unsigned i = 0; i < sizeof(not ) / sizeof(not [0]); i++)
		assert_int_equal(host_net_read_limits(not [i], &l, &e), -ERR_INVAL);
}

static int setup(void **state) {
	static char dir[] = "/tmp/joist-net-XXXXXX";
	return mkdtemp(dir) ? setenv("XDG_DATA_HOME", dir, 1) : -1;
}

static int cleanup(void **state) {
	char path[256];
	static const char *const folders[] = {"/joist/networks/lock", "/joist/networks", "/joist", ""};
	for (unsigned i = 0; i < 4; i++) {
		snprintf(path, sizeof(path), "%s%s", getenv("XDG_DATA_HOME"), folders[i]);
		remove(path);
	}
	return 0;
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_forwards), cmocka_unit_test(test_lan),
		cmocka_unit_test(test_limits),	 cmocka_unit_test(test_now),
		cmocka_unit_test(test_stuck),	 cmocka_unit_test(test_text),
	};
	return cmocka_run_group_tests_name("host_net", tests, setup, cleanup);
}
