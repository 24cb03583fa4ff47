// V consecutive floats, in memory of any floating-point dtype, as one access; the address is a multiple of its size.
#pragma once
#include "cuda/kernels/any/dtype.cuh"
#include "cuda/ptx/memory.cuh"

namespace seqmix::cuda {

template <int V>
struct alignas(V * sizeof(float)) Floats {
  float v[V];
};

// As they lie in memory.
template <class T, int V>
struct alignas(V * sizeof(T)) Packed {
  T v[V];
};

template <int V>
__device__ __forceinline__ Floats<V> load(const float* from) {
  return *reinterpret_cast<const Floats<V>*>(from);
}
template <int V>
__device__ __forceinline__ void store(float* to, const Floats<V>& value) {
  if constexpr (V == 4)
    ptx::store4(to, value.v[0], value.v[1], value.v[2], value.v[3]);
  else
    *reinterpret_cast<Floats<V>*>(to) = value;
}

template <int V, class T>
__device__ __forceinline__ Floats<V> load(const T* from) {
  const Packed<T, V> packed = *reinterpret_cast<const Packed<T, V>*>(from);
  Floats<V> value;
#pragma unroll
  for (int i = 0; i < V; i++) value.v[i] = widen(packed.v[i]);
  return value;
}
template <int V, class T>
__device__ __forceinline__ void store(T* to, const Floats<V>& value) {
  Packed<T, V> packed;
#pragma unroll
  for (int i = 0; i < V; i++) packed.v[i] = narrow<T>(value.v[i]);
  *reinterpret_cast<Packed<T, V>*>(to) = packed;
}

}  // namespace seqmix::cuda
