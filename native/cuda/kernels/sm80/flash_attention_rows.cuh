// What the tensor-core kernels of flash attention share: tiles of rows in shared memory, and the softmax of a warp's
// scores as it goes along.
//
// A tile has rows of D elements of 16 bits in pieces of 16 bytes. Piece c of row r lies at place c ^ (r % 8), or, where
// D is no multiple of 64, at c ^ (r / 2 % 4), so that eight rows of a matrix come from different banks.
#pragma once
#include "cuda/kernels/any/flash_attention_args.cuh"
#include "cuda/kernels/any/math.cuh"
#include "cuda/kernels/any/vector.cuh"
#include "cuda/ptx/grid.cuh"
#include "cuda/ptx/tensor.cuh"

namespace seqmix::cuda {

template <int D>
struct AttentionRows {
  static_assert(D % 32 == 0);
  static constexpr int kBytes = D * 2;
  static constexpr int kGroup = D % 64 == 0 ? 8 : 4;  // pieces that change places among themselves
  static constexpr int kGroups = D / 8 / kGroup;

  __device__ static __forceinline__ int turn(int row) { return D % 64 == 0 ? row & 7 : row >> 1 & 3; }
  __device__ static __forceinline__ uint32_t place(int row, int piece) {
    return static_cast<uint32_t>(row * kBytes + ((piece ^ turn(row)) << 4));
  }
  // From the place of piece 0 or 1 of a row that of the piece 2·pair further.
  __device__ static __forceinline__ uint32_t further(uint32_t place, int pair) {
    constexpr int kPairs = kGroup / 2;
    return (place ^ static_cast<uint32_t>(pair % kPairs << 5)) + static_cast<uint32_t>(pair / kPairs * kGroup * 16);
  }
};

// What a block's threads look up seldom enough to leave their registers to other things.
struct AttentionBlock {
  AttentionTask task;
  KeyTiles tiles;
  const uint16_t *k, *v;  // of this head and, unless there are pages, of this sequence
  int plain;              // tiles before this one have all their keys in memory, in one place, and rows of D elements
  bool lost;              // a page does not exist
};

// What follows from its task; one thread calls it.
template <int ROWS, int KEYS, int D>
__device__ __forceinline__ void fill_block(const AttentionArgs& p, const AttentionTask& t, AttentionBlock& block) {
  const auto base = [&](const AttentionTensor& x) {
    const int64_t sequence = t.pages ? 0 : t.k_b * x.b + t.k_first * x.t;
    return static_cast<const uint16_t*>(x.data) + (t.head * x.h + sequence);
  };
  block.task = t;
  block.tiles = tiles_of<KEYS>(p, t, t.first, ROWS);
  block.k = base(p.k);
  block.v = base(p.v);
  block.lost = false;
  block.plain = t.pages || p.d != D || p.dv != D ? 0 : t.keys / KEYS;
}

// All threads of the block call it.
template <int ROWS, int KEYS, int D>
__device__ __forceinline__ void find_block(const AttentionArgs& p, AttentionBlock& block) {
  const AttentionTask t = find_task<ROWS>(p, &block.task.sequence);
  if (threadIdx.x == 0) fill_block<ROWS, KEYS, D>(p, t, block);
  __syncthreads();
}

// A tile of KEYS rows, if it is one that this block walks; rows behind the last key are 0, as those of pages that do
// not exist, which it marks.
template <int D, int KEYS, int THREADS>
__device__ __forceinline__ void copy_keys(uint32_t shared, const AttentionArgs& p, AttentionBlock& block,
                                          const AttentionTensor& x, const uint16_t* from, int columns, int tile) {
  using Rows = AttentionRows<D>;
  constexpr int kStep = THREADS / Rows::kGroup;
  static_assert(kStep % 8 == 0 && KEYS % kStep == 0);
  if (tile < block.tiles.from) return;
  const int piece = threadIdx.x % Rows::kGroup, first = threadIdx.x / Rows::kGroup;
  const int j0 = tile * KEYS + first;
  const uint32_t at = shared + Rows::place(first, piece);
  const uint16_t* row = from + piece * 8;
  if (tile < block.plain) {
    row += j0 * x.t;
#pragma unroll
    for (int i = 0; i < KEYS / kStep; i++) {
#pragma unroll
      for (int g = 0; g < Rows::kGroups; g++)
        ptx::copy16(at + i * kStep * Rows::kBytes + g * Rows::kGroup * 16, row + g * Rows::kGroup * 8, 16);
      row += kStep * x.t;
    }
    return;
  }
  const int32_t* const pages = block.task.pages;
  const int keys = block.task.keys;
#pragma unroll 1
  for (int i = 0; i < KEYS / kStep; i++) {
    const int j = j0 + i * kStep;
    bool read = j < keys;
    int64_t page = 0, key = j;
    if (pages && read) {
      const int number = static_cast<int>(p.by_page.quotient(j));
      page = pages[number * p.table_page];
      key = j - number * static_cast<int>(p.by_page.value);
      read = page >= 0 && page < p.slots;
      if (!read) block.lost = true;
    }
    const uint16_t* const source = row + (page * x.b + key * x.t);
#pragma unroll
    for (int g = 0; g < Rows::kGroups; g++) {
      const bool there = read && (g * Rows::kGroup + piece) * 8 < columns;
      ptx::copy16(at + i * kStep * Rows::kBytes + g * Rows::kGroup * 16, there ? source + g * Rows::kGroup * 8 : from,
                  there ? 16 : 0);
    }
  }
}

// ROWS rows of q, or of what lies as q does, from t.first + `begin` on; those behind the last are 0. `thread`: of
// THREADS.
template <int D, int ROWS, int THREADS>
__device__ __forceinline__ void copy_queries(uint32_t shared, const AttentionArgs& p, const AttentionTask& t,
                                             const void* q, int begin = 0, int thread = threadIdx.x) {
  using Rows = AttentionRows<D>;
  constexpr int kStep = THREADS / Rows::kGroup;
  const int piece = thread % Rows::kGroup, first = begin + thread / Rows::kGroup;
  const uint16_t* const base =
      static_cast<const uint16_t*>(q) + t.q_b * p.q.b + t.q_first * p.q.t + t.head * p.group * p.q.h;
#pragma unroll 4
  for (int row = first; row < begin + ROWS; row += kStep) {
    const int number = t.first + row, query = static_cast<int>(p.by_group.quotient(number));
    const uint16_t* const from = base + query * p.q.t + (number - query * p.group) * p.q.h + piece * 8;
#pragma unroll
    for (int g = 0; g < Rows::kGroups; g++) {
      const bool read = number < t.rows && (g * Rows::kGroup + piece) * 8 < p.d;
      ptx::copy16(shared + Rows::place(row, piece) + g * Rows::kGroup * 16, read ? from + g * Rows::kGroup * 8 : base,
                  read ? 16 : 0);
    }
  }
}

constexpr float kNoScore = -1e37f;  // below every score that counts, and finite

// Scores of one row that are more than a multiple of q·k, in units of log 2, from key j0 on.
struct BentScore {
  float scale, cap, cap_by, slope;
  int distance;  // from the row's own place to key j0

