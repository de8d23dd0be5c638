/* See death.h. [man 5 proc]: oom_kill in /proc/vmstat, and /proc/sys/kernel/random/boot_id. */
#include "ctl/store/death.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ctl/store/hostmem.h"

static void boot_id(char id[STORE_BOOT]) {
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, id, STORE_BOOT - 1);
	if (fd >= 0)
		close(fd);
	id[n > 0 ? n : 0] = 0;
	id[strcspn(id, "\n")] = 0;
}

bool death_note(struct store_vm *vm) {
	uint64_t kills = hostmem_kills();
	bool news = !vm->boot[0] || kills != vm->oom_kills;
	if (!vm->boot[0])
		boot_id(vm->boot);
	vm->oom_kills = kills;
	return news;
}

void death_explain(struct store_vm *vm) {
	char now[STORE_BOOT];
	boot_id(now);
	const char *end = "its process is gone", *why = "its process was killed, or failed";
	if (vm->boot[0] && strcmp(vm->boot, now) != 0) {
		end = "the host went down";
		why = "the host was started anew since";
	} else if (vm->boot[0] && hostmem_kills() > vm->oom_kills) {
		end = "out of memory";
		why = "the host's kernel has killed a process for want of memory since the VM was last "
			  "alive, "
			  "most likely this one";
	}
	snprintf(vm->end, sizeof(vm->end), "%s", end);
	snprintf(vm->why, sizeof(vm->why), "%s", why);
}
