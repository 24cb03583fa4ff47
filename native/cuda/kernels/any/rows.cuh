// Ops on each row (the last dimension) by itself: softmax, argmax, rms_norm, and the gather of embedding. A block takes
// a row, its threads step through it, V elements at a time (16 bytes where every row allows it, else one), and rows are
// shared out by a grid-stride loop. rms_norm keeps the first kKept vectors of each thread in registers, gated where
// there is a gate; what else a second pass needs comes from L1 or L2, so the floor is each byte once: of a gated norm,
// x and z read and the result written. Computed in float32 throughout.
#pragma once
#include "core/problem/rows.h"
#include "cuda/kernels/any/math.cuh"
#include "cuda/kernels/any/rank.cuh"
#include "cuda/kernels/any/reduce.cuh"
#include "cuda/kernels/any/vector.cuh"
#include "cuda/ptx/grid.cuh"

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

// Where a group begins, of those elements of a row that are normed together: its row in memory, and its first element.
struct Group {
  int64_t row, first;
};

// A gate's part in rms_norm: `before` goes into what is normed, `after` into the weight.
struct Ungated {
  template <int V>
  __device__ __forceinline__ Floats<V> before(const Floats<V>& f, Group, int64_t) const {
    return f;
  }
  template <int V>
  __device__ __forceinline__ Floats<V> after(const Floats<V>& w, Group, int64_t) const {
    return w;
  }
};
template <class T>
struct Gated {
  const T* z;
  int64_t stride;
  bool last;  // after the norm

  template <int V>
  __device__ __forceinline__ Floats<V> times(Floats<V> f, Group g, int64_t i) const {
    const Floats<V> gate = load<V>(z + g.row * stride + g.first + i);
#pragma unroll
    for (int j = 0; j < V; j++) f.v[j] *= sizeof(T) == sizeof(float) ? silu(gate.v[j]) : fast_silu(gate.v[j]);
    return f;
  }
  template <int V>
  __device__ __forceinline__ Floats<V> before(const Floats<V>& f, Group g, int64_t i) const {
    return last ? f : times(f, g, i);
  }
  template <int V>
  __device__ __forceinline__ Floats<V> after(const Floats<V>& w, Group g, int64_t i) const {
    return last ? times(w, g, i) : w;
  }
};

template <class T, class S, class Gate>
struct RmsNormRows {
  const T* x;
  const void* residual;  // may be null
  DType residual_dtype;  // T's or float32
  Weights weight;        // may be absent
  bool weight_together;
  T* out;
  S* sum;  // with a residual
  int64_t x_stride, residual_stride, out_stride, sum_stride;
  int64_t rows, width, n;  // groups of n in a row of `width`
  float eps;
  Gate gate;

  // What is normed. The sum with a residual goes out as S the first time, but what is normed is not rounded.
  template <int V>
  __device__ __forceinline__ Floats<V> input(Group g, int64_t i, bool again = false) const {
    Floats<V> f = load<V>(x + g.row * x_stride + g.first + i);
    if (residual) {
      const Floats<V> other = load_as<V>(residual, residual_dtype, g.row * residual_stride + g.first + i);
#pragma unroll
      for (int j = 0; j < V; j++) f.v[j] += other.v[j];
      if (!again) store<V>(sum + g.row * sum_stride + g.first + i, f);
    }
    return gate.before(f, g, i);
  }

  template <int V>
  __device__ __forceinline__ Floats<V> factor(Group g, int64_t i) const {
    Floats<V> w;
    if (weight.data) {
      w = load_weights<V>(weight, weight_together, g.first + i);
    } else {
#pragma unroll
      for (int j = 0; j < V; j++) w.v[j] = 1.0f;
    }
    return gate.after(w, g, i);
  }
};

template <int V>
constexpr int kKept = V == 8 ? 2 : 4;
constexpr int kNormThreads = 512;  // more of them would not have registers for what each keeps

// The sum of squares of a group, then the products.
template <int V, class T, class S, class Gate>
__device__ __forceinline__ void norm_group(const RmsNormRows<T, S, Gate>& p, Group g, float* shared) {
  constexpr int K = kKept<V>;
  const int64_t first = int64_t{threadIdx.x} * V, step = int64_t{blockDim.x} * V;
  Floats<V> kept[K], factors[K];
  float squares = 0;
  const auto add = [&](const Floats<V>& f) {
#pragma unroll
    for (int j = 0; j < V; j++) squares = fmaf(f.v[j], f.v[j], squares);
  };
#pragma unroll
  for (int k = 0; k < K; k++) {
    const int64_t i = first + k * step;
    kept[k] = i < p.n ? p.template input<V>(g, i) : Floats<V>{};
  }
#pragma unroll
  for (int k = 0; k < K; k++) {
    const int64_t i = first + k * step;
    factors[k] = i < p.n ? p.template factor<V>(g, i) : Floats<V>{};
  }
#pragma unroll
  for (int k = 0; k < K; k++) add(kept[k]);
  for (int64_t i = first + K * step; i < p.n; i += step) add(p.template input<V>(g, i));
  squares = block_reduce(squares, 0.0f, Sum(), shared);
  const float scale = 1.0f / sqrtf(squares / static_cast<float>(p.n) + p.eps);
  const auto finish = [&](Floats<V> f, const Floats<V>& w, int64_t i) {
#pragma unroll
    for (int j = 0; j < V; j++) f.v[j] *= scale * w.v[j];
    store<V>(p.out + g.row * p.out_stride + g.first + i, f);
  };
#pragma unroll
  for (int k = 0; k < K; k++)
    if (first + k * step < p.n) finish(kept[k], factors[k], first + k * step);
  for (int64_t i = first + K * step; i < p.n; i += step)
    finish(p.template input<V>(g, i, true), p.template factor<V>(g, i), i);
}

// Rows by the grid's first dimension, groups of a row by its second.
template <class T, class S, int V, class Gate>
__global__ void __launch_bounds__(kNormThreads, 1) rms_norm_rows(const __grid_constant__ RmsNormRows<T, S, Gate> p) {
  __shared__ float shared[32];
  ptx::wait_for_earlier_kernels();
  ptx::let_next_kernel_begin();
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x)
    for (int64_t first = blockIdx.y * p.n; first < p.width; first += gridDim.y * p.n)
      norm_group<V>(p, {row, first}, shared);
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
