/* The state stream. Layout, all little-endian:
 *
 *     section: 0x53, name length u8, name, instance u32, version u32, body length u32, body
 *     field:   name length u8, name, kind u8 (enum below), length u32, value
 *
 * Every length of a stream is judged against the section's end before it is used.
 * After an error nothing more is read or written. */
#include "core/vm/state.h"

#include "core/base/check.h"
#include "core/base/le.h"
#include "core/base/string.h"

#define SECTION_MARK 0x53u

enum field_kind { FIELD_INT = 1, FIELD_BOOL = 2, FIELD_BYTES = 3 };

void state_io_save(struct state_io *io, void *buf, size_t size) {
	*io = (struct state_io){.buf = buf, .size = buf ? size : 0, .section = ""};
}

void state_io_load(struct state_io *io, const void *buf, size_t size) {
	*io = (struct state_io){.loading = true,
							.buf = (uint8_t *)(uintptr_t)buf,
							.size = size,
							.section_end = size,
							.section = ""};
}

static void fail(struct state_io *io, const char *field, const char *why) {
	if (!io->error)
		io->error =
			err_set(&io->err, ERR_INVAL, "%s%s%s: %s", io->section, *field ? "." : "", field, why);
}

void state_fail(struct state_io *io, const char *why) {
	fail(io, "", why);
}

static void put(struct state_io *io, const void *src, size_t len) {
	if (io->pos <= io->size && len <= io->size - io->pos)
		memcpy(io->buf + io->pos, src, len);
	io->pos += len;
}

static void put_int(struct state_io *io, uint64_t v, size_t len) {
	uint8_t le[8];
	le64_put(le, v);
	put(io, le, len);
}

/* The next `len` bytes of the section, or NULL with the error set. */
static const uint8_t *take(struct state_io *io, const char *field, size_t len) {
	if (io->error)
		return NULL;
	if (len > io->section_end - io->pos) {
		fail(io, field, "the saved state ends too early");
		return NULL;
	}
	const uint8_t *p = io->buf + io->pos;
	io->pos += len;
	return p;
}

static uint64_t take_int(struct state_io *io, const char *field, size_t len) {
	uint8_t le[8] = {0};
	const uint8_t *p = take(io, field, len);
	if (p)
		memcpy(le, p, len);
	return le64_get(le);
}

static void put_name(struct state_io *io, const char *name) {
	size_t len = str_len(name);
	check(len < 256);
	put_int(io, len, 1);
	put(io, name, len);
}

static bool take_name(struct state_io *io, const char *name) {
	size_t want = str_len(name), len = take_int(io, name, 1);
	const uint8_t *p = take(io, name, len);
	if (!p)
		return false;
	if (len == want && !memcmp(p, name, len))
		return true;
	fail(io, name, "expected here, but the saved state has another name");
	return false;
}

/* The value's bytes of field `name`, if it comes next with this kind and length. */
static const uint8_t *take_field(struct state_io *io, const char *name, enum field_kind kind,
								 size_t len) {
	if (io->error || !take_name(io, name))
		return NULL;
	uint64_t k = take_int(io, name, 1), n = take_int(io, name, 4);
	if (io->error)
		return NULL;
	if (k != (uint64_t)kind || n != len) {
		fail(io, name, "saved with another kind or length");
		return NULL;
	}
	return take(io, name, len);
}

static void put_field(struct state_io *io, const char *name, enum field_kind kind, size_t len) {
	put_name(io, name);
	put_int(io, kind, 1);
	put_int(io, len, 4);
}

static uint64_t field_int(struct state_io *io, const char *name, enum field_kind kind, size_t len,
						  uint64_t val) {
	if (io->error)
		return val;
	if (!io->loading) {
		put_field(io, name, kind, len);
		put_int(io, val, len);
		return val;
	}
	const uint8_t *p = take_field(io, name, kind, len);
	if (!p)
		return val;
	uint8_t le[8] = {0};
	memcpy(le, p, len);
	return le64_get(le);
}

void state_u8(struct state_io *io, const char *name, uint8_t *v) {
	*v = (uint8_t)field_int(io, name, FIELD_INT, 1, *v);
}

void state_u16(struct state_io *io, const char *name, uint16_t *v) {
	*v = (uint16_t)field_int(io, name, FIELD_INT, 2, *v);
}

void state_u32(struct state_io *io, const char *name, uint32_t *v) {
	*v = (uint32_t)field_int(io, name, FIELD_INT, 4, *v);
}

void state_u64(struct state_io *io, const char *name, uint64_t *v) {
	*v = field_int(io, name, FIELD_INT, 8, *v);
}

void state_bool(struct state_io *io, const char *name, bool *v) {
	uint64_t got = field_int(io, name, FIELD_BOOL, 1, *v);
	if (got > 1)
		fail(io, name, "neither true nor false");
	else
		*v = got;
}

void state_bytes(struct state_io *io, const char *name, void *buf, size_t len) {
	if (io->error)
		return;
	if (!io->loading) {
		put_field(io, name, FIELD_BYTES, len);
		put(io, buf, len);
		return;
	}
	const uint8_t *p = take_field(io, name, FIELD_BYTES, len);
	if (p)
		memcpy(buf, p, len);
}

void state_u32_below(struct state_io *io, const char *name, uint32_t *v, uint32_t limit) {
	uint32_t got = (uint32_t)field_int(io, name, FIELD_INT, 4, *v);
	if (io->loading && !io->error && got >= limit)
		fail(io, name, "out of range");
	else
		*v = got;
}

void state_section(struct state_io *io, const char *name, unsigned instance, unsigned version,
				   void (*walk)(struct state_io *io, void *self), void *self) {
	if (io->error)
		return;
	io->section = name;
	io->version = version;
	if (!io->loading) {
		put_int(io, SECTION_MARK, 1);
		put_name(io, name);
		put_int(io, instance, 4);
		put_int(io, version, 4);
		size_t at = io->pos;
		put_int(io, 0, 4);
		walk(io, self);
		if (io->pos <= io->size)
			le32_put(io->buf + at, (uint32_t)(io->pos - at - 4));
		return;
	}

	io->section_end = io->size;
	uint64_t mark = take_int(io, "", 1);
	if (!io->error && mark != SECTION_MARK)
		fail(io, "", "no section begins where this one should");
	if (io->error || !take_name(io, name))
		return;
	uint64_t inst = take_int(io, "", 4), ver = take_int(io, "", 4), len = take_int(io, "", 4);
	if (io->error)
		return;
	if (inst != instance)
		fail(io, "", "another instance is saved here");
	else if (!ver || ver > version)
		fail(io, "", "saved by a newer version of joist");
	else if (len > io->size - io->pos)
		fail(io, "", "the saved state ends too early");
	if (io->error)
		return;
	io->section_end = io->pos + len;
	io->version = (unsigned)ver;
	walk(io, self);
	if (!io->error && io->pos != io->section_end)
		fail(io, "", "fields are left over");
	io->section_end = io->size;
}
