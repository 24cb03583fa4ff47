// out = act(x Wᵀ + bias) + residual on the tensor cores of any GPU since Ampere: x and W of one 16-bit dtype T, sums in
// float32.
//
// A block makes a tile of BM rows by BN features, each warp WM by WN of it. The next 32 elements of `in` of both
// operands are copied into a ring of four stages in shared memory while earlier ones are multiplied. A stage's row is
// 64 bytes, four chunks of 16; chunk c of row r lies at place c ^ (r / 2 % 4), so that neither the copies nor the loads
// of matrices meet in a bank. Where rows do not begin on 16 bytes, the copies are of 4 bytes or single elements. The
// sums leave by way of shared memory, in whole rows. Where there are fewer tiles than multiprocessors, `in` is cut into
// parts whose sums go to scratch memory, and a second kernel adds them in order.
//
// Floor: 2 rows · features · in operations on the tensor cores, or the operands' bytes.
#pragma once
#include "cuda/kernels/any/linear_args.cuh"
#include "cuda/ptx/tensor.cuh"

namespace seqmix::cuda {

constexpr int kTileDepth = 32;
constexpr int kTileStages = 4;

// Bytes that can be read at once from any row of an operand, 2 at least.
struct Grain {
  int x, weight;
};

__device__ __forceinline__ uint32_t chunk_at(int row, int chunk) {
  return static_cast<uint32_t>(row * 64 + ((chunk ^ (row >> 1 & 3)) << 4));
}

// ROWS rows of an operand, 32 elements from k on; what is outside is 0.
template <class T, int ROWS, int THREADS>
__device__ __forceinline__ void copy_rows(uint8_t* to, const void* from, int64_t stride, int64_t first, int64_t count,
                                          int64_t k, int64_t end, int grain) {
#pragma unroll
  for (int i = 0; i < ROWS * 4 / THREADS; i++) {
    const int row = (threadIdx.x + i * THREADS) / 4, chunk = threadIdx.x % 4;
    const int64_t at = k + chunk * 8;
    const int have = first + row < count && at < end ? static_cast<int>(min(int64_t{8}, end - at)) : 0;
    const T* const source = static_cast<const T*>(from) + (have ? (first + row) * stride + at : 0);
    uint8_t* const place = to + chunk_at(row, chunk);
    if (grain == 16) {
      ptx::copy16(ptx::shared_address(place), source, have * 2);
    } else if (grain == 4) {
#pragma unroll
      for (int j = 0; j < 4; j++)
        ptx::copy4(ptx::shared_address(place) + 4 * j, source + (2 * j < have ? 2 * j : 0),
                   max(0, min(4, have * 2 - 4 * j)));
    } else {
      uint4 raw{};
      T* const r = reinterpret_cast<T*>(&raw);
#pragma unroll
      for (int j = 0; j < 8; j++)
        if (j < have) r[j] = source[j];
      *reinterpret_cast<uint4*>(place) = raw;
    }
  }
}

template <class T, int BM, int BN, int WM, int WN>
__global__ void __launch_bounds__(BM / WM * (BN / WN) * 32)
    linear_tile(const __grid_constant__ LinearArgs p, const Grain grain) {
  constexpr int kThreads = BM / WM * (BN / WN) * 32;
  constexpr int kStage = (BM + BN) * 64;
  static_assert(kThreads / 32 * 16 * kSlabLine<WN> * 4 <= kTileStages * kStage);
  extern __shared__ __align__(128) uint8_t memory[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int wm = warp % (BM / WM) * WM, wn = warp / (BM / WM) * WN;
  const int64_t tiles_m = (p.rows + BM - 1) / BM, tiles_n = (p.features + BN - 1) / BN;
  const int64_t tiles = tiles_m * tiles_n * p.splits;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    // Tiles of the same features follow each other, so that the weights are read while they are in L2.
    const int64_t m0 = tile % tiles_m * BM, n0 = tile / tiles_m % tiles_n * BN, split = tile / tiles_m / tiles_n;
    const int64_t begin = split * p.part, end = begin + p.part < p.in ? begin + p.part : p.in;
    const int64_t steps = (end - begin + kTileDepth - 1) / kTileDepth;
    const auto copy = [&](int64_t step) {
      if (step < steps) {
        uint8_t* const to = memory + step % kTileStages * kStage;
        const int64_t k = begin + step * kTileDepth;
        copy_rows<T, BM, kThreads>(to, p.x, p.x_stride, m0, p.rows, k, end, grain.x);
        copy_rows<T, BN, kThreads>(to + BM * 64, p.weight, p.weight_stride, n0, p.features, k, end, grain.weight);
      }
      ptx::copy_commit();
    };
    float sums[WM / 16][WN / 8][4] = {};
    for (int64_t s = 0; s < kTileStages - 1; s++) copy(s);
    for (int64_t step = 0; step < steps; step++) {
      ptx::copy_wait<kTileStages - 2>();
      __syncthreads();  // this step has come in for all, and the stage of the one before is free
      copy(step + kTileStages - 1);
      const uint32_t x = ptx::shared_address(memory) + static_cast<uint32_t>(step % kTileStages * kStage);
      const uint32_t weight = x + BM * 64;
#pragma unroll
      for (int k = 0; k < kTileDepth / 16; k++) {
        uint32_t a[WM / 16][4], b[WN / 16][4];
#pragma unroll
        for (int i = 0; i < WM / 16; i++)  // rows 0…7, 8…15, then both eight elements further
          ptx::load_matrices(a[i], x + chunk_at(wm + 16 * i + lane % 16, 2 * k + lane / 16));
#pragma unroll
        for (int j = 0; j < WN / 16; j++)  // features 0…7, eight elements further, then features 8…15
          ptx::load_matrices(b[j], weight + chunk_at(wn + 16 * j + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
#pragma unroll
        for (int i = 0; i < WM / 16; i++)
#pragma unroll
          for (int j = 0; j < WN / 8; j++)
            ptx::mma(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1], T());
      }
    }
    ptx::copy_wait<0>();
    __syncthreads();  // the ring is free
    if (p.splits > 1) {
#pragma unroll
      for (int i = 0; i < WM / 16; i++)
#pragma unroll
        for (int j = 0; j < WN / 8; j++)
#pragma unroll
          for (int q = 0; q < 4; q++) {
            const int64_t row = m0 + wm + 16 * i + lane / 4 + q / 2 * 8;
            const int64_t feature = n0 + wn + 8 * j + lane % 4 * 2 + q % 2;
            if (row < p.rows && feature < p.features)
              p.partial[(split * p.rows + row) * p.features + feature] = sums[i][j][q];
          }
      continue;
    }
    float* const slab = reinterpret_cast<float*>(memory) + warp * 16 * kSlabLine<WN>;
#pragma unroll
    for (int i = 0; i < WM / 16; i++) {
      put_slab<WN>(sums[i], slab);
      __syncwarp();
      finish_slab<T, WN>(p, slab, m0 + wm + 16 * i, n0 + wn);
      __syncwarp();
    }
    __syncthreads();  // before the next tile's copies
  }
}

}  // namespace seqmix::cuda
