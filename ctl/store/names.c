/* See names.h. The nouns are parts of buildings and carpentry: that is where joists are. */
#include "ctl/store/names.h"

#include <stdio.h>
#include <sys/random.h>

#include "core/base/bits.h"

static const char *const adjectives[] = {
	"amber",  "bold",	"brave",  "brisk",	"calm",	   "clever", "cosy",   "crisp",
	"deft",	  "eager",	"early",  "fair",	"fine",	   "firm",	 "fleet",  "fresh",
	"gentle", "glad",	"golden", "grand",	"green",   "happy",	 "hardy",  "humble",
	"jolly",  "keen",	"kind",	  "light",	"lively",  "loyal",	 "lucky",  "mellow",
	"merry",  "mild",	"neat",	  "nimble", "noble",   "polite", "proud",  "quick",
	"quiet",  "rapid",	"ready",  "robust", "royal",   "silent", "simple", "sleek",
	"smart",  "smooth", "snug",	  "solid",	"sound",   "steady", "stout",  "sunny",
	"swift",  "tidy",	"tough",  "trusty", "upright", "vivid",	 "warm",   "wise",
};

static const char *const nouns[] = {
	"anvil",   "arch",	 "attic",  "awning",  "balcony", "barn",   "batten", "beam",
	"bench",   "bolt",	 "brace",  "bracket", "brick",	 "bridge", "cabin",	 "chisel",
	"cottage", "cove",	 "dome",   "dowel",	  "eaves",	 "floor",  "forge",	 "frame",
	"gable",   "garret", "gate",   "girder",  "hammer",	 "harbor", "hearth", "hinge",
	"hall",	   "keel",	 "ladder", "larder",  "lattice", "ledge",  "lintel", "loft",
	"mallet",  "mortar", "nook",   "oak",	  "panel",	 "pier",   "pillar", "plank",
	"porch",   "purlin", "rafter", "rail",	  "ridge",	 "rivet",  "shelf",	 "shingle",
	"sill",	   "spire",	 "stair",  "tenon",	  "timber",	 "tower",  "truss",	 "vault",
};

void names_make_up(char *buf, size_t size) {
	uint16_t r[2] = {0};
	/* A failure would only make names repeat. */
	ssize_t n = getrandom(r, sizeof(r), 0);
	(void)n;
	snprintf(buf, size, "%s-%s", adjectives[r[0] % ARRAY_LEN(adjectives)],
			 nouns[r[1] % ARRAY_LEN(nouns)]);
}
