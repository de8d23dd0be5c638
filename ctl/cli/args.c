/* The parser: a verb's arguments against its table. Options and operands mix; `--` ends
 * the options; `--name=value` and `--name value`, `-n value` and `-nvalue` are the same. */
#include <string.h>

#include "core/base/check.h"
#include "ctl/cli/cli.h"

static const struct cli_option *find_in(const struct cli_option *o, const char *name, size_t len,
										char letter) {
	for (; o && o->name; o++)
		if (name ? strlen(o->name) == len && memcmp(o->name, name, len) == 0 : o->letter == letter)
			return o;
	return NULL;
}

static const struct cli_option *find(const struct cli_verb *v, const char *name, size_t len,
									 char letter) {
	const struct cli_option *t, *o = NULL;
	for (unsigned i = 0; !o && (t = cli_table(v, i)) != NULL; i++)
		o = find_in(t, name, len, letter);
	return o;
}

static int unknown(const struct cli_verb *v, const char *arg) {
	char word[40];
	if (arg[0] != '-' || arg[1] != '-')
		return cli_usage(v, "unknown option %s", arg);
	size_t n = strcspn(arg + 2, "=");
	const char *best = NULL;
	if (n < sizeof(word)) {
		memcpy(word, arg + 2, n);
		word[n] = 0;
		best = cli_suggest_option(v, word);
	}
	if (best)
		return cli_usage(v, "unknown option --%.*s (did you mean --%s?)", (int)n, arg + 2, best);
	return cli_usage(v, "unknown option --%.*s", (int)n, arg + 2);
}

int cli_check_value(const struct cli_option *o, const char *text, struct err *e) {
	uint64_t n;
	bool good = true;
	switch (o->kind) {
	case CLI_FLAG:
		return 0;
	case CLI_TEXT:
		return cli_check_machine(o, text, e);
	case CLI_FILE:
		if (!*text)
			return err_set(e, ERR_INVAL, "--%s needs a file name, not an empty one", o->name);
		return 0;
	case CLI_SIZE:
		good = cli_read_size(text, &n);
		break;
	case CLI_NUMBER:
		good = cli_read_number(text, &n);
		break;
	case CLI_SECONDS:
		good = cli_read_seconds(text, &n);
		break;
	case CLI_NAME:
		good = cli_valid_name(text);
		break;
	case CLI_CHOICE:
		if (!cli_word_of(text, o->choices))
			return err_set(e, ERR_INVAL, "--%s %s: not one of: %s", o->name, text, o->choices);
		return 0;
	}
	if (good)
		return cli_check_machine(o, text, e);
	return err_set(e, ERR_INVAL, "--%s %s: not %s", o->name, text, cli_kind_text(o->kind));
}

static int take(struct cli_args *a, const struct cli_option *o, const char *text) {
	struct err e;
	if (text && cli_check_value(o, text, &e))
		return cli_usage(a->verb, "%s", e.text);
	if (a->nvalues == CLI_VALUES)
		return cli_usage(a->verb, "too many options");
	a->values[a->nvalues++] = (struct cli_value){o, text ? text : ""};
	return 0;
}

/* A word of another program's options at argv[*i], and the next word if that is a value. */
static bool take_foreign(struct cli_args *a, int argc, char **argv, int *i) {
	const char *word = argv[*i];
	unsigned n = 1;
	if (!a->verb->foreign || word[1] == '-' || !word[1])
		return false;
	for (const char *letter = word + 1; *letter; letter++) {
		const char *known = *letter == ':' ? NULL : strchr(a->verb->foreign, *letter);
		if (!known)
			return false;
		if (known[1] == ':') {
			n = letter[1] ? 1 : 2;
			break;
		}
	}
	/* A value that is missing is for that program to say. */
	for (unsigned k = 0; k < n && *i + (int)k < argc && a->nforeign < CLI_FOREIGN; k++)
		a->foreign[a->nforeign++] = argv[*i + (int)k];
	*i += (int)n - 1;
	return true;
}

