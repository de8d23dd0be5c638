/* The static tables; see acpi.h. Layouts are those of [ACPI6.4 5.2]; HPET and
 * MCFG have specifications of their own ([HPET 3.2.4], [PCIFW3.2 4.1.2]). */
#include "core/base/bits.h"
#include "core/base/le.h"
#include "core/base/string.h"

#include "core/acpi/acpi.h"
#include "core/acpi/dsdt.h"

#define HEADER 36
#define RSDP_LEN 36
#define FADT_LEN 276
#define FACS_LEN 64
#define TABLES 8

struct builder {
	struct aml out;
	gpa_t gpa;
	gpa_t list[TABLES]; /* what RSDT and XSDT name */
	unsigned nlist;
};

static void put8(struct builder *b, uint8_t v) {
	aml_byte(&b->out, v);
}

static void put16(struct builder *b, uint16_t v) {
	uint8_t bytes[2];
	le16_put(bytes, v);
	aml_bytes(&b->out, bytes, 2);
}

static void put32(struct builder *b, uint32_t v) {
	uint8_t bytes[4];
	le32_put(bytes, v);
	aml_bytes(&b->out, bytes, 4);
}

static void put64(struct builder *b, uint64_t v) {
	uint8_t bytes[8];
	le64_put(bytes, v);
	aml_bytes(&b->out, bytes, 8);
}

static void put_zeroes(struct builder *b, size_t n) {
	while (n--)
		put8(b, 0);
}

/* A port as a generic address structure ([ACPI6.4 5.2.3.2]); width in bits. */
static void put_port(struct builder *b, uint16_t port, unsigned width, uint8_t access) {
	put8(b, port ? 1 : 0);
	put8(b, port ? (uint8_t)width : 0);
	put8(b, 0);
	put8(b, port ? access : 0);
	put64(b, port);
}

static void align(struct builder *b, size_t to) {
	while (!b->out.full && b->out.len % to)
		put8(b, 0);
}

static gpa_t here(const struct builder *b) {
	return b->gpa + b->out.len;
}

static uint8_t checksum(const uint8_t *p, size_t len) {
	uint8_t sum = 0;
	while (len--)
		sum = (uint8_t)(sum + *p++);
	return (uint8_t)-sum;
}

static size_t table(struct builder *b, const char *signature, uint8_t revision) {
	align(b, 16);
	size_t start = b->out.len;
	aml_bytes(&b->out, signature, 4);
	put32(b, 0); /* length and checksum: at the end */
	put8(b, revision);
	put8(b, 0);
	aml_bytes(&b->out, "JOIST JOISTVM ", 14);
	put32(b, 1);
	aml_bytes(&b->out, "JOST", 4);
	put32(b, 1);
	return start;
}

/* Completes the header and returns the table's address. */
static gpa_t finish(struct builder *b, size_t start) {
	if (!b->out.full) {
		uint8_t *t = b->out.buf + start;
		le32_put(t + 4, (uint32_t)(b->out.len - start));
		t[9] = checksum(t, b->out.len - start);
	}
	return b->gpa + start;
}

static void list(struct builder *b, gpa_t at) {
	b->list[b->nlist++] = at;
}

static gpa_t facs(struct builder *b) {
	align(b, 64);
	gpa_t at = here(b);
	aml_bytes(&b->out, "FACS", 4);
	put32(b, FACS_LEN);
	put_zeroes(b, FACS_LEN - 8 - 32);
	put8(b, 2); /* version */
	put_zeroes(b, 31);
	return at;
}

/* FADT flags and IA-PC boot architecture flags. [ACPI6.4 5.2.9] */
#define FADT_WBINVD BIT(0)
#define FADT_PROC_C1 BIT(2)
#define FADT_SLP_BUTTON BIT(5) /* no fixed sleep button; the power button is a fixed one */
#define FADT_FIX_RTC BIT(6)	   /* RTC wake is not in the fixed registers */
#define FADT_TMR_VAL_EXT BIT(8)
#define FADT_RESET_REG_SUP BIT(10)
#define BOOT_LEGACY_DEVICES BIT(0)
#define BOOT_8042 BIT(1)
#define BOOT_NO_VGA BIT(2)
#define BOOT_NO_RTC BIT(5)

