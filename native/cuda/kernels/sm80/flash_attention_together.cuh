// Flash attention (flash_attention.cuh) of rows of 256 elements that meet many keys.
//
// Of so many elements, 16 rows of out are all that a warp's registers hold, and so few use each matrix of keys and
// values too seldom: shared memory is then busier than the tensor cores. Two warps therefore share 32 rows: each makes
// the weights of half of a tile's keys, hands them to the other through shared memory, and multiplies all of them with
// its half of v's columns. That is a third fewer reads. The next tile's copies are set off one by one between the
// products, which otherwise would wait for all of them.
//
// A multiprocessor has room for one block, so that nothing else runs while a task's first tile comes in and its rows
// leave. Where all tasks take as long as each other, there are therefore only as many blocks as run at a time, and each
// does one task after another: the next one's first tile of keys comes in while the present one's last is walked, and
// its queries once the scores of that are made. Rows leave through the tile walked last, which nobody reads then.
//
// Floor: that of flash_attention.cuh.
#pragma once
#include "cuda/kernels/sm80/flash_attention.cuh"
#include "cuda/ptx/barrier.cuh"

namespace seqmix::cuda {

// D: elements of a row. WARPS, each two of them with the same MT·16 rows; tiles of KEYS.
template <int D_, int MT_, int WARPS_, int KEYS_>
struct TogetherShape {
  static constexpr int D = D_, MT = MT_, WARPS = WARPS_, KEYS = KEYS_;
  static constexpr int BLOCKS = 1, kThreads = WARPS * 32, kPair = 64;  // threads that share rows
  static constexpr int kBand = MT * 16, kRows = WARPS / 2 * kBand;     // rows of a warp, of a block
  static constexpr int kOwnKeys = KEYS / 2, kOwnColumns = D / 2;       // of a warp
  static constexpr int kQueryBytes = kRows * D * 2, kTileBytes = KEYS * D * 2;
  static constexpr int kWeightBytes = MT * kOwnKeys * 32;        // of a warp
  static constexpr int kWeights = kQueryBytes + 4 * kTileBytes;  // where they begin: behind two tiles of each
  static constexpr int kShared = kWeights + WARPS * kWeightBytes;
  static_assert(kOwnColumns % 64 == 0);
  static_assert(kRows == 2 * KEYS && KEYS % kBand == 0);  // half of the rows leave through keys, half through values
};

// The same number, of which the compiler does not know that: what follows from it is worked out where it is used, and
// does not take a register from there to there.
__device__ __forceinline__ int anew(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::BLOCKS)
    flash_attention_together(const __grid_constant__ AttentionArgs p) {
  constexpr int D = Shape::D, MT = Shape::MT, KEYS = Shape::KEYS, kThreads = Shape::kThreads;
  constexpr int kOwnKeys = Shape::kOwnKeys, kBand = Shape::kBand, kPair = Shape::kPair;
  constexpr int kDepths = D / 16, kBlocks = kOwnKeys / 8, kOut = Shape::kOwnColumns / 8;
  constexpr int kAhead = 2, kValuesAhead = 4;  // how many steps before their use matrices load
  constexpr int kFound = 8;                    // tasks that are found at a time
  using Rows = AttentionRows<D>;
  extern __shared__ __align__(128) uint8_t memory[];
  __shared__ AttentionBlock blocks[2 * kFound];  // those found last, and those before, which some warps still end
  __shared__ float of_rows[Shape::WARPS][2 * MT][32];
  const uint32_t queries = ptx::shared_address(memory), tiles = queries + Shape::kQueryBytes;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  find_block<Shape::kRows, KEYS, D>(p, blocks[0]);
  ptx::let_next_kernel_begin();
  if (blocks[0].task.first >= blocks[0].task.rows) return;
  const int part = warp % 2, column0 = part * Shape::kOwnColumns;  // of those that share rows; its columns
  const int band = warp / 2 * kBand;                               // this warp's first row
  const int meeting = 1 + warp / 2;                                // of the two
  // What the same lane of the other warp that has these rows holds for them.
  const auto exchange = [&](const float (&mine)[MT][2], float (&others)[MT][2]) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
      for (int i = 0; i < 2; i++) of_rows[warp][2 * m + i][lane] = mine[m][i];
    ptx::meet(meeting, kPair);
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
      for (int i = 0; i < 2; i++) others[m][i] = of_rows[warp ^ 1][2 * m + i][lane];
  };
  const float scale = p.bent ? 1.0f : p.scale_log2;

