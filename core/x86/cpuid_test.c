/* The CPUID policy against made-up hosts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/vm/vcpu.h"
#include "core/x86/cpuid.h"
#include "core/x86/regs.h"

/* A host that has every feature bit; `intel` and `fewer` change it. */
static bool intel, no_avx512;

static void query(uint32_t leaf, uint32_t subleaf, uint32_t out[4]) {
	memset(out, 0, 16);
	switch (leaf) {
	case 0:
		out[0] = 0x1f;
		memcpy(&out[1], intel ? "Genu" : "Auth", 4);
		memcpy(&out[3], intel ? "ineI" : "enti", 4);
		memcpy(&out[2], intel ? "ntel" : "cAMD", 4);
		break;
	case 1:
		out[0] = 0x000906ea;
		out[1] = 0x07100800;
		out[2] = out[3] = ~0u;
		break;
	case 4:
	case 0x8000001d:
		if (subleaf < 4)
			out[0] = (subleaf == 0	 ? 1
					  : subleaf == 1 ? 2
									 : 3) |
					 (subleaf < 2 ? 1 : subleaf) << 5 | 7u << 14 | (leaf == 4 ? 15u << 26 : 0);
		break;
	case 7:
		if (subleaf == 0) {
			out[0] = 2;
			out[1] = no_avx512 ? ~(1u << 16) : ~0u;
		}
		out[2] = out[3] = subleaf == 0 ? ~0u : 0;
		if (subleaf == 1)
			out[0] = ~0u;
		break;
	case 0xd:
		if (subleaf == 1)
			out[0] = ~0u;
		else if (subleaf == 2)
			out[0] = 256, out[1] = 576;
		else if (subleaf == 5)
			out[0] = 64, out[1] = 1088;
		else if (subleaf == 6)
			out[0] = 512, out[1] = 1152;
		else if (subleaf == 7)
			out[0] = 1024, out[1] = 1664, out[2] = 2;
		break;
	case 0x80000000:
		out[0] = 0x80000021;
		break;
	case 0x80000001:
		out[2] = out[3] = ~0u;
		break;
	case 0x80000008:
		out[0] = 0x3934;
		out[1] = ~0u;
		break;
	default:
		if (leaf >= 0x80000002 && leaf <= 0x80000004)
			memset(out, 'x', 16);
		break;
	}
}

static const struct cpuid_host host = {query, 0xe7, false};
static struct cpuid_policy p;
static struct x86_state state;

static void make(const char *model, unsigned ncpus) {
	struct err e;
	memset(&state, 0, sizeof(state));
	state.xcr0 = XCR0_X87;
	assert_int_equal(cpuid_init_from(&p, &host, model, ncpus, 2500000, &e), 0);
	assert_true(p.nleaves <= CPUID_LEAVES);
}

static uint32_t get(uint32_t leaf, uint32_t subleaf, unsigned reg) {
	uint32_t out[4];
	cpuid_query(&p, leaf, subleaf, &state, 3, out);
	return out[reg];
}

static void hides_what_must_be_hidden(void **unused) {
	static const uint16_t hidden[] = {
		X86_FEAT_VMX,	X86_FEAT_SVM,  X86_FEAT_RTM,	 X86_FEAT_HLE,		 X86_FEAT_SGX,
		X86_FEAT_MPX,	X86_FEAT_PKU,  X86_FEAT_SHSTK,	 X86_FEAT_IBT,		 X86_FEAT_AMX_TILE,
		X86_FEAT_UINTR, X86_FEAT_LA57, X86_FEAT_MONITOR, X86_FEAT_SMAP,		 X86_FEAT_INTEL_PT,
		X86_FEAT_XFD,	X86_FEAT_PDCM, X86_FEAT_MWAITX,	 X86_FEAT_FLUSH_L1D, X86_FEAT_OSPKE,
	};
	for (intel = false;; intel = true) {
		make("host", 4);
		for (unsigned n = 0; n < ARRAY_LEN(hidden); n++)
			assert_false(cpuid_has(&p, hidden[n]));
		assert_int_equal(get(1, 0, 2) & (BIT(3) | BIT(5)), 0);
		assert_int_equal(get(7, 0, 1) & (BIT(2) | BIT(4) | BIT(11) | BIT(14) | BIT(20)), 0);
		assert_int_equal(get(7, 0, 2) & (BIT(3) | BIT(4) | BIT(16)), 0);
		assert_int_equal(get(0x80000001, 0, 2) & BIT(2), 0);
		assert_int_equal(get(0x8000000a, 0, 0), intel ? get(0x16, 0, 0) : 0);
		if (intel)
			break;
	}
	intel = false;
}

