/* The fixed pieces of emitted code: the way in, the ways out, and the calls to C that keep the
 * guest's registers. Emitted once, at the start of the cache. */
#include "core/base/check.h"
#include "engine/soft/emit.h"

static const uint8_t sizes[JIT_SIZES] = {1, 2, 4, 8, 10, 16, 32, 64};

uint32_t jit_size_class(unsigned size) {
	return size == 10 ? 4 : (uint32_t)__builtin_ctz(size) + (size > 8);
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
	uint8_t *out = e_jump_short(e, 0x75); /* jne */
	e_op_gs_index(e, 0x8b, T1, T1, targets + offsetof(struct jit_target, entry));
	flags_in(e);
	e_load_gs(e, RAX, GS_JIT(save_rax));
	e8(e, 0x41); /* jmp r11 */
	e8(e, 0xff);
	e8(e, 0xe3);
	e_lands(e, out);
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

static uint32_t slot_field(size_t field) {
	return GS_JIT(slots) + (uint32_t)field;
}

/* The page of address T0 becomes the run of slot T1, which holds none, if the TLB has it: as
 * jit_slot_fill() does. RAX and RCX are lost; *fails: where it goes if not. */
static void emit_slot_page(struct emit *e, uint32_t tlb, unsigned size, uint8_t *fails[2]) {
	uint32_t last = PAGE_SIZE - size;
	e_op_reg(e, false, 0x8b, RAX, T0);
	e_bytes(e, 3, 0x08e8c1); /* shr eax, 8 */
	e8(e, 0x25);			 /* and eax, .. */
	e32(e, (JIT_TLB - 1) * 16);
	e_mov(e, RCX, T0);
	e_bytes(e, 3, 0xe18148); /* and rcx, -4096 */
	e32(e, 0xfffff000u);
	e_op_gs_index(e, 0x3b, RCX, RAX, tlb + offsetof(struct jit_tlb_entry, tag));
	fails[0] = e_jump_short(e, 0x75); /* jne */
	e_op_reg(e, true, 0x2b, T0, RCX);
	e_bytes(e, 3, 0xfa8141); /* cmp r10d, .. */
	e32(e, last);
	e_lea(e, T0, T0, RCX, 0, 0);	  /* the address again */
	fails[1] = e_jump_short(e, 0x77); /* ja */
	e_op_gs_index(e, 0x89, RCX, T1, slot_field(offsetof(struct jit_slot, lo)));
	e_bytes(e, 4, 0x83c74965); /* mov qword gs:[r11 + lim], .. */
	e32(e, slot_field(offsetof(struct jit_slot, lim)));
	e32(e, last + 1);
	e_op_gs_index(e, 0x8b, RAX, RAX, tlb + offsetof(struct jit_tlb_entry, addend));
	e_op_gs_index(e, 0x89, RAX, T1, slot_field(offsetof(struct jit_slot, addend)));
	e_bytes(e, 4, 0xbb804165); /* cmp byte gs:[r11 + listed], 0 */
	e32(e, slot_field(offsetof(struct jit_slot, listed)));
	e8(e, 0);
	e_bytes(e, 4, 0x83c64165); /* mov byte gs:[r11 + listed], .. */
	e32(e, slot_field(offsetof(struct jit_slot, listed)));
	e8(e, SLOT_LOCAL);
	uint8_t *listed = e_jump_short(e, 0x75); /* jne: it is in the list */
	_Static_assert(sizeof(struct jit_slot) == 64, "the shift");
	e_op_reg(e, false, 0x8b, RCX, T1);
	e_bytes(e, 3, 0x06e9c1); /* shr ecx, 6 */
	e_op_gs(e, false, 0x8b, RAX, GS_JIT(nslots));
	e_bytes(e, 4, 0x0c896665); /* mov gs:[rax * 2 + slot_list], cx */
	e8(e, 0x45);
	e32(e, GS_JIT(slot_list));
	e_bytes(e, 4, 0x2504ff65); /* inc dword gs:[nslots] */
	e32(e, GS_JIT(nslots));
	e_lands(e, listed);
}

/* A check has missed slot T1; T0: the address less the slot's lo. If its other run has the address
 * they change places; if it holds none it takes the page; else, every so often, C looks for a new
 * run. Afterwards T0 is 0 if the check would pass. Nothing but the scratch registers and the slot
 * changes. */
static void emit_slot_turn(struct jit *j, struct emit *e, unsigned user, unsigned write,
						   unsigned class) {
	static const size_t fields[3][2] = {
		{offsetof(struct jit_slot, lo), offsetof(struct jit_slot, lo2)},
		{offsetof(struct jit_slot, lim), offsetof(struct jit_slot, lim2)},
		{offsetof(struct jit_slot, addend), offsetof(struct jit_slot, addend2)}};
	uint32_t tlb =
		GS_JIT(tlb) + (uint32_t)sizeof(struct jit_tlb_entry) * JIT_TLB * (2 * user + write);
	uint8_t *fails[2];
	j->slot_turn[user][write][class] = e->at + j->exec;
	e_op_gs_index(e, 0x03, T0, T1, slot_field(fields[0][0])); /* add */
	e_store_gs(e, RAX, GS_JIT(save_rax));
	e_store_gs(e, RCX, GS_JIT(save_rcx));
	e_mov(e, RAX, T0);
	e_op_gs_index(e, 0x2b, RAX, T1, slot_field(fields[0][1])); /* sub */
	e_op_gs_index(e, 0x3b, RAX, T1, slot_field(fields[1][1])); /* cmp */
	uint8_t *other = e_jump_short(e, 0x73);					   /* jae */
	for (unsigned n = 0; n < 3; n++) {
		e_op_gs_index(e, 0x8b, RAX, T1, slot_field(fields[n][0]));
		e_op_gs_index(e, 0x8b, RCX, T1, slot_field(fields[n][1]));
		e_op_gs_index(e, 0x89, RCX, T1, slot_field(fields[n][0]));
		e_op_gs_index(e, 0x89, RAX, T1, slot_field(fields[n][1]));
	}
	const uint8_t *done = e->at + j->exec;
	e_load_gs(e, RAX, GS_JIT(save_rax));
	e_load_gs(e, RCX, GS_JIT(save_rcx));
	e_bytes(e, 3, 0xd23145); /* xor r10d, r10d */
	e8(e, 0xc3);
	e_lands(e, other);
	e_bytes(e, 4, 0xbb834965); /* cmp qword gs:[r11 + lim], 0 */
	e32(e, slot_field(fields[1][0]));
	e8(e, 0);
	e_bytes(e, 2, 0x850f); /* jne */
	uint8_t *holds = e->at;
	e32(e, 0);
	emit_slot_page(e, tlb, jit_slot_size(class), fails);
	e_jmp(e, done, j->exec);
	jit_put_rel32(holds, e->at, 0);
	for (unsigned n = 0; n < 2; n++)
		e_lands(e, fails[n]);
	e_load_gs(e, RAX, GS_JIT(save_rax));
	e_load_gs(e, RCX, GS_JIT(save_rcx));
	e_bytes(e, 4, 0xab834165); /* sub dword gs:[r11 + credit], 1 */
	e32(e, slot_field(offsetof(struct jit_slot, credit)));
	e8(e, 1);
	e_jcc(e, 8, j->slot_fill, j->exec); /* js */
	e_mov_imm(e, T0, 1);
	e8(e, 0xc3);
}

void jit_emit_thunks(struct jit *j) {
	struct emit em = {j->hot_start, j->hot_end, NULL}, *e = &em;
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
	uint8_t *skip = e_jump_short(e, 0xeb); /* over the flags */
	j->exit_code = e->at + x;
	e_store_gs(e, RAX, GS_GPR(RAX));
	flags_out(e);
	e_lands(e, skip);
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
	skip = e_jump_short(e, 0xeb);
	j->call = e->at + x;
	e_store_gs(e, RAX, GS_GPR(RAX));
	flags_out(e);
	e_lands(e, skip);
	call_handler(e, (uintptr_t)jit_call);
	j->step_saved = e->at + x;
	e_store_gs(e, RAX, GS_GPR(RAX));
	call_handler(e, (uintptr_t)jit_step);

	for (unsigned write = 0; write < 2; write++)
		for (unsigned n = 0; n < JIT_SIZES; n++) {
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
	j->slot_fill = e->at + x; /* T0: guest address, T1: the slot; afterwards T0: what it says */
	spill(e, true);
	to_c_stack(e);
	e_load_gs(e, RDI, GS_JIT(self));
	e_mov(e, RSI, T0);
	e_mov(e, RDX, T1);
	call_c(e, (uintptr_t)jit_slot_fill);
	e_mov(e, T0, RAX);
	from_c_stack(e);
	reload(e);
	e8(e, 0xc3);
	for (unsigned n = 0; n < 4 * JIT_SLOT_CLASSES; n++)
		emit_slot_turn(j, e, n & 1, n >> 1 & 1, n >> 2);
	jit_emit_quick(e, j);
	check(e_room(e, 8));
	j->hot_start = (uint8_t *)align_up((uintptr_t)e->at, 64);
}
