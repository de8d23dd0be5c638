/* The DSDT: the devices of a board that a guest cannot find by itself. Static
 * data except for _PIC and _PRT, by which the guest says which interrupt
 * controllers it uses and learns how PCI's pins are wired to those. */
#include "core/acpi/dsdt.h"

#include "core/base/bits.h"
#include "core/base/fmt.h"

/* A device with an EISA id and a unit number; closed by the caller. */
static size_t device(struct aml *a, const char *name, const char *eisaid, unsigned uid) {
	size_t d = aml_device(a, name);
	aml_name_eisaid(a, "_HID", eisaid);
	aml_name_int(a, "_UID", uid);
	return d;
}

static void cpus(const struct acpi_config *c, struct aml *a) {
	for (unsigned i = 0; i < c->cpus; i++) {
		char name[8];
		fmt_text(name, sizeof(name), "C%03X", i & 0xfff);
		size_t d = aml_device(a, name);
		aml_name_string(a, "_HID", "ACPI0007");
		aml_name_int(a, "_UID", i);
		aml_end(a, d);
	}
}

/* One routing table: 32 devices times 4 pins, device n's INTA on line n % 4. */
static void prt(struct aml *a, const char *name, const uint32_t line[4]) {
	aml_name(a, name);
	size_t table = aml_package(a, 32 * 4);
	for (unsigned dev = 0; dev < 32; dev++) {
		for (unsigned pin = 0; pin < 4; pin++) {
			size_t entry = aml_package(a, 4);
			aml_int(a, dev << 16 | 0xffff);
			aml_int(a, pin);
			aml_int(a, 0); /* not through a link device: the next number is the GSI */
			aml_int(a, line[(dev + pin) % 4]);
			aml_end(a, entry);
		}
	}
	aml_end(a, table);
}

static void pci_windows(const struct acpi_config *c, struct aml *a) {
	struct aml_resources r = aml_resources(a, "_CRS");
	aml_res_window(a, AML_BUS, 0, 1);
	/* All ports but the bridge's own: the ISA bridge behind it has the low ones. */
	aml_res_window(a, AML_IO, 0, 0xcf8);
	aml_res_io(a, 0xcf8, 8);
	aml_res_window(a, AML_IO, 0xd00, 0x10000 - 0xd00);
	if (c->mem32.size)
		aml_res_window(a, AML_MEMORY, c->mem32.base, c->mem32.size);
	if (c->mem64.size)
		aml_res_window(a, AML_MEMORY, c->mem64.base, c->mem64.size);
	aml_resources_end(a, r);
}

static void pci_root(const struct acpi_config *c, struct aml *a) {
	uint32_t irq[4];
	for (unsigned i = 0; i < 4; i++)
		irq[i] = c->intx_irq[i];
	size_t d = device(a, "PCI0", c->ecam_base ? "PNP0A08" : "PNP0A03", 0);
	if (c->ecam_base)
		aml_name_eisaid(a, "_CID", "PNP0A03");
	aml_name_int(a, "_SEG", 0);
	aml_name_int(a, "_BBN", 0);
	pci_windows(c, a);
	prt(a, "PRTA", c->intx_gsi);
	prt(a, "PRTP", irq);
	size_t m = aml_method(a, "_PRT", 0);
	size_t cond = aml_if(a);
	aml_path(a, "\\PICM");
	aml_return(a, "PRTA");
	aml_end(a, cond);
	aml_return(a, "PRTP");
	aml_end(a, m);
	aml_end(a, d);
}

static void serial(const struct acpi_config *c, struct aml *a, unsigned n) {
	if (!c->serial_port[n])
		return;
	size_t d = device(a, n ? "COM2" : "COM1", "PNP0501", n + 1);
	struct aml_resources r = aml_resources(a, "_CRS");
	aml_res_io(a, c->serial_port[n], 8);
	aml_res_irq(a, c->serial_irq[n]);
	aml_resources_end(a, r);
	aml_end(a, d);
}

