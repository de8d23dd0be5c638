/* Definitions as YAML 1.1 (libyaml): one mapping from keys to a scalar or, for keys that may
 * repeat, a list of scalars. Nothing else of YAML is taken: no anchors, no nested mappings, no
 * second document. Every complaint says where. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yaml.h>

#include "ctl/def/def.h"
#include "ctl/store/paths.h"
#include "host/linux/file.h"

struct reader {
	yaml_parser_t parser;
	yaml_event_t event;
	const char *path;
	char folder[PATHS_MAX]; /* of the file */
	struct def *def;
	struct err *e;
};

static int complain(struct reader *r, yaml_mark_t at, const char *what, const char *word,
					const char *more) {
	return err_set(r->e, ERR_INVAL, "%s:%zu:%zu: %s%s%.100s%s", r->path, at.line + 1, at.column + 1,
				   what, word ? " " : "", word ? word : "", more ? more : "");
}

/* The next event into r->event, whose predecessor is freed. */
static int next(struct reader *r) {
	yaml_event_delete(&r->event);
	if (yaml_parser_parse(&r->parser, &r->event))
		return 0;
	return complain(r, r->parser.problem_mark, r->parser.problem ? r->parser.problem : "bad YAML",
					NULL, NULL);
}

static int unknown_key(struct reader *r, const char *key) {
	struct cli_suggest s = {.wanted = key};
	char more[80] = "";
	for (const struct cli_option *o = cli_machine_options; o->name; o++)
		cli_suggest_add(&s, o->name);
	for (const struct cli_option *o = cli_vm_options; o->name; o++)
		cli_suggest_add(&s, o->name);
	const char *habit = cli_suggest_habit(key);
	if (habit && def_option(habit))
		s.best = habit;
	if (s.best)
		snprintf(more, sizeof(more), " (did you mean %s?)", s.best);
	return complain(r, r->event.start_mark, "unknown key", key, more);
}

static const char *scalar(const struct reader *r) {
	const char *text = (const char *)r->event.data.scalar.value;
	/* A null byte inside would be cut off silently. */
	return strlen(text) == r->event.data.scalar.length ? text : NULL;
}

static int add_scalar(struct reader *r, const struct cli_option *o) {
	const char *text = scalar(r);
	char path[PATHS_MAX];
	struct err e;
	if (!text)
		return complain(r, r->event.start_mark, "a null byte in the value of", o->name, NULL);
	if (o->kind == CLI_FLAG) {
		if (strcmp(text, "false") == 0 || strcmp(text, "no") == 0)
			return 0;
		if (strcmp(text, "true") && strcmp(text, "yes"))
			return complain(r, r->event.start_mark, "neither true nor false:", text, NULL);
		text = "";
	} else if (o->kind == CLI_FILE && *text) {
		if (paths_absolute(path, sizeof(path), text, r->folder, &e))
			return complain(r, r->event.start_mark, e.text, NULL, NULL);
		text = path;
	}
	if (def_add(r->def, o->name, text, &e)) {
		/* The sentence speaks of an option; in a file it is a key. */
		const char *sentence = strncmp(e.text, "--", 2) == 0 ? e.text + 2 : e.text;
		return complain(r, r->event.start_mark, sentence, NULL, NULL);
	}
	return 0;
}

static int value(struct reader *r, const struct cli_option *o) {
	int result = next(r);
	if (result)
		return result;
	if (r->event.type == YAML_SCALAR_EVENT)
		return add_scalar(r, o);
	if (r->event.type != YAML_SEQUENCE_START_EVENT || !o->repeat)
		return complain(r, r->event.start_mark,
						o->repeat ? "a value or a list of values is wanted for"
								  : "one value is wanted for",
						o->name, NULL);
	while ((result = next(r)) == 0 && r->event.type != YAML_SEQUENCE_END_EVENT) {
		if (r->event.type != YAML_SCALAR_EVENT)
			return complain(r, r->event.start_mark, "only plain values in the list of", o->name,
							NULL);
		if ((result = add_scalar(r, o)) != 0)
			return result;
	}
	return result;
}

static int version(struct reader *r) {
	int result = next(r);
	if (result)
		return result;
	if (r->event.type != YAML_SCALAR_EVENT || strcmp((char *)r->event.data.scalar.value, "1") != 0)
		return complain(r, r->event.start_mark, "joist: only version 1 of the format is known",
						NULL, NULL);
	return 0;
}

static int pair(struct reader *r) {
	if (r->event.type != YAML_SCALAR_EVENT)
		return complain(r, r->event.start_mark, "a key is wanted here", NULL, NULL);
	const char *key = scalar(r);
	if (key && strcmp(key, "joist") == 0)
		return version(r);
	const struct cli_option *o = key ? def_option(key) : NULL;
	if (!o)
		return unknown_key(r, key ? key : "");
	if (def_has(r->def, o->name))
		return complain(r, r->event.start_mark, "a second", o->name, "; list values with - or [ ]");
	return value(r, o);
}

