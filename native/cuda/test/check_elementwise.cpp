#include <cmath>

#include "core/problem/elementwise.h"
#include "core/problem/rotary.h"
#include "cuda/test/harness.h"

namespace seqmix::test {

namespace {

const Layout layouts[] = {Layout::dense, Layout::swapped, Layout::odd};

void check_copies() {
  const DType types[] = {DType::float32, DType::float16, DType::bfloat16, DType::int32,
                         DType::int64,   DType::boolean, DType::int8};
  for (const DType from : types)
    for (const DType to : types)
      for (const Layout a : layouts)
        for (const Layout b : layouts) {
          Array src =
              integers(from, {3, 37, 45}, from == DType::boolean ? 0 : -100, from == DType::boolean ? 1 : 100, a);
          Array dst(to, {3, 37, 45}, b);
          Copy p;
          p.src = src.view();
          p.dst = dst.upload();
          p.validate();
          View* const views[] = {&p.dst, &p.src};
          collapse(views, 2);
          device.run(p);
          std::vector<double> want = src.values();
          if (to == DType::boolean)
            for (double& v : want) v = v != 0;
          expect_equal(std::string("copy ") + name_of(from) + " to " + name_of(to), dst, want);
        }
  Array src(DType::float32, {8});
  src.values() = {NAN, 1e20, -1e20, 2.9, -2.9, INFINITY, -INFINITY, 0.0};
  src.upload();
  const auto converted = [&](DType to, const std::vector<double>& want) {
    Array dst(to, {8});
    Copy p;
    p.src = src.view();
    p.dst = dst.upload();
    p.validate();
    device.run(p);
    expect_equal(std::string("copy of extremes to ") + name_of(to), dst, want);
  };
  converted(DType::int32, {0, 2147483647.0, -2147483648.0, 2, -2, 2147483647.0, -2147483648.0, 0});
  converted(DType::int64, {0, 9223372036854775807.0, -9223372036854775808.0, 2, -2, 9223372036854775807.0,
                           -9223372036854775808.0, 0});
  converted(DType::int8, {0, 127, -128, 2, -2, 127, -128, 0});
  converted(DType::boolean, {1, 1, 1, 1, 1, 1, 1, 0});
  src.values() = {NAN, 1 + std::ldexp(1, -11), 1 + 3 * std::ldexp(1, -11), 65519, 65520, 1e-8, INFINITY, -0.5};
  src.upload();
  converted(DType::float16, {NAN, 1, 1 + std::ldexp(1, -9), 65504, INFINITY, 0, INFINITY, -0.5});
  src.values() = {NAN, 1 + std::ldexp(1, -8), 1 + 3 * std::ldexp(1, -8), 3e38, -INFINITY, 0, 1, -0.5};
  src.upload();
  converted(DType::bfloat16, {NAN, 1, 1 + std::ldexp(1, -6), std::ldexp(226, 120), -INFINITY, 0, 1, -0.5});
}

void check_silu() {
  for (const Shape& shape : {Shape{1}, Shape{7, 33}, Shape{4, 1024}, Shape{0, 5}})
    for (const Layout layout : layouts)
      for (const DType dtype : kFloats) {
        Array x = uniform(shape, -30, 30, layout, dtype);
        Silu p;
        p.x = x.view();
        p.validate();
        Array out(p.out);
        p.out = out.view();
        View* const views[] = {&p.x, &p.out};
        collapse(views, 2);
        device.run(p);
        std::vector<double> want;
        for (const double v : x.values()) want.push_back(silu(v));
        expect_close("silu", out, want, 1e-6);
      }
}

double gelu(double x, bool tanh) {
  return tanh ? x / (1 + std::exp(-std::sqrt(8 / M_PI) * (x + 0.044715 * x * x * x)))
              : x * std::erfc(-x / std::sqrt(2.0)) / 2;
}

void check_gelu() {
  for (const Shape& shape : {Shape{1}, Shape{7, 33}, Shape{4, 1024}})
    for (const Layout layout : layouts)
      for (const DType dtype : kFloats)
        for (const bool tanh : {false, true}) {
          Array x = uniform(shape, -6, 6, layout, dtype);
          Gelu p;
          p.x = x.view();
          p.tanh = tanh;
          p.validate();
          Array out(p.out);
          p.out = out.view();
          View* const views[] = {&p.x, &p.out};
          collapse(views, 2);
          device.run(p);
          std::vector<double> want;
          for (const double v : x.values()) want.push_back(gelu(v, tanh));
          expect_close("gelu", out, want, 1e-6);
        }
}

void check_softcap() {
  for (const Layout layout : layouts)
    for (const DType dtype : kFloats) {
      Array x = uniform({7, 33}, -100, 100, layout, dtype);
      Softcap p;
      p.x = x.view();
      p.cap = 30;
      p.validate();
      Array out(p.out);
      p.out = out.view();
      View* const views[] = {&p.x, &p.out};
      collapse(views, 2);
      device.run(p);
      std::vector<double> want;
      for (const double v : x.values()) want.push_back(30 * std::tanh(v / 30));
      expect_close("softcap", out, want, 1e-6);
    }
}

void check_gated(Activation activation, DType dtype, Layout layout) {
  Array a = uniform({37, 40}, -6, 6, layout, dtype), b = uniform({37, 40}, -2, 2, layout, dtype);
  Binary p(Op::mul);
  p.a = a.view();
  p.b = b.view();
  p.activation = activation;
  p.validate();
  Array out(p.out);
  p.out = out.view();
  View* const views[] = {&p.a, &p.b, &p.out};
  collapse(views, 3);
  device.run(p);
  std::vector<double> want;
  for (size_t i = 0; i < a.values().size(); i++) {
    const double x = a.values()[i];
    want.push_back((activation == Activation::silu ? silu(x) : gelu(x, activation == Activation::gelu_tanh)) *
                   b.values()[i]);
  }
  expect_close("gated mul", out, want, 1e-6);
}

void check_rotary(const Shape& x_shape, int64_t half, DType dtype, DType table, Layout layout, bool interleaved) {
  const int64_t b = x_shape[0], L = x_shape[1], h = x_shape[2], d = x_shape[3], rows = L + 3;
  Array x = uniform(x_shape, -2, 2, layout, dtype);
  Array cos = uniform({rows, half}, -1, 1, layout, table), sin = uniform({rows, half}, -1, 1, layout, table);
  Array positions = integers(DType::int32, {b, L}, 0, rows - 1);
  Rotary p;
  p.x = x.view();
  p.cos = cos.view();
  p.sin = sin.view();
  p.positions = positions.view();
  p.interleaved = interleaved;
  p.validate();
  Array out(p.out);
  p.out = out.view();
  device.run(p);
  std::vector<double> want = x.values();
  for (int64_t t = 0; t < b * L; t++)
    for (int64_t i = 0; i < h * half; i++) {
      const int64_t c = i % half, at = (t * h + i / half) * d, row = static_cast<int64_t>(positions.values()[t]);
      const int64_t first = at + (interleaved ? 2 * c : c), second = at + (interleaved ? 2 * c + 1 : c + half);
      const double u = x.values()[first], v = x.values()[second];
      want[first] = u * cos.at({row, c}) - v * sin.at({row, c});
      want[second] = u * sin.at({row, c}) + v * cos.at({row, c});
    }
  expect_close(std::string("rotary ") + name_of(dtype), out, want, 1e-6);
}

// A sum or product of float32 is right to the last bit; of 16 bits too, since float32 has twice their digits and two.
void check_binary(Op op, DType dtype, const Shape& a_shape, const Shape& b_shape, Layout layout) {
  Array a = uniform(a_shape, -2, 2, layout, dtype), b = uniform(b_shape, -2, 2, layout, dtype);
  Binary p(op);
  p.a = a.view();
  p.b = b.view();
  p.validate();
  Array out(p.out);
  p.out = out.view();
  const View shape = p.out;
  View* const views[] = {&p.a, &p.b, &p.out};
  collapse(views, 3);
  device.run(p);
  std::vector<double> want;
  for (int64_t i = 0; i < shape.size(); i++) {
    Shape index(shape.rank);
    int64_t rest = i;
    for (size_t k = shape.rank; k-- > 0; rest /= shape.shape[k]) index[k] = rest % shape.shape[k];
    const auto of = [&](Array& x, const Shape& s) {
      Shape at(index.end() - static_cast<std::ptrdiff_t>(s.size()), index.end());
      for (size_t k = 0; k < s.size(); k++)
        if (s[k] == 1) at[k] = 0;
      return x.at(at);
    };
    const double x = of(a, a_shape), y = of(b, b_shape);
    want.push_back(rounded(dtype, op == Op::add ? x + y : x * y));
  }
  expect_equal(std::string(op == Op::add ? "add " : "mul ") + name_of(dtype), out, want);
}

}  // namespace

void check_elementwise() {
  check_copies();
  check_silu();
  check_gelu();
  check_softcap();
  for (const Activation activation : {Activation::silu, Activation::gelu, Activation::gelu_tanh})
    for (const DType dtype : kFloats)
      for (const Layout layout : layouts) check_gated(activation, dtype, layout);
  for (const DType dtype : kFloats)
    for (const DType table : kFloats)
      for (const Layout layout : layouts)
        for (const bool interleaved : {false, true}) {
          check_rotary({2, 7, 4, 64}, 32, dtype, table, layout, interleaved);
          check_rotary({1, 33, 3, 128}, 16, dtype, table, layout, interleaved);
          check_rotary({3, 5, 2, 21}, 5, dtype, table, layout, interleaved);
        }
  for (const Op op : {Op::add, Op::mul})
    for (const Layout layout : layouts)
      for (const DType dtype : kFloats) {
        check_binary(op, dtype, {5, 33}, {5, 33}, layout);
        check_binary(op, dtype, {2, 3, 4, 5}, {3, 1, 5}, layout);
        check_binary(op, dtype, {1}, {6, 7}, layout);
        check_binary(op, dtype, {6, 1}, {1, 9}, layout);
        check_binary(op, dtype, {1000, 1000}, {1000}, layout);
      }
}

}  // namespace seqmix::test
