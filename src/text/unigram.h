/* text/unigram: a vocabulary of pieces with scores (log probabilities); a text becomes the pieces whose scores' sum is
 * highest.
 *
 * The search goes over the text once, keeping for each place the best way there (Viterbi). Pieces that begin at a place
 * are found in a tree over their bytes, whose edges are one open-addressing table: (node, byte) -> node. A character
 * that no piece is stands for itself at the lowest score less 10, as SentencePiece has it; neighbours of that kind are
 * one unknown, spelt out in byte tokens where the vocabulary has them all.
 *
 * Immutable once built; the scratch belongs to a thread. The tokens' bytes are in the kava_bpe that serves as the
 * vocabulary. */
#ifndef KAVA_TEXT_UNIGRAM_H
#define KAVA_TEXT_UNIGRAM_H
#include "text/bpe.h"

typedef struct kava_unigram {
  double *scores; /* by id */
  int32_t count, capacity;
  double lowest;
  struct {
    uint64_t key; /* node << 8 | byte; UINT64_MAX: free */
    int32_t node;
  } * edges;
  uint64_t edge_mask, edge_count;
  int32_t *ends; /* by node: the id of the piece that ends there, or -1 */
  int32_t nodes, node_capacity;
} kava_unigram;

kava_status kava_unigram_init(kava_unigram *u, int32_t pieces); /* about as many as will come */
void kava_unigram_free(kava_unigram *u);
/* Pieces come with ids 0, 1, 2 …; of equal ones the last counts. */
kava_status kava_unigram_add(kava_unigram *u, const uint8_t *piece, size_t length, double score);

typedef struct kava_unigram_scratch {
  struct unigram_place {
    double score;
    uint32_t from;
    int32_t id;
    bool reached;
  } * places;
  size_t capacity;
  kava_ids starts;
} kava_unigram_scratch;
void kava_unigram_scratch_free(kava_unigram_scratch *scratch);
/* Appends the ids of one pre-token of valid UTF-8, and to `spans`, where not NULL, their bytes within it. */
kava_status kava_unigram_encode(const kava_unigram *u, const kava_bpe *vocabulary, kava_unigram_scratch *scratch,
                                const uint8_t *piece, size_t length, kava_ids *out, kava_spans *spans);
#endif
