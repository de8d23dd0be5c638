/* What this host offers to a hypervisor, found out by trying and not by guessing; for
 * `joist doctor`. */
#ifndef HOST_LINUX_FACTS_H
#define HOST_LINUX_FACTS_H

#include "core/base/types.h"

enum fact_status { FACT_INFO, FACT_OK, FACT_WARN, FACT_BAD };

struct host_fact {
	const char *name; /* "kvm", "tsc" ... stable: scripts read it */
	enum fact_status status;
	char value[160]; /* what is there */
	char hint[160];	 /* what to do about it; may be empty */
};

#define HOST_FACTS 32

struct host_facts {
	unsigned n;
	struct host_fact facts[HOST_FACTS];
	/* CPU features that matter to a guest, present ones only. */
	unsigned nfeatures;
	const char *features[64];
};

/* Takes some milliseconds: the TSC's frequency may have to be measured. */
void host_facts_collect(struct host_facts *f);

#endif
