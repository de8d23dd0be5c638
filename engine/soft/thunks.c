/* The fixed pieces of emitted code: the way in, the ways out, and the calls to C that keep the
 * guest's registers. Emitted once, at the start of the cache. */
#include "core/base/check.h"
#include "engine/soft/emit.h"

static const uint8_t sizes[7] = {1, 2, 4, 8, 10, 16, 32};

uint32_t jit_size_class(unsigned size) {
	for (uint32_t n = 0; n < 7; n++)
		if (sizes[n] == size)
			return n;
	unreachable();
}

static bool in_register(unsigned guest) {
	return guest != R10 && guest != R11 && guest != R14;
}

static void spill(struct emit *e, bool rax_too) {
	for (unsigned g = 0; g < 16; g++)
		if (in_register(g) && (g != RAX || rax_too))
			e_store_gs(e, g == RSP ? H_RSP : g, GS_GPR(g));
}

static void reload(struct emit *e) {
	for (unsigned g = 0; g < 16; g++)
		if (in_register(g))
			e_load_gs(e, g == RSP ? H_RSP : g, GS_GPR(g));
}

/* RAX is lost: store it first. */
static void flags_out(struct emit *e) {
	e8(e, 0x9f); /* lahf */
	e8(e, 0x0f); /* seto al */
	e8(e, 0x90);
	e8(e, 0xc0);
	e_op_gs(e, false, 0x89, RAX, GS_JIT(flags_ax)); /* see save_flags() in translate.c */
}

/* RAX is lost: load it afterwards. */
static void flags_in(struct emit *e) {
	e_op_gs(e, false, 0x8b, RAX, GS_JIT(flags_ax));
	e8(e, 0x04); /* add al, 0x7f */
	e8(e, 0x7f);
	e8(e, 0x9e); /* sahf */
}

static void add_rsp(struct emit *e, int n) {
	e8(e, 0x48);
	e8(e, 0x83);
	e8(e, 0xc4);
	e8(e, (unsigned)n);
}

/* Back to jit.c's loop; RAX is what it gets. */
static void leave_c(struct emit *e) {
	e_load_gs(e, 4, GS_JIT(host_rsp));
	add_rsp(e, 8);
	static const uint8_t pops[] = {0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d,
								   0x41, 0x5c, 0x5d, 0x5b, 0xc3};
	for (unsigned n = 0; n < sizeof(pops); n++)
		e8(e, pops[n]);
}

static void call_c(struct emit *e, uintptr_t fn) {
	e_mov_imm(e, RAX, fn);
	e8(e, 0xff);
	e8(e, 0xd0);
}

/* C runs on its own stack: the one that enter() came with. */
static void to_c_stack(struct emit *e) {
	e_store_gs(e, 4, GS_JIT(shadow_rsp));
	e_load_gs(e, 4, GS_JIT(host_rsp));
}

static void from_c_stack(struct emit *e) {
	e_load_gs(e, 4, GS_JIT(shadow_rsp));
}

void jit_emit_jump_index(struct emit *e, const struct jit *j) {
	if (j->crc) {
		e8(e, 0x41); /* mov r11d, 0 */
		e8(e, 0xbb);
		e32(e, 0);
		static const uint8_t crc[] = {0xf2, 0x4d, 0x0f, 0x38, 0xf1, 0xda}; /* crc32 r11, r10 */
		for (unsigned n = 0; n < sizeof(crc); n++)
			e8(e, crc[n]);
		e_lea(e, T1, NOREG, T1, 3, 0);
	} else {
		e_lea(e, T1, NOREG, T0, 3, 0);
	}
	e8(e, 0x45); /* movzx r11d, r11w */
	e8(e, 0x0f);
	e8(e, 0xb7);
	e8(e, 0xdb);
}

/* The address in T0 is not where the code came from that brought it here. */
static void emit_miss(struct jit *j, struct emit *e, unsigned user) {
	uint32_t targets = GS_JIT(targets) + user * (uint32_t)sizeof(struct jit_target) * JIT_TARGETS;
	j->miss[user] = e->at + j->exec;
	e_store_gs(e, RAX, GS_JIT(save_rax));
	flags_out(e);
	e_op_reg(e, false, 0x8b, T1, T0); /* index = (rip ^ rip >> 6) * 16 */
	static const uint8_t shift[] = {0x41, 0xc1, 0xeb, 6}, times[] = {0x41, 0xc1, 0xe3, 4};
	for (unsigned n = 0; n < 4; n++)
		e8(e, shift[n]);
	e_op_reg(e, false, 0x33, T1, T0);
	for (unsigned n = 0; n < 4; n++)
		e8(e, times[n]);
	e8(e, 0x41); /* and r11d, .. */
	e8(e, 0x81);
	e8(e, 0xe0 | (T1 & 7));
	e32(e, (JIT_TARGETS - 1) * 16);
	e_op_gs_index(e, 0x3b, T0, T1, targets + offsetof(struct jit_target, rip));
	e8(e, 0x75); /* jne */
	uint8_t *out = e->at;
	e8(e, 0);
	e_op_gs_index(e, 0x8b, T1, T1, targets + offsetof(struct jit_target, entry));
	flags_in(e);
	e_load_gs(e, RAX, GS_JIT(save_rax));
	e8(e, 0x41); /* jmp r11 */
	e8(e, 0xff);
	e8(e, 0xe3);
	*out = (uint8_t)(e->at - out - 1);
	e_load_gs(e, RAX, GS_JIT(save_rax));
	e_store_gs(e, T0, GS_STATE(rip));
	e_mov_imm(e, T1, JIT_EXIT_DISPATCH);
	e_jmp(e, j->exit_saved, j->exec);

	/* A return that found another call's code, or the end of the shadow stack. */
	j->ret_miss[user] = e->at + j->exec;
	e_load_gs(e, 4, GS_JIT(shadow_top));
	jit_emit_jump_index(e, j);
	e8(e, 0x65); /* jmp gs:[r11 + jumps] */
	e8(e, 0x41);
	e8(e, 0xff);
	e8(e, 0xa0 | (T1 & 7));
	e32(e, GS_JIT(jumps) + user * 8 * JIT_JUMPS);
}

