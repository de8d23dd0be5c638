/* The MC146818 real-time clock (Motorola data sheet, 1984), as chipsets hold it: 128
 * bytes, valid RAM always, century in byte 32h.
 *
 * Nothing is counted: the time is the host's wall clock plus an offset that changes when
 * the guest sets the time. Flags in register C are found out when somebody reads it;
 * timers run only while their interrupts are enabled. Interrupts that the guest is too
 * late for are merged.
 *
 * Left out: square wave output, daylight saving (bit DSE is only kept), other time bases
 * than 32768 Hz, a day of the week that does not fit the date.
 *
 * Called with the VM lock held: ports for any vCPU, timers by the host's loop. */
#include "core/chip/mc146818.h"

#include "core/base/bits.h"

#define SECOND_NS 1000000000ull
#define BASE_HZ 32768u
#define UIP_NS ((244 + 1984) * 1000ull) /* before the end of an update, at 32768 Hz */
#define DAY 86400u
#define DAYS_1970 719468ull /* from 0000-03-01 */
#define CLAMP_SEC (1ull << 40)

enum {
	SECONDS,
	SECONDS_ALARM,
	MINUTES,
	MINUTES_ALARM,
	HOURS,
	HOURS_ALARM,
	WEEKDAY,
	DAY_OF_MONTH,
	MONTH,
	YEAR,
	REG_A,
	REG_B,
	REG_C,
	REG_D,
	CENTURY = 0x32,
};

#define A_UIP 0x80u
#define A_RESET 0x60u /* DV 11x: the divider stands still */
#define B_SET 0x80u
#define B_PIE 0x40u
#define B_AIE 0x20u
#define B_UIE 0x10u
#define B_SQWE 0x08u
#define B_BINARY 0x04u
#define B_24H 0x02u
#define C_IRQF 0x80u
#define C_PF 0x40u
#define C_AF 0x20u
#define C_UF 0x10u
#define D_VRT 0x80u
#define HOUR_PM 0x80u
#define ALARM_ANY 0xc0u

/* ---- calendar ------------------------------------------------------------------------ */

struct date {
	unsigned year, month, day, hour, min, sec, weekday;
};

/* Years begin in March, so that the leap day is their last. */
static struct date date_of(uint64_t sec) {
	uint64_t days = sec / DAY;
	unsigned tod = (unsigned)(sec % DAY);
	unsigned n = (unsigned)(days % 146097); /* in 400 years */
	unsigned y = (n - n / 1460 + n / 36524 - n / 146096) / 365;
	unsigned doy = n - (365 * y + y / 4 - y / 100);
	unsigned m = (5 * doy + 2) / 153;
	struct date d = {.day = doy - (153 * m + 2) / 5 + 1, .month = m < 10 ? m + 3 : m - 9};
	d.year = y + (unsigned)(days / 146097) * 400 + (d.month <= 2);
	d.hour = tod / 3600;
	d.min = tod / 60 % 60;
	d.sec = tod % 60;
	d.weekday = (unsigned)((days + 3) % 7);
	return d;
}

static uint64_t seconds_of(const struct date *d) {
	unsigned y = d->year - (d->month <= 2);
	unsigned m = d->month > 2 ? d->month - 3 : d->month + 9;
	uint64_t days = 365ull * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + d->day - 1;
	return days * DAY + d->hour * 3600u + d->min * 60u + d->sec;
}

static unsigned month_days(unsigned year, unsigned month) {
	static const uint8_t days[12] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
	return days[month - 1] + (month == 2 && leap);
}

/* ---- time ---------------------------------------------------------------------------- */

static bool stopped(const struct mc146818 *r) {
	return (r->cmos[REG_B] & B_SET) || (r->cmos[REG_A] & A_RESET) == A_RESET;
}

static uint64_t wall(const struct mc146818 *r) {
	const struct vm_clock *c = r->timers->clock;
	/* No clock of a host is near the end of 64 bits; a wrong one must not overflow. */
	return MIN(c->wall_ns(c->opaque), UINT64_MAX / 2);
}

static uint64_t now_sec(const struct mc146818 *r) {
	return (wall(r) + r->frac_ns) / SECOND_NS + r->offset_sec;
}

static uint64_t now_frac(const struct mc146818 *r) {
	return (wall(r) + r->frac_ns) % SECOND_NS;
}

