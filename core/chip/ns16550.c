/* The 16550A serial port (National Semiconductor PC16550D data sheet, June 1995).
 *
 * Bytes to the back end are not paced: the transmitter is empty as soon as the back end
 * has taken them, and stays full until it does, so nothing is lost and nothing blocks.
 * Bytes from the back end are taken while the FIFO has room; the back end keeps the
 * rest until `readable`, so input never overruns (nor do parity, framing and break
 * errors exist). Only the time-out of the receiver FIFO takes line time.
 *
 * Left out: DMA (RXRDY/TXRDY, FCR bit 3), break condition on the wire, the modem lines:
 * CTS, DSR and DCD are always on, except in loopback.
 *
 * Called with the VM lock held: ports for any vCPU, the rest by the host's loop. */
#include "core/chip/ns16550.h"

#include "core/base/bits.h"
#include "core/base/string.h"

#define CLOCK_HZ 1843200u

#define IER_RDA 0x01u
#define IER_THRE 0x02u
#define IER_LSR 0x04u
#define IER_MSR 0x08u

#define IIR_NONE 0x01u
#define IIR_MSR 0x00u
#define IIR_THRE 0x02u
#define IIR_RDA 0x04u
#define IIR_LSR 0x06u
#define IIR_TIMEOUT 0x0cu
#define IIR_FIFO 0xc0u

#define FCR_ENABLE 0x01u
#define FCR_CLEAR_RX 0x02u
#define FCR_CLEAR_TX 0x04u
#define FCR_KEPT 0xc9u /* enable, DMA mode, trigger */

#define LCR_DLAB 0x80u
#define LCR_BREAK 0x40u

#define MCR_DTR 0x01u
#define MCR_RTS 0x02u
#define MCR_OUT1 0x04u
#define MCR_OUT2 0x08u /* on a PC: lets the interrupt out */
#define MCR_LOOP 0x10u

#define LSR_DR 0x01u
#define LSR_OE 0x02u
#define LSR_BI 0x10u
#define LSR_ERRORS 0x1eu
#define LSR_THRE 0x20u
#define LSR_TEMT 0x40u

#define MSR_CTS 0x10u
#define MSR_DSR 0x20u
#define MSR_RI 0x40u
#define MSR_DCD 0x80u
#define MSR_LINES 0xf0u
#define MSR_TERI 0x04u

enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

static bool fifo(const struct ns16550 *u) {
	return u->fcr & FCR_ENABLE;
}

static unsigned depth(const struct ns16550 *u) {
	return fifo(u) ? NS16550_FIFO : 1;
}

static unsigned trigger(const struct ns16550 *u) {
	static const uint8_t levels[4] = {1, 4, 8, 14};
	return fifo(u) ? levels[u->fcr >> 6] : 1;
}

/* What IIR says, by priority [PC16550D table V]. */
static uint8_t cause(const struct ns16550 *u) {
	if ((u->ier & IER_LSR) && u->lsr_errors)
		return IIR_LSR;
	if ((u->ier & IER_RDA) && u->rx_len >= trigger(u))
		return IIR_RDA;
	if ((u->ier & IER_RDA) && u->timeout)
		return IIR_TIMEOUT;
	if ((u->ier & IER_THRE) && u->thre_pending)
		return IIR_THRE;
	if ((u->ier & IER_MSR) && (u->msr & ~MSR_LINES))
		return IIR_MSR;
	return IIR_NONE;
}

static void update(struct ns16550 *u) {
	bool out = (u->mcr & MCR_OUT2) && !(u->mcr & MCR_LOOP);
	irq_set(&u->irq, out && cause(u) != IIR_NONE);
}

/* ---- receiver ----------------------------------------------------------------------- */

