/* How a VM's process is asked to end: by SIGTERM (systemd, a logout, kill(1)) or over the control
 * socket. The guest gets its time: the agent is told, the power button pressed. After that, or
 * when it is asked a second time by a signal, the power goes.
 *
 * A guest that boots hears neither yet, and one that has just heard the button may have had nobody
 * to tell it to: so the button is pressed again every few seconds, which a guest that is shutting
 * down already takes no notice of. */
#include <string.h>

#include "core/base/bits.h"
#include "core/base/fmt.h"
#include "ctl/proc/proc.h"
#include "host/linux/clock.h"

#define PRESS_NS 5000000000ull
#define GRACE_NS 60000000000ull /* unless the definition says */
#define SECOND_NS 1000000000ull
#define AGENT_NS (2 * SECOND_NS)

static void on_shutdown(void *opaque, const json_t *reply, const char *error) {
	/* It answers nothing when it works, and the button is pressed in any case. */
}

/* By the agent too, since it also works where the power key does nothing. It is told once. */
static void press(struct proc *p) {
	struct ending *n = &p->ending;
	if (!n->told_agent && p->agent.answers)
		n->told_agent = agent_ask(&p->agent,
								  json_pack("{s:s, s:{s:s}}", "execute", "guest-shutdown",
											"arguments", "mode", "powerdown"),
								  AGENT_NS, on_shutdown, p);
	n->heard |= machine_power_button(p->machine);
}

static void due(void *opaque) {
	struct proc *p = opaque;
	struct ending *n = &p->ending;
	uint64_t now = host_now_ns();
	if (now >= n->deadline_ns) {
		snprintf(n->why, sizeof(n->why), "the guest did not shut down in time%s",
				 n->heard || n->told_agent ? "" : "; it never listened to the power button");
		log_line(LOG_WARN, "%s: the power is taken away", n->why);
		machine_stop(p->machine);
		return;
	}
	press(p);
	loop_timer_set(&n->timer, MIN(PRESS_NS, n->deadline_ns - now));
}

int ending_create(struct proc *p, struct err *e) {
	int r = loop_timer_create(&p->loop, &p->ending.timer, due, p);
	return r ? err_set(e, -r, "cannot make a timer: %s", strerror(-r)) : 0;
}

void ending_destroy(struct proc *p) {
	if (p->ending.timer.ready)
		loop_timer_destroy(&p->loop, &p->ending.timer);
}

uint64_t ending_grace(const struct proc *p) {
	uint64_t ns;
	const char *text = def_text(&p->def, "stop-timeout");
	return text && cli_read_seconds(text, &ns) ? ns : GRACE_NS;
}

void ending_ask(struct proc *p, uint64_t grace_ns) {
	struct ending *n = &p->ending;
	uint64_t deadline = host_now_ns() + grace_ns;
	/* Who asks again may shorten the guest's time, and not lengthen it. */
	n->deadline_ns = p->stop_asked ? MIN(n->deadline_ns, deadline) : deadline;
	p->stop_asked = true;
	proc_resume(p); /* a paused guest hears nothing */
	server_event(p, "stopping", json_pack("{s:I}", "seconds", (json_int_t)(grace_ns / SECOND_NS)));
	loop_timer_set(&n->timer, 0);
}

void ending_now(struct proc *p) {
	p->stop_asked = true;
	machine_stop(p->machine);
}

void ending_on_signal(struct proc *p, int signo) {
	uint64_t grace = ending_grace(p);
	if (p->stop_asked || !grace) {
		snprintf(p->ending.why, sizeof(p->ending.why), "%s", strsignal(signo));
		log_line(LOG_WARN, "%s: the power is taken away", p->ending.why);
		ending_now(p);
		return;
	}
	log_line(LOG_WARN, "%s: the guest is asked to shut down, and has %llu s", strsignal(signo),
			 (unsigned long long)(grace / SECOND_NS));
	ending_ask(p, grace);
}
