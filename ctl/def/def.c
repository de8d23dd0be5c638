/* See def.h. */
#include "ctl/def/def.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/check.h"
#include "ctl/store/paths.h"

static const struct cli_option *const schema[] = {cli_machine_options, cli_vm_options, NULL};

const struct cli_option *def_option(const char *name) {
	for (unsigned t = 0; schema[t]; t++)
		for (const struct cli_option *o = schema[t]; o->name; o++)
			if (strcmp(o->name, name) == 0)
				return o;
	return NULL;
}

void def_free(struct def *d) {
	while (d->n)
		free(d->values[--d->n].text);
}

void def_drop(struct def *d, const char *name) {
	unsigned kept = 0;
	for (unsigned i = 0; i < d->n; i++) {
		if (strcmp(d->values[i].option->name, name) == 0)
			free(d->values[i].text);
		else
			d->values[kept++] = d->values[i];
	}
	d->n = kept;
}

int def_add(struct def *d, const char *name, const char *text, struct err *e) {
	const struct cli_option *o = def_option(name);
	check(o);
	int r = o->kind == CLI_FLAG ? 0 : cli_check_value(o, text, e);
	if (r)
		return r;
	char *copy = strdup(text);
	if (!copy)
		return err_set(e, ERR_NOMEM, "no memory for --%s", name);
	if (!o->repeat)
		def_drop(d, name);
	if (d->n == CLI_VALUES) {
		free(copy);
		return err_set(e, ERR_INVAL, "more than %d settings", CLI_VALUES);
	}
	d->values[d->n].option = o;
	d->values[d->n++].text = copy;
	return 0;
}

bool def_has(const struct def *d, const char *name) {
	for (unsigned i = 0; i < d->n; i++)
		if (strcmp(d->values[i].option->name, name) == 0)
			return true;
	return false;
}

const char *def_text(const struct def *d, const char *name) {
	for (unsigned i = d->n; i-- > 0;)
		if (strcmp(d->values[i].option->name, name) == 0)
			return d->values[i].text;
	const struct cli_option *o = def_option(name);
	check(o);
	return o->preset;
}

int def_take_args(struct def *d, const struct cli_args *a, struct err *e) {
	/* A key given anew replaces all its values, also of those that repeat. */
	for (unsigned i = 0; i < a->nvalues; i++)
		if (def_option(a->values[i].option->name) == a->values[i].option)
			def_drop(d, a->values[i].option->name);
	for (unsigned i = 0; i < a->nvalues; i++) {
		const struct cli_option *o = a->values[i].option;
		char path[PATHS_MAX];
		const char *text = a->values[i].text;
		int r = 0;
		if (def_option(o->name) != o)
			continue;
		if (o->kind == CLI_FILE) {
			r = paths_absolute(path, sizeof(path), text, NULL, e);
			text = path;
		}
		if (r || (r = def_add(d, o->name, text, e)) != 0)
			return r;
	}
	return 0;
}

void def_give_args(const struct def *d, struct cli_args *a, const struct cli_verb *v) {
	*a = (struct cli_args){.verb = v};
	for (unsigned i = 0; i < d->n; i++)
		a->values[a->nvalues++] = (struct cli_value){d->values[i].option, d->values[i].text};
}

static json_t *json_value(const struct def *d, unsigned i) {
	const struct cli_option *o = d->values[i].option;
	if (o->kind == CLI_FLAG)
		return json_true();
	if (!o->repeat)
		return json_string(d->values[i].text);
	json_t *list = json_array();
	for (unsigned k = i; k < d->n; k++)
		if (d->values[k].option == o)
			json_array_append_new(list, json_string(d->values[k].text));
	return list;
}

json_t *def_json(const struct def *d) {
	json_t *j = json_object();
	for (unsigned i = 0; j && i < d->n; i++)
		if (!json_object_get(j, d->values[i].option->name))
			json_object_set_new(j, d->values[i].option->name, json_value(d, i));
	return j;
}
