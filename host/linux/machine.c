/* See machine.h. Here: making and ending a machine, its clock's timer, and what power
 * changes do. The order of locks is: VM lock, then park_lock, then a back end's own. */
#include "host/linux/machine.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/fmt.h"
#include "host/linux/ledger.h"
#include "host/linux/machine_int.h"
#include "host/linux/rng.h"

/* How long a vCPU may take to stand still. Far above anything but a defect. */
#define PARK_SECONDS 10

/* A guest that triple-faults this often, each time within this time of its start, is not
 * rebooting on purpose: its kernel cannot run here. */
#define QUICK_FAULTS 3
#define QUICK_NS 1000000000ull

/* How long a reader of the console may take that does not read: when the user ends the VM.
 * One that ended by itself waits for a pager's user, until it is stopped. */
#define DRAIN_MS 2000
#define DRAIN_STEP_NS 20000000ull

/* ---- what the VM gets from its host ------------------------------------------------ */

static void host_lock(void *opaque) {
	machine_lock(opaque);
}

static void host_unlock(void *opaque) {
	machine_unlock(opaque);
}

static void host_after(void *opaque, struct vm_work *w) {
	machine_after(opaque, w);
}

static void host_kick(void *opaque, unsigned vcpu) {
	vcpu_thread_kick(opaque, vcpu);
}

static void *host_alloc(void *opaque, size_t size) {
	struct machine *m = opaque;
	/* 64: the alignment of an XSAVE area. calloc() gives big pieces without touching them. */
	size_t head = align_up(sizeof(struct machine_alloc), 64) + 64;
	uint8_t *piece = size < SIZE_MAX / 2 ? calloc(1, head + size) : NULL;
	if (!piece)
		return NULL;
	struct machine_alloc *a = (struct machine_alloc *)(void *)piece;
	a->next = m->allocs;
	a->size = size;
	m->allocs = a;
	return (uint8_t *)align_up((uintptr_t)piece + sizeof(*a), 64);
}

static void kick_all(struct machine *m) {
	for (unsigned i = 0; i < m->vm.nvcpus; i++) {
		vcpu_post(m->vm.vcpus[i], EVENT_KICK);
		vcpu_thread_kick(m, i);
	}
}

/* From now on no vCPU starts another run; those that run come out soon. */
static void hold(struct machine *m) {
	pthread_mutex_lock(&m->park_lock);
	m->hold++;
	pthread_mutex_unlock(&m->park_lock);
	kick_all(m);
}

static void release(struct machine *m) {
	pthread_mutex_lock(&m->park_lock);
	m->hold--;
	pthread_cond_broadcast(&m->park_changed);
	pthread_mutex_unlock(&m->park_lock);
}

/* The guest asks for a power change. The vCPU that did must not get much further, so the
 * machine is held at once; the loop does the rest. Only the first of several counts. */
static void host_power(void *opaque, enum vm_power what) {
	struct machine *m = opaque;
	pthread_mutex_lock(&m->park_lock);
	bool first = !m->power_asked;
	if (first) {
		m->power_asked = true;
		m->power = what;
		m->hold++;
	}
	pthread_mutex_unlock(&m->park_lock);
	if (first) {
		kick_all(m);
		loop_event_signal(&m->request);
	}
}

/* ---- time -------------------------------------------------------------------------- */

static void set_timer(struct machine *m, uint64_t deadline_ns) {
	uint64_t now = timers_now(&m->vm.timers);
	if (deadline_ns == TIMER_NEVER)
		loop_timer_set(&m->timer, UINT64_MAX);
	else
		loop_timer_set(&m->timer, deadline_ns > now ? deadline_ns - now : 0);
}

static void timer_rearm(void *opaque, uint64_t deadline_ns) {
	struct machine *m = opaque;
	if (!m->ended) /* afterwards the timer is drain()'s */
		set_timer(m, deadline_ns);
}

static void drain(struct machine *m);

