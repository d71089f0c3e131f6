/* kernels/cuda/counters.cu: room for the counters of a recording's products.
 *
 * Most of cuBLASLt's kernels for Hopper hand out their tiles over a counter at the beginning of their workspace, and a
 * memset before each sets it to zero: of 4 bytes, but a node of its own, which leaves the chip idle for 2 to 4 us, 230
 * times a micro-step of the main job. In a recording each product has a counter of its own instead; one memset at the
 * recording's beginning clears all of them, and the library's own are taken out. */
#include "kernels/cuda/gemm.cuh"
#include <graph.cuh>
#include <vector>

enum { COUNTERS = 4096, APART = 256 }; /* the library wants its workspace at a multiple of 256 */
static char *room;
static int taken;
static bool open;

cudaError_t kava_cuda_counters_begin(cudaStream_t stream) {
  open = room || cudaMalloc(&room, (size_t)COUNTERS * APART) == cudaSuccess;
  taken = 0;
  if (!open) return cudaGetLastError(), cudaSuccess; /* then the library's memsets stay */
  return cudaMemsetAsync(room, 0, (size_t)COUNTERS * APART, stream);
}

void *kava_cuda_counter(size_t *bytes) {
  if (!open || *bytes == 0 || *bytes > APART || taken == COUNTERS) return NULL;
  *bytes = APART;
  return room + (size_t)APART * (size_t)taken++;
}

cudaError_t kava_cuda_counters_end(cudaGraph_t graph) {
  size_t count = 0;
  bool any = graph && open && taken > 0;
  open = false;
  if (!any) return cudaSuccess;
  cudaError_t error = cudaGraphGetNodes(graph, NULL, &count);
  std::vector<cudaGraphNode_t> nodes(count);
  if (error == cudaSuccess) error = cudaGraphGetNodes(graph, nodes.data(), &count);
  for (size_t i = 0; i < count && error == cudaSuccess; i++) {
    cudaGraphNodeType type;
    cudaMemsetParams p;
    error = cudaGraphNodeGetType(nodes[i], &type);
    if (error != cudaSuccess || type != cudaGraphNodeTypeMemset) continue;
    error = cudaGraphMemsetNodeGetParams(nodes[i], &p);
    const char *at = (const char *)p.dst;
    bool theirs = at >= room && at < room + (size_t)taken * APART && p.width * p.elementSize <= APART && p.height <= 1;
    if (error == cudaSuccess && theirs && p.value == 0) error = kava_graph_without(graph, nodes[i]);
  }
  return error;
}
