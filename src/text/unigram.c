#include "text/unigram.h"
#include "base/hash.h"
#include "text/utf8.h"

#define UNKNOWN_PENALTY 10.0

kava_status kava_unigram_init(kava_unigram *u, int32_t pieces) {
  *u = (kava_unigram){.lowest = 0};
  uint64_t edges = 1024;
  while (edges < (uint64_t)pieces * 4) edges *= 2;
  u->edges = kava_alloc(edges * sizeof *u->edges);
  u->capacity = pieces + 1;
  u->scores = kava_alloc((size_t)u->capacity * sizeof *u->scores);
  u->node_capacity = 1024;
  u->ends = kava_alloc((size_t)u->node_capacity * sizeof *u->ends);
  if (!u->edges || !u->scores || !u->ends) {
    kava_unigram_free(u);
    return KAVA_MEMORY;
  }
  for (uint64_t i = 0; i < edges; i++) u->edges[i].key = UINT64_MAX;
  u->edge_mask = edges - 1;
  u->ends[u->nodes++] = -1; /* the root */
  return KAVA_OK;
}

void kava_unigram_free(kava_unigram *u) {
  kava_free(u->scores);
  kava_free(u->edges);
  kava_free(u->ends);
  *u = (kava_unigram){0};
}

void kava_unigram_scratch_free(kava_unigram_scratch *s) {
  kava_free(s->places);
  kava_ids_free(&s->starts);
  *s = (kava_unigram_scratch){0};
}

static inline uint64_t find_edge(const kava_unigram *u, uint64_t key) { /* its slot, or the free one for it */
  uint64_t at = kava_hash_words(key, 0) & u->edge_mask;
  while (u->edges[at].key != UINT64_MAX && u->edges[at].key != key) at = (at + 1) & u->edge_mask;
  return at;
}

static kava_status grow_edges(kava_unigram *u) {
  kava_unigram before = *u;
  uint64_t mask = u->edge_mask * 2 + 1;
  void *edges = kava_alloc((mask + 1) * sizeof *u->edges);
  if (!edges) return KAVA_MEMORY;
  u->edges = edges;
  u->edge_mask = mask;
  for (uint64_t i = 0; i <= mask; i++) u->edges[i].key = UINT64_MAX;
  for (uint64_t i = 0; i <= before.edge_mask; i++)
    if (before.edges[i].key != UINT64_MAX) u->edges[find_edge(u, before.edges[i].key)] = before.edges[i];
  kava_free(before.edges);
  return KAVA_OK;
}

kava_status kava_unigram_add(kava_unigram *u, const uint8_t *piece, size_t length, double score) {
  kava_status st;
  int32_t node = 0;
  for (size_t i = 0; i < length; i++) {
    uint64_t key = (uint64_t)node << 8 | piece[i], at = find_edge(u, key);
    if (u->edges[at].key == UINT64_MAX) {
      if (u->edge_count + 1 > u->edge_mask / 4 * 3) {
        if ((st = grow_edges(u)) != KAVA_OK) return st;
        at = find_edge(u, key);
      }
      if (u->nodes == u->node_capacity) {
        if (u->nodes > INT32_MAX / 4) return kava_fail(KAVA_FORMAT, "the vocabulary is too long");
        int32_t *ends = kava_realloc(u->ends, (size_t)u->node_capacity * 2 * sizeof *ends);
        if (!ends) return KAVA_MEMORY;
        u->ends = ends;
        u->node_capacity *= 2;
      }
      u->edges[at].key = key;
      u->edges[at].node = u->nodes;
      u->ends[u->nodes++] = -1;
      u->edge_count++;
    }
    node = u->edges[at].node;
  }
  if (u->count == u->capacity) {
    if (u->capacity > INT32_MAX / 4) return kava_fail(KAVA_FORMAT, "the vocabulary is too long");
    double *scores = kava_realloc(u->scores, (size_t)u->capacity * 2 * sizeof *scores);
    if (!scores) return KAVA_MEMORY;
    u->scores = scores;
    u->capacity *= 2;
  }
  if (length) u->ends[node] = u->count;
  u->scores[u->count] = score;
  if (u->count == 0 || score < u->lowest) u->lowest = score;
  u->count++;
  return KAVA_OK;
}

