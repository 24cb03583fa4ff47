// linear in every pair of dtypes, through every kernel, whole and ragged, aligned and not.
#include <cmath>

#include "core/problem/rows.h"
#include "cuda/test/harness.h"

namespace seqmix::test {

namespace {

// How the operands' rows lie, and the result's where it is `narrowed`: a part of longer rows, which begin on 16 bytes
// all the same.
enum class Rows { dense, odd, narrowed };
constexpr Rows kRows[] = {Rows::dense, Rows::odd, Rows::narrowed};

struct Extras {
  bool bias, silu, residual;
  DType bias_dtype = DType::float32;
};
constexpr Extras kNone{false, false, false}, kAll{true, true, true};

struct Operand {
  Array values;
  View view;

  Operand(int64_t rows, int64_t n, Rows layout, DType dtype)
      : values(uniform({rows, layout == Rows::narrowed ? (n + 7) / 8 * 8 + 8 : n}, -1, 1,
                       layout == Rows::odd ? Layout::odd : Layout::dense, dtype)),
        view(values.view()) {
    view.shape[1] = n;
  }
  // Row by row, without the rest of longer rows.
  std::vector<double> dense() const {
    const int64_t rows = view.shape[0], n = view.shape[1];
    std::vector<double> all;
    all.reserve(static_cast<size_t>(rows * n));
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < n; j++) all.push_back(values.at({i, j}));
    return all;
  }
};

void check(int64_t rows, int64_t in, int64_t features, Rows layout, DType x_dtype, DType weight_dtype,
           const Extras& extras) {
  const Operand x(rows, in, layout, x_dtype), weight(features, in, layout, weight_dtype);
  const Operand residual(rows, features, layout, x_dtype);
  const Array bias = uniform({features}, -1, 1, layout == Rows::odd ? Layout::odd : Layout::dense, extras.bias_dtype);
  Linear p;
  p.x = x.view;
  p.weight = weight.view;
  if (extras.bias) p.bias = bias.view();
  if (extras.residual) p.residual = residual.view;
  if (extras.silu) p.activation = Activation::silu;
  p.validate();
  if (layout == Rows::narrowed) p.out.stride[0] = residual.view.stride[0];
  Array out(p.out);
  p.out = out.view();
  device.run(p);
  const std::vector<double> xs = x.dense(), ws = weight.dense(), rs = residual.dense();
  std::vector<double> want;
  want.reserve(rs.size());
  for (int64_t i = 0; i < rows; i++)
    for (int64_t f = 0; f < features; f++) {
      double y = extras.bias ? bias.at({f}) : 0;
      const double *const a = xs.data() + i * in, *const b = ws.data() + f * in;
      for (int64_t k = 0; k < in; k++) y += a[k] * b[k];
      if (extras.silu) y = silu(y);
      want.push_back(extras.residual ? y + rs[static_cast<size_t>(i * features + f)] : y);
    }
  expect_close("linear " + std::to_string(rows) + " x " + std::to_string(in) + " x " + std::to_string(features) +
                   ", weights " + name_of(weight_dtype) + ", rows " + std::to_string(static_cast<int>(layout)) + ", " +
                   device.backend->last_kernel(device.queue),
               out, want, 2e-6);
}

// Few rows, a tile's worth, more: with the sizes at which tiles and steps end, and others.
void check_sizes(DType x_dtype, DType weight_dtype, Rows layout, const Extras& extras) {
  const auto one = [&](int64_t rows, int64_t in, int64_t features) {
    check(rows, in, features, layout, x_dtype, weight_dtype, extras);
  };
  for (const int64_t rows : {1, 2, 3, 5, 8, 9, 16}) {
    one(rows, 48, 33);
    one(rows, 131, 7);
    one(rows, 776, 132);
  }
  one(1, 1, 1);
  one(3, 0, 20);
  one(20, 0, 20);
  one(9, 17, 130);
  one(17, 40, 70);
  one(70, 64, 64);
  one(65, 1030, 80);   // in parts
  one(128, 4096, 40);  // in many
  one(130, 200, 264);
  one(257, 136, 300);
}

// Sizes that take the large tiles: float32 sums of fewer terms, so that the plain loop ends soon.
void check_large(DType x_dtype, DType weight_dtype, Rows layout) {
  check(1500, 40, 1700, layout, x_dtype, weight_dtype, kAll);
  check(640, 72, 4000, layout, x_dtype, weight_dtype, kNone);
}

}  // namespace

void check_linear() {
  for (const DType x : kFloats)
    for (const DType weight : kFloats)
      for (const Rows layout : kRows) {
        check_sizes(x, weight, layout, kNone);
        check_sizes(x, weight, layout, kAll);
      }
  // Each end by itself, on a kernel of each kind.
  for (const DType dtype : kFloats)
    for (const Rows layout : kRows)
      for (const int64_t rows : {4, 16, 90})
        for (const DType bias : kFloats)
          for (const Extras& extras :
               {Extras{true, false, false, bias}, Extras{true, true, false, bias}, Extras{false, true, true},
                Extras{false, false, true}, Extras{true, false, true, bias}})
            check(rows, 264, 100, layout, dtype, dtype, extras);
  for (const DType dtype : kFloats)
    for (const Rows layout : kRows) check_large(dtype, dtype, layout);
  check_large(DType::float32, DType::bfloat16, Rows::odd);
  check_large(DType::float16, DType::float32, Rows::dense);
  check(0, 5, 5, Rows::dense, DType::float16, DType::float16, kAll);
}

}  // namespace seqmix::test
