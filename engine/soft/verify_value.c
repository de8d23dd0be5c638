/* The verifier's values: what is known of a register or a word, as a linear expression of unknowns,
 * and maybe as some bits of one. Nothing here knows what the code may do with them. What must hold:
 * two values are called equal, or apart by a constant, only if they are that whatever the unknowns
 * are; where there is no room to say what a value is, it becomes an unknown of its own. */
#include "core/base/string.h"
#include "engine/soft/verify_int.h"

bool verify_refuse(struct verifier *v, const char *why) {
	if (!v->why)
		v->why = why;
	return false;
}

struct lin verify_lin_fresh(struct verifier *v) {
	if (v->natoms == MAX_ATOMS) {
		verify_refuse(v, "too long to be verified");
		return lin_constant(0); /* refused anyway */
	}
	v->atoms[v->natoms] = (struct atom){0};
	return (struct lin){.n = 1, .atom = {(uint16_t)v->natoms++}, .coef = {1}};
}

struct val verify_val_fresh(struct verifier *v, unsigned size) {
	struct val x = {.lin = verify_lin_fresh(v)};
	if (size == 4) { /* the upper half is 0 */
		x.of = x.lin;
		x.bits = true;
		x.mask = 0xffffffff;
	}
	return x;
}

struct lin verify_lin_add(struct verifier *v, const struct lin *x, const struct lin *y,
						  uint64_t k) {
	struct lin r = *x;
	r.c += k * y->c;
	for (unsigned n = 0; n < y->n; n++) {
		unsigned m = 0;
		while (m < r.n && r.atom[m] != y->atom[n])
			m++;
		if (m == TERMS)
			return verify_lin_fresh(v);
		if (m == r.n) {
			r.atom[r.n] = y->atom[n];
			r.coef[r.n++] = 0;
		}
		r.coef[m] += k * y->coef[n];
		if (!r.coef[m]) {
			r.n--;
			r.atom[m] = r.atom[r.n];
			r.coef[m] = r.coef[r.n];
		}
	}
	return r;
}

bool verify_lin_diff(struct verifier *v, const struct lin *x, const struct lin *y, uint64_t *d) {
	struct lin r = verify_lin_add(v, x, y, ~0ull);
	*d = r.c;
	return r.n == 0;
}

bool verify_val_same(struct verifier *v, const struct val *x, const struct val *y) {
	uint64_t d;
	if (verify_lin_diff(v, &x->lin, &y->lin, &d) && d == 0)
		return true;
	return x->bits && y->bits && x->shift == y->shift && x->mask == y->mask &&
		   verify_lin_diff(v, &x->of, &y->of, &d) && d == 0;
}

struct val verify_val_bits(const struct val *x) {
	struct val r = *x;
	if (!r.bits) {
		r.bits = true;
		r.of = r.lin;
		r.mask = ~0ull;
		r.shift = 0;
	}
	return r;
}

/* The same bits of the same expression are the same atom, so that an address that is computed anew
 * is known to be the one that was checked. */
static struct lin part_lin(struct verifier *v, const struct val *x) {
	uint64_t d;
	for (unsigned n = 0; n < v->nparts; n++) {
		const struct atom *a = &v->atoms[v->parts[n]];
		if (a->shift == x->shift && a->mask == x->mask && verify_lin_diff(v, &a->of, &x->of, &d) &&
			!d)
			return (struct lin){.n = 1, .atom = {v->parts[n]}, .coef = {1}};
	}
	struct lin r = verify_lin_fresh(v);
	if (r.n && v->nparts < MAX_PARTS) {
		struct atom *a = &v->atoms[r.atom[0]];
		a->part = true;
		a->shift = x->shift;
		a->mask = x->mask;
		a->of = x->of;
		v->parts[v->nparts++] = r.atom[0];
	}
	return r;
}

struct val verify_val_mask(struct verifier *v, const struct val *x, uint64_t mask) {
	struct val r = verify_val_bits(x);
	r.mask &= mask;
	r.lin = part_lin(v, &r);
	return r;
}

uint64_t verify_lin_zeros(const struct lin *x) {
	uint64_t all = x->c;
	for (unsigned n = 0; n < x->n; n++)
		all |= x->coef[n];
	return all ? (all & -all) - 1 : ~0ull;
}

/* The first 16 atoms are what the registers hold when nothing is known. */
void verify_forget(struct verifier *v) {
	if (!v->blank_made) {
		v->natoms = 0;
		for (unsigned n = 0; n < 16; n++)
			v->blank[n] = val_of(verify_lin_fresh(v));
		v->blank_made = true;
	}
	v->natoms = 16;
	v->nparts = 0;
	memcpy(v->reg, v->blank, sizeof(v->reg));
	memset(v->word_known, 0, sizeof(v->word_known));
	v->pending = PENDING_NONE;
	v->hit.on = false;
	v->npassed = 0;
	for (unsigned n = 0; n < 4; n++)
		v->swapped[n].on = false;
}