static int document(struct reader *r) {
	int result = next(r); /* stream start */
	if (result || (result = next(r)) != 0)
		return result;
	if (r->event.type == YAML_STREAM_END_EVENT)
		return 0; /* empty */
	if ((result = next(r)) != 0)
		return result;
	if (r->event.type != YAML_MAPPING_START_EVENT)
		return complain(r, r->event.start_mark, "a definition is a list of \"key: value\" lines",
						NULL, NULL);
	while ((result = next(r)) == 0 && r->event.type != YAML_MAPPING_END_EVENT)
		if ((result = pair(r)) != 0)
			return result;
	if (result || (result = next(r)) != 0 || (result = next(r)) != 0)
		return result;
	if (r->event.type != YAML_STREAM_END_EVENT)
		return complain(r, r->event.start_mark, "only one document a file", NULL, NULL);
	return 0;
}

/* All of standard input, up to a byte more than a definition may have. */
static int read_input(struct host_file *f, struct err *e) {
	*f = (struct host_file){.data = malloc(DEF_FILE_MAX + 1)};
	ssize_t n = 1;
	if (!f->data)
		return err_set(e, ERR_NOMEM, "no memory to read standard input");
	while (n && f->len <= DEF_FILE_MAX) {
		n = read(STDIN_FILENO, f->data + f->len, DEF_FILE_MAX + 1 - f->len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			host_file_free(f);
			return err_set(e, errno, "reading standard input: %s", strerror(errno));
		}
		f->len += (size_t)n;
	}
	return 0;
}

int def_read(struct def *d, const char *path, struct err *e) {
	struct reader r = {.path = path, .def = d, .e = e};
	struct host_file f;
	char *slash;
	int result = paths_absolute(r.folder, sizeof(r.folder), path, NULL, e);
	if (result)
		return result;
	if ((slash = strrchr(r.folder, '/')) != NULL)
		slash[slash == r.folder] = 0;
	result = strcmp(path, "-") == 0 ? read_input(&f, e) : host_file_read(&f, path, "definition", e);
	if (result)
		return result;
	if (strcmp(path, "-") == 0)
		r.path = "standard input";
	if (f.len > DEF_FILE_MAX) {
		host_file_free(&f);
		return err_set(e, ERR_FBIG, "definition %s has more than 1 MiB", path);
	}
	if (!yaml_parser_initialize(&r.parser)) {
		host_file_free(&f);
		return err_set(e, ERR_NOMEM, "no memory to read %s", path);
	}
	yaml_parser_set_input_string(&r.parser, f.data, f.len);
	result = document(&r);
	yaml_event_delete(&r.event);
	yaml_parser_delete(&r.parser);
	host_file_free(&f);
	return result;
}

/* ---- writing ------------------------------------------------------------------------- */

/* Plain if no reader could take it for something else, in double quotes else. */
static void put_scalar(FILE *out, const char *text) {
	static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-";
	static const char *const words[] = {"true", "false", "yes", "no", "on", "off", "null", "~"};
	bool plain = *text && *text != '-' && *text != '.' && text[strspn(text, safe)] == 0;
	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		plain = plain && strcasecmp(text, words[i]) != 0;
	if (plain) {
		fputs(text, out);
		return;
	}
	fputc('"', out);
	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		if (*p == '"' || *p == '\\')
			fprintf(out, "\\%c", *p);
		else if (*p == '\n')
			fputs("\\n", out);
		else if (*p < ' ' || *p == 127)
			fprintf(out, "\\x%02x", *p);
		else
			fputc(*p, out);
	}
	fputc('"', out);
}

static bool seen_before(const struct def *d, unsigned i) {
	for (unsigned k = 0; k < i; k++)
		if (d->values[k].option == d->values[i].option)
			return true;
	return false;
}

void def_write(const struct def *d, const char *name, FILE *out) {
	fprintf(out, "joist: %d\n", DEF_VERSION);
	if (name)
		fprintf(out, "name: %s\n", name);
	for (unsigned i = 0; i < d->n; i++) {
		const struct cli_option *o = d->values[i].option;
		if (seen_before(d, i) || strcmp(o->name, "name") == 0)
			continue;
		fprintf(out, "%s:", o->name);
		if (o->kind == CLI_FLAG) {
			fputs(" true\n", out);
		} else if (!o->repeat) {
			fputc(' ', out);
			put_scalar(out, d->values[i].text);
			fputc('\n', out);
		} else {
			fputc('\n', out);
			for (unsigned k = i; k < d->n; k++) {
				if (d->values[k].option != o)
					continue;
				fputs("  - ", out);
				put_scalar(out, d->values[k].text);
				fputc('\n', out);
			}
		}
	}
}

int def_save(const struct def *d, const char *path, struct err *e) {
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	if (!f)
		return err_set(e, ERR_NOMEM, "no memory to write %s", path);
	def_write(d, NULL, f);
	if (fclose(f) != 0) {
		free(text);
		return err_set(e, ERR_NOMEM, "no memory to write %s", path);
	}
	int r = paths_write_file(path, text, len, e);
	free(text);
	return r;
}
