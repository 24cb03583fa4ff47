// Flash attention (Dao, FlashAttention-2, 2023) on the tensor cores of any GPU since Ampere, for one 16-bit dtype T:
// out = softmax(s) v without the matrix s ever being in memory.
//
// A block owns a tile of rows (queries, with the heads of a group packed) and walks the tiles of keys that any of them
// sees, from the last to the first; those that all of them see whole are not masked. Each warp has MT·16 rows for
// itself: s = q·kᵀ comes out of the tensor cores as float32 in registers, gets its largest element and becomes weights
// 2^(s·scale − top), which are at once the left operand of the product with v. The weights of 16 keys are made while
// those of the 16 keys before are multiplied. Queries lie in shared memory, keys and values too, where the next tile is
// copied meanwhile (of 256 elements, whose tiles leave no room for that, keys are copied during the product with v
// and the other way round; where these meet many keys, flash_attention_together.cuh is faster).
//
// A key that a row does not see has weight 0, but 0 · NaN is NaN: v's row would reach queries that must not see it. It
// can only where a tile is masked. A block whose results are not all finite therefore does its work once more,
// carefully: in masked tiles it takes what is not finite out of v, and adds it to those rows alone that see it.
//
// Floor: 2 (d + dv) operations for each pair of a query and a key it sees, on the tensor cores; an exponential for each
// (at d = 64 these take as long as the products).
#pragma once
#include "cuda/kernels/sm80/flash_attention_rows.cuh"

namespace seqmix::cuda {

// D: elements of a row. WARPS with MT·16 rows each; tiles of KEYS, STAGES of them in shared memory.
template <int D_, int MT_, int WARPS_, int KEYS_, int STAGES_, int BLOCKS_>
struct AttentionShape {
  static constexpr int D = D_, MT = MT_, WARPS = WARPS_, KEYS = KEYS_, STAGES = STAGES_, BLOCKS = BLOCKS_;
  static constexpr int kRows = WARPS * MT * 16, kThreads = WARPS * 32;
  static constexpr int kOwnColumns = D;  // of a warp
  static constexpr int kQueryBytes = kRows * D * 2, kTileBytes = KEYS * D * 2;
  static constexpr int kShared = kQueryBytes + 2 * STAGES * kTileBytes;
};

// Adds what is not finite of v's tile to the rows that see it, and leaves 0 in its place.
template <class T, class Shape>
__device__ __forceinline__ void take_out(uint8_t* tile, const AttentionArgs& p, const AttentionTask& t, int j0,
                                         int row0, int column0, float (&out)[Shape::MT][Shape::kOwnColumns / 8][4]) {
  using Rows = AttentionRows<Shape::D>;
  const auto value = [&](int j, int column) {
    return reinterpret_cast<T*>(tile + Rows::place(j, column / 8)) + column % 8;
  };
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int m = 0; m < Shape::MT; m++)
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int row = row0 + m * 16 + i * 8 + lane / 4;
      const KeyRange range = keys_of(p, t, static_cast<int>(p.by_group.quotient(row)));
#pragma unroll
      for (int n = 0; n < Shape::kOwnColumns / 8; n++)
#pragma unroll 1
        for (int j = max(0, range.from - j0); j < min(Shape::KEYS, range.to - j0); j++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            const float x = widen(*value(j, column0 + n * 8 + lane % 4 * 2 + e));
            if (!isfinite(x)) out[m][n][2 * i + e] += x;
          }
    }
  __syncthreads();
  for (int i = threadIdx.x; i < Shape::KEYS * Shape::D; i += Shape::kThreads) {
    T* const x = value(i / Shape::D, i % Shape::D);
    if (!isfinite(widen(*x))) *x = narrow<T>(0.0f);
  }
  __syncthreads();
}