static void timer_ready(void *opaque) {
	struct machine *m = opaque;
	if (m->draining) {
		drain(m);
		return;
	}
	host_lock(m);
	/* Paused: the clock stands still, machine_resume() sets the timer again. */
	if (__atomic_load_n(&m->clock.stopped_at, __ATOMIC_RELAXED) == UINT64_MAX) {
		m->vm.timers.rearm = NULL; /* once, afterwards */
		uint64_t next = timers_run(&m->vm.timers, timers_now(&m->vm.timers));
		m->vm.timers.rearm = timer_rearm;
		set_timer(m, next);
	}
	host_unlock(m);
}

/* ---- holding, ending, resetting ----------------------------------------------------- */

static bool wait_parked(struct machine *m) {
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PARK_SECONDS;
	pthread_mutex_lock(&m->park_lock);
	while (m->started && m->parked < m->vm.nvcpus && !m->stuck)
		if (pthread_cond_timedwait(&m->park_changed, &m->park_lock, &until) == ETIMEDOUT)
			m->stuck = true;
	bool stuck = m->stuck;
	pthread_mutex_unlock(&m->park_lock);
	return !stuck;
}

static void pause_nets(struct machine *m, bool paused) {
	for (unsigned i = 0; i < BOARD_NETS; i++)
		if (m->nets[i])
			host_net_pause(m->nets[i], paused);
}

bool machine_pause(struct machine *m) {
	hold(m);
	if (!wait_parked(m))
		return false;
	host_clock_pause(&m->clock);
	pause_nets(m, true);
	m->pauses++;
	return true;
}

void machine_hold(struct machine *m, bool on) {
	if (on)
		hold(m);
	else
		release(m);
}

bool machine_trim(struct machine *m) {
	hold(m);
	bool parked = wait_parked(m);
	if (parked) {
		engine_trim(&m->engine);
		malloc_trim(0);
	}
	release(m);
	return parked;
}

static void trim_idle(void *opaque) {
	machine_trim(opaque);
}

static void hold_for_others(void *opaque, bool on) {
	machine_hold(opaque, on);
}

void machine_resume(struct machine *m) {
	if (--m->pauses == 0) {
		pause_nets(m, false);
		host_clock_resume(&m->clock);
		host_lock(m);
		set_timer(m, m->vm.timers.first ? m->vm.timers.first->deadline_ns : TIMER_NEVER);
		host_unlock(m);
	}
	release(m);
}

/* The guest has ended by itself; says so when all that it wrote has been read, or looks again
 * soon. The loop runs on meanwhile, for signals and the escape key. */
static void drain(struct machine *m) {
	bool drained = console_drain(&m->console, 0);
	pthread_mutex_lock(&m->park_lock);
	bool stop = m->stop_asked || m->escaped, escaped = m->escaped;
	pthread_mutex_unlock(&m->park_lock);
	m->draining = !drained && !stop;
	loop_timer_set(&m->timer, m->draining ? DRAIN_STEP_NS : UINT64_MAX);
	if (drained)
		m->config.ended(m->config.opaque, m->end, m->end_why);
	else if (stop)
		m->config.ended(m->config.opaque, escaped ? MACHINE_ESCAPED : MACHINE_STOPPED, "");
}

/* Called with the machine held and its vCPUs parked. */
static void finish(struct machine *m, enum machine_end end, const char *why) {
	host_lock(m);
	m->ended = true;
	loop_timer_set(&m->timer, UINT64_MAX);
	host_unlock(m);
	bool itself = end == MACHINE_OFF || end == MACHINE_RESET || end == MACHINE_PANICKED;
	/* Mostly there is nothing left, or a line for a millisecond. */
	if (console_drain(&m->console, itself ? 50 : DRAIN_MS) || !itself) {
		m->config.ended(m->config.opaque, end, why);
		return;
	}
	m->end = end;
	fmt_text(m->end_why, sizeof(m->end_why), "%s", why);
	drain(m);
}

