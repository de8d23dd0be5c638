/* The tables by which a board tells its guest what it has ([ACPI6.4]): RSDP,
 * RSDT, XSDT, FADT, FACS, DSDT, MADT, and where the board has the parts HPET, MCFG
 * and WAET. Everything here is pure: a description goes in, bytes come out. Called
 * by a board at each load. */
#ifndef CORE_ACPI_ACPI_H
#define CORE_ACPI_ACPI_H

#include "core/base/err.h"
#include "core/base/types.h"

#define ACPI_VIRTIO_MMIO 32

/* MADT flags of an interrupt: bits 1:0 polarity, 3:2 trigger; 0 = the bus's own. */
#define ACPI_IRQ_LEVEL_HIGH 0xd

struct acpi_override { /* ISA irq `source` arrives at `gsi` */
	uint8_t source;
	uint32_t gsi;
	uint16_t flags;
};

struct acpi_window {
	uint64_t base, size; /* size 0: none */
};

struct acpi_config {
	unsigned cpus; /* APIC ids 0..cpus-1 */
	uint32_t lapic_base, ioapic_base;
	uint8_t ioapic_id;
	struct acpi_override overrides[4];
	unsigned noverrides;

	/* The power management chip: its ports. */
	uint8_t sci;	   /* ISA irq and GSI */
	uint16_t pm1_evt;  /* 4 bytes: status, enable */
	uint16_t pm1_cnt;  /* 2 bytes */
	uint16_t pm_timer; /* 0: none; 4 bytes */
	bool timer_32bit;
	uint16_t gpe0;
	uint8_t gpe0_len; /* 0: none */
	uint16_t reset_port;
	uint8_t reset_value;
	uint8_t s5_type; /* SLP_TYP that switches off */

	/* PCI, if `pci`: bus 0 with its windows and interrupt routing. */
	bool pci;
	uint64_t ecam_base; /* 0: none; 1 MiB */
	struct acpi_window mem32, mem64;
	uint32_t intx_gsi[4]; /* INTA..D of device 0; device n is turned by n */
	uint8_t intx_irq[4];  /* the same when the guest uses the 8259s */

	/* Legacy parts. Port 0: not there. */
	uint16_t serial_port[2];
	uint8_t serial_irq[2];
	bool i8042, pit, rtc;
	uint64_t hpet_base; /* 0: none */
	uint32_t hpet_id;	/* low half of its capability register */
	uint16_t pvpanic_port;

	/* virtio-mmio devices, each of one page. */
	unsigned nvirtio;
	struct {
		uint64_t base;
		uint32_t gsi;
	} virtio[ACPI_VIRTIO_MMIO];
};

/* Writes all tables into buf, which is to stand at `gpa` (below 4 GiB, 64-byte aligned)
 * in the guest; the RSDP comes first. Returns the bytes used, or -ERR_NOSPC with `e`. */
int64_t acpi_build(const struct acpi_config *c, uint8_t *buf, size_t size, gpa_t gpa,
				   struct err *e);

#endif
