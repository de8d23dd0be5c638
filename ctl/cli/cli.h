/* The command line: verbs and options as const tables. One table gives the parser, --help,
 * the shell completions and the manual page, so that the four cannot disagree.
 *
 * A verb is one file that defines one `struct cli_verb`; cli_verbs[] in main.c lists them. */
#ifndef CTL_CLI_CLI_H
#define CTL_CLI_CLI_H

#include "core/base/err.h"
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
#define CLI_OPERANDS 256
#define CLI_FOREIGN 64
#define CLI_TABLES 2

struct cli_args;

struct cli_verb {
	const char *name;	  /* may be two words: "image build" */
	const char *operands; /* how help writes them: "[KERNEL]" */
	unsigned min_operands, max_operands;
	const char *summary;						 /* one line */
	const char *about;							 /* paragraphs, with an empty line between */
	const char *examples;						 /* lines; may be NULL */
	const struct cli_option *options;			 /* may be NULL */
	const struct cli_option *shared[CLI_TABLES]; /* tables of several verbs */
	unsigned end_options; /* after so many operands all words are operands; 0: never */
	/* Options that another program takes, written as for getopt(3); they are handed on as they are.
	 * NULL: none. */
	const char *foreign;
	const char *surplus;  /* what one who gives too many operands may want; may be NULL */
	const char *complete; /* operands: "vm", "image" or words; NULL: files */
	int (*run)(const struct cli_args *a); /* returns an exit code */
	bool hidden;
};

struct cli_value {
	const struct cli_option *option;
	const char *text;
};

struct cli_args {
	const struct cli_verb *verb;
	unsigned nvalues, noperands, nforeign;
	struct cli_value values[CLI_VALUES];
	const char *operands[CLI_OPERANDS];
	const char *foreign[CLI_FOREIGN]; /* words, options and their values */
};

/* main.c */
extern const struct cli_verb *const cli_verbs[]; /* ends with NULL */
extern const struct cli_option cli_common[];	 /* what every verb takes: --help */
int cli_main(int argc, char **argv);
/* The i-th table of a verb's options, cli_common being the last; NULL after it. */
const struct cli_option *cli_table(const struct cli_verb *v, unsigned i);
const struct cli_verb *cli_find_verb(const char *name);	 /* NULL: none */
const struct cli_verb *cli_find_alias(const char *word); /* also "images", "shell"... */
bool cli_is_group(const char *word);					 /* the first of two words of some verb */
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

/* 0, or -ERR_INVAL and "--name text: why not". */
int cli_check_value(const struct cli_option *o, const char *text, struct err *e);
/* machine_check.c: the same for what cli_machine_options and cli_vm_options alone have; others are
 * good. */
int cli_check_machine(const struct cli_option *o, const char *text, struct err *e);

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
/* What other tools call an option: "publish" for "ports"; NULL: nothing known. */
const char *cli_suggest_habit(const char *wanted);

/* help.c */
void cli_help(const struct cli_verb *v); /* NULL: of the program; on stdout */
void cli_help_group(const char *word);	 /* of all verbs that begin with the word */

/* code.c: an error of making or finding something as an exit code. */
int cli_code(int r);
/* Prints the sentence; returns cli_code(r), or CLI_WRONG_STATE for -ERR_BUSY and -ERR_EXIST. */
int cli_fail(int r, const struct err *e);

extern const struct cli_option cli_machine_options[]; /* run.c: what a machine is made of */
extern const struct cli_option cli_vm_options[];	  /* def/keys.c: what a VM has besides */

extern const struct cli_verb cli_verb_disk_check, cli_verb_disk_commit, cli_verb_disk_convert,
	cli_verb_disk_create, cli_verb_disk_info, cli_verb_disk_rebase, cli_verb_disk_resize;
extern const struct cli_verb cli_verb_completion, cli_verb_console, cli_verb_cp, cli_verb_create,
	cli_verb_doctor, cli_verb_events, cli_verb_exec, cli_verb_freeze, cli_verb_thaw, cli_verb_help,
	cli_verb_image_build, cli_verb_image_import, cli_verb_image_ls, cli_verb_image_pull,
	cli_verb_image_rm, cli_verb_inspect, cli_verb_logs, cli_verb_ls, cli_verb_man,
	cli_verb_network_create, cli_verb_network_ls, cli_verb_network_rm, cli_verb_pause,
	cli_verb_port_add, cli_verb_port_ls, cli_verb_port_rm, cli_verb_process, cli_verb_prune,
	cli_verb_ps, cli_verb_rename, cli_verb_restart, cli_verb_resume, cli_verb_rm, cli_verb_run,
	cli_verb_ssh, cli_verb_ssh_config, cli_verb_start, cli_verb_stats, cli_verb_stop,
	cli_verb_update, cli_verb_validate, cli_verb_version;

#endif
