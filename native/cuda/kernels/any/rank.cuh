// Rows of floats, and the order of a row's elements that argmax, topk and sample share.
#pragma once
#include <cstdint>

#include "core/sample_math.h"
#include "cuda/kernels/any/dtype.cuh"
#include "cuda/kernels/any/reduce.cuh"

namespace seqmix::cuda {

template <class T>
struct Rows {
  const T* data;
  int64_t stride;

  __device__ __forceinline__ const T* row(int64_t i) const { return data + i * stride; }
};

// An element of a row as one number: a larger one is a better one, and among equals the lower index is.
__device__ __forceinline__ unsigned long long rank_of(float x, int64_t index) {
  return static_cast<unsigned long long>(sampling::order_key(x)) << 32 | (0xffffffffu - static_cast<uint32_t>(index));
}
__device__ __forceinline__ int32_t index_of(unsigned long long rank) {
  return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(rank));
}

// The rank of a row's best element.
template <class T>
__device__ __forceinline__ unsigned long long best_of(const T* row, int64_t n, unsigned long long* shared) {
  unsigned long long best = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) best = Max()(best, rank_of(widen(row[i]), i));
  return block_reduce(best, 0ull, Max(), shared);
}

}  // namespace seqmix::cuda
