#include "tape/tape.h"
#include "base/memory.h"
#include "kernels/kernels.h"
#include "tensor/rows.h"
#include "tensor/profile.h"
#include <stdlib.h>
#include <string.h>

static struct {
  uint64_t seq;
  kava_node *newest;
  int quiet;
  bool not_training;
  kava_dtype parameters; /* what the gradients of theirs are kept in on a GPU */
} tape = {.parameters = KAVA_F32};

static void drop_contents(kava_node *n) {
  /* Iterative releases: a chain of thousands of records must not recurse as deep as it is long. */
  static kava_tensor **pending;
  static int count, room;
  static bool draining;
  kava_tensor **inputs = n->inputs;
  for (int i = 0; i < n->input_count; i++) {
    if (!inputs[i]) continue;
    if (inputs[i]->node && count == room) {
      int more = room ? room * 2 : 256;
      kava_tensor **grown = realloc(pending, (size_t)more * sizeof *grown);
      if (grown) {
        pending = grown;
        room = more;
      }
    }
    if (inputs[i]->node && count < room) {
      pending[count++] = inputs[i];
      inputs[i] = NULL;
    } else
      kava_tensor_release(&inputs[i]);
  }
  if (inputs != n->inline_inputs) kava_free(inputs);
  n->inputs = n->inline_inputs;
  n->input_count = 0;
  for (int i = 0; i < KAVA_NODE_SAVED; i++) kava_tensor_release(&n->saved[i]);
  kava_tensor_release(&n->grad);
  kava_tensor_release(&n->remade);
  if (n->context) n->forget(n->context);
  n->context = NULL;
  n->backward = NULL;
  n->again = NULL;
  n->back_again = NULL;
  if (draining) return;
  draining = true;
  while (count > 0) {
    kava_tensor *t = pending[--count];
    kava_tensor_release(&t);
  }
  free(pending);
  pending = NULL;
  room = 0;
  draining = false;
}

static void unlink_node(kava_node *n) {
  if (!n->listed) return;
  n->listed = false;
  if (n->newer)
    n->newer->older = n->older;
  else
    tape.newest = n->older;
  if (n->older) n->older->newer = n->newer;
}

void kava_node_release(kava_node **at) {
  kava_node *n = *at;
  *at = NULL;
  if (!n || --n->refs > 0) return;
  unlink_node(n);
  drop_contents(n);
  kava_free(n);
}

bool kava_needs_grad(const kava_tensor *t) { return t && (t->requires_grad || t->node); }

bool kava_recording(void) { return tape.quiet == 0; }

bool kava_tape_wanted(kava_tensor *const *inputs, int count) {
  if (tape.quiet > 0) return false;
  for (int i = 0; i < count; i++)
    if (kava_needs_grad(inputs[i])) return true;
  return false;
}

kava_status kava_tape_record(const char *op, kava_backward_fn backward, int count, kava_tensor *const *inputs,
                             kava_tensor *y, kava_node **out) {
  kava_node *n = kava_calloc(1, sizeof *n);
  if (!n) return KAVA_MEMORY;
  n->refs = 1;
  n->op = op;
  n->backward = backward;
  n->inputs = n->inline_inputs;
  if (count > KAVA_NODE_INPUTS) {
    n->inputs = kava_calloc((size_t)count, sizeof *n->inputs);
    if (!n->inputs) {
      kava_free(n);
      return KAVA_MEMORY;
    }
  }
  n->input_count = count;
  for (int i = 0; i < count; i++) {
    kava_tensor *x = inputs[i];
    if (!x || !x->node) {
      n->inputs[i] = kava_tensor_retain(x);
      continue;
    }
    kava_status st = kava_tensor_outline(x, &n->inputs[i]);
    if (st != KAVA_OK) {
      kava_node_release(&n);
      return st;
    }
    n->inputs[i]->node = x->node;
    x->node->refs++;
  }
  n->seq = ++tape.seq;
  n->listed = true;
  n->older = tape.newest;
  if (tape.newest) tape.newest->newer = n;
  tape.newest = n;
  kava_node_release(&y->node);
  y->node = n;
  *out = n;
  return KAVA_OK;
}

