/* Save and load of device state, field by field. One walk serves both ways:
 *
 *     void i8254_state(struct state_io *io, void *self) {
 *             struct i8254 *d = self;
 *             state_u16(io, "latch", &d->latch);
 *             if (io->version >= 2) ...
 *     }
 *
 * Every field goes out with its name, kind and length, so that a stream from
 * another version or a damaged one is refused with the field's name. Values are
 * little-endian. A loaded value is hostile: the walk must clamp or refuse
 * (state_fail) what its code could not stand, e.g. an index out of range. */
#ifndef CORE_VM_STATE_H
#define CORE_VM_STATE_H

#include "core/base/err.h"
#include "core/base/types.h"

struct state_io {
	bool loading;
	int error;			 /* 0, or -ERR_*; sticky: once set every walk is a no-op */
	struct err err;		 /* the first error's sentence */
	unsigned version;	 /* of the section being walked: as saved when loading */
	uint8_t *buf;		 /* the caller's */
	size_t size, pos;	 /* saving: pos may run past size (then only counting) */
	size_t section_end;	 /* loading: end of the section being walked */
	const char *section; /* its name, for messages */
};

/* To save: first with buf NULL/size 0 to learn the length (io.pos), then again. */
void state_io_save(struct state_io *io, void *buf, size_t size);
void state_io_load(struct state_io *io, const void *buf, size_t size);

/* One section = one device. Saving writes header and fields; loading checks name,
 * instance and version <= `version`, and that the walk used every field. */
void state_section(struct state_io *io, const char *name, unsigned instance, unsigned version,
				   void (*walk)(struct state_io *io, void *self), void *self);

void state_u8(struct state_io *io, const char *name, uint8_t *v);
void state_u16(struct state_io *io, const char *name, uint16_t *v);
void state_u32(struct state_io *io, const char *name, uint32_t *v);
void state_u64(struct state_io *io, const char *name, uint64_t *v);
void state_bool(struct state_io *io, const char *name, bool *v);
void state_bytes(struct state_io *io, const char *name, void *buf, size_t len);
/* A value that must stay below `limit` when loaded. */
void state_u32_below(struct state_io *io, const char *name, uint32_t *v, uint32_t limit);

/* Refuses what was loaded: "section: sentence". */
void state_fail(struct state_io *io, const char *why);

#endif
