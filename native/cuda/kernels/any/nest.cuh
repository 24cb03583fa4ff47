// A loop nest over N views of one shape, as a kernel argument: turns an element's number into its place in each view.
#pragma once
#include <cstdint>

#include "core/view.h"

namespace seqmix::cuda {

template <int N>
struct Nest {
  int64_t shape[kMaxRank];
  int64_t stride[N][kMaxRank];
  int64_t size;
  int rank;

  template <class I>
  __device__ __forceinline__ void walk(I index, int64_t (&at)[N]) const {
    for (int d = rank - 1; d > 0; d--) {
      const I extent = static_cast<I>(shape[d]);
      const I next = index / extent;
      const int64_t i = static_cast<int64_t>(index - next * extent);
#pragma unroll
      for (int v = 0; v < N; v++) at[v] += i * stride[v][d];
      index = next;
    }
#pragma unroll
    for (int v = 0; v < N; v++) at[v] += static_cast<int64_t>(index) * stride[v][0];
  }

  // Divisions of 64 bits cost several times those of 32.
  __device__ __forceinline__ void locate(int64_t index, int64_t (&at)[N]) const {
#pragma unroll
    for (int v = 0; v < N; v++) at[v] = 0;
    if (size <= INT32_MAX)
      walk(static_cast<uint32_t>(index), at);
    else
      walk(static_cast<uint64_t>(index), at);
  }
};

template <int N>
Nest<N> nest_of(const View* const (&views)[N]) {
  Nest<N> nest{};
  nest.rank = views[0]->rank;
  nest.size = views[0]->size();
  for (int d = 0; d < nest.rank; d++) {
    nest.shape[d] = views[0]->shape[d];
    for (int v = 0; v < N; v++) nest.stride[v][d] = views[v]->stride[d];
  }
  if (nest.rank == 0) {  // a scalar
    nest.rank = 1;
    nest.shape[0] = 1;
  }
  return nest;
}

}  // namespace seqmix::cuda
