/* nn/layout: how other programs' conventions map onto the decoder's: attention masks, and GGUF's order of rotary rows.
 */
#ifndef KAVA_NN_LAYOUT_H
#define KAVA_NN_LAYOUT_H
#include "tensor/tensor.h"

/* attention_mask [B,T] of any integer dtype or bool -> start i32 [B,T]: the first key each query may see. Padding may
 * stand on either side of a row's tokens; a hole between them is KAVA_MISUSE, naming row and column. *out is NULL when
 * no row begins with padding: right padding needs nothing, since attention is causal. */
kava_status kava_mask_to_start(const kava_tensor *mask, kava_tensor **out);

/* GGUF stores llama's Q and K rows for interleaved rotation: within a head of d rows, GGUF row r is half-split row
 * (r mod 2)*d/2 + r/2. Gives W (any dtype, quantised too; [rows, in] or [rows]) half-split; `inverse`: the other way.
 */
kava_status kava_rope_rows(const kava_tensor *w, int heads, bool inverse, kava_tensor **out);
#endif
