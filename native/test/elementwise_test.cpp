// silu, add, mul, fill and copy: every layout, every pair of dtypes, exactly.
#include "core/problem/elementwise.h"
#include "core/problem/rotary.h"
#include "test/cpu.h"

namespace seqmix::test {
namespace {

// Half a unit in the last place, of 1.
double rounding_of(DType dtype) {
  return dtype == DType::float16 ? 0x1p-11 : dtype == DType::bfloat16 ? 0x1p-8 : 0x1p-24;
}

TEST(silu_extremes) {
  for (const DType dtype : kFloats) {
    Array x(dtype, {40});
    const float values[] = {0, -0.0f, 1, -1, 20, -20, 88, -88, 100, -100, 3e38f, -6e4f, INFINITY, NAN, 1e-30f};
    for (int64_t i = 0; i < 40; i++) x.set(i, values[i % 15]);
    Silu p;
    p.x = x.view;
    p.validate();
    Array out(dtype, {40});
    p.out = out.view;
    const double relative = 4e-7 + rounding_of(dtype), absolute = dtype == DType::float16 ? 0x1p-25 : 1e-36;
    run_everywhere(std::string("silu of ") + name_of(dtype), p, {&out}, [&](const std::string& where, const Outcome&) {
      for (int64_t i = 0; i < 40; i++) {
        const double v = x.at(i), want = v / (1 + std::exp(-v)), got = out.at(i);
        EXPECT(std::isnan(v)   ? std::isnan(got)
               : v == INFINITY ? got == INFINITY
                               : std::fabs(got - want) <= relative * std::fabs(want) + absolute,
               where + " of " + std::to_string(v) + ": " + std::to_string(got));
      }
    });
  }
}

TEST(silu) {
  for (const DType dtype : kFloats)
    for (const int64_t n : {1, 7, 16, 37, 20000})
      for (const int64_t gap : {0, 3})
        for (const bool turned : {false, true}) {
          Layout l{{}, gap};
          if (turned) l.order = {1, 0};
          const Array x = numbers(dtype, {3, n}, -8, 8, l);
          Silu p;
          p.x = x.view;
          p.validate();
          Array out(dtype, {3, n});
          p.out = out.view;
          std::vector<double> want = x.values();
          for (double& v : want) v = v / (1 + std::exp(-v));
          run_everywhere(std::string("silu of ") + name_of(dtype), p, {&out},
                         [&](const std::string& where, const Outcome&) { expect_close(where, out, want); });
        }
}

TEST(gelu) {
  for (const DType dtype : kFloats)
    for (const int64_t n : {16, 37, 20000})
      for (const int64_t gap : {0, 3})
        for (const bool tanh : {false, true}) {
          const Array x = numbers(dtype, {3, n}, -6, 6, {{}, gap});
          Gelu p;
          p.x = x.view;
          p.tanh = tanh;
          p.validate();
          Array out(dtype, {3, n});
          p.out = out.view;
          std::vector<double> want = x.values();
          for (double& v : want)
            v = tanh ? v / (1 + std::exp(-std::sqrt(8 / M_PI) * (v + 0.044715 * v * v * v)))
                     : v * std::erfc(-v / std::sqrt(2.0)) / 2;
          run_everywhere(std::string("gelu of ") + name_of(dtype), p, {&out},
                         [&](const std::string& where, const Outcome&) { expect_close(where, out, want); });
        }
}

// x (2, 5, 3, d), any d, each pair by itself; one position that is no row of the tables.
TEST(rotary) {
  for (const DType dtype : kFloats)
    for (const int64_t d : {2, 9, 64, 80})
      for (const bool interleaved : {false, true})
        for (const int64_t gap : {0, 3}) {
          const int64_t half = d == 80 ? 17 : d / 2, rows = 7;
          const Array x = numbers(dtype, {2, 5, 3, d}, -2, 2, {{}, gap});
          const Array cos = numbers(DType::float32, {rows, half}), sin = numbers(DType::float32, {rows, half});
          Array positions(DType::int32, {2, 5});
          for (int64_t i = 0; i < 10; i++) positions.i32(i) = static_cast<int32_t>(i == 6 ? rows : i % rows);
          Rotary p;
          p.x = x.view;
          p.cos = cos.view;
          p.sin = sin.view;
          p.positions = positions.view;
          p.interleaved = interleaved;
          p.validate();
          Array out(dtype, {2, 5, 3, d});
          p.out = out.view;
          std::vector<double> want = x.values();
          for (int64_t head = 0; head < 30; head++)
            for (int64_t c = 0; c < half; c++) {
              const int64_t row = positions.i32(head / 3), i = head * d + (interleaved ? 2 * c : c);
              const int64_t j = interleaved ? i + 1 : i + half;
              if (row == rows) continue;
              const double u = want[i], v = want[j];
              want[i] = u * cos.at(row * half + c) - v * sin.at(row * half + c);
              want[j] = u * sin.at(row * half + c) + v * cos.at(row * half + c);
            }
          for (int64_t i = 0; i < 3 * d; i++) want[6 * 3 * d + i] = 0;
          run_everywhere(std::string("rotary of ") + name_of(dtype), p, {&out},
                         [&](const std::string& where, const Outcome& outcome) {
                           expect_close(where, out, want);
                           EXPECT(index_error_op(outcome.index_error) == Op::rotary, where);
                         });
        }
}

void check_binary(Op op, DType dtype, const std::vector<int64_t>& sa, const std::vector<int64_t>& sb,
                  const Layout& layout) {
  const Array a = numbers(dtype, sa, -1, 1, layout), b = numbers(dtype, sb);
  Binary p(op);
  p.a = a.view;
  p.b = b.view;
  p.validate();
  Array out(dtype, std::vector<int64_t>(p.out.shape, p.out.shape + p.out.rank));
  p.out = out.view;
  const View wide_a = p.a, wide_b = p.b;
  View* const views[] = {&p.a, &p.b, &p.out};
  collapse(views, 3);
  Array ia(dtype, {}), ib(dtype, {});
  ia.view = wide_a;
  ib.view = wide_b;
  std::vector<double> want(static_cast<size_t>(out.size()));
  for (int64_t i = 0; i < out.size(); i++) {
    // in float32, and of 16 bits rounded once more
    const double v = op == Op::add ? ia.at(i) + ib.at(i) : ia.at(i) * ib.at(i);
    want[i] = rounded(dtype, rounded(DType::float32, v));
  }
  run_everywhere(std::string("binary of ") + name_of(dtype), p, {&out},
                 [&](const std::string& where, const Outcome&) { expect_close(where, out, want, 0); });
}

TEST(binary) {
  const std::vector<std::vector<int64_t>> shapes = {{3, 5, 17}, {17}, {5, 1}, {3, 1, 1}, {1}, {}, {3, 1, 17}};
  for (const DType dtype : kFloats)
    for (const Op op : {Op::add, Op::mul})
      for (const auto& sa : shapes)
        for (const auto& sb : shapes) {
          check_binary(op, dtype, sa, sb, {});
          if (sa.size() == 3) check_binary(op, dtype, sa, sb, {{2, 0, 1}, 1});
        }
}

TEST(fill) {
  Array bytes(DType::boolean, {700001});
  Fill p;
  p.out = bytes.view;
  p.byte = 7;
  run_everywhere("fill", p, {&bytes}, [&](const std::string& where, const Outcome&) {
    bool all = true;
    for (const unsigned char b : bytes.memory) all = all && b == 7;
    EXPECT(all, where);
  });
}

void set_bits(Array& a, int64_t i, uint64_t bits) {
  std::memcpy(static_cast<char*>(a.view.data) + a.offset(i) * size_of(a.view.dtype), &bits, size_of(a.view.dtype));
}
uint64_t bits_at(const Array& a, int64_t i) {
  uint64_t bits = 0;
  std::memcpy(&bits, static_cast<char*>(a.view.data) + a.offset(i) * size_of(a.view.dtype), size_of(a.view.dtype));
  return bits;
}

// A float format by its mantissa and exponent widths: the value of its bits, and the nearest of its values by search.
struct Format {
  int mantissa, exponent;
  double value(uint64_t bits) const {
    const int bias = (1 << (exponent - 1)) - 1;
    const uint64_t m = bits & ((1ull << mantissa) - 1), e = bits >> mantissa & ((1ull << exponent) - 1);
    const double sign = bits >> (mantissa + exponent) ? -1 : 1;
    if (e == (1ull << exponent) - 1) return m ? NAN : sign * INFINITY;
    if (e == 0) return sign * std::ldexp(static_cast<double>(m), 1 - bias - mantissa);
    return sign * std::ldexp(static_cast<double>(m + (1ull << mantissa)), static_cast<int>(e) - bias - mantissa);
  }
  // round to nearest even of a finite number that a long double holds
  uint64_t nearest(long double x) const {
    const uint64_t sign = std::signbit(x) ? 1ull << (mantissa + exponent) : 0, top = ((1ull << exponent) - 1)
                                                                                     << mantissa;
    const long double magnitude = std::fabs(x);
    uint64_t low = 0, high = top;  // value(low) <= magnitude < value(high), infinity as one step beyond the largest
    if (std::isinf(magnitude)) return sign | top;
    const auto at = [&](uint64_t bits) -> long double {
      return bits == top ? 2 * static_cast<long double>(value(top - 1)) - static_cast<long double>(value(top - 2))
                         : static_cast<long double>(value(bits));
    };
    if (magnitude >= at(top)) return sign | top;
    while (high - low > 1) (at((low + high) / 2) <= magnitude ? low : high) = (low + high) / 2;
    const long double down = magnitude - at(low), up = at(high) - magnitude;
    return sign | (down < up || (down == up && low % 2 == 0) ? low : high);
  }
};
const Format kFormats[] = {{23, 8}, {10, 5}, {7, 8}};

uint64_t expected_bits(uint64_t from, DType source, DType target) {
  const bool float_source = static_cast<int>(source) < 3, float_target = static_cast<int>(target) < 3;
  if (source == target) return from;
  const int64_t integer = source == DType::int32   ? static_cast<int32_t>(from)
                          : source == DType::int64 ? static_cast<int64_t>(from)
                          : source == DType::int8  ? static_cast<int8_t>(from)
                                                   : from != 0;
  if (float_source) {
    const double v = kFormats[static_cast<int>(source)].value(from);
    if (float_target) return std::isnan(v) ? ~0ull : kFormats[static_cast<int>(target)].nearest(v);
    if (target == DType::boolean) return v != 0;
    if (std::isnan(v)) return 0;
    if (target == DType::int8)
      return static_cast<uint8_t>(v >= 0x1p7 ? INT8_MAX : v < -0x1p7 ? INT8_MIN : static_cast<int8_t>(v));
    if (target == DType::int32)
      return static_cast<uint32_t>(v >= 0x1p31 ? INT32_MAX : v < -0x1p31 ? INT32_MIN : static_cast<int32_t>(v));
    return static_cast<uint64_t>(v >= 0x1p63 ? INT64_MAX : v < -0x1p63 ? INT64_MIN : static_cast<int64_t>(v));
  }
  if (float_target) return kFormats[static_cast<int>(target)].nearest(static_cast<long double>(integer));
  if (target == DType::boolean) return integer != 0;
  if (target == DType::int8) return static_cast<uint8_t>(integer);
  return target == DType::int32 ? static_cast<uint32_t>(integer) : static_cast<uint64_t>(integer);
}

TEST(copy_dtypes) {
  const DType all[] = {DType::float32, DType::float16, DType::bfloat16, DType::int32,
                       DType::int64,   DType::boolean, DType::int8};
  constexpr int64_t n = 4000;
  for (const DType source : all)
    for (const DType target : all) {
      Array src(source, {n}), dst(target, {n});
      const uint64_t special[] = {0,
                                  1,
                                  0x8000,
                                  0x7bff,
                                  0x7c00,
                                  0x7c01,
                                  0x7fffffff,
                                  0x80000000,
                                  0x7f800000,
                                  0x7f800001,
                                  0xff800001,
                                  0x7f7fffff,
                                  0x477fefff,
                                  0x477ff000,
                                  0x33000000,
                                  0x33000001,
                                  0x38800000,
                                  0x387fffff,
                                  0x4effffff,
                                  0x4f000000,
                                  0xcf000000,
                                  0xcf000001,
                                  0x5f000000,
                                  0xdf000000,
                                  0x7fffffffffffffff,
                                  0x8000000000000000,
                                  0x1000001,
                                  0x1010000000,
                                  0x3fffffffffff};
      for (int64_t i = 0; i < n; i++) {
        uint64_t bits = i < 29 ? special[i] : generator()() >> pick(0, 60);
        if (source == DType::boolean) bits = bits & 1;
        if (source == DType::float32 && i % 2) {  // near the halves' range as well
          const float f = static_cast<float>(std::ldexp(uniform(-1, 1), static_cast<int>(pick(-30, 20))));
          std::memcpy(&bits, &f, 4);
        }
        set_bits(src, i, bits);
      }
      Copy p;
      p.src = src.view;
      p.dst = dst.view;
      p.validate();
      run_everywhere("copy", p, {&dst}, [&](const std::string& where, const Outcome&) {
        for (int64_t i = 0; i < n; i++) {
          const uint64_t got = bits_at(dst, i), want = expected_bits(bits_at(src, i), source, target);
          const Format* const format = static_cast<int>(target) < 3 ? &kFormats[static_cast<int>(target)] : nullptr;
          // NaN: any quiet one, and from bfloat16, whose bits only grow, any
          const bool ok =
              want == ~0ull && format
                  ? std::isnan(format->value(got)) && (source == DType::bfloat16 || (got >> (format->mantissa - 1) & 1))
                  : got == (want & (~0ull >> (64 - 8 * size_of(target))));
          EXPECT(ok, where + " " + name_of(source) + " to " + name_of(target) + " of " +
                         std::to_string(bits_at(src, i)) + ": " + std::to_string(got) + " for " + std::to_string(want));
        }
      });
    }
}

TEST(copy_layouts) {
  const std::vector<std::vector<int>> orders = {{0, 1, 2}, {0, 2, 1}, {2, 1, 0}, {1, 2, 0}, {2, 0, 1}};
  for (const auto& from : orders)
    for (const auto& to : orders)
      for (const std::vector<int64_t>& shape : {std::vector<int64_t>{3, 40, 70}, {33, 1, 5}, {2, 65, 0}, {1, 1, 1}}) {
        const Array src = floats(shape, -1, 1, {from, 3});
        Array dst(DType::float32, shape, {to, 2});
        Copy p;
        p.src = src.view;
        p.dst = dst.view;
        p.validate();
        View* const views[] = {&p.src, &p.dst};
        if (src.size()) collapse(views, 2);
        run_everywhere("copy", p, {&dst},
                       [&](const std::string& where, const Outcome&) { expect_close(where, dst, src.values(), 0); });
      }
  // broadcast and backwards
  Array src = floats({5}), dst(DType::float32, {4, 5});
  Copy p;
  const int64_t shape[] = {4, 5};
  p.src = broadcast_to(src.view, shape, 2);
  p.src.data = src.view.as<float>() + 4;
  p.src.stride[1] = -1;
  p.dst = dst.view;
  p.validate();
  run_everywhere("copy", p, {&dst}, [&](const std::string& where, const Outcome&) {
    for (int64_t i = 0; i < 20; i++) EXPECT(dst.f(i) == src.f(4 - i % 5), where);
  });
}

}  // namespace
}  // namespace seqmix::test
