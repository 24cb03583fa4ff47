// out = act(x Wᵀ + bias) + residual in float32 (fused multiply-adds on the ordinary units, no tf32): for float32
// operands, and for every pair of dtypes that the tensor cores cannot multiply, whose elements are widened as they are
// read.
//
// matrix_tile: a block makes a tile of the result, BM rows by BN features, walking along `in` eight at a time. Both
// operands are dense along `in`, so a thread reads four of its elements at once where rows are aligned, and they are
// laid down transposed in shared memory (two buffers: the next eight are read while these are multiplied). A thread
// keeps TM × TN sums in registers, in quarters of the tile so that its shared reads are of 16 bytes without conflicts.
// Where there are fewer tiles than multiprocessors, `in` is cut too: partial sums go to scratch memory, and a second
// kernel adds them in order. Floor: 2 rows · features · in operations, half of that in instructions.
//
// vector_rows: up to eight rows. A warp takes a feature (two of them where rows are many, which halves the reads of x),
// reads its weights once, several accesses of 16 bytes ahead, and multiplies them with every row; the sums meet by
// shuffles. Floor: the weights' bytes.
#pragma once
#include "cuda/kernels/any/linear_args.cuh"
#include "cuda/kernels/any/reduce.cuh"
#include "cuda/ptx/tensor.cuh"

namespace seqmix::cuda {

// How operands are read and results are written: float32 all, or each of a dtype that is known at run time only (a
// branch, the same for a whole warp, at each access).
struct Float32 {
  template <int V>
  static __device__ __forceinline__ Floats<V> read(const void* data, DType, int64_t i) {
    return load<V>(static_cast<const float*>(data) + i);
  }
  static __device__ __forceinline__ void finish(const LinearArgs& p, int64_t row, int64_t feature, float sum) {
    p.finish<float>(row, feature, sum);
  }
};
struct AnyFloat {
  template <int V>
  static __device__ __forceinline__ Floats<V> read(const void* data, DType dtype, int64_t i) {
    return load_as<V>(data, dtype, i);
  }
  static __device__ __forceinline__ void finish(const LinearArgs& p, int64_t row, int64_t feature, float sum) {
    if (p.x_dtype == DType::float32)
      p.finish<float>(row, feature, sum);
    else if (p.x_dtype == DType::float16)
      p.finish<Half>(row, feature, sum);
    else
      p.finish<Brain>(row, feature, sum);
  }
};

constexpr int kDepth = 8;
constexpr int kLinearThreads = 256;
constexpr int kVectorThreads = 128;
template <int R>
constexpr int kVectorFeatures = R > 2 ? 2 : 1;  // of a warp

// A thread's share of a (SIDE × 8) piece of an operand on its way to shared memory: four elements of one row each.
template <class F, int SIDE, int V>
struct Piece {
  static constexpr int kLoads = (SIDE * kDepth / 4 + kLinearThreads - 1) / kLinearThreads;
  static constexpr int kLine = SIDE + 4;  // keeps 16-byte alignment and spreads the transposed stores over the banks
  float v[kLoads][4];

  __device__ __forceinline__ void read(const void* from, DType dtype, int64_t stride, int64_t first, int64_t count,
                                       int64_t k, int64_t end) {
#pragma unroll
    for (int i = 0; i < kLoads; i++) {
      const int at = threadIdx.x + i * kLinearThreads;
      const int64_t row = first + at / 2, column = k + at % 2 * 4;
      const bool in = at < SIDE * 2 && row < count;
      const int64_t source = row * stride + column;
      if constexpr (V == 4) {  // `end` is a multiple of 4 then
        const Floats<4> f = in && column < end ? F::template read<4>(from, dtype, source) : Floats<4>{};
#pragma unroll
        for (int j = 0; j < 4; j++) v[i][j] = f.v[j];
      } else {
#pragma unroll
        for (int j = 0; j < 4; j++)
          v[i][j] = in && column + j < end ? F::template read<1>(from, dtype, source + j).v[0] : 0.0f;
      }
    }
  }

