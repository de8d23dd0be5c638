/* The library itself: traps are caught, ring 3 comes back. */
#include "test/guest/guest.h"

static void user_ud(void) {
	asm volatile("ud2");
}

void guest(void) {
	check("arithmetic", 6 * 7, 42);
	FAULTS("ud2", UD, 0, "ud2");
	FAULTS("no trap", NONE, 0, "nop");
	user(user_ud, 2);
	check_trap("ud2 in ring 3", UD, 0);
	check("ring 3 code segment", trap.frame.cs, SEL_UCODE);
}
