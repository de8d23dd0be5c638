/* The interpreter's instruction handlers, one section a file; op_foo runs
 * X86_OP_FOO. handlers.c puts them into soft_handlers[]. */
#ifndef ENGINE_SOFT_OPS_H
#define ENGINE_SOFT_OPS_H

#include "engine/soft/soft.h"

/* ---- alu.c ---- */
soft_handler op_add, op_or, op_adc, op_sbb, op_and, op_sub, op_xor, op_cmp, op_test, op_not, op_neg,
	op_inc, op_dec, op_mul, op_imul, op_div, op_idiv, op_xadd, op_cmpxchg, op_cmpxchg8b,
	op_cmpxchg16b, op_daa, op_das, op_aaa, op_aas, op_aam, op_aad;

/* ---- bitops.c ---- */
soft_handler op_bt, op_bts, op_btr, op_btc, op_bsf, op_bsr, op_tzcnt, op_lzcnt, op_popcnt, op_rol,
	op_ror, op_rcl, op_rcr, op_shl, op_shr, op_sar, op_shld, op_shrd, op_andn, op_bextr, op_blsi,
	op_blsmsk, op_blsr, op_bzhi, op_mulx, op_pdep, op_pext, op_rorx, op_sarx, op_shlx, op_shrx,
	op_adcx, op_adox, op_crc32;

/* ---- data.c ---- */
soft_handler op_mov, op_movzx, op_movsx, op_movsxd, op_movnti, op_movbe, op_lea, op_bswap, op_xchg,
	op_cbw, op_cwd, op_xlat, op_lahf, op_sahf, op_salc, op_clc, op_stc, op_cmc, op_cld, op_std,
	op_push, op_pop, op_pusha, op_popa, op_enter, op_leave, op_nop, op_pause, op_lfence, op_mfence,
	op_sfence, op_prefetch, op_clflush, op_clflushopt, op_clwb, op_clzero, op_ud0, op_ud1, op_ud2,
	op_bound, op_rdrand, op_rdseed;

/* ---- flow.c ---- */
soft_handler op_jcc, op_setcc, op_cmovcc, op_jmp, op_call, op_ret, op_loop, op_loope, op_loopne,
	op_jcxz;

/* ---- string.c ---- */
soft_handler op_movs, op_cmps, op_stos, op_lods, op_scas;

/* ---- segment.c ---- */
soft_handler op_mov_seg, op_push_seg, op_pop_seg, op_lds, op_les, op_lfs, op_lgs, op_lss, op_lar,
	op_lsl, op_verr, op_verw, op_arpl, op_sgdt, op_sidt, op_lgdt, op_lidt, op_sldt, op_str, op_lldt,
	op_ltr, op_smsw, op_lmsw, op_rdfsbase, op_rdgsbase, op_wrfsbase, op_wrgsbase, op_swapgs;

/* ---- far.c ---- */
soft_handler op_jmpf, op_callf, op_retf, op_iret, op_syscall, op_sysret, op_sysenter, op_sysexit;

/* ---- interrupt.c ---- */
soft_handler op_int, op_int3, op_into, op_int1;

/* ---- system.c ---- */
soft_handler op_cli, op_sti, op_pushf, op_popf, op_mov_cr, op_mov_dr, op_clts, op_hlt, op_invlpg,
	op_invpcid, op_invd, op_wbinvd, op_rdtsc, op_rdtscp, op_rdpid, op_rdpmc, op_cpuid, op_vmcall,
	op_clac, op_stac;

/* ---- msr.c ---- */
soft_handler op_rdmsr, op_wrmsr;

/* ---- io.c ---- */
soft_handler op_in, op_out, op_ins, op_outs;

#endif
