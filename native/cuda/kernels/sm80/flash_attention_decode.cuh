// Flash attention for few queries against many keys, as when tokens are generated, on the tensor cores of any GPU since
// Ampere: bound by reading each key and value once. KV is the dtype of these: T's own, or int8, of which each key of
// each head has a scale.
//
// A block owns 8 or 16 rows (queries, with the heads of a group packed) of one KV head, and a part of its keys: every
// n-th tile of them, where there are n parts, so that all blocks walk through neighbouring memory at a time, which then
// answers sooner. Its warps take 16 keys of a tile each: a warp copies its own keys and values into a ring of its own
// in shared memory, with no barrier but its own, keeps its own softmax, and multiplies what it has; the queries stay in
// registers. At the end the warps' results are added in order. Of several parts of the keys each leaves its result in
// float32, and flash_attention_combine adds them in order. The number of parts comes from shapes alone, and lengths are
// read here.
//
// 16 keys never lie in two pages, so that a page is looked up once for all of them, many turns before it is copied.
// Where some rows see a key and others do not, what is not finite of its value is added to the rows that see it,
// instead of being multiplied by the others' 0.
//
// How keys come in is said by a Copy: here by asynchronous copies of 16 bytes, of no key that no row sees.
//
// int8: the warp turns what has come in into T (exactly), and multiplies scores and weights by the scales in float32.
//
// Floor: the bytes of the keys and values that are seen.
#pragma once
#include "cuda/kernels/any/flash_attention_combine.cuh"
#include "cuda/kernels/sm80/flash_attention_rows.cuh"

namespace seqmix::cuda {

// ROWS: of queries, 8 or 16. D: elements of a row. WARPS with rings of STAGES times 16 keys and values, of BYTES an
// element.
template <int ROWS, int D_, int WARPS_, int STAGES_, int BYTES, int BLOCKS_ = 2>
struct DecodeShape {
  static constexpr int D = D_, WARPS = WARPS_, STAGES = STAGES_, BLOCKS = BLOCKS_;
  static constexpr bool kScaled = BYTES == 1;
  static constexpr bool kHeld = ROWS * D <= 2048;  // queries stay in registers
  static constexpr int kRows = ROWS, kKeys = WARPS * 16, kThreads = WARPS * 32;
  static constexpr int kTile = 16 * D * BYTES;                    // bytes of a warp's keys, or values
  static constexpr int kStage = 2 * kTile + (kScaled ? 128 : 0);  // and the scales of both
  static constexpr int kWidened = kScaled ? 2 * 16 * D * 2 : 0;   // keys and values in T
  static constexpr int kWarp = STAGES * kStage + kWidened;
  static constexpr int kQueryBytes = 16 * D * 2;  // of what rounding took from queries, if anything; behind the rest
  // What a warp leaves for the others: rows so far apart that a warp's writes meet no bank twice, their tops and sums.
  static constexpr int kResultRow = D + 4, kTops = ROWS * kResultRow, kSums = kTops + ROWS, kResult = kSums + ROWS;
  static constexpr int kRings = WARPS * (kWarp > kResult * 4 ? kWarp : kResult * 4);
  static constexpr int kShared = kRings + (kHeld ? 0 : kQueryBytes);
};

// Sixteen keys or values of T in shared memory: boxes of 64 elements, one after another, each with 16 rows of 128 bytes
// whose pieces of 16 lie at c ^ (row % 8), as a tensor copy leaves them.
template <int D>
struct DecodeRows {
  static_assert(D % 64 == 0);
  static constexpr int kBox = 16 * 128;

  __device__ static __forceinline__ uint32_t place(int row, int piece) {
    return static_cast<uint32_t>(piece / 8 * kBox + row * 128 + ((piece % 8 ^ row % 8) << 4));
  }
  // From the place of piece 0 or 1 of a row that of the piece 2·pair further.
  __device__ static __forceinline__ uint32_t further(uint32_t place, int pair) {
    return (place ^ static_cast<uint32_t>(pair % 4 << 5)) + static_cast<uint32_t>(pair / 4 * kBox);
  }
};

// The tiles of KEYS keys that a block walks, turn by turn, and which of their keys some row sees.
struct DecodeKeys {
  int from, to, step, seen_from, seen_to;
};

// The pages of this warp's 16 keys in the next turns, of which each lane holds two. The first are looked up before the
// lengths are known, as if all keys were seen.
template <int KEYS>
struct PagesAhead {
  int now = 0, next = 0, guessed = -1;

