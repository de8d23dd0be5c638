/* Runs the test guests of cases.c, each on a machine of its own, and prints TAP.
 *
 *     guest-tests IMAGES [--engine NAME] [--tier NAME] [--cpu-model NAME] [--explained FILE]
 *                 [--patience N] [--trim] [--verbose] [CASE]...
 *
 * A case that failed is followed by the lines of its report that say what failed. FILE has
 * differences that are known and why each is there (explained.h); N times the usual time is given.
 * --trim has the engine give back all of its memory once a millisecond. Where the engine does not
 * work cases are skipped; a KVM that fails its probe still has to run those that it can. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/linux/log.h"
#include "test/guest/explained.h"
#include "test/guest/run.h"

struct options {
	const char *images, *engine, *tier, *cpu_model, *explained, *patience;
	struct engine_probe probe;
	struct explained known;
	bool verbose, trim;
	char **names;
	int nnames;
};

static bool wanted(const struct options *o, const char *name) {
	for (int i = 0; i < o->nnames; i++)
		if (!strcmp(o->names[i], name))
			return true;
	return o->nnames == 0;
}

static void print_report(const char *report, bool all) {
	for (const char *p = report; *p;) {
		size_t len = strcspn(p, "\n");
		if (all || (strncmp(p, "ok ", 3) != 0 && len < 300))
			printf("#   %.*s\n", (int)len, p);
		p += len + (p[len] == '\n');
	}
}

/* Why this case cannot run here, or NULL. */
static const char *cannot_run(const struct options *o, const struct guest_case *c) {
	return o->probe.usable || c->weak_kvm ? NULL : o->probe.why;
}

static bool run_case(const struct options *o, const struct guest_case *c, struct loop *l,
					 unsigned number) {
	char buf[400];
	unsigned running = 0;
	const char *why_not = cannot_run(o, c);
	struct guest_run r = {
		.c = c,
		.images = o->images,
		.engine = guest_engine(o->engine),
		.tier = o->tier,
		.cpu_model = o->cpu_model,
		.patience = o->patience ? (unsigned)atoi(o->patience) : 1,
		.trim = o->trim,
		.loop = l,
	};
	if (why_not) {
		printf("ok %u - %s/%s # SKIP %s\n", number, c->name, o->engine, why_not);
		return true;
	}
	l->quit = false;
	if (guest_start(&r, &running) == 0)
		loop_run(l);
	guest_finish(&r);
	const char *bad = guest_judge(&r, buf, sizeof(buf));
	const char *no_model = strstr(r.why, "which this host does not have");
	if (bad && strcmp(o->engine, "soft") != 0 && no_model) {
		printf("ok %u - %s/%s # SKIP %s\n", number, c->name, o->engine, r.why);
		free(r.report);
		return true;
	}
	const char *verdict = r.end == MACHINE_FAILED ? r.why : bad;
	unsigned differences = bad ? explained_report(&o->known, c->name, verdict, r.report) : 0;
	if (differences)
		bad = NULL;
	bool interp = o->tier && !strcmp(o->tier, "interp");
	printf("%sok %u - %s/%s%s\n", bad ? "not " : "", number, c->name, interp ? o->tier : o->engine,
		   differences ? " (explained differences)" : "");
	if (bad)
		printf("# %s%s%s\n", bad, r.why[0] ? "; " : "", r.why);
	if (bad || o->verbose)
		print_report(r.report, o->verbose);
	fflush(stdout);
	free(r.report);
	return !bad;
}

int main(int argc, char **argv) {
	static struct options o = {.engine = "soft", .cpu_model = "host"};
	struct loop l;
	struct err e = {{0}};
	unsigned count = 0, failed = 0;
	int i = 2;
	for (; i < argc && argv[i][0] == '-'; i++) {
		const char **value = !strcmp(argv[i], "--engine")	   ? &o.engine
							 : !strcmp(argv[i], "--tier")	   ? &o.tier
							 : !strcmp(argv[i], "--cpu-model") ? &o.cpu_model
							 : !strcmp(argv[i], "--explained") ? &o.explained
							 : !strcmp(argv[i], "--patience")  ? &o.patience
															   : NULL;
		if (!strcmp(argv[i], "--verbose"))
			o.verbose = true;
		else if (!strcmp(argv[i], "--trim"))
			o.trim = true;
		else if (value && i + 1 < argc)
			*value = argv[++i];
		else
			break;
	}
	if (argc < 2 || (i < argc && argv[i][0] == '-') || !guest_engine(o.engine)) {
		fprintf(stderr, "usage: guest-tests IMAGES [--engine NAME] [--tier NAME] "
						"[--cpu-model NAME] [--explained FILE] [--patience N] [--trim] [--verbose] "
						"[CASE]...\n");
		return 2;
	}
	if (o.explained && explained_read(&o.known, o.explained)) {
		fprintf(stderr, "guest-tests: cannot read %s\n", o.explained);
		return 2;
	}
	guest_engine(o.engine)->probe(&o.probe, true);
	if (!o.probe.usable && o.probe.nfindings < 3) { /* there is none at all */
		printf("1..0 # SKIP %s\n", o.probe.why);
		return 0;
	}
	o.images = argv[1];
	o.names = argv + i;
	o.nnames = argc - i;
	if (loop_create(&l, &e)) {
		fprintf(stderr, "guest-tests: %s\n", e.text);
		return 2;
	}
	for (unsigned n = 0; n < guest_ncases; n++)
		count += wanted(&o, guest_cases[n].name);
	printf("1..%u\n", count);
	count = 0;
	for (unsigned n = 0; n < guest_ncases; n++)
		if (wanted(&o, guest_cases[n].name))
			failed += !run_case(&o, &guest_cases[n], &l, ++count);
	loop_destroy(&l);
	return failed != 0;
}
