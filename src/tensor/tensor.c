#include "tensor/tensor.h"
#include "tensor/rows.h"
#include "tape/node.h"
#include <stdio.h>
#include <string.h>

kava_status kava_shape_check(int dims, const int64_t *shape) {
  int64_t count = 1;
  if (dims < 0 || dims > KAVA_MAX_DIMS)
    return kava_fail(KAVA_MISUSE, "a tensor has 0 to %d dimensions, not %d", KAVA_MAX_DIMS, dims);
  for (int i = 0; i < dims; i++) {
    if (shape[i] < 0) return kava_fail(KAVA_MISUSE, "dimension %d is %lld", i + 1, (long long)shape[i]);
    if (shape[i] > 0 && __builtin_mul_overflow(count, shape[i], &count))
      return kava_fail(KAVA_MISUSE, "the shape's size overflows");
  }
  return KAVA_OK;
}

kava_status kava_shape_bytes(kava_dtype dtype, int dims, const int64_t *shape, int64_t *numel, size_t *bytes) {
  int64_t count = 1;
  if ((unsigned)dtype >= KAVA_DTYPES) return kava_fail(KAVA_MISUSE, "%d is no dtype", (int)dtype);
  kava_status st = kava_shape_check(dims, shape);
  if (st != KAVA_OK) return st;
  for (int i = 0; i < dims; i++) count *= shape[i];
  int block = kava_dtype_block(dtype);
  if (block > 1 && (dims == 0 || shape[dims - 1] % block != 0))
    return kava_fail(KAVA_MISUSE, "%s needs an innermost dimension divisible by %d, not %lld", kava_dtype_name(dtype),
                     block, dims ? (long long)shape[dims - 1] : 0LL);
  int64_t size;
  if (__builtin_mul_overflow(count / block, (int64_t)kava_dtype_block_bytes(dtype), &size))
    return kava_fail(KAVA_MISUSE, "the shape's size overflows");
  if (numel) *numel = count;
  if (bytes) *bytes = (size_t)size;
  return KAVA_OK;
}

void kava_shape_format(int dims, const int64_t *shape, char *buffer, size_t size) {
  size_t used = (size_t)snprintf(buffer, size, "[");
  for (int i = 0; i < dims && used < size; i++)
    used += (size_t)snprintf(buffer + used, size - used, i ? ", %lld" : "%lld", (long long)shape[i]);
  if (used < size) snprintf(buffer + used, size - used, "]");
}

static void storage_release(kava_storage *s) {
  if (!s || __atomic_sub_fetch(&s->refs, 1, __ATOMIC_ACQ_REL) > 0) return;
  if (s->block && s->device == KAVA_CPU) {
    bool done;
    kava_device_fetched(s->ticket, true, &done);
    kava_device_host_free(s->block);
  } else if (s->block)
    kava_device_free(s->device, s->block);
  else if (s->map)
    kava_map_release(&s->map);
  else
    kava_free(s->data);
  kava_free(s);
}

static void row_major(int dims, const int64_t *shape, int64_t *stride) {
  int64_t step = 1;
  for (int i = dims - 1; i >= 0; i--) {
    stride[i] = step;
    step *= shape[i] > 0 ? shape[i] : 1;
  }
}

static kava_scales *scales_retain(kava_scales *s) {
  __atomic_fetch_add(&s->refs, 1, __ATOMIC_RELAXED);
  return s;
}

void kava_scales_release(kava_scales **at) {
  kava_scales *s = *at;
  *at = NULL;
  if (!s || __atomic_sub_fetch(&s->refs, 1, __ATOMIC_ACQ_REL) > 0) return;
  for (size_t i = 0; i < sizeof s->held / sizeof *s->held; i++) kava_tensor_release(&s->held[i]);
  kava_free(s);
}