static inline void reach(struct unigram_place *place, double score, size_t from, int32_t id) {
  if (place->reached && !(score > place->score)) return;
  *place = (struct unigram_place){score, (uint32_t)from, id, true};
}

static kava_status emit(const kava_bpe *vocabulary, const uint8_t *piece, size_t begin, size_t end, int32_t id,
                        kava_ids *out, kava_spans *spans) {
  kava_status st = KAVA_OK;
  if (id < 0) { /* unknown: perhaps its text as a whole is a token, or its bytes are */
    id = kava_bpe_find(vocabulary, piece + begin, end - begin);
    bool bytes = id < 0 && vocabulary->byte_fallback;
    for (size_t i = begin; i < end && bytes; i++) bytes = vocabulary->byte_id[piece[i]] >= 0;
    for (size_t i = begin; i < end && bytes && st == KAVA_OK; i++) {
      st = kava_ids_add(out, vocabulary->byte_id[piece[i]]);
      if (st == KAVA_OK && spans) st = kava_spans_add(spans, (kava_span){(uint32_t)i, (uint32_t)i + 1});
    }
    if (bytes) return st;
    if (id < 0) id = vocabulary->unknown;
    if (id < 0) return kava_fail(KAVA_UNSUPPORTED, "the text has a character that is no token, and there is no unk_id");
  }
  st = kava_ids_add(out, id);
  if (st == KAVA_OK && spans) st = kava_spans_add(spans, (kava_span){(uint32_t)begin, (uint32_t)end});
  return st;
}

kava_status kava_unigram_encode(const kava_unigram *u, const kava_bpe *vocabulary, kava_unigram_scratch *s,
                                const uint8_t *piece, size_t length, kava_ids *out, kava_spans *spans) {
  kava_status st = KAVA_OK;
  if (s->capacity < length + 1) {
    kava_free(s->places);
    s->capacity = 0;
    if (!(s->places = kava_alloc((length * 2 + 64) * sizeof *s->places))) return KAVA_MEMORY;
    s->capacity = length * 2 + 64;
  }
  for (size_t i = 0; i <= length; i++) s->places[i] = (struct unigram_place){0};
  for (size_t at = 0, n; at < length; at += n) {
    double here = s->places[at].score;
    bool single = false;
    int32_t node = 0;
    kava_utf8_read(piece + at, &n);
    for (size_t i = at; i < length; i++) {
      uint64_t slot = find_edge(u, (uint64_t)node << 8 | piece[i]);
      if (u->edges[slot].key == UINT64_MAX) break;
      node = u->edges[slot].node;
      int32_t id = u->ends[node];
      if (id < 0) continue;
      reach(&s->places[i + 1], u->scores[id] + here, at, id);
      single |= i + 1 == at + n;
    }
    if (!single) reach(&s->places[at + n], u->lowest - UNKNOWN_PENALTY + here, at, -1);
  }
  s->starts.size = 0; /* ends of the best way's pieces, from the last to the first */
  for (size_t end = length; end > 0; end = s->places[end].from)
    if ((st = kava_ids_add(&s->starts, (int32_t)end)) != KAVA_OK) return st;
  size_t begin = 0;
  for (size_t i = s->starts.size; i-- > 0 && st == KAVA_OK;) {
    size_t end = (size_t)s->starts.data[i];
    int32_t id = s->places[end].id;
    bool unknown = id < 0 || id == vocabulary->unknown;
    while (unknown && i > 0) { /* neighbours of that kind are one */
      int32_t next = s->places[s->starts.data[i - 1]].id;
      if (next >= 0 && next != vocabulary->unknown) break;
      end = (size_t)s->starts.data[--i];
    }
    st = emit(vocabulary, piece, begin, end, unknown ? -1 : id, out, spans);
    begin = end;
  }
  return st;
}
