#include "core/problem/rows.h"

#include <cmath>

#include "core/check.h"

namespace seqmix {

namespace {
View without_last(const View& v, DType dtype) { return dense(dtype, v.shape, v.rank - 1); }

View with_last(const View& v, DType dtype, int64_t last) {
  int64_t shape[kMaxRank];
  for (int i = 0; i < v.rank; i++) shape[i] = v.shape[i];
  shape[v.rank - 1] = last;
  return dense(dtype, shape, v.rank);
}

void expect_rows(const char* what, const View& v) {
  expect_float(what, v);
  if (v.rank == 0) fail(Code::shape, what, "at least one dimension", "a scalar, ()");
}

void expect_choices(const char* what, const View& v) {
  expect_rows(what, v);
  if (v.shape[v.rank - 1] < 1 && v.size() == 0)
    fail(Code::shape, what, "at least one element in the last dimension", shape_text(v));
  if (v.shape[v.rank - 1] > INT32_MAX)
    throw Error(Code::unsupported,
                std::string(what) +
                    ": expected at most 2^31 - 1 elements in the last dimension, since indices are int32, got " +
                    shape_text(v));
}

void expect_like(const char* what, const View& v, const View& x, const char* why) {
  if (!same_shape(v, x)) fail(Code::shape, what, "shape " + shape_text(x) + " " + why, shape_text(v));
}
}  // namespace

void Softmax::validate() {
  expect_rows("x", x);
  out = dense(x.dtype, x.shape, x.rank);
  work = 1.0 * x.size() * 20;
}

void ArgMax::validate() {
  expect_choices("x", x);
  out = without_last(x, DType::int32);
  work = 1.0 * x.size() * 2;
}

void TopK::validate() {
  expect_choices("x", x);
  const int64_t n = x.shape[x.rank - 1];
  if (k < 0 || k > n) fail(Code::option_range, "k", "a number from 0 to " + std::to_string(n), std::to_string(k));
  values = with_last(x, x.dtype, k);
  indices = with_last(x, DType::int32, k);
  work = 1.0 * x.size() * 8;
}

void Sample::validate() {
  expect_choices("logits", logits);
  if (!(temperature >= 0) || std::isinf(temperature))
    fail(Code::option_range, "temperature", "a finite number ≥ 0", std::to_string(temperature));
  if (top_k < 0) fail(Code::option_range, "topK", "a whole number ≥ 0", std::to_string(top_k));
  if (!(top_p >= 0 && top_p <= 1)) fail(Code::option_range, "topP", "a number from 0 to 1", std::to_string(top_p));
  if (counter.present) {
    expect_index("step", counter);
    if (counter.size() != 1) fail(Code::shape, "step", "one element", shape_text(counter));
  }
  out = without_last(logits, DType::int32);
  work = 1.0 * logits.size() * 40;
}

void RmsNorm::validate() {
  expect_rows("x", x);
  if (weight.present) {
    expect_float("weight", weight);
    expect_shape("weight", weight, {x.shape[x.rank - 1]}, "as x's last dimension");
  }
  if (residual.present) {
    if (residual.dtype != DType::float32) expect_same_dtype("residual", residual, x, "as x has, or float32");
    expect_like("residual", residual, x, "as x has");
    const bool wide = residual.dtype == DType::float32 || sum_in_float32;
    sum = dense(wide ? DType::float32 : x.dtype, x.shape, x.rank);
  }
  if (z.present) {
    expect_same_dtype("z", z, x, "as x has");
    expect_like("z", z, x, "as x has");
  }
  const int64_t n = x.shape[x.rank - 1];
  if (group < 0 || (group > 0 && n % group != 0))
    fail(Code::option_range, "groupSize", "a divisor of x's last dimension, " + std::to_string(n),
         std::to_string(group));
  if (group == 0) group = n;
  if (!(eps >= 0) || std::isinf(eps)) fail(Code::option_range, "eps", "a finite number ≥ 0", std::to_string(eps));
  out = dense(x.dtype, x.shape, x.rank);
  work = 1.0 * x.size() * (z.present ? 25 : 5);
}

void Linear::validate() {
  expect_rows("x", x);
  expect_rank("weight", weight, 2, "(out, in)");
  expect_float("weight", weight);
  const int64_t in = x.shape[x.rank - 1], features = weight.shape[0];
  if (weight.shape[1] != in)
    fail(Code::shape, "weight", "shape (out, in) with in = " + std::to_string(in) + ", x's last dimension",
         shape_text(weight));
  if (bias.present) {
    expect_float("bias", bias);
    expect_shape("bias", bias, {features}, "(out)");
  }
  out = with_last(x, x.dtype, features);
  if (residual.present) {
    expect_same_dtype("residual", residual, x, "as x has");
    expect_like("residual", residual, out, "as the result has");
  }
  work = 2.0 * x.size() * features;
}

void Embedding::validate() {
  expect_index("ids", ids);
  expect_rank("table", table, 2, "(vocabulary, dim)");
  expect_float("table", table);
  if (!is_float(dtype)) fail(Code::dtype, "dtype", "float32, float16 or bfloat16", name_of(dtype));
  if (ids.rank == kMaxRank) fail(Code::shape, "ids", "at most 7 dimensions", shape_text(ids));
  int64_t shape[kMaxRank];
  for (int i = 0; i < ids.rank; i++) shape[i] = ids.shape[i];
  shape[ids.rank] = table.shape[1];
  out = dense(dtype, shape, ids.rank + 1);
  work = 1.0 * out.size();
}

}  // namespace seqmix
