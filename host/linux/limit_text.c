/* See limit_text.h. */
#include "host/linux/limit_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 10M, 1500, 100Mbit: bytes, with binary suffixes, or decimal ones of bits. */
static bool read_amount(const char *text, uint64_t *n) {
	static const char units[] = "KMG";
	char *end;
	if (*text < '0' || *text > '9')
		return false;
	unsigned long long v = strtoull(text, &end, 10);
	const char *unit = *end ? strchr(units, *end) : NULL;
	unsigned power = unit ? (unsigned)(unit - units) + 1 : 0;
	end += unit != NULL;
	bool bits = !strcmp(end, "bit");
	if ((*end && !bits) || v > 1ull << 30)
		return false;
	for (; power; power--)
		v *= bits ? 1000 : 1024;
	*n = bits ? v / 8 : v;
	return *n > 0;
}

/* Where the value of `key` goes; NULL: there is no such key. */
static uint64_t *place(const char *key, const char *unit, const char *unit_burst,
					   struct rate *bytes, struct rate *units) {
	return strcmp(key, "burst") == 0	  ? &bytes->burst
		   : strcmp(key, unit) == 0		  ? &units->rate
		   : strcmp(key, unit_burst) == 0 ? &units->burst
										  : NULL;
}

int limit_read(const char *text, const char *unit, const char *unit_burst, struct rate *bytes,
			   struct rate *units, struct err *e) {
	char copy[256], *save = NULL;
	*bytes = *units = (struct rate){0, 0};
	if (strcmp(text, "none") == 0)
		return 0;
	if (strlen(text) >= sizeof(copy))
		return err_set(e, ERR_INVAL, "a limit's description is too long");
	strcpy(copy, text);
	for (char *key = strtok_r(copy, ",", &save); key; key = strtok_r(NULL, ",", &save)) {
		char *value = strchr(key, '=');
		if (value)
			*value++ = 0;
		uint64_t *to = value ? place(key, unit, unit_burst, bytes, units) : &bytes->rate;
		if (!to || !read_amount(value ? value : key, to))
			return err_set(e, ERR_INVAL,
						   "%s: not RATE[,burst=SIZE][,%s=N][,%s=N] with bytes a second like "
						   "10M or 100Mbit",
						   text, unit, unit_burst);
	}
	if ((bytes->burst && !bytes->rate) || (units->burst && !units->rate))
		return err_set(e, ERR_INVAL, "%s: a burst needs a rate", text);
	return 0;
}
