/* Boots a kernel and moves the VM from engine to engine while it runs: stopped, saved, and loaded
 * into a machine that another engine runs.
 *
 *     joist-move KERNEL INITRD APPEND BOARD CPUS ENGINE[,TIER]:WHEN... ENGINE[,TIER]
 *
 * WHEN is how many milliseconds the engine runs, or @TEXT: until the guest wrote it. The console
 * goes to stdout; a line for each move to stderr. Exit code 0: the guest switched itself off under
 * the last one. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "host/linux/machine.h"
#include "lifecycle/save.h"

#define LIMIT_NS 1800000000000ull /* a busy host's level 1 is slow */
#define POLL_NS 20000000ull

struct move {
	struct loop loop;
	struct loop_timer timer;
	struct machine *m;
	int file; /* the saved VM */
	int out;  /* what the guest wrote since it runs here */
	uint64_t left_ns;
	const char *until; /* the text that has to come first; NULL: none */
	bool restores;
	uint32_t tsc_khz;
	bool ended;
	enum machine_end end;
	char why[256];
};

static bool write_all(void *opaque, const void *buf, size_t len) {
	struct move *v = opaque;
	const char *p = buf;
	while (len) {
		ssize_t n = write(v->file, p, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

static bool read_all(void *opaque, void *buf, size_t len) {
	struct move *v = opaque;
	char *p = buf;
	while (len) {
		ssize_t n = read(v->file, p, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

static void ended(void *opaque, enum machine_end end, const char *why) {
	struct move *v = opaque;
	v->ended = true;
	v->end = end;
	snprintf(v->why, sizeof(v->why), "%s", why);
	loop_quit(&v->loop);
}

static bool wrote(struct move *v, const char *text) {
	static char buf[1 << 20];
	ssize_t n = pread(v->out, buf, sizeof(buf), 0);
	return n > 0 && memmem(buf, (size_t)n, text, strlen(text));
}

/* Every 20 ms: is it time to move? */
static void on_timer(void *opaque) {
	struct move *v = opaque;
	v->left_ns -= MIN(v->left_ns, POLL_NS);
	if (v->left_ns && !(v->until && wrote(v, v->until)))
		loop_timer_set(&v->timer, POLL_NS);
	else
		loop_quit(&v->loop);
}

static int restore(void *opaque, struct machine *m, struct err *e) {
	struct move *v = opaque;
	const struct save_stream in = {.read = read_all, .opaque = v};
	lseek(v->file, 0, SEEK_SET);
	return lifecycle_load(machine_vm(m), machine_engine(m), &in, machine_set_clock, m, e);
}

/* The machine under one engine. `word`: ENGINE[,TIER][:WHEN]. */
static int run_one(struct move *v, char **argv, char *word) {
	struct err e = {{0}};
	char *time = strchr(word, ':'), *tier = strchr(word, ',');
	if (time)
		*time++ = 0;
	v->until = time && *time == '@' ? time + 1 : NULL;
	v->left_ns = time && !v->until ? strtoull(time, NULL, 10) * 1000000 : LIMIT_NS;
	if (tier)
		*tier++ = 0;
	struct machine_config c = {
		.name = "move",
		.engine_options = {.tier = tier},
		.board = {.board = argv[4],
				  .memory = MIB(128),
				  .cpus = (unsigned)atoi(argv[5]),
				  .append = argv[3]},
		.cpu_model = "host",
		.kernel = argv[1],
		.initrd = argv[2],
		.in = -1,
		.out = v->out,
		.no_reboot = true,
		.portable = true,
		.tsc_khz = v->tsc_khz,
		.restore = v->restores ? restore : NULL,
		.ended = ended,
		.opaque = v,
	};
	for (unsigned i = 0; engines[i]; i++)
		if (!strcmp(engines[i]->name, word))
			c.engine = engines[i];
	if (!c.engine)
		return fprintf(stderr, "move: no engine %s\n", word), 2;
	int r = machine_create(&v->m, &v->loop, &c, &e);
	if (r == 0)
		r = machine_start(v->m, &e);
	if (r) {
		fprintf(stderr, "move: %s: %s\n", word, e.text);
		return 1;
	}
	v->loop.quit = false;
	loop_timer_set(&v->timer, POLL_NS);
	loop_run(&v->loop);
	fprintf(stderr, "move: %s ran%s", word, v->ended ? "" : " until it was time");
	return 0;
}

static int save(struct move *v) {
	const struct save_stream out = {
		.write = write_all, .opaque = v, .untouched = machine_untouched, .ram = v->m};
	struct err e = {{0}};
	if (ftruncate(v->file, 0) < 0 || lseek(v->file, 0, SEEK_SET) < 0 || !machine_pause(v->m))
		return -1;
	int r = lifecycle_save(machine_vm(v->m), machine_engine(v->m), &out, &e);
	const struct x86_state *s = &machine_vm(v->m)->vcpus[0]->state;
	fprintf(stderr, "; saved %lld KiB at rip %llx\n", (long long)lseek(v->file, 0, SEEK_CUR) / 1024,
			(unsigned long long)s->rip);
	if (r)
		fprintf(stderr, "move: %s\n", e.text);
	struct save_info info;
	const struct save_stream in = {.read = read_all, .opaque = v};
	lseek(v->file, 0, SEEK_SET);
	if (!r)
		r = lifecycle_peek(&in, &info, &e);
	v->tsc_khz = info.tsc_khz;
	machine_resume(v->m);
	return r;
}

static void show(struct move *v) {
	char buf[4096];
	ssize_t n;
	lseek(v->out, 0, SEEK_SET);
	while ((n = read(v->out, buf, sizeof(buf))) > 0)
		fwrite(buf, 1, (size_t)n, stdout);
	fflush(stdout);
	close(v->out);
}

int main(int argc, char **argv) {
	static struct move v;
	struct err e = {{0}};
	if (argc < 7) {
		fprintf(stderr,
				"usage: joist-move KERNEL INITRD APPEND BOARD CPUS ENGINE:WHEN... ENGINE\n");
		return 2;
	}
	v.file = memfd_create("saved", MFD_CLOEXEC);
	if (v.file < 0 || loop_create(&v.loop, &e) ||
		loop_timer_create(&v.loop, &v.timer, on_timer, &v))
		return fprintf(stderr, "move: %s\n", e.text), 2;
	for (int i = 6; i < argc && !v.ended; i++) {
		v.out = memfd_create("console", MFD_CLOEXEC);
		if (run_one(&v, argv, argv[i]))
			return 1;
		if (!v.ended && i + 1 < argc && save(&v))
			return 1;
		machine_destroy(v.m);
		show(&v);
		v.restores = true;
		if (v.ended && i + 1 < argc)
			return fprintf(stderr, "\nmove: ended before its next move: %s\n", v.why), 1;
	}
	if (!v.ended || v.end != MACHINE_OFF)
		return fprintf(stderr, "\nmove: did not switch off: %s\n", v.ended ? v.why : "too slow"), 1;
	fprintf(stderr, " and the guest switched off\n");
	return 0;
}