  __device__ __forceinline__ BentScore(const AttentionArgs& p, const AttentionTask& t, int row, int j0) {
    const int query = static_cast<int>(p.by_group.quotient(row)), head = t.head * p.group + row - query * p.group;
    scale = p.softcap > 0 ? p.scale * (2 * kLog2E / p.softcap) : p.scale_log2;
    cap = p.softcap * kLog2E;
    slope = 0;
    if (p.slopes.data)
      slope = float_at(p.slopes.data, p.slopes.dtype, t.sequence * p.slopes_b + head * p.slopes.stride) * kLog2E;
    distance = query + t.shift - j0;
  }
  __device__ __forceinline__ float operator()(float product, int j) const {
    float s = product * scale;
    if (cap > 0)  // c tanh(x) = c − 2c / (1 + e^(2x)); a NaN stays
      s = fmaf(-2 * cap, ptx::rcp(1 + ptx::ex2(ptx::min_nan(s, 126.0f))), cap);
    return fmaf(-slope, static_cast<float>(abs(distance - j)), s);
  }
};

// The softmax of a warp's MT·16 rows so far: out and sum are relative to 2^top, where `top` is near the largest score
// seen, times `scale`. A row is moved to a new top only where a score is 2^8 above the old one: most tiles then
// multiply nothing.
template <int MT>
struct RunningSoftmax {
  float top[MT][2], sum[MT][2];  // of rows lane / 4 and eight below; sums of this lane's keys

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        top[m][i] = kNoScore;
        sum[m][i] = 0;
      }
  }

  // Each row's largest score of this tile, times `scale`, as far as this lane sees; whether a row has to be moved.
  template <int KEYS>
  __device__ __forceinline__ bool rises(const float (&s)[MT][KEYS][4], float (&most)[MT][2], float scale) const {
    bool rise = false;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float x = fmaxf(s[m][0][2 * i], s[m][0][2 * i + 1]);
#pragma unroll
        for (int n = 1; n < KEYS; n++) x = fmaxf(x, fmaxf(s[m][n][2 * i], s[m][n][2 * i + 1]));
        most[m][i] = x * scale;
        rise = rise || most[m][i] > top[m][i] + 8.0f;
      }
    return rise;
  }
  // Moves rows to a new top: the most of four lanes' `most` and the old one.
  template <int OUT>
  __device__ __forceinline__ void move(const float (&most)[MT][2], float (&out)[MT][OUT][4]) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float x = fmaxf(most[m][i], top[m][i]);
        x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, 1));
        x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, 2));
        const float left = ptx::ex2(top[m][i] - x);
        top[m][i] = x;
        sum[m][i] *= left;
#pragma unroll
        for (int n = 0; n < OUT; n++) {
          out[m][n][2 * i] *= left;
          out[m][n][2 * i + 1] *= left;
        }
      }
  }
  template <int KEYS, int OUT>
  __device__ __forceinline__ void raise(const float (&s)[MT][KEYS][4], float (&out)[MT][OUT][4], float scale) {
    float most[MT][2];
    if (__any_sync(kFullWarp, rises(s, most, scale))) move(most, out);
  }

  // Weights of two neighbouring keys of row i of block m.
  template <class T>
  __device__ __forceinline__ uint32_t weights(float s0, float s1, float scale, int m, int i) {
    const float a = ptx::ex2(fmaf(s0, scale, -top[m][i])), b = ptx::ex2(fmaf(s1, scale, -top[m][i]));
    sum[m][i] += a + b;
    return pack<T>(a, b);
  }
};

}  // namespace seqmix::cuda
