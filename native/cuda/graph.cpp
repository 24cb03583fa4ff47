#include "cuda/graph.h"

#include <cstring>

#include "cuda/error.h"

namespace seqmix {

void Graph::record(const Problem& p) {
  problems_.push_back(std::make_unique<std::byte[]>(p.bytes));
  std::memcpy(problems_.back().get(), &p, p.bytes);
}

namespace cuda {

namespace {

// Relaxed, since threads that have nothing to do with it may allocate meanwhile; what no thread may do is to wait for
// the whole device.
cudaGraph_t captured_graph(int device, cudaStream_t stream, const std::function<void()>& launch) {
  const std::lock_guard lock(Allocator::capturing());
  check(device, cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "a capture");
  cudaGraph_t graph = nullptr;
  try {
    launch();
  } catch (...) {
    (void)cudaStreamEndCapture(stream, &graph);
    if (graph) (void)cudaGraphDestroy(graph);
    (void)cudaGetLastError();
    throw;
  }
  check(device, cudaStreamEndCapture(stream, &graph), "a capture");
  return graph;
}

}  // namespace

cudaGraphExec_t captured(int device, cudaStream_t stream, const std::function<void()>& launch) {
  const cudaGraph_t graph = captured_graph(device, stream, launch);
  cudaGraphExec_t executable = nullptr;
  const cudaError_t made = cudaGraphInstantiate(&executable, graph, 0);
  (void)cudaGraphDestroy(graph);
  check(device, made, "a captured graph");
  return executable;
}

}  // namespace cuda

}  // namespace seqmix