/* Takes over the caller's reference to `storage`, also when it fails. */
static kava_status wrap(kava_storage *storage, kava_dtype dtype, int dims, const int64_t *shape, const int64_t *stride,
                        int64_t offset, kava_tensor **out) {
  kava_tensor *t = kava_calloc(1, sizeof *t);
  if (!t) {
    storage_release(storage);
    return KAVA_MEMORY;
  }
  t->refs = 1;
  t->dtype = dtype;
  t->dims = dims;
  t->storage = storage;
  if (storage) t->device = storage->device;
  t->offset = offset;
  if (dims) memcpy(t->shape, shape, (size_t)dims * sizeof *shape);
  if (stride && dims)
    memcpy(t->stride, stride, (size_t)dims * sizeof *stride);
  else
    row_major(dims, t->shape, t->stride);
  kava_live_add(1);
  *out = t;
  return KAVA_OK;
}

static kava_status make(kava_device device, kava_dtype dtype, int dims, const int64_t *shape, bool zeros,
                        kava_tensor **out) {
  size_t bytes;
  kava_status st = kava_shape_bytes(dtype, dims, shape, NULL, &bytes);
  if (st != KAVA_OK) return st;
  if (dtype >= KAVA_NF4 && dtype != KAVA_FP8)
    return kava_fail(KAVA_MISUSE, "%s: codes alone are no tensor; their scales come with them", kava_dtype_name(dtype));
  kava_storage *s = kava_calloc(1, sizeof *s);
  if (!s) return KAVA_MEMORY;
  s->refs = 1;
  s->device = device;
  s->bytes = bytes;
  if (device == KAVA_CPU) {
    s->data = zeros ? kava_calloc(1, bytes) : kava_alloc(bytes);
    if (!s->data) st = KAVA_MEMORY;
  } else if ((st = kava_device_alloc(device, bytes, &s->block, &s->data)) == KAVA_OK && zeros &&
             (st = kava_device_clear(device, s->data, bytes)) != KAVA_OK) {
    kava_device_free(device, s->block);
  }
  if (st != KAVA_OK) {
    kava_free(s);
    return st;
  }
  return wrap(s, dtype, dims, shape, NULL, 0, out);
}

kava_status kava_tensor_new_on(kava_device device, kava_dtype dtype, int dims, const int64_t *shape,
                               kava_tensor **out) {
  return make(device, dtype, dims, shape, false, out);
}

kava_status kava_tensor_zeros_on(kava_device device, kava_dtype dtype, int dims, const int64_t *shape,
                                 kava_tensor **out) {
  return make(device, dtype, dims, shape, true, out);
}

kava_status kava_tensor_from_on(kava_device device, kava_dtype dtype, int dims, const int64_t *shape, const void *data,
                                kava_tensor **out) {
  kava_tensor *t = NULL;
  kava_status st = kava_tensor_new_on(device, dtype, dims, shape, &t);
  if (st == KAVA_OK) st = kava_device_copy(device, t->storage->data, KAVA_CPU, data, t->storage->bytes);
  if (st == KAVA_OK)
    *out = t;
  else
    kava_tensor_release(&t);
  return st;
}

kava_status kava_tensor_full_on(kava_device device, kava_dtype dtype, int dims, const int64_t *shape, double number,
                                int64_t integer, kava_tensor **out) {
  kava_tensor *t = NULL;
  kava_status st = kava_tensor_new_on(device, dtype, dims, shape, &t);
  if (st != KAVA_OK) return st;
  KAVA_RUN(device, fill, dtype, t->storage->data, kava_tensor_numel(t), number, integer);
  *out = t;
  t = NULL;
out:
  kava_tensor_release(&t);
  return st;
}

kava_status kava_tensor_new(kava_dtype dtype, int dims, const int64_t *shape, kava_tensor **out) {
  return kava_tensor_new_on(KAVA_CPU, dtype, dims, shape, out);
}
kava_status kava_tensor_zeros(kava_dtype dtype, int dims, const int64_t *shape, kava_tensor **out) {
  return kava_tensor_zeros_on(KAVA_CPU, dtype, dims, shape, out);
}
kava_status kava_tensor_from(kava_dtype dtype, int dims, const int64_t *shape, const void *data, kava_tensor **out) {
  return kava_tensor_from_on(KAVA_CPU, dtype, dims, shape, data, out);
}

kava_status kava_tensor_clear(kava_tensor *t) {
  return kava_device_clear(t->device, t->storage->data, t->storage->bytes);
}

