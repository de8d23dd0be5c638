/* The wires between chips: interrupts, local APICs and the MSRs behind them.
 *
 *     ISA irq n ---> 8259 pair --INTR--> LINT0 of processor 0
 *              \--> I/O APIC pin n (irq 0: pin 2)
 *     PCI INTx n --> I/O APIC pin 16 + n, and by the LPC bridge's routes an ISA irq
 *     MSI, I/O APIC --> local APICs --> events of vCPUs
 */
#include "core/board/parts.h"

#include "core/base/check.h"

/* Guests find the exception to "irq n is GSI n" in the MADT. */
#define GSI_TIMER 2

/* The engine, where it has the 8259s and the I/O APIC (core/vm/apic.h); else NULL. */
static const struct vm_apics *engine_chips(const struct board *b) {
	const struct vm_apics *a = b->apic_bus.apics;
	return a && a->pic_pin ? a : NULL;
}

/* An ISA irq has two drivers: the chip on it, and PCI's router in the LPC bridge. The
 * 8259s see either; the I/O APIC has pins of its own for PCI. */
static void pic_update(struct board *b, unsigned irq) {
	const struct vm_apics *a = engine_chips(b);
	bool level = (b->isa_high | b->pirq_high) >> irq & 1;
	if (!a)
		i8259_set_irq(&b->pic, irq, level);
	else if (i8259_note_pin(&b->pic, irq, level))
		a->pic_pin(a->opaque, irq, level);
}

static void ioapic_update(struct board *b, unsigned pin, bool level) {
	const struct vm_apics *a = engine_chips(b);
	if (!a)
		ioapic_set_pin(&b->ioapic, pin, level);
	else if (ioapic_note_pin(&b->ioapic, pin, level))
		a->ioapic_pin(a->opaque, pin, level);
}

static void set_bit(uint16_t *bits, unsigned n, bool on) {
	*bits = (uint16_t)((*bits & ~(1u << n)) | (unsigned)on << n);
}

static void isa_set(void *board, unsigned irq, bool level) {
	struct board *b = board;
	set_bit(&b->isa_high, irq, level);
	pic_update(b, irq);
	ioapic_update(b, irq == 0 ? GSI_TIMER : irq, level);
}

struct irq_line board_isa_line(struct board *b, unsigned irq) {
	check(irq < 16 && irq != 2);
	return (struct irq_line){isa_set, b, irq};
}

static void pirq_set(void *board, unsigned irq, bool level) {
	struct board *b = board;
	set_bit(&b->pirq_high, irq, level);
	pic_update(b, irq);
}

struct irq_line board_pirq_line(struct board *b, unsigned irq) {
	check(irq < 16);
	return (struct irq_line){pirq_set, b, irq};
}

static void ioapic_set(void *board, unsigned gsi, bool level) {
	ioapic_update(board, gsi, level);
}

struct irq_line board_gsi_line(struct board *b, unsigned gsi) {
	check(gsi < IOAPIC_PINS && gsi != 0 && gsi != GSI_TIMER);
	if (gsi < 16)
		return board_isa_line(b, gsi);
	return (struct irq_line){ioapic_set, b, gsi};
}

static void wires_reset(void *board) {
	struct board *b = board;
	b->isa_high = b->pirq_high = 0;
}

static void wires_state(struct state_io *io, void *board) {
	struct board *b = board;
	state_u16(io, "isa_high", &b->isa_high);
	state_u16(io, "pirq_high", &b->pirq_high);
}

/* ---- local APICs and vCPUs ------------------------------------------------------------ */

static void intr(void *vcpu, bool level) {
	if (level)
		vcpu_post(vcpu, EVENT_INTR);
	else
		vcpu_unpost(vcpu, EVENT_INTR);
}

static void nmi(void *vcpu) {
	vcpu_post(vcpu, EVENT_NMI);
}

static void init(void *vcpu) {
	vcpu_post(vcpu, EVENT_INIT);
}

static void sipi(void *vcpu, uint8_t vector) {
	struct vcpu *v = vcpu;
	v->state.sipi_vector = vector;
	vcpu_post(v, EVENT_SIPI);
}

static uint64_t tsc(void *vcpu) {
	return vcpu_tsc(vcpu);
}

/* The page belongs to whoever accesses it. A processor whose APIC is off or in x2APIC
 * mode sees nothing there. */
static struct lapic *current_lapic(struct board *b) {
	struct vcpu *v = b->vm->current;
	struct lapic *l = v ? v->chip : NULL;
	return l && lapic_enabled(l) && !lapic_x2apic(l) ? l : NULL;
}

static uint64_t lapic_read(void *board, uint64_t off, unsigned size) {
	struct lapic *l = current_lapic(board);
	return l ? lapic_mmio_read(l, off, size) : ~0ull;
}

static void lapic_write(void *board, uint64_t off, unsigned size, uint64_t val) {
	struct lapic *l = current_lapic(board);
	if (l)
		lapic_mmio_write(l, off, size, val);
}

static const struct io_ops lapic_page_ops = {lapic_read, lapic_write, 0, 0};

static int intack(void *board, struct vcpu *v) {
	struct board *b = board;
	if (b->apic_bus.apics) /* INTR is the 8259's then */
		return i8259_intack(&b->pic);
	int vector = lapic_intack(v->chip);
	return vector == LAPIC_EXTINT ? i8259_intack(&b->pic) : vector;
}

static uint8_t get_tpr(void *board, struct vcpu *v) {
	return (uint8_t)(lapic_get_cr8(v->chip) << 4);
}

