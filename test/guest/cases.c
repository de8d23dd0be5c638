/* Every test guest: its machine, how many checks it reports, and how it ends. */
#include "test/guest/cases.h"

#include "core/base/bits.h"

#define PLAIN(case_name, number)                                                                   \
	{ .name = case_name, .cpus = 1, .memory_mb = 64, .checks = number }

#define WEAK(case_name, number)                                                                    \
	{ .name = case_name, .cpus = 1, .memory_mb = 64, .checks = number, .weak_kvm = true }

#define REAL(case_name, number)                                                                    \
	{ .name = case_name, .real = true, .cpus = 1, .memory_mb = 64, .checks = number }

#define BAD(case_name, number, how)                                                                \
	{ .name = case_name, .cpus = 1, .memory_mb = 64, .checks = number, .end = how }

#define BAD_WEAK(case_name, number, how)                                                           \
	{                                                                                              \
		.name = case_name, .cpus = 1, .memory_mb = 64, .checks = number, .end = how,               \
		.weak_kvm = true                                                                           \
	}

#define CHAOS(case_name)                                                                           \
	{                                                                                              \
		.name = case_name, .cpus = 1, .memory_mb = 64, .end = END_ANY, .seconds = 2,               \
		.weak_kvm = true                                                                           \
	}

const struct guest_case guest_cases[] = {
	PLAIN("hello32", 5),
	WEAK("hello64", 5),
	REAL("real", 54),
	PLAIN("segments", 105),
	PLAIN("paging32", 40),
	PLAIN("task", 59),
	PLAIN("v86", 59),
	PLAIN("paging64", 81),
	PLAIN("longmode", 96),
	PLAIN("exceptions", 99),
	PLAIN("features", 45),
	{.name = "features-base",
	 .image = "features",
	 .cpus = 1,
	 .cpu_model = "base",
	 .memory_mb = 64,
	 .checks = 45},
	{.name = "features-v2",
	 .image = "features",
	 .cpus = 1,
	 .cpu_model = "v2",
	 .memory_mb = 64,
	 .checks = 45},
	{.name = "features-v3",
	 .image = "features",
	 .cpus = 1,
	 .cpu_model = "v3",
	 .memory_mb = 64,
	 .checks = 45},
	PLAIN("chips", 66),
	PLAIN("apic", 61),
	WEAK("smc", 26),
	{.name = "smp2", .image = "smp", .cpus = 2, .memory_mb = 64, .checks = 26},
	{.name = "late", .cpus = 2, .memory_mb = 64, .checks = 12, .weak_kvm = true},
	{.name = "smp4", .image = "smp", .cpus = 4, .memory_mb = 64, .checks = 26, .seconds = 60},
	{.name = "smp8", .image = "smp", .cpus = 8, .memory_mb = 64, .checks = 26, .seconds = 120},
	{.name = "codegen",
	 .cpus = 1,
	 .memory_mb = 64,
	 .checks = 1,
	 .seconds = 600,
	 .flushes = true,
	 .weak_kvm = true},
	{.name = "codegen4",
	 .image = "codegen",
	 .cpus = 4,
	 .memory_mb = 64,
	 .checks = 5,
	 .seconds = 60},
	{.name = "apic-micro",
	 .image = "apic",
	 .cpus = 1,
	 .board = "micro",
	 .memory_mb = 32,
	 .checks = 61},
	{.name = "smp2-micro",
	 .image = "smp",
	 .cpus = 2,
	 .board = "micro",
	 .memory_mb = 32,
	 .checks = 26},

	/* What no sane guest does; see bad.c. */
	BAD("triple", 1, END_RESET),
	BAD("nowhere", 1, END_RESET),
	BAD_WEAK("spin", 1, END_STOPPED),
	BAD_WEAK("sleep", 1, END_STOPPED),
	BAD_WEAK("endless", 1, END_STOPPED),
	BAD("holes", 7, END_DONE),
	BAD_WEAK("flood", 2, END_DONE),
	BAD_WEAK("poke", 3, END_DONE),
	BAD_WEAK("junk", 1, END_DONE),
	CHAOS("chaos1"),
	CHAOS("chaos2"),
	CHAOS("chaos3"),
	CHAOS("chaos4"),
	BAD_WEAK("off", 1, END_OFF),
	{.name = "resets", .cpus = 1, .memory_mb = 64, .checks = 1, .reboots = true},
};

const unsigned guest_ncases = ARRAY_LEN(guest_cases);
