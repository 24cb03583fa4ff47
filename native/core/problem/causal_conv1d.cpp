#include "core/problem/causal_conv1d.h"

#include "core/check.h"

namespace seqmix {

namespace {
void check_weight(const View& weight, const View& bias, int64_t d) {
  expect_rank("weight", weight, 2, "(d, w)");
  expect_float("weight", weight);
  if (weight.shape[0] != d || weight.shape[1] < 1)
    fail(Code::shape, "weight", "shape (d, w) with d = " + std::to_string(d) + " and w ≥ 1", shape_text(weight));
  if (bias.present) {
    expect_float("bias", bias);
    expect_shape("bias", bias, {d}, "(d)");
  }
}
}  // namespace

void CausalConv1d::validate() {
  expect_rank("x", x, 3, "(b, d, L)");
  expect_float("x", x);
  const int64_t b = x.shape[0], d = x.shape[1], L = x.shape[2];
  check_weight(weight, bias, d);
  const int64_t w = weight.shape[1];
  if (initial_states.present) {
    expect_float("initialStates", initial_states);
    expect_shape("initialStates", initial_states, {b, d, w - 1}, "(b, d, w - 1)");
  }
  if (seq_idx.present) {
    expect_dtype("seqIdx", seq_idx, DType::int32);
    expect_shape("seqIdx", seq_idx, {b, L}, "(b, L)");
  }
  out = dense_like(x, x.dtype);
  if (return_final_states) final_states = dense(x.dtype, {b, d, w - 1});
  work = 1.0 * b * d * L * (2.0 * w + 16);
}

void CausalConv1dUpdate::validate() {
  if (x.rank != 2 && x.rank != 3) fail(Code::shape, "x", "shape (b, d) or (b, d, s)", shape_text(x));
  expect_float("x", x);
  out_rank = x.rank;
  if (x.rank == 2) {
    x.shape[2] = 1;
    x.stride[2] = 0;
    x.rank = 3;
  }
  const int64_t b = x.shape[0], d = x.shape[1], s = x.shape[2];
  check_weight(weight, bias, d);
  const int64_t w = weight.shape[1];
  expect_rank("convState", conv_state, 3, "(b, d, length)");
  expect_float("convState", conv_state);
  if (conv_state.shape[1] != d || conv_state.shape[2] < w - 1)
    fail(Code::shape, "convState",
         "shape (b, d, length) with d = " + std::to_string(d) + " and length ≥ w - 1 = " + std::to_string(w - 1),
         shape_text(conv_state));
  if (!state_indices.present && conv_state.shape[0] != b)
    fail(Code::shape, "convState", "as many rows as x has, " + std::to_string(b) + ", or stateIndices",
         shape_text(conv_state));
  if (cache_seqlens.present) {
    expect_dtype("cacheSeqlens", cache_seqlens, DType::int32);
    expect_shape("cacheSeqlens", cache_seqlens, {b}, "(b)");
  }
  if (state_indices.present) {
    expect_dtype("stateIndices", state_indices, DType::int32);
    expect_shape("stateIndices", state_indices, {b}, "(b)");
  }
  out = dense(x.dtype, {b, d, s});
  work = 1.0 * b * d * (s * (2.0 * w + 16) + conv_state.shape[2]);
}

}  // namespace seqmix