// This lane's two elements, from column c on, of a row of what rounding took from the queries.
__device__ __forceinline__ uint32_t low_pair(const AttentionArgs& p, const AttentionTask& t, int row, int c) {
  c += threadIdx.x % 4 * 2;
  if (c >= p.d || row >= t.rows) return 0;
  const int query = static_cast<int>(p.by_group.quotient(row)), head = t.head * p.group + row - query * p.group;
  const int64_t at = t.q_b * p.q.b + (t.q_first + query) * p.q.t + head * p.q.h + c;
  return *reinterpret_cast<const uint32_t*>(static_cast<const uint16_t*>(p.q_low) + at);
}

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::BLOCKS)
    flash_attention_tile(const __grid_constant__ AttentionArgs p) {
  constexpr int D = Shape::D, MT = Shape::MT, KEYS = Shape::KEYS, kThreads = Shape::kThreads;
  constexpr int kDepths = D / 16, kBlocks = KEYS / 8, kOut = D / 8;
  using Rows = AttentionRows<D>;
  extern __shared__ __align__(128) uint8_t memory[];
  __shared__ AttentionBlock block;
  const uint32_t queries = ptx::shared_address(memory), tiles = queries + Shape::kQueryBytes;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  find_block<Shape::kRows, KEYS, D>(p, block);
  ptx::let_next_kernel_begin();
  const AttentionTask& t = block.task;
  const KeyTiles& range = block.tiles;
  if (t.first >= t.rows) return;
  const int band = warp * MT * 16, row0 = t.first + band;  // this warp's first row
  const float scale = p.bent ? 1.0f : p.scale_log2;

  copy_queries<D, Shape::kRows, kThreads>(queries, p, t, p.q.data);
  constexpr uint32_t kValues = Shape::STAGES * Shape::kTileBytes;  // behind the keys
  const auto copy_k = [&](int tile, uint32_t offset) {
    copy_keys<D, KEYS, kThreads>(tiles + offset, p, block, p.k, block.k, p.d, tile);
  };
  const auto copy_v = [&](int tile, uint32_t offset) {
    copy_keys<D, KEYS, kThreads>(tiles + kValues + offset, p, block, p.v, block.v, p.dv, tile);
  };

  // A lane's row of each matrix that it loads: of queries and values rows 0 … 15, then the same eight elements further;
  // of keys rows 0 … 7, the same eight elements further, then rows 8 … 15.
  const uint32_t query_at = queries + Rows::place(band + lane % 16, lane / 16);
  const uint32_t key_at = tiles + Rows::place(lane % 8 + lane / 16 * 8, lane / 8 % 2);
  const uint32_t value_at = tiles + kValues + Rows::place(lane % 16, lane / 16);

  float out[MT][kOut][4];
  RunningSoftmax<MT> softmax;
  for (int pass = 0; pass < 2; pass++) {
    copy_k(range.to - 1, 0);
    if (Shape::STAGES == 2) copy_v(range.to - 1, 0);
    ptx::copy_commit();
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
      for (int n = 0; n < kOut; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) out[m][n][i] = 0;
    softmax.clear();
    uint32_t offset = 0;  // of this tile's stage
    for (int tile = range.to - 1; tile >= range.from; tile--) {
      ptx::copy_wait<0>();
      __syncthreads();  // this tile has come in for all, and nobody reads the one before any more
      if (Shape::STAGES == 2) {
        copy_k(tile - 1, offset ^ Shape::kTileBytes);
        copy_v(tile - 1, offset ^ Shape::kTileBytes);
      } else {
        copy_v(tile, 0);
      }
      ptx::copy_commit();
      const bool whole = tile >= range.whole_from && tile < range.whole_to;
      if (pass == 1 && !whole) {
        ptx::copy_wait<0>();
        __syncthreads();
        take_out<T, Shape>(memory + Shape::kQueryBytes + kValues + offset, p, t, tile * KEYS, row0, 0, out);
      }

      float s[MT][kBlocks][4] = {};
#pragma unroll
      for (int d = 0; d < kDepths; d++) {
        uint32_t a[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++) ptx::load_matrices(a[m], Rows::further(query_at, d) + m * 16 * Rows::kBytes);
#pragma unroll
        for (int n = 0; n < kBlocks / 2; n++) {
          uint32_t b[4];
          ptx::load_matrices(b, Rows::further(key_at, d) + offset + n * 16 * Rows::kBytes);
#pragma unroll
          for (int m = 0; m < MT; m++) {
            ptx::mma(s[m][2 * n], a[m], b[0], b[1], T());
            ptx::mma(s[m][2 * n + 1], a[m], b[2], b[3], T());
          }
        }
      }
      if (p.q_low) {
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll 1
          for (int d = 0; d < kDepths; d++) {
            uint32_t a[4];
#pragma unroll
            for (int i = 0; i < 4; i++) a[i] = low_pair(p, t, row0 + m * 16 + i % 2 * 8 + lane / 4, d * 16 + i / 2 * 8);
#pragma unroll
            for (int n = 0; n < kBlocks / 2; n++) {
              uint32_t b[4];
              ptx::load_matrices(b, Rows::further(key_at, d) + offset + n * 16 * Rows::kBytes);
              ptx::mma(s[m][2 * n], a, b[0], b[1], T());
              ptx::mma(s[m][2 * n + 1], a, b[2], b[3], T());
            }
          }
      }
      // Two loops, so that the mask of most does not have to jump over what few need.
      if (p.bent) {
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
          for (int i = 0; i < 2; i++) {
            const int row = min(row0 + m * 16 + i * 8 + lane / 4, t.rows - 1);
            const BentScore bend(p, t, row, tile * KEYS + lane % 4 * 2);
#pragma unroll
            for (int n = 0; n < kBlocks; n++)
#pragma unroll
              for (int e = 0; e < 2; e++) s[m][n][2 * i + e] = bend(s[m][n][2 * i + e], n * 8 + e);
          }
      }
      if (!whole) {
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
          for (int i = 0; i < 2; i++) {
            const int row = row0 + m * 16 + i * 8 + lane / 4, j = tile * KEYS + lane % 4 * 2;
            const KeyRange seen = keys_of(p, t, static_cast<int>(p.by_group.quotient(row)));
            const int from = seen.from - j, to = seen.to - j;
#pragma unroll
            for (int n = 0; n < kBlocks; n++)
#pragma unroll
              for (int e = 0; e < 2; e++)
                if (n * 8 + e < from || n * 8 + e >= to) s[m][n][2 * i + e] = -INFINITY;
          }
      }
      softmax.raise(s, out, scale);
      if (Shape::STAGES == 1) {
        ptx::copy_wait<0>();
        __syncthreads();  // the values have come in, and nobody reads these keys any more
        copy_k(tile - 1, 0);
        ptx::copy_commit();
      }

      constexpr int kSteps = KEYS / 16;  // of 16 keys
      uint32_t w[2][MT][4];
      const auto make = [&](int step, int which) {  // the which-th of 4·MT pairs
        const int m = which / 4, i = which % 2, n = 2 * step + which / 2 % 2;
        w[step % 2][m][which % 4] = softmax.template weights<T>(s[m][n][2 * i], s[m][n][2 * i + 1], scale, m, i);
      };
#pragma unroll
      for (int i = 0; i < 4 * MT; i++) make(0, i);
#pragma unroll
      for (int step = 0; step < kSteps; step++) {
        int made = 0;
#pragma unroll
        for (int n = 0; n < kOut / 2; n++) {
          uint32_t b[4];
          ptx::load_matrices_transposed(b, Rows::further(value_at, n) + offset + step * 16 * Rows::kBytes);
          if (step + 1 < kSteps)
            for (; made < 4 * MT * (n + 1) / (kOut / 2); made++) make(step + 1, made);
#pragma unroll
          for (int m = 0; m < MT; m++) {
            ptx::mma(out[m][2 * n], w[step % 2][m], b[0], b[1], T());
            ptx::mma(out[m][2 * n + 1], w[step % 2][m], b[2], b[3], T());
          }
        }
      }
      if (Shape::STAGES == 2) offset ^= Shape::kTileBytes;
    }

    const bool masked = range.from < range.whole_from || range.to > range.whole_to;
    if (pass == 1 || !masked) break;
    float not_finite[MT][2] = {};
#pragma unroll
    for (int n = 0; n < kOut; n++)
#pragma unroll
      for (int m = 0; m < MT; m++)
#pragma unroll
        for (int i = 0; i < 2; i++)
          not_finite[m][i] = fmaf(out[m][n][2 * i], 0.0f, fmaf(out[m][n][2 * i + 1], 0.0f, not_finite[m][i]));
    bool spoilt = false;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
      for (int i = 0; i < 2; i++)
        spoilt = spoilt || (not_finite[m][i] != 0 && row0 + m * 16 + i * 8 + lane / 4 < t.rows);
    if (!__syncthreads_or(spoilt)) break;
  }
  ptx::copy_wait<0>();
  __syncthreads();
  const bool lost = block.lost;
  if (lost && threadIdx.x == 0) report_index_error(p.index_error, p.error);

  const AttentionTask done = t;  // once, and not again after every store
#pragma unroll
  for (int m = 0; m < MT; m++)
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int row = row0 + m * 16 + i * 8 + lane / 4;
      float sum = softmax.sum[m][i], top = softmax.top[m][i];
      sum += __shfl_xor_sync(kFullWarp, sum, 1);
      sum += __shfl_xor_sync(kFullWarp, sum, 2);
      float times = 1;  // what is left of 2^top
      const bool there = row < done.rows;
      if (p.sinks.data && !p.partial && there && !done.idle && !lost) {
        const float sink = p.sinks.at(out_row(p, done, row) % p.hq) * kLog2E;
        const float higher = fmaxf(top, sink);
        times = ptx::ex2(top - higher);
        sum = fmaf(sum, times, ptx::ex2(sink - higher));
        top = higher;
      }
      const bool none = sum == 0 || lost;
      const float by = none ? 0.0f : times / sum;
      const float lse = none ? -INFINITY : top + log2f(sum);
      if (!p.partial) {
        if (there && lane % 4 == 0) put_lse(p, done, row, lse * 0.693147181f);
        // Through the warp's own rows of queries, so that whole rows leave.
        const uint32_t to = queries + Rows::place(band + m * 16 + i * 8 + lane / 4, 0) + lane % 4 * 4;
#pragma unroll
        for (int n = 0; n < kOut; n++)
          ptx::store_shared(Rows::further(to, n / 2) ^ (n % 2 << 4),
                            none ? 0u : pack<T>(out[m][n][2 * i] * by, out[m][n][2 * i + 1] * by));
      } else if (there) {
        const int64_t at = done.split * (p.batch * p.sq * p.hq) + out_row(p, done, row);
        if (lane % 4 == 0) p.part_lse[at] = lost || done.idle ? INFINITY : lse;
        float* const to = p.partial + at * p.dv + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < kOut; n++)
          if (!none && n * 8 < p.dv)
            *reinterpret_cast<float2*>(to + n * 8) = {out[m][n][2 * i] * by, out[m][n][2 * i + 1] * by};
      }
    }
  if (p.partial) return;
  __syncwarp();
  constexpr int kLanes = Rows::kGroup;  // of a row
  const int piece = lane % kLanes;
#pragma unroll
  for (int row = lane / kLanes; row < MT * 16; row += 32 / kLanes) {
    if (row0 + row >= done.rows) break;
    const uint8_t* const from = memory + Rows::place(band + row, piece);
    T* const to = static_cast<T*>(p.out) + out_row(p, done, row0 + row) * p.dv + piece * 8;
#pragma unroll
    for (int g = 0; g < Rows::kGroups; g++) {
      if ((g * kLanes + piece) * 8 >= p.dv) break;
      const uint4 x = *reinterpret_cast<const uint4*>(from + g * kLanes * 16);
      ptx::store4(to + g * kLanes * 8, x.x, x.y, x.z, x.w);
    }
  }
}

}  // namespace seqmix::cuda