  __device__ __forceinline__ void guess(const AttentionArgs& p, int sequence, int split) {
    if (p.pages == 0) return;
    const int tile = split + static_cast<int>(threadIdx.x % 32 * p.by_splits.value);
    const uint32_t number = p.by_page.quotient(tile * KEYS + static_cast<int>(threadIdx.x / 32) * 16);
    now = p.table[sequence * p.table_b + min(int64_t{number}, p.pages - 1) * p.table_page];
    guessed = split;
  }
  __device__ __forceinline__ int look_up(const AttentionArgs& p, const AttentionTask& t, const DecodeKeys& keys,
                                         int turn) const {
    const int tile = keys.from + (turn + static_cast<int>(threadIdx.x % 32)) * keys.step;
    if (tile >= keys.to) return 0;
    const int j0 = tile * KEYS + static_cast<int>(threadIdx.x / 32) * 16;
    if (j0 >= keys.seen_to || j0 + 16 <= keys.seen_from) return 0;
    return t.pages[p.by_page.quotient(j0) * p.table_page];
  }
  __device__ __forceinline__ void begin(const AttentionArgs& p, const AttentionTask& t, const DecodeKeys& keys) {
    if (guessed != keys.from) now = look_up(p, t, keys, 0);
    next = look_up(p, t, keys, 32);
  }
  // For each turn once, in their order; all lanes call it.
  __device__ __forceinline__ int at(const AttentionArgs& p, const AttentionTask& t, const DecodeKeys& keys, int turn) {
    if (turn > 0 && turn % 32 == 0) {
      now = next;
      next = look_up(p, t, keys, turn + 32);
    }
    return __shfl_sync(kFullWarp, now, turn % 32);
  }
};

// Where 16 keys begin: row of k, and key there. None of them is read if that row is not there.
struct DecodePlace {
  int64_t b, first;
  bool there;
};

// Copies of 16 bytes. What is not seen, or not there, comes in as 0.
template <class Shape, class KV>
struct AsyncCopy {
  static constexpr bool kExact = true;  // nothing comes in but keys that are seen
  const KV *k, *v;
  const float *k_scale, *v_scale;
  uint32_t ring;

  __device__ __forceinline__ AsyncCopy(uint32_t own) : ring(own) {}
  __device__ __forceinline__ void find(const AttentionArgs& p, const AttentionTask& t) {
    k = static_cast<const KV*>(p.k.data) + t.head * p.k.h;
    v = static_cast<const KV*>(p.v.data) + t.head * p.v.h;
    if constexpr (Shape::kScaled) {
      k_scale = p.k_scale + t.head * p.k_scale_h;
      v_scale = p.v_scale + t.head * p.v_scale_h;
    }
  }
  // Sets off what keys j0 … j0 + 15 need, if any of them is wanted; once for each turn.
  __device__ __forceinline__ void begin(const AttentionArgs& p, const DecodeKeys& keys, int turn, int j0, bool wanted,
                                        const DecodePlace& at) {
    if (wanted) {
      const uint32_t to = ring + turn % Shape::STAGES * Shape::kStage;
      copy_rows(to, keys, j0, at.there, k + at.b * p.k.b + at.first * p.k.t, p.k.t, p.d);
      copy_rows(to + Shape::kTile, keys, j0, at.there, v + at.b * p.v.b + at.first * p.v.t, p.v.t, p.dv);
      if constexpr (Shape::kScaled) {
        const int lane = threadIdx.x % 32, row = lane % 16, j = j0 + row;
        const bool in = at.there && j >= keys.seen_from && j < keys.seen_to;
        const float* const from = lane < 16 ? k_scale + at.b * p.k_scale_b + (at.first + row) * p.k_scale_t
                                            : v_scale + at.b * p.v_scale_b + (at.first + row) * p.v_scale_t;
        ptx::copy4(to + 2 * Shape::kTile + lane * 4, in ? from : p.k_scale, in ? 4 : 0);
      }
    }
    ptx::copy_commit();
  }
  // Until what this lane has set off for a turn has come in.
  __device__ __forceinline__ void wait(int) const { ptx::copy_wait<Shape::STAGES - 2>(); }
  __device__ __forceinline__ void wait_for_queries() const {}  // they were set off before the first turn's
  __device__ __forceinline__ void end() const { ptx::copy_wait<0>(); }
  __device__ __forceinline__ void written() const {}  // after a write to what has come in