/* Scales that lie on `device`, made of those of t, which begins at its codes' first row. */
static kava_status scales_on(const kava_scales *from, kava_device device, kava_scales **out) {
  kava_status st = KAVA_OK;
  kava_scales *s = kava_calloc(1, sizeof *s);
  if (!s) return KAVA_MEMORY;
  s->refs = 1;
  s->scaling = from->scaling;
  for (size_t i = 0; i < sizeof s->held / sizeof *s->held; i++)
    if (from->held[i]) KAVA_TRY(kava_tensor_on(from->held[i], device, &s->held[i]));
  s->scaling.scales = kava_tensor_data(s->held[0]);
  s->scaling.zeros = s->held[1] ? kava_tensor_data(s->held[1]) : NULL;
  s->scaling.group_of = s->held[2] ? kava_i32(s->held[2]) : NULL;
  s->scaling.map = s->held[3] ? kava_f32(s->held[3]) : NULL;
  s->scaling.outer = s->held[4] ? kava_f32(s->held[4]) : NULL;
  *out = s;
  s = NULL;
out:
  kava_scales_release(&s);
  return st;
}

kava_status kava_tensor_on(kava_tensor *t, kava_device device, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_storage *s = NULL;
  kava_scales *scales = NULL;
  size_t bytes;
  int64_t offset = 0;
  if (t->device == device) {
    *out = kava_tensor_retain(t);
    return KAVA_OK;
  }
  const char *from = kava_tensor_data(t);
  KAVA_TRY(kava_tensor_bytes_of(t, &bytes));
  if (t->scales) { /* rows know their scales by their place in the storage: all of it moves */
    from = t->storage->data;
    bytes = t->storage->bytes;
    offset = t->offset;
    KAVA_TRY(scales_on(t->scales, device, &scales));
  }
  if (!(s = kava_calloc(1, sizeof *s))) KAVA_TRY(KAVA_MEMORY);
  s->refs = 1;
  s->device = device;
  s->bytes = bytes;
  if (device == KAVA_CPU) {
    if (!(s->data = kava_alloc(bytes))) KAVA_TRY(KAVA_MEMORY);
  } else
    KAVA_TRY(kava_device_alloc(device, bytes, &s->block, &s->data));
  KAVA_TRY(kava_device_copy(device, s->data, t->device, from, bytes));
  kava_storage *given = s;
  s = NULL;
  KAVA_TRY(wrap(given, t->dtype, t->dims, t->shape, NULL, offset, out));
  (*out)->scales = scales;
  scales = NULL;
out:
  if (s) storage_release(s);
  kava_scales_release(&scales);
  return st;
}

bool kava_tensor_offloaded(const kava_tensor *t) {
  return t->device != KAVA_CPU && t->storage && kava_device_hosted(t->storage->block);
}

/* A copy of t's elements elsewhere on a GPU: in pinned host memory, or in its own. */
static kava_status moved(kava_tensor *t, bool host, kava_tensor **out) {
  kava_status st = KAVA_OK;
  size_t bytes;
  const char *from = kava_tensor_data(t);
  kava_storage *s = NULL;
  KAVA_TRY(kava_tensor_bytes_of(t, &bytes));
  if (t->scales) { /* rows know their scales by their place in the storage */
    from = t->storage->data;
    bytes = t->storage->bytes;
  }
  if (!(s = kava_calloc(1, sizeof *s))) KAVA_TRY(KAVA_MEMORY);
  *s = (kava_storage){.refs = 1, .device = KAVA_CUDA, .bytes = bytes};
  if (host) {
    KAVA_TRY(kava_device_host_alloc(bytes, &s->block, &s->data));
    KAVA_TRY(kava_device_copy(KAVA_CPU, s->data, t->device, from, bytes)); /* waits */
  } else {
    KAVA_TRY(kava_device_alloc(KAVA_CUDA, bytes, &s->block, &s->data));
    KAVA_TRY(kava_device_copy(KAVA_CUDA, s->data, t->device, from, bytes));
  }
  kava_storage *given = s;
  s = NULL;
  KAVA_TRY(wrap(given, t->dtype, t->dims, t->shape, NULL, t->scales ? t->offset : 0, out));
  if (t->scales) (*out)->scales = scales_retain(t->scales);
out:
  if (s) storage_release(s);
  return st;
}

