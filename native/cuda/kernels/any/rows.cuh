// Ops on each row (the last dimension) by itself: softmax, argmax, rms_norm, and the gather of embedding. A block takes
// a row, its threads step through it, V elements at a time (16 bytes where every row allows it, else one), and rows are
// shared out by a grid-stride loop. rms_norm keeps the first kKept vectors of each thread in registers; what else a
// second pass needs comes from L1 or L2, so the floor is each byte once. Computed in float32 throughout.
#pragma once
#include "core/problem/rows.h"
#include "cuda/kernels/any/rank.cuh"
#include "cuda/kernels/any/reduce.cuh"
#include "cuda/kernels/any/vector.cuh"

namespace seqmix::cuda {

// Three passes: the largest, the sum of exponentials, the quotients. Nothing but -inf gives 0; a NaN anywhere gives
// NaN.
template <class T, int V>
__global__ void softmax_rows(int64_t rows, int64_t n, Rows<T> x, T* out, int64_t out_stride) {
  __shared__ float shared[32];
  const int64_t first = int64_t{threadIdx.x} * V, step = int64_t{blockDim.x} * V;
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const T* const row = x.row(r);
    T* const to = out + r * out_stride;
    float largest = -INFINITY;
    for (int64_t i = first; i < n; i += step) {
      const Floats<V> f = load<V>(row + i);
#pragma unroll
      for (int j = 0; j < V; j++) largest = fmaxf(largest, f.v[j]);
    }
    largest = block_reduce(largest, -INFINITY, Max(), shared);
    const float shift = largest == -INFINITY ? 0.0f : largest;
    float sum = 0;
    for (int64_t i = first; i < n; i += step) {
      const Floats<V> f = load<V>(row + i);
#pragma unroll
      for (int j = 0; j < V; j++) sum += expf(f.v[j] - shift);
    }
    sum = block_reduce(sum, 0.0f, Sum(), shared);
    for (int64_t i = first; i < n; i += step) {
      Floats<V> f = load<V>(row + i);
#pragma unroll
      for (int j = 0; j < V; j++) f.v[j] = sum == 0 ? 0.0f : expf(f.v[j] - shift) / sum;
      store<V>(to + i, f);
    }
  }
}

template <class T>
__global__ void argmax_rows(int64_t rows, int64_t n, Rows<T> x, int32_t* out, int64_t out_stride) {
  __shared__ unsigned long long shared[32];
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const unsigned long long best = best_of(x.row(r), n, shared);
    if (threadIdx.x == 0) out[r * out_stride] = index_of(best);
  }
}

template <class T, class S>
struct RmsNormRows {
  Rows<T> x;
  const void* residual;  // may be null
  DType residual_dtype;  // T's or float32
  int64_t residual_stride;
  Weights weight;  // may be absent
  bool weight_together;
  T* out;
  S* sum;  // with a residual
  int64_t out_stride, sum_stride;
  int64_t rows, n;
  float eps;

  template <int V>
  __device__ __forceinline__ Floats<V> input(int64_t r, int64_t i) const {
    Floats<V> f = load<V>(x.row(r) + i);
    if (residual) {
      const Floats<V> other = load_as<V>(residual, residual_dtype, r * residual_stride + i);
#pragma unroll
      for (int j = 0; j < V; j++) f.v[j] += other.v[j];
    }
    return f;
  }
};

template <int V>
constexpr int kKept = V == 8 ? 2 : 4;

// The sum of squares, then the product. The sum with a residual goes out as S, but what is normalised is not rounded.
template <class T, class S, int V>
__global__ void __launch_bounds__(1024) rms_norm_rows(const __grid_constant__ RmsNormRows<T, S> p) {
  constexpr int K = kKept<V>;
  __shared__ float shared[32];
  const int64_t first = int64_t{threadIdx.x} * V, step = int64_t{blockDim.x} * V;
  for (int64_t r = blockIdx.x; r < p.rows; r += gridDim.x) {
    Floats<V> kept[K], weight[K];
    float squares = 0;
    const auto add = [&](const Floats<V>& f, int64_t i) {
      if (p.residual) store<V>(p.sum + r * p.sum_stride + i, f);
#pragma unroll
      for (int j = 0; j < V; j++) squares = fmaf(f.v[j], f.v[j], squares);
    };
#pragma unroll
    for (int k = 0; k < K; k++) {
      const int64_t i = first + k * step;
      kept[k] = i < p.n ? p.template input<V>(r, i) : Floats<V>{};
    }
    if (p.weight.data) {
#pragma unroll
      for (int k = 0; k < K; k++) {
        const int64_t i = first + k * step;
        weight[k] = i < p.n ? load_weights<V>(p.weight, p.weight_together, i) : Floats<V>{};
      }
    }
#pragma unroll
    for (int k = 0; k < K; k++)
      if (first + k * step < p.n) add(kept[k], first + k * step);
    for (int64_t i = first + K * step; i < p.n; i += step) add(p.template input<V>(r, i), i);
    squares = block_reduce(squares, 0.0f, Sum(), shared);
    const float scale = 1.0f / sqrtf(squares / static_cast<float>(p.n) + p.eps);
    const auto finish = [&](Floats<V> f, const Floats<V>& w, int64_t i) {
#pragma unroll
      for (int j = 0; j < V; j++) f.v[j] *= scale * (p.weight.data ? w.v[j] : 1.0f);
      store<V>(p.out + r * p.out_stride + i, f);
    };
#pragma unroll
    for (int k = 0; k < K; k++)
      if (first + k * step < p.n) finish(kept[k], weight[k], first + k * step);
    for (int64_t i = first + K * step; i < p.n; i += step) {
      const Floats<V> w = p.weight.data ? load_weights<V>(p.weight, p.weight_together, i) : Floats<V>{};
      finish(p.template input<V>(r, i), w, i);
    }
  }
}

template <class T>
struct EmbeddingRows {
  const void* ids;
  bool wide_ids;  // int64, else int32
  int64_t ids_stride, count;
  const void* table;
  DType table_dtype;
  int64_t table_stride, vocabulary, n;
  T* out;
  int64_t out_stride;
  uint64_t* index_error;
  uint64_t error;
};

// A row of the table for each id, V elements at a time.
template <class T, int V>
__global__ void embedding_rows(const __grid_constant__ EmbeddingRows<T> p) {
  for (int64_t r = blockIdx.x; r < p.count; r += gridDim.x) {
    const int64_t at = r * p.ids_stride;
    const int64_t id = p.wide_ids ? static_cast<const int64_t*>(p.ids)[at] : static_cast<const int32_t*>(p.ids)[at];
    const bool good = id >= 0 && id < p.vocabulary;
    if (!good && threadIdx.x == 0) report_index_error(p.index_error, p.error);
    const int64_t row = good ? id * p.table_stride : 0;
    T* const out = p.out + r * p.out_stride;
    for (int64_t i = int64_t{threadIdx.x} * V; i < p.n; i += int64_t{blockDim.x} * V)
      store<V>(out + i, good ? load_as<V>(p.table, p.table_dtype, row + i) : Floats<V>{});
  }
}

}  // namespace seqmix::cuda
