// Flash attention (Dao, FlashAttention-2, 2023) on the tensor cores of any GPU since Ampere, for one 16-bit dtype T:
// out = softmax(s) v without the matrix s ever being in memory.
//
// A block owns a tile of rows (queries, with the heads of a group packed) and walks the tiles of keys that any of them
// sees, from the last to the first; those that all of them see whole are not masked. Each warp has MT·16 rows for
// itself: s = q·kᵀ comes out of the tensor cores as float32 in registers, gets its largest element and becomes weights
// 2^(s·scale − top), which are at once the left operand of the product with v. The weights of 16 keys are made while
// those of the 16 keys before are multiplied. Queries lie in shared memory, keys and values too, where the next tile is
// copied meanwhile (of 256 elements, whose tiles leave no room for that, keys are copied during the product with v
// and the other way round).
//
// Of 256 elements, 16 rows of out are all that a warp's registers hold, and so few use each matrix of keys and values
// too seldom: shared memory is then busier than the tensor cores. Where keys are many and shared memory is large, two
// warps therefore share 32 rows: each makes the weights of half of a tile's keys, hands them to the other through
// shared memory, and multiplies all of them with its half of v's columns. That is a third fewer reads. The next tile's
// copies are set off one by one between the products, which otherwise would wait for all of them.
//
// A key that a row does not see has weight 0, but 0 · NaN is NaN: v's row would reach queries that must not see it. It
// can only where a tile is masked. A block whose results are not all finite therefore does its work once more,
// carefully: in masked tiles it takes what is not finite out of v, and adds it to those rows alone that see it.
//
// Floor: 2 (d + dv) operations for each pair of a query and a key it sees, on the tensor cores; an exponential for each
// (at d = 64 these take as long as the products).
#pragma once
#include "cuda/kernels/sm80/flash_attention_rows.cuh"
#include "cuda/ptx/barrier.cuh"

namespace seqmix::cuda {

// D: elements of a row. WARPS with MT·16 rows each, SHARE (1 or 2) of them the same ones; tiles of KEYS, STAGES of them
// in shared memory.
template <int D_, int MT_, int SHARE_, int WARPS_, int KEYS_, int STAGES_, int BLOCKS_>
struct AttentionShape {
  static constexpr int D = D_, MT = MT_, SHARE = SHARE_, WARPS = WARPS_, KEYS = KEYS_, STAGES = STAGES_;
  static constexpr int BLOCKS = BLOCKS_;
  static constexpr int kRows = WARPS / SHARE * MT * 16, kThreads = WARPS * 32;
  static constexpr int kOwnKeys = KEYS / SHARE, kOwnColumns = D / SHARE;  // of a warp
  static constexpr int kQueryBytes = kRows * D * 2, kTileBytes = KEYS * D * 2;
  static constexpr int kWeightBytes = MT * kOwnKeys * 32;                 // of a warp
  static constexpr int kWeights = kQueryBytes + 2 * STAGES * kTileBytes;  // where they begin
  static constexpr int kShared = kWeights + (SHARE == 2 ? WARPS * kWeightBytes : 0);
  static_assert(SHARE == 1 || (SHARE == 2 && STAGES == 2 && kOwnColumns % 64 == 0));
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
  constexpr int SHARE = Shape::SHARE, kOwnKeys = Shape::kOwnKeys;
  constexpr int kDepths = D / 16, kBlocks = kOwnKeys / 8, kOut = Shape::kOwnColumns / 8;
  constexpr int kAhead = SHARE == 2 ? 2 : 0,
                kValuesAhead = 2 * kAhead;  // how many steps before their use matrices load
  using Rows = AttentionRows<D>;
  extern __shared__ __align__(128) uint8_t memory[];
  __shared__ AttentionBlock block;
  __shared__ float of_rows[SHARE == 2 ? Shape::WARPS : 1][2 * MT][32];
  const uint32_t queries = ptx::shared_address(memory), tiles = queries + Shape::kQueryBytes;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  find_block<Shape::kRows, KEYS, D>(p, block);
  ptx::let_next_kernel_begin();
  const AttentionTask& t = block.task;
  const KeyTiles& range = block.tiles;
  if (t.first >= t.rows) return;
  const int part = warp % SHARE, column0 = part * Shape::kOwnColumns;  // of those that share rows; its columns
  const int band = warp / SHARE * MT * 16, row0 = t.first + band;      // this warp's first row
  // What the same lane of the other warp that has these rows holds for them.
  const auto exchange = [&](const float (&mine)[MT][2], float (&others)[MT][2]) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
      for (int i = 0; i < 2; i++) of_rows[warp][2 * m + i][lane] = mine[m][i];
    ptx::meet(1 + warp / SHARE, 32 * SHARE);
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
      for (int i = 0; i < 2; i++) others[m][i] = of_rows[warp ^ 1][2 * m + i][lane];
  };
  const float scale = p.bent ? 1.0f : p.scale_log2;

