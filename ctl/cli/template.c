/* See template.h. */
#include "ctl/cli/template.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/bits.h"
#include "ctl/cli/cli.h"
#include "ctl/def/def.h"

#define NAME_MAX_ 60
#define PATH_LEVELS 8
#define TABLE_WORD "table "

#define BAD(...) (cli_error(__VA_ARGS__), CLI_USAGE)

static int no_memory(void) {
	cli_error("no memory for --format");
	return CLI_FAILED;
}

/* docker's names for what is here. */
static const struct {
	const char *theirs, *ours;
} habits[] = {
	{"names", "name"},
	{"state.status", "state"},
	{"state.pid", "pid"},
	{"state.startedat", "started"},
	{"state.finishedat", "ended"},
	{"state.exitcode", "exit-code"},
	{"state.error", "why"},
	{"createdat", "created"},
	{"config.image", "image"},
	{"networksettings.ipaddress", "addresses.0"},
	{"networksettings.ports", "ports"},
};

/* A field between the braces. */
struct field {
	const char *path; /* after the first dot; not ended by a null */
	size_t len;
	bool as_json;
};

static bool same_name(const char *a, size_t len, const char *b) {
	size_t i = 0;
	for (;;) {
		while (i < len && (a[i] == '-' || a[i] == '_'))
			i++;
		while (*b == '-' || *b == '_')
			b++;
		if (i == len || !*b)
			return i == len && !*b;
		if (tolower((unsigned char)a[i++]) != tolower((unsigned char)*b++))
			return false;
	}
}

bool template_is(const char *text) {
	return strstr(text, "{{") != NULL;
}

bool template_is_table(const char *text) {
	return strncmp(text, TABLE_WORD, strlen(TABLE_WORD)) == 0;
}

/* The field at `*at`, which stands behind "{{"; moves it behind "}}". */
static int read_field(const char **at, struct field *f) {
	const char *p = *at, *end = strstr(p, "}}");
	if (!end)
		return BAD("--format: {{%.40s has no }}", p);
	*at = end + 2;
	while (end > p && end[-1] == ' ')
		end--;
	while (p < end && *p == ' ')
		p++;
	f->as_json = end - p > 5 && memcmp(p, "json ", 5) == 0;
	if (f->as_json)
		for (p += 5; p < end && *p == ' ';)
			p++;
	size_t len = (size_t)(end - p);
	bool good = len && *p == '.';
	for (size_t i = 1; good && i < len; i++)
		good = isalnum((unsigned char)p[i]) || p[i] == '-' || p[i] == '_' ||
			   (p[i] == '.' && p[i - 1] != '.' && i + 1 < len);
	if (!good)
		return BAD("--format: {{%.*s}} is not understood: there is {{.field}} and {{json "
				   ".field}}; for more give --json to jq",
				   (int)MIN(len, 60u), p);
	f->path = p + 1;
	f->len = len - 1;
	return 0;
}

int template_check(const char *text) {
	struct field f;
	while ((text = strstr(text, "{{")) != NULL) {
		text += 2;
		int r = read_field(&text, &f);
		if (r)
			return r;
	}
	return 0;
}

/* ---- looking up ------------------------------------------------------------------------- */

static int unknown(const json_t *j, const struct field *f, const char *name, size_t len) {
	char wanted[NAME_MAX_], *names = NULL;
	size_t size;
	const char *key;
	json_t *val;
	snprintf(wanted, sizeof(wanted), "%.*s", (int)MIN(len, sizeof(wanted) - 1), name);
	if (!json_object_size(j))
		return BAD("--format: no field %s: there is nothing below {{.%.*s}}", wanted,
				   (int)MAX(0, name - f->path - 1), f->path);
	struct cli_suggest s = {.wanted = wanted};
	FILE *out = open_memstream(&names, &size);
	if (!out)
		return no_memory();
	json_object_foreach((json_t *)j, key, val) {
		cli_suggest_add(&s, key);
		fprintf(out, " %s", key);
	}
	fclose(out);
	cli_error("--format: no field %s%s%s%s; there are:%s", wanted, s.best ? " (did you mean " : "",
			  s.best ? s.best : "", s.best ? "?)" : "", names ? names : "");
	free(names);
	return CLI_USAGE;
}

static bool is_index(const char *name, size_t len, size_t *i) {
	*i = 0;
	for (size_t k = 0; k < len; k++) {
		if (name[k] < '0' || name[k] > '9' || len > 6)
			return false;
		*i = *i * 10 + (size_t)(name[k] - '0');
	}
	return len > 0;
}

static const json_t *member(const json_t *j, const char *name, size_t len) {
	const char *key;
	json_t *val;
	json_object_foreach((json_t *)j, key, val) {
		if (same_name(name, len, key))
			return val;
	}
	return NULL;
}

/* A key that a definition may have and this one has not. */
static bool is_unset_key(const char *name, size_t len) {
	const struct cli_option *const tables[] = {cli_machine_options, cli_vm_options};
	for (unsigned t = 0; t < ARRAY_LEN(tables); t++)
		for (const struct cli_option *o = tables[t]; o->name; o++)
			if (same_name(name, len, o->name))
				return true;
	return false;
}

