// Flash attention for few queries against many keys, as when tokens are generated, on the tensor cores of any GPU since
// Ampere: bound by reading each key and value once. KV is the dtype of these: T's own, or int8, of which each key of
// each head has a scale.
//
// A block owns 16 rows (queries, with the heads of a group packed) of one KV head, and a part of its keys. Its warps
// take 16 keys each, in turns: a warp copies its own keys and values into a ring of its own in shared memory, with no
// barrier but its own, keeps its own softmax, and multiplies what it has; the queries stay in registers. At the end the
// warps' results are added in order. Of several parts of the keys each leaves its result in float32, and
// flash_attention_combine adds them in order. The number of parts comes from shapes alone, and lengths are read here.
//
// 16 keys never lie in two pages, so that a page is looked up once for all of them, one turn before it is copied. Keys
// that no row sees are not read. Where some rows see a key and others do not, what is not finite of its value is added
// to the rows that see it, instead of being multiplied by the others' 0.
//
// int8: the warp turns what has come in into T (exactly), and multiplies scores and weights by the scales in float32.
//
// Floor: the bytes of the keys and values that are seen.
#pragma once
#include "cuda/kernels/any/flash_attention_combine.cuh"
#include "cuda/kernels/sm80/flash_attention_rows.cuh"

namespace seqmix::cuda {

// D: elements of a row. WARPS with rings of STAGES times 16 keys and values, of BYTES an element.
template <int D_, int WARPS_, int STAGES_, int BYTES>
struct DecodeShape {
  static constexpr int D = D_, WARPS = WARPS_, STAGES = STAGES_, BLOCKS = 2;
  static constexpr bool kScaled = BYTES == 1;
  static constexpr bool kHeld = D <= 128;  // queries stay in registers
  static constexpr int kRows = 16, kKeys = WARPS * 16, kThreads = WARPS * 32;
  static constexpr int kTile = 16 * D * BYTES;                    // bytes of a warp's keys, or values
  static constexpr int kStage = 2 * kTile + (kScaled ? 128 : 0);  // and the scales of both
  static constexpr int kWidened = kScaled ? 2 * 16 * D * 2 : 0;   // keys and values in T
  static constexpr int kWarp = STAGES * kStage + kWidened;
  static constexpr int kQueryBytes = kRows * D * 2;  // of what rounding took from queries, if anything; behind the rest
  static constexpr int kResult = WARPS * 16 * (D + 2) * 4;
  static constexpr int kRings = WARPS * kWarp > kResult ? WARPS* kWarp : kResult;
  static constexpr int kShared = kRings + (kHeld ? 0 : kQueryBytes);
};

// Sixteen int8 to two pieces of T.
template <class T>
__device__ __forceinline__ void widen_bytes(uint4 raw, uint4 (&to)[2]) {
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
  uint32_t pairs[8];
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const uint32_t w = words[i / 2] >> (i % 2 * 16);
    pairs[i] = pack<T>(static_cast<float>(static_cast<int8_t>(w & 255)),
                       static_cast<float>(static_cast<int8_t>(w >> 8 & 255)));
  }
  to[0] = {pairs[0], pairs[1], pairs[2], pairs[3]};
  to[1] = {pairs[4], pairs[5], pairs[6], pairs[7]};
}

