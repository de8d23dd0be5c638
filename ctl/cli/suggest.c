/* "Did you mean ...": the candidate that the fewest typing errors turn into the word. */
#include <string.h>

#include "core/base/bits.h"
#include "ctl/cli/cli.h"

#define WORD 32

/* Edits between a and b: insert, delete, replace, swap of neighbours. */
static unsigned distance(const char *a, const char *b) {
	size_t na = strlen(a), nb = strlen(b);
	unsigned d[WORD + 1][WORD + 1];
	if (na > WORD || nb > WORD)
		return ~0u;
	for (size_t i = 0; i <= na; i++)
		d[i][0] = (unsigned)i;
	for (size_t j = 0; j <= nb; j++)
		d[0][j] = (unsigned)j;
	for (size_t i = 1; i <= na; i++) {
		for (size_t j = 1; j <= nb; j++) {
			unsigned replace = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
			d[i][j] = MIN(MIN(d[i - 1][j], d[i][j - 1]) + 1, replace);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				d[i][j] = MIN(d[i][j], d[i - 2][j - 2] + 1);
		}
	}
	return d[na][nb];
}

void cli_suggest_add(struct cli_suggest *s, const char *candidate) {
	size_t len = strlen(s->wanted);
	unsigned d = distance(s->wanted, candidate);
	/* A beginning of the word is close whatever is missing. */
	if (len >= 2 && strncmp(s->wanted, candidate, len) == 0)
		d = 1;
	if (d <= (len <= 4 ? 1u : 2u) && (!s->best || d < s->distance)) {
		s->best = candidate;
		s->distance = d;
	}
}

/* Words that users of other tools type. */
static const char *const habits[][2] = {
	{"launch", "run"},		{"boot", "run"},		  {"up", "run"},		 {"check", "doctor"},
	{"host", "doctor"},		{"usage", "help"},		  {"list", "ls"},		 {"delete", "rm"},
	{"remove", "rm"},		{"destroy", "rm"},		  {"shell", "ssh"},		 {"attach", "console"},
	{"info", "inspect"},	{"status", "ps"},		  {"top", "stats"},		 {"down", "stop"},
	{"halt", "stop"},		{"shutdown", "stop"},	  {"suspend", "pause"},	 {"images", "image ls"},
	{"pull", "image pull"}, {"build", "image build"}, {"kill", "stop"},		 {"set", "update"},
	{"edit", "update"},		{"port", "port ls"},	  {"image", "image ls"}, {"monitor", "events"},
};

const char *cli_suggest_verb(const char *wanted) {
	struct cli_suggest s = {.wanted = wanted};
	for (unsigned i = 0; cli_verbs[i]; i++)
		if (!cli_verbs[i]->hidden)
			cli_suggest_add(&s, cli_verbs[i]->name);
	for (unsigned i = 0; !s.best && i < ARRAY_LEN(habits); i++)
		if (strcmp(wanted, habits[i][0]) == 0)
			s.best = habits[i][1];
	return s.best;
}

const char *cli_suggest_option(const struct cli_verb *v, const char *wanted) {
	struct cli_suggest s = {.wanted = wanted};
	const struct cli_option *t;
	for (unsigned i = 0; (t = cli_table(v, i)) != NULL; i++)
		for (const struct cli_option *o = t; o->name; o++)
			cli_suggest_add(&s, o->name);
	return s.best;
}