 private:
  __device__ __forceinline__ void copy_rows(uint32_t to, const DecodeKeys& keys, int j0, bool there, const KV* from,
                                            int64_t step, int columns) const {
    constexpr int kPieces = Shape::D * static_cast<int>(sizeof(KV)) / 16, kEach = 16 / static_cast<int>(sizeof(KV));
    constexpr int kLanes = kPieces < 8 ? kPieces : 8, kStep = 32 / kLanes;  // lanes of a row, rows of a pass
    const int lane = threadIdx.x % 32, piece = lane % kLanes;
#pragma unroll
    for (int i = 0; i < 16 / kStep; i++) {
      const int row = lane / kLanes + i * kStep, j = j0 + row;
      const bool in = there && j >= keys.seen_from && j < keys.seen_to;
      const KV* const source = from + row * step + piece * kEach;
#pragma unroll
      for (int g = 0; g < kPieces / kLanes; g++) {
        const int c = piece + g * kLanes;
        const bool read = in && c * kEach < columns;
        const int bytes = read ? min(16, (columns - c * kEach) * static_cast<int>(sizeof(KV))) : 0;
        const uint32_t place = Shape::kScaled ? row * Shape::D + c * 16 : DecodeRows<Shape::D>::place(row, c);
        ptx::copy16_of_row(to + place, read ? source + g * kLanes * kEach : k, bytes);
      }
    }
  }
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

// What a block does. `copy` is its own warp's.
template <class T, class Shape, class Copy>
__device__ __forceinline__ void decode_block(const AttentionArgs& p, uint8_t* memory, Copy& copy) {
  constexpr int D = Shape::D, WARPS = Shape::WARPS, STAGES = Shape::STAGES, kDepths = D / 16;
  constexpr int kEights = Shape::kRows / 8;  // of rows
  constexpr int kAhead =
      kDepths < 8 ? kDepths : 8;  // pieces of keys or values on their way to the tensor cores at once
  using Rows = DecodeRows<D>;
  __shared__ int found;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  uint8_t* const own = memory + warp * Shape::kWarp;

  PagesAhead<Shape::kKeys> pages;
  const AttentionTask t = find_task<Shape::kRows>(p, &found, [&](int sequence, int split) {
    if (p.table) pages.guess(p, sequence, split);
  });
  if (t.first >= t.rows) return;
  const KeyTiles all = all_tiles_of<Shape::kKeys>(p, t, t.first, Shape::kRows);
  const int last_row = min(t.first + Shape::kRows, t.rows) - 1;
  const DecodeKeys keys{all.from + t.split, all.to, static_cast<int>(p.by_splits.value),
                        keys_of(p, t, static_cast<int>(p.by_group.quotient(t.first))).from,
                        keys_of(p, t, static_cast<int>(p.by_group.quotient(last_row))).to};
  copy.find(p, t);
  if (t.pages) pages.begin(p, t, keys);
  bool pages_there = true;
  const auto begin_copy = [&](int turn) {
    const int tile = keys.from + turn * keys.step, j0 = tile * Shape::kKeys + warp * 16;
    const bool wanted = tile < keys.to && j0 < keys.seen_to && j0 + 16 > keys.seen_from;
    DecodePlace at{t.k_b, t.k_first + j0, true};
    if (t.pages) {
      at.b = pages.at(p, t, keys, turn);
      at.first = j0 - static_cast<int>(p.by_page.quotient(j0) * p.by_page.value);
      at.there = at.b >= 0 && at.b < p.slots;
      pages_there = pages_there && (at.there || !wanted);
    }
    copy.begin(p, keys, turn, j0, wanted, at);
  };

  // In shared memory: what rounding took from the queries, and the queries where registers have no room for them.
  if (p.q_low) copy_queries<D, 16, Shape::kThreads>(ptx::shared_address(memory) + Shape::kShared, p, t, p.q_low);
  if constexpr (!Shape::kHeld)
    copy_queries<D, 16, Shape::kThreads>(ptx::shared_address(memory) + Shape::kRings, p, t, p.q.data);
  const bool shares = !Shape::kHeld || p.q_low != nullptr;
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) begin_copy(i);

