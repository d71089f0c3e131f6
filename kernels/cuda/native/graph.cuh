/* kernels/cuda/native/graph.cuh: a recording's node taken out. */
#ifndef KAVA_CUDA_GRAPH_CUH
#define KAVA_CUDA_GRAPH_CUH
#include <cuda_runtime.h>

#if CUDART_VERSION >= 13000
static inline cudaError_t kava_graph_before(cudaGraphNode_t node, cudaGraphNode_t *out, size_t *count) {
  return cudaGraphNodeGetDependencies(node, out, NULL, count);
}
static inline cudaError_t kava_graph_behind(cudaGraphNode_t node, cudaGraphNode_t *out, size_t *count) {
  return cudaGraphNodeGetDependentNodes(node, out, NULL, count);
}
static inline cudaError_t kava_graph_add(cudaGraph_t graph, cudaGraphNode_t from, cudaGraphNode_t to) {
  return cudaGraphAddDependencies(graph, &from, &to, NULL, 1);
}
#else
static inline cudaError_t kava_graph_before(cudaGraphNode_t node, cudaGraphNode_t *out, size_t *count) {
  return cudaGraphNodeGetDependencies(node, out, count);
}
static inline cudaError_t kava_graph_behind(cudaGraphNode_t node, cudaGraphNode_t *out, size_t *count) {
  return cudaGraphNodeGetDependentNodes(node, out, count);
}
static inline cudaError_t kava_graph_add(cudaGraph_t graph, cudaGraphNode_t from, cudaGraphNode_t to) {
  return cudaGraphAddDependencies(graph, &from, &to, 1);
}
#endif

/* What came behind `node` alone comes behind what `node` came behind. A node of another kind (several behind it, one
 * that others come before, edges that are more than an order) stays, which is no error. */
static inline cudaError_t kava_graph_without(cudaGraph_t graph, cudaGraphNode_t node) {
  enum { MOST = 4 };
  cudaGraphNode_t before[MOST], behind[2], back[2];
  size_t befores = MOST, behinds = 2, backs = 2;
  if (kava_graph_behind(node, behind, &behinds) != cudaSuccess || behinds != 1 ||
      kava_graph_before(behind[0], back, &backs) != cudaSuccess || backs != 1 ||
      kava_graph_before(node, NULL, &befores) != cudaSuccess || befores > MOST ||
      kava_graph_before(node, before, &befores) != cudaSuccess) {
    cudaGetLastError();
    return cudaSuccess;
  }
  cudaError_t error = cudaSuccess;
  for (size_t i = 0; i < befores && error == cudaSuccess; i++) error = kava_graph_add(graph, before[i], behind[0]);
  return error == cudaSuccess ? cudaGraphDestroyNode(node) : error;
}
#endif
