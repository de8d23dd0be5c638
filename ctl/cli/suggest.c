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
	{"launch", "run -d"},
	{"boot", "run"},
	{"up", "run"},
	{"new", "create"},
	{"define", "create -f"},
	{"check", "doctor"},
	{"usage", "help"},
	{"host", "doctor"},
	{"delete", "rm"},
	{"remove", "rm"},
	{"undefine", "rm"},
	{"purge", "prune"},
	{"system", "prune"},
	{"destroy", "stop -f, or rm"},
	{"kill", "stop -f"},
	{"down", "stop"},
	{"halt", "stop"},
	{"shutdown", "stop"},
	{"poweroff", "stop"},
	{"reboot", "restart"},
	{"reset", "restart -f"},
	{"suspend", "pause"},
	{"unpause", "resume"},
	{"login", "ssh"},
	{"status", "ps"},
	{"build", "image build"},
	{"import", "image import"},
	{"find", "image pull"},
	{"set", "update"},
	{"edit", "update"},
	{"config", "update"},
	{"autostart", "update --restart always"},
	{"dumpxml", "inspect -o yaml"},
	{"export", "inspect -o yaml"},
	{"transfer", "cp"},
	{"copy", "cp"},
	{"mount", "cp"},
	{"monitor", "events"},
	{"log", "logs"},
	{"net", "network ls"},
	{"image inspect", "image ls --json"},
	{"image list", "image ls"},
	{"image remove", "image rm"},
	{"image delete", "image rm"},
	{"network list", "network ls"},
	{"network inspect", "network ls --json"},
	{"network remove", "network rm"},
	{"network delete", "network rm"},
	{"port list", "port ls"},
	{"port remove", "port rm"},
	{"port delete", "port rm"},
};

/* The same of options and of keys in definitions. */
static const char *const option_habits[][2] = {
	{"network", "net"},		  {"networks", "net"},
	{"nic", "net"},			  {"port", "publish"},
	{"ports", "publish"},	  {"expose", "publish"},
	{"cpu", "cpus"},		  {"vcpus", "cpus"},
	{"vcpu", "cpus"},		  {"mem", "memory"},
	{"ram", "memory"},		  {"disks", "disk"},
	{"drive", "disk"},		  {"hda", "disk"},
	{"cmdline", "append"},	  {"cloud-init", "user-data"},
	{"background", "detach"}, {"daemon", "detach"},
	{"time", "timeout"},	  {"lines", "tail"},
	{"size", "disk-size"},	  {"format", "output"},
	{"login", "user"},		  {"cwd", "workdir"},
};

const char *cli_suggest_habit(const char *wanted) {
	for (unsigned i = 0; i < ARRAY_LEN(option_habits); i++)
		if (strcmp(wanted, option_habits[i][0]) == 0)
			return option_habits[i][1];
	return NULL;
}

const char *cli_suggest_verb(const char *wanted) {
	struct cli_suggest s = {.wanted = wanted};
	for (unsigned i = 0; i < ARRAY_LEN(habits); i++)
		if (strcmp(wanted, habits[i][0]) == 0)
			return habits[i][1];
	for (unsigned i = 0; cli_verbs[i]; i++)
		if (!cli_verbs[i]->hidden)
			cli_suggest_add(&s, cli_verbs[i]->name);
	return s.best;
}

const char *cli_suggest_option(const struct cli_verb *v, const char *wanted) {
	struct cli_suggest s = {.wanted = wanted};
	const char *habit = cli_suggest_habit(wanted);
	const struct cli_option *t;
	for (unsigned i = 0; (t = cli_table(v, i)) != NULL; i++)
		for (const struct cli_option *o = t; o->name; o++) {
			if (habit && strcmp(o->name, habit) == 0)
				return habit;
			cli_suggest_add(&s, o->name);
		}
	return s.best;
}
