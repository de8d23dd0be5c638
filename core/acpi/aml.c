/* See aml.h. Package lengths always take three bytes ([ACPI6.4 20.2.4] allows
 * it), so that closing a body patches them in place. */
#include "core/acpi/aml.h"

#include "core/base/bits.h"
#include "core/base/le.h"
#include "core/base/string.h"

#define PKG_BYTES 3

void aml_bytes(struct aml *a, const void *bytes, size_t len) {
	if (len > a->size - a->len) {
		a->full = true;
		return;
	}
	memcpy(a->buf + a->len, bytes, len);
	a->len += len;
}

void aml_byte(struct aml *a, uint8_t v) {
	aml_bytes(a, &v, 1);
}

/* An opcode and a value of `bytes` bytes. */
static void prefixed(struct aml *a, uint8_t op, uint64_t v, unsigned bytes) {
	uint8_t b[9];
	b[0] = op;
	le64_put(b + 1, v);
	aml_bytes(a, b, 1 + bytes);
}

void aml_int(struct aml *a, uint64_t v) {
	if (v <= 1)
		aml_byte(a, (uint8_t)v); /* ZeroOp, OneOp */
	else if (v <= 0xff)
		prefixed(a, 0x0a, v, 1);
	else if (v <= 0xffff)
		prefixed(a, 0x0b, v, 2);
	else if (v <= 0xffffffff)
		prefixed(a, 0x0c, v, 4);
	else
		prefixed(a, 0x0e, v, 8);
}

void aml_string(struct aml *a, const char *s) {
	aml_byte(a, 0x0d);
	aml_bytes(a, s, str_len(s) + 1);
}

static unsigned hex(char c) {
	return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'A' + 10);
}

/* Three letters of five bits, then four hexadecimal digits. [ACPI6.4 19.3.4] */
void aml_eisaid(struct aml *a, const char *id) {
	unsigned v =
		(unsigned)(id[0] - '@') << 10 | (unsigned)(id[1] - '@') << 5 | (unsigned)(id[2] - '@');
	uint8_t b[5] = {0x0c, (uint8_t)(v >> 8), (uint8_t)v, (uint8_t)(hex(id[3]) << 4 | hex(id[4])),
					(uint8_t)(hex(id[5]) << 4 | hex(id[6]))};
	aml_bytes(a, b, sizeof(b));
}

void aml_path(struct aml *a, const char *path) {
	aml_bytes(a, path, str_len(path));
}

void aml_name(struct aml *a, const char *name) {
	aml_byte(a, 0x08);
	aml_path(a, name);
}

void aml_name_int(struct aml *a, const char *name, uint64_t v) {
	aml_name(a, name);
	aml_int(a, v);
}

void aml_name_string(struct aml *a, const char *name, const char *s) {
	aml_name(a, name);
	aml_string(a, s);
}

void aml_name_eisaid(struct aml *a, const char *name, const char *id) {
	aml_name(a, name);
	aml_eisaid(a, id);
}

static size_t open_body(struct aml *a) {
	static const uint8_t none[PKG_BYTES];
	size_t mark = a->len;
	aml_bytes(a, none, PKG_BYTES);
	return mark;
}

void aml_end(struct aml *a, size_t mark) {
	if (a->full)
		return;
	size_t len = a->len - mark; /* includes the length itself */
	a->buf[mark] = (uint8_t)((PKG_BYTES - 1) << 6 | (len & 0xf));
	a->buf[mark + 1] = (uint8_t)(len >> 4);
	a->buf[mark + 2] = (uint8_t)(len >> 12);
}

size_t aml_scope(struct aml *a, const char *path) {
	aml_byte(a, 0x10);
	size_t mark = open_body(a);
	aml_path(a, path);
	return mark;
}

size_t aml_device(struct aml *a, const char *name) {
	aml_bytes(a, "\x5b\x82", 2);
	size_t mark = open_body(a);
	aml_path(a, name);
	return mark;
}

size_t aml_method(struct aml *a, const char *name, unsigned nargs) {
	aml_byte(a, 0x14);
	size_t mark = open_body(a);
	aml_path(a, name);
	aml_byte(a, (uint8_t)nargs);
	return mark;
}

size_t aml_package(struct aml *a, unsigned nelements) {
	aml_byte(a, 0x12);
	size_t mark = open_body(a);
	aml_byte(a, (uint8_t)nelements);
	return mark;
}

size_t aml_if(struct aml *a) {
	aml_byte(a, 0xa0);
	return open_body(a);
}

void aml_store_arg0(struct aml *a, const char *name) {
	aml_bytes(a, "\x70\x68", 2);
	aml_path(a, name);
}

void aml_return(struct aml *a, const char *name) {
	aml_byte(a, 0xa4);
	aml_path(a, name);
}

struct aml_resources aml_resources(struct aml *a, const char *name) {
	struct aml_resources r;
	aml_name(a, name);
	aml_byte(a, 0x11); /* Buffer */
	r.mark = open_body(a);
	prefixed(a, 0x0b, 0, 2); /* its size, patched at the end */
	r.start = a->len;
	return r;
}

void aml_resources_end(struct aml *a, struct aml_resources r) {
	aml_bytes(a, "\x79", 2); /* end tag; checksum 0: not given */
	if (!a->full)
		le16_put(a->buf + r.start - 2, (uint16_t)(a->len - r.start));
	aml_end(a, r.mark);
}

void aml_res_io(struct aml *a, uint16_t base, uint8_t len) {
	uint8_t b[8] = {0x47, 1, 0, 0, 0, 0, 1, len};
	le16_put(b + 2, base);
	le16_put(b + 4, base);
	aml_bytes(a, b, sizeof(b));
}

void aml_res_irq(struct aml *a, unsigned irq) {
	uint8_t b[3] = {0x22};
	le16_put(b + 1, (uint16_t)(1u << irq));
	aml_bytes(a, b, sizeof(b));
}

void aml_res_gsi(struct aml *a, uint32_t gsi) {
	uint8_t b[9] = {0x89, 6, 0, 1, 1};
	le32_put(b + 5, gsi);
	aml_bytes(a, b, sizeof(b));
}

void aml_res_mem32(struct aml *a, uint32_t base, uint32_t len) {
	uint8_t b[12] = {0x86, 9, 0, 1};
	le32_put(b + 4, base);
	le32_put(b + 8, len);
	aml_bytes(a, b, sizeof(b));
}

/* The narrowest of the three address space descriptors. [ACPI6.4 6.4.3.5] */
void aml_res_window(struct aml *a, enum aml_window kind, uint64_t base, uint64_t len) {
	uint64_t last = base + len - 1;
	unsigned w = last > 0xffffffff ? 8 : kind == AML_MEMORY ? 4 : 2;
	uint8_t b[6 + 5 * 8] = {0};
	b[0] = w == 8 ? 0x8a : w == 4 ? 0x87 : 0x88;
	le16_put(b + 1, (uint16_t)(3 + 5 * w));
	b[3] = (uint8_t)kind;
	b[4] = 0x0c; /* producer, positive decode, both ends fixed */
	b[5] = kind == AML_MEMORY ? 1 : kind == AML_IO ? 3 : 0; /* read/write; the entire range */
	/* granularity 0, first, last, translation 0, length */
	const uint64_t vals[5] = {0, base, last, 0, len};
	for (unsigned i = 0; i < 5; i++) {
		uint8_t v[8];
		le64_put(v, vals[i]);
		memcpy(b + 6 + i * w, v, w);
	}
	aml_bytes(a, b, 6 + 5 * w);
}
