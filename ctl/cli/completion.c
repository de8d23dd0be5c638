/* joist completion: scripts for bash, zsh and fish, from the tables. */
#include <stdio.h>
#include <string.h>

#include "ctl/cli/cli.h"

typedef void each_fn(const struct cli_option *o);

static void each_option(const struct cli_verb *v, each_fn *fn) {
	const struct cli_option *t;
	for (unsigned i = 0; (t = cli_table(v, i)) != NULL; i++)
		for (const struct cli_option *o = t; o->name; o++)
			fn(o);
}

static size_t first_word(const struct cli_verb *v) {
	return strcspn(v->name, " ");
}

/* Is it the first of the verbs with this first word? */
static bool leads(unsigned i) {
	size_t n = first_word(cli_verbs[i]);
	for (unsigned k = 0; k < i; k++)
		if (!cli_verbs[k]->hidden && first_word(cli_verbs[k]) == n &&
			strncmp(cli_verbs[k]->name, cli_verbs[i]->name, n) == 0)
			return false;
	return !cli_verbs[i]->hidden;
}

/* First words, or the second words of `group`. */
static void print_words(const struct cli_verb *group) {
	size_t len = group ? first_word(group) : 0;
	for (unsigned i = 0, n = 0; cli_verbs[i]; i++) {
		const struct cli_verb *v = cli_verbs[i];
		if (!group && leads(i))
			printf("%s%.*s", n++ ? " " : "", (int)first_word(v), v->name);
		else if (group && first_word(v) == len && strncmp(v->name, group->name, len) == 0)
			printf("%s%s", n++ ? " " : "", v->name + len + 1);
	}
}

static bool is_group(const struct cli_verb *v) {
	return strchr(v->name, ' ') != NULL;
}

/* What a shell runs to list the operands, or the words themselves. NULL: files. */
static const char *operands_of(const struct cli_verb *v, bool *is_command) {
	*is_command = v->complete && (!strcmp(v->complete, "vm") || !strcmp(v->complete, "image"));
	if (!v->complete)
		return NULL;
	if (!*is_command)
		return v->complete;
	return v->complete[0] == 'v' ? "joist ls -aq 2>/dev/null" : "joist image ls -q 2>/dev/null";
}

/* ---- bash ----------------------------------------------------------------------------- */

static void bash_word(const struct cli_option *o) {
	printf(" --%s", o->name);
	if (o->letter)
		printf(" -%c", o->letter);
}

static void bash_value(const struct cli_option *o) {
	if (o->kind == CLI_FLAG)
		return;
	printf("    %s:--%s", "*", o->name);
	if (o->letter)
		printf("|*:-%c", o->letter);
	if (o->kind == CLI_FILE)
		printf(") compopt -o filenames; COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n");
	else
		printf(") COMPREPLY=($(compgen -W \"%s\" -- \"$cur\")); return ;;\n",
			   o->choices ? o->choices : "");
}

static void bash_operands(const struct cli_verb *v) {
	bool command;
	const char *from = operands_of(v, &command);
	if (v == &cli_verb_help) {
		printf("      else COMPREPLY=($(compgen -W \"");
		print_words(NULL);
		printf("\" -- \"$cur\"))\n");
	} else if (from) {
		printf("      else COMPREPLY=($(compgen -W \"%s%s%s\" -- \"$cur\"))\n", command ? "$(" : "",
			   from, command ? ")" : "");
	} else if (v->max_operands) {
		printf("      else compopt -o filenames; COMPREPLY=($(compgen -f -- \"$cur\"))\n");
	}
}

