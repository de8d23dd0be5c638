/* The local APIC, one a vCPU, and the bus that joins them ([SDM3 10]).
 *
 * xAPIC (a 4 KiB page of registers) and x2APIC (MSRs 800h-8FFh), the timer with
 * one-shot, periodic and TSC-deadline modes, the local vector table, IPIs and
 * message-signalled interrupts. A board makes one struct lapic_bus a VM, adds one
 * struct lapic a vCPU, routes the page and the MSRs by the vCPU that accesses
 * them, and wires each APIC's outputs to that vCPU's events.
 *
 * VM lock held in every call. */
#ifndef CORE_CHIP_LAPIC_H
#define CORE_CHIP_LAPIC_H

#include "core/base/types.h"
#include "core/vm/apic.h"
#include "core/vm/device.h"
#include "core/vm/timer.h"

#define LAPIC_MAX 64 /* APICs on one bus */
#define LAPIC_EOI_MAX 4
#define LAPIC_DEFAULT_BASE 0xfee00000ull
#define LAPIC_PAGE 4096u
#define LAPIC_BUS_NS 1u /* one tick of the timer's clock before the divider: 1 GHz */

/* lapic_intack(): the 8259 has the vector. */
#define LAPIC_EXTINT 256

#define MSR_APIC_BASE 0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC_FIRST 0x800u
#define MSR_X2APIC_LAST 0x8ffu

#define APIC_BASE_BSP (1ull << 8)
#define APIC_BASE_EXTD (1ull << 10)
#define APIC_BASE_EN (1ull << 11)

/* Delivery modes, as in the ICR, the LVT, an MSI's data and a redirection entry. */
enum lapic_mode {
	LAPIC_FIXED,
	LAPIC_LOWEST,
	LAPIC_SMI,
	LAPIC_RESERVED,
	LAPIC_NMI,
	LAPIC_INIT,
	LAPIC_SIPI,
	LAPIC_EXT
};

/* The local vector table in register order. */
enum lapic_lvt { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

/* What an APIC drives. All but `tsc` are edges, except `intr`, which is the level of the
 * processor's INTR pin and is told when it changes. */
struct lapic_out {
	void (*intr)(void *opaque, bool level);
	void (*nmi)(void *opaque);
	void (*init)(void *opaque);
	void (*sipi)(void *opaque, uint8_t vector);
	/* The TSC as this vCPU reads it, for deadlines; NULL: the clock's. */
	uint64_t (*tsc)(void *opaque);
	void *opaque;
};

struct lapic_bus;

struct lapic {
	struct lapic_bus *bus;
	struct lapic_out out;
	struct vm_timers *timers;
	uint32_t id; /* the initial and only APIC id */
	bool bsp;

	uint64_t base; /* IA32_APIC_BASE */
	uint32_t tpr, svr, ldr, dfr;
	uint32_t esr;		  /* as read */
	uint32_t esr_pending; /* errors since ESR was last written */
	uint64_t icr;
	uint32_t lvt[LVT_COUNT];
	uint32_t irr[8], isr[8], tmr[8];
	bool lint[2]; /* levels of the pins */
	bool extint;  /* an ExtINT message waits for its acknowledge */
	bool intr;	  /* what out.intr was last told */

