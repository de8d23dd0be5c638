/* joist version: which version this is, and what it was built with. */
#include <jansson.h>
#include <stdio.h>

#include "core/board/board.h"
#include "ctl/cli/cli.h"
#include "engine/engine.h"

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

static int print_json(void) {
	json_t *names = json_array(), *boards = json_array();
	for (unsigned i = 0; engines[i]; i++)
		json_array_append_new(names, json_string(engines[i]->name));
	for (unsigned i = 0; board_names[i]; i++)
		json_array_append_new(boards, json_string(board_names[i]));
	json_t *j = json_pack("{s:s, s:s, s:o, s:o}", "version", JOIST_VERSION, "compiler", COMPILER,
						  "engines", names, "boards", boards);
	int r = j ? json_dumpf(j, stdout, JSON_INDENT(2)) : -1;
	json_decref(j);
	putchar('\n');
	return r == 0 ? CLI_OK : CLI_FAILED;
}

static int run(const struct cli_args *a) {
	if (cli_flag(a, "json"))
		return print_json();
	printf("joist %s\n", JOIST_VERSION);
	return CLI_OK;
}

static const struct cli_option options[] = {
	{.name = "json", .kind = CLI_FLAG, .help = "Print JSON, with engines, boards and compiler"},
	{0},
};

const struct cli_verb cli_verb_version = {
	.name = "version",
	.summary = "tell the version",
	.options = options,
	.run = run,
};
