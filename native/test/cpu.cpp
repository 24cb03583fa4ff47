#include "test/cpu.h"

#include <algorithm>
#include <atomic>
#include <memory>

#include "cpu/pool.h"

namespace seqmix::test {

Array::Array(DType dtype, std::vector<int64_t> shape, Layout layout) {
  view.dtype = dtype;
  view.rank = static_cast<uint8_t>(shape.size());
  view.present = true;
  if (layout.order.empty())
    for (size_t i = 0; i < shape.size(); i++) layout.order.push_back(static_cast<int>(i));
  int64_t step = 1;
  bool empty = false;
  for (size_t i = shape.size(); i-- > 0;) {
    const int d = layout.order[i];
    view.shape[d] = shape[d];
    view.stride[d] = step;
    step *= shape[d] > 0 ? shape[d] : 1;
    if (i == shape.size() - 1) step += layout.gap;
    empty = empty || shape[d] == 0;
  }
  int64_t last = 0;
  for (int i = 0; i < view.rank; i++) last += (view.shape[i] - 1) * view.stride[i];
  memory.assign(empty ? 0 : static_cast<size_t>((last + 1) * size_of(dtype)), 0xa5);
  view.data = memory.data();
}

int64_t Array::offset(int64_t i) const {
  int64_t at = 0;
  for (int d = view.rank - 1; d >= 0; d--) {
    at += i % view.shape[d] * view.stride[d];
    i /= view.shape[d];
  }
  return at;
}

namespace {
struct Format {
  int mantissa, exponent;  // bits
};
Format format_of(DType dtype) { return dtype == DType::float16 ? Format{10, 5} : Format{7, 8}; }
}  // namespace

double half_value(DType dtype, uint16_t bits) {
  const auto [mantissa, exponent] = format_of(dtype);
  const int e = bits >> mantissa & ((1 << exponent) - 1), m = bits & ((1 << mantissa) - 1);
  const int bias = (1 << (exponent - 1)) - 1;
  const double sign = bits >> 15 ? -1 : 1;
  if (e == (1 << exponent) - 1) return m ? NAN : sign * INFINITY;
  if (e == 0) return sign * std::ldexp(m, 1 - bias - mantissa);
  return sign * std::ldexp(m + (1 << mantissa), e - bias - mantissa);
}

uint16_t half_bits(DType dtype, double value) {
  const auto [mantissa, exponent] = format_of(dtype);
  const int bias = (1 << (exponent - 1)) - 1, infinity = ((1 << exponent) - 1) << mantissa;
  const int sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return static_cast<uint16_t>(infinity | 1 << (mantissa - 1));
  if (std::isinf(value)) return static_cast<uint16_t>(sign | infinity);
  // in units of the last place; a carry goes into the exponent by itself
  const int e = value == 0 ? 1 - bias : std::max(std::ilogb(value), 1 - bias);
  const double units = std::nearbyint(std::ldexp(std::fabs(value), mantissa - e));
  const double bits = std::ldexp(e - (1 - bias), mantissa) + units;
  return static_cast<uint16_t>(sign | static_cast<int>(std::fmin(bits, infinity)));
}

double rounded(DType dtype, double value) {
  if (dtype == DType::float32) return static_cast<float>(value);
  return half_value(dtype, half_bits(dtype, value));
}

double Array::at(int64_t i) const {
  if (view.dtype == DType::int32) return i32(i);
  if (view.dtype == DType::float32) return f(i);
  return half_value(view.dtype, static_cast<const uint16_t*>(view.data)[offset(i)]);
}

void Array::set(int64_t i, double value) {
  if (view.dtype == DType::int32)
    i32(i) = static_cast<int32_t>(value);
  else if (view.dtype == DType::float32)
    f(i) = static_cast<float>(value);
  else
    static_cast<uint16_t*>(view.data)[offset(i)] = half_bits(view.dtype, value);
}

std::vector<double> Array::values() const {
  std::vector<double> v(static_cast<size_t>(size()));
  for (int64_t i = 0; i < size(); i++) v[i] = at(i);
  return v;
}

Array& Array::fill(const std::function<double()>& value) {
  for (int64_t i = 0; i < size(); i++) set(i, value());
  return *this;
}

Array& Array::poison() {
  std::fill(memory.begin(), memory.end(), 0xff);
  return *this;
}

std::vector<const cpu::Target*> targets() {
  std::vector<const cpu::Target*> all{&cpu::scalar_target()};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    all.push_back(&cpu::avx2_target());
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
      all.push_back(&cpu::avx512_target());
  }
#endif
  return all;
}

