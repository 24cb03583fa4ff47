// V consecutive floats, in memory of any floating-point dtype, as one access of at most 16 bytes (more of them, one
// after another, where V floats take more); the address is a multiple of its size.
#pragma once
#include "cuda/kernels/any/dtype.cuh"
#include "cuda/ptx/memory.cuh"

namespace seqmix::cuda {

template <int V>
struct alignas(V * sizeof(float) < 16 ? V * sizeof(float) : 16) Floats {
  float v[V];
};

// Two floats of 16 bits in a word, the first in its low half.
template <class T>
__device__ __forceinline__ float2 unpack(uint32_t word);
template <>
__device__ __forceinline__ float2 unpack<Half>(uint32_t word) {
  return __half22float2(reinterpret_cast<const __half2&>(word));
}
template <>
__device__ __forceinline__ float2 unpack<Brain>(uint32_t word) {
  return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}

template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high);
template <>
__device__ __forceinline__ uint32_t pack<Half>(float low, float high) {
  const __half2 both = __floats2half2_rn(low, high);
  return reinterpret_cast<const uint32_t&>(both);
}
template <>
__device__ __forceinline__ uint32_t pack<Brain>(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(both);
}

// Words as one access.
template <int N>
struct alignas(N * sizeof(uint32_t)) Words {
  uint32_t w[N];
};

template <int V>
__device__ __forceinline__ Floats<V> load(const float* from) {
  return *reinterpret_cast<const Floats<V>*>(from);
}
template <int V, class T>
__device__ __forceinline__ Floats<V> load(const T* from) {
  Floats<V> value;
  if constexpr (V == 1) {
    value.v[0] = widen(*from);
  } else {
    const Words<V / 2> words = *reinterpret_cast<const Words<V / 2>*>(from);
#pragma unroll
    for (int i = 0; i < V / 2; i++) {
      const float2 both = unpack<T>(words.w[i]);
      value.v[2 * i] = both.x;
      value.v[2 * i + 1] = both.y;
    }
  }
  return value;
}

template <int V>
__device__ __forceinline__ void store(float* to, const Floats<V>& value) {
  if constexpr (V % 4 == 0) {
#pragma unroll
    for (int i = 0; i < V; i += 4) ptx::store4(to + i, value.v[i], value.v[i + 1], value.v[i + 2], value.v[i + 3]);
  } else {
    *reinterpret_cast<Floats<V>*>(to) = value;
  }
}
template <int V, class T>
__device__ __forceinline__ void store(T* to, const Floats<V>& value) {
  if constexpr (V == 1) {
    *to = narrow<T>(value.v[0]);
  } else {
    Words<V / 2> words;
#pragma unroll
    for (int i = 0; i < V / 2; i++) words.w[i] = pack<T>(value.v[2 * i], value.v[2 * i + 1]);
    if constexpr (V == 8)
      ptx::store4(to, words.w[0], words.w[1], words.w[2], words.w[3]);
    else
      *reinterpret_cast<Words<V / 2>*>(to) = words;
  }
}

// V floats from element i on, of a dtype known at run time only; the address of element i is a multiple of the access.
template <int V>
__device__ __forceinline__ Floats<V> load_as(const void* data, DType dtype, int64_t i) {
  if (dtype == DType::float32) return load<V>(static_cast<const float*>(data) + i);
  if (dtype == DType::float16) return load<V>(static_cast<const Half*>(data) + i);
  return load<V>(static_cast<const Brain*>(data) + i);
}

// V weights from channel i on; `together` tells that they may be loaded so.
template <int V>
__device__ __forceinline__ Floats<V> load_weights(const Weights& weights, bool together, int64_t i) {
  if (together) return load_as<V>(weights.data, weights.dtype, i);
  Floats<V> value;
#pragma unroll
  for (int j = 0; j < V; j++) value.v[j] = weights.at(i + j);
  return value;
}

// Elements of T in an access of 16 bytes.
template <class T>
constexpr int kWide = 16 / static_cast<int>(sizeof(T));

}  // namespace seqmix::cuda
