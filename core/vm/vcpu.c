/* The vCPU outside of any engine: reset values, events, the way out, its state's
 * walk. DEVIATION: reset leaves the TSC running (offset 0) instead of zeroing it, so
 * that all vCPUs of a VM stay in step without having to be stopped together. */
#include "core/vm/vcpu.h"

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/le.h"
#include "core/base/string.h"
#include "core/vm/state.h"
#include "core/vm/vm.h"
#include "core/x86/regs.h"

#define XSAVE_FCW 0 /* offsets within the legacy area, [SDM1 13.4] */
#define XSAVE_MXCSR 24
#define XSAVE_HEADER 512
#define XSAVE_FEATURES 0xe7ull /* x87, SSE, AVX, AVX-512: what XSAVE_AREA has room for */

static const struct x86_segment data_reset = {0, 0x93, 0xffff, 0};

static void fpu_reset(struct x86_state *s) {
	memset(s->xsave, 0, sizeof(s->xsave));
	le16_put(s->xsave + XSAVE_FCW, 0x37f);
	le32_put(s->xsave + XSAVE_MXCSR, 0x1f80);
	le64_put(s->xsave + XSAVE_HEADER, XCR0_X87 | XCR0_SSE);
}

struct vcpu *vcpu_create(struct vm *vm, unsigned id) {
	check(id == vm->nvcpus && id < VM_VCPUS);
	/* The XSAVE area in it wants 64 bytes of alignment, which vm_alloc does not promise. */
	uint8_t *p = vm_alloc(vm, sizeof(struct vcpu) + VCPU_ENGINE_AREA + 2 * 64);
	if (!p)
		return NULL;
	struct vcpu *v = (struct vcpu *)align_up((uintptr_t)p, 64);
	v->vm = vm;
	v->id = id;
	vm->vcpus[vm->nvcpus++] = v;
	return v;
}

/* What only power-on and reset set; INIT leaves it alone. */
static void reset_kept(struct x86_state *s) {
	memset(s, 0, sizeof(*s));
	fpu_reset(s);
	s->xcr0 = XCR0_X87;
	s->cr0 = CR0_CD | CR0_NW;
	s->pat = 0x0007040600070406ull;
	s->misc_enable = 1; /* fast strings */
	s->smbase = 0x30000;
}

/* [SDM3 table 9-1] */
void vcpu_reset(struct vcpu *v, bool init) {
	struct x86_state *s = &v->state;
	if (!init) {
		reset_kept(s);
		__atomic_store_n(&v->events, 0, __ATOMIC_RELEASE);
	}
	memset(s->gpr, 0, sizeof(s->gpr));
	s->gpr[RDX] = 0x600; /* a board with a CPUID policy puts its signature here */
	s->rip = 0xfff0;
	s->rflags = RFLAGS_FIXED;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		s->seg[i] = data_reset;
	s->seg[SEG_CS] = (struct x86_segment){0xf000, 0x9b, 0xffff, 0xffff0000};
	s->seg[SEG_LDTR].attr = 0x82;
	s->seg[SEG_TR].attr = 0x8b;
	s->gdtr = s->idtr = (struct x86_dtable){0, 0xffff};
	s->cr0 = (s->cr0 & (CR0_CD | CR0_NW)) | CR0_ET;
	s->cr2 = s->cr3 = s->cr4 = s->cr8 = 0;
	s->efer = 0;
	memset(s->dr, 0, sizeof(s->dr));
	s->dr6 = DR6_FIXED;
	s->dr7 = DR7_FIXED;
	s->shadow = 0;
	s->nmi_masked = false;
	s->event = (struct x86_event){0};
	s->activity = v->id == 0 ? CPU_RUNNING : CPU_WAIT_SIPI;
}

void vcpu_start_sipi(struct vcpu *v, uint8_t vector) {
	struct x86_state *s = &v->state;
	s->seg[SEG_CS].sel = (uint16_t)(vector << 8);
	s->seg[SEG_CS].base = (uint64_t)vector << 12;
	s->rip = 0;
	s->activity = CPU_RUNNING;
}