/* The clock's timer for what the devices wait for. VM lock held. */
static void begin(struct machine *m) {
	m->boot_ns = timers_now(&m->vm.timers);
	set_timer(m, m->vm.timers.first ? m->vm.timers.first->deadline_ns : TIMER_NEVER);
}

/* Puts the machine into its power-on state. VM lock held, vCPUs parked. */
static int boot(struct machine *m, struct err *e) {
	vm_reset(&m->vm);
	int r = board_load(m->board, e);
	if (r)
		return r;
	for (unsigned i = 0; i < m->vm.nvcpus; i++)
		engine_set_state(&m->engine, m->vm.vcpus[i]);
	begin(m);
	return 0;
}

static int restore(struct machine *m, struct err *e) {
	host_lock(m);
	vm_reset(&m->vm);
	host_unlock(m);
	int r = m->config.restore(m->config.opaque, m, e);
	host_lock(m);
	begin(m);
	host_unlock(m);
	return r;
}

static void power(struct machine *m, enum vm_power what) {
	const char *panic = console_panic(&m->console);
	struct err e = {{0}};
	switch (what) {
	case VM_POWER_OFF:
		finish(m, MACHINE_OFF, "");
		return;
	case VM_PANICKED:
		finish(m, MACHINE_PANICKED, m->why[0] ? m->why : panic ? panic : "");
		return;
	case VM_RESET:
		/* With panic=-1 on its command line, Linux resets when it panics. Doing it all
		 * again would end the same way, and the user would never see why. */
		if (panic) {
			finish(m, MACHINE_PANICKED, panic);
			return;
		}
		if (m->config.no_reboot) {
			finish(m, MACHINE_RESET, m->why);
			return;
		}
		log_line(LOG_INFO, "the guest resets the machine");
		console_forget(&m->console);
		host_lock(m);
		int r = boot(m, &e);
		host_unlock(m);
		if (r)
			finish(m, MACHINE_FAILED, e.text);
		return;
	}
}

/* Something was asked for: an end before a power change, since that is final. */
static void on_request(void *opaque) {
	struct machine *m = opaque;
	pthread_mutex_lock(&m->park_lock);
	bool power_asked = m->power_asked, failed = m->failed;
	bool stop = m->stop_asked || m->escaped, escaped = m->escaped;
	enum vm_power what = m->power;
	pthread_mutex_unlock(&m->park_lock);
	if (m->draining)
		drain(m);
	if (m->ended || !(power_asked || failed || stop))
		return;
	hold(m);
	if (!wait_parked(m))
		finish(m, MACHINE_FAILED, "a vCPU does not stop; this is a defect of its engine");
	else if (failed)
		finish(m, MACHINE_FAILED, m->why);
	else if (stop)
		finish(m, escaped ? MACHINE_ESCAPED : MACHINE_STOPPED, "");
	else
		power(m, what);
	if (m->ended)
		return; /* held for ever */
	pthread_mutex_lock(&m->park_lock);
	m->power_asked = false;
	m->why[0] = 0;
	m->hold--; /* host_power()'s */
	pthread_mutex_unlock(&m->park_lock);
	release(m);
}

void machine_stop(struct machine *m) {
	pthread_mutex_lock(&m->park_lock);
	m->stop_asked = true;
	pthread_mutex_unlock(&m->park_lock);
	loop_event_signal(&m->request);
}

bool machine_power_button(struct machine *m) {
	host_lock(m);
	bool heard = board_power_button(m->board);
	host_unlock(m);
	return heard;
}

static void on_escape(void *opaque) {
	struct machine *m = opaque;
	pthread_mutex_lock(&m->park_lock);
	m->escaped = true;
	pthread_mutex_unlock(&m->park_lock);
	loop_event_signal(&m->request);
}

static void on_broken_output(void *opaque, int error) {
	struct machine *m = opaque;
	log_line(LOG_WARN, "the console's output is closed (%s): ending", strerror(error));
	machine_stop(m);
}

