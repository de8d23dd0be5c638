/* joist completion: scripts for bash, zsh and fish, from the tables. */
#include <stdio.h>
#include <string.h>

#include "ctl/cli/cli.h"

typedef void each_fn(const struct cli_option *o);

static void each_option(const struct cli_verb *v, each_fn *fn) {
	for (const struct cli_option *o = v->options; o && o->name; o++)
		fn(o);
	for (const struct cli_option *o = cli_common; o->name; o++)
		fn(o);
}

static void print_verbs(void) {
	for (unsigned i = 0, n = 0; cli_verbs[i]; i++)
		if (!cli_verbs[i]->hidden)
			printf("%s%s", n++ ? " " : "", cli_verbs[i]->name);
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

static void bash(void) {
	printf("# bash completion of joist; made by 'joist completion bash'\n"
		   "_joist() {\n"
		   "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
		   "  local verb=${COMP_WORDS[1]}\n"
		   "  COMPREPLY=()\n"
		   "  if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
		   "    COMPREPLY=($(compgen -W \"");
	print_verbs();
	printf(" --help --version\" -- \"$cur\"))\n    return\n  fi\n  case $verb:$prev in\n");
	for (unsigned i = 0; cli_verbs[i]; i++)
		if (!cli_verbs[i]->hidden && cli_verbs[i]->options)
			for (const struct cli_option *o = cli_verbs[i]->options; o->name; o++)
				bash_value(o);
	printf("  esac\n  case $verb in\n");
	for (unsigned i = 0; cli_verbs[i]; i++) {
		const struct cli_verb *v = cli_verbs[i];
		if (v->hidden)
			continue;
		printf("    %s)\n      if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W \"", v->name);
		each_option(v, bash_word);
		printf("\" -- \"$cur\"))\n");
		if (v == &cli_verb_completion)
			printf("      else COMPREPLY=($(compgen -W \"bash zsh fish\" -- \"$cur\"))\n");
		else if (v == &cli_verb_help) {
			printf("      else COMPREPLY=($(compgen -W \"");
			print_verbs();
			printf("\" -- \"$cur\"))\n");
		} else if (v->max_operands)
			printf("      else compopt -o filenames; COMPREPLY=($(compgen -f -- \"$cur\"))\n");
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

static void zsh(void) {
	printf("#compdef joist\n# made by 'joist completion zsh'\n_joist() {\n"
		   "  local -a verbs\n  verbs=(\n");
	for (unsigned i = 0; cli_verbs[i]; i++) {
		if (cli_verbs[i]->hidden)
			continue;
		printf("    '%s:", cli_verbs[i]->name);
		zsh_text(cli_verbs[i]->summary);
		printf("'\n");
	}
	printf("  )\n  if (( CURRENT == 2 )); then\n    _describe command verbs\n    return\n  fi\n"
		   "  local verb=$words[2]\n  shift words\n  (( CURRENT-- ))\n  case $verb in\n");
	for (unsigned i = 0; cli_verbs[i]; i++) {
		const struct cli_verb *v = cli_verbs[i];
		if (v->hidden)
			continue;
		printf("    %s)\n      _arguments \\\n", v->name);
		each_option(v, zsh_option);
		if (v == &cli_verb_completion)
			printf("        ':shell:(bash zsh fish)'\n");
		else if (v == &cli_verb_help) {
			printf("        ':command:(");
			print_verbs();
			printf(")'\n");
		} else if (v->max_operands)
			printf("        ':file:_files'\n");
		else
			printf("        ':'\n");
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

static void fish_verb(const struct cli_verb *v, const struct cli_option *o) {
	for (; o && o->name; o++) {
		printf("complete -c joist -n '__fish_seen_subcommand_from %s' -l %s", v->name, o->name);
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
}

static void fish(void) {
	printf("# made by 'joist completion fish'\ncomplete -c joist -f\n");
	for (unsigned i = 0; cli_verbs[i]; i++) {
		const struct cli_verb *v = cli_verbs[i];
		if (v->hidden)
			continue;
		printf("complete -c joist -n __fish_use_subcommand -a %s -d '", v->name);
		fish_text(v->summary);
		printf("'\n");
		fish_verb(v, v->options);
		fish_verb(v, cli_common);
	}
	printf("complete -c joist -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'\n"
		   "complete -c joist -n '__fish_seen_subcommand_from run' -F\n");
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
	.summary = "print a completion script for a shell",
	.about = "Prints a script that completes commands, options and their values.",
	.examples = "  joist completion bash > ~/.local/share/bash-completion/completions/joist\n"
				"  joist completion zsh > ~/.zfunc/_joist\n"
				"  joist completion fish > ~/.config/fish/completions/joist.fish\n",
	.run = run,
};
