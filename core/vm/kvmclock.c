/* See kvmclock.h. Left out: asynchronous page faults, steal time, PV EOI and
 * migration control; the CPUID leaves do not advertise them. */
#include "core/vm/kvmclock.h"

#include "core/base/le.h"
#include "core/vm/vm.h"

#define MSR_WALL_CLOCK 0x11u
#define MSR_SYSTEM_TIME 0x12u
#define MSR_WALL_CLOCK_NEW 0x4b564d00u
#define MSR_SYSTEM_TIME_NEW 0x4b564d01u

#define SYSTEM_TIME_ENABLED 1ull
#define FLAG_TSC_STABLE 1
#define NS_PER_S 1000000000ull

/* struct pvclock_vcpu_time_info and struct pvclock_wall_clock, by offset. */
#define TI_TSC_TIMESTAMP 8
#define TI_SYSTEM_TIME 16
#define TI_MUL 24
#define TI_SHIFT 28
#define TI_FLAGS 29
#define TI_SIZE 32
#define WC_SEC 4
#define WC_NSEC 8
#define WC_SIZE 12

/* The clock and the TSC of one moment: two readings of the TSC close by, the narrowest
 * of a few tries, so that being preempted in between does not matter. */
static void take_reference(struct kvmclock *k) {
	const struct vm_clock *c = &k->vm->clock;
	uint64_t best = UINT64_MAX;
	for (unsigned i = 0; i < 5; i++) {
		uint64_t before = c->now_tsc(c->opaque);
		uint64_t ns = c->now_ns(c->opaque);
		uint64_t width = c->now_tsc(c->opaque) - before;
		if (width >= best)
			continue;
		best = width;
		k->ref_tsc = before + width / 2;
		k->ref_ns = ns;
	}
}

void kvmclock_init(struct kvmclock *k, struct vm *vm) {
	*k = (struct kvmclock){.vm = vm};
	take_reference(k);
}

void kvmclock_scale(uint32_t tsc_khz, uint32_t *mul, int8_t *shift) {
	uint64_t hz = (uint64_t)tsc_khz * 1000;
	int s = 0;
	/* Brings the frequency to (1 GHz, 2 GHz], so that mul keeps all but one of its bits. */
	for (; hz > 2 * NS_PER_S; hz >>= 1)
		s--;
	for (; hz <= NS_PER_S; hz <<= 1)
		s++;
	*mul = (uint32_t)((NS_PER_S << 32) / hz);
	*shift = (int8_t)s;
}

/* Writes a structure whose first word is a version: odd while the rest is in flux. */
static void publish(struct kvmclock *k, gpa_t gpa, uint8_t *buf, size_t size) {
	uint8_t old[4];
	if (!mem_read(&k->vm->mem, gpa, old, 4))
		return; /* not RAM: the guest's loss */
	uint32_t version = (le32_get(old) | 1) + 2;
	le32_put(buf, version);
	mem_write(&k->vm->mem, gpa, buf, 4);
	mem_write(&k->vm->mem, gpa + 4, buf + 4, size - 4);
	le32_put(buf, version + 1);
	mem_write(&k->vm->mem, gpa, buf, 4);
}

static void update_system(struct kvmclock *k, struct vcpu *v) {
	uint64_t msr = k->system[v->id];
	if (!(msr & SYSTEM_TIME_ENABLED))
		return;
	uint8_t b[TI_SIZE] = {0};
	uint32_t mul;
	int8_t shift;
	kvmclock_scale(k->vm->clock.tsc_khz, &mul, &shift);
	le64_put(b + TI_TSC_TIMESTAMP, k->ref_tsc + v->state.tsc_offset);
	le64_put(b + TI_SYSTEM_TIME, k->ref_ns);
	le32_put(b + TI_MUL, mul);
	b[TI_SHIFT] = (uint8_t)shift;
	b[TI_FLAGS] = FLAG_TSC_STABLE;
	publish(k, msr & ~SYSTEM_TIME_ENABLED, b, sizeof(b));
}

/* Wall-clock time of the moment when the system time was 0. */
static void update_wall(struct kvmclock *k) {
	const struct vm_clock *c = &k->vm->clock;
	if (!k->wall)
		return;
	uint64_t now = c->now_ns(c->opaque), wall = c->wall_ns(c->opaque);
	uint64_t boot = wall > now ? wall - now : 0;
	uint8_t b[WC_SIZE] = {0};
	le32_put(b + WC_SEC, (uint32_t)(boot / NS_PER_S));
	le32_put(b + WC_NSEC, (uint32_t)(boot % NS_PER_S));
	publish(k, k->wall, b, sizeof(b));
}

bool kvmclock_rdmsr(struct kvmclock *k, struct vcpu *v, uint32_t index, uint64_t *val) {
	switch (index) {
	case MSR_WALL_CLOCK:
	case MSR_WALL_CLOCK_NEW:
		*val = k->wall;
		return true;
	case MSR_SYSTEM_TIME:
	case MSR_SYSTEM_TIME_NEW:
		*val = k->system[v->id];
		return true;
	default:
		return false;
	}
}

bool kvmclock_wrmsr(struct kvmclock *k, struct vcpu *v, uint32_t index, uint64_t val) {
	switch (index) {
	case MSR_WALL_CLOCK:
	case MSR_WALL_CLOCK_NEW:
		k->wall = val;
		update_wall(k);
		return true;
	case MSR_SYSTEM_TIME:
	case MSR_SYSTEM_TIME_NEW:
		k->system[v->id] = val;
		update_system(k, v);
		return true;
	default:
		return false;
	}
}

void kvmclock_tsc_changed(struct kvmclock *k, struct vcpu *v) {
	update_system(k, v);
}

static void reset(void *self) {
	struct kvmclock *k = self;
	kvmclock_init(k, k->vm);
}

static void state(struct state_io *io, void *self) {
	struct kvmclock *k = self;
	state_u64(io, "wall", &k->wall);
	for (unsigned i = 0; i < k->vm->nvcpus; i++)
		state_u64(io, "system", &k->system[i]);
}

/* The clock that this VM has now may tick at another rate than the one it was saved under. */
static void loaded(void *self) {
	struct kvmclock *k = self;
	take_reference(k);
	for (unsigned i = 0; i < k->vm->nvcpus; i++)
		update_system(k, k->vm->vcpus[i]);
}

const struct device_ops kvmclock_device_ops = {"kvmclock", 1, reset, state, loaded};
