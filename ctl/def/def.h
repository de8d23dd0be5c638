/* A VM's definition: which options it has, with their texts. The tables of the command line
 * (cli_machine_options, cli_vm_options) are the schema, so a flag, a key of the YAML file and
 * a field of the JSON output are one and the same thing. */
#ifndef CTL_DEF_DEF_H
#define CTL_DEF_DEF_H

#include <jansson.h>
#include <stdio.h>

#include "ctl/cli/cli.h"

#define DEF_FILE_MAX (1u << 20) /* bytes of a YAML file */
#define DEF_VERSION 1			/* of vm.yaml, its key `joist` */

/* Owns its texts. Zeroed: empty. */
struct def {
	unsigned n;
	struct {
		const struct cli_option *option;
		char *text;
	} values[CLI_VALUES];
};

void def_free(struct def *d);
const struct cli_option *def_option(const char *name); /* NULL: there is no such key */

/* Adds a value; a key that may not repeat is replaced. */
int def_add(struct def *d, const char *name, const char *text, struct err *e);
void def_drop(struct def *d, const char *name);
/* The value, or the preset, or NULL. `name` is a key. */
const char *def_text(const struct def *d, const char *name);
bool def_has(const struct def *d, const char *name); /* given, not preset */

/* The definition's part of a command line, over what is there. Paths become absolute. */
int def_take_args(struct def *d, const struct cli_args *a, struct err *e);
/* The other way: as if it had been typed. `a` points into `d`. */
void def_give_args(const struct def *d, struct cli_args *a, const struct cli_verb *v);

/* yaml.c: strict; errors are "FILE:LINE:COLUMN: sentence". Paths in it are taken from its folder.
 * "-" is standard input, and the folder then the current one. */
int def_read(struct def *d, const char *path, struct err *e);
/* `name` NULL: leaves it out. */
void def_write(const struct def *d, const char *name, FILE *out);
int def_save(const struct def *d, const char *path, struct err *e);
/* A new reference; strings, arrays, true. NULL: no memory. */
json_t *def_json(const struct def *d);

#endif
