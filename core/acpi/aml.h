/* A writer of ACPI machine language ([ACPI6.4 20]) and of resource templates
 * ([ACPI6.4 6.4]): just what a static machine description needs. Calls append to
 * a buffer; what has a length is opened and closed:
 *
 *     size_t dev = aml_device(a, "COM1");
 *     aml_name_eisaid(a, "_HID", "PNP0501");
 *     aml_end(a, dev);
 */
#ifndef CORE_ACPI_AML_H
#define CORE_ACPI_AML_H

#include "core/base/types.h"

struct aml {
	uint8_t *buf;
	size_t size, len;
	bool full; /* something did not fit; len stays within size */
};

void aml_bytes(struct aml *a, const void *bytes, size_t len);
void aml_byte(struct aml *a, uint8_t v);

/* Data. */
void aml_int(struct aml *a, uint64_t v);
void aml_string(struct aml *a, const char *s);
void aml_eisaid(struct aml *a, const char *id); /* "PNP0A08" */

/* Names are four characters, or with a leading backslash "\_SB_". */
void aml_path(struct aml *a, const char *path);
void aml_name(struct aml *a, const char *name); /* Name (name, <the next datum>) */
void aml_name_int(struct aml *a, const char *name, uint64_t v);
void aml_name_string(struct aml *a, const char *name, const char *s);
void aml_name_eisaid(struct aml *a, const char *name, const char *id);

/* Things with a body; each returns the mark that aml_end() takes. */
size_t aml_scope(struct aml *a, const char *path);
size_t aml_device(struct aml *a, const char *name);
size_t aml_method(struct aml *a, const char *name, unsigned nargs);
size_t aml_package(struct aml *a, unsigned nelements);
size_t aml_if(struct aml *a); /* the predicate follows */
void aml_end(struct aml *a, size_t mark);

void aml_store_arg0(struct aml *a, const char *name); /* Store (Arg0, name) */
void aml_return(struct aml *a, const char *name);	  /* Return (name) */

/* Name (name, ResourceTemplate () { ... }), closed by aml_resources_end(). */
struct aml_resources {
	size_t mark, start;
};
struct aml_resources aml_resources(struct aml *a, const char *name);
void aml_resources_end(struct aml *a, struct aml_resources r);
void aml_res_io(struct aml *a, uint16_t base, uint8_t len);
void aml_res_irq(struct aml *a, unsigned irq); /* ISA: edge, active high */
void aml_res_gsi(struct aml *a, uint32_t gsi); /* level, active high, exclusive */
void aml_res_mem32(struct aml *a, uint32_t base, uint32_t len);

/* Windows that a bridge hands on. */
enum aml_window { AML_MEMORY, AML_IO, AML_BUS };
void aml_res_window(struct aml *a, enum aml_window kind, uint64_t base, uint64_t len);

#endif
