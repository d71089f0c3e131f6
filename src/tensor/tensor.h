/* tensor/tensor: a tensor is a view (shape, strides, offset) on a reference-counted storage.
 * A storage lies on one device; what stands on the host here (kava_f32 and its kind) are pointers of that device.
 * Quantised tensors are always contiguous and never views of part of a block row. */
#ifndef KAVA_TENSOR_TENSOR_H
#define KAVA_TENSOR_TENSOR_H
#include "base/map.h"
#include "base/memory.h"
#include "base/status.h"
#include "kernels/args.h"
#include "tensor/device.h"

typedef struct kava_storage {
  int refs; /* atomic */
  kava_device device;
  void *data;
  size_t bytes;
  kava_map *map;     /* owner when the bytes lie in a mapped file (copy-on-write); else kava_free(data) */
  kava_block *block; /* owner when the bytes lie on another device than the CPU, or in pinned memory */
  uint64_t ticket;   /* of the download into pinned memory: it is not given away before that is done */
  uint64_t version;  /* raised by every in-place write: a record that saved the contents finds out (tape/tape.h) */
  bool joins;        /* made to be put together: views that lie side by side in it are joined by a view (ops/shape.c) */
} kava_storage;

struct kava_rows;

/* What turns a tensor of codes into values: a kernel's scaling, and the tensors that it points into. Made by
 * kava_coded_new; shared by all views. */
typedef struct kava_scales {
  int refs; /* atomic */
  kava_scaling scaling;
  struct kava_tensor *held[5]; /* scales, zeros, group_of, map, outer; NULL where there is none */
} kava_scales;

struct kava_tensor {
  int refs; /* atomic */
  kava_dtype dtype;
  kava_device device; /* the storage's; kept here, too, for tensors without elements (kava_tensor_outline) */
  int dims;
  bool requires_grad;
  int64_t shape[KAVA_MAX_DIMS];
  int64_t stride[KAVA_MAX_DIMS]; /* elements; unused for quantised types */
  int64_t offset;                /* elements */
  kava_storage *storage;
  kava_tensor *grad; /* leaves only: gradient summed so far, contiguous, of kava_grad_dtype; NULL: none, but: */
  struct kava_rows *grad_rows; /* ... this, instead (tensor/rows.h) */
  struct kava_node *node;      /* the tape's record that produced this tensor; NULL for leaves (tape/tape.h) */
  kava_scales
      *scales; /* of a tensor [rows, columns] of codes (nf4 ... fp8), counted from the storage's first row; else NULL */
};

/* As kava_tensor_new, _zeros and _from (whose data lie on the host), on an open device; the short forms: on the CPU. */
kava_status kava_tensor_new_on(kava_device device, kava_dtype dtype, int dims, const int64_t *shape, kava_tensor **out);
kava_status kava_tensor_zeros_on(kava_device device, kava_dtype dtype, int dims, const int64_t *shape,
                                 kava_tensor **out);
kava_status kava_tensor_from_on(kava_device device, kava_dtype dtype, int dims, const int64_t *shape, const void *data,
                                kava_tensor **out);
/* Every element becomes `number`, of integer types `integer`; a kernel's argument, so that nothing is uploaded. */
kava_status kava_tensor_full_on(kava_device device, kava_dtype dtype, int dims, const int64_t *shape, double number,
                                int64_t integer, kava_tensor **out);
/* t itself where it is on `device`, else a copy there, codes with their scales. t is contiguous. No record. */
kava_status kava_tensor_on(kava_tensor *t, kava_device device, kava_tensor **out);
/* A copy of t, which is contiguous, in pinned host memory, that counts as lying on the GPU, whose kernels read it there
 * through the bus: for what is read in small part, or seldom. Codes keep their scales where they are. No record. */
kava_status kava_tensor_offload(kava_tensor *t, kava_tensor **out);
bool kava_tensor_offloaded(const kava_tensor *t);
/* t itself, or of an offloaded one a copy in the GPU's own memory. */
kava_status kava_tensor_near(kava_tensor *t, kava_tensor **out);
kava_status kava_tensor_clear(kava_tensor *t); /* all of a fresh tensor's storage becomes 0 */
/* The elements of t, which is contiguous and of a plain type, into `to` on the host. Waits for the device. */
kava_status kava_tensor_read(const kava_tensor *t, void *to);

