/* The keyboard controller of a PC with a PS/2 keyboard and mouse, and port 92h (IBM
 * PS/2 hardware interface technical reference; Intel 8042 as IBM programmed it). */
#ifndef CORE_CHIP_I8042_H
#define CORE_CHIP_I8042_H

#include "core/vm/device.h"
#include "core/vm/io.h"
#include "core/vm/irq.h"
#include "core/vm/timer.h"

#define I8042_QUEUE 64 /* bytes that a keyboard or mouse holds back */

struct i8042_queue {
	uint8_t data[I8042_QUEUE];
	uint8_t head, len;
};

struct i8042_out {
	struct irq_line kbd, aux;	 /* irq 1 and 12 */
	struct irq_line a20;		 /* level = A20 passes */
	void (*reset)(void *opaque); /* the processors' reset line was pulsed; may be NULL */
	void *opaque;
};

struct i8042 {
	struct i8042_out out;
	/* controller */
	uint8_t status;	 /* as the guest reads it */
	uint8_t outport; /* bit 0 reset#, 1 A20 */
	uint8_t obuf;
	uint8_t pending;		   /* a command that waits for its data byte; 0: none */
	uint8_t ram[32];		   /* byte 0 is the command byte */
	bool release;			   /* translation saw F0: the next code is a key's release */
	struct i8042_queue cq, xq; /* the controller's own bytes, and those in the mouse's name */
	/* keyboard: answers, then keys */
	struct i8042_queue kr, kq;
	uint8_t k_pending, k_leds, k_rate, k_set, k_last;
	bool k_scanning;
	/* mouse */
	struct i8042_queue mr, mq;
	uint8_t m_pending, m_rate, m_res, m_buttons, m_sent_buttons, m_last;
	bool m_reporting, m_scale2, m_remote, m_wrap;
	uint16_t m_dx, m_dy; /* moved since the last packet, as int16_t */
};

void i8042_init(struct i8042 *k, const struct i8042_out *out);

/* A key went down or up. `code` is its set-1 scan code 01h..7Fh, + E000h for extended
 * keys (E04Bh: cursor left); E11Dh is Pause. Keys are lost when the queue is full. */
void i8042_key(struct i8042 *k, uint16_t code, bool down);

/* The mouse moved (right and up are positive) or its buttons (bit 0 left, 1 right, 2
 * middle) changed. */
void i8042_mouse(struct i8042 *k, int dx, int dy, uint8_t buttons);

bool i8042_a20(const struct i8042 *k);

/* One port each: 60h, 64h, 92h. */
extern const struct io_ops i8042_data_ops, i8042_command_ops, i8042_port92_ops;

extern const struct device_ops i8042_device_ops;

#endif
