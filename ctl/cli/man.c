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

static void put_exit_codes(void) {
	printf(".SH EXIT STATUS\n");
	static const char *const codes[][2] = {
		{"0", "All went well; for \\fBrun\\fR: the guest powered off."},
		{"1", "A failure; for \\fBrun\\fR also: the guest's kernel panicked."},
		{"2", "The command line or a definition is wrong."},
		{"3", "A named file, image or VM does not exist."},
		{"4", "The VM is in the wrong state for this, or a name is taken."},
		{"5", "The host lacks something that this needs."},
		{"124", "The time given with \\fB\\-\\-timeout\\fR is over."},
		{"128+\\fIN\\fR", "Ended by signal \\fIN\\fR."},
	};
	for (unsigned i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
		printf(".TP\n.B %s\n%s\n", codes[i][0], codes[i][1]);
	printf(".PP\n\\fBexec\\fR and \\fBssh\\fR return what the guest's command returned.\n");
}

static void put_files(void) {
	printf(
		".SH FILES\n"
		".TP\n.I $XDG_DATA_HOME/joist/vms/NAME/\nA VM: vm.yaml, state.json, serial.log, vm.log, "
		"its disk. XDG_DATA_HOME is ~/.local/share if not set.\n"
		".TP\n.I $XDG_DATA_HOME/joist/images/NAME/\nAn image.\n"
		".TP\n.I $XDG_RUNTIME_DIR/joist/\nControl sockets of running VMs; /tmp/joist\\-UID without "
		"XDG_RUNTIME_DIR.\n");
}

/* "IMAGE BUILD" for the page's head, "image\-build" for its name. */
static void put_upper(const char *name, bool upper) {
	for (; *name; name++) {
		if (*name == ' ' || *name == '-')
			printf("\\-");
		else
			putchar(upper && *name >= 'a' && *name <= 'z' ? *name - 0x20 : *name);
	}
}

static void page_of(const struct cli_verb *v) {
	printf(".TH JOIST\\-");
	put_upper(v->name, true);
	printf(" 1 \"\" \"joist %s\" \"User Commands\"\n.SH NAME\njoist\\-", JOIST_VERSION);
	put_upper(v->name, false);
	printf(" \\- ");
	put(v->summary);
	printf("\n.SH SYNOPSIS\n.B joist %s\n[\\fIOPTION\\fR]...", v->name);
	if (v->operands) {
		printf(" \\fI");
		put(v->operands);
		printf("\\fR");
	}
	printf("\n.SH DESCRIPTION\n");
	put(v->about ? v->about : v->summary);
	printf("\n.SH OPTIONS\n");
	const struct cli_option *t;
	for (unsigned i = 0; (t = cli_table(v, i)) != NULL; i++)
		for (const struct cli_option *o = t; o->name; o++)
			put_option(o);
	if (v->examples) {
		printf(".SH EXAMPLES\n.nf\n");
		put(v->examples);
		printf(".fi\n");
	}
	put_exit_codes();
	printf(".SH SEE ALSO\n.BR joist (1)\n");
}

static void page_of_program(void) {
	printf(".TH JOIST 1 \"\" \"joist %s\" \"User Commands\"\n", JOIST_VERSION);
	printf(".SH NAME\njoist \\- run virtual machines, with or without hardware virtualization\n");
	printf(".SH SYNOPSIS\n.B joist\n\\fICOMMAND\\fR [\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]...\n");
	printf(".SH DESCRIPTION\nJoist runs unmodified x86\\-64 guests. Each VM is one process without "
		   "privileges. Where there is no hardware virtualization, its own CPU engine "
		   "executes the guest's code.\n"
		   ".PP\nWherever a command takes a VM, its name, its id or the beginning of its id (4 "
		   "characters at least) will do.\n");
	printf(".SH COMMANDS\n");
	for (unsigned i = 0; cli_verbs[i]; i++)
		if (!cli_verbs[i]->hidden)
			put_verb(cli_verbs[i]);
	put_exit_codes();
	put_files();
}

static int run(const struct cli_args *a) {
	char name[64];
	if (cli_flag(a, "list")) {
		for (unsigned i = 0; cli_verbs[i]; i++)
			if (!cli_verbs[i]->hidden)
				printf("%s\n", cli_verbs[i]->name);
		return CLI_OK;
	}
	if (!a->noperands) {
		page_of_program();
		return CLI_OK;
	}
	snprintf(name, sizeof(name), "%s%s%s", a->operands[0], a->noperands > 1 ? " " : "",
			 a->noperands > 1 ? a->operands[1] : "");
	const struct cli_verb *v = cli_find_verb(name);
	if (!v)
		return cli_usage(a->verb, "no command %s", name);
	page_of(v);
	return CLI_OK;
}

static const struct cli_option options[] = {
	{"list", 0, CLI_FLAG, NULL, "List the commands that have a page", NULL, NULL, false},
	{0},
};

const struct cli_verb cli_verb_man = {
	.name = "man",
	.operands = "[COMMAND]",
	.max_operands = 2,
	.summary = "print the manual page in roff",
	.options = options,
	.run = run,
	.hidden = true,
};