/* One option at argv[*i], and its value if it stands in the next word. */
static int option(struct cli_args *a, int argc, char **argv, int *i) {
	const char *arg = argv[*i], *value = NULL;
	const struct cli_option *o;
	if (arg[1] == '-') {
		size_t n = strcspn(arg + 2, "=");
		o = find(a->verb, arg + 2, n, 0);
		if (arg[2 + n])
			value = arg + 2 + n + 1;
	} else {
		/* -aq: flags may stand together, and the last may have a value. */
		const char *letter = arg + 1;
		while ((o = find(a->verb, NULL, 0, *letter)) != NULL && o->kind == CLI_FLAG && letter[1]) {
			int r = take(a, o, NULL);
			if (r)
				return r;
			letter++;
		}
		if (o && letter[1])
			value = letter[1] == '=' ? letter + 2 : letter + 1;
	}
	if (!o)
		return unknown(a->verb, arg);
	if (o->kind == CLI_FLAG) {
		if (value)
			return cli_usage(a->verb, "--%s takes no value", o->name);
		return take(a, o, NULL);
	}
	if (!value) {
		if (*i + 1 >= argc)
			return cli_usage(a->verb, "--%s needs %s", o->name,
							 o->value ? o->value : cli_kind_text(o->kind));
		value = argv[++*i];
	}
	return take(a, o, value);
}

int cli_parse(struct cli_args *a, const struct cli_verb *v, int argc, char **argv, bool *help) {
	bool only_operands = false, dashes = false;
	*a = (struct cli_args){.verb = v};
	*help = false;
	for (int i = 0; i < argc; i++) {
		const char *arg = argv[i];
		int r = 0;
		/* exec VM -- COMMAND: the first one goes, others are the command's. */
		bool ends = v->end_options && a->noperands == v->end_options && !dashes && !v->foreign;
		if (strcmp(arg, "--") == 0 && (!only_operands || ends))
			only_operands = dashes = true;
		else if (!only_operands && arg[0] == '-' && arg[1])
			r = take_foreign(a, argc, argv, &i) ? 0 : option(a, argc, argv, &i);
		else if (a->noperands == v->max_operands || a->noperands == CLI_OPERANDS)
			r = cli_usage(v,
						  v->max_operands ? "too many arguments: %.200s%s%s"
										  : "takes no argument: %.200s%s%s",
						  arg, v->surplus ? "; " : "", v->surplus ? v->surplus : "");
		else
			a->operands[a->noperands++] = arg;
		if (r)
			return r;
		if (v->end_options && a->noperands == v->end_options)
			only_operands = true;
		/* Asked for help: whatever else is wrong does not matter. */
		if (a->nvalues && a->values[a->nvalues - 1].option == &cli_common[0]) {
			*help = true;
			return 0;
		}
	}
	if (a->noperands < v->min_operands)
		return cli_usage(v, "needs %s", v->operands);
	return 0;
}

static const struct cli_option *known(const struct cli_args *a, const char *name) {
	const struct cli_option *o = find(a->verb, name, strlen(name), 0);
	check(o);
	return o;
}

const char *cli_text(const struct cli_args *a, const char *name) {
	const struct cli_option *o = known(a, name);
	for (unsigned i = a->nvalues; i-- > 0;)
		if (a->values[i].option == o)
			return a->values[i].text;
	return o->preset;
}

bool cli_flag(const struct cli_args *a, const char *name) {
	return cli_text(a, name) != NULL;
}

const char *cli_nth(const struct cli_args *a, const char *name, unsigned n) {
	const struct cli_option *o = known(a, name);
	for (unsigned i = 0; i < a->nvalues; i++)
		if (a->values[i].option == o && n-- == 0)
			return a->values[i].text;
	return NULL;
}

uint64_t cli_size(const struct cli_args *a, const char *name) {
	uint64_t v = 0;
	const char *text = cli_text(a, name);
	if (text && !cli_read_size(text, &v))
		unreachable();
	return v;
}

uint64_t cli_number(const struct cli_args *a, const char *name) {
	uint64_t v = 0;
	const char *text = cli_text(a, name);
	if (text && !cli_read_number(text, &v))
		unreachable();
	return v;
}

uint64_t cli_nanoseconds(const struct cli_args *a, const char *name) {
	uint64_t v = 0;
	const char *text = cli_text(a, name);
	if (text && !cli_read_seconds(text, &v))
		unreachable();
	return v;
}