kava_status kava_tensor_offload(kava_tensor *t, kava_tensor **out) {
  if (t->device == KAVA_CPU && t->scales)
    return kava_fail(KAVA_MISUSE, "offload: codes are offloaded from a GPU, where their scales lie");
  return moved(t, true, out);
}

kava_status kava_tensor_near(kava_tensor *t, kava_tensor **out) {
  if (kava_tensor_offloaded(t)) return moved(t, false, out);
  *out = kava_tensor_retain(t);
  return KAVA_OK;
}

kava_status kava_tensor_read(const kava_tensor *t, void *to) {
  size_t bytes;
  kava_status st = kava_tensor_bytes_of(t, &bytes);
  return st == KAVA_OK ? kava_device_copy(KAVA_CPU, to, t->device, kava_tensor_data(t), bytes) : st;
}

kava_status kava_tensor_mapped(kava_dtype dtype, int dims, const int64_t *shape, kava_map *map, const void *data,
                               kava_tensor **out) {
  size_t bytes;
  kava_status st = kava_shape_bytes(dtype, dims, shape, NULL, &bytes);
  if (st != KAVA_OK) return st;
  if (kava_dtype_block(dtype) == 1 && (uintptr_t)data % (uintptr_t)kava_dtype_block_bytes(dtype) != 0)
    return kava_tensor_from(dtype, dims, shape, data, out);
  kava_storage *s = kava_calloc(1, sizeof *s);
  if (!s) return KAVA_MEMORY;
  s->refs = 1;
  s->bytes = bytes;
  s->data = (void *)(uintptr_t)data;
  s->map = map;
  kava_map_retain(map);
  return wrap(s, dtype, dims, shape, NULL, 0, out);
}

kava_status kava_tensor_view(const kava_tensor *t, int dims, const int64_t *shape, const int64_t *stride,
                             int64_t offset, kava_tensor **out) {
  __atomic_fetch_add(&t->storage->refs, 1, __ATOMIC_RELAXED);
  kava_status st = wrap(t->storage, t->dtype, dims, shape, stride, offset, out);
  if (st == KAVA_OK && t->scales) (*out)->scales = scales_retain(t->scales);
  return st;
}

kava_status kava_tensor_coded(const kava_tensor *codes, kava_dtype dtype, int64_t rows, int64_t columns,
                              kava_scales *scales, kava_tensor **out) {
  size_t bytes, given;
  int64_t shape[2] = {rows, columns};
  if (columns % kava_dtype_block(dtype) != 0)
    return kava_fail(KAVA_UNSUPPORTED, "codes: rows of %lld elements are not whole bytes of %s", (long long)columns,
                     kava_dtype_name(dtype));
  kava_status st = kava_shape_bytes(dtype, 2, shape, NULL, &bytes);
  if (st == KAVA_OK) st = kava_tensor_bytes_of(codes, &given);
  if (st != KAVA_OK) return st;
  if (bytes != given || !kava_tensor_is_contiguous(codes) || codes->offset != 0)
    return kava_fail(KAVA_FORMAT, "codes: %zu bytes of a whole tensor expected for %lld x %lld of %s, got %zu", bytes,
                     (long long)rows, (long long)columns, kava_dtype_name(dtype), given);
  __atomic_fetch_add(&codes->storage->refs, 1, __ATOMIC_RELAXED);
  st = wrap(codes->storage, dtype, 2, shape, NULL, 0, out);
  if (st == KAVA_OK && scales) (*out)->scales = scales_retain(scales);
  return st;
}