template <class T, class Shape, class KV>
__global__ void __launch_bounds__(Shape::kThreads, Shape::BLOCKS)
    flash_attention_decode(const __grid_constant__ AttentionArgs p) {
  constexpr int D = Shape::D, WARPS = Shape::WARPS, STAGES = Shape::STAGES, kOut = D / 8, kDepths = D / 16;
  using Rows = AttentionRows<D>;
  extern __shared__ __align__(128) uint8_t memory[];
  __shared__ int found;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  uint8_t* const own = memory + warp * Shape::kWarp;
  const uint32_t ring = ptx::shared_address(own);

  ptx::wait_for_earlier_kernels();
  const AttentionTask t = find_task<16>(p, &found);
  ptx::let_next_kernel_begin();
  if (t.first >= t.rows) return;
  const KeyTiles range = tiles_of<Shape::kKeys>(p, t, t.first, 16);
  const int last_row = min(t.first + 16, t.rows) - 1;
  const int seen_from = keys_of(p, t, static_cast<int>(p.by_group.quotient(t.first))).from;
  const int seen_to = keys_of(p, t, static_cast<int>(p.by_group.quotient(last_row))).to;
  const KV* k = static_cast<const KV*>(p.k.data) + t.head * p.k.h;
  const KV* v = static_cast<const KV*>(p.v.data) + t.head * p.v.h;
  const float *k_scale = p.k_scale, *v_scale = p.v_scale;
  if (Shape::kScaled) {
    k_scale += t.head * p.k_scale_h;
    v_scale += t.head * p.v_scale_h;
  }

  // The rows of k that hold this warp's 16 keys of a tile begin at (row of k, key there).
  bool pages_there = true;
  const auto page_of = [&](int tile) {
    if (!t.pages) return 0;
    const int j0 = tile * Shape::kKeys + warp * 16;
    if (tile >= range.to || j0 >= seen_to || j0 + 16 <= seen_from) return 0;
    return t.pages[p.by_page.quotient(j0) * p.table_page];
  };
  const auto copy = [&](int tile, int page) {
    const int j0 = tile * Shape::kKeys + warp * 16;
    if (tile < range.to && j0 < seen_to && j0 + 16 > seen_from) {
      int64_t b = t.k_b, first = t.k_first + j0;
      bool there = true;
      if (t.pages) {
        there = page >= 0 && page < p.slots;
        pages_there = pages_there && there;
        b = page;
        first = j0 - static_cast<int>(p.by_page.quotient(j0) * p.by_page.value);
      }
      const int stage = (tile - range.from) % STAGES;
      const uint32_t to = ring + stage * Shape::kStage;
      constexpr int kPieces = D * static_cast<int>(sizeof(KV)) / 16, kEach = 16 / static_cast<int>(sizeof(KV));
      const KV* const k_from = k + b * p.k.b + first * p.k.t;
      const KV* const v_from = v + b * p.v.b + first * p.v.t;
      const auto copy_rows = [&](uint32_t at, const KV* from, int64_t step, int columns) {
        constexpr int kLanes = kPieces < 8 ? kPieces : 8, kStep = 32 / kLanes;  // lanes of a row, rows of a pass
        const int piece = lane % kLanes;
#pragma unroll
        for (int i = 0; i < 16 / kStep; i++) {
          const int row = lane / kLanes + i * kStep, j = j0 + row;
          const bool in = there && j >= seen_from && j < seen_to;
          const KV* const source = from + row * step + piece * kEach;
#pragma unroll
          for (int g = 0; g < kPieces / kLanes; g++) {
            const int c = piece + g * kLanes;
            const bool read = in && c * kEach < columns;
            const int bytes = read ? min(16, (columns - c * kEach) * static_cast<int>(sizeof(KV))) : 0;
            const uint32_t place = Shape::kScaled ? row * D + c * 16 : Rows::place(row, c);
            ptx::copy16_of_row(at + place, read ? source + g * kLanes * kEach : k, bytes);
          }
        }
      };
      copy_rows(to, k_from, p.k.t, p.d);
      copy_rows(to + Shape::kTile, v_from, p.v.t, p.dv);
      if constexpr (Shape::kScaled) {
        const int row = lane % 16, j = j0 + row;
        const bool in = there && j >= seen_from && j < seen_to;
        const float* const from = lane < 16 ? k_scale + b * p.k_scale_b + (first + row) * p.k_scale_t
                                            : v_scale + b * p.v_scale_b + (first + row) * p.v_scale_t;
        ptx::copy4(to + 2 * Shape::kTile + lane * 4, in ? from : p.k_scale, in ? 4 : 0);
      }
    }
    ptx::copy_commit();
  };

  // In shared memory: what rounding took from the queries, and the queries where registers have no room for them.
  if (p.q_low) copy_queries<D, 16, Shape::kThreads>(ptx::shared_address(memory) + Shape::kShared, p, t, p.q_low);
  if constexpr (!Shape::kHeld)
    copy_queries<D, 16, Shape::kThreads>(ptx::shared_address(memory) + Shape::kRings, p, t, p.q.data);
  const bool shares = !Shape::kHeld || p.q_low != nullptr;
  int page = page_of(range.from);
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) {
    copy(range.from + i, page);
    page = page_of(range.from + i + 1);
  }

  // This lane's part of the queries: rows lane / 4 and eight below.
  uint32_t q[Shape::kHeld ? kDepths : 1][4];
  if constexpr (Shape::kHeld)
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int row = t.first + i * 8 + lane / 4;
      const bool there = row < t.rows;
      const int query = static_cast<int>(p.by_group.quotient(there ? row : t.first));
      const T* const from = static_cast<const T*>(p.q.data) + t.q_b * p.q.b + (t.q_first + query) * p.q.t +
                            (t.head * p.group + (there ? row : t.first) - query * p.group) * p.q.h;