	struct vm_timer timer;
	uint64_t timer_deadline_ns; /* of the running countdown, TIMER_NEVER when stopped */
	uint64_t tsc_deadline;		/* 0: disarmed */
	uint32_t timer_initial, timer_divide;
};

struct lapic_bus {
	struct lapic *apic[LAPIC_MAX];
	unsigned count;
	unsigned last_lowest;		  /* who won the last lowest-priority arbitration */
	unsigned phys_bits;			  /* MAXPHYADDR, for reserved bits of IA32_APIC_BASE */
	const struct vm_apics *apics; /* not NULL: the engine has the APICs, messages go there */
	struct {
		void (*eoi)(void *opaque, uint8_t vector);
		void *opaque;
	} eoi[LAPIC_EOI_MAX];
	unsigned neoi;
};

void lapic_bus_init(struct lapic_bus *bus);

/* An I/O APIC that wants EOIs of level-triggered vectors. */
void lapic_bus_add_eoi(struct lapic_bus *bus, void (*eoi)(void *opaque, uint8_t vector),
					   void *opaque);

/* Makes the APIC with this id and adds it to the bus; it starts as after power-on. */
void lapic_init(struct lapic *l, struct lapic_bus *bus, struct vm_timers *timers,
				const struct lapic_out *out, uint32_t id, bool bsp);

/* reset, state and loaded of one APIC; instance = id. */
extern const struct device_ops lapic_device_ops;

/* Sets up what firmware leaves behind on the bootstrap processor: virtual wire mode, LINT0 =
 * ExtINT and LINT1 = NMI ([SDM3 8.4.3], [MP1.4 3.6.2.2]). For boots without firmware. */
void lapic_virtual_wire(struct lapic *l);

/* One message to whoever `dest` names, from an I/O APIC or a device: 8-bit destination,
 * FFh = everybody. true: somebody accepted it. */
bool lapic_bus_deliver(struct lapic_bus *bus, uint8_t dest, bool logical, enum lapic_mode mode,
					   uint8_t vector, bool level);

/* The same from a memory write; the type fits msi_sink.send. Addresses that are not
 * FEEx_xxxxh are ignored. */
void lapic_bus_msi(void *bus, gpa_t addr, uint32_t data);

/* Messages sent so far have arrived; before their source is masked. Fits msi_sink.settle. */
void lapic_bus_settle(void *bus);

/* The LINT pins; the type fits irq_line.set. The board drives LINT0 from the 8259. */
void lapic_set_lint(void *lapic, unsigned pin, bool level);

/* A local event: LVT_THERMAL or LVT_PERF happened. */
void lapic_local_event(struct lapic *l, enum lapic_lvt n);

/* Is INTR up? And the acknowledge: a vector, LAPIC_EXTINT, or -1 when nothing is left. */
bool lapic_has_intr(const struct lapic *l);
int lapic_intack(struct lapic *l);

/* CR8 is TPR[7:4]. */
uint8_t lapic_get_cr8(const struct lapic *l);
void lapic_set_cr8(struct lapic *l, uint8_t cr8);

/* The register page. `off` below 4096; sizes 1..8. */
uint64_t lapic_mmio_read(struct lapic *l, uint64_t off, unsigned size);
void lapic_mmio_write(struct lapic *l, uint64_t off, unsigned size, uint64_t val);

/* IA32_APIC_BASE, IA32_TSC_DEADLINE and 800h-8FFh. false: raise #GP(0), nothing changed. */
bool lapic_rdmsr(struct lapic *l, uint32_t index, uint64_t *val);
bool lapic_wrmsr(struct lapic *l, uint32_t index, uint64_t val);

/* All registers at once, for an engine that has the APIC itself. Taking over an image arms and
 * raises nothing. */
void lapic_get_image(struct lapic *l, struct apic_image *a);
void lapic_set_image(struct lapic *l, const struct apic_image *a);
/* The engine has taken the registers over: no timer of the model fires any more. */
void lapic_stand_still(struct lapic *l);

/* The guest's TSC jumped (a write to TSC or TSC_ADJUST): deadlines are measured anew. */
void lapic_tsc_changed(struct lapic *l);

static inline bool lapic_enabled(const struct lapic *l) {
	return l->base & APIC_BASE_EN;
}

static inline bool lapic_x2apic(const struct lapic *l) {
	return l->base & APIC_BASE_EXTD;
}

/* Between lapic.c and the other lapic_*.c only. */

/* Register numbers: the page's offset / 16, and the MSR - 800h. */
enum {
	LAPIC_REG_ID = 0x02,
	LAPIC_REG_VERSION = 0x03,
	LAPIC_REG_TPR = 0x08,
	LAPIC_REG_APR = 0x09,
	LAPIC_REG_PPR = 0x0a,
	LAPIC_REG_EOI = 0x0b,
	LAPIC_REG_RRD = 0x0c,
	LAPIC_REG_LDR = 0x0d,
	LAPIC_REG_DFR = 0x0e,
	LAPIC_REG_SVR = 0x0f,
	LAPIC_REG_ISR = 0x10,
	LAPIC_REG_TMR = 0x18,
	LAPIC_REG_IRR = 0x20,
	LAPIC_REG_ESR = 0x28,
	LAPIC_REG_ICR = 0x30,
	LAPIC_REG_ICR_HIGH = 0x31,
	LAPIC_REG_LVT = 0x32,
	LAPIC_REG_TIMER_INITIAL = 0x38,
	LAPIC_REG_TIMER_CURRENT = 0x39,
	LAPIC_REG_TIMER_DIVIDE = 0x3e,
	LAPIC_REG_SELF_IPI = 0x3f,
};

/* Version 14h, six LVT entries, EOI broadcasts can be suppressed. */
#define LAPIC_VERSION (0x14u | (LVT_COUNT - 1) << 16 | 1u << 24)

#define LVT_MASKED (1u << 16)
#define LVT_REMOTE_IRR (1u << 14)
#define LVT_LEVEL (1u << 15)
#define SVR_ENABLED (1u << 8)
#define SVR_NO_EOI_BROADCAST (1u << 12)
#define ESR_SEND_ILLEGAL (1u << 5)
#define ESR_RECV_ILLEGAL (1u << 6)
#define ESR_REGISTER (1u << 7)

uint8_t lapic_ppr(const struct lapic *l);
void lapic_error(struct lapic *l, uint32_t bit);
bool lapic_accept(struct lapic *l, enum lapic_mode mode, uint8_t vector, bool level);
void lapic_send_ipi(struct lapic *l, uint64_t icr);
void lapic_send_eoi(struct lapic_bus *bus, uint8_t vector);

void lapic_timer_init(struct lapic *l);
void lapic_timer_reset(struct lapic *l);
void lapic_timer_set_initial(struct lapic *l, uint32_t count);
void lapic_timer_set_divide(struct lapic *l, uint32_t divide);
void lapic_timer_mode_changed(struct lapic *l, uint32_t old_lvt);
uint32_t lapic_timer_current(const struct lapic *l);
uint64_t lapic_timer_get_deadline(const struct lapic *l);
void lapic_timer_set_deadline(struct lapic *l, uint64_t tsc);
void lapic_timer_state(struct state_io *io, struct lapic *l);
void lapic_timer_loaded(struct lapic *l);
void lapic_timer_set_image(struct lapic *l, uint64_t tsc_deadline, uint32_t current);

#endif