void machine_shutdown(struct machine *m, unsigned vcpu) {
	const struct x86_state *s = &m->vm.vcpus[vcpu]->state;
	host_lock(m);
	bool quick = timers_now(&m->vm.timers) - m->boot_ns < QUICK_NS;
	m->quick_faults = quick ? m->quick_faults + 1 : 0;
	bool hopeless = m->quick_faults >= QUICK_FAULTS;
	pthread_mutex_lock(&m->park_lock);
	if (!m->power_asked)
		fmt_text(m->why, sizeof(m->why),
				 "triple fault on vCPU %u at %04x:%llx (cr2 %llx, cr3 %llx)", vcpu,
				 s->seg[SEG_CS].sel, (unsigned long long)s->rip, (unsigned long long)s->cr2,
				 (unsigned long long)s->cr3);
	pthread_mutex_unlock(&m->park_lock);
	log_line(LOG_WARN, "%s%s", m->why, hopeless ? "" : "; the machine resets");
	host_power(m, hopeless ? VM_PANICKED : VM_RESET);
	host_unlock(m);
}

void machine_fail(struct machine *m, unsigned vcpu, const char *why) {
	const struct x86_state *s = &m->vm.vcpus[vcpu]->state;
	pthread_mutex_lock(&m->park_lock);
	if (!m->failed)
		fmt_text(m->why, sizeof(m->why), "vCPU %u cannot go on at %04x:%llx: %s", vcpu,
				 s->seg[SEG_CS].sel, (unsigned long long)s->rip, why ? why : "no reason given");
	m->failed = true;
	m->hold++;
	pthread_mutex_unlock(&m->park_lock);
	kick_all(m);
	loop_event_signal(&m->request);
}

/* ---- making and destroying ----------------------------------------------------------- */

static struct boot_image image_of(struct host_source *s, const char *name) {
	return (struct boot_image){.len = s->len, .name = name, .read = host_source_read, .opaque = s};
}

static int open_images(struct machine *m, struct err *e) {
	struct board_config *b = &m->config.board;
	const struct machine_config *c = &m->config;
	int r;
	if (c->kernel) {
		r = host_source_open(&m->kernel, c->kernel, "kernel", &m->ram, e);
		if (r)
			return r;
		b->kernel = image_of(&m->kernel, c->kernel);
	}
	if (c->initrd) {
		r = host_source_open(&m->initrd, c->initrd, "initrd", &m->ram, e);
		if (r)
			return r;
		if (m->initrd.len >= b->memory)
			return err_set(e, ERR_NOMEM,
						   "initrd %s (%llu MiB) does not fit into %llu MiB of memory; give more "
						   "with --memory",
						   c->initrd, (unsigned long long)m->initrd.len >> 20,
						   (unsigned long long)b->memory >> 20);
		b->initrd = image_of(&m->initrd, c->initrd);
	}
	for (unsigned i = 0; i < c->ndisks; i++) {
		struct host_disk_options o = c->disks[i].options;
		o.ledger = m->ledger;
		r = host_disk_open(&m->disks[i], c->disks[i].path, &o, &m->host, e);
		if (r)
			return r;
		b->disk_nvme[b->ndisks] = c->disks[i].nvme;
		b->disks[b->ndisks++] = host_disk_backend(m->disks[i]);
	}
	return 0;
}

static int make_console(struct machine *m, struct err *e) {
	struct console *c = &m->console;
	c->vm = &m->host;
	c->in = m->config.in;
	c->out = m->config.out;
	c->escape = m->config.escape;
	c->escaped = on_escape;
	c->broken = on_broken_output;
	c->opaque = m;
	int r = console_create(c, e);
	if (r)
		return r;
	m->has_console = true;
	if (m->config.virtio_console)
		m->config.board.console = console_backend(c);
	else
		m->config.board.serial = console_backend(c);
	return 0;
}