/* Four characters' time [PC16550D p.20]. */
static uint64_t timeout_ns(const struct ns16550 *u) {
	unsigned bits = 1 + 5 + (u->lcr & 3) + 1 + (u->lcr >> 2 & 1) + (u->lcr >> 3 & 1);
	uint64_t divisor = u->divisor ? u->divisor : 65536;
	return divisor * 16 * bits * 4 * 1000000000ull / CLOCK_HZ;
}

static void rx_watch(struct ns16550 *u) {
	u->timeout = false;
	if (fifo(u) && u->rx_len)
		timer_arm(u->timers, &u->rx_timer, timers_now(u->timers) + timeout_ns(u));
	else
		timer_cancel(&u->rx_timer);
}

static void rx_timed_out(void *opaque) {
	struct ns16550 *u = opaque;
	u->timeout = u->rx_len != 0;
	update(u);
}

static void rx_put(struct ns16550 *u, uint8_t c) {
	if (u->rx_len == depth(u)) { /* only in loopback: the back end is held off */
		u->lsr_errors |= LSR_OE;
		if (!fifo(u)) /* the holding register is overwritten, a FIFO is not */
			u->rx[u->rx_head] = c;
		return;
	}
	u->rx[(u->rx_head + u->rx_len++) % NS16550_FIFO] = c;
}

static void rx_room(struct ns16550 *u) {
	if (!u->input_refused || u->rx_len == depth(u) || (u->mcr & MCR_LOOP))
		return;
	u->input_refused = false;
	if (u->out.readable)
		u->out.readable(u->out.opaque);
}

static uint8_t rx_get(struct ns16550 *u) {
	if (!u->rx_len)
		return 0;
	uint8_t c = u->rx[u->rx_head];
	u->rx_head = (u->rx_head + 1) % NS16550_FIFO;
	u->rx_len--;
	rx_watch(u);
	/* The back end gives more from a loop of its own only when all is read: else a long
	 * paste would never let the guest's handler see an empty FIFO. */
	if (!u->rx_len)
		rx_room(u);
	return c;
}

static size_t receive(void *dev, const uint8_t *buf, size_t len) {
	struct ns16550 *u = dev;
	size_t taken = 0;
	while (taken < len && u->rx_len < depth(u) && !(u->mcr & MCR_LOOP))
		rx_put(u, buf[taken++]);
	if (taken < len)
		u->input_refused = true;
	if (taken) {
		rx_watch(u);
		update(u);
	}
	return taken;
}

/* ---- transmitter -------------------------------------------------------------------- */

static void tx_flush(struct ns16550 *u) {
	if (!u->tx_len)
		return;
	size_t n = u->out.write ? u->out.write(u->out.opaque, u->tx, u->tx_len) : u->tx_len;
	n = MIN(n, u->tx_len);
	memmove(u->tx, u->tx + n, u->tx_len - n);
	u->tx_len -= (uint8_t)n;
	if (!u->tx_len)
		u->thre_pending = true;
}

static void writable(void *dev) {
	struct ns16550 *u = dev;
	tx_flush(u);
	update(u);
}

static void tx_put(struct ns16550 *u, uint8_t c) {
	u->thre_pending = false;
	if (u->mcr & MCR_LOOP) {
		rx_put(u, c);
		rx_watch(u);
		u->thre_pending = true;
		return;
	}
	/* A guest that writes in spite of THRE being clear loses what real hardware would
	 * lose: the byte that finds no room. */
	if (u->tx_len < depth(u))
		u->tx[u->tx_len++] = c;
	tx_flush(u);
}

/* ---- registers ---------------------------------------------------------------------- */