static void legacy(const struct acpi_config *c, struct aml *a) {
	struct aml_resources r;
	size_t d;
	serial(c, a, 0);
	serial(c, a, 1);
	if (c->i8042) {
		d = device(a, "KBD_", "PNP0303", 0);
		r = aml_resources(a, "_CRS");
		aml_res_io(a, 0x60, 1);
		aml_res_io(a, 0x64, 1);
		aml_res_irq(a, 1);
		aml_resources_end(a, r);
		aml_end(a, d);
		d = device(a, "MOU_", "PNP0F13", 0);
		r = aml_resources(a, "_CRS");
		aml_res_irq(a, 12);
		aml_resources_end(a, r);
		aml_end(a, d);
	}
	if (c->rtc) {
		d = device(a, "RTC_", "PNP0B00", 0);
		r = aml_resources(a, "_CRS");
		aml_res_io(a, 0x70, 2);
		aml_res_irq(a, 8);
		aml_resources_end(a, r);
		aml_end(a, d);
	}
	if (c->pit) {
		d = device(a, "PIT_", "PNP0100", 0);
		r = aml_resources(a, "_CRS");
		aml_res_io(a, 0x40, 4);
		aml_res_irq(a, 0);
		aml_resources_end(a, r);
		aml_end(a, d);
	}
	if (c->hpet_base) {
		d = device(a, "HPET", "PNP0103", 0);
		r = aml_resources(a, "_CRS");
		aml_res_mem32(a, (uint32_t)c->hpet_base, 0x400);
		aml_resources_end(a, r);
		aml_end(a, d);
	}
	if (c->pvpanic_port) {
		/* The id that guests' drivers for this port know. */
		d = aml_device(a, "PEVT");
		aml_name_string(a, "_HID", "QEMU0001");
		r = aml_resources(a, "_CRS");
		aml_res_io(a, c->pvpanic_port, 1);
		aml_resources_end(a, r);
		aml_end(a, d);
	}
}

/* What no driver claims but nobody else may be given: also what makes a guest trust the
 * MCFG's address. */
static void motherboard(const struct acpi_config *c, struct aml *a) {
	size_t d = device(a, "MBRD", "PNP0C02", 0);
	struct aml_resources r = aml_resources(a, "_CRS");
	aml_res_io(a, c->pm1_evt, 4);
	aml_res_io(a, c->pm1_cnt, 2);
	if (c->pm_timer)
		aml_res_io(a, c->pm_timer, 4);
	if (c->gpe0_len)
		aml_res_io(a, c->gpe0, c->gpe0_len);
	if (c->ecam_base)
		aml_res_mem32(a, (uint32_t)c->ecam_base, (uint32_t)MIB(1));
	aml_resources_end(a, r);
	aml_end(a, d);
}

static void virtio_mmio(const struct acpi_config *c, struct aml *a) {
	for (unsigned i = 0; i < c->nvirtio; i++) {
		char name[8];
		fmt_text(name, sizeof(name), "VR%02X", i & 0xff);
		size_t d = aml_device(a, name);
		aml_name_string(a, "_HID", "LNRO0005"); /* what guests' virtio-mmio drivers bind to */
		aml_name_int(a, "_UID", i);
		aml_name_int(a, "_CCA", 1); /* DMA is coherent */
		struct aml_resources r = aml_resources(a, "_CRS");
		aml_res_mem32(a, (uint32_t)c->virtio[i].base, 0x1000);
		aml_res_gsi(a, c->virtio[i].gsi);
		aml_resources_end(a, r);
		aml_end(a, d);
	}
}

void acpi_dsdt(const struct acpi_config *c, struct aml *a) {
	/* \_PIC (mode): 0 = 8259s, 1 = APICs. */
	aml_name_int(a, "PICM", 0);
	size_t m = aml_method(a, "_PIC", 1);
	aml_store_arg0(a, "PICM");
	aml_end(a, m);

	aml_name(a, "_S5_");
	size_t s5 = aml_package(a, 4);
	aml_int(a, c->s5_type);
	aml_int(a, c->s5_type);
	aml_int(a, 0);
	aml_int(a, 0);
	aml_end(a, s5);

	size_t sb = aml_scope(a, "\\_SB_");
	cpus(c, a);
	if (c->pci)
		pci_root(c, a);
	legacy(c, a);
	motherboard(c, a);
	virtio_mmio(c, a);
	aml_end(a, sb);
}
