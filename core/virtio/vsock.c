/* virtio socket device, id 19 ([VIRTIO1.2 5.10]): stream sockets between the guest and CID 2, its
 * host. Queues: receive, transmit, events.
 *
 * Flow control is by credit in both directions ([VIRTIO1.2 5.10.6.3]): the guest may send
 * VSOCK_WINDOW bytes ahead of what the back end has passed on, and a stream on which it sends
 * more is reset; we send no more than what it says it has room for. No byte waits in here.
 *
 * Packets to the guest without data are bits of their stream that wait for a buffer. Answers to
 * packets of no stream wait in a list; when that is full, the guest's queue stands still until it
 * gives buffers to receive, so a guest that provokes answers without end grows nothing.
 *
 * Streams are not saved: a guest that is loaded is told of a new transport
 * (VIRTIO_VSOCK_EVENT_TRANSPORT_RESET) and its sockets see a reset ([VIRTIO1.2 5.10.6.7]).
 *
 * Left out: SEQPACKET and datagrams (answered by RST), addresses other than the host's and the
 * guest's own (dropped, as the specification wants). VM lock held; back ends may call in from
 * inside of their functions. */
#include "core/virtio/vsock.h"

#include "core/base/bits.h"
#include "core/base/check.h"
#include "core/base/le.h"
#include "core/base/string.h"
#include "core/vm/vm.h"

enum { QUEUE_RX = 0, QUEUE_TX = 1, QUEUE_EVENT = 2, QUEUES = 3 };

#define QUEUE_SIZE 128
#define CID_HOST 2u
#define TYPE_STREAM 1u

/* [VIRTIO1.2 5.10.6], struct virtio_vsock_hdr. */
enum {
	HDR_SRC_CID = 0,
	HDR_DST_CID = 8,
	HDR_SRC_PORT = 16,
	HDR_DST_PORT = 20,
	HDR_LEN = 24,
	HDR_TYPE = 28,
	HDR_OP = 30,
	HDR_FLAGS = 32,
	HDR_BUF_ALLOC = 36,
	HDR_FWD_CNT = 40,
	HDR_SIZE = 44,
};

enum op {
	OP_INVALID,
	OP_REQUEST,
	OP_RESPONSE,
	OP_RST,
	OP_SHUTDOWN,
	OP_RW,
	OP_CREDIT_UPDATE,
	OP_CREDIT_REQUEST,
};

#define SHUTDOWN_RECEIVE 1u
#define SHUTDOWN_SEND 2u
#define SHUTDOWN_BOTH 3u

#define EVENT_TRANSPORT_RESET 0u

#define PORT_FIRST 0x40000000u /* host's ports of streams that the host begins */
#define REPLIES 64

enum phase {
	FREE,
	ASKED, /* the guest has not yet answered our REQUEST */
	OPEN,
	LEAVING, /* the back end is through with it; the guest's RST is what is missing */
};

struct stream {
	enum phase phase;
	uint32_t guest_port, host_port;
	uint32_t received, consumed, told; /* bytes from the guest; `told`: what it knows of them */
	uint32_t sent, peer_consumed, peer_room;
	uint8_t waiting;	 /* packets to send, bits by op */
	uint8_t guest_flags; /* SHUTDOWN flags that it sent */
	uint8_t host_flags;	 /* and ours */
	bool starved;		 /* the back end has bytes for which there was no room */
	uint32_t age;		 /* when it began LEAVING */
};

/* An RST for a packet of no stream. */
struct reply {
	uint32_t guest_port, host_port;
	uint16_t type;
};

struct virtio_vsock {
	struct virtio_device dev;
	struct vsock_backend backend;
	uint32_t cid, next_port, clock;
	bool event_waiting;
	bool sending; /* inside of the transmit loop */
	unsigned nreplies;
	unsigned turn; /* which starved stream is asked first */
	struct reply replies[REPLIES];
	struct stream streams[VSOCK_CONNS];
	struct virtq_chain tx, rx;
};

