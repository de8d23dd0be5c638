/* check(cond): states what must hold whatever guest, image or user do; its
 * failure is our bug and stops that VM. Compiled in always; `cond` must have no
 * side effects. Guest misbehaviour never ends up here. */
#ifndef CORE_BASE_CHECK_H
#define CORE_BASE_CHECK_H

#include "core/base/host.h"

#define check(cond)                                                                                \
	do {                                                                                           \
		if (__builtin_expect(!(cond), 0))                                                          \
			host_ops.bug(__FILE__, __LINE__, #cond);                                               \
	} while (0)

#define unreachable() host_ops.bug(__FILE__, __LINE__, "unreachable")

#endif
