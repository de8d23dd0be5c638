/* The gate, in front of an engine that does what the test says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "core/x86/regs.h"
#include "engine/engine.h"
#include "test/unit/fake.h"

static struct vm vm;
static struct vcpu cpus[2];
static struct fake_clock fake;
static struct engine en;
static unsigned runs, sets, changes;
static enum vm_exit_kind answer;
static void (*inside)(struct vcpu *v);

static void nothing(void *opaque) {
}

static const struct vm_host host = {.lock = nothing, .unlock = nothing};

static int fake_create(struct vm *for_vm, const struct engine_options *o, void **self,
					   struct err *e) {
	*self = &runs;
	return 0;
}

static void fake_destroy(void *self) {
}

static int fake_add_vcpu(void *self, struct vcpu *v, struct err *e) {
	return 0;
}

static void fake_run(struct vcpu *v, struct vm_exit *out) {
	runs++;
	assert_int_equal(v->state.activity, CPU_RUNNING);
	if (inside)
		inside(v);
	inside = NULL;
	out->kind = answer;
}

static void fake_set_state(struct vcpu *v) {
	sets++;
}

static void fake_changed(void *self) {
	changes++;
}

static const struct engine_ops ops = {
	.name = "fake",
	.create = fake_create,
	.destroy = fake_destroy,
	.add_vcpu = fake_add_vcpu,
	.run = fake_run,
	.set_state = fake_set_state,
	.mem_changed = fake_changed,
};

static int setup(void **state) {
	fake_clock_init(&fake);
	vm_init(&vm, &host, &fake.clock);
	memset(cpus, 0, sizeof(cpus));
	for (unsigned i = 0; i < 2; i++) {
		cpus[i].vm = &vm;
		cpus[i].id = i;
		vm.vcpus[vm.nvcpus++] = &cpus[i];
	}
	vm_reset(&vm);
	runs = sets = changes = 0;
	inside = NULL;
	answer = EXIT_PREEMPTED;
	struct err e;
	return engine_create(&en, &ops, &vm, NULL, &e);
}

static int teardown(void **state) {
	engine_destroy(&en);
	return 0;
}

static enum vm_exit_kind run(unsigned n) {
	struct vm_exit out;
	engine_run(&en, &cpus[n], &out);
	return out.kind;
}

static void a_kick_comes_first(void **state) {
	vcpu_post(&cpus[0], EVENT_KICK);
	assert_int_equal(run(0), EXIT_PREEMPTED);
	assert_int_equal(runs, 0);
	assert_int_equal(vcpu_events(&cpus[0]), 0);
}

static void waiting_needs_no_engine(void **state) {
	assert_int_equal(run(1), EXIT_HALT); /* waits for SIPI */
	vcpu_post(&cpus[1], EVENT_INTR | EVENT_NMI);
	assert_int_equal(run(1), EXIT_HALT);
	cpus[0].state.activity = CPU_HALTED;
	assert_int_equal(run(0), EXIT_HALT);
	vcpu_post(&cpus[0], EVENT_INTR); /* with IF = 0 */
	assert_int_equal(run(0), EXIT_HALT);
	cpus[0].state.nmi_masked = true;
	vcpu_post(&cpus[0], EVENT_NMI);
	assert_int_equal(run(0), EXIT_HALT);
	cpus[0].state.activity = CPU_SHUTDOWN;
	assert_int_equal(run(0), EXIT_SHUTDOWN);
	assert_int_equal(runs, 0);
}

static void interrupts_end_a_halt(void **state) {
	cpus[0].state.activity = CPU_HALTED;
	cpus[0].state.rflags |= RFLAGS_IF;
	vcpu_post(&cpus[0], EVENT_INTR);
	run(0);
	assert_int_equal(runs, 1);
	cpus[0].state.activity = CPU_HALTED;
	cpus[0].state.rflags = RFLAGS_FIXED;
	vcpu_unpost(&cpus[0], EVENT_INTR);
	vcpu_post(&cpus[0], EVENT_NMI);
	run(0);
	assert_int_equal(runs, 2);
}