void vcpu_post(struct vcpu *v, uint32_t events) {
	uint32_t old = __atomic_fetch_or(&v->events, events, __ATOMIC_ACQ_REL);
	if ((events & ~old) && v->vm->host->kick)
		v->vm->host->kick(v->vm->host->opaque, v->id);
}

void vcpu_unpost(struct vcpu *v, uint32_t events) {
	__atomic_fetch_and(&v->events, ~events, __ATOMIC_ACQ_REL);
}

static void lock(struct vm *vm) {
	vm->host->lock(vm->host->opaque);
}

static void unlock(struct vm *vm) {
	vm->host->unlock(vm->host->opaque);
}

#define HYPERCALL_NOSYS ((uint64_t)-1000) /* KVM_ENOSYS, what KVM's guests expect */

static void serve(struct vm *vm, struct vcpu *v, struct vm_exit *e) {
	switch (e->kind) {
	case EXIT_PORT:
		if (e->port.write)
			port_write(&vm->mem, e->port.port, e->port.size, e->port.val);
		else
			e->port.val = (uint32_t)port_read(&vm->mem, e->port.port, e->port.size);
		break;
	case EXIT_MMIO:
		if (e->mmio.write)
			mem_io_write(&vm->mem, e->mmio.gpa, e->mmio.size, e->mmio.val);
		else
			e->mmio.val = mem_io_read(&vm->mem, e->mmio.gpa, e->mmio.size);
		break;
	case EXIT_RDMSR:
		e->msr.val = 0;
		e->msr.fault = !vm->rdmsr || !vm->rdmsr(vm->board, v, e->msr.index, &e->msr.val);
		break;
	case EXIT_WRMSR:
		e->msr.fault = !vm->wrmsr || !vm->wrmsr(vm->board, v, e->msr.index, e->msr.val);
		break;
	case EXIT_HYPERCALL:
		e->hypercall.ret = HYPERCALL_NOSYS;
		if (vm->hypercall)
			e->hypercall.ret = vm->hypercall(vm->board, v, e->hypercall.nr, e->hypercall.args);
		break;
	default:
		unreachable();
	}
}

void vcpu_exit(struct vcpu *v, struct vm_exit *e) {
	struct vm *vm = v->vm;
	v->exits[e->kind]++;
	lock(vm);
	vm->current = v;
	serve(vm, v, e);
	vm->current = NULL;
	unlock(vm);
}

int vcpu_intack(struct vcpu *v) {
	struct vm *vm = v->vm;
	lock(vm);
	int vector = vm->intack ? vm->intack(vm->board, v) : -1;
	unlock(vm);
	check(vector >= -1 && vector < 256);
	return vector;
}

uint8_t vcpu_get_tpr(struct vcpu *v) {
	struct vm *vm = v->vm;
	if (!vm->get_tpr)
		return (uint8_t)(v->state.cr8 << 4);
	lock(vm);
	uint8_t tpr = vm->get_tpr(vm->board, v);
	unlock(vm);
	return tpr;
}

void vcpu_set_tpr(struct vcpu *v, uint8_t tpr) {
	struct vm *vm = v->vm;
	v->state.cr8 = tpr >> 4;
	if (!vm->set_tpr)
		return;
	lock(vm);
	vm->set_tpr(vm->board, v, tpr);
	unlock(vm);
}

void vcpu_eoi(struct vcpu *v, uint8_t vector) {
	struct vm *vm = v->vm;
	lock(vm);
	vm->board_apics->eoi(vm->board, vector);
	unlock(vm);
}

uint64_t vcpu_tsc(const struct vcpu *v) {
	const struct vm_clock *c = &v->vm->clock;
	return c->now_tsc(c->opaque) + v->state.tsc_offset;
}

void vcpu_adjust_tsc(struct vcpu *v, uint64_t delta) {
	struct vm *vm = v->vm;
	v->state.tsc_offset += delta;
	v->state.tsc_adjust += delta;
	if (!vm->tsc_changed)
		return;
	lock(vm);
	vm->tsc_changed(vm->board, v);
	unlock(vm);
}

/* ---- the walk ----------------------------------------------------------------------- */

