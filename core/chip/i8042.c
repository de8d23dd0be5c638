/* The keyboard controller of the PC/AT and PS/2, an 8042 with IBM's program, and what
 * hangs on it: an MF2 keyboard and a two-button PS/2 mouse with a third (IBM PS/2
 * Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller").
 *
 * Bytes wait in the queues of who made them and move to the output buffer when it is
 * free. Everything happens at once, so the input buffer is never full.
 *
 * Left out: passwords, typematic repeat (who presses keys repeats them), scan code
 * set 3, the wheel extension, parity and time-out errors.
 *
 * DEVIATION: power-on leaves the command byte as firmware would (translation and the
 * keyboard's interrupt on), because direct kernel boot has no firmware. A20 is one wire
 * that both the controller and port 92h set, the last one wins.
 *
 * Called with the VM lock held: ports for any vCPU, i8042_key and i8042_mouse by the
 * host's loop. */
#include "core/chip/i8042.h"

#include "core/base/bits.h"

#define STATUS_OBF 0x01u
#define STATUS_SYS 0x04u
#define STATUS_COMMAND 0x08u /* the last write was to port 64h */
#define STATUS_UNLOCKED 0x10u
#define STATUS_AUX 0x20u

#define MODE_KBD_INT 0x01u
#define MODE_AUX_INT 0x02u
#define MODE_SYS 0x04u
#define MODE_NO_KBD 0x10u
#define MODE_NO_AUX 0x20u
#define MODE_TRANSLATE 0x40u

#define OUT_RUN 0x01u /* low resets the processors */
#define OUT_A20 0x02u
#define OUT_KBD_OBF 0x10u
#define OUT_AUX_OBF 0x20u
#define OUT_KEPT 0xcfu

#define ACK 0xfau
#define RESEND 0xfeu
#define BAT_OK 0xaau
#define RELEASE 0xf0u
#define MF2_ID 0x83abu

/* Set 2 to set 1, as the controller translates; codes from 85h on stay. */
static const uint8_t to_set1[0x85] = {
	0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29,
	0x59, 0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11,
	0x03, 0x5b, 0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14,
	0x13, 0x06, 0x5d, 0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24,
	0x16, 0x08, 0x09, 0x5f, 0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35,
	0x26, 0x27, 0x19, 0x0c, 0x61, 0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36,
	0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, 0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c,
	0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, 0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45,
	0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54, 0x80, 0x81, 0x82, 0x41, 0x54,
};

/* The way back, for keys that the host gives as set 1. */
static uint8_t to_set2(uint8_t code) {
	if (code == 0x41) /* F7: its code is the one out of line */
		return 0x83;
	if (code == 0x54) /* Alt + SysRq */
		return 0x84;
	for (unsigned i = 1; i < 0x80; i++)
		if (to_set1[i] == code)
			return (uint8_t)i;
	return 0;
}

/* ---- queues -------------------------------------------------------------------------- */

static void put(struct i8042_queue *q, uint8_t v) {
	if (q->len < I8042_QUEUE)
		q->data[(q->head + q->len++) % I8042_QUEUE] = v;
}

static uint8_t get(struct i8042_queue *q) {
	uint8_t v = q->data[q->head];
	q->head = (q->head + 1) % I8042_QUEUE;
	q->len--;
	return v;
}

static void clear(struct i8042_queue *q) {
	q->len = q->head = 0;
}

static unsigned room(const struct i8042_queue *q) {
	return I8042_QUEUE - q->len;
}

/* ---- from devices to the guest ------------------------------------------------------- */

static uint8_t *mode(struct i8042 *k) {
	return &k->ram[0];
}

static void lines(struct i8042 *k) {
	bool full = k->status & STATUS_OBF, aux = k->status & STATUS_AUX;
	irq_set(&k->out.kbd, full && !aux && (*mode(k) & MODE_KBD_INT));
	irq_set(&k->out.aux, full && aux && (*mode(k) & MODE_AUX_INT));
}

static void fill(struct i8042 *k, uint8_t v, bool aux) {
	k->obuf = v;
	k->status = (uint8_t)((k->status & ~STATUS_AUX) | STATUS_OBF | (aux ? STATUS_AUX : 0));
}

/* The next byte of the keyboard, translated. false: that byte was only a prefix. */
static bool from_keyboard(struct i8042 *k, struct i8042_queue *q) {
	uint8_t v = get(q);
	if (q == &k->kr)
		k->k_last = v;
	if (*mode(k) & MODE_TRANSLATE) {
		if (v == RELEASE) {
			k->release = true;
			return false;
		}
		v = v < sizeof(to_set1) ? to_set1[v] : v;
		if (k->release)
			v |= 0x80;
		k->release = false;
	}
	fill(k, v, false);
	return true;
}

