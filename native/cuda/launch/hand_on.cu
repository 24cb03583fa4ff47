// What a graph's word says of a bad index becomes the queue's, with the number of the run that met it.
#include "cuda/graph.h"
#include "cuda/kernels/any/reduce.cuh"

namespace seqmix::cuda {

static __global__ void hand_on(uint64_t* from, uint64_t* to, uint64_t sequence) {
  const uint64_t word = *from;
  if (word == 0) return;
  *from = 0;
  report_index_error(to, index_error_at(word, sequence));
}

void hand_on_index_error(cudaStream_t stream, uint64_t* from, uint64_t* to, uint64_t sequence) {
  hand_on<<<1, 1, 0, stream>>>(from, to, sequence);
}

}  // namespace seqmix::cuda