  __device__ __forceinline__ void put(float (*to)[kLine]) const {
#pragma unroll
    for (int i = 0; i < kLoads; i++) {
      const int at = threadIdx.x + i * kLinearThreads;
      if (at < SIDE * 2) {
#pragma unroll
        for (int j = 0; j < 4; j++) to[at % 2 * 4 + j][at / 2] = v[i][j];
      }
    }
  }
};

// Quads of a thread's TM rows (or features) lie a whole quarter, half or tile apart: quad q of thread i begins at
// q · (SIDE / (T / 4)) + 4 i.
template <int SIDE, int T>
__device__ __forceinline__ int place(int thread, int element) {
  return element / 4 * (SIDE / (T / 4)) + thread * 4 + element % 4;
}

template <class F, int BM, int BN, int TM, int TN, int V>
__global__ void __launch_bounds__(kLinearThreads) matrix_tile(const __grid_constant__ LinearArgs p) {
  static_assert((BM / TM) * (BN / TN) == kLinearThreads);
  using PieceX = Piece<F, BM, V>;
  using PieceW = Piece<F, BN, V>;
  __shared__ __align__(16) float xs[2][kDepth][PieceX::kLine];
  __shared__ __align__(16) float ws[2][kDepth][PieceW::kLine];
  const int tx = threadIdx.x % (BN / TN), ty = threadIdx.x / (BN / TN);
  const int64_t tiles_m = (p.rows + BM - 1) / BM, tiles_n = (p.features + BN - 1) / BN;
  const int64_t tiles = tiles_m * tiles_n * p.splits;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    // Tiles of the same features follow each other, so that the weights are read while they are in L2.
    const int64_t m0 = tile % tiles_m * BM, n0 = tile / tiles_m % tiles_n * BN, split = tile / tiles_m / tiles_n;
    const int64_t begin = split * p.part, end = begin + p.part < p.in ? begin + p.part : p.in;
    float sums[TM][TN] = {};
    PieceX x;
    PieceW w;
    x.read(p.x, p.x_dtype, p.x_stride, m0, p.rows, begin, end);
    w.read(p.weight, p.weight_dtype, p.weight_stride, n0, p.features, begin, end);
    __syncthreads();  // the tile before may still be read
    x.put(xs[0]);
    w.put(ws[0]);
    __syncthreads();
    int buffer = 0;
    for (int64_t k = begin; k < end; k += kDepth) {
      const bool more = k + kDepth < end;
      if (more) {
        x.read(p.x, p.x_dtype, p.x_stride, m0, p.rows, k + kDepth, end);
        w.read(p.weight, p.weight_dtype, p.weight_stride, n0, p.features, k + kDepth, end);
      }
#pragma unroll
      for (int d = 0; d < kDepth; d++) {
        float a[TM], b[TN];
#pragma unroll
        for (int i = 0; i < TM; i += 4) {
          const Floats<4> f = load<4>(&xs[buffer][d][place<BM, TM>(ty, i)]);
#pragma unroll
          for (int j = 0; j < 4; j++) a[i + j] = f.v[j];
        }
#pragma unroll
        for (int i = 0; i < TN; i += 4) {
          const Floats<4> f = load<4>(&ws[buffer][d][place<BN, TN>(tx, i)]);
#pragma unroll
          for (int j = 0; j < 4; j++) b[i + j] = f.v[j];
        }
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
          for (int j = 0; j < TN; j++) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
      }
      if (more) {
        buffer ^= 1;
        x.put(xs[buffer]);
        w.put(ws[buffer]);
        __syncthreads();
      }
    }
#pragma unroll
    for (int i = 0; i < TM; i++) {
      const int64_t row = m0 + place<BM, TM>(ty, i);
      if (row >= p.rows) continue;
#pragma unroll
      for (int j = 0; j < TN; j++) {
        const int64_t feature = n0 + place<BN, TN>(tx, j);
        if (feature >= p.features) continue;
        if (p.splits > 1)
          p.partial[(split * p.rows + row) * p.features + feature] = sums[i][j];
        else
          F::finish(p, row, feature, sums[i][j]);
      }
    }
  }
}