static void init_and_sipi(void **state) {
	cpus[1].state.sipi_vector = 0x12;
	vcpu_post(&cpus[0], EVENT_SIPI); /* lost: this one runs */
	run(0);
	assert_true(cpus[0].state.rip == 0xfff0);
	vcpu_post(&cpus[1], EVENT_INIT | EVENT_SIPI);
	run(1);
	assert_int_equal(runs, 2);
	assert_int_equal(cpus[1].state.seg[SEG_CS].base, 0x12000);
	assert_true(sets > 0);
	vcpu_post(&cpus[1], EVENT_INIT);
	assert_int_equal(run(1), EXIT_HALT);
	cpus[0].state.activity = CPU_SHUTDOWN; /* INIT ends it, and vCPU 0 starts over */
	vcpu_post(&cpus[0], EVENT_INIT);
	run(0);
	assert_int_equal(runs, 3);
}

static void post_init(struct vcpu *v) {
	vcpu_post(v, EVENT_INIT);
}

static void post_kick(struct vcpu *v) {
	vcpu_post(v, EVENT_KICK);
}

static void halt_with_work(struct vcpu *v) {
	v->state.activity = CPU_HALTED;
	v->state.rflags |= RFLAGS_IF;
	vcpu_post(v, EVENT_INTR);
	answer = EXIT_HALT;
}

static void events_inside_run(void **state) {
	inside = post_init;
	assert_int_equal(run(0), EXIT_PREEMPTED);
	assert_int_equal(runs, 2); /* the INIT was none of the caller's business */
	inside = post_kick;
	run(0);
	assert_int_equal(vcpu_events(&cpus[0]), 0);
	inside = halt_with_work;
	answer = EXIT_DEBUG;
	run(0);
	assert_int_equal(runs, 5); /* halted with an interrupt there: went on */
}

/* An engine that has the local APICs: the gate neither waits nor starts processors for it. */
static bool yes(void *self) {
	return true;
}

static void run_in_any_state(struct vcpu *v, struct vm_exit *out) {
	runs++;
	out->kind = answer;
}

static void the_engine_waits(void **state) {
	struct engine_ops own = ops;
	struct err e;
	own.waits = yes;
	own.run = run_in_any_state;
	engine_destroy(&en);
	assert_int_equal(engine_create(&en, &own, &vm, NULL, &e), 0);
	assert_int_equal(run(1), EXIT_PREEMPTED); /* which waits for its SIPI */
	assert_int_equal(cpus[1].state.activity, CPU_WAIT_SIPI);
	cpus[0].state.activity = CPU_HALTED;
	assert_int_equal(run(0), EXIT_PREEMPTED);
	assert_int_equal(cpus[0].state.activity, CPU_HALTED);
	assert_int_equal(runs, 2);
	vcpu_post(&cpus[0], EVENT_KICK);
	assert_int_equal(run(0), EXIT_PREEMPTED);
	assert_int_equal(runs, 2);
	engine_destroy(&en);
	assert_int_equal(engine_create(&en, &ops, &vm, NULL, &e), 0);
}

static void the_map_is_listened_to(void **state) {
	static uint8_t page[4096];
	struct mem_region r = {"ram", 0, 4096, MEM_RAM, 0, page, NULL, NULL, false, NULL, 0, 0};
	mem_add(&vm.mem, &r);
	assert_int_equal(changes, 1);
	mem_remove(&vm.mem, &r);
	assert_int_equal(changes, 2);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_kick_comes_first, setup, teardown),
		cmocka_unit_test_setup_teardown(waiting_needs_no_engine, setup, teardown),
		cmocka_unit_test_setup_teardown(interrupts_end_a_halt, setup, teardown),
		cmocka_unit_test_setup_teardown(init_and_sipi, setup, teardown),
		cmocka_unit_test_setup_teardown(events_inside_run, setup, teardown),
		cmocka_unit_test_setup_teardown(the_map_is_listened_to, setup, teardown),
		cmocka_unit_test_setup_teardown(the_engine_waits, setup, teardown),
	};
	return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
