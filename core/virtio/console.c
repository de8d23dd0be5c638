/* virtio console, id 3 ([VIRTIO1.2 5.3]) with VIRTIO_CONSOLE_F_SIZE, _MULTIPORT and
 * _EMERG_WRITE. Queues: receive and transmit of port 0, receive and transmit of the
 * control channel, then two for each further port.
 *
 * Output that the back end does not take stays in its chain, which is given back when all
 * of it is out: the guest's driver waits, nothing is lost. Input for which there is no
 * buffer stays with the back end. Control messages to the guest are bits that wait for a
 * buffer, so a driver that asks without end grows no queue.
 *
 * DEVIATION: RESIZE carries rows before columns, as Linux has always read it, and not as
 * [VIRTIO1.2 5.3.6.2] has it.
 * Left out: adding and removing ports while the guest runs. VM lock held; back ends may
 * call in from inside of write(). */
#include "core/virtio/console.h"

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/le.h"
#include "core/base/string.h"
#include "core/vm/vm.h"

#define F_SIZE 0
#define F_MULTIPORT 1
#define F_EMERG_WRITE 2

#define QUEUE_SIZE 128
#define QUEUE_CONTROL_RX 2u
#define QUEUE_CONTROL_TX 3u

enum { CONFIG_COLS = 0, CONFIG_ROWS = 2, CONFIG_MAX_PORTS = 4, CONFIG_EMERG_WR = 8 };

enum control_event {
	DEVICE_READY = 0,
	DEVICE_ADD = 1,
	DEVICE_REMOVE = 2,
	PORT_READY = 3,
	CONSOLE_PORT = 4,
	RESIZE = 5,
	PORT_OPEN = 6,
	PORT_NAME = 7,
};

#define CONTROL_SIZE 8u /* id u32, event u16, value u16 */

/* The order in which a port's waiting messages go out. */
static const uint8_t control_order[] = {DEVICE_ADD, CONSOLE_PORT, RESIZE, PORT_NAME, PORT_OPEN};

struct console_port {
	struct virtio_console *console;
	unsigned index;
	char name[VIRTIO_CONSOLE_NAME];
	bool is_console;
	struct char_backend backend;
	uint8_t waiting; /* control messages to send, bits by event */
	bool ready;		 /* the driver has taken it up and may be told of changes */
	bool guest_open, host_open;
	bool starved; /* the back end has input for which there was no room */
	bool sending; /* inside of the transmit loop: do not enter it again */
	bool held;	  /* `chain` is in work, sent up to byte `pos` */
	uint64_t pos;
	struct virtq_chain chain;
};

struct virtio_console {
	struct virtio_device dev;
	unsigned nports;
	struct virtq_chain scratch; /* of what is done within one call */
	struct console_port port[];
};

static bool multiport(const struct virtio_console *c) {
	return virtio_device_has(&c->dev, F_MULTIPORT);
}

static struct virtqueue *rx_queue(struct console_port *p) {
	return &p->console->dev.vq[p->index ? 2 * p->index + 2 : 0];
}

static struct virtqueue *tx_queue(struct console_port *p) {
	return rx_queue(p) + 1;
}

/* The port of a data queue, or NULL if it is none or the driver has no use for it. */
static struct console_port *port_of(struct virtio_console *c, unsigned queue) {
	if (queue < 2)
		return &c->port[0];
	return queue > QUEUE_CONTROL_TX && multiport(c) ? &c->port[queue / 2 - 1] : NULL;
}

static size_t backend_write(struct console_port *p, const uint8_t *buf, size_t len) {
	return p->backend.write ? p->backend.write(p->backend.opaque, buf, len) : len;
}

/* --- data --- */

/* Sends on from p->pos; false: the back end is full. */
static bool send_held(struct console_port *p) {
	uint64_t start = 0;
	for (unsigned i = 0; i < p->chain.nout; i++) {
		const struct virtq_segment *s = &p->chain.seg[i];
		while (p->pos < start + s->len) {
			uint64_t off = p->pos - start;
			size_t n = backend_write(p, s->host + off, (size_t)(s->len - off));
			if (!n)
				return false;
			p->pos += MIN(n, s->len - off);
		}
		start += s->len;
	}
	return true;
}

static void transmit(struct console_port *p) {
	struct virtqueue *q = tx_queue(p);
	if (p->sending)
		return;
	p->sending = true;
	for (;;) {
		if (!p->held) {
			p->pos = 0;
			p->held = virtqueue_pop(q, &p->chain);
		}
		if (!p->held || !send_held(p))
			break;
		p->held = false;
		virtqueue_push(q, &p->chain, 0);
	}
	p->sending = false;
	virtqueue_notify(q);
}

static void port_writable(void *dev) {
	struct console_port *p = dev;
	virtqueue_refresh(tx_queue(p));
	transmit(p);
}

