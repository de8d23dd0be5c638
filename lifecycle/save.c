/* See save.h. */
#include "lifecycle/save.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/bits.h"
#include "core/base/le.h"

#define MAGIC "joist-vm"
#define FORMAT 1
#define PIECE MIB(1)
#define STATE_MAX MIB(64) /* far above what 64 vCPUs and a full bus have */
#define HEAD 36
#define LEAF 24

/* The stream and a checksum of what went over it (FNV-1a over 64-bit words; for accidents, not
 * against forgers). */
struct pipe {
	const struct save_stream *s;
	uint64_t sum;
	bool broken;
};

static void sum_bytes(struct pipe *p, const uint8_t *buf, size_t len) {
	uint64_t h = p->sum;
	size_t i = 0;
	for (; i + 8 <= len; i += 8)
		h = (h ^ le64_get(buf + i)) * 0x100000001b3ull;
	for (; i < len; i++)
		h = (h ^ buf[i]) * 0x100000001b3ull;
	p->sum = h ^ len;
}

static void put(struct pipe *p, const void *buf, size_t len) {
	if (p->broken || !len)
		return;
	sum_bytes(p, buf, len);
	p->broken = !p->s->write(p->s->opaque, buf, len);
}

static bool take(struct pipe *p, void *buf, size_t len) {
	if (p->broken)
		return false;
	p->broken = !p->s->read(p->s->opaque, buf, len);
	if (!p->broken)
		sum_bytes(p, buf, len);
	return !p->broken;
}

static void put_u64(struct pipe *p, uint64_t v) {
	uint8_t b[8];
	le64_put(b, v);
	put(p, b, sizeof(b));
}

static bool take_u64(struct pipe *p, uint64_t *v) {
	uint8_t b[8] = {0};
	bool ok = take(p, b, sizeof(b));
	*v = le64_get(b);
	return ok;
}

/* ---- saving ------------------------------------------------------------------------------ */

static void put_head(struct pipe *p, const struct vm *vm) {
	const struct cpuid_policy *c = vm->cpuid;
	uint8_t head[HEAD], leaf[LEAF];
	memcpy(head, MAGIC, 8);
	le32_put(head + 8, FORMAT);
	le32_put(head + 12, vm->nvcpus);
	le32_put(head + 16, vm->clock.tsc_khz);
	le64_put(head + 20, vm->clock.now_tsc(vm->clock.opaque));
	le32_put(head + 28, c->nleaves);
	le32_put(head + 32, 0);
	put(p, head, sizeof(head));
	for (unsigned i = 0; i < c->nleaves; i++) {
		le32_put(leaf, c->leaves[i].leaf);
		le32_put(leaf + 4, c->leaves[i].subleaf);
		for (unsigned k = 0; k < 4; k++)
			le32_put(leaf + 8 + k * 4, c->leaves[i].out[k]);
		put(p, leaf, sizeof(leaf));
	}
}

static int put_state(struct pipe *p, struct vm *vm, struct err *e) {
	struct state_io io;
	state_io_save(&io, NULL, 0);
	vm_state(vm, &io);
	size_t len = io.pos;
	uint8_t *buf = io.error ? NULL : malloc(len);
	if (!buf)
		return err_set(e, io.error ? -io.error : ERR_NOMEM, "cannot save the VM's state: %s",
					   io.error ? io.err.text : "no memory");
	state_io_save(&io, buf, len);
	vm_state(vm, &io);
	put_u64(p, len);
	put(p, buf, len);
	free(buf);
	return 0;
}

static bool is_zero(const uint8_t *page) {
	return !page[0] && !memcmp(page, page + 1, PAGE_SIZE - 1);
}

static void put_ram(struct pipe *p, const struct mem_region *r) {
	for (uint64_t at = 0; at < r->size;) {
		if (p->s->untouched && !(at & (PIECE - 1)))
			at += align_down(p->s->untouched(p->s->ram, r->host + at, r->size - at), PAGE_SIZE);
		if (at >= r->size)
			break;
		uint64_t end = at;
		/* Pieces end at multiples of their size, where untouched memory is asked for. */
		while (end < r->size && (end == at || (end & (PIECE - 1))) && !is_zero(r->host + end))
			end += PAGE_SIZE;
		if (end == at) {
			at += PAGE_SIZE;
			continue;
		}
		put_u64(p, r->base + at);
		put_u64(p, end - at);
		put(p, r->host + at, end - at);
		at = end;
	}
}

int lifecycle_save(struct vm *vm, struct engine *en, const struct save_stream *out, struct err *e) {
	struct pipe p = {.s = out};
	for (unsigned i = 0; en && i < vm->nvcpus; i++)
		engine_get_state(en, vm->vcpus[i]);
	vm->host->lock(vm->host->opaque);
	put_head(&p, vm);
	int r = put_state(&p, vm, e);
	for (unsigned i = 0; !r && i < vm->mem.nregions; i++)
		if (vm->mem.regions[i]->kind == MEM_RAM)
			put_ram(&p, vm->mem.regions[i]);
	vm->host->unlock(vm->host->opaque);
	if (r)
		return r;
	put_u64(&p, 0);
	put_u64(&p, 0);
	put_u64(&p, p.sum);
	return p.broken ? err_set(e, ERR_IO, "cannot write the saved VM: is the disk full?") : 0;
}

/* ---- loading ----------------------------------------------------------------------------- */

static int short_stream(struct err *e) {
	return err_set(e, ERR_INVAL, "the saved VM ends too early");
}

