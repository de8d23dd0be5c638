/* From the command line to a verb. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/bits.h"
#include "ctl/cli/cli.h"

const struct cli_verb *const cli_verbs[] = {
	&cli_verb_run,
	&cli_verb_create,
	&cli_verb_start,
	&cli_verb_stop,
	&cli_verb_restart,
	&cli_verb_pause,
	&cli_verb_resume,
	&cli_verb_rename,
	&cli_verb_update,
	&cli_verb_rm,
	&cli_verb_prune,
	&cli_verb_ls,
	&cli_verb_ps,
	&cli_verb_inspect,
	&cli_verb_stats,
	&cli_verb_events,
	&cli_verb_logs,
	&cli_verb_console,
	&cli_verb_exec,
	&cli_verb_cp,
	&cli_verb_freeze,
	&cli_verb_thaw,
	&cli_verb_ssh,
	&cli_verb_ssh_config,
	&cli_verb_port_add,
	&cli_verb_port_rm,
	&cli_verb_port_ls,
	&cli_verb_image_build,
	&cli_verb_image_pull,
	&cli_verb_image_import,
	&cli_verb_image_ls,
	&cli_verb_image_rm,
	&cli_verb_network_create,
	&cli_verb_network_ls,
	&cli_verb_network_rm,
	&cli_verb_disk_create,
	&cli_verb_disk_info,
	&cli_verb_disk_check,
	&cli_verb_disk_convert,
	&cli_verb_disk_resize,
	&cli_verb_disk_commit,
	&cli_verb_disk_rebase,
	&cli_verb_validate,
	&cli_verb_doctor,
	&cli_verb_version,
	&cli_verb_help,
	&cli_verb_completion,
	&cli_verb_man,
	&cli_verb_process,
	NULL,
};

/* --help stays the first: cli_parse() looks for it. */
const struct cli_option cli_common[] = {
	{.name = "help", .letter = 'h', .kind = CLI_FLAG, .help = "Show this help"},
	{0},
};

/* In one piece, since several commands may share a terminal, and without control characters: what
 * the sentence quotes may come from anywhere. */
static void print_error(const char *prefix, const char *fmt, va_list ap) {
	char text[2048];
	int n = snprintf(text, sizeof(text), "joist%s%s: ", prefix ? " " : "", prefix ? prefix : "");
	int m = vsnprintf(text + n, sizeof(text) - (size_t)n, fmt, ap);
	if (m >= (int)sizeof(text) - n)
		memcpy(text + sizeof(text) - 4, "...", 4);
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 127)
			*p = '?';
	fprintf(stderr, "%s\n", text);
}

void cli_error(const char *fmt, ...) {
	va_list ap;
	va_start(ap, fmt);
	print_error(NULL, fmt, ap);
	va_end(ap);
}

int cli_usage(const struct cli_verb *v, const char *fmt, ...) {
	va_list ap;
	va_start(ap, fmt);
	print_error(v ? v->name : NULL, fmt, ap);
	va_end(ap);
	fprintf(stderr, "Try 'joist%s%s --help'.\n", v ? " " : "", v ? v->name : "");
	return CLI_USAGE;
}

const struct cli_option *cli_table(const struct cli_verb *v, unsigned i) {
	if (v->options && i-- == 0)
		return v->options;
	for (unsigned k = 0; k < CLI_TABLES; k++)
		if (v->shared[k] && i-- == 0)
			return v->shared[k];
	return i == 0 ? cli_common : NULL;
}

const struct cli_verb *cli_find_verb(const char *name) {
	for (unsigned i = 0; cli_verbs[i]; i++)
		if (strcmp(cli_verbs[i]->name, name) == 0)
			return cli_verbs[i];
	return NULL;
}

/* Words of other tools that mean exactly the same. Others only get a "did you mean". */
static const char *const aliases[][2] = {
	{"list", "ls"},		 {"shell", "ssh"},		 {"info", "inspect"},		 {"attach", "console"},
	{"top", "stats"},	 {"images", "image ls"}, {"networks", "network ls"}, {"pull", "image pull"},
	{"rmi", "image rm"},
};

const struct cli_verb *cli_find_alias(const char *word) {
	for (unsigned i = 0; i < ARRAY_LEN(aliases); i++)
		if (strcmp(word, aliases[i][0]) == 0)
			return cli_find_verb(aliases[i][1]);
	return cli_find_verb(word);
}

bool cli_is_group(const char *word) {
	size_t n = strlen(word);
	for (unsigned i = 0; cli_verbs[i]; i++)
		if (strncmp(cli_verbs[i]->name, word, n) == 0 && cli_verbs[i]->name[n] == ' ')
			return true;
	return false;
}

/* Before the verb stand only these. */
static const char *verb_of_option(const char *arg) {
	if (strcmp(arg, "--version") == 0 || strcmp(arg, "-V") == 0 || strcmp(arg, "-v") == 0)
		return "version";
	if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0)
		return "help";
	return NULL;
}

/* Output that did not get out (a full disk) must not look like success. */
static int flushed(int code) {
	if (fflush(stdout) != 0 && code == CLI_OK) {
		cli_error("cannot write the output");
		return CLI_FAILED;
	}
	return code;
}

int cli_main(int argc, char **argv) {
	struct cli_args args;
	bool help;
	if (argc < 2) {
		cli_help(NULL);
		return CLI_USAGE;
	}
	const char *name = argv[1];
	if (name[0] == '-') {
		const char *verb = verb_of_option(name);
		if (!verb)
			return cli_usage(NULL, "unknown option %s", name);
		name = verb;
	}
	char two[64];
	int words = 1;
	const struct cli_verb *v = cli_find_alias(name);
	if (!v && cli_is_group(name) && (argc == 2 || argv[2][0] == '-')) {
		cli_help_group(name);
		return argc > 2 && verb_of_option(argv[2]) ? flushed(CLI_OK) : CLI_USAGE;
	}
	if (!v && argc > 2) {
		snprintf(two, sizeof(two), "%s %s", name, argv[2]);
		if ((v = cli_find_verb(two)) != NULL || cli_is_group(name)) {
			name = two;
			words = 2;
		}
	}
	if (!v) {
		const char *best = cli_suggest_verb(name);
		if (best)
			return cli_usage(NULL, "unknown command %s (did you mean %s?)", name, best);
		if (words == 2) {
			cli_error("unknown command %s", name);
			fprintf(stderr, "Try 'joist %s --help'.\n", argv[1]);
			return CLI_USAGE;
		}
		return cli_usage(NULL, "unknown command %s", name);
	}
	int r = cli_parse(&args, v, argc - 1 - words, argv + 1 + words, &help);
	if (r)
		return r;
	if (help) {
		cli_help(v);
		return flushed(CLI_OK);
	}
	return flushed(v->run(&args));
}
