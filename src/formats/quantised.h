/* formats/quantised: 32-bit words of small integers, as GPTQ, AWQ and compressed-tensors store weights and zero points:
 * the repackings that loading such files takes. Codes themselves: tensor/coded.h. */
#ifndef KAVA_FORMATS_QUANTISED_H
#define KAVA_FORMATS_QUANTISED_H
#include "tensor/tensor.h"

/* words: i32 [rows, n], `bits` (2, 3, 4 or 8) an integer, low bits first, from word to word -> u8 [rows, count], each
 * plus `add` modulo 2^bits. `awq`: 4 bits in AWQ's order: the integers of a word are those of columns 0 2 4 6 1 3 5 7.
 * KAVA_FORMAT where the words are not as many as `count` takes. */
kava_status kava_unpack_words(const kava_tensor *words, int bits, int64_t count, int add, bool awq, kava_tensor **out);
/* AWQ's weight, i32 [in, out/8] packed along out -> i32 [out, in/8], low bits first along in. KAVA_UNSUPPORTED where
 * `in` is not divisible by 8. */
kava_status kava_awq_rows(const kava_tensor *words, kava_tensor **out);
#endif
