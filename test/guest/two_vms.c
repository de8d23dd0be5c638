/* Two VMs in one process, at the same time: each fills its memory with its own pattern, checks
 * it again and again, and reports. What either shows must be its own. Prints TAP.
 *
 *     two-vms IMAGES [--engine NAME] [--tier NAME] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test/guest/run.h"

#define VMS 2

static const struct guest_case cases[VMS] = {
	{.name = "vm-a", .image = "pattern_a", .cpus = 2, .memory_mb = 32, .checks = 4},
	{.name = "vm-b", .image = "pattern_b", .cpus = 1, .memory_mb = 64, .checks = 4},
};

int main(int argc, char **argv) {
	struct guest_run r[VMS];
	const char *engine = "soft", *tier = NULL;
	struct loop l;
	struct err e = {{0}};
	unsigned running = 0, failed = 0;
	char buf[400];
	if (argc < 2)
		return 2;
	for (int i = 2; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--engine"))
			engine = argv[i + 1];
		else if (!strcmp(argv[i], "--tier"))
			tier = argv[i + 1];
	}
	if (!guest_engine(engine) || loop_create(&l, &e)) {
		fprintf(stderr, "two-vms: no engine \"%s\", or %s\n", engine, e.text);
		return 2;
	}
	printf("1..%u\n", VMS * 2);
	for (unsigned i = 0; i < VMS; i++) {
		r[i] = (struct guest_run){
			.c = &cases[i],
			.images = argv[1],
			.engine = guest_engine(engine),
			.tier = tier,
			.cpu_model = "host",
			.loop = &l,
		};
		guest_start(&r[i], &running);
	}
	if (running)
		loop_run(&l);
	for (unsigned i = 0; i < VMS; i++)
		guest_finish(&r[i]);
	for (unsigned i = 0; i < VMS; i++) {
		const char *bad = guest_judge(&r[i], buf, sizeof(buf));
		const char *other = i ? "pattern a" : "pattern b";
		bool mixed = strstr(r[i].report, other);
		printf("%sok %u - two-vms-%s/%s\n", bad ? "not " : "", i * 2 + 1, cases[i].name, engine);
		if (bad)
			printf("# %s\n# %s\n", bad, r[i].report);
		printf("%sok %u - two-vms-%s-alone/%s\n", mixed ? "not " : "", i * 2 + 2, cases[i].name,
			   engine);
		failed += bad != NULL || mixed;
		free(r[i].report);
	}
	loop_destroy(&l);
	return failed != 0;
}