  // The products are those of keys and queries, and of values and weights, in this order: keys, and elements of values,
  // are rows, and queries are columns, so that eight of them are enough for an instruction. This lane's part of the
  // queries: row lane / 4 of each eight.
  uint32_t q[Shape::kHeld ? kDepths : 1][kEights][2];
  if constexpr (Shape::kHeld)
#pragma unroll
    for (int n = 0; n < kEights; n++) {
      const int row = t.first + n * 8 + lane / 4;
      const bool there = row < t.rows;
      const int query = static_cast<int>(p.by_group.quotient(there ? row : t.first));
      const T* const from = static_cast<const T*>(p.q.data) + t.q_b * p.q.b + (t.q_first + query) * p.q.t +
                            (t.head * p.group + (there ? row : t.first) - query * p.group) * p.q.h;
#pragma unroll
      for (int d = 0; d < kDepths; d++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const int c = d * 16 + e * 8 + lane % 4 * 2;
          q[d][n][e] = there && c < p.d ? *reinterpret_cast<const uint32_t*>(from + c) : 0u;
        }
    }

  // Of rows 2 (lane % 4) and the next of each eight: elements lane / 4 and eight below of each 16; the sums of this
  // lane's weights, as they were and as they were rounded, all relative to 2^top. The outputs are divided by the
  // latter: few keys may count.
  float out[kDepths][kEights][4] = {}, top[kEights][2], sum[kEights][2] = {}, taken[kEights][2] = {};
#pragma unroll
  for (int n = 0; n < kEights; n++) top[n][0] = top[n][1] = kNoScore;
  const auto row_of = [&](int n, int e) { return t.first + n * 8 + lane % 4 * 2 + e; };
  const float scale = p.bent ? 1.0f : p.scale_log2;
  using QueryRows = AttentionRows<D>;
  const uint32_t query_at =
      ptx::shared_address(memory) + Shape::kRings + QueryRows::place(lane % 8 + lane / 16 * 8, lane / 8 % 2);
  const uint32_t low_at = query_at + Shape::kShared - Shape::kRings;
  for (int turn = 0, tile = keys.from; tile < keys.to; turn++, tile += keys.step) {
    copy.wait(turn);
    if (shares && turn == 0) {
      copy.wait_for_queries();
      __syncthreads();  // for what the other warps have copied of them
    }
    __syncwarp();
    begin_copy(turn + STAGES - 1);
    const int j0 = tile * Shape::kKeys + warp * 16;
    if (j0 >= keys.seen_to || j0 + 16 <= keys.seen_from) continue;
    uint8_t* key_rows = own + turn % STAGES * Shape::kStage;
    uint8_t* values = key_rows + Shape::kTile;
    if (!Copy::kExact && (j0 < keys.seen_from || j0 + 16 > keys.seen_to)) {
      // What stands behind the last key, or before the first, may be no number, which a weight of 0 does not undo.
      for (int i = lane; i < Shape::kTile / 16; i += 32) {
        const int j = j0 + i / 8 % 16;
        if (j < keys.seen_from || j >= keys.seen_to) *reinterpret_cast<uint4*>(values + i * 16) = {};
      }
      copy.written();
      __syncwarp();
    }
    float k_by[2] = {1, 1}, v_by[2] = {1, 1};  // of this lane's keys: lane / 4, and eight further
    if constexpr (Shape::kScaled) {
      const float* const scales = reinterpret_cast<const float*>(key_rows + 2 * Shape::kTile);
      uint8_t* const widened = own + STAGES * Shape::kStage;
#pragma unroll
      for (int i = 0; i < 2 * Shape::kTile / 512; i++) {
        const int number = i * 32 + lane, row = number / (D / 16), c = number % (D / 16);  // of both
        uint4 both[2];
        widen_bytes<T>(*reinterpret_cast<const uint4*>(key_rows + number * 16), both);
        uint8_t* const to = widened + row / 16 * (16 * D * 2);
        *reinterpret_cast<uint4*>(to + Rows::place(row % 16, 2 * c)) = both[0];
        *reinterpret_cast<uint4*>(to + Rows::place(row % 16, 2 * c + 1)) = both[1];
      }
#pragma unroll
      for (int i = 0; i < 2; i++) {
        k_by[i] = scales[lane / 4 + i * 8];
        v_by[i] = scales[16 + lane / 4 + i * 8];
      }
      key_rows = widened;
      values = widened + 16 * D * 2;
      __syncwarp();
    }

    float s[kEights][4] = {}, odd[kEights][4] = {};  // of every other 16 elements, so that fewer products wait for one
    const uint32_t key_at = ptx::shared_address(key_rows) + Rows::place(lane % 16, lane / 16);
#pragma unroll
    for (int d0 = 0; d0 < kDepths; d0 += kAhead) {
      uint32_t a[kAhead][4];
#pragma unroll
      for (int d = 0; d < kAhead; d++) ptx::load_matrices(a[d], Rows::further(key_at, d0 + d));
#pragma unroll
      for (int d = 0; d < kAhead; d++) {
        const auto add = [&](const uint32_t (&b)[kEights][2]) {
#pragma unroll
          for (int n = 0; n < kEights; n++) ptx::mma(d % 2 == 0 ? s[n] : odd[n], a[d], b[n][0], b[n][1], T());
        };
        const auto add_loaded = [&](uint32_t at) {
          uint32_t x[4], b[kEights][2];
          ptx::load_matrices(x, QueryRows::further(at, d0 + d));
#pragma unroll
          for (int i = 0; i < 2 * kEights; i++) b[i / 2][i % 2] = x[i];
          add(b);
        };
        if constexpr (Shape::kHeld)
          add(q[d0 + d]);
        else
          add_loaded(query_at);
        if (p.q_low) add_loaded(low_at);
      }
    }
#pragma unroll
    for (int n = 0; n < kEights; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) s[n][i] = (s[n][i] + odd[n][i]) * (Shape::kScaled ? k_by[i / 2] : 1.0f);
    const bool whole = tile >= all.whole_from && tile < all.whole_to;
    if (p.bent) {
#pragma unroll
      for (int n = 0; n < kEights; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const BentScore bend(p, t, min(row_of(n, e), last_row), j0 + lane / 4);
#pragma unroll
          for (int i = 0; i < 2; i++) s[n][2 * i + e] = bend(s[n][2 * i + e], i * 8);
        }
    }
    if (!whole) {
#pragma unroll
      for (int n = 0; n < kEights; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const KeyRange seen = keys_of(p, t, static_cast<int>(p.by_group.quotient(row_of(n, e))));
#pragma unroll
          for (int i = 0; i < 2; i++) {
            const int j = j0 + lane / 4 + i * 8;
            if (j < seen.from || j >= seen.to) s[n][2 * i + e] = -INFINITY;
          }
        }
      if (t.rows > p.group) {  // more than one query
        const auto value = [&](int j, int c) { return reinterpret_cast<T*>(values + Rows::place(j, c / 8)) + c % 8; };
        bool finite = true;
#pragma unroll 4
        for (int i = lane; i < 16 * D; i += 32) finite = finite && isfinite(widen(*value(i / D, i % D)));
        if (!__all_sync(kFullWarp, finite)) {
#pragma unroll
          for (int n = 0; n < kEights; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
              const KeyRange seen = keys_of(p, t, static_cast<int>(p.by_group.quotient(row_of(n, e))));
#pragma unroll 1
              for (int j = max(0, seen.from - j0); j < min(16, seen.to - j0); j++)
#pragma unroll
                for (int c = 0; c < kDepths * 2; c++) {
                  const float x = widen(*value(j, c * 8 + lane / 4));
                  if (!isfinite(x)) out[c / 2][n][c % 2 * 2 + e] += x;
                }
            }
          __syncwarp();
          for (int i = lane; i < 16 * D; i += 32)
            if (!isfinite(widen(*value(i / D, i % D)))) *value(i / D, i % D) = narrow<T>(0.0f);
          copy.written();
          __syncwarp();
        }
      }
    }

    // Of the values the first are on their way before the weights are known.
    const uint32_t value_at = ptx::shared_address(values) + Rows::place(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    uint32_t ahead[kAhead][4];
#pragma unroll
    for (int d = 0; d < kAhead; d++) ptx::load_matrices_transposed(ahead[d], Rows::further(value_at, d));

    // A row is moved to a new top only where a score is 2^8 above the old one: most turns then multiply nothing.
    bool rise = false;
#pragma unroll
    for (int n = 0; n < kEights; n++)
#pragma unroll
      for (int e = 0; e < 2; e++) rise = rise || fmaxf(s[n][e], s[n][2 + e]) * scale > top[n][e] + 8.0f;
    if (__any_sync(kFullWarp, rise)) {
#pragma unroll
      for (int n = 0; n < kEights; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float most = fmaxf(fmaxf(s[n][e], s[n][2 + e]) * scale, top[n][e]);
#pragma unroll
          for (int lanes = 4; lanes < 32; lanes *= 2) most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, lanes));
          const float left = ptx::ex2(top[n][e] - most);
          top[n][e] = most;
          sum[n][e] *= left;
          taken[n][e] *= left;
#pragma unroll
          for (int d = 0; d < kDepths; d++) {
            out[d][n][e] *= left;
            out[d][n][2 + e] *= left;
          }
        }
    }