static int make_channels(struct machine *m, struct err *e) {
	struct board_config *b = &m->config.board;
	for (unsigned i = 0; i < m->config.nchannels; i++) {
		const struct machine_channel *c = &m->config.channels[i];
		int r = host_channel_create(&m->channels[i], m->loop, c->path, &m->host, e);
		if (r)
			return r;
		b->channels[b->nchannels++] =
			(struct board_channel){c->name, host_channel_backend(m->channels[i])};
	}
	return 0;
}

static void channel_set_open(void *opaque, unsigned i, bool open) {
	board_channel_set_open(((struct machine *)opaque)->board, i, open);
}

static int start_channels(struct machine *m, struct err *e) {
	int r = 0;
	for (unsigned i = 0; !r && i < m->config.nchannels; i++)
		r = host_channel_start(m->channels[i], board_channel_device(m->board, i), channel_set_open,
							   m, i, e);
	return r;
}

static int make_nets(struct machine *m, struct err *e) {
	struct board_config *b = &m->config.board;
	for (unsigned i = 0; i < m->config.nnets; i++) {
		const struct machine_net *c = &m->config.nets[i];
		struct host_net_config config = c->config;
		config.ledger = m->ledger;
		int r = host_net_create(&m->nets[i], &config, &m->host, e);
		for (unsigned k = 0; !r && k < c->nforwards; k++)
			r = host_net_add_forward(m->nets[i], &c->forwards[k], e);
		if (r)
			return r;
		struct board_net *card = &b->nets[b->nnets++];
		*card = (struct board_net){.backend = host_net_backend(m->nets[i]), .mtu = c->config.mtu};
		host_net_mac(m->nets[i], card->mac);
	}
	return 0;
}

static int start_nets(struct machine *m, struct err *e) {
	int r = 0;
	for (unsigned i = 0; !r && i < m->config.nnets; i++)
		r = host_net_start(m->nets[i], board_net_device(m->board, i), e);
	return r;
}

static int make_vsock(struct machine *m, struct err *e) {
	if (!m->config.vsock)
		return 0;
	int r = host_vsock_create(&m->vsock, m->loop, m->config.vsock, &m->host, e);
	if (r)
		return r;
	m->config.board.vsock = host_vsock_backend(m->vsock);
	m->config.board.vsock_cid = m->config.vsock_cid;
	return 0;
}

static void discard(void *opaque, uint8_t *host, uint64_t len) {
	host_ram_discard(&((struct machine *)opaque)->ram, host, len);
}

bool machine_set_memory(struct machine *m, uint64_t bytes) {
	uint64_t all = m->config.board.memory;
	host_lock(m);
	bool heard = board_set_balloon(m->board, bytes < all ? all - bytes : 0);
	host_unlock(m);
	return heard;
}

void machine_memory(struct machine *m, uint64_t *usable, uint64_t *reported) {
	uint64_t target, actual;
	host_lock(m);
	board_balloon(m->board, &target, &actual, reported);
	host_unlock(m);
	*usable = m->config.board.memory - MIN(actual, m->config.board.memory);
}

struct host_disk *machine_disk(struct machine *m, unsigned i) {
	return i < BOARD_DISKS ? m->disks[i] : NULL;
}

struct host_net *machine_net(struct machine *m, unsigned i) {
	return i < BOARD_NETS ? m->nets[i] : NULL;
}

/* The processor that the CPU model is made from. A portable one is that of the strictest engine
 * that works here: hardware shows what it has, soft can do all that. */
static int cpu_of(struct machine *m, struct cpuid_host *h, struct err *e) {
	for (unsigned i = 0; m->config.portable && engines[i]; i++)
		if (engines[i]->cpuid_host && !engine_cpuid_host(engines[i], h, NULL))
			return 0;
	return engine_cpuid_host(m->config.engine, h, e);
}

/* Without the hardware's TSC in the guest, all scaling is ours. */
static uint32_t any_tsc(void) {
	enum tsc_khz_from from;
	return host_tsc_khz(&from);
}