static bool takes_input(struct console_port *p) {
	return virtio_device_live(&p->console->dev) &&
		   (multiport(p->console) ? p->guest_open : p->index == 0);
}

static size_t port_receive(void *dev, const uint8_t *buf, size_t len) {
	struct console_port *p = dev;
	struct virtqueue *q = rx_queue(p);
	struct virtq_chain *chain = &p->console->scratch;
	size_t done = 0;
	virtqueue_refresh(q);
	while (done < len && takes_input(p) && virtqueue_pop(q, chain)) {
		size_t n = virtq_chain_write(q, chain, 0, buf + done, len - done);
		if (!n) {
			virtio_device_fail(&p->console->dev, q->index, "a buffer that cannot be written");
			break;
		}
		virtqueue_push(q, chain, n);
		done += n;
	}
	virtqueue_notify(q);
	p->starved = done < len;
	return done;
}

static void offer_input(struct console_port *p) {
	if (!p->starved || !takes_input(p))
		return;
	p->starved = false;
	if (p->backend.readable)
		p->backend.readable(p->backend.opaque);
}

/* --- control --- */

static size_t control_message(struct console_port *p, enum control_event event, uint8_t *msg) {
	const uint8_t *config = p->console->dev.config;
	le32_put(msg, p->index);
	le16_put(msg + 4, (uint16_t)event);
	le16_put(msg + 6,
			 event == PORT_OPEN ? p->host_open : event == CONSOLE_PORT || event == PORT_NAME);
	switch (event) {
	case RESIZE:
		memcpy(msg + CONTROL_SIZE, config + CONFIG_ROWS, 2);
		memcpy(msg + CONTROL_SIZE + 2, config + CONFIG_COLS, 2);
		return CONTROL_SIZE + 4;
	case PORT_NAME: /* its length is the message's; Linux takes no end mark */
		memcpy(msg + CONTROL_SIZE, p->name, str_len(p->name));
		return CONTROL_SIZE + str_len(p->name);
	default:
		return CONTROL_SIZE;
	}
}

/* Sends waiting messages as long as there are buffers. */
static void control_flush(struct virtio_console *c) {
	struct virtqueue *q = multiport(c) ? &c->dev.vq[QUEUE_CONTROL_RX] : NULL;
	if (!q)
		return;
	for (unsigned i = 0; i < c->nports; i++) {
		struct console_port *p = &c->port[i];
		for (unsigned k = 0; k < ARRAY_LEN(control_order) && p->waiting; k++) {
			uint8_t msg[CONTROL_SIZE + VIRTIO_CONSOLE_NAME], event = control_order[k];
			if (!(p->waiting & BIT(event)))
				continue;
			if (!virtqueue_pop(q, &c->scratch))
				goto out;
			size_t len = control_message(p, event, msg);
			virtqueue_push(q, &c->scratch, virtq_chain_write(q, &c->scratch, 0, msg, len));
			p->waiting &= (uint8_t)~BIT(event);
		}
	}
out:
	virtqueue_notify(q);
}

static void port_ready(struct console_port *p) {
	p->ready = true;
	p->waiting |= BIT(PORT_OPEN);
	if (p->name[0])
		p->waiting |= BIT(PORT_NAME);
	if (p->is_console)
		p->waiting |= BIT(CONSOLE_PORT);
	if (p->is_console && le32_get(p->console->dev.config + CONFIG_COLS))
		p->waiting |= BIT(RESIZE);
}

/* Messages with senseless ids, events or values are ignored. */
static void control_received(struct virtio_console *c, const uint8_t *msg) {
	uint32_t id = le32_get(msg);
	uint16_t event = le16_get(msg + 4), value = le16_get(msg + 6);
	if (event == DEVICE_READY) {
		for (unsigned i = 0; value && i < c->nports; i++)
			c->port[i].waiting |= BIT(DEVICE_ADD);
	} else if (event == PORT_READY && id < c->nports && value) {
		port_ready(&c->port[id]);
	} else if (event == PORT_OPEN && id < c->nports) {
		c->port[id].guest_open = value != 0;
		offer_input(&c->port[id]);
	}
}

static void control_run(struct virtio_console *c) {
	struct virtqueue *q = &c->dev.vq[QUEUE_CONTROL_TX];
	while (virtqueue_pop(q, &c->scratch)) {
		uint8_t msg[CONTROL_SIZE];
		size_t len = virtq_chain_read(&c->scratch, 0, msg, sizeof(msg));
		virtqueue_push(q, &c->scratch, 0);
		if (len == sizeof(msg))
			control_received(c, msg);
	}
	virtqueue_notify(q);
	virtqueue_refresh(&c->dev.vq[QUEUE_CONTROL_RX]);
	control_flush(c);
}

/* --- the device --- */