/* "name" with a number after it, for arrays. */
static void array_u64(struct state_io *io, const char *name, uint64_t *v, unsigned n) {
	char text[24];
	size_t len = str_len(name);
	check(len + 3 <= sizeof(text) && n <= 100);
	memcpy(text, name, len);
	for (unsigned i = 0; i < n; i++) {
		size_t at = len;
		if (i >= 10)
			text[at++] = (char)('0' + i / 10);
		text[at++] = (char)('0' + i % 10);
		text[at] = 0;
		state_u64(io, text, &v[i]);
	}
}

static void walk_segments(struct state_io *io, struct x86_state *s) {
	static const char *const names[SEG_COUNT][4] = {
		{"es_sel", "es_attr", "es_limit", "es_base"},
		{"cs_sel", "cs_attr", "cs_limit", "cs_base"},
		{"ss_sel", "ss_attr", "ss_limit", "ss_base"},
		{"ds_sel", "ds_attr", "ds_limit", "ds_base"},
		{"fs_sel", "fs_attr", "fs_limit", "fs_base"},
		{"gs_sel", "gs_attr", "gs_limit", "gs_base"},
		{"ldtr_sel", "ldtr_attr", "ldtr_limit", "ldtr_base"},
		{"tr_sel", "tr_attr", "tr_limit", "tr_base"},
	};
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		state_u16(io, names[i][0], &s->seg[i].sel);
		state_u32(io, names[i][1], &s->seg[i].attr);
		state_u32(io, names[i][2], &s->seg[i].limit);
		state_u64(io, names[i][3], &s->seg[i].base);
	}
	state_u64(io, "gdtr_base", &s->gdtr.base);
	state_u16(io, "gdtr_limit", &s->gdtr.limit);
	state_u64(io, "idtr_base", &s->idtr.base);
	state_u16(io, "idtr_limit", &s->idtr.limit);
}

static void walk_control(struct state_io *io, struct x86_state *s) {
	state_u64(io, "cr0", &s->cr0);
	state_u64(io, "cr2", &s->cr2);
	state_u64(io, "cr3", &s->cr3);
	state_u64(io, "cr4", &s->cr4);
	state_u64(io, "cr8", &s->cr8);
	state_u64(io, "xcr0", &s->xcr0);
	array_u64(io, "dr", s->dr, 4);
	state_u64(io, "dr6", &s->dr6);
	state_u64(io, "dr7", &s->dr7);
}

static void walk_msrs(struct state_io *io, struct x86_state *s) {
	state_u64(io, "efer", &s->efer);
	state_u64(io, "star", &s->star);
	state_u64(io, "lstar", &s->lstar);
	state_u64(io, "cstar", &s->cstar);
	state_u64(io, "sfmask", &s->sfmask);
	state_u64(io, "kernel_gs_base", &s->kernel_gs_base);
	state_u64(io, "sysenter_cs", &s->sysenter_cs);
	state_u64(io, "sysenter_esp", &s->sysenter_esp);
	state_u64(io, "sysenter_eip", &s->sysenter_eip);
	state_u64(io, "pat", &s->pat);
	state_u64(io, "tsc_offset", &s->tsc_offset);
	state_u64(io, "tsc_adjust", &s->tsc_adjust);
	state_u64(io, "tsc_aux", &s->tsc_aux);
	state_u64(io, "misc_enable", &s->misc_enable);
	state_u64(io, "xss", &s->xss);
	state_u64(io, "mtrr_def_type", &s->mtrr_def_type);
	array_u64(io, "mtrr_fixed", s->mtrr_fixed, ARRAY_LEN(s->mtrr_fixed));
	array_u64(io, "mtrr_base", s->mtrr_base, ARRAY_LEN(s->mtrr_base));
	array_u64(io, "mtrr_mask", s->mtrr_mask, ARRAY_LEN(s->mtrr_mask));
	state_u64(io, "mcg_status", &s->mcg_status);
	state_u64(io, "feature_control", &s->feature_control);
	state_u64(io, "spec_ctrl", &s->spec_ctrl);
	state_u64(io, "smbase", &s->smbase);
}

