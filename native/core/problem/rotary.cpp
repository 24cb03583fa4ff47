#include "core/problem/rotary.h"

#include "core/check.h"

namespace seqmix {

void Rotary::validate() {
  expect_rank("x", x, 4, "(b, L, h, d)");
  expect_float("x", x);
  const int64_t b = x.shape[0], L = x.shape[1], d = x.shape[3];
  expect_rank("cos", cos, 2, "(positions, r / 2)");
  expect_float("cos", cos);
  expect_same_dtype("sin", sin, cos, "as cos has");
  if (2 * cos.shape[1] > d)
    fail(Code::shape, "cos", "shape (positions, r / 2) with r at most d = " + std::to_string(d), shape_text(cos));
  expect_shape("sin", sin, {cos.shape[0], cos.shape[1]}, "as cos has");
  if (positions.present) {
    expect_index("positions", positions);
    if (positions.rank == 1) {
      expect_shape("positions", positions, {L}, "(L), or (b, L)");
      positions.shape[1] = L;
      positions.stride[1] = positions.stride[0];
      positions.shape[0] = b;
      positions.stride[0] = 0;
      positions.rank = 2;
    } else {
      expect_shape("positions", positions, {b, L}, "(b, L), or (L)");
    }
  } else if (L > cos.shape[0]) {
    fail(Code::shape, "cos", "a row for each of " + std::to_string(L) + " tokens, or positions", shape_text(cos));
  }
  out = dense(x.dtype, x.shape, x.rank);
  work = 4.0 * x.size();
}

}  // namespace seqmix