/* ---- to the guest -------------------------------------------------------------------- */

static void header(const struct virtio_vsock *v, uint8_t *h, uint32_t guest_port,
				   uint32_t host_port, enum op op) {
	memset(h, 0, HDR_SIZE);
	le64_put(h + HDR_SRC_CID, CID_HOST);
	le64_put(h + HDR_DST_CID, v->cid);
	le32_put(h + HDR_SRC_PORT, host_port);
	le32_put(h + HDR_DST_PORT, guest_port);
	le16_put(h + HDR_TYPE, TYPE_STREAM);
	le16_put(h + HDR_OP, (uint16_t)op);
}

static void stream_header(struct virtio_vsock *v, struct stream *s, uint8_t *h, enum op op) {
	header(v, h, s->guest_port, s->host_port, op);
	if (op == OP_SHUTDOWN)
		le32_put(h + HDR_FLAGS, s->host_flags);
	le32_put(h + HDR_BUF_ALLOC, VSOCK_WINDOW);
	le32_put(h + HDR_FWD_CNT, s->consumed);
	s->told = s->consumed;
}

/* Takes a buffer that a header fits into. */
static bool pop_rx(struct virtio_vsock *v) {
	struct virtqueue *q = &v->dev.vq[QUEUE_RX];
	if (!virtio_device_live(&v->dev) || !virtqueue_pop(q, &v->rx))
		return false;
	if (v->rx.in_len > HDR_SIZE)
		return true;
	virtio_device_fail(&v->dev, QUEUE_RX, "a buffer too small for a packet");
	return false;
}

static void push_rx(struct virtio_vsock *v, const uint8_t *h) {
	struct virtqueue *q = &v->dev.vq[QUEUE_RX];
	virtq_chain_write(q, &v->rx, 0, h, HDR_SIZE);
	virtqueue_push(q, &v->rx, HDR_SIZE);
}

/* An answer before a request, data (elsewhere) before the end. */
static const uint8_t order[] = {OP_REQUEST, OP_RESPONSE, OP_CREDIT_UPDATE, OP_SHUTDOWN, OP_RST};

static bool flush_stream(struct virtio_vsock *v, struct stream *s) {
	uint8_t h[HDR_SIZE];
	for (unsigned k = 0; k < ARRAY_LEN(order) && s->waiting; k++) {
		enum op op = (enum op)order[k];
		if (!(s->waiting & BIT(op)))
			continue;
		if (!pop_rx(v))
			return false;
		s->waiting &= (uint8_t)~BIT(op);
		stream_header(v, s, h, op);
		push_rx(v, h);
		if (op == OP_RST)
			s->phase = FREE;
	}
	return true;
}

/* Sends what waits as long as there are buffers; false: there are none left. */
static bool flush(struct virtio_vsock *v) {
	uint8_t h[HDR_SIZE];
	unsigned done = 0;
	bool room = true;
	while (done < v->nreplies && (room = pop_rx(v))) {
		const struct reply *r = &v->replies[done++];
		header(v, h, r->guest_port, r->host_port, OP_RST);
		le16_put(h + HDR_TYPE, r->type);
		push_rx(v, h);
	}
	v->nreplies -= done;
	memmove(v->replies, v->replies + done, v->nreplies * sizeof(v->replies[0]));
	for (unsigned i = 0; room && i < VSOCK_CONNS; i++)
		room = flush_stream(v, &v->streams[i]);
	return room;
}

/* From outside of a notification: whatever waits, and the interrupt. */
static void flush_now(struct virtio_vsock *v) {
	virtqueue_refresh(&v->dev.vq[QUEUE_RX]);
	flush(v);
	virtqueue_notify(&v->dev.vq[QUEUE_RX]);
}