static void shows_what_engines_provide(void **unused) {
	make("base", 1);
	assert_true(cpuid_has(&p, X86_FEAT_X2APIC));
	assert_true(cpuid_has(&p, X86_FEAT_HYPERVISOR));
	assert_true(cpuid_has(&p, X86_FEAT_CONSTANT_TSC));
	assert_false(cpuid_has(&p, X86_FEAT_AVX));
	assert_false(cpuid_has(&p, X86_FEAT_SSE3));
	assert_int_equal(get(1, 0, 2) >> 31, 1);
	assert_int_equal(get(0x80000007, 0, 3), BIT(8));
	assert_int_equal(get(0x80000008, 0, 0), 46 | 48 << 8);
	assert_int_equal(get(0x40000000, 0, 1), 0x4b4d564b);
	assert_int_equal(get(0x40000001, 0, 0), 0x0100000b);
	assert_int_equal(get(0x40000010, 0, 0), 2500000);
	/* AMD repeats leaf 1's bits. */
	assert_int_equal(get(0x80000001, 0, 3) & 0x0183f3ff, get(1, 0, 3) & 0x0183f3ff);
}

static void follows_registers(void **unused) {
	make("v3", 2);
	assert_false(get(1, 0, 2) & BIT(27));
	state.cr4 = CR4_OSXSAVE;
	assert_true(get(1, 0, 2) & BIT(27));
	assert_int_equal(get(1, 0, 1) >> 24, 3);
	assert_int_equal(get(0xd, 0, 0), 7);
	assert_int_equal(get(0xd, 0, 2), 832);
	assert_int_equal(get(0xd, 0, 1), 576);
	state.xcr0 = 7;
	assert_int_equal(get(0xd, 0, 1), 832);
	/* v3 shows no XSAVEC, and no component that XCR0 cannot have. */
	assert_int_equal(get(0xd, 1, 1), 0);
	assert_int_equal(get(0xd, 5, 0), 0);
}

static void counts_avx512_state(void **unused) {
	make("host", 1);
	assert_int_equal(p.xcr0, 0xe7);
	assert_int_equal(get(0xd, 0, 2), 1664 + 1024);
	state.xcr0 = 0xe7;
	/* Compacted: 576 + 256 + 64 + 512, aligned to 64, + 1024. */
	assert_int_equal(get(0xd, 1, 1), 576 + 256 + 64 + 512 + 1024);
}

static void drops_what_depends(void **unused) {
	struct cpuid_host old = host;
	struct err e;
	old.xcr0 = 3;
	assert_int_equal(cpuid_init_from(&p, &old, "host", 1, 1000000, &e), 0);
	assert_false(cpuid_has(&p, X86_FEAT_AVX));
	assert_false(cpuid_has(&p, X86_FEAT_VAES));
	assert_false(cpuid_has(&p, X86_FEAT_AVX512FP16));
	assert_true(cpuid_has(&p, X86_FEAT_XSAVE));
	assert_int_equal(p.xcr0, 3);
	old.xcr0 = 0;
	assert_int_equal(cpuid_init_from(&p, &old, "host", 1, 1000000, &e), 0);
	assert_false(cpuid_has(&p, X86_FEAT_XSAVE));
	assert_int_equal(get(0xd, 0, 0), 0);
}

