/* CRC-32C (Castagnoli's), as VHDX and iSCSI have it [RFC3720 12.1]. */
#ifndef CORE_BASE_CRC32C_H
#define CORE_BASE_CRC32C_H

#include "core/base/types.h"

#define CRC32C_START 0xffffffffu

/* Goes on with `crc`, which begins as CRC32C_START; the complement of the last one is the sum. */
uint32_t crc32c_add(uint32_t crc, const void *data, size_t len);

#endif
