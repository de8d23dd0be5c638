/* ACPI's fixed power management hardware ([ACPI6.4 4.8]; offsets of ICH9, data sheet
 * 13.8), its SMI command port and the reset control register.
 *
 * Left out: sleep states but S5 (a request for another is ignored, WAK_STS is never set),
 * the power button's four-second override, legacy SMI sources. There is no SMM: the
 * command port switches SCI_EN at once, as firmware's handler would.
 *
 * Called with the VM lock held: ports for any vCPU, the timer, the power button and GPEs
 * by the host's loop or devices. */
#include "core/chip/acpi_pm.h"

#include "core/base/bits.h"

#define SECOND_NS 1000000000ull

#define PM1_TMR 0x0001u
#define PM1_BM 0x0010u /* status only */
#define PM1_GBL 0x0020u
#define PM1_PWRBTN 0x0100u
#define PM1_SLPBTN 0x0200u
#define PM1_RTC 0x0400u
#define PM1_WAK 0x8000u /* status only */
#define STATUS_BITS (PM1_TMR | PM1_BM | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC | PM1_WAK)
#define ENABLE_BITS (PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC)

#define CNT_SCI_EN 0x0001u
#define CNT_BM_RLD 0x0002u
#define CNT_SLP_TYP 0x1c00u
#define CNT_SLP_TYP_SHIFT 10
#define CNT_SLP_EN 0x2000u /* write only */
#define CNT_KEPT (CNT_BM_RLD | CNT_SLP_TYP)

#define RST_FULL 0x08u
#define RST_CPU 0x04u
#define RST_SYS 0x02u

/* ---- the PM timer -------------------------------------------------------------------- */

static uint64_t ticks_of(uint64_t ns) {
	return ns / SECOND_NS * ACPI_PM_TIMER_HZ + ns % SECOND_NS * ACPI_PM_TIMER_HZ / SECOND_NS;
}

/* The first nanosecond of a tick. */
static uint64_t ns_of(uint64_t ticks) {
	return ticks / ACPI_PM_TIMER_HZ * SECOND_NS +
		   (ticks % ACPI_PM_TIMER_HZ * SECOND_NS + ACPI_PM_TIMER_HZ - 1) / ACPI_PM_TIMER_HZ;
}

static uint32_t timer_value(const struct acpi_pm *pm) {
	uint64_t ticks = ticks_of(timers_now(pm->timers));
	return (uint32_t)(pm->config.timer_24bit ? ticks & 0xffffff : ticks);
}

/* TMR_STS is set whenever the highest bit changes, in both directions [ACPI6.4 4.8.3.3]. */
static unsigned half_bits(const struct acpi_pm *pm) {
	return pm->config.timer_24bit ? 23 : 31;
}

static void catch_up(struct acpi_pm *pm) {
	uint64_t halves = ticks_of(timers_now(pm->timers)) >> half_bits(pm);
	if (halves != pm->timer_seen)
		pm->pm1_status |= PM1_TMR;
	pm->timer_seen = halves;
}

static void update(struct acpi_pm *pm) {
	bool fixed = pm->pm1_status & pm->pm1_enable & ENABLE_BITS;
	bool gpe = pm->gpe_status & pm->gpe_enable;
	irq_set(&pm->config.sci, (pm->pm1_control & CNT_SCI_EN) && (fixed || gpe));
	/* Nobody looks at a status without its interrupt but by reading it. */
	if (pm->pm1_enable & PM1_TMR)
		timer_arm(pm->timers, &pm->overflow, ns_of((pm->timer_seen + 1) << half_bits(pm)));
	else
		timer_cancel(&pm->overflow);
}

static void overflow_due(void *opaque) {
	struct acpi_pm *pm = opaque;
	catch_up(pm);
	update(pm);
}

/* ---- events -------------------------------------------------------------------------- */

bool acpi_pm_power_button(struct acpi_pm *pm) {
	pm->pm1_status |= PM1_PWRBTN;
	update(pm);
	return (pm->pm1_control & CNT_SCI_EN) && (pm->pm1_enable & PM1_PWRBTN);
}

