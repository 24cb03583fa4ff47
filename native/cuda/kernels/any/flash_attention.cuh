// Flash attention in float32 arithmetic, any head dim, any strides: what float32 data ask for, and what the tensor
// cores' kernels do not take. KV is the dtype of k and v: T's own, or int8 with a scale for each key and head.
//
// A block owns 16·R rows (queries, with the heads of a group packed), a part of the keys and up to 128 elements of v,
// and walks tiles of 64 keys; a thread has R rows and every sixteenth key of the scores, which it makes from 32
// elements of q and k at a time in shared memory, then R rows and eight elements of the output. In tiles that a row
// does not see whole a weight of 0 multiplies nothing, so that a NaN stays where it is seen.
//
// Floor: 2 (d + dv) operations for each pair of a query and a key that it sees, and of dv above 128 the scores again
// for every 128.
#pragma once
#include "cuda/kernels/any/flash_attention_combine.cuh"

namespace seqmix::cuda {

constexpr int kPlainKeys = 64, kPlainDepth = 32, kPlainColumns = 128, kPlainThreads = 256;
constexpr int kPlainLine = kPlainDepth + 4, kPlainWeightsLine = kPlainKeys + 4;

template <int R>
struct PlainAttention {
  static constexpr int kRows = 16 * R;
  static constexpr int kFloats =
      (kRows + kPlainKeys) * kPlainLine + kRows * kPlainWeightsLine + kPlainKeys * kPlainColumns;
  static constexpr int kShared = kFloats * 4 + 2 * kPlainKeys * 8 + 2 * kPlainKeys * 4;
};

__device__ __forceinline__ float plain_value(const int8_t* from, int64_t i) { return static_cast<float>(from[i]); }
template <class T>
__device__ __forceinline__ float plain_value(const T* from, int64_t i) {
  return widen(from[i]);
}

// tanh, good to a few units of 2^-24 of its own size.
__device__ __forceinline__ float plain_score(const AttentionArgs& p, float product, float slope, int distance) {
  float s = product * p.scale;
  if (p.softcap > 0) s = p.softcap * tanhf(s * p.softcap_by);
  return (s - slope * static_cast<float>(abs(distance))) * kLog2E;
}

template <class T, class KV, int R>
__global__ void __launch_bounds__(kPlainThreads, 1) flash_attention_plain(const __grid_constant__ AttentionArgs p) {
  using Shape = PlainAttention<R>;
  constexpr int kRows = Shape::kRows, kKeys = kPlainKeys, kLine = kPlainLine, kColumns = kPlainColumns;
  extern __shared__ __align__(16) uint8_t memory[];
  __shared__ int found;
  float* const q = reinterpret_cast<float*>(memory);
  float* const k = q + kRows * kLine;
  float* const weights = k + kKeys * kLine;
  float* const v = weights + kRows * kPlainWeightsLine;
  int64_t* const k_at = reinterpret_cast<int64_t*>(v + kKeys * kColumns);  // of each key; negative: it counts as 0
  int64_t* const v_at = k_at + kKeys;
  float* const k_by = reinterpret_cast<float*>(v_at + kKeys);
  float* const v_by = k_by + kKeys;
  const int thread = threadIdx.x, tx = thread % 16, ty = thread / 16, row0 = ty * R;

  const AttentionTask t = find_task<kRows>(p, &found);
  ptx::let_next_kernel_begin();
  if (t.first >= t.rows) return;
  const KeyTiles range = tiles_of<kKeys>(p, t, t.first, kRows);
  const int column0 = static_cast<int>(blockIdx.y) * kColumns;
  const T* const q_from = static_cast<const T*>(p.q.data) + t.q_b * p.q.b + t.q_first * p.q.t;
  const KV* const k_from = static_cast<const KV*>(p.k.data) + t.head * p.k.h;
  const KV* const v_from = static_cast<const KV*>(p.v.data) + t.head * p.v.h;

  float out[R][8] = {}, top[R], sum[R];
#pragma unroll
  for (int r = 0; r < R; r++) {
    top[r] = -1e37f;
    sum[r] = 0;
  }
  bool pages_there = true;
  for (int tile = range.from; tile < range.to; tile++) {
    const int j0 = tile * kKeys;
    if (thread < kKeys) {
      const int j = j0 + thread;
      bool there = j < t.keys;
      int64_t b = t.k_b, key = t.k_first + j;
      if (there && t.pages) {
        const int number = static_cast<int>(p.by_page.quotient(j));
        b = t.pages[number * p.table_page];
        key = j - number * static_cast<int>(p.by_page.value);
        there = b >= 0 && b < p.slots;
        pages_there = pages_there && there;
      }
      k_at[thread] = there ? b * p.k.b + key * p.k.t : -1;
      v_at[thread] = there ? b * p.v.b + key * p.v.t : -1;
      if constexpr (sizeof(KV) == 1) {
        k_by[thread] = there ? p.k_scale[b * p.k_scale_b + key * p.k_scale_t + t.head * p.k_scale_h] : 0.0f;
        v_by[thread] = there ? p.v_scale[b * p.v_scale_b + key * p.v_scale_t + t.head * p.v_scale_h] : 0.0f;
      }
    }
    float s[R][4] = {};
    for (int d0 = 0; d0 < p.d; d0 += kPlainDepth) {
      __syncthreads();  // the keys' places are known; nobody reads what was here any more
      const int c = d0 + thread % 32;
#pragma unroll
      for (int i = 0; i < kRows / 8; i++) {
        const int row = thread / 32 + i * 8, number = t.first + row;
        float x = 0;
        if (number < t.rows && c < p.d) {
          const int query = static_cast<int>(p.by_group.quotient(number));
          const int head = t.head * p.group + number - query * p.group;
          const int64_t at = query * p.q.t + head * p.q.h + c * p.q.inner;
          x = widen(q_from[at]);
          if (p.q_low) x += widen(static_cast<const T*>(p.q_low)[q_from - static_cast<const T*>(p.q.data) + at]);
        }
        q[row * kLine + thread % 32] = x;
      }
#pragma unroll
      for (int i = 0; i < kKeys / 8; i++) {
        const int row = thread / 32 + i * 8;
        const int64_t at = k_at[row];
        float x = at >= 0 && c < p.d ? plain_value(k_from, at + c * p.k.inner) : 0.0f;
        if constexpr (sizeof(KV) == 1) x *= k_by[row];
        k[row * kLine + thread % 32] = x;
      }
      __syncthreads();
#pragma unroll
      for (int e = 0; e < kPlainDepth; e += 4) {
        Floats<4> a[R], b[4];
#pragma unroll
        for (int r = 0; r < R; r++) a[r] = load<4>(q + (row0 + r) * kLine + e);
#pragma unroll
        for (int n = 0; n < 4; n++) b[n] = load<4>(k + (tx + n * 16) * kLine + e);
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
          for (int n = 0; n < 4; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[r][n] = fmaf(a[r].v[i], b[n].v[i], s[r][n]);
      }
    }
    for (int i = thread; i < kKeys * kColumns; i += kPlainThreads) {
      const int row = i / kColumns, c = column0 + i % kColumns;
      const int64_t at = v_at[row];
      float x = at >= 0 && c < p.dv ? plain_value(v_from, at + c * p.v.inner) : 0.0f;
      if constexpr (sizeof(KV) == 1) x *= v_by[row];
      v[i] = x;
    }
    const bool whole = tile >= range.whole_from && tile < range.whole_to;
#pragma unroll
    for (int r = 0; r < R; r++) {
      const int row = min(t.first + row0 + r, t.rows - 1), query = static_cast<int>(p.by_group.quotient(row));
      const KeyRange seen = keys_of(p, t, query);
      float slope = 0, most = -INFINITY;
      if (p.slopes.data) {
        const int head = t.head * p.group + row - query * p.group;
        slope = float_at(p.slopes.data, p.slopes.dtype, t.sequence * p.slopes_b + head * p.slopes.stride);
      }
#pragma unroll
      for (int n = 0; n < 4; n++) {
        const int j = j0 + tx + n * 16;
        s[r][n] = p.bent ? plain_score(p, s[r][n], slope, query + t.shift - j) : s[r][n] * p.scale_log2;
        if (j < seen.from || j >= seen.to) s[r][n] = -INFINITY;
        most = fmaxf(most, s[r][n]);
      }
#pragma unroll
      for (int i = 1; i < 16; i <<= 1) most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, i));
      most = fmaxf(most, top[r]);
      const float left = exp2f(top[r] - most);
      top[r] = most;
      sum[r] *= left;
#pragma unroll
      for (int c = 0; c < 8; c++) out[r][c] *= left;
#pragma unroll
      for (int n = 0; n < 4; n++) {
        const float weight = exp2f(s[r][n] - most);
        sum[r] += weight;
        weights[(row0 + r) * kPlainWeightsLine + tx + n * 16] = weight;
      }
    }
    __syncthreads();
    for (int j = 0; j < kKeys; j += 4) {
      Floats<4> w[R];
#pragma unroll
      for (int r = 0; r < R; r++) w[r] = load<4>(weights + (row0 + r) * kPlainWeightsLine + j);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const Floats<4> x = load<4>(v + (j + i) * kColumns + tx * 4), y = load<4>(v + (j + i) * kColumns + 64 + tx * 4);
#pragma unroll
        for (int r = 0; r < R; r++) {
          if (!whole && w[r].v[i] == 0) continue;
#pragma unroll
          for (int c = 0; c < 4; c++) {
            out[r][c] = fmaf(w[r].v[i], x.v[c], out[r][c]);
            out[r][c + 4] = fmaf(w[r].v[i], y.v[c], out[r][c + 4]);
          }
        }
      }
    }
    __syncthreads();
  }
  const bool lost = __syncthreads_or(!pages_there);
  if (lost && thread == 0) report_index_error(p.index_error, p.error);