static void refuse(struct virtio_vsock *v, uint32_t guest_port, uint32_t host_port, uint16_t type) {
	check(v->nreplies < REPLIES);
	v->replies[v->nreplies++] = (struct reply){guest_port, host_port, type};
}

/* ---- streams ------------------------------------------------------------------------- */

static unsigned number_of(const struct virtio_vsock *v, const struct stream *s) {
	return (unsigned)(s - v->streams);
}

static struct stream *find(struct virtio_vsock *v, uint32_t guest_port, uint32_t host_port) {
	for (unsigned i = 0; i < VSOCK_CONNS; i++) {
		struct stream *s = &v->streams[i];
		if (s->phase != FREE && s->guest_port == guest_port && s->host_port == host_port)
			return s;
	}
	return NULL;
}

/* A free one, or the one that has been leaving for longest: its guest takes its time. That one's
 * RST goes into the list, in which there must be room. */
static struct stream *fresh(struct virtio_vsock *v) {
	struct stream *oldest = NULL;
	for (unsigned i = 0; i < VSOCK_CONNS; i++) {
		struct stream *s = &v->streams[i];
		if (s->phase == FREE)
			return s;
		if (s->phase == LEAVING && (!oldest || v->clock - s->age > v->clock - oldest->age))
			oldest = s;
	}
	if (!oldest || v->nreplies == REPLIES)
		return NULL;
	refuse(v, oldest->guest_port, oldest->host_port, TYPE_STREAM);
	return oldest;
}

static void begin(struct stream *s, enum phase phase, uint32_t guest_port, uint32_t host_port) {
	*s = (struct stream){.phase = phase, .guest_port = guest_port, .host_port = host_port};
}

static void take_credit(struct stream *s, const uint8_t *h) {
	s->peer_room = le32_get(h + HDR_BUF_ALLOC);
	s->peer_consumed = le32_get(h + HDR_FWD_CNT);
}

static uint32_t credit(const struct stream *s) {
	uint32_t flying = s->sent - s->peer_consumed;
	return flying < s->peer_room ? s->peer_room - flying : 0;
}

/* It ends here and now; the back end may not know yet. */
static void drop(struct virtio_vsock *v, struct stream *s) {
	bool known = s->phase == ASKED || s->phase == OPEN;
	s->phase = FREE;
	s->waiting = 0;
	if (known)
		v->backend.close(v->backend.opaque, number_of(v, s));
}

static void reset_stream(struct virtio_vsock *v, struct stream *s) {
	refuse(v, s->guest_port, s->host_port, TYPE_STREAM);
	drop(v, s);
}

/* ---- from the guest ------------------------------------------------------------------ */

static void on_request(struct virtio_vsock *v, const uint8_t *h) {
	uint32_t guest_port = le32_get(h + HDR_SRC_PORT), host_port = le32_get(h + HDR_DST_PORT);
	/* Its RST, when one makes place for another, takes one place of the list, a refusal another. */
	struct stream *s = fresh(v);
	if (!s) {
		refuse(v, guest_port, host_port, TYPE_STREAM);
		return;
	}
	begin(s, OPEN, guest_port, host_port);
	take_credit(s, h);
	if (v->backend.connect(v->backend.opaque, number_of(v, s), host_port)) {
		s->waiting |= BIT(OP_RESPONSE);
	} else {
		s->phase = FREE;
		refuse(v, guest_port, host_port, TYPE_STREAM);
	}
}

/* Bytes that follow the header in the chain. */
static void on_data(struct virtio_vsock *v, struct stream *s, uint32_t len) {
	const struct virtq_chain *c = &v->tx;
	uint64_t skip = HDR_SIZE;
	if (s->guest_flags & SHUTDOWN_SEND || s->phase == ASKED ||
		len > VSOCK_WINDOW - (s->received - s->consumed)) {
		reset_stream(v, s);
		return;
	}
	s->received += len;
	for (unsigned i = 0; i < c->nout && len && s->phase == OPEN; i++) {
		if (skip >= c->seg[i].len) {
			skip -= c->seg[i].len;
			continue;
		}
		size_t n = MIN((size_t)(c->seg[i].len - skip), (size_t)len);
		v->backend.write(v->backend.opaque, number_of(v, s), c->seg[i].host + skip, n);
		len -= (uint32_t)n;
		skip = 0;
	}
}

