/* The ports of test guests, see debug_exit.h. No document defines them; guests for
 * other hypervisors use the same two numbers. Characters that the back end does not
 * take at once are lost, the port has no way to say "wait".
 *
 * Called with the VM lock held, for any vCPU. */
#include "core/chip/debug_exit.h"

#define HERE 0xe9u

void debug_exit_init(struct debug_exit *d, void (*done)(void *opaque, uint32_t value), void *opaque,
					 const struct char_backend *out) {
	*d = (struct debug_exit){.done = done, .opaque = opaque, .out = *out};
}

static uint64_t exit_read(void *dev, uint64_t off, unsigned size) {
	return 0;
}

static void exit_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
	struct debug_exit *d = dev;
	if (d->done)
		d->done(d->opaque, (uint32_t)(size < 4 ? val & ((1u << size * 8) - 1) : val));
}

static uint64_t char_read(void *dev, uint64_t off, unsigned size) {
	return HERE;
}

static void char_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
	struct debug_exit *d = dev;
	uint8_t c = (uint8_t)val;
	if (d->out.write)
		d->out.write(d->out.opaque, &c, 1);
}

const struct io_ops debug_exit_ops = {exit_read, exit_write, 0, 0};
const struct io_ops debug_char_ops = {char_read, char_write, 1, 1};