// What the parts of a cut `in` gave, added up in order.
template <class F>
__global__ void __launch_bounds__(256) add_parts(const __grid_constant__ LinearArgs p) {
  const int64_t count = p.rows * p.features;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += gridDim.x * int64_t{blockDim.x}) {
    float sum = 0;
    for (int s = 0; s < p.splits; s++) sum += p.partial[s * count + i];
    F::finish(p, i / p.features, i % p.features, sum);
  }
}

// Weights on their way: V of them as they lie in memory, 16 bytes, or one.
template <class W, int V>
struct Ahead {
  static_assert(V == kWide<W>);
  uint4 raw;

  __device__ __forceinline__ void read(const W* from, bool there) { raw = ptx::load_once(from, there); }
  __device__ __forceinline__ Floats<V> widened() const {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
    Floats<V> value;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if constexpr (V == 4) {
        value.v[i] = __uint_as_float(words[i]);
      } else {
        const float2 both = unpack<W>(words[i]);
        value.v[2 * i] = both.x;
        value.v[2 * i + 1] = both.y;
      }
    }
    return value;
  }
};
template <class W>
struct Ahead<W, 1> {
  W raw;

  __device__ __forceinline__ void read(const W* from, bool there) { raw = there ? *from : narrow<W>(0.0f); }
  __device__ __forceinline__ Floats<1> widened() const { return {widen(raw)}; }
};

// R rows at a time, weights of type W, V elements an access.
template <class F, class W, int R, int V>
__global__ void __launch_bounds__(kVectorThreads) vector_rows(const __grid_constant__ LinearArgs p) {
  constexpr int kFeatures = kVectorFeatures<R>;
  constexpr int kAhead = 4 / kFeatures;  // accesses to each feature's weights that are under way at once
  const int lane = threadIdx.x % 32;
  const int64_t warps = gridDim.x * int64_t{blockDim.x / 32};
  for (int64_t first = (blockIdx.x * int64_t{blockDim.x} + threadIdx.x) / 32 * kFeatures; first < p.features;
       first += warps * kFeatures) {
    const W* weight[kFeatures];
#pragma unroll
    for (int f = 0; f < kFeatures; f++)
      weight[f] = static_cast<const W*>(p.weight) + min(first + f, p.features - 1) * p.weight_stride;
    float sums[kFeatures][R] = {};
    for (int64_t begin = lane * V; begin < p.in; begin += 32 * V * kAhead) {
      Ahead<W, V> w[kAhead][kFeatures];
#pragma unroll
      for (int a = 0; a < kAhead; a++)
#pragma unroll
        for (int f = 0; f < kFeatures; f++) w[a][f].read(weight[f] + begin + a * 32 * V, begin + a * 32 * V < p.in);
#pragma unroll
      for (int a = 0; a < kAhead; a++) {
        const int64_t i = begin + a * 32 * V;
        if (i >= p.in) break;
        Floats<V> v[kFeatures];
#pragma unroll
        for (int f = 0; f < kFeatures; f++) v[f] = w[a][f].widened();
#pragma unroll
        for (int r = 0; r < R; r++) {
          const Floats<V> x = F::template read<V>(p.x, p.x_dtype, (r < p.rows ? r : 0) * p.x_stride + i);
#pragma unroll
          for (int f = 0; f < kFeatures; f++)
#pragma unroll
            for (int j = 0; j < V; j++) sums[f][r] = fmaf(v[f].v[j], x.v[j], sums[f][r]);
        }
      }
    }
#pragma unroll
    for (int f = 0; f < kFeatures; f++)
#pragma unroll
      for (int r = 0; r < R; r++) {
        const float sum = warp_reduce(sums[f][r], Sum());
        if (lane == 0 && r < p.rows && first + f < p.features) F::finish(p, r, first + f, sum);
      }
  }
}

}  // namespace seqmix::cuda