static void on_shutdown(struct virtio_vsock *v, struct stream *s, uint32_t flags) {
	uint8_t before = s->guest_flags;
	s->guest_flags |= (uint8_t)(flags & SHUTDOWN_BOTH);
	/* "Nor take any more" without "send no more" changes nothing for a back end that writes. */
	if (s->guest_flags == before || !(s->guest_flags & SHUTDOWN_SEND))
		return;
	v->backend.finish(v->backend.opaque, number_of(v, s), s->guest_flags == SHUTDOWN_BOTH);
}

static void on_stream(struct virtio_vsock *v, struct stream *s, const uint8_t *h, enum op op,
					  uint32_t len) {
	take_credit(s, h);
	if (op == OP_RST) {
		drop(v, s);
	} else if (s->phase == LEAVING) {
		/* Whatever was on the way; and its SHUTDOWN, which is answered by RST. */
		if (op == OP_SHUTDOWN)
			reset_stream(v, s);
	} else if (op == OP_RW) {
		on_data(v, s, len);
	} else if (op == OP_RESPONSE && s->phase == ASKED) {
		s->phase = OPEN;
		v->backend.connected(v->backend.opaque, number_of(v, s));
	} else if (op == OP_SHUTDOWN && s->phase == OPEN) {
		on_shutdown(v, s, le32_get(h + HDR_FLAGS));
	} else if (op == OP_CREDIT_REQUEST) {
		s->waiting |= BIT(OP_CREDIT_UPDATE);
	} else if (op != OP_CREDIT_UPDATE) {
		reset_stream(v, s);
	}
}

static void on_packet(struct virtio_vsock *v) {
	uint8_t h[HDR_SIZE];
	if (virtq_chain_read(&v->tx, 0, h, HDR_SIZE) < HDR_SIZE)
		return;
	if (le64_get(h + HDR_SRC_CID) != v->cid || le64_get(h + HDR_DST_CID) != CID_HOST)
		return;
	uint32_t guest_port = le32_get(h + HDR_SRC_PORT), host_port = le32_get(h + HDR_DST_PORT);
	uint16_t type = le16_get(h + HDR_TYPE), op = le16_get(h + HDR_OP);
	uint32_t len = op == OP_RW ? le32_get(h + HDR_LEN) : 0;
	struct stream *s = type == TYPE_STREAM ? find(v, guest_port, host_port) : NULL;
	if (s && s->phase == LEAVING && op == OP_REQUEST) {
		drop(v, s); /* it has forgotten that one, and uses the port again */
		s = NULL;
	}
	if (len > v->tx.out_len - HDR_SIZE) {
		if (s)
			reset_stream(v, s);
	} else if (s) {
		on_stream(v, s, h, (enum op)op, len);
	} else if (op == OP_REQUEST && type == TYPE_STREAM) {
		on_request(v, h);
	} else if (op != OP_RST) {
		refuse(v, guest_port, host_port, type);
	}
}

static void transmit(struct virtio_vsock *v) {
	struct virtqueue *q = &v->dev.vq[QUEUE_TX];
	if (v->sending)
		return;
	v->sending = true;
	/* A packet makes two answers at most. */
	for (;;) {
		if (v->nreplies > REPLIES - 2)
			flush(v);
		if (v->nreplies > REPLIES - 2 || !virtqueue_pop(q, &v->tx))
			break;
		on_packet(v);
		virtqueue_push(q, &v->tx, 0);
	}
	v->sending = false;
	virtqueue_notify(q);
}

/* ---- events ----------------------------------------------------------------------------- */