#pragma unroll
      for (int d = 0; d < kDepths; d++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const int c = d * 16 + e * 8 + lane % 4 * 2;
          q[d][e * 2 + i] = there && c < p.d ? *reinterpret_cast<const uint32_t*>(from + c) : 0u;
        }
    }

  const float scale = p.bent ? 1.0f : p.scale_log2;
  float out[1][kOut][4] = {};
  RunningSoftmax<1> softmax;
  softmax.clear();
  float taken[2] = {};  // the weights' sums as they were rounded, which the outputs are divided by: few keys may count
  const uint32_t query_at = ptx::shared_address(memory) + Shape::kRings + Rows::place(lane % 16, lane / 16);
  const uint32_t low_at = query_at + Shape::kShared - Shape::kRings;
  for (int tile = range.from; tile < range.to; tile++) {
    ptx::copy_wait<STAGES - 2>();
    if (shares && tile == range.from) __syncthreads();  // for what the other warps have copied of the queries
    __syncwarp();
    copy(tile + STAGES - 1, page);
    page = page_of(tile + STAGES);
    const int j0 = tile * Shape::kKeys + warp * 16;
    if (j0 >= seen_to || j0 + 16 <= seen_from) continue;
    const int stage = (tile - range.from) % STAGES;
    uint8_t* keys = own + stage * Shape::kStage;
    uint8_t* values = keys + Shape::kTile;
    float k_by[4] = {1, 1, 1, 1}, v_by[4] = {1, 1, 1, 1};  // of this lane's keys: two neighbours, and eight further
    if constexpr (Shape::kScaled) {
      const float* const scales = reinterpret_cast<const float*>(keys + 2 * Shape::kTile);
      uint8_t* const widened = own + STAGES * Shape::kStage;
#pragma unroll
      for (int i = 0; i < 2 * Shape::kTile / 512; i++) {
        const int number = i * 32 + lane, row = number / (D / 16), c = number % (D / 16);  // of both
        uint4 both[2];
        widen_bytes<T>(*reinterpret_cast<const uint4*>(keys + number * 16), both);
        uint8_t* const to = widened + row / 16 * (16 * Rows::kBytes);
        *reinterpret_cast<uint4*>(to + Rows::place(row % 16, 2 * c)) = both[0];
        *reinterpret_cast<uint4*>(to + Rows::place(row % 16, 2 * c + 1)) = both[1];
      }
#pragma unroll
      for (int i = 0; i < 4; i++) {
        k_by[i] = scales[lane % 4 * 2 + i % 2 + i / 2 * 8];
        v_by[i] = scales[16 + lane % 4 * 2 + i % 2 + i / 2 * 8];
      }
      keys = widened;
      values = widened + 16 * Rows::kBytes;
      __syncwarp();
    }

    float s[1][2][4] = {};
    const uint32_t key_at = ptx::shared_address(keys) + Rows::place(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
    for (int d = 0; d < kDepths; d++) {
      uint32_t b[4];
      ptx::load_matrices(b, Rows::further(key_at, d));
      if constexpr (!Shape::kHeld) ptx::load_matrices(q[0], Rows::further(query_at, d));
      ptx::mma(s[0][0], q[Shape::kHeld ? d : 0], b[0], b[1], T());
      ptx::mma(s[0][1], q[Shape::kHeld ? d : 0], b[2], b[3], T());
      if (p.q_low) {
        uint32_t low[4];
        ptx::load_matrices(low, Rows::further(low_at, d));
        ptx::mma(s[0][0], low, b[0], b[1], T());
        ptx::mma(s[0][1], low, b[2], b[3], T());
      }
    }
    const bool whole = tile >= range.whole_from && tile < range.whole_to;
    if (Shape::kScaled)
#pragma unroll
      for (int i = 0; i < 8; i++) s[0][i / 4][i % 4] *= k_by[i / 4 * 2 + i % 2];
    if (p.bent) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const BentScore bend(p, t, min(t.first + i * 8 + lane / 4, last_row), j0 + lane % 4 * 2);
#pragma unroll
        for (int n = 0; n < 4; n++) s[0][n / 2][2 * i + n % 2] = bend(s[0][n / 2][2 * i + n % 2], n / 2 * 8 + n % 2);
      }
    }
    if (!whole) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int row = t.first + i * 8 + lane / 4, j = j0 + lane % 4 * 2;
        const KeyRange seen = keys_of(p, t, static_cast<int>(p.by_group.quotient(row)));
