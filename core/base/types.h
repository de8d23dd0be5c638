/* Scalar types of the machine. The three kinds of address are never mixed. */
#ifndef CORE_BASE_TYPES_H
#define CORE_BASE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t gva_t; /* guest-virtual ("linear") address */
typedef uint64_t gpa_t; /* guest-physical address */
typedef uint64_t hpa_t; /* host-physical address; metal only */

#endif