static void send_event(struct virtio_vsock *v) {
	struct virtqueue *q = &v->dev.vq[QUEUE_EVENT];
	uint8_t event[4];
	if (!v->event_waiting || !virtio_device_live(&v->dev) || !virtqueue_pop(q, &v->rx))
		return;
	le32_put(event, EVENT_TRANSPORT_RESET);
	v->event_waiting = false;
	virtqueue_push(q, &v->rx, virtq_chain_write(q, &v->rx, 0, event, sizeof(event)));
	virtqueue_notify(q);
}

/* ---- the device ----------------------------------------------------------------------- */

/* Buffers are there again: first what waits here, then back ends in turn. */
static void offer(struct virtio_vsock *v) {
	unsigned from = v->turn;
	if (!flush(v))
		return;
	for (unsigned k = 0; k < VSOCK_CONNS; k++) {
		unsigned i = (from + k) % VSOCK_CONNS;
		struct stream *s = &v->streams[i];
		if (s->phase != OPEN || !s->starved || !credit(s))
			continue;
		s->starved = false;
		v->turn = i + 1;
		v->backend.readable(v->backend.opaque, i);
	}
}

static void notify(void *self, unsigned queue) {
	struct virtio_vsock *v = self;
	if (queue == QUEUE_EVENT)
		send_event(v);
	/* One makes room for the other: answers for packets, credit for data. */
	transmit(v);
	virtqueue_refresh(&v->dev.vq[QUEUE_RX]);
	offer(v);
	transmit(v);
	/* What came meanwhile may have been the credit that a stream waits for: nobody says so again.
	 */
	virtqueue_refresh(&v->dev.vq[QUEUE_RX]);
	offer(v);
	virtqueue_notify(&v->dev.vq[QUEUE_RX]);
}

static void forget_all(struct virtio_vsock *v) {
	for (unsigned i = 0; i < VSOCK_CONNS; i++)
		if (v->streams[i].phase != FREE)
			drop(v, &v->streams[i]);
	v->nreplies = 0;
}

static void reset(void *self) {
	struct virtio_vsock *v = self;
	forget_all(v);
	v->event_waiting = false;
}

static void state(struct state_io *io, void *self) {
	struct virtio_vsock *v = self;
	state_u32(io, "next_port", &v->next_port);
	if (v->next_port < PORT_FIRST)
		v->next_port = PORT_FIRST;
}

static void loaded(void *self) {
	struct virtio_vsock *v = self;
	forget_all(v);
	v->event_waiting = true;
	virtqueue_refresh(&v->dev.vq[QUEUE_EVENT]);
	send_event(v);
}

static const struct virtio_device_ops ops = {
	.name = "virtio-vsock",
	.id = VIRTIO_ID_VSOCK,
	.notify = notify,
	.reset = reset,
	.state = state,
	.loaded = loaded,
};

struct virtio_vsock *virtio_vsock_create(struct vm *vm, uint32_t cid,
										 const struct vsock_backend *b) {
	check(cid > CID_HOST && cid != UINT32_MAX);
	struct virtio_vsock *v = vm_alloc(vm, sizeof(*v));
	if (!v || !virtio_device_init(&v->dev, vm, &ops, v, 0, QUEUES, QUEUE_SIZE))
		return NULL;
	v->cid = cid;
	v->next_port = PORT_FIRST;
	v->backend = *b;
	le64_put(v->dev.config, cid);
	return v;
}

struct virtio_device *virtio_vsock_device(struct virtio_vsock *v) {
	return &v->dev;
}

/* ---- for the back end ------------------------------------------------------------------ */

static struct stream *stream_of(struct virtio_vsock *v, unsigned conn) {
	check(conn < VSOCK_CONNS);
	struct stream *s = &v->streams[conn];
	check(s->phase == ASKED || s->phase == OPEN);
	return s;
}

