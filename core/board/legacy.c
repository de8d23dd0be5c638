/* The chips that a PC's software has known since the PC/AT, at the addresses and
 * irqs they have had since, and the newer ones that took their places in chipsets.
 * DEVIATION: address line 20 always passes; nothing that boots here masks it. */
#include "core/board/parts.h"

#define PM_BASE 0x600
#define IRQ_TIMER 0
#define IRQ_KEYBOARD 1
#define IRQ_COM1 4
#define IRQ_RTC 8
#define IRQ_SCI 9
#define IRQ_MOUSE 12
#define S5_TYPE 5

static void power_off(void *board) {
	vm_power(((struct board *)board)->vm, VM_POWER_OFF);
}

static void reset(void *board) {
	vm_power(((struct board *)board)->vm, VM_RESET);
}

static void panicked(void *board, uint8_t events) {
	if (events & PVPANIC_PANICKED)
		vm_power(((struct board *)board)->vm, VM_PANICKED);
}

static void add_pics(struct board *b) {
	struct irq_line intr = board_intr_line(b);
	i8259_init(&b->pic, &intr);
	vm_add_device(b->vm, &i8259_device_ops, 0, &b->pic);
	board_add_port(b, &b->pic_ports[0], "i8259-master", 0x20, 2, &i8259_master_ops, &b->pic);
	board_add_port(b, &b->pic_ports[1], "i8259-slave", 0xa0, 2, &i8259_slave_ops, &b->pic);
	board_add_port(b, &b->pic_ports[2], "i8259-elcr", 0x4d0, 2, &i8259_elcr_ops, &b->pic);
}

static void add_pit(struct board *b) {
	struct irq_line irq = board_isa_line(b, IRQ_TIMER);
	i8254_init(&b->pit, &b->vm->timers, &irq);
	vm_add_device(b->vm, &i8254_device_ops, 0, &b->pit);
	board_add_port(b, &b->pit_ports[0], "i8254", 0x40, 4, &i8254_ops, &b->pit);
	board_add_port(b, &b->pit_ports[1], "port-61", 0x61, 1, &i8254_port61_ops, &b->pit);
	b->acpi.pit = true;
}

static void add_rtc(struct board *b) {
	struct irq_line irq = board_isa_line(b, IRQ_RTC);
	mc146818_init(&b->rtc, &b->vm->timers, &irq);
	mc146818_set_memory(&b->rtc, b->low_end, b->config.memory - b->low_end);
	vm_add_device(b->vm, &mc146818_device_ops, 0, &b->rtc);
	board_add_port(b, &b->rtc_port, "mc146818", 0x70, 2, &mc146818_ops, &b->rtc);
	b->rtc_port.latch = 1;
	b->acpi.rtc = true;
}

static void add_com1(struct board *b) {
	struct irq_line irq = board_isa_line(b, IRQ_COM1);
	ns16550_init(&b->com1, &b->vm->timers, &irq, &b->config.serial);
	vm_add_device(b->vm, &ns16550_device_ops, 0, &b->com1);
	board_add_port(b, &b->com1_port, "ns16550", 0x3f8, 8, &ns16550_ops, &b->com1);
	b->acpi.serial_port[0] = 0x3f8;
	b->acpi.serial_irq[0] = IRQ_COM1;
}

