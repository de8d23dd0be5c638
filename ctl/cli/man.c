/* joist man: the manual page joist(1) in roff, made from the tables at build time.
 * joist completion's sibling: whatever --help knows is in here. */
#include <stdio.h>
#include <string.h>

#include "ctl/cli/cli.h"

/* Text with roff's own characters escaped; an empty line begins a paragraph. */
static void put(const char *text) {
	bool line_start = true;
	for (; *text; text++) {
		if (text[0] == '\n' && text[1] == '\n') {
			printf("\n.PP\n");
			text++;
			line_start = true;
			continue;
		}
		if (line_start && (*text == '.' || *text == '\''))
			printf("\\&");
		if (*text == '\\')
			printf("\\e");
		else if (*text == '-')
			printf("\\-");
		else
			putchar(*text);
		line_start = *text == '\n';
	}
}

static void put_option(const struct cli_option *o) {
	printf(".TP\n");
	if (o->letter)
		printf("\\fB\\-%c\\fR, ", o->letter);
	printf("\\fB\\-\\-");
	put(o->name);
	printf("\\fR");
	if (o->value) {
		printf(" \\fI");
		put(o->value);
		printf("\\fR");
	}
	putchar('\n');
	put(o->help);
	if (o->choices) {
		printf(": ");
		put(o->choices);
	}
	if (o->repeat)
		printf("; may be repeated");
	if (o->preset && o->preset[0]) {
		printf(" (default: ");
		put(o->preset);
		putchar(')');
	}
	printf(".\n");
}

static void put_verb(const struct cli_verb *v) {
	printf(".SS joist %s\n", v->name);
	printf(".B joist %s\n[\\fIOPTION\\fR]...", v->name);
	if (v->operands) {
		printf(" \\fI");
		put(v->operands);
		printf("\\fR");
	}
	printf("\n.PP\n");
	put(v->about ? v->about : v->summary);
	putchar('\n');
	const struct cli_option *t;
	for (unsigned i = 0; (t = cli_table(v, i)) != NULL && t != cli_common; i++)
		for (const struct cli_option *o = t; o->name; o++)
			put_option(o);
	if (v->examples) {
		printf(".PP\n.nf\n");
		put(v->examples);
		printf(".fi\n");
	}
}

static int run(const struct cli_args *a) {
	printf(".TH JOIST 1 \"\" \"joist %s\" \"User Commands\"\n", JOIST_VERSION);
	printf(".SH NAME\njoist \\- run virtual machines, with or without hardware virtualization\n");
	printf(".SH SYNOPSIS\n.B joist\n\\fICOMMAND\\fR [\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]...\n");
	printf(".SH DESCRIPTION\nJoist runs unmodified x86\\-64 guests. Each VM is one process without "
		   "privileges. Where there is no hardware virtualization, its own CPU engine "
		   "executes the guest's code.\n");
	printf(".SH COMMANDS\n");
	for (unsigned i = 0; cli_verbs[i]; i++)
		if (!cli_verbs[i]->hidden)
			put_verb(cli_verbs[i]);
	printf(".SH EXIT STATUS\n");
	static const char *const codes[][2] = {
		{"0", "All went well; for \\fBrun\\fR: the guest powered off."},
		{"1", "A failure; for \\fBrun\\fR also: the guest's kernel panicked."},
		{"2", "The command line is wrong."},
		{"3", "A named file or VM does not exist."},
		{"4", "The VM is in the wrong state for this."},
		{"5", "The host lacks something that this needs."},
		{"124", "The time given with \\fB\\-\\-timeout\\fR is over."},
		{"128+\\fIN\\fR", "Ended by signal \\fIN\\fR."},
	};
	for (unsigned i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
		printf(".TP\n.B %s\n%s\n", codes[i][0], codes[i][1]);
	return CLI_OK;
}

const struct cli_verb cli_verb_man = {
	.name = "man",
	.summary = "print the manual page in roff",
	.run = run,
	.hidden = true,
};
