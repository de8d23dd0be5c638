/* Parts of the translator that can be left out at run time, to find which one a bug is in and to
 * test each without the others: JOIST_SOFT_OFF="link,flags,sse". Read when an engine is made. */
#include <stdlib.h>
#include <string.h>

#include "core/base/fmt.h"
#include "engine/soft/jit.h"

static const struct {
	char name[8];
	uint32_t bit;
} names[] = {
	{"link", JIT_OFF_LINK},		{"jumps", JIT_OFF_JUMPS},	{"flags", JIT_OFF_FLAGS},
	{"int", JIT_OFF_INT},		{"lea", JIT_OFF_LEA},		{"mem", JIT_OFF_MEM},
	{"stack", JIT_OFF_STACK},	{"branch", JIT_OFF_BRANCH}, {"x87", JIT_OFF_X87},
	{"sse", JIT_OFF_SSE},		{"avx", JIT_OFF_AVX},		{"block", JIT_OFF_BLOCK},
	{"tlb", JIT_OFF_TLB},		{"cache", JIT_OFF_CACHE},	{"poll", JIT_OFF_POLL},
	{"pcid", JIT_OFF_PCID},		{"next", JIT_OFF_NEXT},		{"system", JIT_OFF_SYSTEM},
	{"ret", JIT_OFF_RET},		{"hot", JIT_OFF_HOT},		{"tier", JIT_OFF_TIER},
	{"group", JIT_OFF_GROUP},	{"32", JIT_OFF_32},			{"16", JIT_OFF_16},
	{"window", JIT_OFF_WINDOW}, {"loop", JIT_OFF_LOOP},		{"self", JIT_OFF_SELF},
	{"avx512", JIT_OFF_AVX512}, {"rebase", JIT_OFF_REBASE}, {"shape", JIT_OFF_SHAPE},
};

uint32_t jit_switches(void) {
	const char *s = getenv("JOIST_SOFT_OFF");
	uint32_t off = 0;
	while (s && *s) {
		size_t len = strcspn(s, ",");
		unsigned n = 0;
		while (n < sizeof(names) / sizeof(names[0]) &&
			   (strlen(names[n].name) != len || strncmp(names[n].name, s, len) != 0))
			n++;
		if (n < sizeof(names) / sizeof(names[0]))
			off |= names[n].bit;
		else if (len)
			log_line(LOG_WARN, "JOIST_SOFT_OFF: engine soft has no part \"%.*s\"", (int)len, s);
		s += len;
		s += *s == ',';
	}
	return off;
}