void acpi_pm_set_gpe(void *opaque, unsigned event, bool level) {
	struct acpi_pm *pm = opaque;
	if (event >= 64)
		return;
	pm->gpe_lines = level ? pm->gpe_lines | BIT(event) : pm->gpe_lines & ~BIT(event);
	pm->gpe_status |= pm->gpe_lines;
	update(pm);
}

/* ---- registers, bytewise so that every size of access works --------------------------- */

static void write_control(struct acpi_pm *pm, unsigned byte, uint8_t val) {
	uint16_t mask = (uint16_t)(0xff << byte * 8);
	uint16_t wide = (uint16_t)(val << byte * 8);
	/* SCI_EN belongs to firmware: the guest asks through the command port. */
	pm->pm1_control = (uint16_t)((pm->pm1_control & ~(mask & CNT_KEPT)) | (wide & CNT_KEPT));
	if (!(wide & CNT_SLP_EN))
		return;
	unsigned type = (pm->pm1_control & CNT_SLP_TYP) >> CNT_SLP_TYP_SHIFT;
	if (type == pm->config.s5_type && pm->config.power_off)
		pm->config.power_off(pm->config.opaque);
}

static void write_byte(struct acpi_pm *pm, uint64_t off, uint8_t val) {
	unsigned at = off & 7;
	switch (off) {
	case ACPI_PM1_EVT:
	case ACPI_PM1_EVT + 1:
		pm->pm1_status &= (uint16_t) ~(val << at * 8);
		break;
	case ACPI_PM1_EVT + 2:
	case ACPI_PM1_EVT + 3:
		at -= 2;
		pm->pm1_enable = (uint16_t)((pm->pm1_enable & ~(0xff << at * 8)) | val << at * 8);
		pm->pm1_enable &= ENABLE_BITS;
		break;
	case ACPI_PM1_CNT:
	case ACPI_PM1_CNT + 1:
		write_control(pm, at - 4, val);
		break;
	default:
		if (off >= ACPI_PM_GPE0 && off < ACPI_PM_GPE0 + 8) {
			pm->gpe_status &= ~((uint64_t)val << at * 8);
			pm->gpe_status |= pm->gpe_lines;
		} else if (off >= ACPI_PM_GPE0 + 8 && off < ACPI_PM_GPE0 + ACPI_PM_GPE0_LEN) {
			pm->gpe_enable &= ~(0xffull << at * 8);
			pm->gpe_enable |= (uint64_t)val << at * 8;
		}
		break;
	}
}

/* All registers side by side, as they stand in the block. */
static uint8_t read_byte(const struct acpi_pm *pm, uint64_t off, uint32_t timer) {
	unsigned shift = (off & 7) * 8;
	switch (off >> 3) {
	case 0:
		return (uint8_t)((pm->pm1_status | (uint32_t)pm->pm1_enable << 16 |
						  (uint64_t)pm->pm1_control << 32) >>
						 shift);
	case ACPI_PM_TIMER >> 3:
		return (uint8_t)((uint64_t)timer >> shift);
	case ACPI_PM_GPE0 >> 3:
		return (uint8_t)(pm->gpe_status >> shift);
	case (ACPI_PM_GPE0 >> 3) + 1:
		return (uint8_t)(pm->gpe_enable >> shift);
	default:
		return 0;
	}
}

static uint64_t pm_read(void *dev, uint64_t off, unsigned size) {
	struct acpi_pm *pm = dev;
	uint32_t timer = timer_value(pm); /* one moment for all bytes */
	uint64_t val = 0;
	catch_up(pm);
	update(pm);
	for (unsigned i = 0; i < size; i++)
		val |= (uint64_t)read_byte(pm, off + i, timer) << i * 8;
	return val;
}

static void pm_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
	struct acpi_pm *pm = dev;
	catch_up(pm);
	for (unsigned i = 0; i < size; i++)
		write_byte(pm, off + i, (uint8_t)(val >> i * 8));
	update(pm);
}

