/* kernels/cuda/emulated/graph.cuh: a recording's node taken out of the row that its nodes are here. */
#ifndef KAVA_CUDA_GRAPH_CUH
#define KAVA_CUDA_GRAPH_CUH
#include <cuda_runtime.h>
static inline cudaError_t kava_graph_without(cudaGraph_t, cudaGraphNode_t node) { return cudaGraphDestroyNode(node); }
#endif
