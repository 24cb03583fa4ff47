// V consecutive floats as one access; the address is a multiple of their size.
#pragma once
#include "cuda/ptx/memory.cuh"

namespace seqmix::cuda {

template <int V>
struct alignas(V * sizeof(float)) Floats {
  float v[V];
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

}  // namespace seqmix::cuda
