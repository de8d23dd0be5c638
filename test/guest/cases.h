/* The table of test guests; see cases.c for its rows and main.c for who runs them. */
#ifndef TEST_GUEST_CASES_H
#define TEST_GUEST_CASES_H

#include <stdbool.h>

/* How a case has to end. */
enum guest_end {
	END_DONE,	 /* the guest wrote 0 to port F4h */
	END_RESET,	 /* it reset the machine or took a triple fault */
	END_OFF,	 /* it switched the machine off */
	END_STOPPED, /* it ran until the runner stopped it */
	END_ANY,	 /* in any way, but not by a failure of the machine; reports are not looked at */
};

struct guest_case {
	const char *name;  /* of the test, and of its image where `image` is NULL */
	const char *image; /* file name without ".bin" */
	bool real;		   /* a real-mode image, else 32-bit protected mode */
	unsigned cpus;
	const char *board;	   /* NULL: "pc" */
	const char *cpu_model; /* NULL: the runner's */
	unsigned memory_mb;
	unsigned checks; /* lines that the report has */
	enum guest_end end;
	bool reboots;	  /* a reset starts the guest anew instead of ending the case */
	unsigned seconds; /* at most; 0: a usual number */
	bool flushes;	  /* fills the translator's code cache, which has to be emptied */
	bool weak_kvm;	  /* runs even on a KVM that fails engine kvm's probe */
};

extern const struct guest_case guest_cases[];
extern const unsigned guest_ncases;

#endif