#pragma unroll
        for (int n = 0; n < 4; n++) {
          const int key = j + n / 2 * 8 + n % 2;
          if (key < seen.from || key >= seen.to) s[0][n / 2][2 * i + n % 2] = -INFINITY;
        }
      }
      if (t.rows > p.group) {  // more than one query
        const auto value = [&](int j, int c) { return reinterpret_cast<T*>(values + Rows::place(j, c / 8)) + c % 8; };
        bool finite = true;
#pragma unroll 4
        for (int i = lane; i < 16 * D; i += 32) finite = finite && isfinite(widen(*value(i / D, i % D)));
        if (!__all_sync(kFullWarp, finite)) {
#pragma unroll
          for (int i = 0; i < 2; i++) {
            const int row = t.first + i * 8 + lane / 4;
            const KeyRange seen = keys_of(p, t, static_cast<int>(p.by_group.quotient(row)));
#pragma unroll 1
            for (int j = max(0, seen.from - j0); j < min(16, seen.to - j0); j++)
#pragma unroll
              for (int c = 0; c < kOut; c++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                  const float x = widen(*value(j, c * 8 + lane % 4 * 2 + e));
                  if (!isfinite(x)) out[0][c][2 * i + e] += x;
                }
          }
          __syncwarp();
          for (int i = lane; i < 16 * D; i += 32)
            if (!isfinite(widen(*value(i / D, i % D)))) *value(i / D, i % D) = narrow<T>(0.0f);
          __syncwarp();
        }
      }
    }
    const float top_before[2] = {softmax.top[0][0], softmax.top[0][1]};
    softmax.raise(s, out, scale);
#pragma unroll
    for (int i = 0; i < 2; i++) taken[i] *= ptx::ex2(top_before[i] - softmax.top[0][i]);

    uint32_t w[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int n = i / 2, half = i % 2;
      if constexpr (Shape::kScaled) {
        const float a = ptx::ex2(fmaf(s[0][n][2 * half], scale, -softmax.top[0][half]));
        const float b = ptx::ex2(fmaf(s[0][n][2 * half + 1], scale, -softmax.top[0][half]));
        softmax.sum[0][half] += a + b;
        w[i] = pack<T>(a == 0 ? 0.0f : a * v_by[n * 2], b == 0 ? 0.0f : b * v_by[n * 2 + 1]);
      } else {
        w[i] = softmax.template weights<T>(s[0][n][2 * half], s[0][n][2 * half + 1], scale, 0, half);
        const float2 rounded = unpack<T>(w[i]);
        taken[half] += rounded.x + rounded.y;
      }
    }
    const uint32_t value_at = ptx::shared_address(values) + Rows::place(lane % 16, lane / 16);