static int port_connect(void *dev, uint32_t port) {
	struct virtio_vsock *v = dev;
	struct stream *s = virtio_device_live(&v->dev) ? fresh(v) : NULL;
	if (!s)
		return -1;
	/* More ports than streams: one is free soon. */
	while (find(v, port, v->next_port))
		v->next_port = v->next_port == UINT32_MAX - 1 ? PORT_FIRST : v->next_port + 1;
	begin(s, ASKED, port, v->next_port);
	v->next_port = v->next_port == UINT32_MAX - 1 ? PORT_FIRST : v->next_port + 1;
	s->waiting |= BIT(OP_REQUEST);
	flush_now(v);
	return (int)number_of(v, s);
}

static uint32_t port_host_port(void *dev, unsigned conn) {
	return stream_of(dev, conn)->host_port;
}

static size_t port_receive(void *dev, unsigned conn, const uint8_t *buf, size_t len) {
	struct virtio_vsock *v = dev;
	struct stream *s = stream_of(v, conn);
	struct virtqueue *q = &v->dev.vq[QUEUE_RX];
	uint8_t h[HDR_SIZE];
	size_t done = 0;
	if (s->guest_flags & SHUTDOWN_RECEIVE)
		return len; /* it does not want to know */
	virtqueue_refresh(q);
	/* What waits goes first: a stream's RESPONSE before its bytes. */
	while (done < len && s->phase == OPEN && credit(s) && flush(v) && pop_rx(v)) {
		size_t n = MIN(MIN(len - done, (size_t)credit(s)), (size_t)(v->rx.in_len - HDR_SIZE));
		stream_header(v, s, h, OP_RW);
		le32_put(h + HDR_LEN, (uint32_t)n);
		virtq_chain_write(q, &v->rx, 0, h, HDR_SIZE);
		virtq_chain_write(q, &v->rx, HDR_SIZE, buf + done, n);
		virtqueue_push(q, &v->rx, HDR_SIZE + n);
		s->sent += (uint32_t)n;
		done += n;
	}
	s->starved = done < len;
	virtqueue_notify(q);
	return done;
}

static void port_consumed(void *dev, unsigned conn, size_t len) {
	struct virtio_vsock *v = dev;
	struct stream *s = stream_of(v, conn);
	check(len <= s->received - s->consumed);
	s->consumed += (uint32_t)len;
	/* Told before the guest has to stop, but not for each packet. */
	if (s->consumed - s->told < VSOCK_WINDOW / 4 || s->guest_flags & SHUTDOWN_SEND)
		return;
	s->waiting |= BIT(OP_CREDIT_UPDATE);
	if (!v->sending)
		flush_now(v);
}

static void port_finish(void *dev, unsigned conn) {
	struct virtio_vsock *v = dev;
	struct stream *s = stream_of(v, conn);
	if (s->phase != OPEN || s->host_flags & SHUTDOWN_SEND)
		return;
	s->host_flags |= SHUTDOWN_SEND;
	s->waiting |= BIT(OP_SHUTDOWN);
	flush_now(v);
}

static void port_close(void *dev, unsigned conn, bool abrupt) {
	struct virtio_vsock *v = dev;
	struct stream *s = stream_of(v, conn);
	/* The guest waits for an RST once it has shut down both ways ([VIRTIO1.2 5.10.6.6.1]); else
	 * it answers our SHUTDOWN with one. */
	bool over = abrupt || s->guest_flags == SHUTDOWN_BOTH || s->phase == ASKED;
	s->phase = LEAVING;
	s->age = v->clock++;
	if (!over)
		s->host_flags = SHUTDOWN_BOTH;
	s->waiting |= over ? BIT(OP_RST) : BIT(OP_SHUTDOWN);
	flush_now(v);
}

struct vsock_device virtio_vsock_port(struct virtio_vsock *v) {
	return (struct vsock_device){
		port_connect, port_host_port, port_receive, port_consumed, port_finish, port_close, v};
}
