/* --help and the verb `help`, from the tables. */
#include <stdio.h>
#include <string.h>

#include "ctl/cli/cli.h"

#define WIDTH 80
#define COLUMN 26 /* where explanations start */

/* Prints text from column `at` on, wrapped, later lines indented by `indent`. */
static void wrap(const char *text, unsigned at, unsigned indent) {
	while (*text) {
		size_t n = strcspn(text, " \n");
		if (at > indent && at + n > WIDTH) {
			printf("\n%*s", (int)indent, "");
			at = indent;
		}
		printf("%.*s", (int)n, text);
		at += (unsigned)n;
		text += n;
		if (*text == '\n') {
			printf("\n%*s", (int)indent, "");
			at = indent;
			text++;
		} else if (*text == ' ') {
			text++;
			if (*text && at + 1 + strcspn(text, " \n") <= WIDTH) {
				putchar(' ');
				at++;
			} else if (*text) {
				printf("\n%*s", (int)indent, "");
				at = indent;
			}
		}
	}
	putchar('\n');
}

static void print_option(const struct cli_option *o) {
	char left[64], text[512];
	char letter[8] = "    ";
	if (o->letter)
		snprintf(letter, sizeof(letter), "-%c, ", o->letter);
	snprintf(left, sizeof(left), "  %s--%s%s%s", letter, o->name, o->value ? " " : "",
			 o->value ? o->value : "");
	int n = printf("%-*s", COLUMN - 1, left);
	if (n >= COLUMN)
		printf("\n%*s", COLUMN - 1, "");
	putchar(' ');
	bool preset = o->preset && o->preset[0];
	snprintf(text, sizeof(text), "%s%s%s%s%s%s%s", o->help, o->choices ? ": " : "",
			 o->choices ? o->choices : "", o->repeat ? "; may be repeated" : "",
			 preset ? " (default: " : "", preset ? o->preset : "", preset ? ")" : "");
	wrap(text, COLUMN, COLUMN);
}

static void print_options(const struct cli_verb *v) {
	printf("\nOptions:\n");
	const struct cli_option *t;
	for (unsigned i = 0; (t = cli_table(v, i)) != NULL; i++)
		for (const struct cli_option *o = t; o->name; o++)
			print_option(o);
}

static void print_summary(const struct cli_verb *v) {
	printf("  %-16s%s\n", v->name, v->summary);
}

static void help_program(void) {
	printf("Joist runs virtual machines, with or without hardware virtualization.\n\n"
		   "Usage: joist COMMAND [OPTION]... [ARGUMENT]...\n\nCommands:\n");
	for (unsigned i = 0; cli_verbs[i]; i++)
		if (!cli_verbs[i]->hidden)
			print_summary(cli_verbs[i]);
	printf("\n'joist COMMAND --help' explains a command, 'joist man | man -l -' is the manual.\n"
		   "\nFirst steps: joist image build debian\n"
		   "             joist run -d --name web debian -p 8080:80\n"
		   "             joist ssh web\n"
		   "\nExit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 wrong state,\n"
		   "5 the host lacks something, 124 timeout, 128+N ended by signal N.\n");
}

void cli_help_group(const char *word) {
	size_t n = strlen(word);
	printf("Usage: joist %s COMMAND [OPTION]... [ARGUMENT]...\n\nCommands:\n", word);
	for (unsigned i = 0; cli_verbs[i]; i++)
		if (strncmp(cli_verbs[i]->name, word, n) == 0 && cli_verbs[i]->name[n] == ' ')
			print_summary(cli_verbs[i]);
	printf("\n'joist %s COMMAND --help' explains a command.\n", word);
}

void cli_help(const struct cli_verb *v) {
	if (!v) {
		help_program();
		return;
	}
	printf("Usage: joist %s [OPTION]...%s%s\n\n", v->name, v->operands ? " " : "",
		   v->operands ? v->operands : "");
	wrap(v->about ? v->about : v->summary, 0, 0);
	print_options(v);
	if (v->examples)
		printf("\nExamples:\n%s", v->examples);
}

static int run(const struct cli_args *a) {
	if (!a->noperands) {
		cli_help(NULL);
		return CLI_OK;
	}
	char name[64];
	snprintf(name, sizeof(name), "%s%s%s", a->operands[0], a->noperands > 1 ? " " : "",
			 a->noperands > 1 ? a->operands[1] : "");
	const struct cli_verb *v = cli_find_alias(name);
	if (!v && cli_is_group(name)) {
		cli_help_group(name);
		return CLI_OK;
	}
	if (!v) {
		const char *best = cli_suggest_verb(name);
		return best ? cli_usage(a->verb, "no command %s (did you mean %s?)", name, best)
					: cli_usage(a->verb, "no command %s", name);
	}
	cli_help(v);
	return CLI_OK;
}

const struct cli_verb cli_verb_help = {
	.name = "help",
	.operands = "[COMMAND]",
	.max_operands = 2,
	.summary = "explain a command",
	.run = run,
};
