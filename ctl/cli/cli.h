/* The command line: verbs and options as const tables. One table gives the parser, --help,
 * the shell completions and the manual page, so that the four cannot disagree.
 *
 * A verb is one file that defines one `struct cli_verb`; cli_verbs[] in main.c lists them. */
#ifndef CTL_CLI_CLI_H
#define CTL_CLI_CLI_H

#include "core/base/types.h"

/* What the process returns; also what scripts may rely on. */
enum cli_exit {
	CLI_OK = 0,
	CLI_FAILED = 1,
	CLI_USAGE = 2,
	CLI_NOT_FOUND = 3,
	CLI_WRONG_STATE = 4,
	CLI_NO_CAPABILITY = 5,
	CLI_TIMEOUT = 124,
	CLI_SIGNAL = 128, /* plus the signal's number */
};

/* How an option's value looks; the parser refuses others. */
enum cli_kind {
	CLI_FLAG,	 /* no value */
	CLI_TEXT,	 /* anything */
	CLI_FILE,	 /* a path, for completion */
	CLI_SIZE,	 /* bytes: 512M, 2G, 65536 */
	CLI_NUMBER,	 /* decimal, not negative */
	CLI_SECONDS, /* 90, 1.5s, 10m, 2h */
	CLI_CHOICE,	 /* one word of `choices` */
	CLI_NAME,	 /* of a VM: a host name's label */
};

struct cli_option {
	const char *name; /* without the dashes; NULL ends a table */
	char letter;	  /* short form, or 0 */
	enum cli_kind kind;
	const char *value; /* its name in help: FILE */
	const char *help;  /* a sentence without its full stop */
	const char *preset;
	const char *choices; /* words with spaces between; for CLI_TEXT only offered by completion */
	bool repeat;
};

#define CLI_VALUES 64
#define CLI_OPERANDS 8

struct cli_args;

struct cli_verb {
	const char *name;
	const char *operands; /* how help writes them: "[KERNEL]" */
	unsigned min_operands, max_operands;
	const char *summary;				  /* one line */
	const char *about;					  /* paragraphs, with an empty line between */
	const char *examples;				  /* lines; may be NULL */
	const struct cli_option *options;	  /* may be NULL */
	int (*run)(const struct cli_args *a); /* returns an exit code */
	bool hidden;
};

struct cli_value {
	const struct cli_option *option;
	const char *text;
};

struct cli_args {
	const struct cli_verb *verb;
	unsigned nvalues, noperands;
	struct cli_value values[CLI_VALUES];
	const char *operands[CLI_OPERANDS];
};

/* main.c */
extern const struct cli_verb *const cli_verbs[]; /* ends with NULL */
extern const struct cli_option cli_common[];	 /* what every verb takes: --help */
int cli_main(int argc, char **argv);
const struct cli_verb *cli_find_verb(const char *name); /* NULL: none */
/* "joist: sentence", on stderr. */
void cli_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The same and where to find help; returns CLI_USAGE. */
int cli_usage(const struct cli_verb *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* args.c: 0, or an exit code with its message printed. `help` is set if it was asked for. */
int cli_parse(struct cli_args *a, const struct cli_verb *v, int argc, char **argv, bool *help);
/* The last value given, or the preset, or NULL. `name` is one of the verb's options. */
const char *cli_text(const struct cli_args *a, const char *name);
bool cli_flag(const struct cli_args *a, const char *name);
/* The n-th value of an option that may repeat; NULL after the last. */
const char *cli_nth(const struct cli_args *a, const char *name, unsigned n);
/* Of options whose kind says so; 0 when neither given nor preset. */
uint64_t cli_size(const struct cli_args *a, const char *name);
uint64_t cli_number(const struct cli_args *a, const char *name);
uint64_t cli_nanoseconds(const struct cli_args *a, const char *name);

/* values.c: false if the text is not one. */
bool cli_read_size(const char *text, uint64_t *bytes);
bool cli_read_number(const char *text, uint64_t *n);
bool cli_read_seconds(const char *text, uint64_t *ns);
bool cli_valid_name(const char *text);
bool cli_word_of(const char *word, const char *words);
/* What a value of this kind looks like, for messages. */
const char *cli_kind_text(enum cli_kind kind);

/* suggest.c: the closest of the candidates, or NULL if none is close. */
struct cli_suggest {
	const char *wanted;
	const char *best;
	unsigned distance;
};
void cli_suggest_add(struct cli_suggest *s, const char *candidate);
const char *cli_suggest_verb(const char *wanted);
const char *cli_suggest_option(const struct cli_verb *v, const char *wanted);

/* help.c */
void cli_help(const struct cli_verb *v); /* NULL: of the program; on stdout */

extern const struct cli_verb cli_verb_completion, cli_verb_doctor, cli_verb_help, cli_verb_man,
	cli_verb_run, cli_verb_version;

#endif
