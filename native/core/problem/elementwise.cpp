#include "core/problem/elementwise.h"

#include <cmath>

#include "core/check.h"

namespace seqmix {

void Copy::validate() {
  if (!same_shape(src, dst))
    fail(Code::shape, "source", "shape " + shape_text(dst) + " as the target has", shape_text(src));
  work = 2.0 * src.size();
}

void Silu::validate() {
  expect_float("x", x);
  out = dense_like(x, x.dtype);
  work = 1.0 * x.size() * 12;
}

void Gelu::validate() {
  expect_float("x", x);
  out = dense_like(x, x.dtype);
  work = 1.0 * x.size() * 20;
}

void Softcap::validate() {
  expect_float("x", x);
  if (!(cap > 0) || std::isinf(cap)) fail(Code::option_range, "cap", "a finite number above 0", std::to_string(cap));
  out = dense_like(x, x.dtype);
  work = 1.0 * x.size() * 20;
}

void Binary::validate() {
  expect_float("a", a);
  expect_same_dtype("b", b, a, "as a has");
  int64_t shape[kMaxRank];
  int rank;
  if (!broadcast_shape(a, b, shape, &rank))
    fail(Code::shape, "b", "a shape that broadcasts with a's " + shape_text(a), shape_text(b));
  const bool as_a = a.rank == rank && same_shape(a, dense(a.dtype, shape, rank));
  const bool as_b = b.rank == rank && same_shape(b, dense(b.dtype, shape, rank));
  a = broadcast_to(a, shape, rank);
  b = broadcast_to(b, shape, rank);
  out = as_a ? dense_like(a, a.dtype) : as_b ? dense_like(b, b.dtype) : dense(a.dtype, shape, rank);
  work = 1.0 * out.size() * (activation == Activation::none ? 1 : 20);
}

}  // namespace seqmix