    uint32_t w[kEights][2];
#pragma unroll
    for (int n = 0; n < kEights; n++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float a = ptx::ex2(fmaf(s[n][2 * i], scale, -top[n][0]));
        float b = ptx::ex2(fmaf(s[n][2 * i + 1], scale, -top[n][1]));
        sum[n][0] += a;
        sum[n][1] += b;
        if constexpr (Shape::kScaled) {
          a = a == 0 ? 0.0f : a * v_by[i];
          b = b == 0 ? 0.0f : b * v_by[i];
        }
        const uint32_t rounded = pack<T>(a, b);
        if constexpr (!Shape::kScaled) {
          const float2 both = unpack<T>(rounded);
          taken[n][0] += both.x;
          taken[n][1] += both.y;
        }
        w[n][i] = ptx::transposed(rounded);
      }
#pragma unroll
    for (int d = 0; d < kDepths; d++) {
      uint32_t a[4];
      if (d >= kAhead) ptx::load_matrices_transposed(a, Rows::further(value_at, d));
#pragma unroll
      for (int n = 0; n < kEights; n++) ptx::mma(out[d][n], d < kAhead ? ahead[d % kAhead] : a, w[n][0], w[n][1], T());
    }
    if (Shape::kScaled) __syncwarp();  // before the next keys are widened
  }

