/* crc.h - CRC-32 as in zip files (crc.c). */
#ifndef DLV3_CRC_H
#define DLV3_CRC_H

#include <stdint.h>

/* The CRC-32 of bytes appended to those whose CRC-32 is crc; 0: to none. */
uint32_t crc_of(uint32_t crc, const void *bytes, int64_t n_bytes);
/* The CRC-32 of two pieces one after the other, from the CRC-32 of each. */
uint32_t crc_joined(uint32_t first, uint32_t second, int64_t second_bytes);

#endif
