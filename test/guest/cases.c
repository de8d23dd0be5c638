/* Every test guest: its machine, how many checks it reports, and how it ends. */
#include "test/guest/cases.h"

#include "core/base/bits.h"

#define PLAIN(case_name, number)                                                                   \
	{                                                                                              \
		.name = case_name, .cpus = 1, .memory_mb = 64, .checks = number                            \
	}

#define REAL(case_name, number)                                                                    \
	{                                                                                              \
		.name = case_name, .real = true, .cpus = 1, .memory_mb = 64, .checks = number              \
	}

const struct guest_case guest_cases[] = {
	PLAIN("hello32", 5),
	PLAIN("hello64", 5),
	REAL("real", 54),
	PLAIN("paging64", 81),
	PLAIN("longmode", 96),
	PLAIN("exceptions", 99),
	PLAIN("chips", 66),
	PLAIN("apic", 61),
	PLAIN("smc", 19),
	{.name = "smp2", .image = "smp", .cpus = 2, .memory_mb = 64, .checks = 26},
	{.name = "smp4", .image = "smp", .cpus = 4, .memory_mb = 64, .checks = 26, .seconds = 60},
};

const unsigned guest_ncases = ARRAY_LEN(guest_cases);
