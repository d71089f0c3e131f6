/* tape/tape: records ops while gradients are wanted, and walks them backwards. Knows no op.
 *
 * An op's forward ends with:
 *     if (kava_tape_wanted(inputs, n)) { KAVA_TRY(kava_tape_record("name", backward, n, inputs, y, &node)); node->... =
 * ...; } One thread records and walks at a time. */
#ifndef KAVA_TAPE_TAPE_H
#define KAVA_TAPE_TAPE_H
#include "tape/node.h"
#include "tensor/tensor.h"

bool kava_needs_grad(const kava_tensor *t); /* a leaf that requires it, or the result of a recorded op */
bool kava_tape_wanted(kava_tensor *const *inputs,
                      int count); /* recording is on and an input needs a gradient; NULLs allowed */
/* Makes y's record. `inputs` (NULLs allowed): leaves are retained, results of other records as outlines, whose elements
 * may be freed. *node is borrowed: fill integers, numbers and saved. */
kava_status kava_tape_record(const char *op, kava_backward_fn backward, int count, kava_tensor *const *inputs,
                             kava_tensor *y, kava_node **node);
/* Keeps a detached handle of t (also of the op's own output: no cycle arises) in node->saved[slot]. A backward function
 * reads contents from there only: kava_backward refuses when what was saved has been written to since. */
kava_status kava_tape_save(kava_node *node, int slot, kava_tensor *t);

/* As kava_tape_save for what may be input `index` itself: nothing is kept where its record can make it again. */
kava_status kava_tape_keep(kava_node *node, int slot, int index, kava_tensor *t);
/* What kava_tape_keep kept, or made again. *out borrowed. Called after the input's gradient was given: where no other
 * record reads the input, its own backward function may run now, in the pass that makes it again. */
kava_status kava_tape_kept(kava_node *node, int slot, int index, kava_tensor **out);

/* What _kept gave, now the caller's own, where it was made again and nobody else will read it; else NULL. */
kava_tensor *kava_tape_take(kava_node *node, int slot, int index);

/* The record of input `index`, of which nothing was kept, where this record alone reads its output and alone gives it a
 * gradient, and has not yet: in its backward function it may then go back over both at once, and says so by _passed,
 * with what `again` would give, owned from the call on. Else NULL. */
kava_node *kava_tape_alone(const kava_node *node, int slot, int index);
void kava_tape_passed(kava_node *from, kava_tensor *remade);

/* *out = run(context, inputs), as one record that keeps the inputs alone: the backward pass runs it once more, with
 * records, and goes back over those. run must give the same again; leaves that it reads beside its inputs (weights) get
 * their gradients, too. Owns the context from the call on, whatever comes of it: forget(context) ends it. At most
 * KAVA_NODE_SAVED inputs; NULLs allowed. */
typedef kava_status (*kava_run_fn)(void *context, kava_tensor *const *inputs, kava_tensor **out);
kava_status kava_tape_rerun(const char *op, kava_run_fn run, void (*forget)(void *context), void *context, int count,
                            kava_tensor *const *inputs, kava_tensor **out);

/* `width` elements of a row, shown as two dimensions, heads and width / heads; heads 0: as one. */
typedef struct kava_part {
  int64_t width, heads;
} kava_part;
/* The parts of y's rows, whose widths fill them side by side: views of y. Of y itself nobody else may know: its
 * gradient is the parts' gradients side by side, and who can write rows that lie apart (kava_grad_into_rows) writes
 * them there at once. Where y is recorded, its backward function calls kava_tape_parts_done first. */
kava_status kava_tape_parts(kava_tensor *y, int count, const kava_part *parts, kava_tensor **outs);
/* Parts that got no gradient: their columns of y's become 0. */
kava_status kava_tape_parts_done(kava_node *node, int count, const kava_part *parts);

/* The type of t's gradient: f64 for f64 and f32 for all else; but on a GPU what an op has made in f16 or bf16 has its
 * gradient in that, and a parameter that is a matrix in what was last set here: f32 (to begin with), or bf16, which
 * takes half the room and rounds once a backward pass. */