static void set_tpr(void *board, struct vcpu *v, uint8_t tpr) {
	lapic_set_cr8(v->chip, tpr >> 4);
}

static bool rdmsr(void *board, struct vcpu *v, uint32_t index, uint64_t *val) {
	struct board *b = board;
	return kvmclock_rdmsr(&b->kvmclock, v, index, val) || lapic_rdmsr(v->chip, index, val);
}

static bool wrmsr(void *board, struct vcpu *v, uint32_t index, uint64_t val) {
	struct board *b = board;
	return kvmclock_wrmsr(&b->kvmclock, v, index, val) || lapic_wrmsr(v->chip, index, val);
}

static void tsc_changed(void *board, struct vcpu *v) {
	struct board *b = board;
	kvmclock_tsc_changed(&b->kvmclock, v);
	if (!b->apic_bus.apics)
		lapic_tsc_changed(v->chip);
}

static const struct device_ops wires_ops = {"wires", 1, wires_reset, wires_state, NULL};

/* INTR was the model APICs' and is the 8259's now, or nobody's. The other way round they say it
 * when they next change it: until then no vCPU runs. */
static void apics_moved(void *board) {
	struct board *b = board;
	b->apic_bus.apics = b->vm->apics;
	if (!b->apic_bus.apics)
		return;
	for (unsigned i = 0; i < b->vm->nvcpus; i++) {
		lapic_stand_still(&b->lapic[i]);
		intr(b->vm->vcpus[i], i == 0 && !engine_chips(b) && b->lapic[0].lint[0]);
	}
}

static void apic_get(void *board, struct vcpu *v, struct apic_image *a) {
	lapic_get_image(v->chip, a);
}

static void apic_set(void *board, struct vcpu *v, const struct apic_image *a) {
	lapic_set_image(v->chip, a);
}

static void chips_get(void *board, struct chips_image *c) {
	const struct board *b = board;
	for (unsigned n = 0; n < 2; n++)
		c->pic[n] = b->pic.chip[n];
	c->ioapic.id = b->ioapic.id;
	c->ioapic.select = b->ioapic.select;
	c->ioapic.pins = b->ioapic.pins;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		c->ioapic.redir[pin] = b->ioapic.redir[pin];
}

/* Called while the engine still has the APICs, so that nothing is sent on. */
static void chips_set(void *board, const struct chips_image *c) {
	struct board *b = board;
	ioapic_set_image(&b->ioapic, c);
	i8259_set_image(&b->pic, c->pic);
}

static void apic_eoi(void *board, uint8_t vector) {
	struct board *b = board;
	lapic_send_eoi(&b->apic_bus, vector);
}

static const struct vm_board_apics board_apics = {apics_moved, apic_get,  apic_set,
												  chips_get,   chips_set, apic_eoi};

static void wire_vcpu(struct board *b, struct vcpu *v) {
	const struct lapic_out out = {intr, nmi, init, sipi, tsc, v};
	struct lapic *l = &b->lapic[v->id];
	lapic_init(l, &b->apic_bus, &b->vm->timers, &out, v->id, v->id == 0);
	v->chip = l;
	vm_add_device(b->vm, &lapic_device_ops, v->id, l);
}

/* What the 8259 pair drives. */
static void pic_intr(void *board, unsigned pin, bool level) {
	struct board *b = board;
	if (b->apic_bus.apics) { /* whether LINT0 lets it through is seen there */
		b->lapic[0].lint[0] = level;
		intr(b->vm->vcpus[0], level);
	} else {
		lapic_set_lint(&b->lapic[0], 0, level);
	}
}

struct irq_line board_intr_line(struct board *b) {
	return (struct irq_line){pic_intr, b, 0};
}

void board_wire_cpus(struct board *b) {
	struct vm *vm = b->vm;
	lapic_bus_init(&b->apic_bus);
	b->apic_bus.phys_bits = board_phys_bits(b);
	for (unsigned i = 0; i < vm->nvcpus; i++)
		wire_vcpu(b, vm->vcpus[i]);
	board_add_mmio(b, &b->lapic_mem, "lapic", LAPIC_DEFAULT_BASE, LAPIC_PAGE, &lapic_page_ops, b);

	ioapic_init(&b->ioapic, &b->apic_bus, 0);
	vm_add_device(vm, &ioapic_device_ops, 0, &b->ioapic);
	board_add_mmio(b, &b->ioapic_mem, "ioapic", IOAPIC_DEFAULT_BASE, IOAPIC_SIZE, &ioapic_ops,
				   &b->ioapic);
	b->ioapic_mem.latch = 4;

	vm_add_device(vm, &wires_ops, 0, b);
	kvmclock_init(&b->kvmclock, vm);
	vm_add_device(vm, &kvmclock_device_ops, 0, &b->kvmclock);

	vm->board = b;
	vm->rdmsr = rdmsr;
	vm->wrmsr = wrmsr;
	vm->intack = intack;
	vm->get_tpr = get_tpr;
	vm->set_tpr = set_tpr;
	vm->tsc_changed = tsc_changed;
	vm->board_apics = &board_apics;

	b->acpi.cpus = vm->nvcpus;
	b->acpi.lapic_base = LAPIC_DEFAULT_BASE;
	b->acpi.ioapic_base = IOAPIC_DEFAULT_BASE;
	b->acpi.ioapic_id = b->ioapic.id;
	b->acpi.overrides[b->acpi.noverrides++] = (struct acpi_override){0, GSI_TIMER, 0};
}

struct msi_sink board_msi_sink(struct board *b) {
	return (struct msi_sink){lapic_bus_msi, &b->apic_bus, lapic_bus_settle};
}
