// out = f(a[, b]) element by element, computed in float32. Dense, aligned operands go 16 bytes at a time; everything
// else (views, broadcasting) one by one, its place found by division. Floor: each byte once; one or two operations an
// element (silu: about 30), so bytes bound it. Nothing is kept in shared memory.
#pragma once
#include "cuda/kernels/any/math.cuh"
#include "cuda/kernels/any/nest.cuh"
#include "cuda/kernels/any/vector.cuh"

namespace seqmix::cuda {

struct SiluOf {
  __device__ __forceinline__ float operator()(float x) const { return silu(x); }
};
struct GeluOf {
  __device__ __forceinline__ float operator()(float x) const { return gelu(x); }
};
struct GeluTanhOf {
  __device__ __forceinline__ float operator()(float x) const { return gelu_tanh(x); }
};
struct SoftcapOf {
  float cap, inverse;
  __device__ __forceinline__ float operator()(float x) const { return tanhf(x * inverse) * cap; }
};
// F(a) b
template <class F>
struct GateOf {
  __device__ __forceinline__ float operator()(float a, float b) const { return F()(a) * b; }
};
struct AddOf {
  __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
};
struct MulOf {
  __device__ __forceinline__ float operator()(float a, float b) const { return a * b; }
};

template <class F, int V, class... In>
__device__ __forceinline__ Floats<V> map_vector(F f, const In&... in) {
  Floats<V> out;
#pragma unroll
  for (int j = 0; j < V; j++) out.v[j] = f(in.v[j]...);
  return out;
}

template <class F, class T, class... In>  // each In is T
__global__ void __launch_bounds__(256) map_dense(F f, int64_t n, T* out, const In*... in) {
  constexpr int V = kWide<T>;
  const int64_t first = blockIdx.x * int64_t{blockDim.x} + threadIdx.x, step = gridDim.x * int64_t{blockDim.x};
  for (int64_t i = first; i < n / V; i += step) store<V>(out + i * V, map_vector<F, V>(f, load<V>(in + i * V)...));
  const int64_t tail = n / V * V + first;
  if (tail < n) out[tail] = narrow<T>(f(widen(in[tail])...));
}

template <class F, class T>
__global__ void __launch_bounds__(256) map_strided_1(F f, const __grid_constant__ Nest<2> nest, T* out, const T* a) {
  const int64_t step = gridDim.x * int64_t{blockDim.x};
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < nest.size; i += step) {
    int64_t at[2];
    nest.locate(i, at);
    out[at[0]] = narrow<T>(f(widen(a[at[1]])));
  }
}

template <class F, class T>
__global__ void __launch_bounds__(256)
    map_strided_2(F f, const __grid_constant__ Nest<3> nest, T* out, const T* a, const T* b) {
  const int64_t step = gridDim.x * int64_t{blockDim.x};
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < nest.size; i += step) {
    int64_t at[3];
    nest.locate(i, at);
    out[at[0]] = narrow<T>(f(widen(a[at[1]]), widen(b[at[2]])));
  }
}

}  // namespace seqmix::cuda