/* A copy of t, which is contiguous, on the host; nobody waits: it is good once kava_device_fetched(ticket) says so. Of
 * a tensor on the CPU it is good at once. */
kava_status kava_tensor_fetch(const kava_tensor *t, kava_tensor **out, uint64_t *ticket);

/* A view of `map`ped bytes: retains the map. `data` must lie inside it; alignment is not required to be natural:
 * a plain dtype whose data is misaligned for its element is copied instead. */
kava_status kava_tensor_mapped(kava_dtype dtype, int dims, const int64_t *shape, kava_map *map, const void *data,
                               kava_tensor **out);
/* The bytes of `codes` (u8, i8, i32 or fp8, contiguous) as a matrix [rows, columns] of code type `dtype`, whose values
 * `scales` (retained) gives. KAVA_FORMAT where the bytes are not as many as that takes. */
kava_status kava_tensor_coded(const kava_tensor *codes, kava_dtype dtype, int64_t rows, int64_t columns,
                              kava_scales *scales, kava_tensor **out);
void kava_scales_release(kava_scales **scales);
/* Of a tensor of codes: its scaling, or NULL; and the scaling's row that is the tensor's first. */
static inline const kava_scaling *kava_tensor_scaling(const kava_tensor *t) {
  return t->scales ? &t->scales->scaling : NULL;
}
static inline int64_t kava_tensor_first_row(const kava_tensor *t) {
  return t->scales ? t->offset / t->scales->scaling.columns : 0;
}
/* A new view on the same storage (no gradient record: ops/shape.c makes the recorded ones). */
kava_status kava_tensor_view(const kava_tensor *t, int dims, const int64_t *shape, const int64_t *stride,
                             int64_t offset, kava_tensor **out);
/* Bytes of a storage, from byte `at` on, as elements of a plain type, row by row: they lie inside, at a multiple of an
 * element's size. */
kava_status kava_tensor_in(kava_storage *storage, size_t at, kava_dtype dtype, int dims, const int64_t *shape,
                           kava_tensor **out);
kava_status kava_tensor_detach(const kava_tensor *t, kava_tensor **out); /* same view, no record, requires_grad false */
/* Shape and type alone: no elements, so nothing but the shape may be asked of it. */
kava_status kava_tensor_outline(const kava_tensor *t, kava_tensor **out);
kava_status kava_tensor_empty_like(const kava_tensor *t, kava_dtype dtype,
                                   kava_tensor **out); /* contiguous, same shape, on the same device */
/* KAVA_MISUSE unless there are 0 to KAVA_MAX_DIMS sizes, none negative, whose product (zeros left out, so that strides
 * fit too) is an int64. What makes a view larger than its storage asks; kava_shape_bytes does. */
kava_status kava_shape_check(int dims, const int64_t *shape);
/* Overflow-checked element count and byte size of a shape; KAVA_MISUSE when negative, overflowing or not whole blocks.
 */
kava_status kava_shape_bytes(kava_dtype dtype, int dims, const int64_t *shape, int64_t *numel, size_t *bytes);
void kava_shape_format(int dims, const int64_t *shape, char *buffer, size_t size); /* "[2, 3]" */
bool kava_same_shape(const kava_tensor *a, const kava_tensor *b);
void kava_tensor_touch(kava_tensor *t); /* every in-place writer of what a user can see calls this */
/* Of a mapped tensor that nobody wrote to: gives its pages back to the system until they are touched again. */
void kava_tensor_forget(const kava_tensor *t);
kava_status kava_tensor_bytes_of(const kava_tensor *t, size_t *bytes);

/* What statistics and parameters' gradients beside tensors of this type are in: f64 for f64, else f32. */
static inline kava_dtype kava_dtype_wide(kava_dtype dtype) { return dtype == KAVA_F64 ? KAVA_F64 : KAVA_F32; }
static inline float *kava_f32(const kava_tensor *t) { return (float *)t->storage->data + t->offset; }
static inline double *kava_f64(const kava_tensor *t) { return (double *)t->storage->data + t->offset; }
static inline int64_t *kava_i64(const kava_tensor *t) { return (int64_t *)t->storage->data + t->offset; }
static inline int32_t *kava_i32(const kava_tensor *t) { return (int32_t *)t->storage->data + t->offset; }
#endif
