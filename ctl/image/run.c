/* Programs that image commands run; see build.h. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ctl/cli/launch.h"
#include "ctl/cli/table.h"
#include "ctl/image/build.h"

static void last_line(const char *path, char *line, size_t size) {
	char buf[512];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t end = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
	ssize_t n = fd < 0 ? 0 : pread(fd, buf, sizeof(buf) - 1, end > 511 ? end - 511 : 0);
	if (fd >= 0)
		close(fd);
	line[0] = 0;
	if (n <= 0)
		return;
	while (n && (buf[n - 1] == '\n' || buf[n - 1] == '\r'))
		n--;
	buf[n] = 0;
	char *start = strrchr(buf, '\n');
	snprintf(line, size, "%.*s", (int)size - 1, start ? start + 1 : buf);
	for (char *p = line; *p; p++)
		if (*p < ' ' || *p == 127)
			*p = ' ';
}

static void show(struct progress *p, const char *log, const char *watch, uint64_t total) {
	char line[200], done[24], all[24];
	struct stat st;
	if (!watch) {
		last_line(log, line, sizeof(line));
	} else {
		uint64_t size = stat(watch, &st) == 0 ? (uint64_t)st.st_size : 0;
		if (total)
			snprintf(line, sizeof(line), "%s of %s (%u%%)", table_size(done, size),
					 table_size(all, total), (unsigned)(size * 100 / total));
		else
			snprintf(line, sizeof(line), "%s", table_size(done, size));
	}
	progress_show(p, line);
}

/* Ctrl-C goes to the program, too, which ends then; here it must not end what tidies up. */
static volatile sig_atomic_t caught;
static volatile pid_t running;

static void on_signal(int signo) {
	caught = signo;
	if (signo == SIGTERM)
		kill(running, signo);
}

static void catch (bool on) {
	struct sigaction s = {.sa_handler = on ? on_signal : SIG_DFL};
	sigaction(SIGINT, &s, NULL);
	sigaction(SIGTERM, &s, NULL);
}

int build_run(char *const argv[], const char *log, const char *what, const char *watch,
			  uint64_t total, bool quiet, struct err *e) {
	struct progress p;
	int status = 0, out = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (out < 0)
		return err_set(e, errno, "cannot write %s: %s", log, strerror(errno));
	fflush(NULL);
	caught = 0;
	pid_t pid = running = fork();
	if (pid == 0) {
		int null = open("/dev/null", O_RDONLY);
		dup2(null, STDIN_FILENO);
		dup2(out, STDOUT_FILENO);
		dup2(out, STDERR_FILENO);
		execvp(argv[0], argv);
		_exit(127);
	}
	close(out);
	if (pid < 0)
		return err_set(e, errno, "cannot run %s: %s", argv[0], strerror(errno));
	catch (true);
	progress_start(&p, what, quiet);
	for (unsigned i = 0; waitpid(pid, &status, WNOHANG) == 0; i++) {
		if (i % 10 == 0)
			show(&p, log, watch, total);
		nanosleep(&(struct timespec){0, 50000000}, NULL);
	}
	progress_end(&p);
	catch (false);
	if (caught)
		return err_set(e, EINTR, "%s: it is stopped", strsignal(caught));
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return err_set(e, ERR_NOENT, "there is no program %s here", argv[0]);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
