#include "text/tokenizer_parts.h"

kava_status kava_tokenizer_load_gguf(const char *path, kava_tokenizer *tok) {
  (void)tok;
  return kava_fail(KAVA_UNSUPPORTED, "%s: tokenizers are not read from GGUF files yet", path);
}
