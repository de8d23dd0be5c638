/* Every test guest: its machine, how many checks it reports, and how it ends. */
#include "test/guest/cases.h"

#include "core/base/bits.h"

#define PLAIN(case_name, number)                                                                   \
	{                                                                                              \
		.name = case_name, .cpus = 1, .memory_mb = 64, .checks = number                            \
	}

const struct guest_case guest_cases[] = {
	PLAIN("hello32", 5),
	PLAIN("hello64", 5),
	PLAIN("paging64", 81),
	PLAIN("longmode", 96),
	PLAIN("exceptions", 99),
};

const unsigned guest_ncases = ARRAY_LEN(guest_cases);