kava_status kava_tape_save(kava_node *node, int slot, kava_tensor *t) {
  if (!t) return KAVA_OK;
  node->versions[slot] = t->storage->version;
  return kava_tensor_detach(t, &node->saved[slot]);
}

kava_status kava_tape_keep(kava_node *node, int slot, int index, kava_tensor *t) {
  const kava_node *from = t->node;
  return from && from == node->inputs[index]->node && from->again ? KAVA_OK : kava_tape_save(node, slot, t);
}

kava_node *kava_tape_alone(const kava_node *node, int slot, int index) {
  kava_node *from = node->saved[slot] ? NULL : node->inputs[index]->node;
  return from && from->mark && from->refs == 2 && !from->grad && !from->remade ? from : NULL;
}

void kava_tape_passed(kava_node *from, kava_tensor *remade) {
  from->remade = remade;
  from->backward = NULL; /* the walk passes over it */
}

kava_status kava_tape_kept(kava_node *node, int slot, int index, kava_tensor **out) {
  kava_status st = KAVA_OK;
  *out = node->saved[slot];
  if (*out) return KAVA_OK;
  kava_node *from = node->inputs[index]->node;
  if (!from->remade) {
    /* referred to by this record and by the walk alone: its gradient is whole */
    bool whole = from->grad && from->mark && from->refs == 2;
    tape.quiet++;
    if (whole && from->back_again) {
      st = from->back_again(from, from->grad, &from->remade);
      kava_tape_passed(from, from->remade);
    } else
      st = from->again(from, &from->remade);
    tape.quiet--;
  }
  *out = from->remade;
  return st;
}

kava_tensor *kava_tape_take(kava_node *node, int slot, int index) {
  kava_node *from = node->saved[slot] ? NULL : node->inputs[index]->node;
  if (!from || from->refs - from->mark > 1) return NULL; /* the walk has a reference, too */
  kava_tensor *t = from->remade;
  from->remade = NULL;
  return t;
}

kava_dtype kava_grad_dtype(const kava_tensor *t) {
  if (t->dtype == KAVA_F64) return KAVA_F64;
  if (t->device == KAVA_CPU) return KAVA_F32;
  bool half = t->dtype == KAVA_F16 || t->dtype == KAVA_BF16;
  if (t->node) return half ? t->dtype : KAVA_F32;
  if (t->grad) return t->grad->dtype;
  if (t->grad_rows) return t->grad_rows->values->dtype;
  return t->dims >= 2 ? tape.parameters : KAVA_F32;
}

kava_status kava_set_parameter_grads(kava_dtype dtype) {
  if (dtype != KAVA_F32 && dtype != KAVA_BF16)
    return kava_fail(KAVA_MISUSE, "gradient_dtype: %s; f32 or bf16 expected", kava_dtype_name(dtype));
  tape.parameters = dtype;
  return KAVA_OK;
}
kava_dtype kava_parameter_grads(void) { return tape.parameters; }

/* Gradients that a kernel writes in another type than they are kept in: converted and added when the record's backward
 * function is done. The record holds the inputs. */
static struct {
  struct later {
    kava_tensor *input, *grad;
  } * at;
  size_t count, room;
} apart;

static kava_status grad_apart(kava_tensor *input, kava_dtype dtype, kava_tensor **out) {
  kava_tensor *grad = NULL;
  if (apart.count == apart.room) {
    size_t room = apart.room ? apart.room * 2 : 16;
    struct later *grown = realloc(apart.at, room * sizeof *grown); /* outlives every run, as the tape does */
    if (!grown) return kava_fail(KAVA_MEMORY, "out of memory");
    apart.at = grown;
    apart.room = room;
  }
  kava_status st = kava_tensor_empty_like(input, dtype, &grad);
  if (st != KAVA_OK) return st;
  apart.at[apart.count++] = (struct later){input, grad};
  *out = grad;
  return KAVA_OK;
}

