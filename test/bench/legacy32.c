/*
 * 32-bit programs for legacy.c: free of any library, linked to where that file maps them. What is
 * called goes by number; each does n operations.
 */
typedef unsigned int u32;

#define WORDS 4096
#define NODES 2048

static u32 words[WORDS], sink;
static struct node {
	struct node *next;
	u32 value, pad[2];
} nodes[NODES];

static __attribute__((noinline)) u32 fib(u32 n) {
	__asm__ volatile(""); /* or the compiler unrolls most of the calls */
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static void run_fib(u32 n) {
	while (n--) {
		u32 k = 24;
		__asm__("" : "+r"(k)); /* each time anew */
		sink += fib(k);
	}
}

static void run_sum(u32 n) {
	while (n--) {
		u32 s = 0;
		for (u32 k = 0; k < WORDS; k++)
			s += words[k];
		sink += s;
	}
}

static u32 seed = 1;

static u32 next_random(void) {
	seed ^= seed << 13;
	seed ^= seed >> 17;
	seed ^= seed << 5;
	return seed;
}

/* A heap sort of 1024 numbers. */
static void sift(u32 *a, u32 at, u32 n) {
	for (;;) {
		u32 child = 2 * at + 1;
		if (child >= n)
			return;
		if (child + 1 < n && a[child + 1] > a[child])
			child++;
		if (a[at] >= a[child])
			return;
		u32 t = a[at];
		a[at] = a[child];
		a[child] = t;
		at = child;
	}
}

static void run_sort(u32 n) {
	while (n--) {
		for (u32 k = 0; k < 1024; k++)
			words[k] = next_random();
		for (u32 k = 512; k-- > 0;)
			sift(words, k, 1024);
		for (u32 k = 1024; k-- > 1;) {
			u32 t = words[0];
			words[0] = words[k];
			words[k] = t;
			sift(words, 0, k);
		}
		sink += words[0];
	}
}

/* 1024 steps of a machine with eight instructions. */
static void run_switch(u32 n) {
	static unsigned char code[256];
	for (u32 k = 0; k < 256; k++)
		code[k] = (unsigned char)(next_random() >> 8 & 7);
	while (n--) {
		u32 a = 1, b = 2;
		for (u32 k = 0; k < 1024; k++)
			switch (code[(k + a) & 255]) {
			case 0:
				a += b;
				break;
			case 1:
				b ^= a;
				break;
			case 2:
				a = a << 3 | a >> 29;
				break;
			case 3:
				b -= 7;
				break;
			case 4:
				a *= 5;
				break;
			case 5:
				b += a >> 4;
				break;
			case 6:
				a = ~a;
				break;
			default:
				b = b >> 1 | b << 31;
			}
		sink += a + b;
	}
}

static void run_chase(u32 n) {
	u32 at = 0;
	for (u32 k = 0; k < NODES; k++) { /* a step that visits all of them */
		nodes[at].next = &nodes[(at + 1021) % NODES];
		nodes[at].value = k;
		at = (at + 1021) % NODES;
	}
	while (n--) {
		const struct node *p = nodes;
		for (u32 k = 0; k < NODES; k++) {
			sink += p->value;
			p = p->next;
		}
	}
}

void legacy_main(u32 which, u32 n);
void legacy_main(u32 which, u32 n) {
	static void (*const all[])(u32) = {run_fib, run_sum, run_sort, run_switch, run_chase};
	all[which](n);
}

/* From 64-bit code, ECX: which, EDX: n, EBX: where in 64-bit code to go back to. */
struct __attribute__((packed)) far_pointer {
	u32 eip;
	unsigned short cs;
};
extern struct far_pointer back;
struct far_pointer back = {0, 0x33}; /* Linux's __USER_CS */

__asm__(".section .text.entry, \"ax\"\n"
		"	mov $0x2b, %eax\n" /* Linux's __USER_DS */
		"	mov %eax, %ds\n"
		"	mov %eax, %es\n"
		"	push %edx\n"
		"	push %ecx\n"
		"	call legacy_main\n"
		"	mov %ebx, back\n"
		"	ljmp *back\n"
		".previous\n");
