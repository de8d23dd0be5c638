/* The power management block of a chipset as ACPI's fixed hardware defines it ([ACPI6.4
 * 4.8]), at the offsets of ICH9 (data sheet 13.8), with its command port B2h and the
 * reset control register CF9h. */
#ifndef CORE_CHIP_ACPI_PM_H
#define CORE_CHIP_ACPI_PM_H

#include "core/vm/device.h"
#include "core/vm/io.h"
#include "core/vm/irq.h"
#include "core/vm/timer.h"

/* The block: PM1 status and enable at 0 (2 bytes each), PM1 control at 4 (2), timer at 8
 * (4), GPE0 status at 20h and enable at 28h (8 each). */
#define ACPI_PM_SIZE 0x40u
#define ACPI_PM1_EVT 0x00u
#define ACPI_PM1_CNT 0x04u
#define ACPI_PM_TIMER 0x08u
#define ACPI_PM_GPE0 0x20u
#define ACPI_PM_GPE0_LEN 16u
#define ACPI_PM_TIMER_HZ 3579545u

/* Values for the command port (two ports at B2h), and what the reset register takes. */
#define ACPI_PM_SMI_ENABLE 0xf1u
#define ACPI_PM_SMI_DISABLE 0xf0u
#define ACPI_PM_RESET_VALUE 0x06u

struct acpi_pm_config {
	struct irq_line sci;			 /* level */
	void (*power_off)(void *opaque); /* the guest entered S5 */
	void (*reset)(void *opaque);	 /* by CF9h */
	void *opaque;
	uint8_t s5_type;  /* SLP_TYP of S5, 0..7 */
	bool acpi_only;	  /* SCI_EN is always set: tables that name no command port */
	bool timer_24bit; /* else 32 */
};

struct acpi_pm {
	struct acpi_pm_config config;
	struct vm_timers *timers;
	struct vm_timer overflow;
	uint16_t pm1_status, pm1_enable, pm1_control;
	uint64_t gpe_status, gpe_enable, gpe_lines;
	uint64_t timer_seen; /* half periods of the PM timer whose end was noted */
	uint8_t apm_cnt, apm_sts, reset_control;
};

void acpi_pm_init(struct acpi_pm *pm, struct vm_timers *timers,
				  const struct acpi_pm_config *config);

/* The user presses the button shortly. false: the guest has not enabled its interrupt, so it hears
 * nothing (no driver for it, or not yet). */
bool acpi_pm_power_button(struct acpi_pm *pm);

/* A general purpose event input, 0..63; its status stays set until the guest clears it
 * with the line low. Fits irq_line.set. */
void acpi_pm_set_gpe(void *pm, unsigned event, bool level);

/* `dev` is the chip: ACPI_PM_SIZE ports; two ports at B2h; one at CF9h. */
extern const struct io_ops acpi_pm_ops, acpi_pm_smi_ops, acpi_pm_reset_ops;

extern const struct device_ops acpi_pm_device_ops;

#endif
