// Running CPU kernels without Node: arrays of any layout, every target that this processor has, and comparison with
// float64.
#pragma once
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "core/layout.h"
#include "cpu/context.h"
#include "test/test.h"

namespace seqmix::test {

inline std::mt19937_64& generator() {
  static std::mt19937_64 g(1);
  return g;
}
inline double uniform(double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(generator());
}
inline int64_t pick(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(generator());
}

// How an array lies in memory: dimensions from the outermost, and elements left unused between rows.
struct Layout {
  std::vector<int> order;
  int64_t gap = 0;
};
const Layout kRowMajor{};

// Memory with a view of it. What the view does not reach holds a value that must not change; exact sizes, so that a
// sanitizer sees an overrun.
struct Array {
  std::vector<unsigned char> memory;
  View view;

  Array() = default;
  Array(DType dtype, std::vector<int64_t> shape, Layout layout = kRowMajor);
  Array(const Array&) = delete;
  Array(Array&&) = default;
  Array& operator=(Array&&) = default;

  int64_t size() const { return view.size(); }
  int64_t offset(int64_t i) const;  // of element i in row-major order
  float& f(int64_t i) const { return static_cast<float*>(view.data)[offset(i)]; }
  int32_t& i32(int64_t i) const { return static_cast<int32_t*>(view.data)[offset(i)]; }
  // An element of any dtype but int64, as the number it is; set() rounds to nearest even.
  double at(int64_t i) const;
  void set(int64_t i, double value);
  std::vector<double> values() const;
  Array& fill(const std::function<double()>& value);
  Array& poison();  // NaN everywhere
};

// Values of a dtype, which is also what a reference must compute from: at() gives them rounded.
inline Array numbers(DType dtype, std::vector<int64_t> shape, double low = -1, double high = 1,
                     Layout layout = kRowMajor) {
  Array a(dtype, std::move(shape), std::move(layout));
  a.fill([&] { return uniform(low, high); });
  return a;
}
inline Array floats(std::vector<int64_t> shape, double low = -1, double high = 1, Layout layout = kRowMajor) {
  return numbers(DType::float32, std::move(shape), low, high, std::move(layout));
}

constexpr DType kFloats[] = {DType::float32, DType::float16, DType::bfloat16};

// The bits of a 16-bit float, and the nearest to a number, ties to even. By the formats' definition, to be compared
// with.
double half_value(DType dtype, uint16_t bits);
uint16_t half_bits(DType dtype, double value);
// A number as the dtype holds it.
double rounded(DType dtype, double value);

std::vector<const cpu::Target*> targets();

// One run on one target with a number of threads.
struct Outcome {
  std::string kernel;
  uint64_t index_error = 0;
};
Outcome run(const cpu::Target& target, const Problem& problem, int threads);

// Poisons `outputs`, runs the problem on every target with 1, 2 and 3 threads, expects the same bits for each number of
// threads, and calls `check` after the first.
void run_everywhere(const std::string& what, const Problem& problem, const std::vector<Array*>& outputs,
                    const std::function<void(const std::string& where, const Outcome&)>& check,
                    const std::vector<Array*>& changed = {});

// ‖got − want‖ ≤ bound ‖want‖, and each row (the last dimension) within 8 bounds of the larger of its own and the
// array's rms. Without a bound, that of the array's dtype.
void expect_close(const std::string& what, const Array& got, const std::vector<double>& want, double bound);
void expect_close(const std::string& what, const Array& got, const std::vector<double>& want);

}  // namespace seqmix::test