static kava_status give_apart(kava_tensor *input, const kava_tensor *from) {
  kava_status st = KAVA_OK;
  kava_tensor *to = NULL;
  KAVA_TRY(kava_tensor_empty_like(input, kava_grad_dtype(input), &to));
  KAVA_RUN(input->device, convert, from->dtype, kava_tensor_data(from), to->dtype, kava_tensor_data(to),
           kava_tensor_numel(to));
  KAVA_TRY(kava_grad_add(input, to));
out:
  kava_tensor_release(&to);
  return st;
}

static kava_status gather_apart(kava_status st) {
  for (size_t i = 0; i < apart.count; i++) {
    if (st == KAVA_OK) st = give_apart(apart.at[i].input, apart.at[i].grad);
    kava_tensor_release(&apart.at[i].grad);
  }
  apart.count = 0;
  return st;
}

static kava_status grad_slot(kava_tensor *input, kava_tensor **out, bool *accumulate);

/* to = from, of one shape and type, whatever their strides; from NULL: 0 */
static kava_status copy_strided(const kava_tensor *to, const kava_tensor *from) {
  kava_status st = KAVA_OK;
  kava_tensor *zero = NULL;
  kava_strided a = {.dims = to->dims, .out = kava_tensor_data(to)};
  for (int d = 0; d < to->dims; d++) {
    a.shape[d] = to->shape[d];
    a.out_stride[d] = to->stride[d];
    a.in_stride[0][d] = from ? from->stride[d] : 0;
  }
  if (!from) KAVA_TRY(kava_tensor_zeros_on(to->device, to->dtype, 0, NULL, &zero));
  a.in[0] = kava_tensor_data(from ? from : zero);
  KAVA_RUN(to->device, copy, to->dtype, to->dtype, &a);
out:
  kava_tensor_release(&zero);
  return st;
}

/* The type of what an op made, or of its input: differs from kava_grad_dtype on a GPU alone. */
static kava_status grad_as(kava_tensor *input, kava_dtype dtype, kava_tensor **out, bool *accumulate) {
  *out = NULL;
  if (!kava_needs_grad(input)) return KAVA_OK;
  if (input->device == KAVA_CPU || dtype == kava_grad_dtype(input)) return grad_slot(input, out, accumulate);
  *accumulate = false;
  return grad_apart(input, dtype, out);
}

kava_status kava_grad_into(kava_tensor *input, kava_tensor **out, bool *accumulate) {
  return grad_as(input, input ? input->dtype : KAVA_F32, out, accumulate);
}

/* Nobody else shows the elements of the output's gradient, and the input's is of its kind and not begun. */
kava_status kava_grad_into_same(kava_node *node, int index, kava_tensor **out, bool *accumulate) {
  kava_tensor *input = node->inputs[index], *grad = node->grad;
  kava_node *from = input ? input->node : NULL;
  if (!from || from->grad || grad->dtype != kava_grad_dtype(input) || !kava_same_shape(grad, input) ||
      !kava_tensor_is_contiguous(grad) || __atomic_load_n(&grad->refs, __ATOMIC_RELAXED) > 1 ||
      __atomic_load_n(&grad->storage->refs, __ATOMIC_RELAXED) > 1)
    return kava_grad_into(input, out, accumulate);
  *accumulate = false;
  *out = from->grad = kava_tensor_retain(grad);
  return KAVA_OK;
}

kava_status kava_grad_into_wide(kava_tensor *input, kava_tensor **out, bool *accumulate) {
  return grad_as(input, input ? kava_dtype_wide(input->dtype) : KAVA_F32, out, accumulate);
}

kava_status kava_grad_into_half(kava_tensor *input, kava_dtype half, kava_tensor **out, bool *accumulate) {
  bool kept = input && input->device != KAVA_CPU && kava_grad_dtype(input) == half;
  return kept ? grad_as(input, half, out, accumulate) : kava_grad_into_wide(input, out, accumulate);
}

