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

// Words as one access (more of them, as several of 16 bytes).
template <int N>
struct alignas(N * sizeof(uint32_t) < 16 ? N * sizeof(uint32_t) : 16) Words {
  uint32_t w[N];
};

// V elements of T as they lie in memory, to be widened later.
template <class T, int V>
struct Packed {
  Words<V * sizeof(T) / sizeof(uint32_t)> words;
};
template <class T>
  requires(sizeof(T) == 2)
struct Packed<T, 1> {
  T one;
};

template <int V, class T>
__device__ __forceinline__ Packed<T, V> load_packed(const T* from) {
  return *reinterpret_cast<const Packed<T, V>*>(from);
}

template <class T, int V>
__device__ __forceinline__ Floats<V> widen(const Packed<T, V>& packed) {
  Floats<V> value;
#pragma unroll
  for (int i = 0; i < V; i++) {
    if constexpr (sizeof(T) == 4) {
      value.v[i] = __uint_as_float(packed.words.w[i]);
    } else if constexpr (V == 1) {
      value.v[i] = widen(packed.one);
    } else {
      const float2 both = unpack<T>(packed.words.w[i / 2]);
      value.v[i] = i % 2 ? both.y : both.x;
    }
  }
  return value;
}

// Sets element i; the element is 0.
template <int V, class T>
__device__ __forceinline__ void put(Packed<T, V>& packed, int i, T value) {
  if constexpr (sizeof(T) == 4)
    packed.words.w[i] = __float_as_uint(value);
  else if constexpr (V == 1)
    packed.one = value;
  else
    packed.words.w[i / 2] |= uint32_t{reinterpret_cast<const uint16_t&>(value)} << (i % 2 * 16);
}

template <int V>
__device__ __forceinline__ Floats<V> load(const float* from) {
  return *reinterpret_cast<const Floats<V>*>(from);
}
template <int V, class T>
__device__ __forceinline__ Floats<V> load(const T* from) {
  return widen(load_packed<V>(from));
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

// V floats of a dtype known at run time only, as they lie in memory: read now and widened later, so that reads follow
// one another and none waits for the conversion of the one before. (Words that 16-bit floats leave over are not set.)
template <int V>
struct Raw {
  uint32_t w[V];
};

// From element i on; the address is a multiple of the access.
template <int V>
__device__ __forceinline__ Raw<V> load_raw(const void* data, DType dtype, int64_t i) {
  Raw<V> raw;
  if (dtype == DType::float32) {
    constexpr int N = V < 4 ? V : 4;
    const Words<N>* const from = reinterpret_cast<const Words<N>*>(static_cast<const uint32_t*>(data) + i);
#pragma unroll
    for (int k = 0; k < V / N; k++) {
      const Words<N> words = from[k];
#pragma unroll
      for (int j = 0; j < N; j++) raw.w[k * N + j] = words.w[j];
    }
  } else if constexpr (V == 1) {
    raw.w[0] = static_cast<const uint16_t*>(data)[i];
  } else {
    const Words<V / 2> words = *reinterpret_cast<const Words<V / 2>*>(static_cast<const uint16_t*>(data) + i);
#pragma unroll
    for (int j = 0; j < V / 2; j++) raw.w[j] = words.w[j];
  }
  return raw;
}

template <int V>
__device__ __forceinline__ Floats<V> widen(const Raw<V>& raw, DType dtype) {
  Floats<V> value;
  if (dtype == DType::float32) {
#pragma unroll
    for (int j = 0; j < V; j++) value.v[j] = __uint_as_float(raw.w[j]);
  } else if (dtype == DType::float16) {
#pragma unroll
    for (int j = 0; j < V; j++) {
      const float2 both = unpack<Half>(raw.w[j / 2]);
      value.v[j] = j % 2 ? both.y : both.x;
    }
  } else {
#pragma unroll
    for (int j = 0; j < V; j++) {
      const float2 both = unpack<Brain>(raw.w[j / 2]);
      value.v[j] = j % 2 ? both.y : both.x;
    }
  }
  return value;
}

template <int V>
__device__ __forceinline__ Floats<V> load_as(const void* data, DType dtype, int64_t i) {
  return widen(load_raw<V>(data, dtype, i), dtype);
}

__device__ __forceinline__ void store_as(void* data, DType dtype, int64_t i, float value) {
  if (dtype == DType::float32)
    static_cast<float*>(data)[i] = value;
  else if (dtype == DType::float16)
    static_cast<Half*>(data)[i] = narrow<Half>(value);
  else
    static_cast<Brain*>(data)[i] = narrow<Brain>(value);
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
