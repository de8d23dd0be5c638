/* Private to core/acpi: the DSDT's body. */
#ifndef CORE_ACPI_DSDT_H
#define CORE_ACPI_DSDT_H

#include "core/acpi/acpi.h"
#include "core/acpi/aml.h"

void acpi_dsdt(const struct acpi_config *c, struct aml *a);

#endif
