/* embed.c: KAVA in a C program: tensors through kava.h and libkava alone.
 *   cc embed.c -lkava && ./a.out
 * The test suite builds and runs it (spec/install_spec.lua). */
#include <kava.h>
#include <stdio.h>

int main(void) {
  static const float values[] = {1, 2, 3, 4, 5, 6};
  kava_tensor *x = NULL;
  if (kava_tensor_from(KAVA_F32, 2, (int64_t[]){2, 3}, values, &x) != KAVA_OK) {
    fprintf(stderr, "embed: %s\n", kava_message());
    return 1;
  }
  printf("[%lld, %lld] %s\n", (long long)kava_tensor_size(x, 0), (long long)kava_tensor_size(x, 1),
         kava_dtype_name(kava_tensor_dtype(x)));
  kava_tensor_release(&x);
  return 0;
}