static void bash(void) {
	printf("# bash completion of joist; made by 'joist completion bash'\n"
		   "_joist() {\n"
		   "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
		   "  local verb=${COMP_WORDS[1]}\n"
		   "  COMPREPLY=()\n"
		   "  if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
		   "    COMPREPLY=($(compgen -W \"");
	print_words(NULL);
	printf(" --help --version\" -- \"$cur\"))\n    return\n  fi\n  case $verb in\n");
	for (unsigned i = 0; cli_verbs[i]; i++) {
		if (!leads(i) || !is_group(cli_verbs[i]))
			continue;
		printf("    %.*s)\n      if [ \"$COMP_CWORD\" -eq 2 ]; then\n"
			   "        COMPREPLY=($(compgen -W \"",
			   (int)first_word(cli_verbs[i]), cli_verbs[i]->name);
		print_words(cli_verbs[i]);
		printf("\" -- \"$cur\")); return\n      fi\n      verb=\"$verb ${COMP_WORDS[2]}\" ;;\n");
	}
	printf("  esac\n  case $verb:$prev in\n");
	for (unsigned i = 0; cli_verbs[i]; i++)
		if (!cli_verbs[i]->hidden && cli_verbs[i]->options)
			for (const struct cli_option *o = cli_verbs[i]->options; o->name; o++)
				bash_value(o);
	for (const struct cli_option *o = cli_machine_options; o->name; o++)
		bash_value(o);
	for (const struct cli_option *o = cli_vm_options; o->name; o++)
		bash_value(o);
	printf("  esac\n  case $verb in\n");
	for (unsigned i = 0; cli_verbs[i]; i++) {
		const struct cli_verb *v = cli_verbs[i];
		if (v->hidden)
			continue;
		printf("    \"%s\")\n      if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W \"", v->name);
		each_option(v, bash_word);
		printf("\" -- \"$cur\"))\n");
		bash_operands(v);
		printf("      fi ;;\n");
	}
	printf("  esac\n}\ncomplete -F _joist joist\n");
}

/* ---- zsh ------------------------------------------------------------------------------ */

/* Inside '...' with zsh's own separators escaped. */
static void zsh_text(const char *text) {
	for (; *text; text++) {
		if (strchr("[]:\\", *text))
			putchar('\\');
		if (*text == '\'')
			printf("'\\'");
		putchar(*text);
	}
}

static void zsh_one(const struct cli_option *o, const char *dash, const char *name, size_t len) {
	printf("        '%s%s%.*s[", o->repeat ? "*" : "", dash, (int)len, name);
	zsh_text(o->help);
	printf("]");
	if (o->kind != CLI_FLAG) {
		printf(":");
		zsh_text(o->value);
		if (o->kind == CLI_FILE)
			printf(":_files");
		else if (o->choices)
			printf(":(%s)", o->choices);
		else
			printf(": ");
	}
	printf("' \\\n");
}

static void zsh_option(const struct cli_option *o) {
	zsh_one(o, "--", o->name, strlen(o->name));
	if (o->letter)
		zsh_one(o, "-", &o->letter, 1);
}

static void zsh_operands(const struct cli_verb *v) {
	bool command;
	const char *from = operands_of(v, &command);
	if (v == &cli_verb_help) {
		printf("        ':command:(");
		print_words(NULL);
		printf(")'\n");
	} else if (from) {
		printf(command ? "        '*:name:($(%s))'\n" : "        ':word:(%s)'\n", from);
	} else {
		printf(v->max_operands ? "        '*:file:_files'\n" : "        ':'\n");
	}
}

static void zsh(void) {
	printf("#compdef joist\n# made by 'joist completion zsh'\n_joist() {\n"
		   "  local -a verbs\n  verbs=(\n");
	for (unsigned i = 0; cli_verbs[i]; i++) {
		if (!leads(i))
			continue;
		printf("    '%.*s:", (int)first_word(cli_verbs[i]), cli_verbs[i]->name);
		zsh_text(is_group(cli_verbs[i]) ? "several commands" : cli_verbs[i]->summary);
		printf("'\n");
	}
	printf("  )\n  if (( CURRENT == 2 )); then\n    _describe command verbs\n    return\n  fi\n"
		   "  local verb=$words[2]\n  shift words\n  (( CURRENT-- ))\n  case $verb in\n");
	for (unsigned i = 0; cli_verbs[i]; i++) {
		if (!leads(i) || !is_group(cli_verbs[i]))
			continue;
		printf("    %.*s)\n      if (( CURRENT == 2 )); then compadd ",
			   (int)first_word(cli_verbs[i]), cli_verbs[i]->name);
		print_words(cli_verbs[i]);
		printf("; return; fi\n      verb=\"$verb $words[2]\"; shift words; (( CURRENT-- )) ;;\n");
	}
	printf("  esac\n  case $verb in\n");
	for (unsigned i = 0; cli_verbs[i]; i++) {
		const struct cli_verb *v = cli_verbs[i];
		if (v->hidden)
			continue;
		printf("    '%s')\n      _arguments \\\n", v->name);
		each_option(v, zsh_option);
		zsh_operands(v);
		printf("      ;;\n");
	}
	printf("  esac\n}\ncompdef _joist joist 2>/dev/null\n");
}