kava_dtype kava_grad_dtype(const kava_tensor *t);
kava_status kava_set_parameter_grads(kava_dtype dtype);
kava_dtype kava_parameter_grads(void);
/* In a backward function: the gradient tensor of `input` to write into. *out borrowed, contiguous, shaped like input,
 * of the input's dtype on a GPU, else of kava_grad_dtype; NULL when input (or NULL input) needs none. *accumulate says
 * whether to add (true) or to overwrite (false: the contents are undefined). */
kava_status kava_grad_into(kava_tensor *input, kava_tensor **out, bool *accumulate);
/* The same for who can write rows that lie apart: *out may be columns of a larger gradient. */
kava_status kava_grad_into_rows(kava_tensor *input, kava_tensor **out, bool *accumulate);
/* `rows`, columns of a larger gradient that nobody else reads or writes from now on, become input's gradient as they
 * lie, where its record takes such and has no gradient yet: *kept says whether. What comes is added there. */
kava_status kava_grad_keep_rows(kava_tensor *input, const kava_tensor *rows, bool *kept);
/* For who reads saved[i], what inputs[i] was, for the last time, and writes the gradient of each element where it found
 * the element: the gradients of inputs [0, count) in the place of saved [0, count), to be overwritten, where all have
 * none yet and nobody else sees what lies there; else outs[0] is NULL and nothing was done. outs borrowed. */
kava_status kava_grad_in_place(kava_node *node, int count, kava_tensor **outs);
/* A tensor like grad, which is a record's own, to write into once grad is read: in grad's place where nobody else holds
 * it. */
kava_status kava_grad_place(const kava_tensor *grad, kava_tensor **out);
/* The same of the record's input `index` for kernels that read an element of the output's gradient before they write
 * the same element: where it may be, *out is that gradient itself. */
kava_status kava_grad_into_same(kava_node *node, int index, kava_tensor **out, bool *accumulate);
/* For leaves whose gradients one kernel writes behind one another, wide or in `half`: *there says whether they lie so,
 * since all of them have them so, or none had one and now they do. *first: the first's; NULL where none needs one. */
kava_status kava_grad_into_joined(int count, kava_tensor *const *leaves, kava_dtype half, bool *there,
                                  kava_tensor **first, bool *accumulate);
/* The same for what kernels write wide, f64 for f64 and else f32: parameters' gradients. _half: or in `half`, where the
 * gradient is kept in that: (*out)->dtype says. */
kava_status kava_grad_into_wide(kava_tensor *input, kava_tensor **out, bool *accumulate);
kava_status kava_grad_into_half(kava_tensor *input, kava_dtype half, kava_tensor **out, bool *accumulate);
kava_status kava_grad_into_zeroed(kava_tensor *input, kava_tensor **out); /* wide, zeroed when fresh: always add */
/* Adds `grad` (shaped like input, contiguous; on a GPU of any float type) to input's gradient; when it is the first it
 * is kept without a copy where that is safe. */
kava_status kava_grad_add(kava_tensor *input, kava_tensor *grad);

/* d(loss)/d(leaf) is added to every leaf's grad. loss has one element. The records are consumed. seed: gradient of the
 * loss itself (1 usually; the loss scale with fp16). KAVA_MISUSE: no record, more than one element, consumed before,
 * a saved tensor written to. */
kava_status kava_backward(kava_tensor *loss, double seed);

/* While `depth` > 0 nothing is recorded: kava_no_grad(+1) … kava_no_grad(-1). */
void kava_no_grad(int delta);
bool kava_recording(void);
/* A scope frees every record made since it was opened, also those whose results are still held. */
uint64_t kava_scope_open(void);
void kava_scope_close(uint64_t scope);
/* Whether dropout is on (kava.train). Default: on. */
void kava_set_training(bool training);
bool kava_training(void);
#endif
