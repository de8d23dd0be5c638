/* A control group (cgroup v2) for one VM's process. There are three places where it may lie:
 *
 *   below the group that the process is in, if that was handed over to it: by systemd
 *   (Delegate=yes) or by whoever made a container;
 *   beside that group, where no systemd manages the tree;
 *   in a scope of its own, for which systemd is asked: the manager of this user, or the system's
 *   for root. A login's group is not the user's, but its manager's are.
 *
 * In the tree of systemd nothing else is touched: "there is a single writer" [systemd.io,
 * CGROUP_DELEGATION.md]. Left out: cgroup v1, where an unprivileged user has no controllers. */
#ifndef CTL_PROC_GROUP_H
#define CTL_PROC_GROUP_H

#include "core/base/types.h"

#define GROUP_PATH_MAX 512

struct group {
	char dir[GROUP_PATH_MAX]; /* empty: none */
	char id[40];			  /* of the VM */
	bool asked;				  /* systemd; it is asked once */
	bool managed;			  /* the group lies in a unit of systemd's */
};

/* Takes what can be had at once: the first two places. `root` (NULL: find out) is the group that
 * the process is said to be in, for tests. True if there is a group then. */
bool group_create(struct group *g, const char *id, const char *root);
/* The third: blocks for as long as systemd takes, some seconds at most. For `name` see limit.h. */
bool group_ask(struct group *g, const char *name);
/* A weight against what else runs: `property` of systemd ("CPUWeight") where it manages the group,
 * since what stands in a group below a scope or service counts among its sisters only, of which
 * there are none; else `file` ("cpu.weight"). */
bool group_weigh(const struct group *g, const char *file, const char *property, unsigned weight);
/* Has systemd's manager, in whose tree `dir` lies, the controller of a file like "io.weight"? A
 * user's has those that were handed over to it. */
bool group_delegated(const char *dir, const char *file);
/* A value for a file of the group: "cpu.max". */
bool group_write(const struct group *g, const char *file, const char *text);
/* Writes a file of the kernel's in one piece. */
bool group_write_text(const char *dir, const char *name, const char *text);
/* Goes back to where it was and removes the group, where the kernel lets it; else systemd does, or
 * the next VM. */
void group_destroy(struct group *g);

#endif
