/* The agent's client against a small server that answers well, late, wrongly or not at all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "ctl/proc/agent.h"
#include "host/linux/unix.h"

struct fake {
	struct loop loop;
	struct loop_source listener, peer;
	struct wire_buffer in;
	struct agent agent;
	const char *noise;	/* sent before each answer */
	const char *answer; /* to anything but sync; NULL: none */
	unsigned requests, syncs, answers, errors;
	char path[64], error[200];
};

static void say(struct fake *f, const char *text) {
	assert_int_equal(write(f->peer.fd, text, strlen(text)), strlen(text));
}

static void on_line(struct fake *f, const char *line) {
	char text[100];
	/* A parser that sees FFh starts anew. */
	const char *mark = strrchr(line, '\xff');
	json_t *j = json_loads(mark ? mark + 1 : line, 0, NULL);
	assert_non_null(j);
	if (f->noise)
		say(f, f->noise);
	if (strcmp(json_string_value(json_object_get(j, "execute")), "guest-sync-delimited") == 0) {
		f->syncs++;
		snprintf(
			text, sizeof(text), "\xff{\"return\": %lld}\n",
			(long long)json_integer_value(json_object_get(json_object_get(j, "arguments"), "id")));
		say(f, text);
	} else {
		f->requests++;
		if (f->answer)
			say(f, f->answer);
	}
	json_decref(j);
}

static void on_data(void *opaque, uint32_t events) {
	struct fake *f = opaque;
	char *line;
	if (wire_buffer_read(&f->in, f->peer.fd) <= 0) {
		loop_remove(&f->loop, &f->peer);
		close(f->peer.fd);
		f->peer.fd = -1;
		wire_buffer_free(&f->in);
		return;
	}
	while ((line = wire_buffer_line(&f->in)) != NULL) {
		on_line(f, line);
		free(line);
	}
}

static void on_client(void *opaque, uint32_t events) {
	struct fake *f = opaque;
	f->peer = (struct loop_source){accept(f->listener.fd, NULL, NULL), on_data, f};
	assert_int_equal(loop_add(&f->loop, &f->peer, EPOLLIN), 0);
}

static void done(void *opaque, const json_t *reply, const char *error) {
	struct fake *f = opaque;
	if (reply)
		f->answers++;
	else
		f->errors++;
	snprintf(f->error, sizeof(f->error), "%s", error ? error : "");
	loop_quit(&f->loop);
}

static void start(struct fake *f, bool listen) {
	struct err e;
	*f = (struct fake){.listener.fd = -1, .peer.fd = -1};
	snprintf(f->path, sizeof(f->path), "/tmp/joist-agent-test-%d", (int)getpid());
	assert_int_equal(loop_create(&f->loop, &e), 0);
	if (listen) {
		f->listener = (struct loop_source){unix_listen(f->path, "test", &e), on_client, f};
		assert_true(f->listener.fd >= 0);
		assert_int_equal(loop_add(&f->loop, &f->listener, EPOLLIN), 0);
	}
	assert_int_equal(agent_create(&f->agent, &f->loop, f->path, &e), 0);
}

static void end(struct fake *f) {
	agent_destroy(&f->agent);
	if (f->peer.fd >= 0)
		close(f->peer.fd);
	if (f->listener.fd >= 0)
		close(f->listener.fd);
	wire_buffer_free(&f->in);
	unlink(f->path);
	loop_destroy(&f->loop);
}

static void ask(struct fake *f) {
	assert_true(
		agent_ask(&f->agent, json_pack("{s:s}", "execute", "guest-ping"), 200000000, done, f));
}

static void answers(void **state) {
	static struct fake f;
	start(&f, true);
	f.answer = "{\"return\": {}}\n";
	for (unsigned i = 1; i <= 3; i++) {
		ask(&f);
		loop_run(&f.loop);
		assert_int_equal(f.answers, i);
	}
	assert_int_equal(f.syncs, 1); /* once a connection */
	assert_true(f.agent.answers);
	f.answer = "{\"error\": {\"desc\": \"no such thing\"}}\n";
	ask(&f);
	loop_run(&f.loop);
	assert_string_equal(f.error, "no such thing");
	end(&f);
}

static void several_wait(void **state) {
	static struct fake f;
	start(&f, true);
	f.answer = "{\"return\": 1}\n";
	for (unsigned i = 0; i < AGENT_QUEUE; i++)
		ask(&f);
	assert_false(agent_ask(&f.agent, json_object(), 1, done, &f));
	while (f.answers < AGENT_QUEUE)
		loop_run(&f.loop);
	assert_int_equal(f.requests, AGENT_QUEUE);
	end(&f);
}

static void silence_is_an_error(void **state) {
	static struct fake f;
	start(&f, true);
	ask(&f);
	loop_run(&f.loop);
	assert_int_equal(f.errors, 1);
	assert_non_null(strstr(f.error, "in time"));
	f.answer = "{\"return\": {}}\n"; /* awake again: a new connection, synchronised anew */
	ask(&f);
	loop_run(&f.loop);
	assert_int_equal(f.answers, 1);
	assert_int_equal(f.syncs, 2);
	end(&f);
}

static void nonsense_is_skipped(void **state) {
	static struct fake f;
	start(&f, true);
	f.noise = "rubbish\n{\"return\": 77\n\n[[[[\n";
	f.answer = "{\"return\": {}}\n";
	ask(&f);
	loop_run(&f.loop);
	assert_int_equal(f.answers, 1);
	end(&f);
}

static void nobody_listens(void **state) {
	static struct fake f;
	start(&f, false);
	ask(&f);
	assert_int_equal(f.errors, 1);
	assert_non_null(strstr(f.error, "no port"));
	end(&f);
}

static void who_left_hears_nothing(void **state) {
	static struct fake f;
	int other = 0;
	start(&f, true);
	f.answer = "{\"return\": {}}\n";
	assert_true(
		agent_ask(&f.agent, json_pack("{s:s}", "execute", "guest-ping"), 200000000, NULL, &other));
	agent_forget(&f.agent, &other); /* its function, NULL, is not called */
	ask(&f);
	loop_run(&f.loop);
	assert_int_equal(f.answers, 1);
	assert_int_equal(f.requests, 2);
	end(&f);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answers),
		cmocka_unit_test(several_wait),
		cmocka_unit_test(silence_is_an_error),
		cmocka_unit_test(nonsense_is_skipped),
		cmocka_unit_test(nobody_listens),
		cmocka_unit_test(who_left_hears_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