/* Refuses combinations that no CPU can be in, and fixes the bits that cannot vary: engines
 * load these into real registers. */
static void sanitise(struct state_io *io, struct x86_state *s) {
	s->rflags = (s->rflags & 0x3f7fd5) | RFLAGS_FIXED;
	s->cr0 |= CR0_ET;
	if (s->cr0 >> 32 || ((s->cr0 & CR0_PG) && !(s->cr0 & CR0_PE)) ||
		((s->cr0 & CR0_NW) && !(s->cr0 & CR0_CD)))
		state_fail(io, "impossible CR0");
	if (s->cr4 >> 32)
		state_fail(io, "impossible CR4");
	bool lma = (s->efer & EFER_LME) && (s->cr0 & CR0_PG);
	if (!!(s->efer & EFER_LMA) != lma || (lma && !(s->cr4 & CR4_PAE)))
		state_fail(io, "impossible EFER");
	if (!(s->xcr0 & XCR0_X87) || (s->xcr0 & ~XSAVE_FEATURES) ||
		((s->xcr0 & XCR0_AVX) && !(s->xcr0 & XCR0_SSE)) ||
		((s->xcr0 & XCR0_AVX512) &&
		 ((s->xcr0 & XCR0_AVX512) != XCR0_AVX512 || !(s->xcr0 & XCR0_AVX))))
		state_fail(io, "impossible XCR0");
	s->cr8 &= 15;
	s->dr6 = (s->dr6 & 0xffffffff) | DR6_FIXED;
	s->dr7 = (s->dr7 & 0xffffffff) | DR7_FIXED;
	s->shadow &= SHADOW_STI | SHADOW_MOV_SS;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		s->seg[i].attr &= 0x1f0ff;
	/* A native XRSTOR of this image must not fault ([SDM1 13.8]). */
	le32_put(s->xsave + XSAVE_MXCSR, le32_get(s->xsave + XSAVE_MXCSR) & 0x2ffff);
	le64_put(s->xsave + XSAVE_HEADER, le64_get(s->xsave + XSAVE_HEADER) & XSAVE_FEATURES);
	memset(s->xsave + XSAVE_HEADER + 8, 0, 56);
}

static void walk_event(struct state_io *io, struct x86_event *ev) {
	uint32_t kind = ev->kind;
	state_u32_below(io, "event", &kind, X86_EVENT_KINDS);
	ev->kind = (uint8_t)kind;
	state_u8(io, "event_vector", &ev->vector);
	state_bool(io, "event_has_error", &ev->has_error);
	state_u32(io, "event_error", &ev->error);
	if (io->loading && ev->kind == X86_EVENT_EXCEPTION &&
		(ev->vector > 31 || ev->vector == VEC_NMI))
		state_fail(io, "an exception in flight with no exception's vector");
}

void vcpu_state(struct state_io *io, void *vcpu) {
	struct vcpu *v = vcpu;
	struct x86_state *s = &v->state;
	if (io->loading)
		s->event = (struct x86_event){0};
	array_u64(io, "gpr", s->gpr, 16);
	state_u64(io, "rip", &s->rip);
	state_u64(io, "rflags", &s->rflags);
	walk_segments(io, s);
	walk_control(io, s);
	walk_msrs(io, s);
	uint32_t activity = s->activity;
	state_u32_below(io, "activity", &activity, CPU_SHUTDOWN + 1);
	s->activity = (enum x86_activity)activity;
	state_u8(io, "shadow", &s->shadow);
	state_bool(io, "nmi_masked", &s->nmi_masked);
	state_u8(io, "sipi_vector", &s->sipi_vector);
	if (io->version >= 2)
		walk_event(io, &s->event);
	state_bytes(io, "xsave", s->xsave, sizeof(s->xsave));
	uint32_t events = vcpu_events(v) & (EVENT_INTR | EVENT_NMI | EVENT_INIT | EVENT_SIPI);
	state_u32_below(io, "events", &events, EVENT_KICK);
	if (!io->loading || io->error)
		return;
	sanitise(io, s);
	__atomic_store_n(&v->events, events | EVENT_FLUSH, __ATOMIC_RELEASE);
}
