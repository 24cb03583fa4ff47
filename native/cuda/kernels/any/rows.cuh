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

// A gate's part in rms_norm: fetched with what is normed, then a factor of that or of the norm.
struct Ungated {
  template <int V>
  struct Fetched {};
  template <int V>
  __device__ __forceinline__ Fetched<V> fetch(Group, int64_t) const {
    return {};
  }
  template <int V>
  __device__ __forceinline__ void before(Floats<V>&, const Fetched<V>&) const {}
  template <int V>
  __device__ __forceinline__ void after(Floats<V>&, const Fetched<V>&) const {}
};
template <class T>
struct Gated {
  const T* z;
  int64_t stride;
  bool last;  // after the norm

  template <int V>
  using Fetched = Packed<T, V>;
  template <int V>
  __device__ __forceinline__ Fetched<V> fetch(Group g, int64_t i) const {
    return load_packed<V>(z + g.row * stride + g.first + i);
  }
  template <int V>
  __device__ __forceinline__ void times(Floats<V>& f, const Fetched<V>& fetched) const {
    const Floats<V> gate = widen<T, V>(fetched);
#pragma unroll
    for (int j = 0; j < V; j++) f.v[j] *= sizeof(T) == sizeof(float) ? silu(gate.v[j]) : fast_silu(gate.v[j]);
  }
  template <int V>
  __device__ __forceinline__ void before(Floats<V>& f, const Fetched<V>& fetched) const {
    if (!last) times<V>(f, fetched);
  }
  template <int V>
  __device__ __forceinline__ void after(Floats<V>& f, const Fetched<V>& fetched) const {
    if (last) times<V>(f, fetched);
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
};

template <int V>
constexpr int kKept = V == 8 ? 2 : 2;
constexpr int kNormThreads = 512;  // more of them would not have registers for what each keeps

// N vectors of a thread, `step` apart from element `at` on, of which the first `count` are there. All are asked for
// before any is looked at, those that are not there at the group's beginning.
template <int V, int N, class T, class S, class Gate>
struct NormVectors {
  const RmsNormRows<T, S, Gate>& p;
  const Group g;
  const int64_t at, step;
  Floats<V> f[N];
  typename Gate::template Fetched<V> gate[N];

  __device__ __forceinline__ bool has(int k) const { return at + k * step < p.n; }
  __device__ __forceinline__ int64_t place(int k) const { return has(k) ? at + k * step : 0; }

  // What is normed. The sum with a residual goes out as S the first time, but what is normed is not rounded.
  __device__ __forceinline__ void read(bool again) {
    Packed<T, V> x[N];
#pragma unroll
    for (int k = 0; k < N; k++) x[k] = load_packed<V>(p.x + g.row * p.x_stride + g.first + place(k));
#pragma unroll
    for (int k = 0; k < N; k++) gate[k] = p.gate.template fetch<V>(g, place(k));
    if (p.residual) {
      Raw<V> residual[N];
#pragma unroll
      for (int k = 0; k < N; k++)
        residual[k] = load_raw<V>(p.residual, p.residual_dtype, g.row * p.residual_stride + g.first + place(k));
#pragma unroll
      for (int k = 0; k < N; k++) {
        f[k] = widen<T, V>(x[k]);
        const Floats<V> other = widen<V>(residual[k], p.residual_dtype);
#pragma unroll
        for (int j = 0; j < V; j++) f[k].v[j] += other.v[j];
        if (!again && has(k)) store<V>(p.sum + g.row * p.sum_stride + g.first + place(k), f[k]);
      }
    } else {
#pragma unroll
      for (int k = 0; k < N; k++) f[k] = widen<T, V>(x[k]);
    }
#pragma unroll
    for (int k = 0; k < N; k++) p.gate.template before<V>(f[k], gate[k]);
  }

  __device__ __forceinline__ float squares() const {
    float sum = 0;
#pragma unroll
    for (int k = 0; k < N; k++)
      if (has(k))
#pragma unroll
        for (int j = 0; j < V; j++) sum = fmaf(f[k].v[j], f[k].v[j], sum);
    return sum;
  }

  __device__ __forceinline__ Floats<V> weight(int k) const {
    if (p.weight.data) return load_weights<V>(p.weight, p.weight_together, g.first + place(k));
    Floats<V> one;
#pragma unroll
    for (int j = 0; j < V; j++) one.v[j] = 1.0f;
    return one;
  }

  __device__ __forceinline__ void write(int k, float scale, const Floats<V>& weight) {
#pragma unroll
    for (int j = 0; j < V; j++) f[k].v[j] *= scale * weight.v[j];
    p.gate.template after<V>(f[k], gate[k]);
    if (has(k)) store<V>(p.out + g.row * p.out_stride + g.first + place(k), f[k]);
  }
};

// The sum of squares of a group, then the products.
template <int V, class T, class S, class Gate>
__device__ __forceinline__ void norm_group(const RmsNormRows<T, S, Gate>& p, Group g, float* shared) {
  constexpr int K = kKept<V>;
  const int64_t first = int64_t{threadIdx.x} * V, step = int64_t{blockDim.x} * V;
  NormVectors<V, K, T, S, Gate> kept{p, g, first, step};
  kept.read(false);
  float squares = kept.squares();
  for (int64_t i = first + K * step; i < p.n; i += step) {
    NormVectors<V, 1, T, S, Gate> more{p, g, i, step};
    more.read(false);
    squares += more.squares();
  }
  squares = block_reduce(squares, 0.0f, Sum(), shared);
  const float scale = 1.0f / sqrtf(squares / static_cast<float>(p.n) + p.eps);
  Floats<V> weights[K];
#pragma unroll
  for (int k = 0; k < K; k++) weights[k] = kept.weight(k);
#pragma unroll
  for (int k = 0; k < K; k++) kept.write(k, scale, weights[k]);
  for (int64_t i = first + K * step; i < p.n; i += step) {
    NormVectors<V, 1, T, S, Gate> more{p, g, i, step};
    more.read(true);
    more.write(0, scale, more.weight(0));
  }
}

// Rows by the grid's first dimension, groups of a row by its second.
template <class T, class S, int V, class Gate>
__global__ void __launch_bounds__(kNormThreads) rms_norm_rows(const __grid_constant__ RmsNormRows<T, S, Gate> p) {
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