/* ---- fish ----------------------------------------------------------------------------- */

static void fish_text(const char *text) {
	for (; *text; text++) {
		if (*text == '\'' || *text == '\\')
			putchar('\\');
		putchar(*text);
	}
}

/* The condition under which a verb's words are offered. */
static void fish_when(const struct cli_verb *v) {
	size_t n = first_word(v);
	printf("complete -c joist -n '__fish_seen_subcommand_from %.*s", (int)n, v->name);
	if (is_group(v))
		printf("; and __fish_seen_subcommand_from %s", v->name + n + 1);
	printf("'");
}

static void fish_option(const struct cli_verb *v, const struct cli_option *o) {
	fish_when(v);
	printf(" -l %s", o->name);
	if (o->letter)
		printf(" -s %c", o->letter);
	if (o->kind == CLI_FILE)
		printf(" -r -F");
	else if (o->kind != CLI_FLAG)
		printf(" -x");
	if (o->choices)
		printf(" -a '%s'", o->choices);
	printf(" -d '");
	fish_text(o->help);
	printf("'\n");
}

static void fish(void) {
	printf("# made by 'joist completion fish'\ncomplete -c joist -f\n");
	for (unsigned i = 0; cli_verbs[i]; i++) {
		const struct cli_verb *v = cli_verbs[i];
		const struct cli_option *t;
		bool command;
		const char *from = operands_of(v, &command);
		if (v->hidden)
			continue;
		if (leads(i)) {
			printf("complete -c joist -n __fish_use_subcommand -a %.*s -d '", (int)first_word(v),
				   v->name);
			fish_text(is_group(v) ? "several commands" : v->summary);
			printf("'\n");
		}
		if (leads(i) && is_group(v)) {
			printf("complete -c joist -n '__fish_seen_subcommand_from %.*s' -a '",
				   (int)first_word(v), v->name);
			print_words(v);
			printf("'\n");
		}
		for (unsigned k = 0; (t = cli_table(v, k)) != NULL; k++)
			for (const struct cli_option *o = t; o->name; o++)
				fish_option(v, o);
		if (from || v->max_operands) {
			fish_when(v);
			if (from)
				printf(" -a '%s%s%s'\n", command ? "(" : "", from, command ? ")" : "");
			else
				printf(" -F\n");
		}
	}
}

static int run(const struct cli_args *a) {
	const char *shell = a->operands[0];
	if (strcmp(shell, "bash") == 0)
		bash();
	else if (strcmp(shell, "zsh") == 0)
		zsh();
	else if (strcmp(shell, "fish") == 0)
		fish();
	else
		return cli_usage(a->verb, "no completion for %s; there is bash, zsh and fish", shell);
	return CLI_OK;
}

const struct cli_verb cli_verb_completion = {
	.name = "completion",
	.operands = "bash|zsh|fish",
	.min_operands = 1,
	.max_operands = 1,
	.complete = "bash zsh fish",
	.summary = "print a completion script for a shell",
	.about = "Prints a script that completes commands, options and their values.",
	.examples = "  joist completion bash > ~/.local/share/bash-completion/completions/joist\n"
				"  joist completion zsh > ~/.zfunc/_joist\n"
				"  joist completion fish > ~/.config/fish/completions/joist.fish\n",
	.run = run,
};
