/* CPU features and the CPUID bit that announces each ([SDM2 CPUID], [APM3 E]).
 * Names are spelled as Linux spells them in /proc/cpuinfo. The instruction table
 * names the feature that a form needs; the CPUID policy reads the places. */
#ifndef CORE_X86_FEATURE_H
#define CORE_X86_FEATURE_H

#define X86_CPUID_EAX 0
#define X86_CPUID_EBX 1
#define X86_CPUID_ECX 2
#define X86_CPUID_EDX 3

/* X(NAME, "linux-name", leaf, subleaf, register (X86_CPUID_*), bit) */
#define X86_FEATURES(X)                                                                            \
	/* 1.EDX */                                                                                    \
	X(FPU, "fpu", 0x1, 0, 3, 0)                                                                    \
	X(VME, "vme", 0x1, 0, 3, 1)                                                                    \
	X(DE, "de", 0x1, 0, 3, 2)                                                                      \
	X(PSE, "pse", 0x1, 0, 3, 3)                                                                    \
	X(TSC, "tsc", 0x1, 0, 3, 4)                                                                    \
	X(MSR, "msr", 0x1, 0, 3, 5)                                                                    \
	X(PAE, "pae", 0x1, 0, 3, 6)                                                                    \
	X(MCE, "mce", 0x1, 0, 3, 7)                                                                    \
	X(CX8, "cx8", 0x1, 0, 3, 8)                                                                    \
	X(APIC, "apic", 0x1, 0, 3, 9)                                                                  \
	X(SEP, "sep", 0x1, 0, 3, 11)                                                                   \
	X(MTRR, "mtrr", 0x1, 0, 3, 12)                                                                 \
	X(PGE, "pge", 0x1, 0, 3, 13)                                                                   \
	X(MCA, "mca", 0x1, 0, 3, 14)                                                                   \
	X(CMOV, "cmov", 0x1, 0, 3, 15)                                                                 \
	X(PAT, "pat", 0x1, 0, 3, 16)                                                                   \
	X(PSE36, "pse36", 0x1, 0, 3, 17)                                                               \
	X(PSN, "pn", 0x1, 0, 3, 18)                                                                    \
	X(CLFLUSH, "clflush", 0x1, 0, 3, 19)                                                           \
	X(DS, "dts", 0x1, 0, 3, 21)                                                                    \
	X(ACPI, "acpi", 0x1, 0, 3, 22)                                                                 \
	X(MMX, "mmx", 0x1, 0, 3, 23)                                                                   \
	X(FXSR, "fxsr", 0x1, 0, 3, 24)                                                                 \
	X(SSE, "sse", 0x1, 0, 3, 25)                                                                   \
	X(SSE2, "sse2", 0x1, 0, 3, 26)                                                                 \
	X(SS, "ss", 0x1, 0, 3, 27)                                                                     \
	X(HT, "ht", 0x1, 0, 3, 28)                                                                     \
	X(TM, "tm", 0x1, 0, 3, 29)                                                                     \
	X(PBE, "pbe", 0x1, 0, 3, 31)                                                                   \
	/* 1.ECX */                                                                                    \
	X(SSE3, "pni", 0x1, 0, 2, 0)                                                                   \
	X(PCLMULQDQ, "pclmulqdq", 0x1, 0, 2, 1)                                                        \
	X(DTES64, "dtes64", 0x1, 0, 2, 2)                                                              \
	X(MONITOR, "monitor", 0x1, 0, 2, 3)                                                            \
	X(DSCPL, "ds_cpl", 0x1, 0, 2, 4)                                                               \
	X(VMX, "vmx", 0x1, 0, 2, 5)                                                                    \
	X(SMX, "smx", 0x1, 0, 2, 6)                                                                    \
	X(EST, "est", 0x1, 0, 2, 7)                                                                    \
	X(TM2, "tm2", 0x1, 0, 2, 8)                                                                    \
	X(SSSE3, "ssse3", 0x1, 0, 2, 9)                                                                \
	X(SDBG, "sdbg", 0x1, 0, 2, 11)                                                                 \
	X(FMA, "fma", 0x1, 0, 2, 12)                                                                   \
	X(CX16, "cx16", 0x1, 0, 2, 13)                                                                 \
	X(XTPR, "xtpr", 0x1, 0, 2, 14)                                                                 \
	X(PDCM, "pdcm", 0x1, 0, 2, 15)                                                                 \
	X(PCID, "pcid", 0x1, 0, 2, 17)                                                                 \
	X(DCA, "dca", 0x1, 0, 2, 18)                                                                   \
	X(SSE41, "sse4_1", 0x1, 0, 2, 19)                                                              \
	X(SSE42, "sse4_2", 0x1, 0, 2, 20)                                                              \
	X(X2APIC, "x2apic", 0x1, 0, 2, 21)                                                             \
	X(MOVBE, "movbe", 0x1, 0, 2, 22)                                                               \
	X(POPCNT, "popcnt", 0x1, 0, 2, 23)                                                             \
	X(TSC_DEADLINE, "tsc_deadline_timer", 0x1, 0, 2, 24)                                           \
	X(AES, "aes", 0x1, 0, 2, 25)                                                                   \
	X(XSAVE, "xsave", 0x1, 0, 2, 26)                                                               \
	X(OSXSAVE, "osxsave", 0x1, 0, 2, 27)                                                           \
	X(AVX, "avx", 0x1, 0, 2, 28)                                                                   \
	X(F16C, "f16c", 0x1, 0, 2, 29)                                                                 \
	X(RDRAND, "rdrand", 0x1, 0, 2, 30)                                                             \
	X(HYPERVISOR, "hypervisor", 0x1, 0, 2, 31)                                                     \
	/* 6.EAX */                                                                                    \
	X(ARAT, "arat", 0x6, 0, 0, 2)                                                                  \
	/* 7.0.EBX */                                                                                  \
	X(FSGSBASE, "fsgsbase", 0x7, 0, 1, 0)                                                          \
	X(TSC_ADJUST, "tsc_adjust", 0x7, 0, 1, 1)                                                      \
	X(SGX, "sgx", 0x7, 0, 1, 2)                                                                    \
	X(BMI1, "bmi1", 0x7, 0, 1, 3)                                                                  \
	X(HLE, "hle", 0x7, 0, 1, 4)                                                                    \
	X(AVX2, "avx2", 0x7, 0, 1, 5)                                                                  \
	X(FDP_EXCPTN_ONLY, "fdp_excptn_only", 0x7, 0, 1, 6)                                            \
	X(SMEP, "smep", 0x7, 0, 1, 7)                                                                  \
	X(BMI2, "bmi2", 0x7, 0, 1, 8)                                                                  \
	X(ERMS, "erms", 0x7, 0, 1, 9)                                                                  \
	X(INVPCID, "invpcid", 0x7, 0, 1, 10)                                                           \
	X(RTM, "rtm", 0x7, 0, 1, 11)                                                                   \
	X(ZERO_FCS_FDS, "zero_fcs_fds", 0x7, 0, 1, 13)                                                 \
	X(MPX, "mpx", 0x7, 0, 1, 14)                                                                   \
	X(AVX512F, "avx512f", 0x7, 0, 1, 16)                                                           \
	X(AVX512DQ, "avx512dq", 0x7, 0, 1, 17)                                                         \
	X(RDSEED, "rdseed", 0x7, 0, 1, 18)                                                             \
	X(ADX, "adx", 0x7, 0, 1, 19)                                                                   \
	X(SMAP, "smap", 0x7, 0, 1, 20)                                                                 \
	X(AVX512IFMA, "avx512ifma", 0x7, 0, 1, 21)                                                     \
	X(CLFLUSHOPT, "clflushopt", 0x7, 0, 1, 23)                                                     \
	X(CLWB, "clwb", 0x7, 0, 1, 24)                                                                 \
	X(INTEL_PT, "intel_pt", 0x7, 0, 1, 25)                                                         \
	X(AVX512PF, "avx512pf", 0x7, 0, 1, 26)                                                         \
	X(AVX512ER, "avx512er", 0x7, 0, 1, 27)                                                         \
	X(AVX512CD, "avx512cd", 0x7, 0, 1, 28)                                                         \
	X(SHA, "sha_ni", 0x7, 0, 1, 29)                                                                \
	X(AVX512BW, "avx512bw", 0x7, 0, 1, 30)                                                         \
	X(AVX512VL, "avx512vl", 0x7, 0, 1, 31)                                                         \
	/* 7.0.ECX */                                                                                  \
	X(PREFETCHWT1, "prefetchwt1", 0x7, 0, 2, 0)                                                    \
	X(AVX512VBMI, "avx512vbmi", 0x7, 0, 2, 1)                                                      \
	X(UMIP, "umip", 0x7, 0, 2, 2)                                                                  \
	X(PKU, "pku", 0x7, 0, 2, 3)                                                                    \
	X(OSPKE, "ospke", 0x7, 0, 2, 4)                                                                \
	X(WAITPKG, "waitpkg", 0x7, 0, 2, 5)                                                            \
	X(AVX512VBMI2, "avx512_vbmi2", 0x7, 0, 2, 6)                                                   \
	X(SHSTK, "shstk", 0x7, 0, 2, 7)                                                                \
	X(GFNI, "gfni", 0x7, 0, 2, 8)                                                                  \
	X(VAES, "vaes", 0x7, 0, 2, 9)                                                                  \
	X(VPCLMULQDQ, "vpclmulqdq", 0x7, 0, 2, 10)                                                     \
	X(AVX512VNNI, "avx512_vnni", 0x7, 0, 2, 11)                                                    \
	X(AVX512BITALG, "avx512_bitalg", 0x7, 0, 2, 12)                                                \
	X(AVX512VPOPCNTDQ, "avx512_vpopcntdq", 0x7, 0, 2, 14)                                          \
	X(LA57, "la57", 0x7, 0, 2, 16)                                                                 \
	X(RDPID, "rdpid", 0x7, 0, 2, 22)                                                               \
	X(CLDEMOTE, "cldemote", 0x7, 0, 2, 25)                                                         \
	X(MOVDIRI, "movdiri", 0x7, 0, 2, 27)                                                           \
	X(MOVDIR64B, "movdir64b", 0x7, 0, 2, 28)                                                       \
	X(ENQCMD, "enqcmd", 0x7, 0, 2, 29)                                                             \
	X(PKS, "pks", 0x7, 0, 2, 31)                                                                   \
	/* 7.0.EDX */                                                                                  \
	X(AVX5124VNNIW, "avx512_4vnniw", 0x7, 0, 3, 2)                                                 \
	X(AVX5124FMAPS, "avx512_4fmaps", 0x7, 0, 3, 3)                                                 \
	X(FSRM, "fsrm", 0x7, 0, 3, 4)                                                                  \
	X(UINTR, "uintr", 0x7, 0, 3, 5)                                                                \
	X(AVX512VP2INTERSECT, "avx512_vp2intersect", 0x7, 0, 3, 8)                                     \
	X(MD_CLEAR, "md_clear", 0x7, 0, 3, 10)                                                         \
	X(SERIALIZE, "serialize", 0x7, 0, 3, 14)                                                       \
	X(TSXLDTRK, "tsxldtrk", 0x7, 0, 3, 16)                                                         \
	X(PCONFIG, "pconfig", 0x7, 0, 3, 18)                                                           \
	X(IBT, "ibt", 0x7, 0, 3, 20)                                                                   \
	X(AMX_BF16, "amx_bf16", 0x7, 0, 3, 22)                                                         \
	X(AVX512FP16, "avx512_fp16", 0x7, 0, 3, 23)                                                    \
	X(AMX_TILE, "amx_tile", 0x7, 0, 3, 24)                                                         \
	X(AMX_INT8, "amx_int8", 0x7, 0, 3, 25)                                                         \
	X(SPEC_CTRL, "spec_ctrl", 0x7, 0, 3, 26)                                                       \
	X(INTEL_STIBP, "intel_stibp", 0x7, 0, 3, 27)                                                   \
	X(FLUSH_L1D, "flush_l1d", 0x7, 0, 3, 28)                                                       \
	X(ARCH_CAPABILITIES, "arch_capabilities", 0x7, 0, 3, 29)                                       \
	X(SPEC_CTRL_SSBD, "spec_ctrl_ssbd", 0x7, 0, 3, 31)                                             \
	/* 7.1.EAX */                                                                                  \
	X(AVX_VNNI, "avx_vnni", 0x7, 1, 0, 4)                                                          \
	X(AVX512BF16, "avx512_bf16", 0x7, 1, 0, 5)                                                     \
	X(FZRM, "fzrm", 0x7, 1, 0, 10)                                                                 \
	X(FSRS, "fsrs", 0x7, 1, 0, 11)                                                                 \
	X(FSRC, "fsrc", 0x7, 1, 0, 12)                                                                 \
	X(AVX_IFMA, "avx_ifma", 0x7, 1, 0, 23)                                                         \
	/* 0xd.1.EAX */                                                                                \
	X(XSAVEOPT, "xsaveopt", 0xd, 1, 0, 0)                                                          \
	X(XSAVEC, "xsavec", 0xd, 1, 0, 1)                                                              \
	X(XGETBV1, "xgetbv1", 0xd, 1, 0, 2)                                                            \
	X(XSAVES, "xsaves", 0xd, 1, 0, 3)                                                              \
	X(XFD, "xfd", 0xd, 1, 0, 4)                                                                    \
	/* 0x80000001.EDX, what leaf 1 does not say */                                                 \
	X(SYSCALL, "syscall", 0x80000001, 0, 3, 11)                                                    \
	X(MP, "mp", 0x80000001, 0, 3, 19)                                                              \
	X(NX, "nx", 0x80000001, 0, 3, 20)                                                              \
	X(MMXEXT, "mmxext", 0x80000001, 0, 3, 22)                                                      \
	X(FXSR_OPT, "fxsr_opt", 0x80000001, 0, 3, 25)                                                  \
	X(GBPAGES, "pdpe1gb", 0x80000001, 0, 3, 26)                                                    \
	X(RDTSCP, "rdtscp", 0x80000001, 0, 3, 27)                                                      \
	X(LM, "lm", 0x80000001, 0, 3, 29)                                                              \
	X(3DNOWEXT, "3dnowext", 0x80000001, 0, 3, 30)                                                  \
	X(3DNOW, "3dnow", 0x80000001, 0, 3, 31)                                                        \
	/* 0x80000001.ECX */                                                                           \
	X(LAHF_LM, "lahf_lm", 0x80000001, 0, 2, 0)                                                     \
	X(CMP_LEGACY, "cmp_legacy", 0x80000001, 0, 2, 1)                                               \
	X(SVM, "svm", 0x80000001, 0, 2, 2)                                                             \
	X(EXTAPIC, "extapic", 0x80000001, 0, 2, 3)                                                     \
	X(CR8_LEGACY, "cr8_legacy", 0x80000001, 0, 2, 4)                                               \
	X(ABM, "abm", 0x80000001, 0, 2, 5)                                                             \
	X(SSE4A, "sse4a", 0x80000001, 0, 2, 6)                                                         \
	X(MISALIGNSSE, "misalignsse", 0x80000001, 0, 2, 7)                                             \
	X(3DNOWPREFETCH, "3dnowprefetch", 0x80000001, 0, 2, 8)                                         \
	X(OSVW, "osvw", 0x80000001, 0, 2, 9)                                                           \
	X(IBS, "ibs", 0x80000001, 0, 2, 10)                                                            \
	X(XOP, "xop", 0x80000001, 0, 2, 11)                                                            \
	X(SKINIT, "skinit", 0x80000001, 0, 2, 12)                                                      \
	X(WDT, "wdt", 0x80000001, 0, 2, 13)                                                            \
	X(LWP, "lwp", 0x80000001, 0, 2, 15)                                                            \
	X(FMA4, "fma4", 0x80000001, 0, 2, 16)                                                          \
	X(TCE, "tce", 0x80000001, 0, 2, 17)                                                            \
	X(TBM, "tbm", 0x80000001, 0, 2, 21)                                                            \
	X(TOPOEXT, "topoext", 0x80000001, 0, 2, 22)                                                    \
	X(PERFCTR_CORE, "perfctr_core", 0x80000001, 0, 2, 23)                                          \
	X(PERFCTR_NB, "perfctr_nb", 0x80000001, 0, 2, 24)                                              \
	X(BPEXT, "bpext", 0x80000001, 0, 2, 26)                                                        \
	X(PERFCTR_LLC, "perfctr_llc", 0x80000001, 0, 2, 28)                                            \
	X(MWAITX, "mwaitx", 0x80000001, 0, 2, 29)                                                      \
	/* 0x80000007.EDX */                                                                           \
	X(CONSTANT_TSC, "constant_tsc", 0x80000007, 0, 3, 8)                                           \
	/* 0x80000008.EBX */                                                                           \
	X(CLZERO, "clzero", 0x80000008, 0, 1, 0)                                                       \
	X(IRPERF, "irperf", 0x80000008, 0, 1, 1)                                                       \
	X(XSAVEERPTR, "xsaveerptr", 0x80000008, 0, 1, 2)                                               \
	X(RDPRU, "rdpru", 0x80000008, 0, 1, 4)                                                         \
	X(WBNOINVD, "wbnoinvd", 0x80000008, 0, 1, 9)                                                   \
	X(AMD_IBPB, "amd_ibpb", 0x80000008, 0, 1, 12)                                                  \
	X(AMD_IBRS, "amd_ibrs", 0x80000008, 0, 1, 14)                                                  \
	X(AMD_STIBP, "amd_stibp", 0x80000008, 0, 1, 15)                                                \
	X(AMD_SSBD, "amd_ssbd", 0x80000008, 0, 1, 24)                                                  \
	/* 0x80000021 */                                                                               \
	X(LFENCE_SERIAL, "lfence_serializing", 0x80000021, 0, 0, 2)                                    \
	X(NULL_SEL_CLR_BASE, "null_sel_clr_base", 0x80000021, 0, 0, 6)                                 \
	X(AUTOIBRS, "autoibrs", 0x80000021, 0, 0, 8)                                                   \
	X(SRSO_NO, "srso_no", 0x80000021, 0, 0, 29)                                                    \
	X(TSA_SQ_NO, "tsa_sq_no", 0x80000021, 0, 2, 1)                                                 \
	X(TSA_L1_NO, "tsa_l1_no", 0x80000021, 0, 2, 2)

enum x86_feature {
	X86_FEAT_NONE = 0,
#define X86_FEATURE_ENUM(name, text, leaf, subleaf, reg, bit) X86_FEAT_##name,
	X86_FEATURES(X86_FEATURE_ENUM)
#undef X86_FEATURE_ENUM
		X86_FEAT_COUNT,
};

#endif