static void mouse_packet(struct i8042 *k);

/* Moves the next byte to the output buffer. */
static void advance(struct i8042 *k) {
	while (!(k->status & STATUS_OBF)) {
		if (k->cq.len) {
			fill(k, get(&k->cq), false);
		} else if (k->xq.len) {
			fill(k, get(&k->xq), true);
		} else if ((k->kr.len || k->kq.len) && !(*mode(k) & MODE_NO_KBD)) {
			from_keyboard(k, k->kr.len ? &k->kr : &k->kq);
		} else if ((k->mr.len || k->mq.len) && !(*mode(k) & MODE_NO_AUX)) {
			struct i8042_queue *q = k->mr.len ? &k->mr : &k->mq;
			uint8_t v = get(q);
			if (q == &k->mr)
				k->m_last = v;
			fill(k, v, true);
			if (!k->mq.len)
				mouse_packet(k);
		} else {
			break;
		}
	}
	lines(k);
}

/* ---- the keyboard -------------------------------------------------------------------- */

static void keyboard_defaults(struct i8042 *k) {
	k->k_rate = 0x2b; /* 10.9 a second after 500 ms */
	k->k_set = 2;
	clear(&k->kq);
	k->release = false;
}

static void keyboard_argument(struct i8042 *k, uint8_t cmd, uint8_t val) {
	k->k_pending = 0;
	switch (cmd) {
	case 0xed:
		k->k_leds = val & 7;
		break;
	case 0xf3:
		k->k_rate = val & 0x7f;
		break;
	case 0xf0:
		if (val > 2) { /* no set 3 */
			put(&k->kr, RESEND);
			return;
		}
		put(&k->kr, ACK);
		if (val)
			k->k_set = val;
		else
			put(&k->kr, k->k_set);
		return;
	default:
		break;
	}
	put(&k->kr, ACK);
}

static void keyboard_command(struct i8042 *k, uint8_t cmd) {
	if (k->k_pending && !(cmd & 0x80)) {
		keyboard_argument(k, k->k_pending, cmd);
		return;
	}
	k->k_pending = 0;
	if (cmd == 0xfe) {
		put(&k->kr, k->k_last);
		return;
	}
	clear(&k->kr); /* a command ends what was being said */
	switch (cmd) {
	case 0xee: /* echo */
		put(&k->kr, 0xee);
		return;
	case 0xed:
	case 0xf0:
	case 0xf3:
		k->k_pending = cmd;
		break;
	case 0xf2:
		put(&k->kr, ACK);
		put(&k->kr, MF2_ID & 0xff);
		put(&k->kr, MF2_ID >> 8);
		return;
	case 0xf4:
		k->k_scanning = true;
		clear(&k->kq);
		k->release = false;
		break;
	case 0xf5:
		keyboard_defaults(k);
		k->k_scanning = false;
		break;
	case 0xf6:
		keyboard_defaults(k);
		break;
	case 0xf7: /* these set key types of set 3 */
	case 0xf8:
	case 0xf9:
	case 0xfa:
		break;
	case 0xff:
		keyboard_defaults(k);
		k->k_leds = 0;
		k->k_scanning = true;
		put(&k->kr, ACK);
		put(&k->kr, BAT_OK);
		return;
	default:
		put(&k->kr, RESEND);
		return;
	}
	put(&k->kr, ACK);
}

/* All bytes of a key or none. */
void i8042_key(struct i8042 *k, uint16_t code, bool down) {
	static const uint8_t pause1[] = {0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5};
	static const uint8_t pause2[] = {0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77};
	uint8_t low = code & 0x7f, two = to_set2(low);
	if (!k->k_scanning || room(&k->kq) < sizeof(pause2) || !two)
		return;
	if (code >> 8 == 0xe1) {
		const uint8_t *p = k->k_set == 1 ? pause1 : pause2;
		for (size_t i = 0; down && i < (k->k_set == 1 ? sizeof(pause1) : sizeof(pause2)); i++)
			put(&k->kq, p[i]);
		advance(k);
		return;
	}
	if (code >> 8 == 0xe0)
		put(&k->kq, 0xe0);
	if (k->k_set == 1) {
		put(&k->kq, down ? low : low | 0x80);
	} else {
		if (!down)
			put(&k->kq, RELEASE);
		put(&k->kq, two);
	}
	advance(k);
}