  constexpr uint32_t kValues = 2 * Shape::kTileBytes;  // behind the keys
  const auto copy_tile = [&](AttentionBlock& block, int tile, uint32_t offset) {
    copy_keys<D, KEYS, kThreads>(tiles + offset, p, block, p.k, block.k, p.d, tile);
    copy_keys<D, KEYS, kThreads>(tiles + kValues + offset, p, block, p.v, block.v, p.dv, tile);
  };
  // A thread's pieces of a tile of `plain` keys, one at a time: the i'th of those from `row` on, this thread's first.
  constexpr int kStep = kThreads / Rows::kGroup, kPieces = KEYS / kStep * Rows::kGroups;
  static_assert(kPieces <= kDepths && kPieces <= kOut);
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

  uint32_t offset = 0;  // of this tile's stage
  bool ahead = false;   // whether this task's queries and first tile are on their way
  int turn = 0;
  for (uint32_t number = blockIdx.x; number < p.tasks; number += gridDim.x, turn++) {
    AttentionBlock &block = blocks[turn % (2 * kFound)], &next_block = blocks[(turn + 1) % (2 * kFound)];
    const AttentionTask& t = block.task;
    const KeyTiles& range = block.tiles;
    const bool more = number + gridDim.x < p.tasks;
    if (more && warp == Shape::WARPS - 1 && turn % kFound == 0) {  // a lane each
      const uint32_t later = number + (1 + lane) * gridDim.x;
      if (lane < kFound && later < p.tasks) {
        AttentionTask next;
        if (!find_later_task<Shape::kRows>(p, later, next)) report_index_error(p.index_error, p.error);
        fill_block<Shape::kRows, KEYS, D>(p, next, blocks[(turn + 1 + lane) % (2 * kFound)]);
      }
    }
    const auto begin = [&] {
      copy_queries<D, Shape::kRows, kThreads>(queries, p, t, p.q.data, 0, anew(threadIdx.x));
      copy_tile(block, range.to - 1, offset);
      ptx::copy_commit();
    };

    float out[MT][kOut][4];
    RunningSoftmax<MT> softmax;
    for (int pass = 0; pass < 2; pass++) {
      if (!ahead) begin();
      ahead = pass == 0 && more && range.from < range.to;
#pragma unroll
      for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < kOut; n++)
#pragma unroll
          for (int i = 0; i < 4; i++) out[m][n][i] = 0;
      softmax.clear();
      const int64_t next = (range.to - 2) * KEYS + first;  // this thread's first key of the next tile
      const uint16_t *k_row = block.k + (next * p.k.t + column), *v_row = block.v + (next * p.v.t + column);
      for (int tile = range.to - 1; tile >= range.from; tile--) {
        ptx::copy_wait<0>();
        __syncthreads();  // this tile has come in for all, and nobody reads the one before any more
        // Whether the next tile's pieces are copied one by one.
        const bool last = tile == range.from;
        bool by_piece = pass == 0 && !last && tile <= block.plain;
        if (last && ahead) {
          const int to = next_block.tiles.to;
          by_piece = next_block.tiles.from < to && to <= next_block.plain;
          const int64_t key = (to - 1) * KEYS + first;
          k_row = next_block.k + (key * p.k.t + column);
          v_row = next_block.v + (key * p.v.t + column);
        }
        if (!by_piece) {
          AttentionBlock& of = last && ahead ? next_block : block;
          copy_tile(of, last && ahead ? of.tiles.to - 1 : tile - 1, offset ^ Shape::kTileBytes);
          ptx::copy_commit();
        }
        const bool whole = tile >= range.whole_from && tile < range.whole_to;
        if (pass == 1 && !whole) {
          ptx::copy_wait<0>();
          __syncthreads();
          take_out<T, Shape>(memory + Shape::kQueryBytes + kValues + offset, p, t, tile * KEYS, t.first + band, column0,
                             out);
        }

        float s[MT][kBlocks][4] = {};
        uint32_t a[kAhead + 1][MT][4], b[kAhead + 1][kBlocks / 2][4];
        const auto load = [&](int d) {
#pragma unroll
          for (int m = 0; m < MT; m++)
            ptx::load_matrices(a[d % (kAhead + 1)][m], Rows::further(query_at, d) + m * 16 * Rows::kBytes);
#pragma unroll
          for (int n = 0; n < kBlocks / 2; n++)
            ptx::load_matrices(b[d % (kAhead + 1)][n], Rows::further(key_at, d) + offset + n * 16 * Rows::kBytes);
        };
#pragma unroll
        for (int d = 0; d < kAhead; d++) load(d);
#pragma unroll
        for (int d = 0; d < kDepths; d++) {
          if (d + kAhead < kDepths) load(d + kAhead);
          if (d < kPieces) copy_piece(by_piece, offset ^ Shape::kTileBytes, k_row, p.k, d);
#pragma unroll
          for (int n = 0; n < kBlocks / 2; n++)
#pragma unroll
            for (int m = 0; m < MT; m++) {
              const uint32_t (&keys)[4] = b[d % (kAhead + 1)][n];
              ptx::mma(s[m][2 * n], a[d % (kAhead + 1)][m], keys[0], keys[1], T());
              ptx::mma(s[m][2 * n + 1], a[d % (kAhead + 1)][m], keys[2], keys[3], T());
            }
        }
        if (p.q_low) {
#pragma unroll
          for (int m = 0; m < MT; m++)
#pragma unroll 1
            for (int d = 0; d < kDepths; d++) {
              uint32_t low[4];
#pragma unroll
              for (int i = 0; i < 4; i++)
                low[i] = low_pair(p, t, t.first + band + m * 16 + i % 2 * 8 + lane / 4, d * 16 + i / 2 * 8);
#pragma unroll
              for (int n = 0; n < kBlocks / 2; n++) {
                uint32_t keys[4];
                ptx::load_matrices(keys, Rows::further(key_at, d) + offset + n * 16 * Rows::kBytes);
                ptx::mma(s[m][2 * n], low, keys[0], keys[1], T());
                ptx::mma(s[m][2 * n + 1], low, keys[2], keys[3], T());
              }
            }
        }
        // Two loops, so that the mask of most does not have to jump over what few need.
        const int row0 = t.first + band + lane / 4, j0 = tile * KEYS + part * kOwnKeys + lane % 4 * 2;
        if (p.bent) {
#pragma unroll
          for (int m = 0; m < MT; m++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
              const BentScore bend(p, t, min(row0 + m * 16 + i * 8, t.rows - 1), j0);
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
              const KeyRange seen = keys_of(p, t, static_cast<int>(p.by_group.quotient(row0 + m * 16 + i * 8)));
              const int from = seen.from - j0, to = seen.to - j0;
#pragma unroll
              for (int n = 0; n < kBlocks; n++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                  if (n * 8 + e < from || n * 8 + e >= to) s[m][n][2 * i + e] = -INFINITY;
            }
        }
        float most[MT][2], others[MT][2];
        // Both warps move their rows, or none.
        if (ptx::meet_any(meeting, kPair, softmax.rises(s, most, scale))) {
          exchange(most, others);
#pragma unroll
          for (int m = 0; m < MT; m++)
#pragma unroll
            for (int i = 0; i < 2; i++) most[m][i] = fmaxf(most[m][i], others[m][i]);
          softmax.move(most, out);
        }
        // Both have read these queries for the last time.
        if (last && ahead)
          copy_queries<D, kBand, kPair>(queries, p, next_block.task, p.q.data, band, anew(threadIdx.x) % kPair);

        // First the warp's own keys, 16 a step, then the other's.
        constexpr int kSteps = kOwnKeys / 16, kLoads = 2 * kSteps * (kOut / 2);
        uint32_t w[2][MT][4];
        const auto make = [&](int step, int which) {  // of 16 keys, the which-th of 4·MT pairs
          const int m = which / 4, i = which % 2, n = 2 * step + which / 2 % 2;
          uint32_t (&to)[4] = w[step % 2][m];
          to[which % 4] = softmax.template weights<T>(s[m][n][2 * i], s[m][n][2 * i + 1], scale, m, i);
          if (which % 4 == 3)
            ptx::store_shared(weight_at + (step * MT + m) * 512, make_uint4(to[0], to[1], to[2], to[3]));
        };
        uint32_t v[kValuesAhead + 1][4];
        const auto load_v = [&](int i) {
          const int step = i / (kOut / 2), n = i % (kOut / 2), keys = (step < kSteps ? part : part ^ 1) * kOwnKeys;
          ptx::load_matrices_transposed(v[i % (kValuesAhead + 1)], Rows::further(value_at, n) + offset +
                                                                       (keys + step % kSteps * 16) * Rows::kBytes);
        };
#pragma unroll
        for (int i = 0; i < kValuesAhead; i++) load_v(i);
#pragma unroll
        for (int i = 0; i < 4 * MT; i++) make(0, i);
#pragma unroll
        for (int step = 0; step < 2 * kSteps; step++) {
          int made = 0;
#pragma unroll
          for (int n = 0; n < kOut / 2; n++) {
            const int i = step * (kOut / 2) + n;
            if (i + kValuesAhead < kLoads) load_v(i + kValuesAhead);
            if (i < kPieces) copy_piece(by_piece, (offset ^ Shape::kTileBytes) + kValues, v_row, p.v, i);
            if (n == kOut / 4 && step + 1 >= kSteps && step + 1 < 2 * kSteps) {
              if (step + 1 == kSteps) ptx::meet(meeting, kPair);
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
        k_row -= KEYS * p.k.t;
        v_row -= KEYS * p.v.t;
        ptx::copy_commit();
        offset ^= Shape::kTileBytes;
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
          spoilt = spoilt || (not_finite[m][i] != 0 && t.first + band + m * 16 + i * 8 + lane / 4 < t.rows);
      if (!__syncthreads_or(spoilt)) break;
      ptx::copy_wait<0>();  // of what is the next task's: it has to come in once more
      __syncthreads();
      ahead = false;
    }
    if (!ahead) ptx::copy_wait<0>();
    __syncthreads();
    const bool lost = block.lost;
    if (lost && threadIdx.x == 0) report_index_error(p.index_error, p.error);

    const AttentionTask done = t;  // once, and not again after every store
    const int row0 = done.first + band, lane = anew(threadIdx.x) % 32;
    const uint32_t place = Shape::kQueryBytes + (offset ^ Shape::kTileBytes) + band / KEYS * kValues +
                           band % KEYS * Rows::kBytes;  // where this warp's rows leave through, from memory on
    float others[MT][2];                                // sums
    exchange(softmax.sum, others);
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
          // Through shared memory, so that whole rows leave.
          const uint32_t to = queries + place + Rows::place(m * 16 + i * 8 + lane / 4, 0) + column0 * 2 + lane % 4 * 4;
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
    if (p.partial) continue;
    __syncwarp();
    constexpr int kLanes = Rows::kGroup, kOwnGroups = Rows::kGroups / 2;  // of a row
    const int piece = part * kOwnGroups * kLanes + lane % kLanes;
#pragma unroll
    for (int row = lane / kLanes; row < kBand; row += 32 / kLanes) {
      if (row0 + row >= done.rows) break;
      const uint8_t* const from = memory + place + Rows::place(row, piece);
      T* const to = static_cast<T*>(p.out) + out_row(p, done, row0 + row) * p.dv + piece * 8;
#pragma unroll
      for (int g = 0; g < kOwnGroups; g++) {
        if ((g * kLanes + piece) * 8 >= p.dv) break;
        const uint4 x = *reinterpret_cast<const uint4*>(from + g * kLanes * 16);
        ptx::store4(to + g * kLanes * 8, x.x, x.y, x.z, x.w);
      }
    }
  }
}

}  // namespace seqmix::cuda
