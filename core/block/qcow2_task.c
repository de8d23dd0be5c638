/* A request's way through the image: it gets a task, the task locks the clusters that it is
 * about, and its step is called until it is over. In between the task waits: for I/O, for a
 * table, for a lock, for a commit. One loop, qcow2_run(), calls all steps, so that a file that
 * completes from inside of submit() leads to no recursion.
 *
 * Range locks, in guest clusters. Reads and writes in place share; whoever changes what the
 * tables say has its range alone: nobody reads a cluster that is given back meanwhile, nobody
 * writes into one whose surroundings are being copied. First come, first served. */
#include "core/block/qcow2_int.h"

void qcow2_list_add(struct qcow2_list *l, struct qcow2_task *t) {
	t->next = NULL;
	if (l->first)
		l->last->next = t;
	else
		l->first = t;
	l->last = t;
}

struct qcow2_task *qcow2_list_take(struct qcow2_list *l) {
	struct qcow2_task *t = l->first;
	if (t)
		l->first = t->next;
	return t;
}

void qcow2_ready(struct qcow2 *q, struct qcow2_task *t) {
	qcow2_list_add(&q->ready, t);
}

void qcow2_ready_all(struct qcow2 *q, struct qcow2_list *l) {
	struct qcow2_task *t;
	while ((t = qcow2_list_take(l)) != NULL)
		qcow2_ready(q, t);
}

static bool conflict(const struct qcow2_task *a, const struct qcow2_task *b) {
	return a != b && (a->exclusive || b->exclusive) && a->first <= b->last && b->first <= a->last;
}

/* Nobody who has the range, and nobody who waits for it before `t`, is in the way. */
static bool lockable(const struct qcow2 *q, const struct qcow2_task *t) {
	for (unsigned i = 0; i < Q_TASKS; i++)
		if (q->tasks[i].locked && conflict(&q->tasks[i], t))
			return false;
	for (const struct qcow2_task *w = q->lock_wait.first; w && w != t; w = w->next)
		if (conflict(w, t))
			return false;
	return true;
}

static int lock(struct qcow2_task *t) {
	struct qcow2 *q = t->q;
	t->locked = lockable(q, t);
	if (t->locked)
		return 0;
	qcow2_list_add(&q->lock_wait, t);
	return Q_WAIT;
}

static void grant(struct qcow2 *q) {
	struct qcow2_list still = {NULL, NULL};
	struct qcow2_task *t;
	/* `t` is the first of the rest of the list; those before it are in `still`. */
	while ((t = q->lock_wait.first) != NULL) {
		bool free = lockable(q, t);
		for (const struct qcow2_task *w = still.first; free && w; w = w->next)
			free = !conflict(w, t);
		qcow2_list_take(&q->lock_wait);
		if (free) {
			t->locked = true;
			qcow2_ready(q, t);
		} else {
			qcow2_list_add(&still, t);
		}
	}
	q->lock_wait = still;
}

int qcow2_exclusive(struct qcow2_task *t) {
	if (t->exclusive)
		return 0;
	/* Given up first: two that wait for each other's share would wait for ever. */
	t->locked = false;
	t->exclusive = true;
	int r = lock(t);
	grant(t->q);
	return r;
}

static void io_done(struct block_request *r, int error) {
	struct qcow2_task *t = r->opaque;
	t->error = error;
	qcow2_ready(t->q, t);
	qcow2_run(t->q);
}

int qcow2_io(struct qcow2_task *t, struct block *to, enum block_op op, uint64_t offset,
			 uint64_t len) {
	t->io.op = op;
	t->io.offset = offset;
	t->io.len = len;
	t->io.fua = false;
	t->io.done = io_done;
	t->io.opaque = t;
	block_submit(to, &t->io);
	return Q_WAIT;
}

static int flush_step(struct qcow2_task *t) {
	if (t->error || t->want_commit)
		return t->error;
	t->want_commit = true;
	return qcow2_commit_wait(t);
}

static int start_step(struct qcow2_task *t) {
	const struct block_request *r = t->r;
	unsigned bits = t->q->cluster_bits;
	switch (r->op) {
	case BLOCK_FLUSH:
		t->step = flush_step;
		return flush_step(t);
	case BLOCK_READ:
		t->step = qcow2_read_step;
		t->span = (struct qcow2_span){.to = r, .offset = r->offset, .len = r->len};
		break;
	case BLOCK_WRITE:
		if (r->nsegs > BLOCK_SEGMENTS - 2)
			return -ERR_INVAL;
		t->step = qcow2_write_step;
		break;
	case BLOCK_DISCARD:
	case BLOCK_ZEROES:
		t->step = qcow2_clear_step;
		t->exclusive = true;
		break;
	}
	t->first = r->offset >> bits;
	t->last = (r->offset + r->len - 1) >> bits;
	int wait = lock(t);
	return wait ? wait : t->step(t);
}

static void begin(struct qcow2 *q, struct block_request *r) {
	struct qcow2_task *t = qcow2_list_take(&q->free_tasks);
	t->r = r;
	t->step = start_step;
	t->exclusive = t->locked = t->want_commit = t->unpacking = t->zeroes = false;
	t->pos = t->io_len = 0;
	t->error = t->failed = 0;
	t->phase = QP_MAP;
	t->nclusters = 0;
	qcow2_ready(q, t);
}

static void finish(struct qcow2_task *t, int error) {
	struct qcow2 *q = t->q;
	struct block_request *r = t->r;
	check(!t->bounce && !t->unpacking);
	t->r = NULL;
	if (t->locked) {
		t->locked = false;
		grant(q);
	}
	qcow2_list_add(&q->free_tasks, t);
	if (q->queue) {
		struct block_request *next = q->queue;
		q->queue = next->next;
		if (!q->queue)
			q->queue_last = &q->queue;
		begin(q, next);
	}
	block_done(r, error);
}

static void step(struct qcow2_task *t) {
	struct qcow2 *q = t->q;
	int r = t->step(t);
	if (r == Q_MISS && (!q->owner || q->owner == t)) {
		q->owner = t;
		if (!q->loading) /* else its end makes the owner ready */
			qcow2_table_load(q, t);
		return;
	}
	if (r == Q_MISS) {
		qcow2_list_add(&q->table_wait, t);
		return;
	}
	if (q->owner == t) {
		q->owner = NULL;
		qcow2_ready_all(q, &q->table_wait);
	}
	if (r == Q_COMMIT && q->broken) {
		/* There is room no more. The task lets go of what it holds when it sees the error. */
		t->error = q->broken;
		qcow2_ready(q, t);
	} else if (r == Q_COMMIT) {
		q->commit.wanted |= q->commit.state == QC_IDLE;
		qcow2_list_add(&q->thaw, t);
	} else if (r != Q_WAIT) {
		finish(t, r);
	}
}

void qcow2_run(struct qcow2 *q) {
	struct qcow2_task *t;
	if (q->running)
		return;
	q->running = true;
	for (;;) {
		qcow2_commit_run(q);
		t = qcow2_list_take(&q->ready);
		if (!t)
			break;
		step(t);
	}
	q->running = false;
}

void qcow2_submit(void *self, struct block_request *r) {
	struct qcow2 *q = self;
	r->next = NULL;
	if (q->free_tasks.first) {
		begin(q, r);
	} else {
		*q->queue_last = r;
		q->queue_last = (struct block_request **)(void *)&r->next;
	}
	qcow2_run(q);
}