/* ---- the mouse ----------------------------------------------------------------------- */

static void mouse_defaults(struct i8042 *k) {
	k->m_rate = 100;
	k->m_res = 2;
	k->m_scale2 = k->m_reporting = k->m_remote = k->m_wrap = false;
	k->m_dx = k->m_dy = 0;
	k->m_sent_buttons = k->m_buttons;
	clear(&k->mq);
}

static int clamp(int v, int limit) {
	return v > limit ? limit : v < -limit ? -limit : v;
}

static void put_packet(struct i8042 *k, struct i8042_queue *q) {
	int dx = clamp((int16_t)k->m_dx, 255), dy = clamp((int16_t)k->m_dy, 255);
	put(q, (uint8_t)(0x08 | k->m_buttons | (dx < 0 ? 0x10 : 0) | (dy < 0 ? 0x20 : 0)));
	put(q, (uint8_t)dx);
	put(q, (uint8_t)dy);
	k->m_dx = (uint16_t)((int16_t)k->m_dx - dx);
	k->m_dy = (uint16_t)((int16_t)k->m_dy - dy);
	k->m_sent_buttons = k->m_buttons;
}

/* One packet waits at a time; meanwhile movement adds up. */
static void mouse_packet(struct i8042 *k) {
	bool news = k->m_dx || k->m_dy || k->m_buttons != k->m_sent_buttons;
	if (k->m_reporting && !k->m_remote && !k->m_wrap && news && !k->mq.len)
		put_packet(k, &k->mq);
}

void i8042_mouse(struct i8042 *k, int dx, int dy, uint8_t buttons) {
	if (k->m_reporting || k->m_remote) {
		k->m_dx = (uint16_t)clamp((int16_t)k->m_dx + clamp(dx, 1000), 2000);
		k->m_dy = (uint16_t)clamp((int16_t)k->m_dy + clamp(dy, 1000), 2000);
	}
	k->m_buttons = buttons & 7;
	mouse_packet(k);
	advance(k);
}

static bool mouse_setting(struct i8042 *k, uint8_t cmd) {
	switch (cmd) {
	case 0xe6:
	case 0xe7:
		k->m_scale2 = cmd == 0xe7;
		return true;
	case 0xe8: /* resolution, */
	case 0xf3: /* rate: value follows */
		k->m_pending = cmd;
		return true;
	case 0xea:
	case 0xf0:
		k->m_remote = cmd == 0xf0;
		return true;
	case 0xec:
	case 0xee:
		k->m_wrap = cmd == 0xee;
		return true;
	case 0xf4:
		k->m_reporting = true;
		return true;
	case 0xf5:
		k->m_reporting = false;
		return true;
	case 0xf6:
		mouse_defaults(k);
		return true;
	default:
		return false;
	}
}

static void mouse_status(struct i8042 *k) {
	uint8_t left = k->m_buttons & 1, right = k->m_buttons >> 1 & 1, middle = k->m_buttons >> 2 & 1;
	put(&k->mr, (uint8_t)(k->m_remote << 6 | k->m_reporting << 5 | k->m_scale2 << 4 | left << 2 |
						  middle << 1 | right));
	put(&k->mr, k->m_res);
	put(&k->mr, k->m_rate);
}

static void mouse_command(struct i8042 *k, uint8_t cmd) {
	if (k->m_wrap && cmd != 0xec && cmd != 0xff) {
		put(&k->mr, cmd);
		return;
	}
	if (cmd == 0xfe) {
		put(&k->mr, k->m_last);
		return;
	}
	clear(&k->mr);
	clear(&k->mq); /* a command ends the packet that was being sent */
	if (k->m_pending) {
		if (k->m_pending == 0xe8)
			k->m_res = cmd & 3;
		else
			k->m_rate = cmd;
		k->m_pending = 0;
		put(&k->mr, ACK);
		return;
	}
	put(&k->mr, ACK);
	switch (cmd) {
	case 0xe9:
		mouse_status(k);
		break;
	case 0xeb:
		put_packet(k, &k->mr);
		break;
	case 0xf2:
		put(&k->mr, 0); /* a plain mouse */
		break;
	case 0xff:
		mouse_defaults(k);
		put(&k->mr, BAT_OK);
		put(&k->mr, 0);
		break;
	default:
		if (mouse_setting(k, cmd))
			break;
		clear(&k->mr);
		put(&k->mr, RESEND);
		break;
	}
}

/* ---- the controller ------------------------------------------------------------------ */