  // Not before: blocks that come early lie where room was left, and not evenly.
  ptx::let_next_kernel_begin();
  copy.end();
  const bool lost = __syncthreads_or(!pages_there);  // and nobody reads the rings any more
  if (lost && threadIdx.x == 0) report_index_error(p.index_error, p.error);
  float* const results = reinterpret_cast<float*>(memory);
  float* const mine = results + warp * Shape::kResult;
#pragma unroll
  for (int n = 0; n < kEights; n++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
#pragma unroll
      for (int lanes = 4; lanes < 32; lanes *= 2) {
        sum[n][e] += __shfl_xor_sync(kFullWarp, sum[n][e], lanes);
        taken[n][e] += __shfl_xor_sync(kFullWarp, taken[n][e], lanes);
      }
      const int row = row_of(n, e) - t.first;
      if (t.first + row > last_row) continue;
      if (lane < 4) {
        mine[Shape::kTops + row] = top[n][e];
        mine[Shape::kSums + row] = sum[n][e];
      }
      const float by = taken[n][e] > 0 ? sum[n][e] / taken[n][e] : 1.0f;
#pragma unroll
      for (int d = 0; d < kDepths; d++)
#pragma unroll
        for (int i = 0; i < 2; i++)
          mine[row * Shape::kResultRow + d * 16 + i * 8 + lane / 4] = out[d][n][2 * i + e] * by;
    }
  __syncthreads();

  for (int i = threadIdx.x; i < (last_row - t.first + 1) * (D / 2); i += Shape::kThreads) {
    const int row = i / (D / 2), c = i % (D / 2) * 2;
    if (c >= p.dv) continue;
    float most = kNoScore, all_sum = 0, x = 0, y = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) most = fmaxf(most, results[w * Shape::kResult + Shape::kTops + row]);
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      const float* const r = results + w * Shape::kResult;
      const float share = ptx::ex2(r[Shape::kTops + row] - most);
      const float2 part = *reinterpret_cast<const float2*>(r + row * Shape::kResultRow + c);
      all_sum = fmaf(r[Shape::kSums + row], share, all_sum);
      x = fmaf(part.x, share, x);
      y = fmaf(part.y, share, y);
    }
    const int64_t at = out_row(p, t, t.first + row);
    const RowEnd end =
        p.partial ? RowEnd{all_sum == 0 ? 0.0f : ptx::rcp(all_sum), all_sum == 0 ? -INFINITY : most + log2f(all_sum)}
                  : end_of_row(p, at, most, all_sum, t.idle);
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

template <class T, class Shape, class KV>
__global__ void __launch_bounds__(Shape::kThreads, Shape::BLOCKS)
    flash_attention_decode(const __grid_constant__ AttentionArgs p) {
  extern __shared__ __align__(128) uint8_t memory[];
  ptx::look_at_arguments(p);
  AsyncCopy<Shape, KV> copy(ptx::shared_address(memory) + threadIdx.x / 32 * Shape::kWarp);
  decode_block<T, Shape>(p, memory, copy);
}

}  // namespace seqmix::cuda
