/* The interpreter's instruction handlers, one section a file; op_foo runs
 * X86_OP_FOO. handlers.c puts them into soft_handlers[]. */
#ifndef ENGINE_SOFT_OPS_H
#define ENGINE_SOFT_OPS_H

#include "engine/soft/soft.h"

/* ---- segment.c ---- */
soft_handler op_mov_seg, op_push_seg, op_pop_seg, op_lds, op_les, op_lfs, op_lgs, op_lss;
soft_handler op_lar, op_lsl, op_verr, op_verw, op_arpl;
soft_handler op_sgdt, op_sidt, op_lgdt, op_lidt, op_sldt, op_str, op_lldt, op_ltr, op_smsw, op_lmsw;
soft_handler op_rdfsbase, op_rdgsbase, op_wrfsbase, op_wrgsbase, op_swapgs;

/* ---- far.c ---- */
soft_handler op_jmpf, op_callf, op_retf, op_iret, op_syscall, op_sysret, op_sysenter, op_sysexit;

/* ---- interrupt.c ---- */
soft_handler op_int, op_int3, op_into, op_int1;

/* ---- system.c ---- */
soft_handler op_cli, op_sti, op_pushf, op_popf, op_mov_cr, op_mov_dr, op_clts, op_hlt;
soft_handler op_invlpg, op_invpcid, op_invd, op_wbinvd, op_rdtsc, op_rdtscp, op_rdpid, op_rdpmc;
soft_handler op_cpuid, op_vmcall, op_clac, op_stac;

/* ---- msr.c ---- */
soft_handler op_rdmsr, op_wrmsr;

/* ---- io.c ---- */
soft_handler op_in, op_out, op_ins, op_outs;

#endif
