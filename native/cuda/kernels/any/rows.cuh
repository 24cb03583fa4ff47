// Ops on each row (the last dimension) by itself: softmax, argmax, rms_norm, and the gather of embedding. A block takes
// a row, its threads step through it, and rows are shared out by a grid-stride loop. A row is read again where a second
// pass needs it: it comes from L1 or L2 then, so the floor is each byte once.
#pragma once
#include "core/problem/rows.h"
#include "cuda/kernels/any/rank.cuh"
#include "cuda/kernels/any/reduce.cuh"
#include "cuda/kernels/any/vector.cuh"

namespace seqmix::cuda {

// Three passes: the largest, the sum of exponentials, the quotients. Nothing but -inf gives 0; a NaN anywhere gives
// NaN.
static __global__ void softmax_rows(int64_t rows, int64_t n, Rows x, float* out, int64_t out_stride) {
  __shared__ float shared[32];
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const float* const row = x.row(r);
    float* const to = out + r * out_stride;
    float largest = -INFINITY;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) largest = fmaxf(largest, row[i]);
    largest = block_reduce(largest, -INFINITY, Max(), shared);
    const float shift = largest == -INFINITY ? 0.0f : largest;
    float sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += expf(row[i] - shift);
    sum = block_reduce(sum, 0.0f, Sum(), shared);
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) to[i] = sum == 0 ? 0.0f : expf(row[i] - shift) / sum;
  }
}

static __global__ void argmax_rows(int64_t rows, int64_t n, Rows x, int32_t* out, int64_t out_stride) {
  __shared__ unsigned long long shared[32];
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const unsigned long long best = best_of(x.row(r), n, shared);
    if (threadIdx.x == 0) out[r * out_stride] = index_of(best);
  }
}

struct RmsNormRows {
  Rows x, residual;     // residual.data may be null
  const float* weight;  // may be null
  int64_t weight_stride;
  float* out;
  float* sum;  // with a residual
  int64_t out_stride, sum_stride;
  int64_t rows, n;
  float eps;
};

// The sum of squares, then the product. V elements at a time: 4 where every row allows it. With a residual the sum goes
// out in the first pass and is read back, by the thread that wrote it, in the second.
template <int V>
__global__ void rms_norm_rows(const __grid_constant__ RmsNormRows p) {
  __shared__ float shared[32];
  for (int64_t r = blockIdx.x; r < p.rows; r += gridDim.x) {
    const float* row = p.x.row(r);
    float squares = 0;
    for (int64_t i = int64_t{threadIdx.x} * V; i < p.n; i += int64_t{blockDim.x} * V) {
      Floats<V> x = load<V>(row + i);
      if (p.residual.data) {
        const Floats<V> residual = load<V>(p.residual.row(r) + i);
#pragma unroll
        for (int j = 0; j < V; j++) x.v[j] += residual.v[j];
        store<V>(p.sum + r * p.sum_stride + i, x);
      }
#pragma unroll
      for (int j = 0; j < V; j++) squares = fmaf(x.v[j], x.v[j], squares);
    }
    squares = block_reduce(squares, 0.0f, Sum(), shared);
    const float scale = 1.0f / sqrtf(squares / static_cast<float>(p.n) + p.eps);
    if (p.residual.data) row = p.sum + r * p.sum_stride;
    float* const out = p.out + r * p.out_stride;
    for (int64_t i = int64_t{threadIdx.x} * V; i < p.n; i += int64_t{blockDim.x} * V) {
      Floats<V> x = load<V>(row + i);
#pragma unroll
      for (int j = 0; j < V; j++) x.v[j] *= scale * (p.weight ? p.weight[(i + j) * p.weight_stride] : 1.0f);
      store<V>(out + i, x);
    }
  }
}

struct EmbeddingRows {
  const void* ids;
  int64_t ids_stride, count;
  Rows table;
  int64_t vocabulary, n;
  float* out;
  int64_t out_stride;
  uint64_t* index_error;
  uint64_t error;
};

// A row of the table for each id, V elements at a time.
template <class Id, int V>
__global__ void embedding_rows(const __grid_constant__ EmbeddingRows p) {
  for (int64_t r = blockIdx.x; r < p.count; r += gridDim.x) {
    const int64_t id = static_cast<const Id*>(p.ids)[r * p.ids_stride];
    const bool good = id >= 0 && id < p.vocabulary;
    if (!good && threadIdx.x == 0) report_index_error(p.index_error, p.error);
    const float* const row = p.table.row(good ? id : 0);
    float* const out = p.out + r * p.out_stride;
    for (int64_t i = int64_t{threadIdx.x} * V; i < p.n; i += int64_t{blockDim.x} * V) {
      store<V>(out + i, good ? load<V>(row + i) : Floats<V>{});
    }
  }
}

}  // namespace seqmix::cuda