static uint32_t (*tsc_scaler(const struct engine_ops *ops))(void) {
	return ops->hardware_tsc ? ops->tsc_scaler : any_tsc;
}

static int make(struct machine *m, struct err *e) {
	int r = loop_event_create(m->loop, &m->request, on_request, m);
	if (r)
		return err_set(e, -r, "cannot make an event: %s", strerror(-r));
	m->has_request = true;
	r = loop_timer_create(m->loop, &m->timer, timer_ready, m);
	if (r)
		return err_set(e, -r, "cannot make a timer: %s", strerror(-r));
	m->has_timer = true;
	if ((r = make_console(m, e)) || (r = host_ram_create(&m->ram, m->config.board.memory, e)) ||
		(r = open_images(m, e)) || (r = make_channels(m, e)) || (r = make_nets(m, e)) ||
		(r = make_vsock(m, e)))
		return r;
	m->config.board.rng = host_rng();
	if (!m->config.no_balloon) {
		m->config.board.discard = discard;
		m->config.board.discard_opaque = m;
	}
	struct cpuid_host host;
	if ((r = host_clock_init(&m->clock, m->config.engine->hardware_tsc || m->config.portable,
							 m->config.tsc_khz, tsc_scaler(m->config.engine), e)) ||
		(r = cpu_of(m, &host, e)) ||
		(r = cpuid_init_from(&m->cpuid, &host, m->config.cpu_model, m->config.board.cpus,
							 m->clock.clock.tsc_khz, e)))
		return r;
	m->config.board.cpuid = &m->cpuid;
	vm_init(&m->vm, &m->host, &m->clock.clock);
	m->vm.timers.rearm = timer_rearm;
	m->vm.timers.rearm_opaque = m;
	r = board_create(&m->vm, m->ram.base, &m->config.board, &m->board, e);
	if (r)
		return r;
	r = engine_create(&m->engine, m->config.engine, &m->vm, &m->config.engine_options, e);
	if (r)
		return r;
	m->has_engine = true;
	return 0;
}

int machine_create(struct machine **out, struct loop *l, const struct machine_config *c,
				   struct err *e) {
	struct machine *m = calloc(1, sizeof(*m));
	if (!m)
		return err_set(e, ERR_NOMEM, "no memory for a machine");
	m->config = *c;
	m->loop = l;
	m->ram.fd = m->kernel.fd = m->initrd.fd = -1;
	m->host =
		(struct vm_host){host_lock, host_unlock, host_kick, host_power, host_alloc, m, host_after};
	machine_lock_init(m);
	pthread_mutex_init(&m->park_lock, NULL);
	pthread_cond_init(&m->park_changed, NULL);
	m->ledger = ledger_open(NULL, c->disk_shares ? c->disk_shares : 100,
							c->net_shares ? c->net_shares : 100);
	int r = make(m, e);
	if (r) {
		machine_destroy(m);
		return r;
	}
	*out = m;
	return 0;
}

int machine_start(struct machine *m, struct err *e) {
	int r;
	if (m->config.restore) {
		r = restore(m, e);
	} else {
		host_lock(m);
		r = boot(m, e);
		host_unlock(m);
	}
	if (r)
		return r;
	struct char_device dev =
		m->config.virtio_console ? board_console_device(m->board) : board_serial_device(m->board);
	r = console_start(&m->console, dev, e);
	if (r)
		return r;
	if ((r = start_channels(m, e)) || (r = start_nets(m, e)))
		return r;
	if (m->vsock && (r = host_vsock_start(m->vsock, board_vsock_device(m->board), e)) != 0)
		return r;
	/* Set before the threads exist: they start with park(). */
	hold(m);
	r = vcpu_threads_start(m, e);
	__atomic_store_n(&m->started, true, __ATOMIC_RELEASE);
	if (r)
		return r; /* machine_destroy() joins those that were made */
	release(m);
	m->cpu_share = cpu_share_create(m->loop, m->ledger, hold_for_others, m);
	cpu_share_set_limit(m->cpu_share, m->cpu_limit);
	idle_start(&m->idle, m->loop, trim_idle, m);
	return 0;
}

