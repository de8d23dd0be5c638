/* The I/O APIC: 24 input pins, each with an entry that says which message it
 * becomes (Intel 82093AA data sheet, order 290566-001). */
#ifndef CORE_CHIP_IOAPIC_H
#define CORE_CHIP_IOAPIC_H

#include "core/chip/lapic.h"
#include "core/vm/io.h"

#define IOAPIC_DEFAULT_BASE 0xfec00000ull
#define IOAPIC_SIZE 0x1000u

struct ioapic {
	struct lapic_bus *bus;
	uint8_t id, select;
	uint32_t pins; /* levels */
	uint64_t redir[IOAPIC_PINS];
};

/* Makes the chip and asks the bus for EOIs. `id` is what register 0 says after reset. */
void ioapic_init(struct ioapic *a, struct lapic_bus *bus, uint8_t id);

/* An input pin; the type fits irq_line.set. Active = true whatever the entry's polarity. */
void ioapic_set_pin(void *ioapic, unsigned pin, bool level);

/* A level-triggered vector was finished. lapic_bus calls it. */
void ioapic_eoi(void *ioapic, uint8_t vector);

/* For an engine that has the chip itself (core/vm/apic.h): the model keeps the levels of its pins
 * and sends nothing; true: it was another one. And registers that come back from there. */
bool ioapic_note_pin(struct ioapic *a, unsigned pin, bool level);
void ioapic_set_image(struct ioapic *a, const struct chips_image *c);

/* The register window, IOAPIC_SIZE bytes; the board makes the region. */
extern const struct io_ops ioapic_ops;

extern const struct device_ops ioapic_device_ops;

#endif
