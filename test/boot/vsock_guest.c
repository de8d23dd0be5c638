/* A guest's program for test/boot/vsock.py: streams of AF_VSOCK (vsock(7)).
 *
 *   vsock listen PORT    accepts one, sends back what comes until its end, says how much it was
 *   vsock connect PORT   connects to the host; standard input goes there, what comes to standard
 *                        output, each until its end
 *
 * Linked statically: the guest has no libraries. */
#include <linux/vm_sockets.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char buf[65536];

static int die(const char *what) {
	perror(what);
	return 1;
}

static int put(int fd, const char *from, size_t len) {
	while (len) {
		ssize_t n = write(fd, from, len);
		if (n <= 0)
			return -1;
		from += n;
		len -= (size_t)n;
	}
	return 0;
}

static int serve(int s) {
	unsigned long sum = 0;
	ssize_t n;
	int fd = accept(s, NULL, NULL);
	if (fd < 0)
		return die("accept");
	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		sum += (unsigned long)n;
		if (put(fd, buf, (size_t)n) < 0)
			return die("write");
	}
	printf("vsock: echoed %lu, end %zd\n", sum, n);
	fflush(stdout);
	return close(fd) < 0;
}

static int talk(int s) {
	struct pollfd p[2] = {{0, POLLIN, 0}, {s, POLLIN, 0}};
	while (p[1].fd >= 0) {
		if (poll(p, 2, -1) < 0)
			return die("poll");
		for (int i = 0; i < 2; i++) {
			if (p[i].fd < 0 || !p[i].revents)
				continue;
			ssize_t n = read(p[i].fd, buf, sizeof(buf));
			if (n > 0 && put(i ? 1 : s, buf, (size_t)n) < 0)
				return die("write");
			if (n <= 0) {
				p[i].fd = -1;
				if (!i)
					shutdown(s, SHUT_WR);
			}
		}
	}
	return 0;
}

int main(int argc, char **argv) {
	if (argc != 3)
		return 2;
	int s = socket(AF_VSOCK, SOCK_STREAM, 0), on = strcmp(argv[1], "listen") == 0;
	struct sockaddr_vm a = {.svm_family = AF_VSOCK,
							.svm_port = (unsigned)atoi(argv[2]),
							.svm_cid = on ? VMADDR_CID_ANY : VMADDR_CID_HOST};
	if (s < 0)
		return die("socket");
	if (!on)
		return connect(s, (struct sockaddr *)&a, sizeof(a)) < 0 ? die("connect") : talk(s);
	if (bind(s, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(s, 4) < 0)
		return die("listen");
	printf("vsock: listens\n");
	fflush(stdout);
	return serve(s);
}
