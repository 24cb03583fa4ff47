#include "core/problem/flash_attention.h"

#include <cmath>

#include "core/check.h"

namespace seqmix {

namespace {

std::string text(int64_t n) { return std::to_string(n); }

// (total, h, d) seen as one row, (1, total, h, d).
void as_one_row(View& v) {
  for (int i = v.rank; i > 0; i--) {
    v.shape[i] = v.shape[i - 1];
    v.stride[i] = v.stride[i - 1];
  }
  v.shape[0] = 1;
  v.rank++;
}

void expect_head_dim(const char* what, const char* letter, const View& v) {
  const int64_t d = v.shape[v.rank - 1];
  if (d < 8 || d > kMostHeadDim || d % 8 != 0)
    fail(Code::shape, what, std::string(letter) + " a multiple of 8 from 8 to " + text(kMostHeadDim), shape_text(v));
}

void expect_row(const char* what, const View& v, int64_t n, const char* why) {
  expect_dtype(what, v, DType::int32);
  expect_shape(what, v, {n}, why);
}

// Prefix sums of the lengths of sequences, of which there are n: -1 for any number.
int64_t expect_offsets(const char* what, const View& v, int64_t n) {
  expect_dtype(what, v, DType::int32);
  if (v.rank != 1 || v.shape[0] < 1) fail(Code::shape, what, "shape (n + 1)", shape_text(v));
  if (n >= 0) expect_shape(what, v, {n + 1}, "(n + 1) for as many sequences as cuSeqlensQ has");
  return v.shape[0] - 1;
}

void check_side(int64_t& side) {
  if (side < -1)
    fail(Code::option_range, "window", "two whole numbers, each from 0 on, or -1 for no bound", text(side));
  if (side == -1 || side > kUnbounded) side = kUnbounded;
}

}  // namespace

void FlashAttention::check_queries() {
  packed = cu_seqlens_q.present;
  expect_rank("q", q, packed ? 3 : 4, packed ? "(total, hq, d), with cuSeqlensQ" : "(b, sq, hq, d)");
  expect_float("q", q);
  expect_head_dim("q", "d", q);
  if (packed) as_one_row(q);
  sequences = packed ? expect_offsets("cuSeqlensQ", cu_seqlens_q, -1) : q.shape[0];
}

// Where the keys are, by the op and whether there is a block table. Names are the caller's.
void FlashAttention::check_keys() {
  const char* const names[] = {is_cached() ? "kCache" : "k", is_cached() ? "vCache" : "v"};
  const bool rows = op == Op::flash_attention_varlen && !block_table.present;
  const char* const letters[] = {block_table.present ? "(pages, page, hk, d)"
                                 : rows              ? "(total, hk, d)"
                                 : is_cached()       ? "(B, S, hk, d)"
                                                     : "(b, sk, hk, d)",
                                 block_table.present ? "(pages, page, hk, dv)"
                                 : rows              ? "(total, hk, dv)"
                                 : is_cached()       ? "(B, S, hk, dv)"
                                                     : "(b, sk, hk, dv)"};
  expect_rank(names[0], k, rows ? 3 : 4, letters[0]);
  expect_rank(names[1], v, rows ? 3 : 4, letters[1]);
  if (!is_cached() || k.dtype != DType::int8) expect_same_dtype(names[0], k, q, "as q has");
  expect_same_dtype(names[1], v, k, is_cached() ? "as kCache has" : "as k has");
  expect_head_dim(names[1], "dv", v);
  // A cache is never copied to be read.
  if (is_cached() && (k.stride[3] != 1 || v.stride[3] != 1))
    fail(Code::shape, names[k.stride[3] != 1 ? 0 : 1], "the elements of a key side by side", "them apart");
  if (rows) {
    as_one_row(k);
    as_one_row(v);
  }
  const int64_t hq = q.shape[2], hk = k.shape[2];
  if (k.shape[3] != q.shape[3])
    fail(Code::shape, names[0], "a last dimension of d = " + text(q.shape[3]) + " as q has", shape_text(k));
  if (hk == 0 || hq % hk != 0) fail(Code::shape, names[0], "a number of heads that divides hq = " + text(hq), text(hk));
  if (v.shape[0] != k.shape[0] || v.shape[1] != k.shape[1] || v.shape[2] != hk)
    fail(Code::shape, names[1],
         "the shape of " + std::string(names[0]) + " but for its last dimension, " + shape_text(k), shape_text(v));
  if (block_table.present) {
    expect_dtype("blockTable", block_table, DType::int32);
    expect_rank("blockTable", block_table, 2, "(n, blocks)");
    expect_shape("blockTable", block_table, {sequences, block_table.shape[1]}, "(n, blocks), a row for each sequence");
    if (k.shape[1] < 16 || k.shape[1] % 16 != 0)
      fail(Code::shape, names[0], "pages of a multiple of 16 keys, (pages, page, hk, d)", shape_text(k));
    if (batch_idx.present)
      fail(Code::option, "cacheBatchIdx", "a cache without blockTable, whose rows do the same", "both");
  }
  if (op == Op::flash_attention && k.shape[0] != q.shape[0])
    fail(Code::shape, "k", "as many rows as q has, " + text(q.shape[0]), shape_text(k));
  if (is_cached() && !block_table.present && !batch_idx.present && k.shape[0] != sequences)
    fail(Code::shape, "kCache", "as many slots as there are sequences, " + text(sequences) + ", or cacheBatchIdx",
         shape_text(k));
  if (cu_seqlens_k.present) expect_offsets("cuSeqlensK", cu_seqlens_k, sequences);
  if (rows && !cu_seqlens_k.present) fail(Code::shape, "cuSeqlensK", "an int32 tensor (n + 1)", "none");
  if (op == Op::flash_attention_varlen && !cu_seqlens_k.present && !used_k.present)
    fail(Code::shape, "cuSeqlensK", "an int32 tensor (n + 1), or seqUsedK, beside blockTable", "none");
  if (used_k.present) expect_row(is_cached() ? "cacheSeqlens" : "seqUsedK", used_k, sequences, "(n)");
  if (batch_idx.present) expect_row("cacheBatchIdx", batch_idx, sequences, "(n)");
  if (left_pad.present) expect_row("leftPad", left_pad, sequences, "(n)");
}

// An int8 cache has one scale for each key and head.
void FlashAttention::check_scales() {
  View* const scales[] = {&k_scale, &v_scale};
  const char* const names[] = {"kScale", "vScale"};
  for (int i = 0; i < 2; i++) {
    if (k.dtype != DType::int8) {
      if (scales[i]->present) fail(Code::option, names[i], "an int8 cache beside it", name_of(k.dtype));
      continue;
    }
    if (!scales[i]->present)
      fail(Code::shape, names[i], "a float32 tensor " + shape_text(k.shape, 3) + " beside an int8 cache", "none");
    expect_dtype(names[i], *scales[i], DType::float32);
    expect_shape(names[i], *scales[i], {k.shape[0], k.shape[1], k.shape[2]}, "as kCache has but for d");
  }
}

void FlashAttention::check_new_keys() {
  if (new_k.present != new_v.present)
    fail(Code::option, new_k.present ? "v" : "k", "both k and v, or neither", "one of them");
  if (!new_k.present) return;
  if (!used_k.present) fail(Code::option, "k", "cacheSeqlens beside new keys: where they go", "none");
  expect_same_dtype("k", new_k, q, "as q has");
  expect_same_dtype("v", new_v, q, "as q has");
  const int rank = packed ? 3 : 4;
  expect_rank("k", new_k, rank, packed ? "(total, hk, d)" : "(b, s, hk, d)");
  expect_rank("v", new_v, rank, packed ? "(total, hk, dv)" : "(b, s, hk, dv)");
  const int64_t hk = k.shape[2], d = k.shape[3], dv = v.shape[3];
  if (packed) {
    const int64_t total = q.shape[1];
    expect_shape("k", new_k, {total, hk, d}, "(total, hk, d), a key for each query");
    expect_shape("v", new_v, {total, hk, dv}, "(total, hk, dv)");
    as_one_row(new_k);
    as_one_row(new_v);
  } else {
    expect_shape("k", new_k, {sequences, new_k.shape[1], hk, d}, "(b, s, hk, d)");
    expect_shape("v", new_v, {sequences, new_k.shape[1], hk, dv}, "(b, s, hk, dv)");
  }
}

void FlashAttention::check_rotary() {
  if (rotary_cos.present != rotary_sin.present)
    fail(Code::option, rotary_cos.present ? "rotarySin" : "rotaryCos", "both rotaryCos and rotarySin, or neither",
         "one of them");
  if (!rotary_cos.present) return;
  if (!new_k.present) fail(Code::option, "rotaryCos", "new keys k and v beside it", "none");
  expect_float("rotaryCos", rotary_cos);
  expect_same_dtype("rotarySin", rotary_sin, rotary_cos, "as rotaryCos has");
  expect_rank("rotaryCos", rotary_cos, 2, "(positions, r / 2)");
  if (2 * rotary_cos.shape[1] > q.shape[3])
    fail(Code::shape, "rotaryCos", "shape (positions, r / 2) with r at most d = " + text(q.shape[3]),
         shape_text(rotary_cos));
  expect_shape("rotarySin", rotary_sin, {rotary_cos.shape[0], rotary_cos.shape[1]}, "as rotaryCos has");
}

void FlashAttention::check_scores() {
  const int64_t hq = q.shape[2];
  if (std::isnan(scale)) scale = 1 / std::sqrt(static_cast<double>(q.shape[3]));
  if (!std::isfinite(scale)) fail(Code::option_range, "scale", "a finite number", std::to_string(scale));
  if (!std::isfinite(softcap) || softcap < 0)
    fail(Code::option_range, "softcap", "a finite number from 0 (none) on", std::to_string(softcap));
  check_side(window_left);
  check_side(window_right);
  if (causal) window_right = 0;
  if (alibi_slopes.present) {
    expect_float("alibiSlopes", alibi_slopes);
    if (alibi_slopes.rank == 1) {
      expect_shape("alibiSlopes", alibi_slopes, {hq}, "(hq), or (n, hq)");
      as_one_row(alibi_slopes);
      alibi_slopes.shape[0] = sequences;
      alibi_slopes.stride[0] = 0;
    } else {
      expect_shape("alibiSlopes", alibi_slopes, {sequences, hq}, "(n, hq), or (hq)");
    }
  }
  if (sinks.present) {
    expect_float("sinks", sinks);
    expect_shape("sinks", sinks, {hq}, "(hq)");
  }
}

void FlashAttention::describe_outputs() {
  const int64_t b = q.shape[0], sq = q.shape[1], hq = q.shape[2], d = q.shape[3], dv = v.shape[3];
  out = dense(q.dtype, {b, sq, hq, dv});
  if (return_lse) lse = dense(DType::float32, {b, hq, sq});
  const double keys = 1.0 * k.shape[1] * (block_table.present ? block_table.shape[1] : 1);
  work = 1.0 * b * sq * hq * keys * static_cast<double>(d + dv + 8) + 4.0 * new_k.size() + 4.0 * out.size();
}

void FlashAttention::validate() {
  check_queries();
  check_keys();
  check_scales();
  check_new_keys();
  check_rotary();
  check_scores();
  if (num_splits < 0) fail(Code::option_range, "numSplits", "a whole number from 0 on", text(num_splits));
  if (max_seqlen_q < 0 || max_seqlen_k < 0)
    fail(Code::option_range, max_seqlen_q < 0 ? "maxSeqlenQ" : "maxSeqlenK", "a whole number from 0 on",
         text(max_seqlen_q < 0 ? max_seqlen_q : max_seqlen_k));
  describe_outputs();
}

}  // namespace seqmix