static kava_status grad_slot(kava_tensor *input, kava_tensor **out, bool *accumulate) {
  kava_tensor **slot = input->node ? &input->node->grad : &input->grad;
  if (input->grad_rows) {
    kava_status st = kava_rows_spread(input);
    if (st != KAVA_OK) return st;
  }
  *accumulate = *slot != NULL;
  if (!*slot) {
    kava_status st = kava_tensor_empty_like(input, kava_grad_dtype(input), slot);
    if (st != KAVA_OK) return st;
  } else if (__atomic_load_n(&(*slot)->refs, __ATOMIC_RELAXED) > 1 ||
             __atomic_load_n(&(*slot)->storage->refs, __ATOMIC_RELAXED) > 1 || !kava_tensor_is_contiguous(*slot)) {
    /* kava_grad_add kept somebody's tensor without a copy: it must not be written through; or these are columns */
    kava_tensor *own = NULL;
    kava_status st = kava_tensor_empty_like(input, kava_grad_dtype(input), &own);
    if (st != KAVA_OK) return st;
    st = copy_strided(own, *slot);
    if (st != KAVA_OK) {
      kava_tensor_release(&own);
      return st;
    }
    kava_tensor_release(slot);
    *slot = own;
  }
  *out = *slot;
  return KAVA_OK;
}

kava_status kava_grad_into_zeroed(kava_tensor *input, kava_tensor **out) {
  bool accumulate;
  kava_status st = kava_grad_into_wide(input, out, &accumulate);
  return st == KAVA_OK && *out && !accumulate ? kava_tensor_clear(*out) : st;
}

kava_status kava_grad_add(kava_tensor *input, kava_tensor *grad) {
  if (!kava_needs_grad(input)) return KAVA_OK;
  if (input->device != KAVA_CPU && kava_same_shape(input, grad) && grad->dtype != kava_grad_dtype(input))
    return give_apart(input, grad);
  if (!kava_same_shape(input, grad) || grad->dtype != kava_grad_dtype(input) || grad->device != input->device)
    return kava_fail(KAVA_MISUSE, "internal: a gradient's shape, dtype or device differs from its tensor's");
  kava_tensor **slot = input->node ? &input->node->grad : &input->grad;
  /* Kept without a copy; a leaf's only where no other tensor shows that storage: two leaves that shared theirs would be
   * clipped twice. A record's may be shared, since it is only read from then on (kava_grad_into). */
  bool own = input->node || __atomic_load_n(&grad->storage->refs, __ATOMIC_RELAXED) == 1;
  if (!*slot && !input->grad_rows && own && kava_tensor_is_contiguous(grad)) return kava_tensor_detach(grad, slot);
  kava_tensor *into;
  bool accumulate;
  kava_status st = KAVA_OK;
  KAVA_TRY(grad_slot(input, &into, &accumulate));
  if (accumulate)
    KAVA_RUN(into->device, accumulate, into->dtype, kava_tensor_data(grad), kava_tensor_data(into),
             kava_tensor_numel(into));
  else
    st =
        kava_device_copy(into->device, into->storage->data, grad->device, kava_tensor_data(grad), into->storage->bytes);
out:
  return st;
}

static int newest_first(const void *a, const void *b) {
  const kava_node *x = *(kava_node *const *)a, *y = *(kava_node *const *)b;
  return x->seq < y->seq ? 1 : x->seq > y->seq ? -1 : 0;
}

typedef struct node_list {
  kava_node **at;
  size_t count, room;
} node_list;

/* marks n: what walk unmarks is what is in the list */
static kava_status push(node_list *list, kava_node *n) {
  if (list->count == list->room) {
    size_t room = list->room ? list->room * 2 : 512;
    kava_node **grown = kava_realloc(list->at, room * sizeof *grown);
    if (!grown) return KAVA_MEMORY;
    list->at = grown;
    list->room = room;
  }
  n->mark = 1;
  list->at[list->count++] = n;
  return KAVA_OK;
}