#pragma unroll
  for (int r = 0; r < R; r++) {
    float all = sum[r];
#pragma unroll
    for (int i = 1; i < 16; i <<= 1) all += __shfl_xor_sync(kFullWarp, all, i);
    const int row = t.first + row0 + r;
    if (row >= t.rows) continue;
    const int64_t at = out_row(p, t, row), place = t.split * (p.batch * p.sq * p.hq) + at;
    RowEnd end{all == 0 ? 0.0f : 1 / all, all == 0 ? -INFINITY : top[r] + log2f(all)};
    if (!p.partial) end = end_of_row(p, at, top[r], all, t.idle);
    if (lost || t.idle) end = {0, p.partial ? INFINITY : -INFINITY};
    if (tx == 0 && blockIdx.y == 0) {
      if (p.partial)
        p.part_lse[place] = end.lse;
      else
        put_lse(p, at, end.lse);
    }
#pragma unroll
    for (int c = 0; c < 8; c++) {
      const int column = column0 + c / 4 * 64 + tx * 4 + c % 4;
      if (column >= p.dv) continue;
      const float x = end.by == 0 ? 0.0f : out[r][c] * end.by;
      if (p.partial)
        p.partial[place * p.dv + column] = x;
      else
        static_cast<T*>(p.out)[at * p.dv + column] = narrow<T>(x);
    }
  }
}

}  // namespace seqmix::cuda
