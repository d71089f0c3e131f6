/* embed.c: KAVA in a C program, through kava.h and libkava alone: loads a model's weights, runs it on 32 tokens, and
 * says what its KV cache really holds. cc embed.c -lkava -lm && ./a.out MODEL.safetensors HEADS KV_HEADS ROPE_THETA
 * NORM_EPS The numbers stand in the model's config.json. The test suite builds and runs it (spec/install_spec.lua). */
#include <kava.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = 32 };

static const struct {
  const char *name, *in_file;
} model_weights[] = {{"embed", "model.embed_tokens.weight"}, {"norm", "model.norm.weight"}, {"head", "lm_head.weight"}},
  layer_weights[] = {{"attn_norm", "input_layernorm.weight"},
                     {"q", "self_attn.q_proj.weight"},
                     {"k", "self_attn.k_proj.weight"},
                     {"v", "self_attn.v_proj.weight"},
                     {"o", "self_attn.o_proj.weight"},
                     {"q_bias", "self_attn.q_proj.bias"},
                     {"k_bias", "self_attn.k_proj.bias"},
                     {"v_bias", "self_attn.v_proj.bias"},
                     {"mlp_norm", "post_attention_layernorm.weight"},
                     {"gate", "mlp.gate_proj.weight"},
                     {"up", "mlp.up_proj.weight"},
                     {"down", "mlp.down_proj.weight"}};

/* Sets a weight that is in the file. One that a model of this kind may lack is left out: kava_decoder_check names those
 * that it may not. */
static kava_status set(kava_decoder *decoder, int layer, const char *name, kava_safetensors *file,
                       const char *in_file) {
  kava_tensor *weight = NULL;
  if (kava_safetensors_get(file, in_file, &weight) != KAVA_OK) return KAVA_OK;
  kava_status status = kava_decoder_set(decoder, layer, name, weight);
  kava_tensor_release(&weight); /* the decoder holds its own reference */
  return status;
}

static int64_t size_of(kava_safetensors *file, const char *name, int dim) {
  kava_tensor *tensor = NULL;
  if (kava_safetensors_get(file, name, &tensor) != KAVA_OK) return -1;
  int64_t size = dim < kava_tensor_dims(tensor) ? kava_tensor_size(tensor, dim) : -1;
  kava_tensor_release(&tensor);
  return size;
}

static kava_status load(const char *path, kava_decoder_spec *spec, kava_decoder **out) {
  kava_safetensors *file = NULL;
  kava_decoder *decoder = NULL;
  char name[128];
  kava_status status = kava_safetensors_load(path, &file);
  if (status != KAVA_OK) return status;
  spec->vocab = (int)size_of(file, "model.embed_tokens.weight", 0);
  spec->hidden = (int)size_of(file, "model.embed_tokens.weight", 1);
  spec->head_dim = (int)size_of(file, "model.layers.0.self_attn.q_proj.weight", 0) / spec->heads;
  do {
    snprintf(name, sizeof name, "model.layers.%d.input_layernorm.weight", spec->layers);
  } while (size_of(file, name, 0) > 0 && ++spec->layers);
  status = kava_decoder_build(spec, &decoder);
  for (size_t j = 0; j < sizeof model_weights / sizeof *model_weights && status == KAVA_OK; j++)
    status = set(decoder, -1, model_weights[j].name, file, model_weights[j].in_file);
  for (int i = 0; i < spec->layers; i++) {
    for (size_t j = 0; j < sizeof layer_weights / sizeof *layer_weights && status == KAVA_OK; j++) {
      snprintf(name, sizeof name, "model.layers.%d.%s", i, layer_weights[j].in_file);
      status = set(decoder, i, layer_weights[j].name, file, name);
    }
  }
  if (status == KAVA_OK) status = kava_decoder_check(decoder);
  kava_safetensors_release(&file); /* the weights stay mapped as long as the decoder holds them */
  if (status == KAVA_OK)
    *out = decoder;
  else
    kava_decoder_release(&decoder);
  return status;
}

static double rms(const kava_tensor *tensor) {
  const float *data = kava_tensor_data(tensor);
  double sum = 0;
  for (int64_t i = 0; i < kava_tensor_numel(tensor); i++) sum += (double)data[i] * data[i];
  return sqrt(sum / (double)kava_tensor_numel(tensor));
}

int main(int argc, char **argv) {
  if (argc != 6) {
    fprintf(stderr, "usage: embed MODEL.safetensors HEADS KV_HEADS ROPE_THETA NORM_EPS\n");
    return 2;
  }
  kava_decoder_spec spec = {
      .heads = atoi(argv[2]), .kv_heads = atoi(argv[3]), .rope_theta = atof(argv[4]), .norm_eps = atof(argv[5])};
  kava_decoder *decoder = NULL;
  kava_tensor *ids = NULL, **keys = NULL, **values = NULL;
  int64_t tokens[TOKENS];
  if (spec.heads < 1 || load(argv[1], &spec, &decoder) != KAVA_OK) goto failed;
  for (int i = 0; i < TOKENS; i++) tokens[i] = i % spec.vocab;
  if (kava_tensor_from(KAVA_I64, 2, (int64_t[]){1, TOKENS}, tokens, &ids) != KAVA_OK) goto failed;
  keys = calloc((size_t)spec.layers, sizeof(kava_tensor *));
  values = calloc((size_t)spec.layers, sizeof(kava_tensor *));
  if (!keys || !values || kava_decoder_run(decoder, ids, keys, values, NULL) != KAVA_OK) goto failed;

  int64_t total = 0;
  for (int i = 0; i < spec.layers; i++) { /* [1, TOKENS, kv_heads, head_dim] */
    int64_t heads = kava_tensor_size(keys[i], 2), dim = kava_tensor_size(keys[i], 3);
    printf("layer %d: %d kv heads x %d, rms of K %.5f, of V %.5f\n", i, (int)heads, (int)dim, rms(keys[i]),
           rms(values[i]));
    total += heads * dim;
  }
  printf("%d layers: a token's keys are %d numbers\n", spec.layers, (int)total);
  for (int i = 0; i < spec.layers; i++) {
    kava_tensor_release(&keys[i]);
    kava_tensor_release(&values[i]);
  }
  free(keys);
  free(values);
  kava_tensor_release(&ids);
  kava_decoder_release(&decoder);
  return 0;

failed:
  fprintf(stderr, "embed: %s\n", kava_message());
  free(keys);
  free(values);
  kava_tensor_release(&ids);
  kava_decoder_release(&decoder);
  return 1;
}
