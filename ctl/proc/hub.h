/* The guest's console for several people at once: everything it prints goes into serial.log
 * (rotated), into a ring for those who come later, and to all that are attached; what any of them
 * types goes to the guest. Loop's thread only. */
#ifndef CTL_PROC_HUB_H
#define CTL_PROC_HUB_H

#include "core/base/err.h"
#include "host/linux/loop.h"

#define HUB_RING 65536			 /* bytes that a newcomer sees */
#define HUB_LOG_MAX (4ull << 20) /* bytes of serial.log; then it becomes serial.log.1 */

struct hub {
	struct loop *loop;
	struct loop_source source; /* our end of the pair */
	int machine_end;		   /* the machine's console: in and out */
	int log;				   /* -1: could not be written */
	uint64_t log_size;
	bool log_complained;
	uint8_t ring[HUB_RING];
	size_t head, count;
	char line[160], last[160]; /* being printed, and the last whole one that is not empty */
	unsigned line_len, escape;
	void (*output)(void *opaque, const uint8_t *data, size_t len);
	void *opaque;
};

/* Opens serial.log in the current folder. */
int hub_create(struct hub *h, struct loop *l, void (*output)(void *, const uint8_t *, size_t),
			   void *opaque, struct err *e);
/* Takes what the guest printed and is still in the pipe. */
void hub_drain(struct hub *h);
void hub_destroy(struct hub *h);
/* What somebody typed. What the guest does not take is lost, as on any keyboard. */
void hub_type(struct hub *h, const void *data, size_t len);
/* Calls `part` with the newest `max` bytes of output, in order, in one or two pieces. */
void hub_replay(const struct hub *h, size_t max,
				void (*part)(void *opaque, const void *data, size_t len), void *opaque);
/* The last line of text without control characters; "" if none yet. */
const char *hub_last_line(const struct hub *h);

#endif