struct vm *machine_vm(struct machine *m) {
	return &m->vm;
}

struct engine *machine_engine(struct machine *m) {
	return &m->engine;
}

void machine_set_clock(void *machine, uint64_t tsc) {
	host_clock_set(&((struct machine *)machine)->clock, tsc);
}

uint64_t machine_untouched(void *machine, const uint8_t *at, uint64_t len) {
	return host_ram_untouched(&((struct machine *)machine)->ram, at, len);
}

bool machine_set_cpu_shares(struct machine *m, unsigned weight) {
	ledger_set_cpu_weight(m->ledger, weight);
	return m->cpu_share != NULL;
}

void machine_set_cpu_limit(struct machine *m, unsigned percent) {
	m->cpu_limit = percent;
	cpu_share_set_limit(m->cpu_share, percent);
}

bool machine_set_disk_shares(struct machine *m, unsigned weight) {
	ledger_set_disk_weight(m->ledger, weight);
	return m->ledger != NULL;
}

bool machine_set_net_shares(struct machine *m, unsigned weight) {
	ledger_set_net_weight(m->ledger, weight);
	return m->ledger != NULL;
}

struct board *machine_board(struct machine *m) {
	return m->board;
}

void machine_stats(struct machine *m, void (*line)(void *out, const char *name, uint64_t val),
				   void *out) {
	static const char *const names[EXIT_KINDS] = {
		"exits.port", "exits.mmio",		 "exits.rdmsr",	   "exits.wrmsr", "exits.hypercall",
		"exits.halt", "exits.preempted", "exits.shutdown", "exits.debug", "exits.failed",
	};
	line(out, "time_ns", timers_now(&m->vm.timers));
	for (unsigned k = 0; k < EXIT_KINDS; k++) {
		uint64_t sum = 0;
		for (unsigned i = 0; i < m->vm.nvcpus; i++)
			sum += m->vm.vcpus[i]->exits[k];
		if (sum)
			line(out, names[k], sum);
	}
	if (m->engine.ops->stats)
		m->engine.ops->stats(m->engine.self, line, out);
}

void machine_destroy(struct machine *m) {
	/* A vCPU that would not stop still uses all of this; the process is about to end. */
	if (m->stuck)
		return;
	if (m->vm.nvcpus)
		vcpu_threads_join(m);
	if (m->has_timer)
		loop_timer_destroy(m->loop, &m->timer);
	/* Back ends before the memory that their last completions touch. */
	for (unsigned i = 0; i < BOARD_DISKS; i++)
		if (m->disks[i])
			host_disk_close(m->disks[i]);
	for (unsigned i = 0; i < BOARD_CHANNELS; i++)
		if (m->channels[i])
			host_channel_destroy(m->channels[i]);
	for (unsigned i = 0; i < BOARD_NETS; i++)
		if (m->nets[i])
			host_net_destroy(m->nets[i]);
	cpu_share_destroy(m->cpu_share);
	idle_stop(&m->idle);
	ledger_close(m->ledger);
	if (m->vsock)
		host_vsock_destroy(m->vsock);
	if (m->has_console)
		console_destroy(&m->console);
	if (m->has_request)
		loop_event_destroy(m->loop, &m->request);
	if (m->has_engine)
		engine_destroy(&m->engine);
	while (m->allocs) {
		struct machine_alloc *next = m->allocs->next;
		free(m->allocs);
		m->allocs = next;
	}
	host_source_close(&m->kernel);
	host_source_close(&m->initrd);
	host_ram_destroy(&m->ram);
	pthread_cond_destroy(&m->park_changed);
	pthread_mutex_destroy(&m->park_lock);
	pthread_mutex_destroy(&m->lock);
	free(m);
}
