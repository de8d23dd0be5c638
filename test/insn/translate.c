/* What translating costs, per guest instruction: the code of a program, one block behind the other
 * from its first byte to its last, by each tier; the least of some rounds, beside the decoder
 * alone.
 *
 * Usage: translate [--rounds N] [--only decode|plain|hot] [PROGRAM]   (this one, if none is named)
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/x86/insn.h"
#include "engine/soft/jit.h"
#include "test/insn/bench_vm.h"

#include <elf.h> /* behind ours: both have a PF_W */

#define RAM (64u << 20)
#define KEY (JIT_KEY_USER | JIT_KEY_FPU | JIT_KEY_AVX)

static struct bench_vm vm;

static double seconds(void) {
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Puts the program's .text at the start of the RAM; its size, 0 if there is none. */
static size_t load(const char *path) {
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t size = 0;
	if (fd < 0 || fstat(fd, &st))
		return 0;
	const uint8_t *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (p == MAP_FAILED)
		return 0;
	const Elf64_Ehdr *h = (const void *)p;
	const Elf64_Shdr *s = (const void *)(p + h->e_shoff);
	for (unsigned n = 0; n < h->e_shnum && !size; n++)
		if (!strcmp((const char *)p + s[h->e_shstrndx].sh_offset + s[n].sh_name, ".text")) {
			size = s[n].sh_size < RAM ? s[n].sh_size : RAM;
			memcpy(vm.ram, p + s[n].sh_offset, size);
		}
	munmap((void *)p, (size_t)st.st_size);
	return size;
}

static unsigned decode_all(size_t size) {
	unsigned count = 0;
	for (size_t at = 0; at < size;) {
		struct x86_insn i;
		int len = x86_decode(&i, vm.ram + at, PAGE_SIZE - at % PAGE_SIZE, X86_MODE_64);
		at += len > 0 ? (unsigned)len : 1;
		count += len > 0;
	}
	return count;
}

static void translate_all(size_t size, bool hot) {
	struct soft_vcpu *c = vm.cpu->engine;
	for (size_t at = 0; at < size;) {
		const struct jit_block *b = jit_translate(c, vm.ram + at, NULL, 0x400000 + at, KEY, hot);
		at += b && b->len ? b->len : 1;
	}
}

int main(int argc, char **argv) {
	unsigned rounds = 10;
	const char *only = NULL;
	int n = 1;
	for (; n + 1 < argc && argv[n][0] == '-'; n += 2)
		if (!strcmp(argv[n], "--rounds"))
			rounds = (unsigned)atoi(argv[n + 1]);
		else if (!strcmp(argv[n], "--only"))
			only = argv[n + 1];
	const char *path = n < argc ? argv[n] : "/proc/self/exe";
	bench_vm_create(&vm, RAM, "jit");
	struct jit *j = ((struct soft_vcpu *)vm.cpu->engine)->soft->jit;
	size_t size = load(path);
	if (!size) {
		fprintf(stderr, "translate: no .text in %s\n", path);
		return 2;
	}
	struct line {
		const char *name;
		double best; /* nanoseconds an instruction */
		uint64_t insns, bytes, blocks;
	} lines[] = {{.name = "decode", .best = 1e9},
				 {.name = "plain", .best = 1e9},
				 {.name = "hot", .best = 1e9}};
	for (unsigned r = 0; r < rounds; r++)
		for (unsigned k = 0; k < 3; k++) {
			struct line *l = &lines[k];
			if (only && strcmp(only, l->name))
				continue;
			if (k)
				jit_flush_all(j);
			uint64_t insns = j->insns, bytes = j->bytes, blocks = j->blocks;
			double t = seconds();
			uint64_t decoded = k ? 0 : decode_all(size);
			if (k)
				translate_all(size, k == 2);
			t = seconds() - t;
			l->insns = k ? j->insns - insns : decoded;
			l->bytes = j->bytes - bytes;
			l->blocks = j->blocks - blocks;
			l->best = MIN(l->best, t / (double)l->insns * 1e9);
		}
	printf("%-8s %12s %10s %12s %12s\n", "", "instructions", "ns each", "bytes each", "blocks");
	for (unsigned k = 0; k < 3; k++) {
		const struct line *l = &lines[k];
		if (!l->insns)
			continue;
		printf("%-8s %12llu %10.1f", l->name, (unsigned long long)l->insns, l->best);
		if (k)
			printf(" %12.1f %12llu", (double)l->bytes / (double)l->insns,
				   (unsigned long long)l->blocks);
		printf("\n");
	}
	bench_vm_destroy(&vm);
	return 0;
}
