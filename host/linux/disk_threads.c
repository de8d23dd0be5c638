/* Disk I/O by threads that block; see disk_io.h. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "host/linux/disk_file.h"
#include "host/linux/disk_io.h"

#define THREADS 4 /* a flush, and reads and writes beside it */

struct job {
	struct disk_file *file;
	struct block_request *r;
	int error;
	struct job *next;
};

struct disk_threads {
	struct disk_io io;
	pthread_mutex_t lock; /* guards all below; nothing else is locked under it */
	pthread_cond_t work, news;
	struct job *first, **last; /* to be done */
	struct job *done;
	bool woken, quit;
	unsigned nthreads;
	pthread_t threads[THREADS];
};

static void *worker(void *opaque) {
	struct disk_threads *t = opaque;
	pthread_mutex_lock(&t->lock);
	for (;;) {
		while (!t->first && !t->quit)
			pthread_cond_wait(&t->work, &t->lock);
		struct job *j = t->first;
		if (!j)
			break;
		t->first = j->next;
		if (!t->first)
			t->last = &t->first;
		pthread_mutex_unlock(&t->lock);
		j->error = disk_file_serve(j->file, j->r);
		pthread_mutex_lock(&t->lock);
		j->next = t->done;
		t->done = j;
		pthread_cond_signal(&t->news);
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

static void submit(struct disk_io *io, struct disk_file *f, struct block_request *r) {
	struct disk_threads *t = (struct disk_threads *)io;
	struct job *j = malloc(sizeof(*j));
	if (!j) { /* then at once */
		block_done(r, disk_file_serve(f, r));
		return;
	}
	*j = (struct job){.file = f, .r = r};
	pthread_mutex_lock(&t->lock);
	*t->last = j;
	t->last = &j->next;
	pthread_cond_signal(&t->work);
	pthread_mutex_unlock(&t->lock);
}

static void wait(struct disk_io *io, uint64_t limit_ns) {
	struct disk_threads *t = (struct disk_threads *)io;
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	if (limit_ns != UINT64_MAX) {
		uint64_t ns = (uint64_t)until.tv_nsec + limit_ns;
		until.tv_sec += (time_t)(ns / 1000000000);
		until.tv_nsec = (long)(ns % 1000000000);
	}
	pthread_mutex_lock(&t->lock);
	while (!t->done && !t->woken)
		if (limit_ns == UINT64_MAX)
			pthread_cond_wait(&t->news, &t->lock);
		else if (pthread_cond_timedwait(&t->news, &t->lock, &until) == ETIMEDOUT)
			break;
	struct job *j = t->done;
	t->done = NULL;
	t->woken = false;
	pthread_mutex_unlock(&t->lock);
	while (j) {
		struct job *next = j->next;
		block_done(j->r, j->error);
		free(j);
		j = next;
	}
}

static void wake(struct disk_io *io) {
	struct disk_threads *t = (struct disk_threads *)io;
	pthread_mutex_lock(&t->lock);
	t->woken = true;
	pthread_cond_signal(&t->news);
	pthread_mutex_unlock(&t->lock);
}

static void destroy(struct disk_io *io) {
	struct disk_threads *t = (struct disk_threads *)io;
	pthread_mutex_lock(&t->lock);
	t->quit = true;
	pthread_cond_broadcast(&t->work);
	pthread_mutex_unlock(&t->lock);
	for (unsigned i = 0; i < t->nthreads; i++)
		pthread_join(t->threads[i], NULL);
	pthread_mutex_destroy(&t->lock);
	pthread_cond_destroy(&t->work);
	pthread_cond_destroy(&t->news);
	free(t);
}

static const struct disk_io_ops ops = {"threads", submit, wait, wake, destroy};

int disk_threads_create(struct disk_io **out, struct err *e) {
	struct disk_threads *t = calloc(1, sizeof(*t));
	if (!t)
		return err_set(e, ERR_NOMEM, "no memory for disk threads");
	t->io.ops = &ops;
	t->last = &t->first;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->work, NULL);
	pthread_cond_init(&t->news, NULL);
	while (t->nthreads < THREADS) {
		int r = pthread_create(&t->threads[t->nthreads], NULL, worker, t);
		if (r) {
			destroy(&t->io);
			return err_set(e, r, "cannot start a disk's thread: %s", strerror(r));
		}
		t->nthreads++;
	}
	*out = &t->io;
	return 0;
}