static uint8_t encode(const struct mc146818 *r, unsigned v) {
	return (uint8_t)(r->cmos[REG_B] & B_BINARY ? v : v / 10 % 10 << 4 | v % 10);
}

static unsigned decode(const struct mc146818 *r, uint8_t v) {
	return r->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 15);
}

static uint8_t encode_hour(const struct mc146818 *r, unsigned hour) {
	if (r->cmos[REG_B] & B_24H)
		return encode(r, hour);
	return encode(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static unsigned decode_hour(const struct mc146818 *r, uint8_t v) {
	if (r->cmos[REG_B] & B_24H)
		return decode(r, v) % 24;
	return decode(r, v & 0x7f) % 12 + (v & HOUR_PM ? 12 : 0);
}

/* Brings the time bytes up to date. */
static void bytes_from_time(struct mc146818 *r) {
	struct date d = date_of(now_sec(r));
	r->cmos[SECONDS] = encode(r, d.sec);
	r->cmos[MINUTES] = encode(r, d.min);
	r->cmos[HOURS] = encode_hour(r, d.hour);
	r->cmos[WEEKDAY] = encode(r, d.weekday + 1);
	r->cmos[DAY_OF_MONTH] = encode(r, d.day);
	r->cmos[MONTH] = encode(r, d.month);
	r->cmos[YEAR] = encode(r, d.year % 100);
	r->cmos[CENTURY] = encode(r, d.year / 100);
}

/* Makes the time bytes the time; `frac` is how far into its second it is. Nonsense in
 * the bytes becomes the nearest date. */
static void time_from_bytes(struct mc146818 *r, uint64_t frac) {
	struct date d = {.sec = decode(r, r->cmos[SECONDS]) % 60,
					 .min = decode(r, r->cmos[MINUTES]) % 60,
					 .hour = decode_hour(r, r->cmos[HOURS]),
					 .day = decode(r, r->cmos[DAY_OF_MONTH]),
					 .month = decode(r, r->cmos[MONTH]),
					 .year = decode(r, r->cmos[CENTURY]) * 100 + decode(r, r->cmos[YEAR]) % 100};
	d.year = MAX(d.year, 1u);
	d.month = MIN(MAX(d.month, 1u), 12u);
	d.day = MIN(MAX(d.day, 1u), month_days(d.year, d.month));
	uint64_t w = wall(r);
	r->frac_ns = (frac + SECOND_NS - w % SECOND_NS) % SECOND_NS;
	/* May wrap: the sum in now_sec() wraps back. */
	r->offset_sec = seconds_of(&d) - (w + r->frac_ns) / SECOND_NS;
	r->seen_sec = now_sec(r);
}

static bool is_time(uint8_t index) {
	return index == CENTURY || (index <= YEAR && index != SECONDS_ALARM && index != MINUTES_ALARM &&
								index != HOURS_ALARM);
}

/* ---- interrupts ---------------------------------------------------------------------- */

static uint64_t base_ticks(uint64_t ns) {
	return ns / SECOND_NS * BASE_HZ + ns % SECOND_NS * BASE_HZ / SECOND_NS;
}

/* The first nanosecond of a tick. */
static uint64_t base_ns(uint64_t ticks) {
	return ticks / BASE_HZ * SECOND_NS + (ticks % BASE_HZ * SECOND_NS + BASE_HZ - 1) / BASE_HZ;
}

/* Ticks of the periodic flag's rate [MC146818 table 5]; 0: none. */
static uint32_t period(const struct mc146818 *r) {
	unsigned rs = r->cmos[REG_A] & 15;
	if (!rs || (r->cmos[REG_A] & A_RESET) == A_RESET)
		return 0;
	return 1u << ((rs <= 2 ? rs + 7 : rs) - 1);
}

static bool alarm_byte(const struct mc146818 *r, unsigned index, uint8_t now) {
	return r->cmos[index] >= ALARM_ANY || r->cmos[index] == now;
}

static bool alarm_at(const struct mc146818 *r, uint64_t sec) {
	unsigned tod = (unsigned)(sec % DAY);
	return alarm_byte(r, SECONDS_ALARM, encode(r, tod % 60)) &&
		   alarm_byte(r, MINUTES_ALARM, encode(r, tod / 60 % 60)) &&
		   alarm_byte(r, HOURS_ALARM, encode_hour(r, tod / 3600));
}

/* Sets the flags of all that happened since the last look. */
static void catch_up(struct mc146818 *r) {
	uint64_t now = now_sec(r);
	uint32_t ticks = period(r);
	if (!stopped(r) && now != r->seen_sec) {
		r->cmos[REG_C] |= C_UF;
		/* Alarms repeat daily; a clock that went back has no seconds between. */
		uint64_t from = now > r->seen_sec ? MAX(r->seen_sec, now - MIN(now, DAY)) : now - 1;
		for (uint64_t s = from + 1; s <= now && !(r->cmos[REG_C] & C_AF); s++)
			if (alarm_at(r, s))
				r->cmos[REG_C] |= C_AF;
	}
	r->seen_sec = now;
	if (ticks) {
		uint64_t n = base_ticks(timers_now(r->timers)) / ticks;
		if (n != r->seen_periods)
			r->cmos[REG_C] |= C_PF;
		r->seen_periods = n;
	}
}

static void update(struct mc146818 *r) {
	catch_up(r); /* timers are armed for what comes: what came must have been seen */
	uint64_t now = timers_now(r->timers);
	uint8_t b = r->cmos[REG_B];
	uint32_t ticks = period(r);
	bool on = r->cmos[REG_C] & b & (C_PF | C_AF | C_UF);
	r->cmos[REG_C] = (uint8_t)((r->cmos[REG_C] & ~C_IRQF) | (on ? C_IRQF : 0));
	if (!r->muted) /* else the line is the HPET's */
		irq_set(&r->irq, on);
	if ((b & B_PIE) && ticks)
		timer_arm(r->timers, &r->periodic, base_ns((base_ticks(now) / ticks + 1) * ticks));
	else
		timer_cancel(&r->periodic);
	if ((b & (B_AIE | B_UIE)) && !stopped(r))
		timer_arm(r->timers, &r->update, now + SECOND_NS - now_frac(r));
	else
		timer_cancel(&r->update);
}

static void timer_due(void *opaque) {
	update(opaque);
}

void mc146818_mute(void *opaque, unsigned pin, bool muted) {
	struct mc146818 *r = opaque;
	if (muted && !r->muted)
		irq_set(&r->irq, false);
	r->muted = muted;
	update(r);
}

/* ---- registers ----------------------------------------------------------------------- */

static uint8_t read_flags(struct mc146818 *r) {
	update(r);
	uint8_t v = r->cmos[REG_C];
	r->cmos[REG_C] = 0;
	update(r);
	return v;
}

static uint8_t read_byte(struct mc146818 *r) {
	if (is_time(r->index) && !stopped(r))
		bytes_from_time(r);
	switch (r->index) {
	case REG_A:
		return r->cmos[REG_A] | (!stopped(r) && now_frac(r) >= SECOND_NS - UIP_NS ? A_UIP : 0);
	case REG_C:
		return read_flags(r);
	case REG_D:
		return D_VRT;
	default:
		return r->cmos[r->index];
	}
}

/* A and B say whether the clock runs. */
static void write_mode(struct mc146818 *r, uint8_t index, uint8_t val) {
	bool was = stopped(r), divider = (r->cmos[REG_A] & A_RESET) == A_RESET;
	catch_up(r);
	if (!was)
		bytes_from_time(r);
	uint32_t ticks = period(r);
	r->cmos[index] = val;
	if (index == REG_B && (val & B_SET))
		r->cmos[REG_B] &= (uint8_t)~B_UIE; /* [MC146818 p.16] */
	/* The first update comes half a second after the divider starts [MC146818 p.15]. */
	bool restarted = divider && (r->cmos[REG_A] & A_RESET) != A_RESET;
	if (restarted)
		r->frac_ns = (SECOND_NS + SECOND_NS / 2 - wall(r) % SECOND_NS) % SECOND_NS;
	if (was && !stopped(r))
		time_from_bytes(r, restarted ? SECOND_NS / 2 : now_frac(r));
	if (period(r) && period(r) != ticks)
		r->seen_periods = base_ticks(timers_now(r->timers)) / period(r);
}

static void write_byte(struct mc146818 *r, uint8_t val) {
	switch (r->index) {
	case REG_A:
		write_mode(r, REG_A, val & 0x7f);
		break;
	case REG_B:
		write_mode(r, REG_B, val);
		break;
	case REG_C:
	case REG_D:
		return;
	default:
		if (is_time(r->index) && !stopped(r)) {
			catch_up(r);
			bytes_from_time(r);
			r->cmos[r->index] = val;
			time_from_bytes(r, now_frac(r));
		} else {
			if (r->index <= HOURS_ALARM)
				catch_up(r); /* with the old alarm */
			r->cmos[r->index] = val;
		}
		break;
	}
	update(r);
}

static uint64_t rtc_read(void *dev, uint64_t off, unsigned size) {
	return off ? read_byte(dev) : 0xff; /* the index cannot be read */
}

static void rtc_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
	struct mc146818 *r = dev;
	if (off) {
		write_byte(r, (uint8_t)val);
		return;
	}
	r->index = val & (MC146818_CMOS - 1);
	r->nmi_masked = val & 0x80;
}

const struct io_ops mc146818_ops = {rtc_read, rtc_write, 1, 1};

void mc146818_set_cmos(struct mc146818 *r, uint8_t index, uint8_t val) {
	if (index > REG_D && index < MC146818_CMOS && index != CENTURY)
		r->cmos[index] = val;
}

static void set_pair(struct mc146818 *r, uint8_t index, uint64_t val) {
	val = MIN(val, 0xffffu);
	mc146818_set_cmos(r, index, (uint8_t)val);
	mc146818_set_cmos(r, index + 1, (uint8_t)(val >> 8));
}

void mc146818_set_memory(struct mc146818 *r, uint64_t low, uint64_t high) {
	uint64_t extended = low > MIB(1) ? low - MIB(1) : 0;
	set_pair(r, 0x15, MIN(low, KIB(640)) >> 10);				  /* base memory, KiB */
	set_pair(r, 0x17, extended >> 10);							  /* above 1 MiB, KiB, */
	set_pair(r, 0x30, extended >> 10);							  /* and what was found */
	set_pair(r, 0x34, low > MIB(16) ? (low - MIB(16)) >> 16 : 0); /* above 16 MiB, 64 KiB */
	set_pair(r, 0x5b, high >> 16 & 0xffff);						  /* above 4 GiB, 64 KiB, */
	mc146818_set_cmos(r, 0x5d, (uint8_t)(high >> 32));			  /* three bytes */
}

/* The reset pin leaves time and memory alone [MC146818 p.11]. */
static void reset(void *self) {
	struct mc146818 *r = self;
	r->index = 0;
	r->nmi_masked = r->muted = false;
	r->cmos[REG_B] &= (uint8_t) ~(B_PIE | B_AIE | B_UIE | B_SQWE);
	catch_up(r);
	r->cmos[REG_C] = 0;
	update(r);
}

void mc146818_init(struct mc146818 *r, struct vm_timers *timers, const struct irq_line *irq) {
	*r = (struct mc146818){.timers = timers, .irq = *irq, .offset_sec = DAYS_1970 * DAY};
	timer_init(&r->periodic, timer_due, r);
	timer_init(&r->update, timer_due, r);
	r->cmos[REG_A] = 0x26; /* 32768 Hz, 1024 Hz periodic: as firmware leaves it */
	r->cmos[REG_B] = B_24H;
	r->cmos[0x14] = 0x06; /* equipment: FPU, pointing device */
	r->seen_sec = now_sec(r);
	reset(r);
}

static void state(struct state_io *io, void *self) {
	struct mc146818 *r = self;
	state_u8(io, "index", &r->index);
	state_bool(io, "nmi_masked", &r->nmi_masked);
	state_bool(io, "muted", &r->muted);
	state_bytes(io, "cmos", r->cmos, sizeof(r->cmos));
	state_u64(io, "offset_sec", &r->offset_sec);
	state_u64(io, "frac_ns", &r->frac_ns);
	state_u64(io, "seen_sec", &r->seen_sec);
	state_u64(io, "seen_periods", &r->seen_periods);
	if (!io->loading)
		return;
	r->index &= MC146818_CMOS - 1;
	r->cmos[REG_A] &= 0x7f;
	r->frac_ns %= SECOND_NS;
	/* The calendar stands any offset that keeps the sum in reach; see loaded(). */
}

static void loaded(void *self) {
	struct mc146818 *r = self;
	if (now_sec(r) > CLAMP_SEC)
		r->offset_sec = DAYS_1970 * DAY;
	/* Save to load took time that is none to the guest's flags, unless they are few. */
	if (r->seen_sec > now_sec(r))
		r->seen_sec = now_sec(r);
	update(r);
}

const struct device_ops mc146818_device_ops = {
	.name = "mc146818",
	.version = 1,
	.reset = reset,
	.state = state,
	.loaded = loaded,
};