static void fadt(const struct acpi_config *c, struct builder *b, gpa_t facs_at, gpa_t dsdt_at) {
	uint64_t flags = FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_FIX_RTC;
	flags |= (c->timer_32bit ? FADT_TMR_VAL_EXT : 0) | (c->reset_port ? FADT_RESET_REG_SUP : 0);
	uint64_t boot =
		BOOT_NO_VGA | BOOT_LEGACY_DEVICES | (c->i8042 ? BOOT_8042 : 0) | (c->rtc ? 0 : BOOT_NO_RTC);
	size_t t = table(b, "FACP", 6);
	put32(b, (uint32_t)facs_at);
	put32(b, (uint32_t)dsdt_at);
	put8(b, 0);
	put8(b, 4); /* profile: enterprise server */
	put16(b, c->sci);
	put32(b, 0);	  /* no SMI command port: always in ACPI mode */
	put_zeroes(b, 4); /* enable, disable, S4, P-state */
	put32(b, c->pm1_evt);
	put32(b, 0);
	put32(b, c->pm1_cnt);
	put32(b, 0);
	put32(b, 0);
	put32(b, c->pm_timer);
	put32(b, c->gpe0_len ? c->gpe0 : 0);
	put32(b, 0);
	put8(b, 4); /* lengths of the blocks, in this order */
	put8(b, 2);
	put8(b, 0);
	put8(b, c->pm_timer ? 4 : 0);
	put8(b, c->gpe0_len);
	put8(b, 0);
	put8(b, 0);
	put8(b, 0);
	put16(b, 0xfff); /* C2 and C3: latencies that say they do not exist */
	put16(b, 0xfff);
	put32(b, 0); /* cache flush, duty cycle */
	put16(b, 0);
	put16(b, 0);				/* RTC: no day and month alarm */
	put8(b, c->rtc ? 0x32 : 0); /* century */
	put16(b, (uint16_t)boot);
	put8(b, 0);
	put32(b, (uint32_t)flags);
	put_port(b, c->reset_port, 8, 1);
	put8(b, c->reset_value);
	put16(b, 0);
	put8(b, 4);	 /* minor version: 6.4 */
	put64(b, 0); /* FACS: the 32-bit field has it; both would be two */
	put64(b, dsdt_at);
	put_port(b, c->pm1_evt, 32, 2);
	put_port(b, 0, 0, 0);
	put_port(b, c->pm1_cnt, 16, 2);
	put_port(b, 0, 0, 0);
	put_port(b, 0, 0, 0);
	put_port(b, c->pm_timer, 32, 3);
	put_port(b, c->gpe0_len ? c->gpe0 : 0, c->gpe0_len * 8u, 1);
	put_port(b, 0, 0, 0);
	put_port(b, 0, 0, 0); /* sleep control and status: hardware-reduced only */
	put_port(b, 0, 0, 0);
	put64(b, 0);
	list(b, finish(b, t));
}

static void madt(const struct acpi_config *c, struct builder *b) {
	size_t t = table(b, "APIC", 5);
	put32(b, c->lapic_base);
	put32(b, 1); /* the 8259 pair is there, too */
	for (unsigned i = 0; i < c->cpus; i++) {
		put8(b, 0); /* a local APIC */
		put8(b, 8);
		put8(b, (uint8_t)i);
		put8(b, (uint8_t)i);
		put32(b, 1);
	}
	put8(b, 1); /* the I/O APIC */
	put8(b, 12);
	put8(b, c->ioapic_id);
	put8(b, 0);
	put32(b, c->ioapic_base);
	put32(b, 0);
	for (unsigned i = 0; i < c->noverrides; i++) {
		put8(b, 2);
		put8(b, 10);
		put8(b, 0); /* ISA */
		put8(b, c->overrides[i].source);
		put32(b, c->overrides[i].gsi);
		put16(b, c->overrides[i].flags);
	}
	put8(b, 4); /* NMI at LINT1 of every processor */
	put8(b, 6);
	put8(b, 0xff);
	put16(b, 0);
	put8(b, 1);
	list(b, finish(b, t));
}

static void hpet(const struct acpi_config *c, struct builder *b) {
	size_t t = table(b, "HPET", 1);
	put32(b, c->hpet_id);
	put32(b, 0); /* address in memory, any width */
	put64(b, c->hpet_base);
	put8(b, 0);
	put16(b, 0x80); /* ticks between periodic interrupts at least */
	put8(b, 0);
	list(b, finish(b, t));
}

static void mcfg(const struct acpi_config *c, struct builder *b) {
	size_t t = table(b, "MCFG", 1);
	put64(b, 0);
	put64(b, c->ecam_base);
	put16(b, 0); /* segment; buses 0..0 */
	put16(b, 0);
	put32(b, 0);
	list(b, finish(b, t));
}

/* "An emulated platform": the PM timer needs one read only. */
static void waet(struct builder *b) {
	size_t t = table(b, "WAET", 1);
	put32(b, 2);
	list(b, finish(b, t));
}

static gpa_t dsdt(const struct acpi_config *c, struct builder *b) {
	size_t t = table(b, "DSDT", 2);
	acpi_dsdt(c, &b->out);
	return finish(b, t);
}

/* The same list with 32-bit and with 64-bit entries. */
static gpa_t root(struct builder *b, bool wide) {
	size_t t = table(b, wide ? "XSDT" : "RSDT", 1);
	for (unsigned i = 0; i < b->nlist; i++) {
		if (wide)
			put64(b, b->list[i]);
		else
			put32(b, (uint32_t)b->list[i]);
	}
	return finish(b, t);
}

static void rsdp(uint8_t *p, gpa_t rsdt, gpa_t xsdt) {
	memcpy(p, "RSD PTR ", 8);
	memcpy(p + 9, "JOIST ", 6);
	p[15] = 2;
	le32_put(p + 16, (uint32_t)rsdt);
	le32_put(p + 20, RSDP_LEN);
	le64_put(p + 24, xsdt);
	p[8] = checksum(p, 20);
	p[32] = checksum(p, RSDP_LEN);
}

int64_t acpi_build(const struct acpi_config *c, uint8_t *buf, size_t size, gpa_t gpa,
				   struct err *e) {
	struct builder b = {.out = {.buf = buf, .size = size}, .gpa = gpa};
	put_zeroes(&b, RSDP_LEN);
	gpa_t facs_at = facs(&b);
	gpa_t dsdt_at = dsdt(c, &b);
	fadt(c, &b, facs_at, dsdt_at);
	madt(c, &b);
	if (c->hpet_base)
		hpet(c, &b);
	if (c->ecam_base)
		mcfg(c, &b);
	if (c->pm_timer)
		waet(&b);
	gpa_t rsdt = root(&b, false), xsdt = root(&b, true);
	if (b.out.full)
		return err_set(e, ERR_NOSPC, "the ACPI tables do not fit into %zu bytes", size);
	rsdp(buf, rsdt, xsdt);
	return (int64_t)b.out.len;
}