namespace {
struct TestContext : cpu::Context {
  std::vector<std::unique_ptr<void, void (*)(void*)>> blocks;
  std::atomic<bool> cancelled{false};
};
}  // namespace

Outcome run(const cpu::Target& target, const Problem& problem, int threads) {
  Outcome outcome;
  TestContext c;
  c.parallel = [](cpu::Context* context, int64_t count, cpu::Body body, void* argument) {
    cpu::pool_run(count, context->threads, body, argument, &static_cast<TestContext*>(context)->cancelled);
  };
  c.scratch = [](cpu::Context* context, int64_t bytes) {
    // the size to the byte, at the end of an aligned block
    void* const p = std::aligned_alloc(64, static_cast<size_t>((bytes + 63) / 64 * 64));
    std::memset(p, 0xff, static_cast<size_t>(bytes));
    static_cast<TestContext*>(context)->blocks.emplace_back(p, std::free);
    return p;
  };
  c.threads = threads;
  c.index_error = &outcome.index_error;
  c.kernel = "";
  target.kernels[static_cast<int>(problem.op)](c, problem);
  outcome.kernel = c.kernel;
  return outcome;
}

void run_everywhere(const std::string& what, const Problem& problem, const std::vector<Array*>& outputs,
                    const std::function<void(const std::string&, const Outcome&)>& check,
                    const std::vector<Array*>& changed) {
  std::vector<std::vector<unsigned char>> before;
  for (const Array* a : changed) before.push_back(a->memory);
  for (const cpu::Target* target : targets()) {
    std::vector<std::vector<unsigned char>> first;
    for (const int threads : {1, 2, 3}) {
      for (Array* a : outputs) a->poison();
      for (size_t i = 0; i < changed.size(); i++)  // in place: the view's data pointer stays
        std::copy(before[i].begin(), before[i].end(), changed[i]->memory.begin());
      const Outcome outcome = run(*target, problem, threads);
      const std::string where = what + " on " + target->name;
      EXPECT(outcome.kernel.rfind("cpu." + std::string(target->name), 0) == 0, where + ": kernel " + outcome.kernel);
      std::vector<std::vector<unsigned char>> now;
      for (const Array* a : outputs) now.push_back(a->memory);
      for (const Array* a : changed) now.push_back(a->memory);
      if (threads == 1) {
        check(where, outcome);
        first = now;
      } else {
        EXPECT(now == first, where + ": other bits with " + std::to_string(threads) + " threads");
      }
    }
  }
  for (size_t i = 0; i < changed.size(); i++) std::copy(before[i].begin(), before[i].end(), changed[i]->memory.begin());
}

void expect_close(const std::string& what, const Array& got, const std::vector<double>& want, double bound) {
  const int64_t size = got.size();
  if (size == 0) return;
  const int64_t n = got.view.rank ? got.view.shape[got.view.rank - 1] : 1;
  double error = 0, norm = 0;
  for (int64_t i = 0; i < size; i++) {
    const double e = got.at(i) - want[i];
    error += e * e;
    norm += want[i] * want[i];
  }
  const double rms = std::sqrt(norm / size);
  EXPECT(std::sqrt(error) <= bound * std::sqrt(norm) + 1e-37,
         what + ": relative error " + std::to_string(std::sqrt(error / norm) * 1e6) + "e-6");
  for (int64_t r = 0; r < size / n; r++) {
    double e2 = 0, n2 = 0;
    for (int64_t i = r * n; i < (r + 1) * n; i++) {
      const double e = got.at(i) - want[i];
      e2 += e * e;
      n2 += want[i] * want[i];
    }
    const double own = std::sqrt(n2 / n);
    EXPECT(std::sqrt(e2 / n) <= 8 * bound * (own > rms ? own : rms) + 1e-37,
           what + ": row " + std::to_string(r) + " off by " + std::to_string(std::sqrt(e2 / n)));
  }
}

void expect_close(const std::string& what, const Array& got, const std::vector<double>& want) {
  const DType dtype = got.view.dtype;
  expect_close(what, got, want, dtype == DType::float16 ? 4e-4 : dtype == DType::bfloat16 ? 3e-3 : 2e-6);
}

}  // namespace seqmix::test