static void notify(void *self, unsigned queue) {
	struct virtio_console *c = self;
	struct console_port *p = port_of(c, queue);
	if (p && queue & 1)
		transmit(p);
	else if (p)
		offer_input(p);
	else if (queue == QUEUE_CONTROL_RX)
		control_flush(c);
	else if (queue == QUEUE_CONTROL_TX && multiport(c))
		control_run(c);
}

static void config_write(void *self, unsigned off, unsigned size, uint32_t val) {
	struct virtio_console *c = self;
	uint8_t byte = (uint8_t)val;
	/* For panics: works before the handshake and is lost when the back end is full. */
	if (off == CONFIG_EMERG_WR)
		backend_write(&c->port[0], &byte, 1);
}

static void reset(void *self) {
	struct virtio_console *c = self;
	for (unsigned i = 0; i < c->nports; i++) {
		c->port[i].waiting = 0;
		c->port[i].ready = c->port[i].guest_open = c->port[i].held = false;
	}
}

static void port_state(struct state_io *io, struct console_port *p) {
	state_u8(io, "waiting", &p->waiting);
	state_bool(io, "ready", &p->ready);
	state_bool(io, "guest_open", &p->guest_open);
	state_bool(io, "held", &p->held);
	if (!p->held)
		return;
	state_u64(io, "pos", &p->pos);
	virtq_chain_state(io, tx_queue(p), &p->chain);
	if (io->loading && !io->error && p->pos > p->chain.out_len)
		state_fail(io, "a position behind the end of its chain");
	if (io->error && io->loading)
		p->held = false;
}

static void state(struct state_io *io, void *self) {
	struct virtio_console *c = self;
	for (unsigned i = 0; i < c->nports; i++)
		port_state(io, &c->port[i]);
}

static void loaded(void *self) {
	struct virtio_console *c = self;
	for (unsigned i = 0; i < c->nports; i++) {
		struct console_port *p = &c->port[i];
		if (p->held)
			p->held = virtq_chain_resolve(tx_queue(p), &p->chain);
		/* Whoever is at the other end now may have input that nobody asked for yet, or
		 * there is nobody any more. */
		p->starved = true;
		if (p->ready)
			p->waiting |= BIT(PORT_OPEN);
	}
}

static const struct virtio_device_ops ops = {
	.name = "virtio-console",
	.id = VIRTIO_ID_CONSOLE,
	.notify = notify,
	.config_write = config_write,
	.reset = reset,
	.state = state,
	.loaded = loaded,
};

static void port_init(struct virtio_console *c, unsigned i,
					  const struct virtio_console_port_options *o) {
	struct console_port *p = &c->port[i];
	p->console = c;
	p->index = i;
	p->is_console = o->console;
	p->host_open = !o->closed;
	p->backend = o->backend;
	for (unsigned n = 0; o->name && o->name[n] && n < VIRTIO_CONSOLE_NAME - 1; n++)
		p->name[n] = o->name[n];
}

struct virtio_console *virtio_console_create(struct vm *vm,
											 const struct virtio_console_port_options *ports,
											 unsigned nports) {
	check(nports >= 1 && nports <= VIRTIO_CONSOLE_PORTS);
	struct virtio_console *c = vm_alloc(vm, sizeof(*c) + nports * sizeof(c->port[0]));
	if (!c || !virtio_device_init(&c->dev, vm, &ops, c,
								  BIT(F_SIZE) | BIT(F_MULTIPORT) | BIT(F_EMERG_WRITE),
								  2 * nports + 2, QUEUE_SIZE))
		return NULL;
	c->nports = nports;
	for (unsigned i = 0; i < nports; i++)
		port_init(c, i, &ports[i]);
	le32_put(c->dev.config + CONFIG_MAX_PORTS, nports);
	return c;
}

struct virtio_device *virtio_console_device(struct virtio_console *c) {
	return &c->dev;
}

struct char_device virtio_console_port(struct virtio_console *c, unsigned port) {
	check(port < c->nports);
	return (struct char_device){port_receive, port_writable, &c->port[port]};
}

void virtio_console_set_open(struct virtio_console *c, unsigned port, bool open) {
	check(port < c->nports);
	struct console_port *p = &c->port[port];
	p->host_open = open;
	if (!p->ready)
		return; /* it will be told when it takes the port up */
	p->waiting |= BIT(PORT_OPEN);
	virtqueue_refresh(&c->dev.vq[QUEUE_CONTROL_RX]);
	control_flush(c);
}

void virtio_console_resize(struct virtio_console *c, uint16_t cols, uint16_t rows) {
	le16_put(c->dev.config + CONFIG_COLS, cols);
	le16_put(c->dev.config + CONFIG_ROWS, rows);
	virtio_device_config_changed(&c->dev);
	if (!multiport(c) || !c->port[0].is_console)
		return;
	c->port[0].waiting |= BIT(RESIZE);
	virtqueue_refresh(&c->dev.vq[QUEUE_CONTROL_RX]);
	control_flush(c);
}