/* ---- parts ---- */

/* part [.., width] or [.., heads, width / heads] of the rows of `whole`, from column `first` on */
static kava_status columns(const kava_tensor *whole, int64_t first, kava_part part, kava_tensor **out) {
  int64_t shape[KAVA_MAX_DIMS], stride[KAVA_MAX_DIMS];
  int dims = whole->dims;
  memcpy(shape, whole->shape, sizeof shape);
  memcpy(stride, whole->stride, sizeof stride);
  shape[dims - 1] = part.width;
  if (part.heads) {
    shape[dims - 1] = part.heads;
    shape[dims] = stride[dims - 1] = part.width / part.heads;
    stride[dims++] = 1;
  }
  return kava_tensor_view(whole, dims, shape, stride, whole->offset + first, out);
}

/* A part's record: its input is y. integers: its number, its first column, width, heads. */
static kava_status grad_columns(const kava_node *part, kava_tensor **out) {
  kava_tensor *y = part->inputs[0];
  kava_node *whole = y->node;
  if (!whole->grad) {
    kava_status st = kava_tensor_empty_like(y, kava_grad_dtype(y), &whole->grad);
    if (st != KAVA_OK) return st;
    whole->written = 0;
  }
  whole->written |= 1u << part->integers[0];
  return columns(whole->grad, part->integers[1], (kava_part){part->integers[2], part->integers[3]}, out);
}

static bool lies_in_place(const kava_node *part) {
  const kava_node *whole = part->inputs[0]->node;
  return part->grad && whole->grad && part->grad->storage == whole->grad->storage;
}

static kava_status part_backward(kava_node *node, const kava_tensor *grad) {
  kava_tensor *to = NULL;
  if (lies_in_place(node)) return KAVA_OK;
  kava_status st = grad_columns(node, &to);
  if (st == KAVA_OK) st = copy_strided(to, grad);
  kava_tensor_release(&to);
  return st;
}

kava_status kava_tape_parts(kava_tensor *y, int count, const kava_part *parts, kava_tensor **outs) {
  kava_status st = KAVA_OK;
  kava_node *node;
  int64_t first = 0;
  int made = 0;
  while (made < count) {
    KAVA_TRY(columns(y, first, parts[made], &outs[made]));
    made++;
    if (y->node) {
      KAVA_TRY(kava_tape_record("part", part_backward, 1, &y, outs[made - 1], &node));
      node->integers[0] = made - 1;
      node->integers[1] = first;
      node->integers[2] = parts[made - 1].width;
      node->integers[3] = parts[made - 1].heads;
      node->rows = true;
    }
    first += parts[made - 1].width;
  }
  return KAVA_OK;
out:
  while (made > 0) kava_tensor_release(&outs[--made]);
  return st;
}

kava_status kava_tape_parts_done(kava_node *node, int count, const kava_part *parts) {
  kava_status st = KAVA_OK;
  int64_t first = 0;
  for (int i = 0; i < count && st == KAVA_OK; i++) {
    kava_tensor *to = NULL;
    if (!(node->written >> i & 1)) {
      st = columns(node->grad, first, parts[i], &to);
      if (st == KAVA_OK) st = copy_strided(to, NULL);
      kava_tensor_release(&to);
    }
    first += parts[i].width;
  }
  return st;
}

kava_status kava_grad_into_rows(kava_tensor *input, kava_tensor **out, bool *accumulate) {
  kava_status st = KAVA_OK;
  kava_node *node = input ? input->node : NULL;
  bool rows = node && node->rows && input->device != KAVA_CPU && kava_grad_dtype(input) == input->dtype;
  if (!rows) return kava_grad_into(input, out, accumulate);
  *accumulate = node->grad != NULL;
  if (node->backward == part_backward && !lies_in_place(node)) { /* to where the part's columns are wanted */
    kava_tensor *to = NULL;
    KAVA_TRY(grad_columns(node, &to));
    if (node->grad) st = copy_strided(to, node->grad);
    kava_tensor_release(&node->grad);
    node->grad = to;
  } else if (!node->grad || kava_tensor_is_contiguous(node->grad))
    return kava_grad_into(input, out, accumulate);
  *out = node->grad;
out:
  return st;
}

