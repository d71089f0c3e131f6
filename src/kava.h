/* kava.h: the public C API of libkava, the runtime under the KAVA programs: tensors with gradients, quantised weights,
 * decoder models whose KV caches can be read and trained through, tokenizers. Lua recipes are its main user; a C
 * program may be another (scripts/examples/embed.c is one that the test suite builds and runs).
 *
 * A tour
 *   kava_tensor *x = NULL;
 *   if (kava_tensor_new(KAVA_F32, 2, (int64_t[]){4, 8}, &x) != KAVA_OK) fprintf(stderr, "%s\n", kava_message());
 *   ...
 *   kava_tensor_release(&x);
 *
 * Conventions
 *   - A fallible function returns kava_status; what went wrong, with its place, is kava_message(), kept per thread.
 *   - _new and every function with an `out` argument give one reference, which the caller releases with
 *     _release(&p): it accepts NULL and nulls the pointer. On failure `out` is untouched.
 *   - Shapes and strides count elements, row-major, outermost first. Dimensions count from 0 here (from 1 in Lua).
 *   - Objects may be used from one thread at a time; the library's own worker threads are its affair.
 *   - The library never exits, aborts on input, or longjmps. */
#ifndef KAVA_H
#define KAVA_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KAVA_VERSION "0.1.0"
#define KAVA_MAX_DIMS 6

typedef enum kava_status {
  KAVA_OK = 0,
  KAVA_MISUSE,      /* the caller's mistake: a wrong type, shape or value */
  KAVA_UNSUPPORTED, /* well-formed, but not something this build can do */
  KAVA_IO,          /* a file or device refused */
  KAVA_FORMAT,      /* a file's contents are not what they claim to be */
  KAVA_MEMORY,
  KAVA_INTERRUPTED
} kava_status;

const char *kava_message(void);                 /* the calling thread's last failure; never NULL */
const char *kava_status_name(kava_status code); /* "misuse", "io", ... */

/* Element types. Quantised types (KAVA_Q4_0 and on) can be widened, used as a linear layer's or an embedding's weight,
 * and nothing else. Up to KAVA_IQ4_XS they are blocks along the innermost dimension, as GGUF stores them. The others
 * are bare codes, whose scales lie beside them: nf4 and fp4 (tables of 16, high half first), int2, int3, int4 and uint8
 * (unsigned, low bits first, less a zero point), int8, fp8 (e4m3). */
/* clang-format off */
typedef enum kava_dtype {
  KAVA_F64, KAVA_F32, KAVA_F16, KAVA_BF16, KAVA_I64, KAVA_I32, KAVA_I16, KAVA_I8, KAVA_U8, KAVA_BOOL,
  KAVA_Q4_0, KAVA_Q4_1, KAVA_Q5_0, KAVA_Q5_1, KAVA_Q8_0, KAVA_Q2_K, KAVA_Q3_K, KAVA_Q4_K, KAVA_Q5_K, KAVA_Q6_K,
  KAVA_IQ4_NL, KAVA_IQ4_XS,
  KAVA_NF4, KAVA_FP4, KAVA_INT2, KAVA_INT3, KAVA_INT4, KAVA_UINT8, KAVA_INT8, KAVA_FP8,
  KAVA_DTYPES
} kava_dtype;
/* clang-format on */

const char *kava_dtype_name(kava_dtype dtype); /* "f32", "q4_1", ... */
bool kava_dtype_parse(const char *name, kava_dtype *out);
bool kava_dtype_is_float(kava_dtype dtype); /* f64 f32 f16 bf16 */
bool kava_dtype_is_quantised(kava_dtype dtype);
int kava_dtype_block(kava_dtype dtype);       /* elements a block; 1 for plain types */
int kava_dtype_block_bytes(kava_dtype dtype); /* bytes a block; the element size for plain types */

/* A tensor is a view (shape, strides, offset) on a reference-counted storage; views share it. */
typedef struct kava_tensor kava_tensor;
kava_status kava_tensor_new(kava_dtype dtype, int dims, const int64_t *shape, kava_tensor **out); /* uninitialised */
kava_status kava_tensor_zeros(kava_dtype dtype, int dims, const int64_t *shape, kava_tensor **out);
/* copies `data` */
kava_status kava_tensor_from(kava_dtype dtype, int dims, const int64_t *shape, const void *data, kava_tensor **out);
kava_tensor *kava_tensor_retain(kava_tensor *tensor);
void kava_tensor_release(kava_tensor **tensor);
kava_dtype kava_tensor_dtype(const kava_tensor *tensor);
int kava_tensor_dims(const kava_tensor *tensor);
int64_t kava_tensor_size(const kava_tensor *tensor, int dim);
int64_t kava_tensor_numel(const kava_tensor *tensor);
void *kava_tensor_data(const kava_tensor *tensor); /* first element; the rest follows where _is_contiguous says so */
bool kava_tensor_is_contiguous(const kava_tensor *tensor);

/* Tensors by name from a .safetensors file, or from an index of shards (a name that ends in .json) beside them. The
 * file is mapped: a tensor's bytes are read when they are touched. KAVA_IO; KAVA_FORMAT names the file and the tensor.
 */
typedef struct kava_safetensors kava_safetensors;
kava_status kava_safetensors_load(const char *path, kava_safetensors **out);
/* KAVA_MISUSE: no tensor has that name */
kava_status kava_safetensors_get(const kava_safetensors *file, const char *name, kava_tensor **out);
void kava_safetensors_release(kava_safetensors **file); /* its tensors may outlive it */

/* A decoder: one causal language model of the llama kind (Llama, SmolLM2, Qwen2, Qwen3): made from a spec, given its
 * weights one by one, run to read its KV cache. */
typedef struct kava_decoder kava_decoder;
typedef struct kava_decoder_spec {
  int layers, hidden, vocab;
  int heads, kv_heads, head_dim;
  double norm_eps;
  double rope_theta;
} kava_decoder_spec;
kava_status kava_decoder_build(const kava_decoder_spec *spec, kava_decoder **out);
/* Retains `weight`, of any float or quantised dtype, and drops the one that was there. Layers count from 0; -1 means
 * the model's own: embed, norm, head (absent: tied to embed). A layer's: attn_norm q k v o mlp_norm gate up down, and
 * where the model has them q_bias k_bias v_bias o_bias q_norm k_norm. Matrices are [out, in]. */
kava_status kava_decoder_set(kava_decoder *decoder, int layer, const char *name, kava_tensor *weight);
/* What does not fit: the layer, the weight, its shape and the one expected. To be called once all weights are set. */
kava_status kava_decoder_check(const kava_decoder *decoder);
/* Runs it on ids (i64 or i32, [B,T]) without recording gradients. keys and values are NULL or have room for `layers`
 * tensors, each f32 [B,T,kv_heads,head_dim], keys after rotation; logits is NULL or gets f32 [B,T,vocab]. Only what is
 * asked for is computed. */
kava_status kava_decoder_run(kava_decoder *decoder, kava_tensor *ids, kava_tensor **keys, kava_tensor **values,
                             kava_tensor **logits);
void kava_decoder_release(kava_decoder **decoder);

#endif
