/* See clock.h. TSC: [SDM3 17.17]; its frequency: CPUID 15h [SDM2 CPUID], or the leaf that
 * hypervisors offer (4000_0010h: kHz in EAX), or measured. */
#include "host/linux/clock.h"

#include <cpuid.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <x86intrin.h>

#include "host/linux/boot_cache.h"

#define KERNEL_KHZ 1000000u /* without a usable TSC the guest's ticks are nanoseconds */

uint64_t host_clock_ns(clockid_t id) {
	struct timespec ts;
	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t host_now_ns(void) {
	return host_clock_ns(CLOCK_MONOTONIC);
}

bool host_tsc_invariant(void) {
	unsigned a, b, c, d;
	return __get_cpuid(0x80000007, &a, &b, &c, &d) && (d & (1u << 8));
}

/* Ticks over a stretch of raw monotonic time. Each end is read three times and the
 * tightest reading taken, so that a preemption in between does not count. */
static uint64_t read_pair(uint64_t *ns) {
	uint64_t best = UINT64_MAX, tsc = 0;
	*ns = 0;
	for (int i = 0; i < 3; i++) {
		uint64_t before = __rdtsc();
		uint64_t t = host_clock_ns(CLOCK_MONOTONIC_RAW);
		uint64_t after = __rdtsc();
		if (after - before < best) {
			best = after - before;
			tsc = before + (after - before) / 2;
			*ns = t;
		}
	}
	return tsc;
}

static uint32_t measure_khz(void) {
	uint64_t ns0, ns1, t0, t1;
	t0 = read_pair(&ns0);
	/* 20 ms: the readings are good to about 100 ns, so the result to 10 ppm. */
	struct timespec wait = {0, 20 * 1000 * 1000};
	nanosleep(&wait, NULL);
	t1 = read_pair(&ns1);
	return (uint32_t)((unsigned __int128)(t1 - t0) * 1000000u / (ns1 - ns0));
}

uint32_t host_tsc_khz(enum tsc_khz_from *from) {
	unsigned a, b, c, d;
	if (__get_cpuid_count(0x15, 0, &a, &b, &c, &d) && a && b && c) {
		*from = TSC_KHZ_CPUID;
		return (uint32_t)((uint64_t)c * b / a / 1000);
	}
	if (__get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 31))) {
		__cpuid(0x40000000, a, b, c, d);
		if (a >= 0x40000010) {
			__cpuid(0x40000010, a, b, c, d);
			if (a > 100000 && a < 20000000) {
				*from = TSC_KHZ_HYPERVISOR;
				return a;
			}
		}
	}
	/* Measured once a boot: it takes 20 ms, and VMs should agree on the result. */
	char text[32];
	*from = TSC_KHZ_MEASURED;
	uint32_t khz =
		boot_cache_get("tsc-khz", text, sizeof(text)) ? (uint32_t)strtoul(text, NULL, 10) : 0;
	if (khz > 100000 && khz < 20000000)
		return khz;
	khz = measure_khz();
	snprintf(text, sizeof(text), "%u", khz);
	boot_cache_put("tsc-khz", text);
	return khz;
}

static uint64_t source_ticks(const struct host_clock *c) {
	uint64_t ticks = c->source == CLOCK_FROM_TSC ? __rdtsc() : host_now_ns();
	return c->ratio ? (uint64_t)((unsigned __int128)ticks * c->ratio >> 32) : ticks;
}

static uint64_t now_tsc(void *opaque) {
	const struct host_clock *c = opaque;
	uint64_t stopped = __atomic_load_n(&c->stopped_at, __ATOMIC_ACQUIRE);
	if (stopped != UINT64_MAX)
		return stopped;
	int64_t t = (int64_t)(source_ticks(c) - __atomic_load_n(&c->base, __ATOMIC_RELAXED));
	return t > 0 ? (uint64_t)t : 0; /* a core a few ticks behind the one that started us */
}

