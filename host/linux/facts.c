/* See facts.h. CPUID bits: [SDM2 CPUID]. What KVM can do is engine/kvm's to find out. */
#include "host/linux/facts.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "core/base/bits.h"
#include "host/linux/clock.h"
#include "host/linux/ram.h"

static struct host_fact *add(struct host_facts *f, const char *name, enum fact_status status,
							 const char *fmt, ...) __attribute__((format(printf, 4, 5)));

static struct host_fact *add(struct host_facts *f, const char *name, enum fact_status status,
							 const char *fmt, ...) {
	struct host_fact *x = &f->facts[f->n < HOST_FACTS ? f->n++ : HOST_FACTS - 1];
	va_list ap;
	*x = (struct host_fact){.name = name, .status = status};
	va_start(ap, fmt);
	vsnprintf(x->value, sizeof(x->value), fmt, ap);
	va_end(ap);
	return x;
}

static void hint(struct host_fact *x, const char *text) {
	snprintf(x->hint, sizeof(x->hint), "%s", text);
}

/* ---- the CPU -------------------------------------------------------------------------- */

enum { EAX, EBX, ECX, EDX };

struct feature {
	const char *name;
	uint32_t leaf, sub;
	uint8_t reg, bit;
};

static const struct feature features[] = {
	{"sse3", 1, 0, ECX, 0},
	{"pclmulqdq", 1, 0, ECX, 1},
	{"vmx", 1, 0, ECX, 5},
	{"ssse3", 1, 0, ECX, 9},
	{"fma", 1, 0, ECX, 12},
	{"cx16", 1, 0, ECX, 13},
	{"pcid", 1, 0, ECX, 17},
	{"sse4.1", 1, 0, ECX, 19},
	{"sse4.2", 1, 0, ECX, 20},
	{"x2apic", 1, 0, ECX, 21},
	{"movbe", 1, 0, ECX, 22},
	{"popcnt", 1, 0, ECX, 23},
	{"tsc-deadline", 1, 0, ECX, 24},
	{"aes", 1, 0, ECX, 25},
	{"xsave", 1, 0, ECX, 26},
	{"avx", 1, 0, ECX, 28},
	{"f16c", 1, 0, ECX, 29},
	{"rdrand", 1, 0, ECX, 30},
	{"hypervisor", 1, 0, ECX, 31},
	{"fsgsbase", 7, 0, EBX, 0},
	{"bmi1", 7, 0, EBX, 3},
	{"avx2", 7, 0, EBX, 5},
	{"smep", 7, 0, EBX, 7},
	{"bmi2", 7, 0, EBX, 8},
	{"erms", 7, 0, EBX, 9},
	{"invpcid", 7, 0, EBX, 10},
	{"avx512f", 7, 0, EBX, 16},
	{"rdseed", 7, 0, EBX, 18},
	{"adx", 7, 0, EBX, 19},
	{"smap", 7, 0, EBX, 20},
	{"sha", 7, 0, EBX, 29},
	{"avx512bw", 7, 0, EBX, 30},
	{"avx512vl", 7, 0, EBX, 31},
	{"pku", 7, 0, ECX, 3},
	{"vaes", 7, 0, ECX, 9},
	{"la57", 7, 0, ECX, 16},
	{"fsrm", 7, 0, EDX, 4},
	{"xsaveopt", 13, 1, EAX, 0},
	{"xsavec", 13, 1, EAX, 1},
	{"svm", 0x80000001, 0, ECX, 2},
	{"lzcnt", 0x80000001, 0, ECX, 5},
	{"nx", 0x80000001, 0, EDX, 20},
	{"pdpe1gb", 0x80000001, 0, EDX, 26},
	{"rdtscp", 0x80000001, 0, EDX, 27},
	{"invariant-tsc", 0x80000007, 0, EDX, 8},
};

static bool has(const struct host_facts *f, const char *name) {
	for (unsigned i = 0; i < f->nfeatures; i++)
		if (strcmp(f->features[i], name) == 0)
			return true;
	return false;
}

static void collect_cpu(struct host_facts *f) {
	uint32_t r[4], brand[12] = {0};
	for (unsigned i = 0; i < ARRAY_LEN(features); i++) {
		const struct feature *x = &features[i];
		if (__get_cpuid_count(x->leaf, x->sub, &r[EAX], &r[EBX], &r[ECX], &r[EDX]) &&
			(r[x->reg] >> x->bit & 1))
			f->features[f->nfeatures++] = x->name;
	}
	for (unsigned i = 0; i < 3; i++)
		__get_cpuid(0x80000002 + i, &brand[i * 4], &brand[i * 4 + 1], &brand[i * 4 + 2],
					&brand[i * 4 + 3]);
	char name[sizeof(brand) + 1];
	memcpy(name, brand, sizeof(brand));
	name[sizeof(brand)] = 0;
	const char *p = name;
	while (*p == ' ')
		p++;
	add(f, "cpu", FACT_INFO, "%s", *p ? p : "unknown");
	if (has(f, "hypervisor")) {
		char vendor[13] = {0};
		__cpuid(0x40000000, r[EAX], r[EBX], r[ECX], r[EDX]);
		memcpy(vendor, &r[EBX], 12);
		for (char *c = vendor; *c; c++)
			if (*c < ' ' || *c > '~')
				*c = '?';
		add(f, "hypervisor", FACT_INFO, "this host is itself a guest (%s)", vendor);
	}
	if (has(f, "vmx") || has(f, "svm"))
		add(f, "hardware-virtualization", FACT_OK, "%s", has(f, "vmx") ? "VT-x" : "AMD-V");
	else
		add(f, "hardware-virtualization", FACT_INFO,
			"the CPU shows neither VT-x nor AMD-V; the soft engine needs none");
}