static void refuses_what_the_host_lacks(void **unused) {
	struct err e;
	no_avx512 = true;
	assert_int_equal(cpuid_init_from(&p, &host, "v4", 1, 1000000, &e), -ERR_NOTSUP);
	assert_non_null(strstr(e.text, "avx512f"));
	assert_int_equal(cpuid_init_from(&p, &host, "v3", 1, 1000000, &e), 0);
	no_avx512 = false;
	assert_int_equal(cpuid_init_from(&p, &host, "v4", 1, 1000000, &e), 0);
	assert_int_equal(cpuid_init_from(&p, &host, "486", 1, 1000000, &e), -ERR_INVAL);
	assert_non_null(strstr(e.text, "486"));
}

static void tells_the_topology(void **unused) {
	make("host", 6);
	assert_int_equal(get(1, 0, 1) >> 16 & 0xff, 8);
	assert_true(cpuid_has(&p, X86_FEAT_HT));
	assert_int_equal(get(0xb, 0, 0), 0);
	assert_int_equal(get(0xb, 0, 1), 1);
	assert_int_equal(get(0xb, 1, 0), 3);
	assert_int_equal(get(0xb, 1, 1), 6);
	assert_int_equal(get(0xb, 1, 2), 0x201);
	assert_int_equal(get(0xb, 2, 2), 2);
	assert_int_equal(get(0xb, 1, 3), 3);
	assert_int_equal(get(0x80000008, 0, 2), 5 | 3 << 12);
	assert_int_equal(get(0x8000001e, 0, 0), 3);
	assert_int_equal(get(0x8000001d, 3, 0) >> 14, 5);
	assert_int_equal(get(0x8000001d, 0, 0) >> 14, 0);
	intel = true;
	make("host", 6);
	assert_int_equal(get(4, 3, 0) >> 14 & 0xfff, 7);
	assert_int_equal(get(4, 0, 0) >> 26, 7);
	assert_int_equal(get(4, 0, 0) >> 14 & 0xfff, 0);
	assert_int_equal(get(0x8000001e, 0, 0), get(0x16, 0, 0)); /* beyond the last */
	/* The TSC's frequency: crystal * EBX / EAX. */
	assert_int_equal((uint64_t)get(0x15, 0, 2) * get(0x15, 0, 1) / get(0x15, 0, 0), 2500000000u);
	intel = false;
	make("host", 1);
	assert_false(cpuid_has(&p, X86_FEAT_HT));
	assert_int_equal(get(0xb, 1, 0), 0);
}

static void keeps_to_its_leaves(void **unused) {
	make("host", 1);
	assert_int_equal(get(0x17, 0, 0), 0);
	assert_int_equal(get(0x3fffffff, 0, 0), 0);
	assert_int_equal(get(0x40000100, 0, 0), 0);
	assert_int_equal(get(0xffffffff, 0, 3), 0);
	assert_int_equal(get(7, 99, 1), 0);
	assert_int_equal(get(0x80000002, 99, 0), 0x78787878); /* no subleaves: ECX is ignored */
	make("v2", 1);
	assert_int_equal(get(1, 0, 0), p.signature);
	assert_int_equal(p.signature, 0x00a00f11);
}

static void makes_every_model_here(void **unused) {
	struct err e;
	for (unsigned n = 0; cpuid_model(n); n++) {
		int r = cpuid_init(&p, cpuid_model(n), 64, 2000000, &e);
		assert_true(r == 0 || r == -ERR_NOTSUP);
		if (!r)
			assert_true(p.nleaves <= CPUID_LEAVES);
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hides_what_must_be_hidden), cmocka_unit_test(shows_what_engines_provide),
		cmocka_unit_test(follows_registers),		 cmocka_unit_test(counts_avx512_state),
		cmocka_unit_test(drops_what_depends),		 cmocka_unit_test(refuses_what_the_host_lacks),
		cmocka_unit_test(tells_the_topology),		 cmocka_unit_test(keeps_to_its_leaves),
		cmocka_unit_test(makes_every_model_here),
	};
	return cmocka_run_group_tests_name("cpuid", tests, NULL, NULL);
}