static void pulse_reset(struct i8042 *k) {
	if (k->out.reset)
		k->out.reset(k->out.opaque);
}

static void set_outport(struct i8042 *k, uint8_t val) {
	k->outport = (val & OUT_KEPT) | OUT_RUN;
	irq_set(&k->out.a20, val & OUT_A20);
	if (!(val & OUT_RUN))
		pulse_reset(k);
}

static void set_a20(struct i8042 *k, bool on) {
	set_outport(k, (uint8_t)((k->outport & ~OUT_A20) | (on ? OUT_A20 : 0)));
}

static void set_mode(struct i8042 *k, uint8_t val) {
	*mode(k) = val;
	k->status = (uint8_t)((k->status & ~STATUS_SYS) | (val & MODE_SYS ? STATUS_SYS : 0));
}

static uint8_t outport_now(const struct i8042 *k) {
	bool full = k->status & STATUS_OBF, aux = k->status & STATUS_AUX;
	return k->outport | (full && !aux ? OUT_KBD_OBF : 0) | (full && aux ? OUT_AUX_OBF : 0);
}

static void controller_command(struct i8042 *k, uint8_t cmd) {
	k->pending = 0;
	if (cmd >= 0x20 && cmd < 0x40) {
		put(&k->cq, k->ram[cmd & 31]);
		return;
	}
	if ((cmd >= 0x60 && cmd < 0x80) || (cmd >= 0xd1 && cmd <= 0xd4)) {
		k->pending = cmd;
		return;
	}
	switch (cmd) {
	case 0xa4:
		put(&k->cq, 0xf1); /* no password */
		break;
	case 0xa7:
		*mode(k) |= MODE_NO_AUX;
		break;
	case 0xa8:
		*mode(k) &= (uint8_t)~MODE_NO_AUX;
		break;
	case 0xa9: /* the lines are fine */
	case 0xab:
		put(&k->cq, 0x00);
		break;
	case 0xaa:
		set_mode(k, *mode(k) | MODE_SYS);
		put(&k->cq, 0x55);
		break;
	case 0xad:
		*mode(k) |= MODE_NO_KBD;
		break;
	case 0xae:
		*mode(k) &= (uint8_t)~MODE_NO_KBD;
		break;
	case 0xc0:
		put(&k->cq, 0x80); /* not locked */
		break;
	case 0xd0:
		put(&k->cq, outport_now(k));
		break;
	case 0xdd:
	case 0xdf:
		set_a20(k, cmd == 0xdf);
		break;
	case 0xe0:
		put(&k->cq, 0x00);
		break;
	default:
		/* F0..FF pulse the low bits that are 0; of these only reset is wired. */
		if (cmd >= 0xf0 && !(cmd & OUT_RUN))
			pulse_reset(k);
		break;
	}
}

static void controller_data(struct i8042 *k, uint8_t val) {
	uint8_t cmd = k->pending;
	k->pending = 0;
	switch (cmd) {
	case 0:
		*mode(k) &= (uint8_t)~MODE_NO_KBD;
		keyboard_command(k, val);
		break;
	case 0x60:
		set_mode(k, val);
		break;
	case 0xd1:
		set_outport(k, val);
		break;
	case 0xd2:
		put(&k->cq, val);
		break;
	case 0xd3:
		put(&k->xq, val);
		break;
	case 0xd4:
		*mode(k) &= (uint8_t)~MODE_NO_AUX;
		mouse_command(k, val);
		break;
	default:
		k->ram[cmd & 31] = val;
		break;
	}
}

static uint64_t data_read(void *dev, uint64_t off, unsigned size) {
	struct i8042 *k = dev;
	uint8_t v = k->obuf; /* stays readable */
	if (k->status & STATUS_OBF) {
		k->status &= (uint8_t) ~(STATUS_OBF | STATUS_AUX);
		lines(k); /* low between two bytes: each is an edge */
		advance(k);
	}
	return v;
}

static void data_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
	struct i8042 *k = dev;
	k->status &= (uint8_t)~STATUS_COMMAND;
	controller_data(k, (uint8_t)val);
	advance(k);
}

static uint64_t status_read(void *dev, uint64_t off, unsigned size) {
	return ((struct i8042 *)dev)->status;
}

static void command_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
	struct i8042 *k = dev;
	k->status |= STATUS_COMMAND;
	controller_command(k, (uint8_t)val);
	advance(k);
}

static uint64_t port92_read(void *dev, uint64_t off, unsigned size) {
	return ((struct i8042 *)dev)->outport & OUT_A20;
}