static void collect_tsc(struct host_facts *f) {
	static const char *const from_text[] = {"from CPUID", "from the hypervisor", "measured"};
	enum tsc_khz_from from;
	uint32_t khz = host_tsc_khz(&from);
	bool invariant = host_tsc_invariant();
	struct host_fact *x =
		add(f, "tsc", invariant ? FACT_OK : FACT_WARN, "%s, %u.%03u MHz (%s)",
			invariant ? "invariant" : "not invariant", khz / 1000, khz % 1000, from_text[from]);
	if (!invariant)
		hint(x, "guests get a clock made from the kernel's, which costs a little more to read");
}

/* ---- limits ------------------------------------------------------------------------ */

/* May memory of a memfd be mapped for execution? A translator's code cache is such memory,
 * mapped twice: once to write, once to execute. */
static void collect_exec(struct host_facts *f) {
	static const uint8_t ret[] = {0xc3};
	const char *failed = "memfd_create";
	void *p = MAP_FAILED;
	int fd = memfd_create("joist-doctor", MFD_CLOEXEC);
	if (fd >= 0 && write(fd, ret, sizeof(ret)) == sizeof(ret)) {
		failed = "mmap(PROT_EXEC)";
		p = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	}
	int code = errno;
	if (p != MAP_FAILED) {
		((void (*)(void))p)();
		munmap(p, 4096);
		add(f, "memfd-exec", FACT_OK, "memory of a memfd can be executed");
	} else {
		struct host_fact *x = add(f, "memfd-exec", FACT_WARN, "%s: %s", failed, strerror(code));
		hint(x, "SELinux (execmem), noexec policy or seccomp forbid it");
	}
	if (fd >= 0)
		close(fd);
}

static void limit_text(char *buf, size_t size, rlim_t v, bool bytes) {
	if (v == RLIM_INFINITY)
		snprintf(buf, size, "unlimited");
	else if (bytes)
		snprintf(buf, size, "%llu MiB", (unsigned long long)v >> 20);
	else
		snprintf(buf, size, "%llu", (unsigned long long)v);
}

static void collect_limits(struct host_facts *f) {
	static const struct {
		const char *name;
		int which;
		bool bytes;
		rlim_t low;
		const char *hint;
	} limits[] = {
		{"limit-memory", RLIMIT_AS, true, 1ull << 30, "raise it with ulimit -v"},
		{"limit-files", RLIMIT_NOFILE, false, 256, "raise it with ulimit -n"},
		{"limit-processes", RLIMIT_NPROC, false, 64, "raise it with ulimit -u: a vCPU is a thread"},
		{"limit-locked", RLIMIT_MEMLOCK, true, 0, ""},
	};
	for (unsigned i = 0; i < ARRAY_LEN(limits); i++) {
		struct rlimit r;
		char text[40];
		if (getrlimit(limits[i].which, &r) < 0)
			continue;
		bool low = r.rlim_cur != RLIM_INFINITY && r.rlim_cur < limits[i].low;
		limit_text(text, sizeof(text), r.rlim_cur, limits[i].bytes);
		struct host_fact *x = add(f, limits[i].name, low ? FACT_WARN : FACT_OK, "%s", text);
		if (low)
			hint(x, limits[i].hint);
	}
	long maps = 0;
	FILE *file = fopen("/proc/sys/vm/max_map_count", "re");
	if (file) {
		if (fscanf(file, "%ld", &maps) != 1)
			maps = 0;
		fclose(file);
	}
	if (maps) {
		struct host_fact *x =
			add(f, "limit-mappings", maps < 65530 ? FACT_WARN : FACT_OK, "%ld", maps);
		if (maps < 65530)
			hint(x, "sysctl vm.max_map_count=65530 or more");
	}
}

static void collect_resources(struct host_facts *f) {
	uint64_t total, available;
	cpu_set_t set;
	int cores = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 0;
	if (!cores)
		cores = (int)sysconf(_SC_NPROCESSORS_ONLN);
	add(f, "cores", FACT_INFO, "%d", cores);
	host_memory(&total, &available);
	struct host_fact *x = add(f, "memory", available < MIB(256) ? FACT_WARN : FACT_OK,
							  "%llu MiB, %llu MiB of them free", (unsigned long long)(total >> 20),
							  (unsigned long long)(available >> 20));
	if (available < MIB(256))
		hint(x, "a stock Linux guest needs about 256 MiB");
}

void host_facts_collect(struct host_facts *f) {
	struct utsname u;
	memset(f, 0, sizeof(*f));
	if (uname(&u) == 0)
		add(f, "kernel", FACT_INFO, "%s %s %s", u.sysname, u.release, u.machine);
	collect_cpu(f);
	collect_tsc(f);
	collect_exec(f);
	collect_resources(f);
	collect_limits(f);
}
