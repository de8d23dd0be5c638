/* --format TEMPLATE, as with docker: text with {{.field}} and {{json .field}} in it. A field is a
 * path of names and numbers, {{.definition.memory}}, {{.addresses.0}}; letters count without case
 * and dashes, so that {{.ExitCode}} is exit-code, and what docker calls its fields is known, too:
 * {{.State.Pid}}. \t and \n in the text are a tab and a new line.
 *
 * Left out: range, if, functions and pipes of Go's templates. They are refused with a word about
 * --json, which jq takes. */
#ifndef CTL_CLI_TEMPLATE_H
#define CTL_CLI_TEMPLATE_H

#include <jansson.h>

#include "ctl/cli/table.h"

bool template_is(const char *text);		  /* has it a field at all? */
bool template_is_table(const char *text); /* is it "table ..."? */
/* All return an exit code, message printed. */
int template_check(const char *text); /* has it the shape of one? */
/* Expands it for one object; the caller frees `*out`. */
int template_expand(const char *text, const json_t *j, char **out);
/* For "table {{.name}}\t{{.state}}": begins the table with the heads of its columns. */
int template_table(const char *text, struct table *t);
int template_row(const char *text, const json_t *j, struct table *t);

#endif