static int take_policy(struct pipe *p, const struct cpuid_policy *c, uint32_t n, struct err *e) {
	uint8_t leaf[LEAF];
	if (n != c->nleaves)
		return err_set(e, ERR_INVAL,
					   "the VM was saved with another CPU (%u CPUID leaves, here are %u): give the "
					   "same --cpu-model",
					   n, c->nleaves);
	for (unsigned i = 0; i < n; i++) {
		const struct cpuid_leaf *l = &c->leaves[i];
		if (!take(p, leaf, sizeof(leaf)))
			return short_stream(e);
		bool same = le32_get(leaf) == l->leaf && le32_get(leaf + 4) == l->subleaf;
		for (unsigned k = 0; k < 4; k++)
			same &= le32_get(leaf + 8 + k * 4) == l->out[k];
		if (!same)
			return err_set(
				e, ERR_INVAL,
				"the VM was saved with another CPU (CPUID leaf %x differs): give the same "
				"--cpu-model",
				l->leaf);
	}
	return 0;
}

static int take_info(struct pipe *p, uint8_t head[HEAD], struct save_info *info, struct err *e) {
	if (!take(p, head, HEAD) || memcmp(head, MAGIC, 8) != 0)
		return err_set(e, ERR_INVAL, "this is no saved VM");
	uint32_t format = le32_get(head + 8);
	if (format != FORMAT)
		return err_set(e, ERR_INVAL, "the saved VM has format %u; this version knows %u", format,
					   FORMAT);
	*info = (struct save_info){le32_get(head + 12), le32_get(head + 16)};
	return 0;
}

int lifecycle_peek(const struct save_stream *in, struct save_info *info, struct err *e) {
	struct pipe p = {.s = in};
	uint8_t head[HEAD];
	return take_info(&p, head, info, e);
}

static int take_head(struct pipe *p, const struct vm *vm, uint64_t *tsc, struct err *e) {
	struct save_info info;
	uint8_t head[HEAD];
	*tsc = 0;
	int r = take_info(p, head, &info, e);
	if (r)
		return r;
	*tsc = le64_get(head + 20);
	if (info.cpus != vm->nvcpus)
		return err_set(e, ERR_INVAL, "the VM was saved with %u vCPUs, not %u", info.cpus,
					   vm->nvcpus);
	if (info.tsc_khz != vm->clock.tsc_khz)
		return err_set(e, ERR_INVAL, "the saved VM's TSC has %u kHz; here it has %u kHz",
					   info.tsc_khz, vm->clock.tsc_khz);
	if (*tsc > INT64_MAX)
		return err_set(e, ERR_INVAL, "the saved VM's clock shows an impossible time");
	return take_policy(p, vm->cpuid, le32_get(head + 28), e);
}

static int take_ram(struct pipe *p, struct vm *vm, struct err *e) {
	for (;;) {
		uint64_t gpa, len;
		if (!take_u64(p, &gpa) || !take_u64(p, &len))
			return short_stream(e);
		if (!len)
			return 0;
		struct mem_segment s = mem_segment(&vm->mem, gpa, len, true);
		if (((gpa | len) & PAGE_MASK) || len > PIECE || !s.host || s.len < len)
			return err_set(
				e, ERR_INVAL,
				"the saved VM has memory at %llx, where this one has none: give the same "
				"--memory",
				(unsigned long long)gpa);
		if (!take(p, s.host, len))
			return short_stream(e);
		mem_written(&vm->mem, gpa, len);
	}
}

static int take_state(struct vm *vm, const uint8_t *buf, size_t len, struct err *e) {
	struct state_io io;
	state_io_load(&io, buf, len);
	vm_state(vm, &io);
	if (io.error)
		return err_set(e, -io.error, "the saved VM does not fit: %s", io.err.text);
	if (io.pos != len)
		return err_set(e, ERR_INVAL, "the saved VM has more devices than this one");
	return 0;
}

static int load(struct pipe *p, struct vm *vm, void (*set_clock)(void *opaque, uint64_t tsc),
				void *opaque, struct err *e) {
	uint64_t tsc, len, sum, want;
	int r = take_head(p, vm, &tsc, e);
	if (r)
		return r;
	if (!take_u64(p, &len) || len > STATE_MAX)
		return short_stream(e);
	uint8_t *buf = malloc(len + 1);
	if (!buf)
		return err_set(e, ERR_NOMEM, "no memory for the saved VM's state");
	r = take(p, buf, len) ? take_ram(p, vm, e) : short_stream(e);
	/* Devices last: what they do on loading sees the memory. */
	sum = p->sum;
	if (!r && !take_u64(p, &want))
		r = short_stream(e);
	if (!r && want != sum)
		r = err_set(e, ERR_INVAL, "the saved VM is damaged: its checksum is wrong");
	if (!r) {
		set_clock(opaque, tsc);
		r = take_state(vm, buf, len, e);
	}
	free(buf);
	return r;
}

int lifecycle_load(struct vm *vm, struct engine *en, const struct save_stream *in,
				   void (*set_clock)(void *opaque, uint64_t tsc), void *opaque, struct err *e) {
	struct pipe p = {.s = in};
	vm->host->lock(vm->host->opaque);
	int r = load(&p, vm, set_clock, opaque, e);
	for (unsigned i = 0; !r && en && i < vm->nvcpus; i++)
		engine_set_state(en, vm->vcpus[i]);
	vm->host->unlock(vm->host->opaque);
	return r;
}
