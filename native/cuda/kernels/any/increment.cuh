// increment: adds a whole number to every element, in place. A thread an element, its place found by division:
// counters are small. Floor: the bytes, twice.
#pragma once
#include "cuda/kernels/any/nest.cuh"

namespace seqmix::cuda {

template <class T>  // unsigned, since it may wrap around
__global__ void __launch_bounds__(256) increment(const __grid_constant__ Nest<1> nest, T* out, T by) {
  const int64_t step = gridDim.x * int64_t{blockDim.x};
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < nest.size; i += step) {
    int64_t at[1];
    nest.locate(i, at);
    out[at[0]] += by;
  }
}

}  // namespace seqmix::cuda
