/* Saving and loading one device in a test. */
#ifndef TEST_UNIT_ROUND_TRIP_H
#define TEST_UNIT_ROUND_TRIP_H

#include "core/vm/device.h"

#define ROUND_TRIP_MAX 4096

/* Saves `from` and returns the bytes used; the caller checks that they fit. */
static inline size_t save_device(const struct device_ops *ops, void *from,
								 uint8_t buf[ROUND_TRIP_MAX]) {
	struct state_io io;
	state_io_save(&io, buf, ROUND_TRIP_MAX);
	state_section(&io, ops->name, 0, ops->version, ops->state, from);
	return io.error ? 0 : io.pos;
}

/* Loads into `to`; 0 or the error. */
static inline int load_device(const struct device_ops *ops, void *to, const uint8_t *buf,
							  size_t len) {
	struct state_io io;
	state_io_load(&io, buf, len);
	state_section(&io, ops->name, 0, ops->version, ops->state, to);
	if (!io.error && ops->loaded)
		ops->loaded(to);
	return io.error;
}

/* Moves the state of one device to another: 0 if it went, and came out the same. */
static inline int copy_device(const struct device_ops *ops, void *from, void *to) {
	static uint8_t one[ROUND_TRIP_MAX], two[ROUND_TRIP_MAX];
	size_t len = save_device(ops, from, one);
	if (!len || len > ROUND_TRIP_MAX)
		return -1;
	int error = load_device(ops, to, one, len);
	if (error)
		return error;
	if (save_device(ops, to, two) != len)
		return -2;
	for (size_t i = 0; i < len; i++)
		if (one[i] != two[i])
			return -3;
	return 0;
}

/* Flips bytes of a saved state, one pattern after another, and loads each into `to`:
 * whatever is accepted must be something the device can stand. `poke` uses it. */
static inline void hurt_device(const struct device_ops *ops, void *from, void *to,
							   void (*poke)(void *to)) {
	static uint8_t good[ROUND_TRIP_MAX], bad[ROUND_TRIP_MAX];
	static const uint8_t flips[] = {0xff, 0x80, 0x01, 0x7f, 0x55};
	size_t len = save_device(ops, from, good);
	for (size_t i = 0; i < len; i++)
		for (size_t f = 0; f < sizeof(flips); f++) {
			for (size_t j = 0; j < len; j++)
				bad[j] = good[j];
			bad[i] ^= flips[f];
			if (load_device(ops, to, bad, len) == 0)
				poke(to);
			ops->reset(to);
		}
}

#endif