static uint64_t now_ns(void *opaque) {
	const struct host_clock *c = opaque;
	return (uint64_t)((unsigned __int128)now_tsc(opaque) * c->ns_mult >> 32);
}

static uint64_t wall_ns(void *opaque) {
	return host_clock_ns(CLOCK_REALTIME);
}

static bool tsc_base(void *opaque, uint64_t *base) {
	const struct host_clock *c = opaque;
	*base = __atomic_load_n(&c->base, __ATOMIC_RELAXED);
	return c->source == CLOCK_FROM_TSC;
}

/* A measurement is good to 10 ppm; what NTP corrects in the guest may be off by this much. */
#define KHZ_TOLERANCE_PPM 200u

/* The guest's ticks are the source's, scaled: what the processor does, where the guest reads its
 * TSC without us, and what our reading of it does in any case. */
static int scale(struct host_clock *c, uint32_t from_khz, uint32_t to_khz, uint32_t (*scaler)(void),
				 struct err *e) {
	/* From the kernel's nanoseconds no hardware makes ticks, so we do. */
	uint32_t by = c->source == CLOCK_FROM_KERNEL ? from_khz : scaler ? scaler() : 0;
	if (!by)
		return err_set(e, ERR_NOTSUP,
					   "the VM knows a TSC of %u kHz, but here it has %u kHz, and this processor "
					   "cannot scale it; --engine soft can",
					   to_khz, from_khz);
	c->ratio = ((uint64_t)to_khz << 32) / by;
	c->clock.tsc_host_khz = by;
	return 0;
}

int host_clock_init(struct host_clock *c, bool hardware_tsc, uint32_t known_khz,
					uint32_t (*scaler)(void), struct err *e) {
	enum tsc_khz_from from;
	uint32_t khz = KERNEL_KHZ;
	*c = (struct host_clock){.source = CLOCK_FROM_KERNEL, .stopped_at = UINT64_MAX};
	if (hardware_tsc || host_tsc_invariant()) {
		c->source = CLOCK_FROM_TSC;
		khz = host_tsc_khz(&from);
	}
	if (known_khz) {
		uint32_t off = khz > known_khz ? khz - known_khz : known_khz - khz;
		int r = 0;
		if ((uint64_t)off * 1000000 > (uint64_t)khz * KHZ_TOLERANCE_PPM)
			r = scale(c, khz, known_khz, scaler, e);
		if (r)
			return r;
		khz = known_khz;
	}
	c->ns_mult = ((uint64_t)1000000 << 32) / khz;
	c->clock = (struct vm_clock){.now_ns = now_ns,
								 .now_tsc = now_tsc,
								 .wall_ns = wall_ns,
								 .opaque = c,
								 .tsc_khz = khz,
								 .tsc_host_khz = c->clock.tsc_host_khz,
								 .tsc_base = tsc_base};
	c->base = source_ticks(c);
	return 0;
}

void host_clock_pause(struct host_clock *c) {
	__atomic_store_n(&c->stopped_at, now_tsc(c), __ATOMIC_RELEASE);
}

void host_clock_resume(struct host_clock *c) {
	uint64_t at = __atomic_load_n(&c->stopped_at, __ATOMIC_RELAXED);
	if (at == UINT64_MAX)
		return;
	__atomic_store_n(&c->base, source_ticks(c) - at, __ATOMIC_RELAXED);
	__atomic_store_n(&c->stopped_at, UINT64_MAX, __ATOMIC_RELEASE);
}

void host_clock_set(struct host_clock *c, uint64_t ticks) {
	if (__atomic_load_n(&c->stopped_at, __ATOMIC_RELAXED) != UINT64_MAX)
		__atomic_store_n(&c->stopped_at, ticks, __ATOMIC_RELEASE);
	else
		__atomic_store_n(&c->base, source_ticks(c) - ticks, __ATOMIC_RELEASE);
}
