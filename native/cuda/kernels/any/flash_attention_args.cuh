// What the kernels of flash attention share: their arguments, and where a block's queries and keys are.
//
// Query heads that read one KV head (`group` of them) are packed: row r of a sequence and KV head is query r / group,
// head r % group of those, so that a key is read once for all of them and few queries still fill a tile.
#pragma once
#include <cstdint>

#include "cuda/kernels/any/divide.cuh"
#include "cuda/kernels/any/dtype.cuh"
#include "cuda/kernels/any/reduce.cuh"
#include "cuda/ptx/grid.cuh"

namespace seqmix::cuda {

struct AttentionTensor {  // (b, t, h, inner), or pages of t rows
  const void* data;
  int64_t b, t, h, inner;
};

struct AttentionIndices {  // int32; data is null where they are absent
  const int32_t* data;
  int64_t stride;

  __device__ __forceinline__ int at(int64_t i) const { return data[i * stride]; }
};

struct AttentionArgs {
  AttentionTensor q, k, v;
  const void* q_low;  // what q, rotated and rounded to 16 bits, has lost, as q lies; null where nothing is
  void* out;          // (b, sq, hq, dv), dense
  float* lse;         // (b, hq, sq), dense; may be null
  float* partial;     // (split, b, sq, hq, dv): of one split only, out as it is; null where there is one split
  float* part_lse;    // (split, b, sq, hq): in units of log 2, infinite where there is no sequence or an index was bad
  DType dtype;        // of q and out, and of k and v where these have no scales
  const float *k_scale, *v_scale;  // of int8 keys and values; null where these are floats
  int64_t k_scale_b, k_scale_t, k_scale_h, v_scale_b, v_scale_t, v_scale_h;
  AttentionIndices cu_q, cu_k, used_k, batch_idx, left_pad;
  const int32_t* table;  // may be null
  int64_t table_b, table_page, pages;
  Divisor by_page;
  int64_t batch, sq;        // of q: with cu_q 1, and the tokens of all sequences
  int64_t slots;            // rows of k, or pages of it
  int sequences, capacity;  // capacity: keys of a row of k, or of all pages of a row of the table
  int new_keys;             // of a sequence, behind those used; −1: one a query
  int hq, hk, group, d, dv;
  Divisor by_group;
  float scale, softcap, softcap_by;  // 0 for none; 1 / softcap
  float scale_log2;                  // scale · log2 e
  bool bent;       // scores are more than a positive multiple of q·k: softcap, slopes, a scale that is not positive
  Weights slopes;  // (sequences, hq)
  int64_t slopes_b;
  Weights sinks;  // (hq)
  int left, right;
  int64_t positions;    // of the rotary tables; without these more than there can be keys
  bool turns_by_place;  // each query by its own place, and not by used_k
  // How the work is cut.
  bool streamed;      // keys and values are read once, and are more than L2 holds: they need not stay there
  uint32_t tasks;     // of all blocks
  Divisor by_splits;  // parts of the keys
  Divisor by_tiles;   // of rows, of a sequence; with cu_q of all of them
  Divisor by_heads;   // of k
  // Pairs of sequence and KV head whose tiles are done side by side, so that their keys stay in L2: sets of them, the
  // last of which may be smaller.
  uint32_t sets;
  Divisor by_set, by_last_set;
  uint64_t* index_error;
  uint64_t error;
};

constexpr int kMostAttentionKeys = 1 << 30;

// A block's rows and their keys.
struct AttentionTask {
  int64_t q_b, q_first;  // row of q, and the first query there
  int64_t out_row;       // of row 0 in out
  int64_t k_b, k_first;  // row of k, and the first key there
  const int32_t* pages;
  int sequence, head, split;  // head: of k
  int rows, first;            // of the sequence; the first of this tile
  int used, fresh;            // keys that were there before, and those that are new
  int keys, shift, pad;       // shift: keys − queries
  bool idle;                  // no sequence, or a bad one: out is 0 and lse −∞
};

// Where sequence n's keys are and how many; false where an index is bad. With cu_k, these ascend.
__device__ __forceinline__ bool find_keys(const AttentionArgs& p, int n, int queries, AttentionTask& t) {
  int64_t room = p.capacity;
  t.k_b = n;
  if (p.table) t.pages = p.table + n * p.table_b;
  if (p.cu_k.data) {
    const int64_t first = p.cu_k.at(n), length = p.cu_k.at(n + 1) - first;
    t.k_b = 0;
    if (!p.table) t.k_first = first;
    if (length <= room)
      room = length;
    else if (!p.used_k.data)
      return false;
  }
  if (p.batch_idx.data) {
    const int slot = p.batch_idx.at(n);
    t.k_b = slot;
    t.idle = slot < 0;
    if (t.idle) return true;
    if (slot >= p.slots) return false;
  }
  t.fresh = p.new_keys < 0 ? queries : p.new_keys;
  const int64_t used = p.used_k.data ? p.used_k.at(n) : room, keys = used + t.fresh;
  if (used < 0 || keys > room) return false;
  if (p.left_pad.data) t.pad = p.left_pad.at(n);
  if (t.pad < 0 || t.pad > used) return false;
  if (queries + t.fresh > 0 && used + max(p.turns_by_place ? queries : 1, t.fresh) > p.positions) return false;
  t.used = static_cast<int>(used);
  t.keys = static_cast<int>(keys);
  return true;
}

struct NothingEarly {
  __device__ __forceinline__ void operator()(int, int) const {}
};

// Where task `at` is in a problem without cu_q: its sequence, head and split, and its tile, which is returned. It waits
// for earlier kernels. early(sequence, split) is called at the end.
template <class Early = NothingEarly>
__device__ __forceinline__ int place_task(const AttentionArgs& p, uint32_t at, AttentionTask& t, Early early = {}) {
  const uint32_t number = p.by_splits.quotient(at);
  t.split = static_cast<int>(at - number * p.by_splits.value);
  // Of each set the last tiles, whose causal rows see most keys, come first.
  const uint32_t tiles = p.by_tiles.value;
  const uint32_t set = p.by_set.quotient(p.by_tiles.quotient(number)), rest = number - set * p.by_set.value * tiles;
  const Divisor& members = set + 1 < p.sets ? p.by_set : p.by_last_set;
  const uint32_t from_end = members.quotient(rest);
  const uint32_t pair = set * p.by_set.value + rest - from_end * members.value;
  const int tile = static_cast<int>(tiles - 1 - from_end);
  t.sequence = static_cast<int>(p.by_heads.quotient(pair));
  t.head = static_cast<int>(pair - t.sequence * p.by_heads.value);
  t.q_b = t.sequence;
  ptx::wait_for_earlier_kernels_after(t.sequence | t.head | tile);
  early(t.sequence, t.split);
  return tile;
}

// The rest, of a tile of ROWS rows of a sequence's `queries`; false where an index is bad.
template <int ROWS>
__device__ __forceinline__ bool complete_task(const AttentionArgs& p, AttentionTask& t, int queries, int tile) {
  bool good = true;
  t.out_row = (t.q_b * p.sq + t.q_first) * p.hq + t.head * p.group;
  t.rows = queries * p.group;
  t.first = tile * ROWS;
  if (!t.idle && !find_keys(p, t.sequence, queries, t)) {
    good = false;
    t.idle = true;
  }
  if (t.idle) t.keys = t.pad = 0;
  t.shift = t.keys - queries;
  return good;
}

__device__ __forceinline__ AttentionTask empty_task() {
  AttentionTask t;
  t.idle = false;
  t.keys = t.pad = t.used = t.fresh = 0;
  t.pages = nullptr;
  t.q_b = t.q_first = t.k_b = t.k_first = 0;
  return t;
}

// Task `at` of a problem without cu_q; false where an index is bad.
template <int ROWS>
__device__ __forceinline__ bool find_later_task(const AttentionArgs& p, uint32_t at, AttentionTask& t) {
  t = empty_task();
  return complete_task<ROWS>(p, t, static_cast<int>(p.sq), place_task(p, at, t));
}

// The task of a block of a kernel that takes ROWS rows a block. With cu_q, sequence n's tiles begin at number
// ⌊cu_q[n]·group / ROWS⌋ + n, which leaves room for a last one that is not full, and what is behind the last sequence
// counts as one more; so no block has to know more than its own sequence's bounds. All threads of the block call it,
// before anything else that reads memory: it waits for earlier kernels. early(sequence, split) is called before lengths
// are read, where these two are known then, for what can be read meanwhile.
template <int ROWS, class Early = NothingEarly>
__device__ __forceinline__ AttentionTask find_task(const AttentionArgs& p, int* shared, Early early = {}) {
  AttentionTask t = empty_task();
  bool bad = false;
  int queries, tile;
  if (p.cu_q.data) {
    ptx::wait_for_earlier_kernels();
    const uint32_t number = p.by_splits.quotient(blockIdx.x), from_end = p.by_heads.quotient(number);
    t.split = static_cast<int>(blockIdx.x - number * p.by_splits.value);
    t.head = static_cast<int>(number - from_end * p.by_heads.value);
    int64_t at = p.by_tiles.value - 1 - from_end;
    for (int n = threadIdx.x; n <= p.sequences; n += blockDim.x) {
      const int64_t first = p.cu_q.at(n), next = n < p.sequences ? p.cu_q.at(n + 1) : p.sq;
      if (first < 0 || next < first || next > p.sq || (n == 0 && first != 0)) bad = true;
      if (first * p.group / ROWS + n <= at && at < next * p.group / ROWS + n + 1) *shared = n;
      if (!p.cu_k.data || n == p.sequences) continue;
      const int k_first = p.cu_k.at(n), k_next = p.cu_k.at(n + 1);
      const bool beyond = !p.table && k_next > p.capacity;
      if (k_first < 0 || k_next < k_first || beyond || (n == 0 && k_first != 0)) bad = true;
    }
    bad = __syncthreads_or(bad);
    t.sequence = bad ? p.sequences : *shared;
    int64_t end = p.sq;
    if (!bad) {
      t.q_first = p.cu_q.at(t.sequence);
      if (t.sequence < p.sequences) end = p.cu_q.at(t.sequence + 1);
      at -= t.q_first * p.group / ROWS + t.sequence;
    }
    t.idle = t.sequence == p.sequences;
    queries = static_cast<int>(end - t.q_first);
    tile = static_cast<int>(at);
    __syncthreads();  // all have read it
  } else {
    tile = place_task(p, blockIdx.x, t, early);
    queries = static_cast<int>(p.sq);
  }
  if (!complete_task<ROWS>(p, t, queries, tile)) bad = true;
  if (bad && threadIdx.x == 0) report_index_error(p.index_error, p.error);
  return t;
}

// The keys that query i sees: from `from` up to `to`.
struct KeyRange {
  int from, to;
};
__device__ __forceinline__ KeyRange keys_of(const AttentionArgs& p, const AttentionTask& t, int query) {
  const int at = query + t.shift;  // the query's own place; both sides of a window are at most 2^30
  const int from = p.left < kMostAttentionKeys ? max(at - p.left, t.pad) : t.pad;
  const int to = p.right < kMostAttentionKeys ? min(at + p.right + 1, t.keys) : t.keys;
  return {from, to};
}

// Tiles of keys that a block walks, and of those the ones that all of its rows see whole.
struct KeyTiles {
  int from, to, whole_from, whole_to;
};
// Of all parts.
template <int KEYS>
__device__ __forceinline__ KeyTiles all_tiles_of(const AttentionArgs& p, const AttentionTask& t, int first, int rows) {
  KeyTiles k{};
  if (first >= t.rows || t.keys == 0) return k;
  const int last = min(first + rows, t.rows) - 1;
  const KeyRange a = keys_of(p, t, static_cast<int>(p.by_group.quotient(first)));
  const KeyRange b = keys_of(p, t, static_cast<int>(p.by_group.quotient(last)));
  if (a.from >= b.to) return k;
  k.from = max(a.from, 0) / KEYS;
  k.to = (b.to + KEYS - 1) / KEYS;
  k.whole_from = (b.from + KEYS - 1) / KEYS;
  k.whole_to = max(a.to, 0) / KEYS;
  return k;
}
template <int KEYS>
__device__ __forceinline__ KeyTiles tiles_of(const AttentionArgs& p, const AttentionTask& t, int first, int rows) {
  KeyTiles k = all_tiles_of<KEYS>(p, t, first, rows);
  const int per = static_cast<int>(p.by_splits.quotient(k.to - k.from + p.by_splits.value - 1));
  k.from = min(k.from + t.split * per, k.to);
  k.to = min(k.from + per, k.to);
  return k;
}

// The place of a row of out, of lse and of what a split leaves.
__device__ __forceinline__ int64_t out_row(const AttentionArgs& p, const AttentionTask& t, int row) {
  const int query = static_cast<int>(p.by_group.quotient(row));
  return t.out_row + (query * int64_t{p.hq} + row - query * p.group);
}

// lse of a row, natural, from sums in powers of two. The sink is in.
__device__ __forceinline__ void put_lse(const AttentionArgs& p, int64_t out_row, float lse) {
  if (!p.lse) return;
  const int64_t token = out_row / p.hq, head = out_row - token * p.hq, b = token / p.sq;
  p.lse[(b * p.hq + head) * p.sq + token - b * p.sq] = lse;
}

// The same of a row of a task, whose place needs no division.
__device__ __forceinline__ void put_lse(const AttentionArgs& p, const AttentionTask& t, int row, float lse) {
  if (!p.lse) return;
  const int query = static_cast<int>(p.by_group.quotient(row)), head = t.head * p.group + row - query * p.group;
  p.lse[(t.q_b * p.hq + head) * p.sq + t.q_first + query] = lse;
}

}  // namespace seqmix::cuda
