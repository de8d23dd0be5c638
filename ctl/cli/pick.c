/* See pick.h. */
#include "ctl/cli/pick.h"

#include <stdio.h>
#include <string.h>

#include "core/base/check.h"

static void probe(const struct engine_ops *ops, struct engine_probe *p, bool fresh) {
	memset(p, 0, sizeof(*p));
	p->usable = true;
	if (ops->probe)
		ops->probe(p, fresh);
}

void pick_engine(struct engine_choice *c, bool fresh) {
	char not_used[260] = "";
	memset(c, 0, sizeof(*c));
	for (; engines[c->n]; c->n++) {
		check(c->n < PICK_ENGINES);
		struct engine_probe *p = &c->probes[c->n];
		probe(engines[c->n], p, fresh);
		if (p->usable && !c->ops)
			c->ops = engines[c->n];
		else if (!p->usable && !c->ops && !not_used[0])
			snprintf(not_used, sizeof(not_used), " (not %s: %.200s)", engines[c->n]->name, p->why);
	}
	if (c->ops)
		snprintf(c->why, sizeof(c->why), "engine: %s%s", c->ops->name,
				 not_used[0] ? not_used
				 : c->n == 1 ? ", the only one of this build, and it works here"
							 : ", the fastest, and it works here");
	else
		snprintf(c->why, sizeof(c->why), "no engine works here%s", not_used);
}

static int refuse_name(const char *text, size_t len, struct err *e) {
	char list[100] = "auto", name[40];
	snprintf(name, sizeof(name), "%.*s", (int)len, text);
	for (unsigned i = 0; engines[i]; i++) {
		size_t at = strlen(list);
		snprintf(list + at, sizeof(list) - at, ", %s", engines[i]->name);
	}
	return err_set(e, ERR_INVAL, "no engine %s; this build has %s", name, list);
}

int pick_engine_named(const char *text, bool force, struct engine_pick *pick, struct err *e) {
	size_t len = strcspn(text, ",");
	*pick = (struct engine_pick){.tier = text[len] ? text + len + 1 : NULL};
	if (len == 4 && memcmp(text, "auto", 4) == 0) {
		struct engine_choice c;
		pick_engine(&c, false);
		pick->ops = c.ops;
		if (c.ops != engines[0])
			snprintf(pick->why, sizeof(pick->why), "%s", c.why);
		return c.ops ? 0 : err_set(e, ERR_NOTSUP, "%s; 'joist doctor' says more", c.why);
	}
	for (unsigned i = 0; engines[i]; i++) {
		if (strlen(engines[i]->name) != len || memcmp(engines[i]->name, text, len) != 0)
			continue;
		struct engine_probe p;
		if (!force) {
			probe(engines[i], &p, false);
			if (!p.usable)
				return err_set(e, ERR_NOTSUP,
							   "engine %s does not work here: %s; --force tries it all the same",
							   engines[i]->name, p.why);
		}
		pick->ops = engines[i];
		return 0;
	}
	return refuse_name(text, len, e);
}