  copy_queries<D, Shape::kRows, kThreads>(queries, p, t, p.q.data);
  constexpr uint32_t kValues = Shape::STAGES * Shape::kTileBytes;  // behind the keys
  const auto copy_k = [&](int tile, uint32_t offset) {
    copy_keys<D, KEYS, kThreads>(tiles + offset, p, block, p.k, block.k, p.d, tile);
  };
  const auto copy_v = [&](int tile, uint32_t offset) {
    copy_keys<D, KEYS, kThreads>(tiles + kValues + offset, p, block, p.v, block.v, p.dv, tile);
  };

  // A thread's pieces of a tile of `plain` keys, one at a time: the i'th of those from `row` on, this thread's first.
  constexpr int kStep = kThreads / Rows::kGroup, kPieces = KEYS / kStep * Rows::kGroups;
  static_assert(SHARE == 1 || (kPieces <= kDepths && kPieces <= kOut));
  const int first = static_cast<int>(threadIdx.x) / Rows::kGroup, column = threadIdx.x % Rows::kGroup * 8;
  const uint32_t piece_at = tiles + Rows::place(first, column / 8);
  const auto copy_piece = [&](bool yes, uint32_t offset, const uint16_t* row, const AttentionTensor& x, int i) {
    const int down = i / Rows::kGroups * kStep, group = i % Rows::kGroups * Rows::kGroup;
    ptx::copy16_if(yes, piece_at + offset + down * Rows::kBytes + group * 16, row + down * x.t + group * 8);
  };

  // A lane's row of each matrix that it loads: of queries and values rows 0 … 15, then the same eight elements further;
  // of keys rows 0 … 7, the same eight elements further, then rows 8 … 15.
  const uint32_t query_at = queries + Rows::place(band + lane % 16, lane / 16);
  const uint32_t key_at = tiles + Rows::place(part * kOwnKeys + lane % 8 + lane / 16 * 8, lane / 8 % 2);
  const uint32_t value_at = tiles + kValues + Rows::place(lane % 16, lane / 16) + column0 * 2;
  const uint32_t weight_at = queries + Shape::kWeights + warp * Shape::kWeightBytes + lane * 16;

  const auto begin = [&] {
    copy_k(range.to - 1, 0);
    if (Shape::STAGES == 2) copy_v(range.to - 1, 0);
    ptx::copy_commit();
  };

