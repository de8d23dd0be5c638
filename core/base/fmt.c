/* The freestanding formatter behind err_set() and log_line(). Called from any
 * thread; keeps no state. */
#include "core/base/fmt.h"

#include "core/base/bits.h"
#include "core/base/err.h"
#include "core/base/string.h"

struct out {
	char *buf;
	size_t size, len;
};

static void put(struct out *o, char c) {
	if (o->len + 1 < o->size)
		o->buf[o->len] = c;
	o->len++;
}

static void pad(struct out *o, char c, int n) {
	while (n-- > 0)
		put(o, c);
}

static void put_field(struct out *o, const char *s, int len, int width, bool left) {
	if (!left)
		pad(o, ' ', width - len);
	for (int i = 0; i < len; i++)
		put(o, s[i]);
	if (left)
		pad(o, ' ', width - len);
}

static void put_number(struct out *o, uint64_t v, bool neg, unsigned base, bool upper, int width,
					   bool zero, bool left) {
	char tmp[24];
	int n = 0;
	do {
		unsigned digit = (unsigned)(v % base);
		tmp[n++] = (char)(digit < 10 ? '0' + digit : (upper ? 'A' : 'a') + digit - 10);
		v /= base;
	} while (v);
	int len = n + neg;
	if (!zero && !left)
		pad(o, ' ', width - len);
	if (neg)
		put(o, '-');
	if (zero && !left)
		pad(o, '0', width - len);
	while (n)
		put(o, tmp[--n]);
	if (left)
		pad(o, ' ', width - len);
}

size_t fmt_vtext(char *buf, size_t size, const char *fmt, va_list ap) {
	struct out o = {buf, size, 0};
	for (; *fmt; fmt++) {
		if (*fmt != '%') {
			put(&o, *fmt);
			continue;
		}
		bool zero = false, left = false;
		int width = 0, prec = -1, longs = 0;
		for (fmt++; *fmt == '0' || *fmt == '-'; fmt++)
			*fmt == '0' ? (zero = true) : (left = true);
		if (*fmt == '*') {
			width = va_arg(ap, int);
			fmt++;
		}
		while (*fmt >= '0' && *fmt <= '9')
			width = width * 10 + (*fmt++ - '0');
		if (*fmt == '.') {
			fmt++;
			prec = 0;
			if (*fmt == '*') {
				prec = va_arg(ap, int);
				fmt++;
			}
			while (*fmt >= '0' && *fmt <= '9')
				prec = prec * 10 + (*fmt++ - '0');
		}
		while (*fmt == 'l' || *fmt == 'z' || *fmt == 'j')
			longs++, fmt++;
		switch (*fmt) {
		case 'd':
		case 'i': {
			int64_t v = longs ? va_arg(ap, long) : va_arg(ap, int);
			put_number(&o, v < 0 ? 0 - (uint64_t)v : (uint64_t)v, v < 0, 10, false, width, zero,
					   left);
			break;
		}
		case 'u':
		case 'x':
		case 'X': {
			uint64_t v = longs ? va_arg(ap, unsigned long) : va_arg(ap, unsigned);
			put_number(&o, v, false, *fmt == 'u' ? 10 : 16, *fmt == 'X', width, zero, left);
			break;
		}
		case 'p':
			put(&o, '0'), put(&o, 'x');
			put_number(&o, (uintptr_t)va_arg(ap, void *), false, 16, false, 0, false, false);
			break;
		case 'c': {
			char c = (char)va_arg(ap, int);
			put_field(&o, &c, 1, width, left);
			break;
		}
		case 's': {
			const char *s = va_arg(ap, const char *);
			if (!s)
				s = "(null)";
			int len = 0;
			while (s[len] && (prec < 0 || len < prec))
				len++;
			put_field(&o, s, len, width, left);
			break;
		}
		case '\0':
			fmt--;
			break;
		default:
			put(&o, *fmt);
		}
	}
	if (size)
		buf[MIN(o.len, size - 1)] = '\0';
	return o.len;
}

size_t fmt_text(char *buf, size_t size, const char *fmt, ...) {
	va_list ap;
	va_start(ap, fmt);
	size_t len = fmt_vtext(buf, size, fmt, ap);
	va_end(ap);
	return len;
}

int err_set(struct err *e, int code, const char *fmt, ...) {
	if (e) {
		va_list ap;
		va_start(ap, fmt);
		fmt_vtext(e->text, sizeof(e->text), fmt, ap);
		va_end(ap);
	}
	return -code;
}

void log_line(enum log_level level, const char *fmt, ...) {
	char line[512];
	va_list ap;
	va_start(ap, fmt);
	fmt_vtext(line, sizeof(line), fmt, ap);
	va_end(ap);
	host_ops.log(level, line);
}