kava_status kava_grad_keep_rows(kava_tensor *input, const kava_tensor *rows, bool *kept) {
  kava_node *node = input->node;
  *kept = node && node->rows && !node->grad && input->device != KAVA_CPU && rows->dtype == kava_grad_dtype(input);
  return *kept ? kava_tensor_detach(rows, &node->grad) : KAVA_OK;
}

static bool seen_by(const kava_tensor *t, int count) {
  return __atomic_load_n(&t->refs, __ATOMIC_RELAXED) == 1 &&
         __atomic_load_n(&t->storage->refs, __ATOMIC_RELAXED) == count;
}

kava_status kava_grad_place(const kava_tensor *grad, kava_tensor **out) {
  return seen_by(grad, 1) ? kava_tensor_detach(grad, out) : kava_tensor_empty_like(grad, grad->dtype, out);
}

/* Of saved [0, count) those in the first one's storage: as many as see it. */
static bool seen_by_these(const kava_node *node, int count) {
  for (int i = 0; i < count; i++) {
    int here = 0;
    for (int j = 0; j < count; j++) here += node->saved[j]->storage == node->saved[i]->storage;
    if (!seen_by(node->saved[i], here)) return false;
  }
  return true;
}

/* Whether a gradient of `input`, of which `saved` holds the elements, may lie where those do: in rows of a whole that
 * has no gradient yet, or as they are. */
static bool has_place(const kava_tensor *input, const kava_tensor *saved) {
  const kava_node *node = input->node;
  if (!node || node->grad || saved->dtype != kava_grad_dtype(input) || !kava_same_shape(input, saved)) return false;
  if (node->backward != part_backward) return kava_tensor_is_contiguous(saved);
  const kava_tensor *y = node->inputs[0];
  int64_t row = 1;
  for (int d = y->dims - 1; d >= 0; row *= y->shape[d--])
    if (saved->dims != y->dims || saved->stride[d] != row) return false;
  return input->device != KAVA_CPU && !y->node->grad && saved->offset == node->integers[1] &&
         saved->storage->bytes == (size_t)row * (size_t)kava_dtype_block_bytes(saved->dtype);
}

kava_status kava_grad_in_place(kava_node *node, int count, kava_tensor **outs) {
  kava_status st = KAVA_OK;
  outs[0] = NULL;
  if (!seen_by_these(node, count)) return KAVA_OK;
  for (int i = 0; i < count; i++)
    if (!has_place(node->inputs[i], node->saved[i])) return KAVA_OK;
  for (int i = 0; i < count; i++) {
    kava_node *from = node->inputs[i]->node;
    const kava_tensor *saved = node->saved[i], *y = from->inputs[0];
    if (from->backward != part_backward)
      KAVA_TRY(kava_tensor_detach(saved, &from->grad));
    else {
      if (!y->node->grad) {
        y->node->written = 0;
        KAVA_TRY(kava_tensor_view(saved, y->dims, y->shape, saved->stride, 0, &y->node->grad));
      }
      KAVA_TRY(grad_columns(from, &from->grad));
    }
    outs[i] = from->grad;
  }
out:
  if (st != KAVA_OK) outs[0] = NULL;
  return st;
}

/* Whether the leaves' gradients lie behind one another in a storage that shows nothing else. */
static bool are_joined(int count, kava_tensor *const *leaves) {
  const kava_tensor *first = leaves[0]->grad;
  int64_t at = first->offset;
  for (int i = 0; i < count; i++) {
    const kava_tensor *g = leaves[i]->grad;
    if (g->storage != first->storage || g->dtype != first->dtype || g->offset != at || !kava_tensor_is_contiguous(g) ||
        __atomic_load_n(&g->refs, __ATOMIC_RELAXED) > 1)
      return false;
    at += kava_tensor_numel(g);
  }
  return __atomic_load_n(&first->storage->refs, __ATOMIC_RELAXED) == count;
}