#pragma unroll
    for (int n = 0; n < kOut / 2; n++) {
      uint32_t b[4];
      ptx::load_matrices_transposed(b, Rows::further(value_at, n));
      ptx::mma(out[0][2 * n], w, b[0], b[1], T());
      ptx::mma(out[0][2 * n + 1], w, b[2], b[3], T());
    }
    if (Shape::kScaled) __syncwarp();  // before the next keys are widened
  }

  ptx::copy_wait<0>();
  const bool lost = __syncthreads_or(!pages_there);  // and nobody reads the rings any more
  if (lost && threadIdx.x == 0) report_index_error(p.index_error, p.error);
  float* const results = reinterpret_cast<float*>(memory);  // by warp: rows of D, then tops, then sums
  float* const mine = results + warp * 16 * (D + 2);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int row = i * 8 + lane / 4;
    float sum = softmax.sum[0][i];
    sum += __shfl_xor_sync(kFullWarp, sum, 1);
    sum += __shfl_xor_sync(kFullWarp, sum, 2);
    taken[i] += __shfl_xor_sync(kFullWarp, taken[i], 1);
    taken[i] += __shfl_xor_sync(kFullWarp, taken[i], 2);
    if (lane % 4 == 0) {
      mine[16 * D + row] = softmax.top[0][i];
      mine[16 * D + 16 + row] = sum;
    }
    const float by = taken[i] > 0 ? sum / taken[i] : 1.0f;
#pragma unroll
    for (int n = 0; n < kOut; n++)
      *reinterpret_cast<float2*>(mine + row * D + n * 8 + lane % 4 * 2) = {out[0][n][2 * i] * by,
                                                                           out[0][n][2 * i + 1] * by};
  }
  __syncthreads();

  const int columns = p.dv / 2;  // in pairs
  for (int i = threadIdx.x; i < (last_row - t.first + 1) * columns; i += Shape::kThreads) {
    const int row = i / columns, c = (i - row * columns) * 2;
    float top = kNoScore, sum = 0, x = 0, y = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) top = fmaxf(top, results[w * 16 * (D + 2) + 16 * D + row]);
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      const float* const r = results + w * 16 * (D + 2);
      const float share = ptx::ex2(r[16 * D + row] - top);
      const float2 part = *reinterpret_cast<const float2*>(r + row * D + c);
      sum = fmaf(r[16 * D + 16 + row], share, sum);
      x = fmaf(part.x, share, x);
      y = fmaf(part.y, share, y);
    }
    const int64_t at = out_row(p, t, t.first + row);
    const RowEnd end = p.partial ? RowEnd{sum == 0 ? 0.0f : 1 / sum, sum == 0 ? -INFINITY : top + log2f(sum)}
                                 : end_of_row(p, at, top, sum, t.idle);
    if (p.partial) {
      const int64_t place = t.split * (p.batch * p.sq * p.hq) + at;
      *reinterpret_cast<float2*>(p.partial + place * p.dv + c) = {x * end.by, y * end.by};
      if (c == 0) p.part_lse[place] = lost || t.idle ? INFINITY : end.lse;
    } else {
      const bool none = lost || end.by == 0;
      const uint32_t pair = none ? 0u : pack<T>(x * end.by, y * end.by);
      *reinterpret_cast<uint32_t*>(static_cast<T*>(p.out) + at * p.dv + c) = pair;
      if (c == 0) put_lse(p, at, lost ? -INFINITY : end.lse);
    }
  }
}

}  // namespace seqmix::cuda
