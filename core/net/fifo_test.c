/* The queue of frames: order, fullness, places that stay, against a simple model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/net/fifo.h"

static _Alignas(16) uint8_t mem[FIFO_SIZE_MIN + 100000];

static void test_order(void **state) {
	struct frame_fifo q;
	struct frame f;
	fifo_init(&q, mem, FIFO_SIZE_MIN);
	assert_false(fifo_peek(&q, &f));
	static uint8_t big[FRAME_MAX];
	memset(big, 7, sizeof(big));
	assert_true(fifo_push(&q, &(struct frame){.data = big, .len = FRAME_MAX, .csum_start = 9}));
	assert_true(fifo_push(&q, &(struct frame){.data = big, .len = 600}));
	assert_null(fifo_room(&q));
	assert_false(fifo_push(&q, &(struct frame){.data = big, .len = 60}));
	assert_true(fifo_peek(&q, &f));
	assert_int_equal(f.len, FRAME_MAX);
	assert_int_equal(f.csum_start, 9);
	assert_memory_equal(f.data, big, FRAME_MAX);
	fifo_pop(&q);
	assert_non_null(fifo_room(&q));
}

/* Random pushes, reservations and pops; what comes out is what went in. */
static void test_random(void **state) {
	for (unsigned seed = 0; seed < 20; seed++) {
		struct frame_fifo q;
		unsigned in = 0, out = 0, full = 0;
		size_t bytes = 0;
		srand(seed);
		fifo_init(&q, mem, sizeof(mem));
		for (unsigned i = 0; i < 20000; i++) {
			uint8_t *room = rand() % 2 ? fifo_room(&q) : NULL;
			struct frame f;
			while (rand() % 3 == 0 && fifo_peek(&q, &f)) {
				assert_int_equal(f.csum_start, (uint16_t)out);
				assert_int_equal(f.data[0], (uint8_t)out);
				assert_int_equal(f.data[f.len - 1], (uint8_t)out);
				bytes -= f.len;
				fifo_pop(&q);
				out++;
			}
			size_t size;
			if (!room && rand() % 4 == 0 && fifo_last(&q, &f, &size)) {
				size_t more = (size_t)rand() % 3000;
				assert_int_equal(f.csum_start, (uint16_t)(in - 1));
				assert_true(size >= f.len);
				more = more < size - f.len ? more : size - f.len;
				memset((uint8_t *)(uintptr_t)f.data + f.len, (int)(in - 1), more);
				f.len += more;
				fifo_grow(&q, &f);
				bytes += more;
				assert_int_equal(q.bytes, bytes);
			}
			if (!room) {
				full++;
				continue;
			}
			assert_false(fifo_last(&q, &f, &size)); /* it may not go where one is promised */
			assert_ptr_equal(room, fifo_room(&q));
			f = (struct frame){.data = room, .csum_start = (uint16_t)in};
			f.len = 1 + (size_t)rand() % (rand() % 4 ? 1500 : FRAME_MAX);
			memset(room, (int)in, f.len);
			fifo_commit(&q, &f);
			bytes += f.len;
			in++;
			assert_int_equal(q.count, in - out);
			assert_int_equal(q.bytes, bytes);
		}
		assert_true(full > 0 && out > 100);
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order),
		cmocka_unit_test(test_random),
	};
	return cmocka_run_group_tests_name("net_fifo", tests, NULL, NULL);
}
