// V consecutive floats as one access; the address is a multiple of their size.
#pragma once

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
  *reinterpret_cast<Floats<V>*>(to) = value;
}

}  // namespace seqmix::cuda