kava_status kava_grad_into_joined(int count, kava_tensor *const *leaves, kava_dtype half, bool *there,
                                  kava_tensor **first, bool *accumulate) {
  kava_status st = KAVA_OK;
  kava_tensor *whole = NULL;
  int needed = 0, had = 0;
  int64_t total = 0;
  kava_dtype dtype = kava_grad_dtype(leaves[0]);
  bool plain = dtype == half || dtype == kava_dtype_wide(half);
  for (int i = 0; i < count; i++) {
    needed += kava_needs_grad(leaves[i]);
    had += leaves[i]->grad != NULL;
    total += kava_tensor_numel(leaves[i]);
    plain = plain && !leaves[i]->node && kava_grad_dtype(leaves[i]) == dtype;
  }
  *first = NULL;
  *accumulate = had > 0;
  *there = needed == 0 || (needed == count && plain && (had == 0 || (had == count && are_joined(count, leaves))));
  if (needed == 0 || !*there) return KAVA_OK;
  if (had == 0) {
    KAVA_TRY(kava_tensor_new_on(leaves[0]->device, dtype, 1, &total, &whole));
    total = 0;
    for (int i = 0; i < count; i++) {
      int64_t stride[KAVA_MAX_DIMS], step = 1;
      for (int d = leaves[i]->dims - 1; d >= 0; step *= leaves[i]->shape[d--]) stride[d] = step;
      KAVA_TRY(kava_tensor_view(whole, leaves[i]->dims, leaves[i]->shape, stride, total, &leaves[i]->grad));
      total += step;
    }
  }
  *first = leaves[0]->grad;
out:
  kava_tensor_release(&whole);
  if (st != KAVA_OK && had == 0)
    for (int i = 0; i < count; i++) kava_tensor_release(&leaves[i]->grad);
  return st;
}

/* Back from `root`, whose output has the gradient `grad`, over the records made after `after`. */
static kava_status walk(kava_node *root, const kava_tensor *grad, uint64_t after) {
  kava_status st = KAVA_OK;
  node_list list = {0};
  bool held = false;
  KAVA_TRY(push(&list, root));
  for (size_t i = 0; i < list.count; i++) {
    kava_node *n = list.at[i];
    if (!n->backward)
      KAVA_FAIL(KAVA_MISUSE, "backward(): a part of the graph (%s) was already consumed by an earlier backward()",
                n->op);
    for (int j = 0; j < KAVA_NODE_SAVED; j++)
      if (n->saved[j] && n->saved[j]->storage->version != n->versions[j])
        KAVA_FAIL(KAVA_MISUSE, "backward(): a tensor that %s needs was written to after the forward pass", n->op);
    for (int j = 0; j < n->input_count; j++) {
      kava_node *from = n->inputs[j] ? n->inputs[j]->node : NULL;
      if (!from || from->mark || from->seq <= after) continue;
      KAVA_TRY(push(&list, from));
    }
  }
  qsort(list.at, list.count, sizeof *list.at, newest_first);
  for (size_t i = 0; i < list.count; i++) list.at[i]->refs++; /* alive until the walk is over */
  held = true;
  KAVA_TRY(kava_tensor_detach(grad, &root->grad));
  for (size_t i = 0; i < list.count; i++) {
    kava_node *n = list.at[i];
    kava_tensor_release(&n->remade); /* all that read it have run */
    if (n->grad && n->backward && st == KAVA_OK) st = gather_apart(n->backward(n, n->grad));
    drop_contents(n); /* what the backward pass of this op needed is free for the next one */
  }
out:
  for (size_t i = 0; i < list.count; i++) {
    list.at[i]->mark = 0;
    if (held) kava_node_release(&list.at[i]);
  }
  kava_free(list.at);
  return st;
}

