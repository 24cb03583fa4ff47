// out = f(a[, b]) element by element. Dense, aligned operands go four elements at a time; everything else (views,
// broadcasting) one by one, its place found by division. Floor: each byte once; one or two operations an element
// (silu: about 30), so bytes bound it. Nothing is kept in shared memory.
#pragma once
#include "cuda/kernels/any/math.cuh"
#include "cuda/kernels/any/nest.cuh"

namespace seqmix::cuda {

struct SiluOf {
  __device__ __forceinline__ float operator()(float x) const { return silu(x); }
};
struct AddOf {
  __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
};
struct MulOf {
  __device__ __forceinline__ float operator()(float a, float b) const { return a * b; }
};

template <class F, class... In>
__device__ __forceinline__ float4 map4(F f, In... in) {
  return make_float4(f(in.x...), f(in.y...), f(in.z...), f(in.w...));
}

template <class F, class... In>
__global__ void __launch_bounds__(256) map_dense(int64_t n, float* out, const In*... in) {
  const F f;
  const int64_t first = blockIdx.x * int64_t{blockDim.x} + threadIdx.x, step = gridDim.x * int64_t{blockDim.x};
  for (int64_t i = first; i < n / 4; i += step)
    reinterpret_cast<float4*>(out)[i] = map4(f, reinterpret_cast<const float4*>(in)[i]...);
  const int64_t tail = n / 4 * 4 + first;
  if (tail < n) out[tail] = f(in[tail]...);
}

template <class F>
__global__ void __launch_bounds__(256) map_strided_1(const __grid_constant__ Nest<2> nest, float* out, const float* a) {
  const int64_t step = gridDim.x * int64_t{blockDim.x};
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < nest.size; i += step) {
    int64_t at[2];
    nest.locate(i, at);
    out[at[0]] = F()(a[at[1]]);
  }
}

template <class F>
__global__ void __launch_bounds__(256)
    map_strided_2(const __grid_constant__ Nest<3> nest, float* out, const float* a, const float* b) {
  const int64_t step = gridDim.x * int64_t{blockDim.x};
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < nest.size; i += step) {
    int64_t at[3];
    nest.locate(i, at);
    out[at[0]] = F()(a[at[1]], b[at[2]]);
  }
}

}  // namespace seqmix::cuda
