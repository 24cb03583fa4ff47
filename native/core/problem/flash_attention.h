// flashAttention: softmax(s) v, where s = scale q kᵀ, and what stands between: softcap, ALiBi, a mask, a sink.
//   s_ij = scale q_i·k_j;   s = softcap tanh(s / softcap) if softcap > 0;   s -= slope |p_i - j|
//   p_i = i + K - Q, the position of query i among the K keys of its sequence: the last query is at the last key.
//   Query i sees key j where p_i - left <= j <= p_i + right (causal: right = 0), and pad <= j < K.
//   lse_i = log(Σ_j e^s_ij + e^sink),   out_i = Σ_j e^(s_ij - lse_i) v_j
// A query that sees no key: out is 0, and lse the sink's logit, or -infinity. Query head h reads KV head ⌊h·hk/hq⌋.
// (Dao, FlashAttention-2, 2023; the package flash-attn. Sinks as in gpt-oss.)
//
// Three forms, told by `op`, of one problem. Where queries and keys of sequence r are:
//   flash_attention               queries row r of q (b, sq, hq, d), keys row r of k (b, sk, hk, d): Q = sq, K = sk
//   flash_attention_varlen        queries cu_seqlens_q[r] to [r + 1] of the one row of q; keys cu_seqlens_k[r] to
//                                 [r + 1] of the one row of k, or, with block_table, in pages; of them the first
//                                 used_k[r] if used_k is present
//   flash_attention_with_kv_cache queries row r of q, or with cu_seqlens_q as above; keys in slot
//                                 batch_idx[r] (r when absent) of k (B, S, hk, d), or in pages; used_k[r] (the whole
//                                 slot when absent) were there before, and row r of new_k (packed as q is, with
//                                 cu_seqlens_q) is written behind them first: K = used_k[r] + new keys
// In pages: k is (pages, page, hk, d), and key j of sequence r lies in page block_table[r][j / page], row j % page.
//
// Indices live on the device, so kernels check them. What is bad sets the error word, is never followed, and:
//   cu_seqlens that do not ascend from 0 to at most the tokens there are: all of out is 0 and all of lse -infinity
//   used_k, left_pad, batch_idx or a rotary position out of range: so is this sequence's, and its slot stays as it was
//   an entry of block_table: so is the out of (at least) every query that sees a key behind it; a new key there is lost
// A negative batch_idx is no error: the row is idle, its out 0 and lse -infinity. Rows of q in no sequence likewise.
// Entries of block_table behind which no query of the sequence sees a key are not looked at.
#pragma once
#include "core/problem/problem.h"

namespace seqmix {

constexpr int64_t kUnbounded = int64_t{1} << 40;  // a side of a window; p ± kUnbounded does not overflow
constexpr int64_t kMostHeadDim = 512;

struct FlashAttention : Problem {
  // After validate() q has four dimensions: packed queries (total, hq, d) are one row, (1, total, hq, d), and so are
  // packed keys. d and dv are multiples of 8 up to kMostHeadDim, and may differ.
  View q;             // (b, sq, hq, d)
  View k, v;          // (b, sk, hk, d) and (…, dv), a cache (B, S, …), or pages (pages, page, …); of q's dtype or int8
  View k_scale;       // (B, S, hk) or (pages, page, hk) float32, present where k and v are int8: key = int8 · scale
  View v_scale;       // the same of v
  View new_k, new_v;  // (b, s, hk, d) and (…, dv) of q's dtype, or (1, total, …) with cu_seqlens_q; may be absent
  View cu_seqlens_q;  // (n + 1) int32, may be absent
  View cu_seqlens_k;  // (n + 1) int32, may be absent
  View used_k;        // (n) int32, may be absent: seqUsedK, cacheSeqlens
  View block_table;   // (n, blocks) int32, may be absent
  View batch_idx;     // (n) int32, may be absent
  View left_pad;      // (n) int32, may be absent: the first so many keys of the slot do not count
  // (positions, r / 2) of any floating-point dtype, may be absent. The first r elements of a new key are rotated by its
  // place in the slot, used_k and on, and those of query i by used_k + i where a side of the window is bounded, else by
  // used_k: pairs (x, y) become (x cos - y sin, x sin + y cos); pairs are (2c, 2c + 1) if interleaved, else
  // (c, c + r / 2). A rotated query is not rounded, a new key is, as it is stored.
  View rotary_cos, rotary_sin;
  View alibi_slopes;  // (n, hq), stride 0 over n where they came as (hq); may be absent
  View sinks;         // (hq), may be absent
  double scale = 0;   // NaN before validate(): 1/√d
  double softcap = 0;
  int64_t window_left = -1, window_right = -1;  // after validate() kUnbounded stands for -1
  bool causal = false;                          // after validate() window_right says it: 0
  bool rotary_interleaved = false;
  bool return_lse = false;
  int64_t num_splits = 0;                      // parts that the keys are cut in; 0: what is fastest
  int64_t max_seqlen_q = 0, max_seqlen_k = 0;  // hints, 0 for none: no sequence is longer. Results do not need them.

  View out;  // (b, sq, hq, dv), or (1, total, hq, dv), dense
  View lse;  // (b, hq, sq), or (1, hq, total), float32, dense; absent unless asked for
  int64_t sequences = 0;
  bool packed = false;  // queries: their first dimension is not the caller's

  explicit FlashAttention(Op o) : Problem(o, sizeof(FlashAttention)) {}
  void validate();

  bool is_cached() const { return op == Op::flash_attention_with_kv_cache; }

 private:
  void check_queries();
  void check_keys();
  void check_scales();
  void check_new_keys();
  void check_rotary();
  void check_scores();
  void describe_outputs();
};

// How a new key is kept in an int8 cache, to the bit, in float32 operations (after rotation): with a the largest
// magnitude of its d elements, scale = a / 127, and each element x is x · (127 / a) rounded to nearest even. Where
// 127 / a is not finite (a = 0, or nearly), the scale and all elements are 0. With a NaN among them, or an infinity,
// the scale is NaN.

}  // namespace seqmix
