/* base/crc32c: the CRC-32C (Castagnoli) checksum, by the processor's instruction where it has one. */
#ifndef KAVA_BASE_CRC32C_H
#define KAVA_BASE_CRC32C_H
#include <stddef.h>
#include <stdint.h>

/* The checksum of the bytes `crc` was made of (0: none) followed by these. */
uint32_t kava_crc32c(uint32_t crc, const void *data, size_t size);
#endif
