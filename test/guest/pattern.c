/* One of two VMs in a process: fills memory with its pattern and looks whether it stays, in
 * memory, in a chip's register, and in its processor. See two_vms.c. */
#include "test/guest/guest.h"

#define START 0x400000ul
#define WORDS 0x80000ul /* 4 MiB */

void guest(void) {
	volatile u64 *p = (u64 *)START;
	u64 bad = 0, chip = 0, cpu = 0;
	print("pattern " NAME "\n");
	out8(0x3ff, (u8)PATTERN);
	wrmsr(0xc0000102, PATTERN >> 20);
	for (u64 i = 0; i < WORDS; i++)
		p[i] = PATTERN ^ i;
	for (unsigned round = 0; round < 10; round++) {
		for (u64 i = round; i < WORDS; i += 10) {
			bad += p[i] != (PATTERN ^ i);
			p[i] = PATTERN ^ i;
		}
		chip += in8(0x3ff) != (u8)PATTERN;
		cpu += rdmsr(0xc0000102) != PATTERN >> 20;
	}
	check("memory stays " NAME, bad, 0);
	check("chips stay " NAME, chip, 0);
	check("processors stay " NAME, cpu, 0);
	check("all of it", p[WORDS - 1], PATTERN ^ (WORDS - 1));
}
