/* A whole VM as a stream of bytes: what one engine stopped another goes on with, in this process or
 * another, on this host or one with the same CPU model.
 *
 *     "joist-vm", format version, number of vCPUs, TSC kHz, the clock, the CPUID policy
 *     the state of all vCPUs and devices (core/vm/state.h), with its length
 *     pieces of RAM: address, length, bytes; pages of zeros are left out; a length of 0 ends it
 *     a checksum of all that
 *
 * Numbers are little-endian. Disks are not part of it. Every byte of a stream is hostile: it is
 * refused with a sentence, or makes a VM in some possible state.
 *
 * Called while no vCPU runs, without the VM lock. */
#ifndef LIFECYCLE_SAVE_H
#define LIFECYCLE_SAVE_H

#include "core/vm/vm.h"
#include "engine/engine.h"

struct save_stream {
	/* All `len` bytes, or false. */
	bool (*write)(void *opaque, const void *buf, size_t len);
	bool (*read)(void *opaque, void *buf, size_t len);
	void *opaque;
	/* For saving, may be NULL: how many of the `len` bytes of RAM from `at` on nobody has touched
	 * yet, so that they need not be looked at (which would make the host find memory for them). */
	uint64_t (*untouched)(void *ram, const uint8_t *at, uint64_t len);
	void *ram;
};

/* Writes the VM. 0, or -ERR_* with `e` filled. `en` is the engine that has the vCPUs' state. */
int lifecycle_save(struct vm *vm, struct engine *en, const struct save_stream *out, struct err *e);

/* What a machine has to be made with before the stream can be loaded into it. */
struct save_info {
	uint32_t cpus, tsc_khz;
};

/* Reads the beginning of a stream; lifecycle_load() then starts from its beginning again. */
int lifecycle_peek(const struct save_stream *in, struct save_info *info, struct err *e);

/* Reads it into a VM made with the same configuration that has not run since vm_reset(), its RAM
 * zeros. `set_clock` is called before devices are loaded: the VM's clock shall show `tsc`. On an
 * error the VM must not be run. */
int lifecycle_load(struct vm *vm, struct engine *en, const struct save_stream *in,
				   void (*set_clock)(void *opaque, uint64_t tsc), void *opaque, struct err *e);

#endif