kava_status kava_tensor_fetch(const kava_tensor *t, kava_tensor **out, uint64_t *ticket) {
  if (t->device == KAVA_CPU)
    return kava_tensor_from_on(KAVA_CPU, t->dtype, t->dims, t->shape, kava_tensor_data(t), out);
  size_t bytes;
  kava_status st = kava_shape_bytes(t->dtype, t->dims, t->shape, NULL, &bytes);
  if (st != KAVA_OK) return st;
  kava_storage *s = kava_calloc(1, sizeof *s);
  if (!s) return KAVA_MEMORY;
  *s = (kava_storage){.refs = 1, .device = KAVA_CPU, .bytes = bytes};
  st = kava_device_host_alloc(bytes, &s->block, &s->data);
  if (st == KAVA_OK) st = kava_device_fetch(s->data, kava_tensor_data(t), bytes, &s->ticket);
  if (st != KAVA_OK) {
    if (s->block) kava_device_host_free(s->block);
    kava_free(s);
    return st;
  }
  *ticket = s->ticket;
  return wrap(s, t->dtype, t->dims, t->shape, NULL, 0, out);
}

kava_status kava_tensor_in(kava_storage *storage, size_t at, kava_dtype dtype, int dims, const int64_t *shape,
                           kava_tensor **out) {
  __atomic_fetch_add(&storage->refs, 1, __ATOMIC_RELAXED);
  return wrap(storage, dtype, dims, shape, NULL, (int64_t)(at / (size_t)kava_dtype_block_bytes(dtype)), out);
}

kava_status kava_tensor_detach(const kava_tensor *t, kava_tensor **out) {
  return kava_tensor_view(t, t->dims, t->shape, t->stride, t->offset, out);
}

kava_status kava_tensor_outline(const kava_tensor *t, kava_tensor **out) {
  kava_status st = wrap(NULL, t->dtype, t->dims, t->shape, NULL, 0, out);
  if (st == KAVA_OK) (*out)->device = t->device;
  return st;
}

kava_status kava_tensor_empty_like(const kava_tensor *t, kava_dtype dtype, kava_tensor **out) {
  return kava_tensor_new_on(t->device, dtype, t->dims, t->shape, out);
}

kava_tensor *kava_tensor_retain(kava_tensor *t) {
  if (t) __atomic_fetch_add(&t->refs, 1, __ATOMIC_RELAXED);
  return t;
}

void kava_tensor_release(kava_tensor **at) {
  kava_tensor *t = *at;
  *at = NULL;
  if (!t || __atomic_sub_fetch(&t->refs, 1, __ATOMIC_ACQ_REL) > 0) return;
  kava_tensor_release(&t->grad);
  kava_rows_release(&t->grad_rows);
  kava_node_release(&t->node);
  kava_scales_release(&t->scales);
  storage_release(t->storage);
  kava_free(t);
  kava_live_add(-1);
}

kava_dtype kava_tensor_dtype(const kava_tensor *t) { return t->dtype; }
int kava_tensor_dims(const kava_tensor *t) { return t->dims; }
int64_t kava_tensor_size(const kava_tensor *t, int dim) { return dim >= 0 && dim < t->dims ? t->shape[dim] : 0; }
int64_t kava_tensor_numel(const kava_tensor *t) {
  int64_t count = 1;
  for (int i = 0; i < t->dims; i++) count *= t->shape[i];
  return count;
}
void *kava_tensor_data(const kava_tensor *t) {
  return (char *)t->storage->data + t->offset / kava_dtype_block(t->dtype) * kava_dtype_block_bytes(t->dtype);
}

bool kava_tensor_is_contiguous(const kava_tensor *t) {
  if (kava_dtype_is_quantised(t->dtype)) return true;
  int64_t step = 1;
  for (int i = t->dims - 1; i >= 0; i--) {
    if (t->shape[i] == 0) return true;
    if (t->shape[i] != 1 && t->stride[i] != step) return false;
    step *= t->shape[i];
  }
  return true;
}

bool kava_same_shape(const kava_tensor *a, const kava_tensor *b) {
  return a->dims == b->dims && memcmp(a->shape, b->shape, (size_t)a->dims * sizeof a->shape[0]) == 0;
}

void kava_tensor_touch(kava_tensor *t) { t->storage->version++; }

void kava_tensor_forget(const kava_tensor *t) {
  const kava_storage *s = t->storage;
  if (s->map && s->version == 0) kava_map_forget(s->map, s->data, s->bytes);
}

kava_status kava_tensor_bytes_of(const kava_tensor *t, size_t *bytes) {
  return kava_shape_bytes(t->dtype, t->dims, t->shape, NULL, bytes);
}