static uint8_t modem_lines(const struct ns16550 *u) {
	if (!(u->mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	return (u->mcr & MCR_RTS ? MSR_CTS : 0) | (u->mcr & MCR_DTR ? MSR_DSR : 0) |
		   (u->mcr & MCR_OUT1 ? MSR_RI : 0) | (u->mcr & MCR_OUT2 ? MSR_DCD : 0);
}

/* Delta bits are what changed; for RI only its end counts. */
static void modem_changed(struct ns16550 *u) {
	uint8_t now = modem_lines(u), was = u->msr & MSR_LINES;
	uint8_t delta = (uint8_t)((now ^ was) >> 4);
	if (now & MSR_RI)
		delta &= (uint8_t)~MSR_TERI;
	u->msr = (uint8_t)(now | (u->msr & ~MSR_LINES) | delta);
}

static void write_fcr(struct ns16550 *u, uint8_t val) {
	bool toggled = (val ^ u->fcr) & FCR_ENABLE;
	/* Other bits count only with bit 0, whose change empties both [PC16550D p.19]. */
	u->fcr = val & FCR_ENABLE ? val & FCR_KEPT : 0;
	if (toggled || ((val & FCR_ENABLE) && (val & FCR_CLEAR_RX))) {
		u->rx_len = u->rx_head = 0;
		rx_watch(u);
	}
	if (toggled || ((val & FCR_ENABLE) && (val & FCR_CLEAR_TX))) {
		/* What the back end has not taken yet is, to the guest, still being sent. It goes
		 * out all the same when a FIFO is merely enabled; clearing drops it. */
		if (val & FCR_CLEAR_TX)
			u->tx_len = 0;
		u->tx_len = MIN(u->tx_len, (uint8_t)depth(u));
		u->thre_pending = !u->tx_len;
	}
	rx_room(u);
}

static void write_ier(struct ns16550 *u, uint8_t val) {
	uint8_t old = u->ier;
	u->ier = val & 0x0f;
	/* Enabling the interrupt while the transmitter is empty raises it [PC16550D p.21]. */
	if ((u->ier & ~old & IER_THRE) && !u->tx_len)
		u->thre_pending = true;
}

static void write_mcr(struct ns16550 *u, uint8_t val) {
	u->mcr = val & 0x1f;
	modem_changed(u);
	rx_room(u);
}

static uint8_t read_iir(struct ns16550 *u) {
	uint8_t c = cause(u);
	if (c == IIR_THRE) /* told: that acknowledges it */
		u->thre_pending = false;
	return c | (fifo(u) ? IIR_FIFO : 0);
}

static uint8_t read_lsr(struct ns16550 *u) {
	uint8_t v = u->lsr_errors | (u->rx_len ? LSR_DR : 0) | (u->tx_len ? 0 : LSR_THRE | LSR_TEMT);
	u->lsr_errors = 0;
	return v;
}

static uint64_t uart_read(void *dev, uint64_t off, unsigned size) {
	struct ns16550 *u = dev;
	uint8_t v = 0;
	switch (off) {
	case REG_DATA:
		v = u->lcr & LCR_DLAB ? (uint8_t)u->divisor : rx_get(u);
		break;
	case REG_IER:
		v = u->lcr & LCR_DLAB ? (uint8_t)(u->divisor >> 8) : u->ier;
		break;
	case REG_IIR_FCR:
		v = read_iir(u);
		break;
	case REG_LCR:
		v = u->lcr;
		break;
	case REG_MCR:
		v = u->mcr;
		break;
	case REG_LSR:
		v = read_lsr(u);
		break;
	case REG_MSR:
		v = u->msr;
		u->msr &= MSR_LINES;
		break;
	default:
		v = u->scr;
		break;
	}
	update(u);
	return v;
}

static void uart_write(void *dev, uint64_t off, unsigned size, uint64_t wide) {
	struct ns16550 *u = dev;
	uint8_t val = (uint8_t)wide;
	switch (off) {
	case REG_DATA:
		if (u->lcr & LCR_DLAB)
			u->divisor = (uint16_t)((u->divisor & 0xff00) | val);
		else
			tx_put(u, val);
		break;
	case REG_IER:
		if (u->lcr & LCR_DLAB)
			u->divisor = (uint16_t)((u->divisor & 0x00ff) | val << 8);
		else
			write_ier(u, val);
		break;
	case REG_IIR_FCR:
		write_fcr(u, val);
		break;
	case REG_LCR:
		/* A break in loopback reaches the receiver: a null character and BI. */
		if ((val & ~u->lcr & LCR_BREAK) && (u->mcr & MCR_LOOP)) {
			rx_put(u, 0);
			u->lsr_errors |= LSR_BI;
		}
		u->lcr = val;
		break;
	case REG_MCR:
		write_mcr(u, val);
		break;
	case REG_SCR:
		u->scr = val;
		break;
	default: /* LSR and MSR: for factory tests only */
		break;
	}
	update(u);
}

const struct io_ops ns16550_ops = {uart_read, uart_write, 1, 1};

struct char_device ns16550_char_device(struct ns16550 *u) {
	return (struct char_device){receive, writable, u};
}

/* [PC16550D table I]; receiver buffer, scratch and divisor are not defined there. */
static void reset(void *self) {
	struct ns16550 *u = self;
	bool refused = u->input_refused;
	timer_cancel(&u->rx_timer);
	/* The wires and the back end stay; what waits there for room may come now. */
	*u = (struct ns16550){.timers = u->timers,
						  .rx_timer = u->rx_timer,
						  .irq = u->irq,
						  .out = u->out,
						  .divisor = 12,
						  .input_refused = refused};
	u->msr = modem_lines(u);
	update(u);
	rx_room(u);
}

void ns16550_init(struct ns16550 *u, struct vm_timers *timers, const struct irq_line *irq,
				  const struct char_backend *out) {
	*u = (struct ns16550){.timers = timers, .irq = *irq, .out = *out};
	timer_init(&u->rx_timer, rx_timed_out, u);
	reset(u);
}

static void state(struct state_io *io, void *self) {
	struct ns16550 *u = self;
	state_u8(io, "ier", &u->ier);
	state_u8(io, "fcr", &u->fcr);
	state_u8(io, "lcr", &u->lcr);
	state_u8(io, "mcr", &u->mcr);
	state_u8(io, "msr", &u->msr);
	state_u8(io, "scr", &u->scr);
	state_u8(io, "lsr_errors", &u->lsr_errors);
	state_u16(io, "divisor", &u->divisor);
	state_bytes(io, "rx", u->rx, sizeof(u->rx));
	state_bytes(io, "tx", u->tx, sizeof(u->tx));
	state_u8(io, "rx_head", &u->rx_head);
	state_u8(io, "rx_len", &u->rx_len);
	state_u8(io, "tx_len", &u->tx_len);
	state_bool(io, "thre_pending", &u->thre_pending);
	state_bool(io, "timeout", &u->timeout);
	if (!io->loading)
		return;
	u->fcr = u->fcr & FCR_ENABLE ? u->fcr & FCR_KEPT : 0;
	u->ier &= 0x0f;
	u->mcr &= 0x1f;
	u->lsr_errors &= LSR_ERRORS;
	u->rx_head %= NS16550_FIFO;
	if (u->rx_len > depth(u) || u->tx_len > depth(u))
		state_fail(io, "more bytes than the FIFO holds");
	u->rx_len = MIN(u->rx_len, (uint8_t)depth(u));
	u->tx_len = MIN(u->tx_len, (uint8_t)depth(u));
	u->timeout &= u->rx_len != 0;
}

/* The new back end is asked to take what the old one had not, and to give. */
static void loaded(void *self) {
	struct ns16550 *u = self;
	timer_cancel(&u->rx_timer);
	if (fifo(u) && u->rx_len && !u->timeout)
		timer_arm(u->timers, &u->rx_timer, timers_now(u->timers) + timeout_ns(u));
	tx_flush(u);
	u->input_refused = true;
	rx_room(u);
	update(u);
}

const struct device_ops ns16550_device_ops = {
	.name = "ns16550",
	.version = 1,
	.reset = reset,
	.state = state,
	.loaded = loaded,
};
