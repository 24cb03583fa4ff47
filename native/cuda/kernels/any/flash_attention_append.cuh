// What a KV cache is given before flash attention reads it: new keys, rotated by their places, and values, in place;
// and the queries rotated, into memory of their own, those of 16 bits as two numbers whose sum is what was rotated
// (scores are as exact then as of queries that came rotated). A warp does one row: a token's key, value or query of one
// head.
//
// Into an int8 cache a row goes with a scale of its own, to the bit as core/problem/flash_attention.h says.
//
// Floor: the bytes of the new rows.
#pragma once
#include "cuda/kernels/any/flash_attention_args.cuh"
#include "cuda/kernels/any/vector.cuh"
#include "cuda/ptx/grid.cuh"

namespace seqmix::cuda {

constexpr int kAppendWarps = 4;
constexpr int kAppendMost = 512;  // elements of a row

struct AppendArgs {
  AttentionArgs of;  // of its tensors k, v and q, which is not rotated yet
  AttentionTensor new_k, new_v;
  void *turned, *low;  // q once it is rotated, and what rounding it took away: (b, sq, hq, d), dense; null where
                       // nothing rotates it
  const void *cos, *sin;
  DType table_dtype;
  int64_t cos_t, cos_i, sin_t, sin_i;
  int half;  // pairs that are rotated
  bool interleaved;
  int64_t tokens;  // new ones and queries of a sequence, the more of both; with cu_q all there are
};

// A row of n elements that are rotated by `place` if there are tables, in `row`, a warp's own.
template <class T>
__device__ __forceinline__ void load_row(const AppendArgs& a, const T* from, int64_t inner, int n, bool turn,
                                         int64_t place, float* row) {
  const int lane = threadIdx.x % 32;
  __syncwarp();
  for (int i = lane; i < n; i += 32) row[i] = widen(from[i * inner]);
  __syncwarp();
  if (!turn) return;
  for (int i = lane; i < a.half; i += 32) {
    float& x = row[a.interleaved ? 2 * i : i];
    float& y = row[a.interleaved ? 2 * i + 1 : i + a.half];
    const float c = float_at(a.cos, a.table_dtype, place * a.cos_t + i * a.cos_i);
    const float s = float_at(a.sin, a.table_dtype, place * a.sin_t + i * a.sin_i);
    const float u = x * c - y * s, w = x * s + y * c;
    x = u;
    y = w;
  }
  __syncwarp();
}

template <class T>
__device__ __forceinline__ void store_row(const float* row, int n, T* to) {
  for (int i = threadIdx.x % 32; i < n; i += 32) to[i] = narrow<T>(row[i]);
}
__device__ __forceinline__ void store_row(const float* row, int n, int8_t* to, float* scale) {
  const int lane = threadIdx.x % 32;
  float most = 0;
  bool number = true;
  for (int i = lane; i < n; i += 32) {
    most = fmaxf(most, fabsf(row[i]));
    number = number && row[i] == row[i];
  }
  most = warp_reduce(most, Max());
  number = __all_sync(kFullWarp, number);
  const float inverse = __fdiv_rn(127.0f, most);
  const bool plain = number && inverse > 0 && inverse <= 3.4028234664e38f;
  if (lane == 0) *scale = plain ? __fdiv_rn(most, 127.0f) : number && most <= 1 ? 0.0f : NAN;
  for (int i = lane; i < n; i += 32) to[i] = plain ? static_cast<int8_t>(rintf(__fmul_rn(row[i], inverse))) : int8_t{0};
}

template <class T, class KV>
__global__ void __launch_bounds__(kAppendWarps * 32, 6) flash_attention_append(const __grid_constant__ AppendArgs a) {
  const AttentionArgs& p = a.of;
  __shared__ float rows[kAppendWarps][kAppendMost];
  float* const row = rows[threadIdx.x / 32];
  ptx::wait_for_earlier_kernels();
  bool bad = false;
  if (p.cu_q.data) {
    for (int n = threadIdx.x; n <= p.sequences; n += blockDim.x) {
      const int64_t first = p.cu_q.at(n), next = n < p.sequences ? p.cu_q.at(n + 1) : p.sq;
      if (first < 0 || next < first || next > p.sq || (n == 0 && first != 0)) bad = true;
    }
    bad = __syncthreads_or(bad);
    if (bad && threadIdx.x == 0) report_index_error(p.index_error, p.error);
  }
  ptx::let_next_kernel_begin();
  if (bad) return;
  const int per = 2 * p.hk + (a.turned ? p.hq : 0);  // rows of a token: keys, values, queries
  const int64_t items = (p.cu_q.data ? 1 : p.sequences) * a.tokens * per;
  for (int64_t item = blockIdx.x * kAppendWarps + threadIdx.x / 32; item < items;
       item += int64_t{gridDim.x} * kAppendWarps) {
    const int64_t token = item / per;
    int of = static_cast<int>(item - token * per), n;
    int64_t at, queries = p.sq;  // the token's number in its sequence
    AttentionTask t{};
    if (p.cu_q.data) {
      int low = 0, high = p.sequences;  // the last sequence that begins at or before this token
      while (high - low > 1) {
        const int middle = (low + high) / 2;
        (p.cu_q.at(middle) <= token ? low : high) = middle;
      }
      n = low;
      if (p.sequences == 0 || token >= p.cu_q.at(n + 1)) continue;  // it belongs to none
      t.q_first = p.cu_q.at(n);
      queries = p.cu_q.at(n + 1) - t.q_first;
      at = token - t.q_first;
    } else {
      n = static_cast<int>(token / a.tokens);
      at = token - n * a.tokens;
      t.q_b = n;
    }
    if (!find_keys(p, n, static_cast<int>(queries), t)) {
      if (threadIdx.x % 32 == 0) report_index_error(p.index_error, p.error);
      continue;
    }
    if (t.idle) continue;
    if (of >= 2 * p.hk) {
      if (at >= queries) continue;
      const int head = of - 2 * p.hk;
      const T* const from = static_cast<const T*>(p.q.data) + t.q_b * p.q.b + (t.q_first + at) * p.q.t + head * p.q.h;
      load_row(a, from, p.q.inner, p.d, true, t.used + (p.turns_by_place ? at : 0), row);
      const int64_t to = ((t.q_b * p.sq + t.q_first + at) * p.hq + head) * p.d;
      store_row(row, p.d, static_cast<T*>(a.turned) + to);
      if (!a.low) continue;
      for (int i = threadIdx.x % 32; i < p.d; i += 32) row[i] -= widen(narrow<T>(row[i]));
      store_row(row, p.d, static_cast<T*>(a.low) + to);
      continue;
    }
    if (at >= t.fresh) continue;
    const bool is_value = of >= p.hk;
    const int head = is_value ? of - p.hk : of, width = is_value ? p.dv : p.d;
    const int64_t j = t.used + at;
    int64_t b = t.k_b, key = t.k_first + j;
    if (t.pages) {
      const int64_t number = p.by_page.quotient(static_cast<uint32_t>(j));
      b = t.pages[number * p.table_page];
      key = j - number * p.by_page.value;
      if (b < 0 || b >= p.slots) {
        if (threadIdx.x % 32 == 0) report_index_error(p.index_error, p.error);
        continue;
      }
    }
    const AttentionTensor& fresh = is_value ? a.new_v : a.new_k;
    const AttentionTensor& cache = is_value ? p.v : p.k;
    const T* const from =
        static_cast<const T*>(fresh.data) + t.q_b * fresh.b + (t.q_first + at) * fresh.t + head * fresh.h;
    load_row(a, from, fresh.inner, width, a.cos && !is_value, j, row);
    KV* const to = static_cast<KV*>(const_cast<void*>(cache.data)) + b * cache.b + key * cache.t + head * cache.h;
    if constexpr (sizeof(KV) == 1) {
      const float* const scale = is_value ? p.v_scale + b * p.v_scale_b + key * p.v_scale_t + head * p.v_scale_h
                                          : p.k_scale + b * p.k_scale_b + key * p.k_scale_t + head * p.k_scale_h;
      store_row(row, width, to, const_cast<float*>(scale));
    } else {
      store_row(row, width, to);
    }
  }
}

}  // namespace seqmix::cuda
