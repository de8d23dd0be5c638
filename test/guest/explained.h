/* Differences between engines that are known, each with its reason. A file of lines
 *
 *     CASE: TEXT -- REASON
 *
 * where TEXT is the beginning of a failed check's name, of an UNEXPECTED line of the report, or
 * (after "end: ") of how the case ended. Empty lines and those with # are comments. */
#ifndef TEST_GUEST_EXPLAINED_H
#define TEST_GUEST_EXPLAINED_H

struct explained {
	char *text; /* of the file; NULL: nothing is explained */
};

/* 0, or -1: cannot be read. */
int explained_read(struct explained *e, const char *path);

/* How many differences the report of a case has, or 0 if one of them is not explained. `verdict`
 * is guest_judge()'s sentence. */
unsigned explained_report(const struct explained *e, const char *name, const char *verdict,
						  const char *report);

#endif
