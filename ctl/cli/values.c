/* Values of options from text. Nothing here prints. */
#include <stdlib.h>
#include <string.h>

#include "ctl/cli/cli.h"

/* Digits at *p, past which it moves. false: none, or too many. */
static bool digits(const char **p, uint64_t *n) {
	const char *start = *p;
	*n = 0;
	while (**p >= '0' && **p <= '9') {
		unsigned d = (unsigned)(*(*p)++ - '0');
		if (*n > (UINT64_MAX - d) / 10)
			return false;
		*n = *n * 10 + d;
	}
	return *p != start;
}

bool cli_read_number(const char *text, uint64_t *n) {
	return digits(&text, n) && !*text;
}

/* Units are binary, as everywhere with memory: K, M, G, T, also as KiB or KB. */
bool cli_read_size(const char *text, uint64_t *bytes) {
	static const char units[] = "kmgt";
	unsigned shift = 0;
	if (!digits(&text, bytes))
		return false;
	if (*text) {
		const char *u = strchr(units, *text | 0x20);
		if (!u || !*u)
			return false;
		shift = (unsigned)(u - units + 1) * 10;
		text++;
		if (*text == 'i')
			text++;
		if (*text == 'B' || *text == 'b')
			text++;
	}
	if (*text || *bytes > UINT64_MAX >> shift)
		return false;
	*bytes <<= shift;
	return true;
}

bool cli_read_seconds(const char *text, uint64_t *ns) {
	uint64_t whole, scale = 1, frac = 0, unit = 1000000000;
	if (!digits(&text, &whole) || whole > 1000000000)
		return false;
	if (*text == '.') {
		text++;
		const char *start = text;
		if (!digits(&text, &frac) || text - start > 9)
			return false;
		for (; start < text; start++)
			scale *= 10;
	}
	if (*text == 'm')
		unit *= 60, text++;
	else if (*text == 'h')
		unit *= 3600, text++;
	else if (*text == 's')
		text++;
	*ns = whole * unit + frac * (unit / 1000000000) * (1000000000 / scale);
	return !*text;
}

bool cli_valid_name(const char *text) {
	size_t n = strlen(text);
	if (n < 1 || n > 63 || text[0] < 'a' || text[0] > 'z')
		return false;
	return strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
}

bool cli_word_of(const char *word, const char *words) {
	size_t n = strlen(word);
	for (const char *p = words; n && (p = strstr(p, word)); p += n)
		if ((p == words || p[-1] == ' ') && (p[n] == ' ' || !p[n]))
			return true;
	return false;
}

const char *cli_kind_text(enum cli_kind kind) {
	switch (kind) {
	case CLI_SIZE:
		return "a size (examples: 512M, 2G)";
	case CLI_NUMBER:
		return "a number";
	case CLI_SECONDS:
		return "a time (examples: 30, 1.5s, 10m)";
	case CLI_NAME:
		return "a name (a letter, then up to 62 of a-z, 0-9 and -)";
	default:
		return "a value";
	}
}
