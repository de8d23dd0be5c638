/* Interrupt controllers that an engine has instead of the board: in the kernel, next to the guest.
 * The local APICs, and where the engine wants that, the 8259 pair and the I/O APIC as well. The
 * board's models then stand still. While the vCPUs are stopped the models have the state again, in
 * the one format that all engines load and save, and take what devices send.
 *
 * vm.apics says who has it: the engine sets it when it takes the state over, and clears it when it
 * gives it back. vm.board_apics is the board's side. VM lock held in all calls. */
#ifndef CORE_VM_APIC_H
#define CORE_VM_APIC_H

#include "core/base/types.h"

struct vcpu;

/* One local APIC: registers as 32-bit words 16 bytes apart, as in the page ([SDM3 10.4.1]), and
 * the MSRs beside it. The timer's current count is that of the moment. */
#define APIC_REGS 1024
struct apic_image {
	uint64_t base;		   /* IA32_APIC_BASE */
	uint64_t tsc_deadline; /* IA32_TSC_DEADLINE */
	uint8_t regs[APIC_REGS];
};

/* One 8259, as its data sheet names things. */
struct i8259_chip {
	uint8_t irr, isr, imr;
	uint8_t lines; /* levels of the pins */
	uint8_t elcr;  /* 1: this pin is level-triggered */
	uint8_t icw1, base, icw3, icw4;
	uint8_t init_step; /* the ICW that comes next: 2..4; 0: none */
	uint8_t lowest;	   /* the pin with the lowest priority */
	uint8_t read_isr;  /* what a read of the command port gives: 0 IRR, 1 ISR */
	bool poll;		   /* the next read is a poll */
	bool special_mask; /* ESMM/SMM */
	bool rotate_on_aeoi;
};

#define IOAPIC_PINS 24

/* The 8259 pair and the I/O APIC. The levels of the pins are the board's to know: an engine reads
 * them here and leaves them alone. */
struct chips_image {
	struct i8259_chip pic[2];
	struct {
		uint8_t id, select;
		uint32_t pins;
		uint64_t redir[IOAPIC_PINS];
	} ioapic;
};

/* What the engine offers to the board. */
struct vm_apics {
	/* An interrupt message, as a device or an I/O APIC writes it to memory. It arrives when the VM
	 * lock is given back, or before; one that is on its way may be joined with an equal one. */
	void (*message)(void *opaque, gpa_t addr, uint32_t data);
	/* All messages so far have arrived. For those who mask what sends them. NULL: they have. */
	void (*settle)(void *opaque);
	/* A pin of the 8259s or the I/O APIC has another level. NULL: the board has those chips. */
	void (*pic_pin)(void *opaque, unsigned pin, bool level);
	void (*ioapic_pin)(void *opaque, unsigned pin, bool level);
	void *opaque;
};

/* What the board offers to the engine. */
struct vm_board_apics {
	/* vm.apics has changed: the models stand still, or take messages and pins again. */
	void (*moved)(void *board);
	/* The models' registers, both ways. */
	void (*get)(void *board, struct vcpu *v, struct apic_image *a);
	void (*set)(void *board, struct vcpu *v, const struct apic_image *a);
	void (*get_chips)(void *board, struct chips_image *c);
	void (*set_chips)(void *board, const struct chips_image *c);
	/* A level-triggered vector was finished by some vCPU. */
	void (*eoi)(void *board, uint8_t vector);
};

#endif
