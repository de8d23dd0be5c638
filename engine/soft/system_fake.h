/* A machine of 2 MiB with one vCPU of engine_soft, on which a test calls handlers one by one. For
 * the
 * *_test.c of this folder, one machine at a time. */
#ifndef ENGINE_SOFT_SYSTEM_FAKE_H
#define ENGINE_SOFT_SYSTEM_FAKE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "engine/soft/fast.h"
#include "engine/soft/ops.h"
#include "engine/soft/sys.h"

/* Where things lie in its memory, and selectors. */
#define RAM_SIZE MIB(2)
#define GDT 0x1000u
#define IDT 0x2000u
#define TSS 0x3000u
#define TSS2 0x3800u
#define STACK0 0x8000u
#define STACK3 0x9000u
#define HANDLER 0x5000u

enum {
	CODE0 = 0x08,
	DATA0 = 0x10,
	CODE3 = 0x1b,
	DATA3 = 0x23,
	TSS_SEL = 0x28,
	TSS2_SEL = 0x30,
	TASK_GATE = 0x38,
	CALL_GATE = 0x43,
	CODE64 = 0x50,
	CONFORMING = 0x58,
	GDT_END = 0x60
};

extern struct vm vm;
extern struct vcpu vcpu;
extern struct soft_vcpu *c;
extern struct x86_state *s; /* c's */
extern struct mem_region ram;
extern struct x86_insn insn; /* what try_op() executes: two bytes long */
/* Ports 60h to 67h: what was written last; what is read next, one more each time. */
extern uint32_t port_seen, port_val;

/* A machine in real mode, and its end: for T(). */
int setup(void **unused);
int teardown(void **unused);
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

/* 32-bit protected mode at `cpl` with flat segments. */
void enter_protected(unsigned cpl);
/* 64-bit mode, the first 2 MiB identity-mapped for everybody. */
void enter_long(unsigned cpl);

/* Guest memory by physical address; descriptors and gates in it. */
void put(uint32_t at, unsigned size, uint64_t val);
uint64_t get(uint32_t at, unsigned size);
void put_desc(unsigned sel, uint32_t base, uint32_t limit, uint32_t attr);
void put_gate(uint32_t at, unsigned type, unsigned sel, uint32_t off, unsigned extra);
/* What a segment register holds after loading a selector of the GDT. */
struct x86_segment seg_of(unsigned sel);

/* true: it completed; false: c->event says what it raised. */
bool try_op(soft_handler *h);
bool try_deliver(const struct soft_event *ev);
bool try_load(unsigned seg, unsigned sel);
/* Delivers what the last handler raised, as the loop does, until it works or all is lost. */
bool settle(void);

#define assert_raises(call, vec, err)                                                              \
	do {                                                                                           \
		assert_false(call);                                                                        \
		assert_int_equal(c->event.vector, vec);                                                    \
		if (c->event.has_error)                                                                    \
			assert_int_equal(c->event.error, err);                                                 \
	} while (0)

#endif
