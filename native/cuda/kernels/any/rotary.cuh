// rotary: see core/problem/rotary.h. A thread turns V pairs of one head, or copies V elements behind them; heads' units
// of all tokens are counted through by a grid-stride loop, so that any number of tokens and heads fills the chip. What
// a token's heads share (its position, its rows of the tables) comes from L1 for all of them but one. Two elements of a
// pair lie half a turned part apart, in vectors of 16 bytes; or side by side, and then a vector holds V / 2 pairs.
// Floor: x and out once each.
#pragma once
#include "core/problem/rotary.h"
#include "cuda/kernels/any/reduce.cuh"
#include "cuda/kernels/any/vector.cuh"

namespace seqmix::cuda {

template <class T>
struct RotaryArgs {
  const T* x;
  int64_t stride[4];  // of x
  const void *cos, *sin;
  DType table_dtype;
  int64_t cos_stride[2], sin_stride[2], rows, half;
  const void* positions;  // may be null
  bool wide_positions;    // int64, else int32
  int64_t position_stride[2];
  T* out;
  int64_t tokens, length, heads, d;
  bool interleaved;
  uint64_t* index_error;
  uint64_t error;

  __device__ __forceinline__ int64_t position(int64_t b, int64_t t) const {
    if (!positions) return t;
    const int64_t at = b * position_stride[0] + t * position_stride[1];
    return wide_positions ? static_cast<const int64_t*>(positions)[at] : static_cast<const int32_t*>(positions)[at];
  }
};

// V of a row of a table, from column c on. More than one only where they lie together.
template <int V>
__device__ __forceinline__ Floats<V> table_at(const void* data, DType dtype, const int64_t (&stride)[2], int64_t row,
                                              int64_t c) {
  return load_as<V>(data, dtype, row * stride[0] + c * stride[1]);
}

template <int V>
__device__ __forceinline__ void turn(Floats<V>& a, Floats<V>& b, const Floats<V>& cos, const Floats<V>& sin) {
#pragma unroll
  for (int j = 0; j < V; j++) {
    const float u = a.v[j], v = b.v[j];
    a.v[j] = u * cos.v[j] - v * sin.v[j];
    b.v[j] = fmaf(u, sin.v[j], v * cos.v[j]);
  }
}

// Pairs c to c + V of a head: those of element i and element i + half.
template <int V, class T>
__device__ __forceinline__ void turn_halves(const RotaryArgs<T>& p, const T* x, T* out, int64_t row, int64_t c) {
  const int64_t step = p.stride[3];
  Floats<V> a = load<V>(x + c * step), b = load<V>(x + (c + p.half) * step);
  turn(a, b, table_at<V>(p.cos, p.table_dtype, p.cos_stride, row, c),
       table_at<V>(p.sin, p.table_dtype, p.sin_stride, row, c));
  store<V>(out + c, a);
  store<V>(out + c + p.half, b);
}

// The same of neighbours: 2V elements.
template <int V, class T>
__device__ __forceinline__ void turn_neighbours(const RotaryArgs<T>& p, const T* x, T* out, int64_t row, int64_t c) {
  const int64_t step = p.stride[3];
  Floats<V> a, b;
  if constexpr (V == 1) {
    a = load<1>(x + 2 * c * step);
    b = load<1>(x + (2 * c + 1) * step);
  } else {
    const Floats<2 * V> both = load<2 * V>(x + 2 * c);
#pragma unroll
    for (int j = 0; j < V; j++) a.v[j] = both.v[2 * j], b.v[j] = both.v[2 * j + 1];
  }
  turn(a, b, table_at<V>(p.cos, p.table_dtype, p.cos_stride, row, c),
       table_at<V>(p.sin, p.table_dtype, p.sin_stride, row, c));
  if constexpr (V == 1) {
    store<1>(out + 2 * c, a);
    store<1>(out + 2 * c + 1, b);
  } else {
    Floats<2 * V> both;
#pragma unroll
    for (int j = 0; j < V; j++) both.v[2 * j] = a.v[j], both.v[2 * j + 1] = b.v[j];
    store<2 * V>(out + 2 * c, both);
  }
}

// Unit i's token, head and place in the head.
struct RotaryPlace {
  int64_t b, t, h, u;
};
template <class I>
__device__ __forceinline__ RotaryPlace rotary_place(I i, I length, I heads, I units) {
  const I head = i / units, token = head / heads, b = token / length;
  return {b, token - b * length, head - token * heads, i - head * units};
}

// P: pairs of a unit. V: elements of a unit behind the turned part.
template <class T, int P, int V>
__global__ void __launch_bounds__(256) rotary(const __grid_constant__ RotaryArgs<T> p) {
  const int64_t turned = p.half / P, units = turned + (p.d - 2 * p.half) / V, all = p.tokens * p.heads * units;
  const int64_t step = gridDim.x * int64_t{blockDim.x};
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < all; i += step) {
    // Divisions of 64 bits cost several times those of 32.
    const auto [b, t, h, u] = all <= INT32_MAX
                                  ? rotary_place(static_cast<uint32_t>(i), static_cast<uint32_t>(p.length),
                                                 static_cast<uint32_t>(p.heads), static_cast<uint32_t>(units))
                                  : rotary_place(i, p.length, p.heads, units);
    const int64_t row = p.position(b, t);
    const T* const x = p.x + b * p.stride[0] + t * p.stride[1] + h * p.stride[2];
    T* const out = p.out + ((b * p.length + t) * p.heads + h) * p.d;
    const bool good = row >= 0 && row < p.rows;
    if (!good && h == 0 && u == 0) report_index_error(p.index_error, p.error);
    if (u >= turned) {
      const int64_t c = 2 * p.half + (u - turned) * V;
      store<V>(out + c, good ? load<V>(x + c * p.stride[3]) : Floats<V>{});
    } else if (!good) {
#pragma unroll
      for (int j = 0; j < P; j++) {
        const int64_t c = u * P + j;
        out[p.interleaved ? 2 * c : c] = narrow<T>(0.0f);
        out[p.interleaved ? 2 * c + 1 : c + p.half] = narrow<T>(0.0f);
      }
    } else if (p.interleaved) {
      turn_neighbours<P>(p, x, out, row, u * P);
    } else {
      turn_halves<P>(p, x, out, row, u * P);
    }
  }
}

}  // namespace seqmix::cuda