/* *out NULL: the field is known, and empty here. */
static int look_up(const json_t *j, const struct field *f, const json_t **out) {
	struct field path = *f;
	for (unsigned i = 0; i < ARRAY_LEN(habits); i++)
		if (same_name(f->path, f->len, habits[i].theirs))
			path = (struct field){habits[i].ours, strlen(habits[i].ours), f->as_json};
	const char *at = path.path, *end = at + path.len;
	bool in_definition = false;
	while (at < end) {
		const char *dot = memchr(at, '.', (size_t)(end - at));
		size_t len = (size_t)((dot ? dot : end) - at), i;
		const json_t *next =
			json_is_array(j) && is_index(at, len, &i) ? json_array_get(j, i) : member(j, at, len);
		if (!next && (json_is_array(j) || json_is_null(j)) && is_index(at, len, &i))
			break; /* none there, as one of no addresses */
		if (!next && in_definition && is_unset_key(at, len))
			break;
		if (!next)
			return unknown(j, f, at, len);
		in_definition = same_name(at, len, "definition");
		j = next;
		at += len + (dot ? 1 : 0);
		if (at >= end) {
			*out = json_is_null(j) ? NULL : j;
			return 0;
		}
	}
	*out = path.len ? NULL : j;
	return 0;
}

/* ---- writing ---------------------------------------------------------------------------- */

static void write_plain(FILE *out, const json_t *j) {
	size_t i;
	const json_t *x;
	if (json_is_string(j)) {
		fputs(json_string_value(j), out);
	} else if (json_is_array(j)) {
		json_array_foreach((json_t *)j, i, x) {
			if (i)
				fputc(',', out);
			write_plain(out, x);
		}
	} else if (j) {
		json_dumpf(j, out, JSON_COMPACT | JSON_ENCODE_ANY);
	}
}

static void write_json(FILE *out, const json_t *j) {
	if (j)
		json_dumpf(j, out, JSON_COMPACT | JSON_ENCODE_ANY);
	else
		fputs("null", out);
}

static int write_all(FILE *out, const char *text, const json_t *j) {
	struct field f;
	while (*text) {
		if (text[0] == '{' && text[1] == '{') {
			const json_t *val;
			text += 2;
			int r = read_field(&text, &f);
			if (r || (r = look_up(j, &f, &val)) != 0)
				return r;
			(f.as_json ? write_json : write_plain)(out, val);
		} else if (text[0] == '\\' && (text[1] == 't' || text[1] == 'n')) {
			fputc(text[1] == 't' ? '\t' : '\n', out);
			text += 2;
		} else {
			fputc(*text++, out);
		}
	}
	return 0;
}

int template_expand(const char *text, const json_t *j, char **out) {
	size_t size;
	FILE *f = open_memstream(out, &size);
	if (!f)
		return no_memory();
	int r = write_all(f, text, j);
	if (fclose(f) != 0 && !r)
		r = no_memory();
	if (r) {
		free(*out);
		*out = NULL;
	}
	return r;
}

/* ---- tables ----------------------------------------------------------------------------- */

/* Cuts one column's text off, at a tab or at \t. */
static char *next_column(char **rest) {
	char *column = *rest;
	for (char *p = column; *p; p++) {
		bool word = p[0] == '\\' && p[1] == 't';
		if (*p != '\t' && !word)
			continue;
		*p = 0;
		*rest = p + (word ? 2 : 1);
		return column;
	}
	*rest = NULL;
	return column;
}

/* What stands above a column is the last part of its first field, in capitals. */
static void head_of(const char *column, char *head, size_t size) {
	struct field f = {"", 0, false};
	const char *at = strstr(column, "{{");
	if (at) {
		at += 2;
		read_field(&at, &f);
	}
	const char *name = f.path;
	for (size_t i = 0; i < f.len; i++)
		if (f.path[i] == '.')
			name = f.path + i + 1;
	size_t len = f.len - (size_t)(name - f.path), i;
	for (i = 0; i < len && i + 1 < size; i++)
		head[i] = (char)toupper((unsigned char)name[i]);
	head[i] = 0;
}

int template_table(const char *text, struct table *t) {
	char *copy = strdup(text + strlen(TABLE_WORD)), *rest = copy, heads[TABLE_COLUMNS][NAME_MAX_];
	const char *pointers[TABLE_COLUMNS];
	unsigned n = 0;
	int r = copy ? template_check(text) : no_memory();
	while (r == 0 && rest) {
		if (n == TABLE_COLUMNS) {
			r = BAD("--format: a table has up to %d columns", TABLE_COLUMNS);
			break;
		}
		head_of(next_column(&rest), heads[n], sizeof(heads[n]));
		pointers[n] = heads[n];
		n++;
	}
	if (r == 0)
		table_start(t, n, pointers);
	free(copy);
	return r;
}

int template_row(const char *text, const json_t *j, struct table *t) {
	char *copy = strdup(text + strlen(TABLE_WORD)), *rest = copy, *cell;
	int r = copy ? 0 : no_memory();
	while (r == 0 && rest && (r = template_expand(next_column(&rest), j, &cell)) == 0) {
		table_cell(t, "%s", cell);
		free(cell);
	}
	free(copy);
	return r;
}