kava_status kava_backward(kava_tensor *loss, double seed) {
  kava_status st = KAVA_OK;
  kava_tensor *grad = NULL;
  if (kava_tensor_numel(loss) != 1) {
    char shape[96];
    kava_shape_format(loss->dims, loss->shape, shape, sizeof shape);
    return kava_fail(KAVA_MISUSE, "backward() needs a tensor of one element, not %s", shape);
  }
  if (!loss->node)
    return kava_fail(KAVA_MISUSE,
                     "backward(): nothing was recorded for this tensor (no input requires a gradient, it was "
                     "made under no_grad, or its scope is closed)");
  if (!loss->node->backward)
    return kava_fail(KAVA_MISUSE, "backward(): its records were already consumed by an earlier backward()");
  int range = kava_range_begin("backward");
  KAVA_TRY(kava_tensor_full_on(loss->device, kava_grad_dtype(loss), loss->dims, loss->shape, seed, 0, &grad));
  st = walk(loss->node, grad, 0);
out:
  kava_range_end(range);
  kava_tensor_release(&grad);
  return st;
}

/* ---- running again ---- */

/* What stands for an input while its op runs again: hands the gradient on to the input itself, where the walk over the
 * second run's records ends. */
static kava_status hand_on(kava_node *node, const kava_tensor *grad) {
  return kava_grad_add(node->inputs[0], (kava_tensor *)(uintptr_t)grad);
}

/* node: inputs; saved: the same, where they are needed */
static kava_status rerun_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  kava_tensor *inputs[KAVA_NODE_SAVED] = {NULL}, *y = NULL;
  kava_node *unused;
  int quiet = tape.quiet;
  uint64_t after = tape.seq;
  tape.quiet = 0;
  for (int i = 0; i < node->input_count; i++) {
    if (!node->saved[i]) continue;
    KAVA_TRY(kava_tensor_detach(node->saved[i], &inputs[i]));
    if (kava_needs_grad(node->inputs[i]))
      KAVA_TRY(kava_tape_record("an input", hand_on, 1, &node->inputs[i], inputs[i], &unused));
  }
  KAVA_TRY(node->run(node->context, inputs, &y));
  tape.quiet = quiet;
  if (y->node) st = walk(y->node, grad, after);
out:
  tape.quiet = quiet;
  kava_tensor_release(&y);
  for (int i = 0; i < KAVA_NODE_SAVED; i++) kava_tensor_release(&inputs[i]);
  return st;
}

kava_status kava_tape_rerun(const char *op, kava_run_fn run, void (*forget)(void *context), void *context, int count,
                            kava_tensor *const *inputs, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL;
  kava_node *node;
  kava_no_grad(+1);
  st = run(context, inputs, &y);
  kava_no_grad(-1);
  if (st != KAVA_OK) goto out;
  if (!kava_recording()) {
    *out = kava_tensor_retain(y);
    goto out;
  }
  KAVA_TRY(kava_tape_record(op, rerun_backward, count, inputs, y, &node));
  for (int i = 0; i < count; i++) KAVA_TRY(kava_tape_save(node, i, inputs[i]));
  node->run = run;
  node->forget = forget;
  node->context = context;
  context = NULL;
  *out = kava_tensor_retain(y);
out:
  if (context) forget(context);
  kava_tensor_release(&y);
  return st;
}

void kava_no_grad(int delta) { tape.quiet += delta; }

uint64_t kava_scope_open(void) { return tape.seq; }

void kava_scope_close(uint64_t scope) {
  while (tape.newest && tape.newest->seq > scope) {
    kava_node *n = tape.newest;
    n->refs++; /* its output may still be held, and then lets go of the emptied record later */
    unlink_node(n);
    drop_contents(n);
    kava_node_release(&n);
  }
}

void kava_set_training(bool training) { tape.not_training = !training; }
bool kava_training(void) { return !tape.not_training; }
