#include "core/problem/selective_scan.h"

#include "core/check.h"

namespace seqmix {

namespace {

// B or C: a constant (d, n), of any dtype as weights are, or one per token for all channels (b, n, L) or per group of
// channels (b, g, n, L), of u's dtype.
void check_input_matrix(const char* what, View& m, const View& u, int64_t n) {
  const int64_t b = u.shape[0], d = u.shape[1], L = u.shape[2];
  expect_float(what, m);
  if (m.rank == 2) return expect_shape(what, m, {d, n}, "(d, n)");
  expect_same_dtype(what, m, u, "as u has");
  if (m.rank == 3) {
    expect_shape(what, m, {b, n, L}, "(b, n, L)");
    m.rank = 4;
    for (int i = 3; i > 1; i--) {
      m.shape[i] = m.shape[i - 1];
      m.stride[i] = m.stride[i - 1];
    }
    m.shape[1] = 1;
    m.stride[1] = 0;
    return;
  }
  if (m.rank != 4) fail(Code::shape, what, "shape (d, n), (b, n, L) or (b, g, n, L)", shape_text(m));
  expect_shape(what, m, {b, m.shape[1], n, L}, "(b, g, n, L)");
  if (m.shape[1] == 0 || d % m.shape[1] != 0)
    fail(Code::shape, what, "a number of groups that divides d = " + std::to_string(d), std::to_string(m.shape[1]));
}

}  // namespace

void SelectiveScan::validate() {
  expect_rank("u", u, 3, "(b, d, L)");
  expect_float("u", u);
  const int64_t b = u.shape[0], d = u.shape[1], L = u.shape[2];
  expect_same_dtype("delta", delta, u, "as u has");
  expect_shape("delta", delta, {b, d, L}, "as u has");
  expect_rank("A", A, 2, "(d, n)");
  expect_float("A", A);
  const int64_t n = A.shape[1];
  expect_shape("A", A, {d, n}, "(d, n)");
  check_input_matrix("B", B, u, n);
  check_input_matrix("C", C, u, n);
  if (D.present) {
    expect_float("D", D);
    expect_shape("D", D, {d}, "(d)");
  }
  if (delta_bias.present) {
    expect_float("deltaBias", delta_bias);
    expect_shape("deltaBias", delta_bias, {d}, "(d)");
  }
  if (z.present) {
    expect_same_dtype("z", z, u, "as u has");
    expect_shape("z", z, {b, d, L}, "as u has");
  }
  if (initial_state.present) {
    expect_float("initialState", initial_state);
    expect_shape("initialState", initial_state, {b, d, n}, "(b, d, n)");
  }
  if (seq_idx.present) {
    expect_dtype("seqIdx", seq_idx, DType::int32);
    expect_shape("seqIdx", seq_idx, {b, L}, "(b, L)");
  }
  out = dense_like(u, u.dtype);
  if (return_last_state) last_state = dense(DType::float32, {b, d, n});
  work = 1.0 * b * d * L * (6.0 * n + 20);
}

}  // namespace seqmix
