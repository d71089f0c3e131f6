/* tape/node: one fixed-size record of the tape: an op that ran, what it read, and what its backward pass needs.
 * Ownership: a tensor owns the node that produced it; a node owns its inputs and what it saved. A graph nobody holds
 * frees itself. Every op has one output; extra results (metrics) are not differentiated. */
#ifndef KAVA_TAPE_NODE_H
#define KAVA_TAPE_NODE_H
#include "base/status.h"
#include <stdint.h>

#define KAVA_NODE_INPUTS 6
#define KAVA_NODE_SAVED 6

typedef struct kava_node kava_node;
/* Adds this op's contribution to the gradients of node->inputs, given the gradient of its output (contiguous, unless
 * the record says `rows`; f64 for f64 outputs, else f32). Uses kava_grad_into / kava_grad_add (tape/tape.h), which skip
 * inputs that need none. */
typedef kava_status (*kava_backward_fn)(kava_node *node, const kava_tensor *grad);

/* Makes the op's output once more from what the record saved: bit for bit what it was. Only ops for which that is cheap
 * beside a product have one (norms, activations, dropout). */
typedef kava_status (*kava_again_fn)(kava_node *node, kava_tensor **out);
/* The backward function and `again` in one pass over what both read; *out may lie in the place of grad where nobody
 * else holds that (kava_grad_place). */
typedef kava_status (*kava_back_again_fn)(kava_node *node, const kava_tensor *grad, kava_tensor **out);

struct kava_node {
  int refs;
  int mark;    /* used by the walk */
  bool listed; /* in the list of live records */
  bool rows;   /* the backward function also takes a gradient whose rows lie apart: columns of a larger one */
  const char *op;
  kava_backward_fn backward;     /* NULL once consumed */
  kava_again_fn again;           /* NULL: whoever needs the output in its backward pass keeps it */
  kava_back_again_fn back_again; /* may be NULL where there is `again` */
  kava_tensor *remade;           /* what `again` made: the consumers of one output follow each other in the walk */
  uint64_t seq;
  int input_count;
  kava_tensor **inputs; /* where gradients go; inline_inputs, or allocated when an op (cat) has more */
  kava_tensor *inline_inputs[KAVA_NODE_INPUTS];
  kava_tensor *saved[KAVA_NODE_SAVED]; /* detached tensors (kava_tape_save): all that the backward pass reads */
  uint64_t versions[KAVA_NODE_SAVED];  /* of their storages then: a later write would make the gradients wrong */
  int64_t integers[8];
  double numbers[4];
  void *context; /* kava_tape_rerun's, and what frees it */
  kava_status (*run)(void *context, kava_tensor *const *inputs, kava_tensor **out);
  void (*forget)(void *context);
  kava_tensor *grad; /* of the output, during a backward walk */
  unsigned written;  /* where the output is cut into parts: a bit for each whose columns of grad hold something */
  kava_node *older, *newer; /* all live nodes, by seq: what a scope closes */
};

void kava_node_release(kava_node **node); /* accepts NULL, nulls the pointer */
#endif