/* Bit 0 resets, and reads 0 since that reset clears it; bit 1 is A20. */
static void port92_write(void *dev, uint64_t off, unsigned size, uint64_t val) {
	struct i8042 *k = dev;
	set_a20(k, val & 2);
	if (val & 1)
		pulse_reset(k);
}

const struct io_ops i8042_data_ops = {data_read, data_write, 1, 1};
const struct io_ops i8042_command_ops = {status_read, command_write, 1, 1};
const struct io_ops i8042_port92_ops = {port92_read, port92_write, 1, 1};

bool i8042_a20(const struct i8042 *k) {
	return k->outport & OUT_A20;
}

static void reset(void *self) {
	struct i8042 *k = self;
	*k = (struct i8042){.out = k->out, .k_scanning = true, .status = STATUS_UNLOCKED};
	set_mode(k, MODE_KBD_INT | MODE_SYS | MODE_NO_AUX | MODE_TRANSLATE);
	keyboard_defaults(k);
	mouse_defaults(k);
	set_outport(k, OUT_KEPT);
	lines(k);
}

void i8042_init(struct i8042 *k, const struct i8042_out *out) {
	*k = (struct i8042){.out = *out};
	reset(k);
}

static void queue_state(struct state_io *io, struct i8042_queue *q) {
	state_bytes(io, "queue", q->data, sizeof(q->data));
	state_u8(io, "head", &q->head);
	state_u8(io, "len", &q->len);
	if (!io->loading)
		return;
	if (q->len > I8042_QUEUE)
		state_fail(io, "more bytes than a queue holds");
	q->len = MIN(q->len, (uint8_t)I8042_QUEUE);
	q->head %= I8042_QUEUE;
}

static void keyboard_state(struct state_io *io, struct i8042 *k) {
	queue_state(io, &k->kr);
	queue_state(io, &k->kq);
	state_u8(io, "k_pending", &k->k_pending);
	state_u8(io, "k_leds", &k->k_leds);
	state_u8(io, "k_rate", &k->k_rate);
	state_u8(io, "k_set", &k->k_set);
	state_u8(io, "k_last", &k->k_last);
	state_bool(io, "k_scanning", &k->k_scanning);
	if (io->loading && k->k_set != 1)
		k->k_set = 2;
}

static void mouse_state(struct state_io *io, struct i8042 *k) {
	queue_state(io, &k->mr);
	queue_state(io, &k->mq);
	state_u8(io, "m_pending", &k->m_pending);
	state_u8(io, "m_rate", &k->m_rate);
	state_u8(io, "m_res", &k->m_res);
	state_u8(io, "m_buttons", &k->m_buttons);
	state_u8(io, "m_sent_buttons", &k->m_sent_buttons);
	state_u8(io, "m_last", &k->m_last);
	state_bool(io, "m_reporting", &k->m_reporting);
	state_bool(io, "m_scale2", &k->m_scale2);
	state_bool(io, "m_remote", &k->m_remote);
	state_bool(io, "m_wrap", &k->m_wrap);
	state_u16(io, "m_dx", &k->m_dx);
	state_u16(io, "m_dy", &k->m_dy);
	if (!io->loading)
		return;
	k->m_buttons &= 7;
	k->m_sent_buttons &= 7;
	k->m_res &= 3;
	k->m_dx = (uint16_t)clamp((int16_t)k->m_dx, 2000);
	k->m_dy = (uint16_t)clamp((int16_t)k->m_dy, 2000);
}

static void state(struct state_io *io, void *self) {
	struct i8042 *k = self;
	state_u8(io, "status", &k->status);
	state_u8(io, "outport", &k->outport);
	state_u8(io, "obuf", &k->obuf);
	state_u8(io, "pending", &k->pending);
	state_bytes(io, "ram", k->ram, sizeof(k->ram));
	state_bool(io, "release", &k->release);
	queue_state(io, &k->cq);
	queue_state(io, &k->xq);
	keyboard_state(io, k);
	mouse_state(io, k);
	if (!io->loading)
		return;
	k->outport = (k->outport & OUT_KEPT) | OUT_RUN;
	k->status &= STATUS_OBF | STATUS_SYS | STATUS_COMMAND | STATUS_UNLOCKED | STATUS_AUX;
}

static void loaded(void *self) {
	struct i8042 *k = self;
	irq_set(&k->out.a20, k->outport & OUT_A20);
	advance(k);
}

const struct device_ops i8042_device_ops = {
	.name = "i8042",
	.version = 1,
	.reset = reset,
	.state = state,
	.loaded = loaded,
};