/* Calls fn(the vCPU, T1), which executes an instruction, and goes where it says (jit_call()). RAX
 * and the flags have been stored. */
static void call_handler(struct emit *e, uintptr_t fn) {
	spill(e, false);
	to_c_stack(e);
	e_load_gs(e, RDI, GS_JIT(self));
	e_mov(e, RSI, T1);
	call_c(e, fn);
	e_op_reg(e, false, 0x85, RAX, RAX);
	e8(e, 0x0f); /* jnz elsewhere */
	e8(e, 0x85);
	uint8_t *elsewhere = e->at;
	e32(e, 0);
	from_c_stack(e);
	flags_in(e);
	reload(e);
	e8(e, 0xc3);
	jit_put_rel32(elsewhere, e->at, 0);
	e_mov(e, T1, RAX);
	e8(e, 0x48); /* dec rax */
	e8(e, 0xff);
	e8(e, 0xc8);
	e8(e, 0x0f); /* jz leave; RAX is JIT_EXIT_DISPATCH */
	e8(e, 0x84);
	uint8_t *leave = e->at;
	e32(e, 0);
	e_load_gs(e, 4, GS_JIT(shadow_top));
	flags_in(e);
	reload(e);
	e8(e, 0x41); /* jmp r11: to another block */
	e8(e, 0xff);
	e8(e, 0xe3);
	jit_put_rel32(leave, e->at, 0);
	leave_c(e);
}

void jit_emit_thunks(struct jit *j) {
	struct emit em = {j->hot_start, j->hot_end}, *e = &em;
	intptr_t x = j->exec;

	j->enter = e->at + x;
	static const uint8_t pushes[] = {0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57};
	for (unsigned n = 0; n < sizeof(pushes); n++)
		e8(e, pushes[n]);
	add_rsp(e, -8);
	e_store_gs(e, 4, GS_JIT(host_rsp));
	e_load_gs(e, 4, GS_JIT(shadow_top));
	e_mov(e, T1, RSI);
	flags_in(e);
	reload(e);
	e8(e, 0x41); /* jmp r11 */
	e8(e, 0xff);
	e8(e, 0xe3);

	j->exit_saved = e->at + x;
	e_store_gs(e, RAX, GS_GPR(RAX));
	e8(e, 0xeb); /* over the flags */
	uint8_t *skip = e->at;
	e8(e, 0);
	j->exit_code = e->at + x;
	e_store_gs(e, RAX, GS_GPR(RAX));
	flags_out(e);
	*skip = (uint8_t)(e->at - skip - 1);
	spill(e, false);
	e_mov(e, RAX, T1);
	leave_c(e);

	emit_miss(j, e, 0);
	emit_miss(j, e, 1);
	j->far_miss = e->at + x; /* so that C fills the slot */
	e_store_gs(e, T0, GS_STATE(rip));
	e_mov_imm(e, T1, JIT_EXIT_DISPATCH);
	e_jmp(e, j->exit_code, x);

	j->call_saved = e->at + x; /* flags are in jit.flags_ax already */
	e_store_gs(e, RAX, GS_GPR(RAX));
	e8(e, 0xeb);
	skip = e->at;
	e8(e, 0);
	j->call = e->at + x;
	e_store_gs(e, RAX, GS_GPR(RAX));
	flags_out(e);
	*skip = (uint8_t)(e->at - skip - 1);
	call_handler(e, (uintptr_t)jit_call);
	j->step_saved = e->at + x;
	e_store_gs(e, RAX, GS_GPR(RAX));
	call_handler(e, (uintptr_t)jit_step);

	for (unsigned write = 0; write < 2; write++)
		for (unsigned n = 0; n < 7; n++) {
			j->fill[write][n] = e->at + x;
			spill(e, true);
			e_store_gs(e, T1, GS_STATE(rip));
			to_c_stack(e);
			e_load_gs(e, RDI, GS_JIT(self));
			e_mov(e, RSI, T0);
			e_mov_imm(e, RDX, sizes[n] | (write ? JIT_FILL_WRITE : 0));
			call_c(e, (uintptr_t)jit_fill);
			e_mov(e, T0, RAX);
			from_c_stack(e);
			reload(e);
			e8(e, 0xc3);
		}
	j->slot_fill = e->at + x; /* T0: guest address, T1: the slot */
	spill(e, true);
	to_c_stack(e);
	e_load_gs(e, RDI, GS_JIT(self));
	e_mov(e, RSI, T0);
	e_mov(e, RDX, T1);
	call_c(e, (uintptr_t)jit_slot_fill);
	from_c_stack(e);
	reload(e);
	e8(e, 0xc3);
	jit_emit_quick(e, j);
	check(e_room(e, 8));
	j->hot_start = (uint8_t *)align_up((uintptr_t)e->at, 64);
}