static void add_pm(struct board *b) {
	const struct acpi_pm_config c = {
		.sci = board_isa_line(b, IRQ_SCI),
		.power_off = power_off,
		.reset = reset,
		.opaque = b,
		.s5_type = S5_TYPE,
		.acpi_only = true,
	};
	acpi_pm_init(&b->pm, &b->vm->timers, &c);
	vm_add_device(b->vm, &acpi_pm_device_ops, 0, &b->pm);
	board_add_port(b, &b->pm_ports[0], "acpi-pm", PM_BASE, ACPI_PM_SIZE, &acpi_pm_ops, &b->pm);
	board_add_port(b, &b->pm_ports[1], "acpi-smi", 0xb2, 2, &acpi_pm_smi_ops, &b->pm);
	/* Added before PCI's address port, within whose four bytes it lies. */
	board_add_port(b, &b->pm_ports[2], "reset", 0xcf9, 1, &acpi_pm_reset_ops, &b->pm);

	struct acpi_config *a = &b->acpi;
	a->sci = IRQ_SCI;
	a->overrides[a->noverrides++] = (struct acpi_override){IRQ_SCI, IRQ_SCI, ACPI_IRQ_LEVEL_HIGH};
	a->pm1_evt = PM_BASE + ACPI_PM1_EVT;
	a->pm1_cnt = PM_BASE + ACPI_PM1_CNT;
	a->pm_timer = PM_BASE + ACPI_PM_TIMER;
	a->timer_32bit = true;
	a->gpe0 = PM_BASE + ACPI_PM_GPE0;
	a->gpe0_len = ACPI_PM_GPE0_LEN;
	a->reset_port = 0xcf9;
	a->reset_value = ACPI_PM_RESET_VALUE;
	a->s5_type = S5_TYPE;
}

static void add_pvpanic(struct board *b) {
	pvpanic_init(&b->pvpanic, panicked, b);
	board_add_port(b, &b->pvpanic_port, "pvpanic", PVPANIC_PORT, 1, &pvpanic_ops, &b->pvpanic);
	b->acpi.pvpanic_port = PVPANIC_PORT;
}

static void add_test_ports(struct board *b) {
	const struct board_config *c = &b->config;
	debug_exit_init(&b->debug, c->debug_exit, c->debug_opaque, &c->serial);
	board_add_port(b, &b->debug_ports[0], "debug-exit", 0xf4, 4, &debug_exit_ops, &b->debug);
	board_add_port(b, &b->debug_ports[1], "debug-char", 0xe9, 1, &debug_char_ops, &b->debug);
}

void board_add_basic(struct board *b) {
	add_pics(b);
	add_pit(b);
	add_rtc(b);
	add_com1(b);
	add_pm(b);
	add_pvpanic(b);
	if (b->config.test_ports)
		add_test_ports(b);
}

static void set_a20(void *board, unsigned pin, bool level) {
	mem_set_a20(&((struct board *)board)->vm->mem, level);
}

static void add_keyboard(struct board *b) {
	const struct i8042_out out = {
		.kbd = board_isa_line(b, IRQ_KEYBOARD),
		.aux = board_isa_line(b, IRQ_MOUSE),
		.a20 = {set_a20, b, 0},
		.reset = reset,
		.opaque = b,
	};
	i8042_init(&b->kbd, &out);
	vm_add_device(b->vm, &i8042_device_ops, 0, &b->kbd);
	board_add_port(b, &b->kbd_ports[0], "i8042-data", 0x60, 1, &i8042_data_ops, &b->kbd);
	board_add_port(b, &b->kbd_ports[1], "i8042-command", 0x64, 1, &i8042_command_ops, &b->kbd);
	board_add_port(b, &b->kbd_ports[2], "port-92", 0x92, 1, &i8042_port92_ops, &b->kbd);
	b->acpi.i8042 = true;
}

/* Pins that no ISA chip and no PCI line uses. */
#define HPET_ROUTES 0xf00000u

static void add_hpet(struct board *b) {
	const struct hpet_out out = {
		.gsi = board_gsi_line(b, 20),
		.routes = HPET_ROUTES,
		.irq0 = board_isa_line(b, IRQ_TIMER),
		.irq8 = board_isa_line(b, IRQ_RTC),
		.mute_pit = {i8254_mute, &b->pit, 0},
		.mute_rtc = {mc146818_mute, &b->rtc, 0},
	};
	hpet_init(&b->hpet, &b->vm->timers, &out);
	vm_add_device(b->vm, &hpet_device_ops, 0, &b->hpet);
	board_add_mmio(b, &b->hpet_mem, "hpet", 0xfed00000, HPET_SIZE, &hpet_ops, &b->hpet);
	b->acpi.hpet_base = 0xfed00000;
	b->acpi.hpet_id = HPET_ID;
}

void board_add_pc(struct board *b) {
	add_keyboard(b);
	add_hpet(b);
}
