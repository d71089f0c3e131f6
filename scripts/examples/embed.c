/* embed.c: KAVA in a C program, through kava.h and libkava alone: makes a small decoder of random weights, runs it on
 * 32 tokens, and says what its KV cache holds.
 *   cc embed.c -lkava && ./a.out
 * The test suite builds and runs it (spec/install_spec.lua). */
#include <kava.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { LAYERS = 3, HIDDEN = 64, VOCAB = 100, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 16, FFN = 160, TOKENS = 32 };

/* Leaves what was made so far to the end of the program: a library would release it. */
static void must(kava_status status) {
  if (status == KAVA_OK) return;
  fprintf(stderr, "embed: %s: %s\n", kava_status_name(status), kava_message());
  exit(1);
}

static void set(kava_decoder *decoder, int layer, const char *name, int64_t rows, int64_t columns) {
  kava_tensor *weight = NULL;
  must(kava_tensor_new(KAVA_F32, columns ? 2 : 1, (int64_t[]){rows, columns}, &weight));
  float *data = kava_tensor_data(weight);
  for (int64_t i = 0; i < kava_tensor_numel(weight); i++)
    data[i] = columns ? 0.2f * ((float)rand() / (float)RAND_MAX - 0.5f) : 1.0f; /* norms begin as ones */
  must(kava_decoder_set(decoder, layer, name, weight));
  kava_tensor_release(&weight); /* the decoder holds its own reference */
}

static double rms(const kava_tensor *t) {
  const float *data = kava_tensor_data(t);
  double sum = 0;
  for (int64_t i = 0; i < kava_tensor_numel(t); i++) sum += (double)data[i] * data[i];
  return sqrt(sum / (double)kava_tensor_numel(t));
}

int main(void) {
  kava_decoder *decoder = NULL;
  kava_tensor *ids = NULL, *keys[LAYERS] = {NULL}, *values[LAYERS] = {NULL}, *logits = NULL;
  const kava_decoder_spec spec = {.layers = LAYERS,
                                  .hidden = HIDDEN,
                                  .vocab = VOCAB,
                                  .heads = HEADS,
                                  .kv_heads = KV_HEADS,
                                  .head_dim = HEAD_DIM,
                                  .norm_eps = 1e-6,
                                  .rope_theta = 10000};
  must(kava_decoder_build(&spec, &decoder));
  set(decoder, -1, "embed", VOCAB, HIDDEN); /* no head: tied to the embedding */
  set(decoder, -1, "norm", HIDDEN, 0);
  for (int i = 0; i < LAYERS; i++) {
    set(decoder, i, "attn_norm", HIDDEN, 0);
    set(decoder, i, "q", HEADS * HEAD_DIM, HIDDEN);
    set(decoder, i, "k", KV_HEADS * HEAD_DIM, HIDDEN);
    set(decoder, i, "v", KV_HEADS * HEAD_DIM, HIDDEN);
    set(decoder, i, "o", HIDDEN, HEADS * HEAD_DIM);
    set(decoder, i, "mlp_norm", HIDDEN, 0);
    set(decoder, i, "gate", FFN, HIDDEN);
    set(decoder, i, "up", FFN, HIDDEN);
    if (i + 1 < LAYERS) set(decoder, i, "down", HIDDEN, FFN);
  }
  /* What is missing is named, not guessed. */
  if (kava_decoder_check(decoder) == KAVA_OK) return 1;
  printf("as expected: %s\n", kava_message());
  set(decoder, LAYERS - 1, "down", HIDDEN, FFN);

  int64_t tokens[TOKENS];
  for (int i = 0; i < TOKENS; i++) tokens[i] = i * 7 % VOCAB;
  must(kava_tensor_from(KAVA_I64, 2, (int64_t[]){1, TOKENS}, tokens, &ids));
  must(kava_decoder_run(decoder, ids, keys, values, &logits));

  int64_t total = 0;
  for (int i = 0; i < LAYERS; i++) {
    printf("layer %d: %d kv heads x %d, rms of K %.4f, of V %.4f\n", i, (int)kava_tensor_size(keys[i], 2),
           (int)kava_tensor_size(keys[i], 3), rms(keys[i]), rms(values[i]));
    total += kava_tensor_size(keys[i], 2) * kava_tensor_size(keys[i], 3);
  }
  printf("a token's keys: %d numbers; logits [%d, %d, %d]\n", (int)total, (int)kava_tensor_size(logits, 0),
         (int)kava_tensor_size(logits, 1), (int)kava_tensor_size(logits, 2));

  for (int i = 0; i < LAYERS; i++) {
    kava_tensor_release(&keys[i]);
    kava_tensor_release(&values[i]);
  }
  kava_tensor_release(&logits);
  kava_tensor_release(&ids);
  kava_decoder_release(&decoder);
  return 0;
}
