/* spec/fuzz/rows: JSON Lines, plain and compressed, as spec/fuzz/source.h reads them. */
#include "spec/fuzz/source.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (!(size < 8 ||
        (memcmp(data, "PAR1", 4) != 0 && memcmp(data, "ARROW1", 6) != 0 && memcmp(data, "\xff\xff\xff\xff", 4) != 0)))
    return -1; /* another fuzzer's */
  fuzz_source(data, size);
  return 0;
}