  if (SHARE == 2) begin();  // (here it costs the other shapes registers)
  float out[MT][kOut][4];
  RunningSoftmax<MT> softmax;
  for (int pass = 0; pass < 2; pass++) {
    if (SHARE == 1 || pass == 1) begin();
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
      for (int n = 0; n < kOut; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) out[m][n][i] = 0;
    softmax.clear();
    uint32_t offset = 0;                                 // of this tile's stage
    const int64_t next = (range.to - 2) * KEYS + first;  // this thread's first key of the next tile
    const uint16_t *k_row = block.k + (next * p.k.t + column), *v_row = block.v + (next * p.v.t + column);
    for (int tile = range.to - 1; tile >= range.from; tile--) {
      ptx::copy_wait<0>();
      __syncthreads();  // this tile has come in for all, and nobody reads the one before any more
      // Whether the next tile's pieces are copied one by one.
      const bool by_piece = SHARE == 2 && pass == 0 && tile > range.from && tile <= block.plain;
      if (!by_piece) {
        if (Shape::STAGES == 2) {
          copy_k(tile - 1, offset ^ Shape::kTileBytes);
          copy_v(tile - 1, offset ^ Shape::kTileBytes);
        } else {
          copy_v(tile, 0);
        }
        ptx::copy_commit();
      }
      const bool whole = tile >= range.whole_from && tile < range.whole_to;
      if (pass == 1 && !whole) {
        ptx::copy_wait<0>();
        __syncthreads();
        take_out<T, Shape>(memory + Shape::kQueryBytes + kValues + offset, p, t, tile * KEYS, row0, column0, out);
      }

      float s[MT][kBlocks][4] = {};
      uint32_t a[kAhead + 1][MT][4], b[kAhead + 1][kBlocks / 2][4];
      const auto load_q = [&](int d) {
#pragma unroll
        for (int m = 0; m < MT; m++)
          ptx::load_matrices(a[d % (kAhead + 1)][m], Rows::further(query_at, d) + m * 16 * Rows::kBytes);
      };
      const auto load_k = [&](int d, int n) {
        ptx::load_matrices(b[d % (kAhead + 1)][n], Rows::further(key_at, d) + offset + n * 16 * Rows::kBytes);
      };
#pragma unroll
      for (int d = 0; d < kAhead; d++) {
        load_q(d);
#pragma unroll
        for (int n = 0; n < kBlocks / 2; n++) load_k(d, n);
      }
#pragma unroll
      for (int d = 0; d < kDepths; d++) {
        if (d + kAhead < kDepths) {
          load_q(d + kAhead);
#pragma unroll
          for (int n = 0; n < kBlocks / 2 && kAhead > 0; n++) load_k(d + kAhead, n);
        }
        if (SHARE == 2 && d < kPieces) copy_piece(by_piece, offset ^ Shape::kTileBytes, k_row, p.k, d);
#pragma unroll
        for (int n = 0; n < kBlocks / 2; n++) {
          if (kAhead == 0) load_k(d, n);
#pragma unroll
          for (int m = 0; m < MT; m++) {
            ptx::mma(s[m][2 * n], a[d % (kAhead + 1)][m], b[d % (kAhead + 1)][n][0], b[d % (kAhead + 1)][n][1], T());
            ptx::mma(s[m][2 * n + 1], a[d % (kAhead + 1)][m], b[d % (kAhead + 1)][n][2], b[d % (kAhead + 1)][n][3],
                     T());
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
            const BentScore bend(p, t, row, tile * KEYS + part * kOwnKeys + lane % 4 * 2);
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
            const int row = row0 + m * 16 + i * 8 + lane / 4, j = tile * KEYS + part * kOwnKeys + lane % 4 * 2;
            const KeyRange seen = keys_of(p, t, static_cast<int>(p.by_group.quotient(row)));
            const int from = seen.from - j, to = seen.to - j;
#pragma unroll
            for (int n = 0; n < kBlocks; n++)
#pragma unroll
              for (int e = 0; e < 2; e++)
                if (n * 8 + e < from || n * 8 + e >= to) s[m][n][2 * i + e] = -INFINITY;
          }
      }
      if constexpr (SHARE == 1) {
        softmax.raise(s, out, scale);
      } else {
        float most[MT][2], others[MT][2];
        // Both warps move their rows, or none.
        if (ptx::meet_any(1 + warp / SHARE, 32 * SHARE, softmax.rises(s, most, scale))) {
          exchange(most, others);
#pragma unroll
          for (int m = 0; m < MT; m++)
#pragma unroll
            for (int i = 0; i < 2; i++) most[m][i] = fmaxf(most[m][i], others[m][i]);
          softmax.move(most, out);
        }
      }
      if (Shape::STAGES == 1) {
        ptx::copy_wait<0>();
        __syncthreads();  // the values have come in, and nobody reads these keys any more
        copy_k(tile - 1, 0);
        ptx::copy_commit();
      }

      // First the warp's own keys, 16 a step, then the other's.
      constexpr int kSteps = kOwnKeys / 16, kLoads = SHARE * kSteps * (kOut / 2);
      uint32_t w[2][MT][4];
      const auto make = [&](int step, int which) {  // of 16 keys, the which-th of 4·MT pairs
        const int m = which / 4, i = which % 2, n = 2 * step + which / 2 % 2;
        uint32_t (&to)[4] = w[step % 2][m];
        to[which % 4] = softmax.template weights<T>(s[m][n][2 * i], s[m][n][2 * i + 1], scale, m, i);
        if (SHARE == 2 && which % 4 == 3)
          ptx::store_shared(weight_at + (step * MT + m) * 512, make_uint4(to[0], to[1], to[2], to[3]));
      };
      uint32_t v[kValuesAhead + 1][4];
      const auto load_v = [&](int i) {
        const int step = i / (kOut / 2), n = i % (kOut / 2), keys = (step < kSteps ? part : part ^ 1) * kOwnKeys;
        ptx::load_matrices_transposed(v[i % (kValuesAhead + 1)],
                                      Rows::further(value_at, n) + offset + (keys + step % kSteps * 16) * Rows::kBytes);
      };
#pragma unroll
      for (int i = 0; i < kValuesAhead; i++) load_v(i);
#pragma unroll
      for (int i = 0; i < 4 * MT; i++) make(0, i);
#pragma unroll
      for (int step = 0; step < SHARE * kSteps; step++) {
        int made = 0;
#pragma unroll
        for (int n = 0; n < kOut / 2; n++) {
          const int i = step * (kOut / 2) + n;
          if (i + kValuesAhead < kLoads) load_v(i + kValuesAhead);
          if (SHARE == 2 && i < kPieces) copy_piece(by_piece, (offset ^ Shape::kTileBytes) + kValues, v_row, p.v, i);
          if (SHARE == 2 && n == kOut / 4 && step + 1 >= kSteps && step + 1 < SHARE * kSteps) {
            if (step + 1 == kSteps) ptx::meet(1 + warp / SHARE, 32 * SHARE);
            const uint32_t theirs = weight_at + (part == 0 ? Shape::kWeightBytes : -Shape::kWeightBytes);
#pragma unroll
            for (int m = 0; m < MT; m++)
              ptx::load_shared(w[(step + 1) % 2][m], theirs + ((step + 1 - kSteps) * MT + m) * 512);
          }
          if (step + 1 < kSteps)
            for (; made < 4 * MT * (n + 1) / (kOut / 2); made++) make(step + 1, made);
          const uint32_t (&b)[4] = v[i % (kValuesAhead + 1)];
#pragma unroll
          for (int m = 0; m < MT; m++) {
            ptx::mma(out[m][2 * n], w[step % 2][m], b[0], b[1], T());
            ptx::mma(out[m][2 * n + 1], w[step % 2][m], b[2], b[3], T());
          }
        }
      }
      if (SHARE == 2) {
        k_row -= KEYS * p.k.t;
        v_row -= KEYS * p.v.t;
        ptx::copy_commit();
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
  float others[MT][2] = {};      // sums
  if (SHARE == 2) exchange(softmax.sum, others);
#pragma unroll
  for (int m = 0; m < MT; m++)
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int row = row0 + m * 16 + i * 8 + lane / 4;
      float sum = softmax.sum[m][i] + others[m][i], top = softmax.top[m][i];
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
        if (there && lane % 4 == 0 && part == 0) put_lse(p, done, row, lse * 0.693147181f);
        // Through the warp's own rows of queries, so that whole rows leave.
        const uint32_t to = queries + Rows::place(band + m * 16 + i * 8 + lane / 4, 0) + column0 * 2 + lane % 4 * 4;
#pragma unroll
        for (int n = 0; n < kOut; n++)
          ptx::store_shared(Rows::further(to, n / 2) ^ (n % 2 << 4),
                            none ? 0u : pack<T>(out[m][n][2 * i] * by, out[m][n][2 * i + 1] * by));
      } else if (there) {
        const int64_t at = done.split * (p.batch * p.sq * p.hq) + out_row(p, done, row);
        if (lane % 4 == 0 && part == 0) p.part_lse[at] = lost || done.idle ? INFINITY : lse;
        float* const to = p.partial + at * p.dv + column0 + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < kOut; n++)
          if (!none && column0 + n * 8 < p.dv)
            *reinterpret_cast<float2*>(to + n * 8) = {out[m][n][2 * i] * by, out[m][n][2 * i + 1] * by};
      }
    }
  if (p.partial) return;
  __syncwarp();
  constexpr int kLanes = Rows::kGroup, kOwnGroups = Rows::kGroups / SHARE;  // of a row
  const int piece = part * kOwnGroups * kLanes + lane % kLanes;
#pragma unroll
  for (int row = lane / kLanes; row < MT * 16; row += 32 / kLanes) {
    if (row0 + row >= done.rows) break;
    const uint8_t* const from = memory + Rows::place(band + row, piece);
    T* const to = static_cast<T*>(p.out) + out_row(p, done, row0 + row) * p.dv + piece * 8;
#pragma unroll
    for (int g = 0; g < kOwnGroups; g++) {
      if ((g * kLanes + piece) * 8 >= p.dv) break;
      const uint4 x = *reinterpret_cast<const uint4*>(from + g * kLanes * 16);
      ptx::store4(to + g * kLanes * 8, x.x, x.y, x.z, x.w);
    }
  }
}

}  // namespace seqmix::cuda