static uint64_t smi_read(void *dev, uint64_t off, unsigned size) {
	struct acpi_pm *pm = dev;
	return off ? pm->apm_sts : pm->apm_cnt;
}

static void smi_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
	struct acpi_pm *pm = dev;
	if (off) {
		pm->apm_sts = (uint8_t)val;
		return;
	}
	pm->apm_cnt = (uint8_t)val;
	if (val == ACPI_PM_SMI_ENABLE)
		pm->pm1_control |= CNT_SCI_EN;
	else if (val == ACPI_PM_SMI_DISABLE && !pm->config.acpi_only)
		pm->pm1_control &= (uint16_t)~CNT_SCI_EN;
	update(pm);
}

static uint64_t reset_read(void *dev, uint64_t off, unsigned size) {
	return ((struct acpi_pm *)dev)->reset_control;
}

/* RST_CPU rising resets; 02h before 06h or 0Eh only prepares [ICH9 13.7.5]. */
static void reset_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
	struct acpi_pm *pm = dev;
	bool rises = (val & RST_CPU) && !(pm->reset_control & RST_CPU);
	pm->reset_control = val & (RST_FULL | RST_CPU | RST_SYS);
	if (rises && pm->config.reset)
		pm->config.reset(pm->config.opaque);
}

const struct io_ops acpi_pm_ops = {pm_read, pm_write, 0, 0};
const struct io_ops acpi_pm_smi_ops = {smi_read, smi_write, 1, 1};
const struct io_ops acpi_pm_reset_ops = {reset_read, reset_write, 1, 1};

static void reset(void *self) {
	struct acpi_pm *pm = self;
	pm->pm1_status = pm->pm1_enable = 0;
	pm->pm1_control = pm->config.acpi_only ? CNT_SCI_EN : 0;
	pm->gpe_enable = 0;
	pm->gpe_status = pm->gpe_lines; /* levels belong to their drivers */
	pm->apm_cnt = pm->apm_sts = pm->reset_control = 0;
	pm->timer_seen = ticks_of(timers_now(pm->timers)) >> half_bits(pm);
	update(pm);
}

void acpi_pm_init(struct acpi_pm *pm, struct vm_timers *timers,
				  const struct acpi_pm_config *config) {
	*pm = (struct acpi_pm){.config = *config, .timers = timers};
	timer_init(&pm->overflow, overflow_due, pm);
	reset(pm);
}

static void state(struct state_io *io, void *self) {
	struct acpi_pm *pm = self;
	state_u16(io, "pm1_status", &pm->pm1_status);
	state_u16(io, "pm1_enable", &pm->pm1_enable);
	state_u16(io, "pm1_control", &pm->pm1_control);
	state_u64(io, "gpe_status", &pm->gpe_status);
	state_u64(io, "gpe_enable", &pm->gpe_enable);
	state_u64(io, "gpe_lines", &pm->gpe_lines);
	state_u64(io, "timer_seen", &pm->timer_seen);
	state_u8(io, "apm_cnt", &pm->apm_cnt);
	state_u8(io, "apm_sts", &pm->apm_sts);
	state_u8(io, "reset_control", &pm->reset_control);
	if (!io->loading)
		return;
	pm->pm1_status &= STATUS_BITS;
	pm->pm1_enable &= ENABLE_BITS;
	pm->pm1_control &= CNT_KEPT | CNT_SCI_EN;
	if (pm->config.acpi_only)
		pm->pm1_control |= CNT_SCI_EN;
	pm->gpe_status |= pm->gpe_lines;
	pm->reset_control &= RST_FULL | RST_CPU | RST_SYS;
}

static void loaded(void *self) {
	struct acpi_pm *pm = self;
	catch_up(pm);
	update(pm);
}

const struct device_ops acpi_pm_device_ops = {
	.name = "acpi_pm",
	.version = 1,
	.reset = reset,
	.state = state,
	.loaded = loaded,
};
