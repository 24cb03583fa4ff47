// linear against a float64 loop over the same rounded operands.
#include "core/problem/rows.h"
#include "test/cpu.h"

namespace seqmix::test {
namespace {

struct LinearCase {
  int64_t rows = 5, in = 40, out = 30;
  bool bias = false, silu = false, residual = false;
  int64_t gap = 0;
  DType x = DType::float32, weight = DType::float32, bias_dtype = DType::float32;
  const char* kernel = "";  // expected to run; none said: any
};

void check_linear(const LinearCase& s) {
  const Array x = numbers(s.x, {s.rows, s.in}, -1, 1, {{}, s.gap});
  const Array weight = numbers(s.weight, {s.out, s.in}, -1, 1, {{}, s.gap});
  const Array bias = numbers(s.bias_dtype, {s.out}), residual = numbers(s.x, {s.rows, s.out}, -1, 1, {{}, s.gap});
  Linear p;
  p.x = x.view;
  p.weight = weight.view;
  if (s.bias) p.bias = bias.view;
  if (s.residual) p.residual = residual.view;
  if (s.silu) p.activation = Activation::silu;
  p.validate();
  Array out(s.x, {s.rows, s.out}, {{}, s.gap});
  p.out = out.view;
  const std::vector<double> xs = x.values(), ws = weight.values(), residuals = residual.values();
  std::vector<double> want(s.rows * s.out);
  for (int64_t r = 0; r < s.rows; r++)
    for (int64_t f = 0; f < s.out; f++) {
      double v = s.bias ? bias.at(f) : 0;
      for (int64_t k = 0; k < s.in; k++) v += xs[r * s.in + k] * ws[f * s.in + k];
      if (s.silu) v = v / (1 + std::exp(-v));
      want[r * s.out + f] = v + (s.residual ? residuals[r * s.out + f] : 0);
    }
  const std::string name = "linear " + std::to_string(s.rows) + " x " + std::to_string(s.in) + " x " +
                           std::to_string(s.out) + ", " + name_of(s.x) + " by " + name_of(s.weight);
  run_everywhere(name, p, {&out}, [&](const std::string& where, const Outcome& outcome) {
    expect_close(where, out, want);
    EXPECT(outcome.kernel.find(s.kernel) != std::string::npos, where + ": ran " + outcome.kernel);
  });
}

TEST(linear) {
  for (const int64_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 13, 31})
    for (const int64_t in : {1, 15, 48, 100})
      for (const int64_t out : {1, 7, 33, 70})
        check_linear({rows, in, out, rows % 2 == 0, out % 2 == 0, in % 2 == 0, rows});
  check_linear({.rows = 400, .in = 9000, .out = 36, .bias = true});
  check_linear({.rows = 1100, .in = 70, .out = 40, .bias = true});  // x in more than one part
  check_linear({.rows = 60, .in = 0, .out = 20, .bias = true});
  check_linear({.rows = 0, .in = 3, .out = 20});
  check_linear({.rows = 3, .in = 3, .out = 0});
}

// Every pair of dtypes, in each of the kernels and around the sizes of their blocks.
TEST(linear_dtypes) {
  for (const DType x : kFloats)
    for (const DType weight : kFloats) {
      const DType bias = kFloats[pick(0, 2)];
      for (const int64_t rows : {1, 2, 4, 6, 8})
        check_linear({rows, 150 + rows, 37, true, false, rows % 2 == 0, 1, x, weight, bias, "linear.dot"});
      for (const int64_t in : {64, 768, 2100})
        check_linear({1, in, 45, false, false, true, 0, x, weight, bias, "linear.dot"});
      check_linear({8, 1100, 30, true, true, true, 3, x, weight, bias, "linear.few"});
      for (const int64_t rows : {9, 16, 17, 24, 33, 48})
        check_linear({rows, 250 + rows, 3 * rows, true, rows == 9, true, rows % 3, x, weight, bias, "linear.few"});
      check_linear({20, 1300, 50, false, false, false, 0, x, weight, bias, "linear.few"});
      for (const int64_t rows : {49, 61, 130})
        check_linear({rows, 300 + rows, 150, true, rows == 49, true, rows % 3, x, weight, bias, "linear.gemm"});
      check_linear({50, 384, 32, false, false, false, 0, x, weight, bias, "linear.gemm"});
      check_linear({70, 770, 300, false, false, true, 0, x, weight, bias, "linear.gemm"});
    }
}

// What is not a number in one row of x or W stays in its row or column of the result.
TEST(linear_nan) {
  for (const int64_t rows : {1, 4, 7, 20, 70})
    for (const DType dtype : kFloats) {
      const int64_t in = 90, features = 50;
      Array x = numbers(dtype, {rows, in}), weight = numbers(dtype, {features, in});
      x.set((rows - 1) * in + 11, NAN);
      weight.set(31 * in + 89, INFINITY);
      Linear p;
      p.x = x.view;
      p.weight = weight.view;
      p.validate();
      Array out(dtype, {rows, features});
      p.out = out.view;
      run_everywhere("linear of NaN", p, {&out}, [&](const std::string& where, const Outcome&) {
        for (int64_t r = 0; r < rows; r++)
          for (int64_t f = 0; f < features; f++)
            EXPECT(std::isnan(out.at(r * features + f)) == (r == rows - 1) &&
                       std::isfinite(out.at(r * features + f)) == (r < rows - 1 && f != 31),
                   where + " at " + std::to_string(r) + ", " + std::to_string(f));
      });
    }
}

}  // namespace
}  // namespace seqmix::test
