// Reductions in a fixed order: over a warp by a butterfly of shuffles, over a block by way of shared memory.
#pragma once
#include <cstdint>

namespace seqmix::cuda {

constexpr unsigned kFullWarp = 0xffffffffu;

struct Sum {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
  __device__ __forceinline__ unsigned long long operator()(unsigned long long a, unsigned long long b) const {
    return a > b ? a : b;
  }
};

template <class T, class Op>
__device__ __forceinline__ T warp_reduce(T v, Op op) {
#pragma unroll
  for (int i = 16; i > 0; i >>= 1) v = op(v, __shfl_xor_sync(kFullWarp, v, i));
  return v;
}

// Every thread gets the result. `shared` holds 32 values and may be used again at once. blockDim.x is a multiple of 32.
template <class T, class Op>
__device__ __forceinline__ T block_reduce(T v, T identity, Op op, T* shared) {
  v = warp_reduce(v, op);
  if (blockDim.x == 32) return v;
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (lane == 0) shared[warp] = v;
  __syncthreads();
  v = lane < blockDim.x / 32 ? shared[lane] : identity;
  __syncthreads();
  return warp_reduce(v, op);
}

// The first bad index since the last read stays; within one kernel all report the same word.
__device__ inline void report_index_error(uint64_t* word, uint64_t error) {
  volatile uint64_t* const w = word;
  if (*w == 0) *w = error;
}

}  // namespace seqmix::cuda
