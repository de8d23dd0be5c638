/* Instructions that belong to a CPUID feature: those that are shown run, those that are not
 * raise #UD. The table runs this with several CPU models. */
#include "test/guest/guest.h"

static u8 area[4096] __attribute__((used, aligned(64)));

/* The bit is looked up at run time, so the same checks fit every model. */
#define FEATURE(name, leaf, reg, bit, insn)                                                        \
	do {                                                                                           \
		TRY("lea area(%%rip), %%rax\n xor %%ecx, %%ecx\n xor %%edx, %%edx\n" insn, "i"(0));        \
		check(name, trap.vector, has(leaf, reg, bit) ? NONE : UD);                                 \
	} while (0)

static void set_control_registers(void) {
	u32 r[4];
	cpuid(7, 0, r);
	if (has(7, EBX, 0))
		set_cr4(get_cr4() | 1 << 16);
	if (!has(1, ECX, 26))
		return;
	set_cr4(get_cr4() | 1 << 18);
	check("OSXSAVE follows CR4", has(1, ECX, 27), 1);
	cpuid(13, 0, r);
	asm volatile("xsetbv" : : "a"(r[EAX] & 0xff), "d"(0), "c"(0));
	check("XCR0", ({
			  u32 low;
			  asm volatile("xgetbv" : "=a"(low) : "c"(0) : "edx");
			  low;
		  }),
		  r[EAX] & 0xff);
	FAULTS("XCR0 without x87", GP, 0,
		   "xor %%ecx, %%ecx\n xor %%edx, %%edx\n mov $2, %%eax\n xsetbv");
	FAULTS("XCR0 with AVX alone", GP, 0,
		   "xor %%ecx, %%ecx\n xor %%edx, %%edx\n mov $5, %%eax\n xsetbv");
	FAULTS("XCR1", GP, 0, "mov $1, %%ecx\n xor %%edx, %%edx\n mov $1, %%eax\n xsetbv");
}

void guest(void) {
	u32 r[4];
	if (!has(1, ECX, 26)) {
		FAULTS("CR4.OSXSAVE without XSAVE", GP, 0, "mov %0, %%cr4", "r"(get_cr4() | 1 << 18));
		FAULTS("XGETBV without XSAVE", UD, 0, "xor %%ecx, %%ecx\n xgetbv");
		for (unsigned i = 0; i < 3; i++)
			skip("XCR0", "the CPU model has no XSAVE");
	}
	set_control_registers();
	FEATURE("SSE3", 1, ECX, 0, "haddps %%xmm0, %%xmm0");
	FEATURE("PCLMULQDQ", 1, ECX, 1, "pclmulqdq $0, %%xmm0, %%xmm0");
	FEATURE("SSSE3", 1, ECX, 9, "pshufb %%xmm0, %%xmm0");
	FEATURE("FMA", 1, ECX, 12, "vfmadd132ps %%xmm0, %%xmm0, %%xmm0");
	FEATURE("CMPXCHG16B", 1, ECX, 13, "cmpxchg16b (%%rax)");
	FEATURE("SSE4.1", 1, ECX, 19, "pmulld %%xmm0, %%xmm0");
	FEATURE("SSE4.2", 1, ECX, 20, "pcmpgtq %%xmm0, %%xmm0");
	FEATURE("CRC32", 1, ECX, 20, "crc32l %%ecx, %%edx");
	FEATURE("MOVBE", 1, ECX, 22, "movbe (%%rax), %%ecx");
	FEATURE("POPCNT", 1, ECX, 23, "popcnt %%ecx, %%ecx");
	FEATURE("AES", 1, ECX, 25, "aesenc %%xmm0, %%xmm0");
	FEATURE("XSAVE", 1, ECX, 26, "xsave (%%rax)");
	FEATURE("AVX", 1, ECX, 28, "vaddps %%xmm0, %%xmm0, %%xmm0");
	FEATURE("F16C", 1, ECX, 29, "vcvtph2ps %%xmm0, %%xmm0");
	FEATURE("RDRAND", 1, ECX, 30, "rdrand %%ecx");
	FEATURE("CLFLUSH", 1, EDX, 19, "clflush (%%rax)");
	FEATURE("SSE2", 1, EDX, 26, "paddq %%xmm0, %%xmm0");
	FEATURE("BMI1", 7, EBX, 3, "andn %%ecx, %%ecx, %%ecx");
	FEATURE("AVX2", 7, EBX, 5, "vpaddd %%ymm0, %%ymm0, %%ymm0");
	FEATURE("BMI2", 7, EBX, 8, "pdep %%ecx, %%ecx, %%ecx");
	FEATURE("FSGSBASE", 7, EBX, 0, "rdfsbase %%rcx");
	FEATURE("INVPCID", 7, EBX, 10, "movl $0, (%%rax)\n invpcid (%%rax), %%rdx");
	FEATURE("RDSEED", 7, EBX, 18, "rdseed %%ecx");
	FEATURE("ADX", 7, EBX, 19, "adcx %%ecx, %%ecx");
	FEATURE("STAC", 7, EBX, 20, "stac\n clac");
	FEATURE("CLFLUSHOPT", 7, EBX, 23, "clflushopt (%%rax)");
	FEATURE("CLWB", 7, EBX, 24, "clwb (%%rax)");
	FEATURE("SHA", 7, EBX, 29, "sha1msg1 %%xmm0, %%xmm0");
	FEATURE("RDPID", 7, ECX, 22, "rdpid %%rcx");
	FEATURE("VAES", 7, ECX, 9, "vaesenc %%ymm0, %%ymm0, %%ymm0");
	FEATURE("LAHF", 0x80000001, ECX, 0, "lahf");
	FEATURE("RDTSCP", 0x80000001, EDX, 27, "rdtscp");
	FEATURE("AVX-512F", 7, EBX, 16, "vpaddd %%zmm0, %%zmm0, %%zmm0");
	/* Old encodings with a prefix: without the feature they are BSR and BSF. */
	u32 lz, tz;
	asm volatile("lzcnt %1, %0" : "=r"(lz) : "r"(0x100));
	check("LZCNT or BSR", lz, has(0x80000001, ECX, 5) ? 23 : 8);
	asm volatile("tzcnt %1, %0" : "=r"(tz) : "r"(0x100));
	check("TZCNT or BSF", tz, 8);
	/* What nobody has here. */
	FAULTS("RSM", UD, 0, ".byte 0x0f, 0xaa");
	FAULTS("MONITOR or nothing", has(1, ECX, 3) ? NONE : UD, 0,
		   "lea area(%%rip), %%rax\n xor %%ecx, %%ecx\n xor %%edx, %%edx\n monitor");
	cpuid(0, 0, r);
	check("CPUID has leaves", r[EAX] >= 1, 1);
	cpuid(0x40000000, 0, r);
	check("the hypervisor leaf", has(1, ECX, 31) ? r[EAX] >= 0x40000000 : 1, 1);
	cpuid(0x7fffffff, 0, r);
	check("a leaf beyond the last faults not", 1, 1);
}
