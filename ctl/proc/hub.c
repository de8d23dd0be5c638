/* See hub.h. */
#include "ctl/proc/hub.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "core/base/fmt.h"

static void open_log(struct hub *h) {
	struct stat st;
	h->log = open("serial.log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	h->log_size = h->log >= 0 && fstat(h->log, &st) == 0 ? (uint64_t)st.st_size : 0;
}

/* A full disk costs log lines, not the VM. */
static void log_bytes(struct hub *h, const uint8_t *data, size_t len) {
	if (h->log >= 0 && h->log_size >= HUB_LOG_MAX) {
		close(h->log);
		rename("serial.log", "serial.log.1");
		open_log(h);
	}
	while (h->log >= 0 && len) {
		ssize_t n = write(h->log, data, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			if (!h->log_complained)
				log_line(LOG_WARN, "serial.log: %s; console output is lost there", strerror(errno));
			h->log_complained = true;
			return;
		}
		h->log_size += (uint64_t)n;
		data += n;
		len -= (size_t)n;
	}
}

/* Escape sequences (ESC [ ... letter, ESC x) are no text. */
static void watch_line(struct hub *h, uint8_t ch) {
	if (h->escape) {
		bool bracket = h->escape == 1 && ch == '[';
		bool goes_on = h->escape == 2 && (ch < 0x40 || ch > 0x7e);
		h->escape = bracket || goes_on ? 2 : 0;
	} else if (ch == 0x1b) {
		h->escape = 1;
	} else if (ch == '\n' || ch == '\r') {
		if (h->line_len) {
			memcpy(h->last, h->line, h->line_len);
			h->last[h->line_len] = 0;
		}
		h->line_len = 0;
	} else if (ch >= ' ' && ch < 127 && h->line_len < sizeof(h->line) - 1 &&
			   (ch != ' ' || h->line_len)) {
		h->line[h->line_len++] = (char)ch;
	}
}

static void take(struct hub *h, const uint8_t *data, size_t len) {
	for (size_t i = 0; i < len; i++) {
		h->ring[(h->head + h->count) % HUB_RING] = data[i];
		if (h->count < HUB_RING)
			h->count++;
		else
			h->head = (h->head + 1) % HUB_RING;
		watch_line(h, data[i]);
	}
	log_bytes(h, data, len);
	h->output(h->opaque, data, len);
}

void hub_drain(struct hub *h) {
	uint8_t buf[8192];
	ssize_t n;
	while ((n = recv(h->source.fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
		take(h, buf, (size_t)n);
}

static void ready(void *opaque, uint32_t events) {
	struct hub *h = opaque;
	uint8_t buf[8192];
	ssize_t n = recv(h->source.fd, buf, sizeof(buf), MSG_DONTWAIT);
	if (n > 0)
		take(h, buf, (size_t)n);
}

int hub_create(struct hub *h, struct loop *l, void (*output)(void *, const uint8_t *, size_t),
			   void *opaque, struct err *e) {
	int pair[2];
	*h = (struct hub){.loop = l, .output = output, .opaque = opaque};
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set(e, errno, "cannot make the console's sockets: %s", strerror(errno));
	h->machine_end = pair[1];
	h->source = (struct loop_source){pair[0], ready, h};
	open_log(h);
	int r = loop_add(l, &h->source, EPOLLIN);
	if (r) {
		close(pair[0]);
		close(pair[1]);
		return err_set(e, -r, "cannot listen to the console: %s", strerror(-r));
	}
	return 0;
}

void hub_destroy(struct hub *h) {
	if (!h->loop)
		return;
	loop_remove(h->loop, &h->source);
	close(h->source.fd);
	close(h->machine_end);
	if (h->log >= 0)
		close(h->log);
}

void hub_type(struct hub *h, const void *data, size_t len) {
	ssize_t n = send(h->source.fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	(void)n;
}

void hub_replay(const struct hub *h, size_t max,
				void (*part)(void *opaque, const void *data, size_t len), void *opaque) {
	size_t n = MIN(max, h->count), at = (h->head + h->count - n) % HUB_RING;
	size_t first = MIN(n, HUB_RING - at);
	if (first)
		part(opaque, h->ring + at, first);
	if (n > first)
		part(opaque, h->ring, n - first);
}

const char *hub_last_line(const struct hub *h) {
	return h->last;
}
