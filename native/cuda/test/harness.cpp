#include "cuda/test/harness.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "core/problem/elementwise.h"

namespace seqmix::test {

Device device{};

void* Device::allocate(int64_t bytes) const {
  Status status;
  void* const memory = backend->allocate(queue, std::max<int64_t>(bytes, 1), &status);
  throw_if(status);
  return memory;
}

void Device::write(void* to, const void* from, int64_t bytes) const {
  Status status;
  if (bytes) backend->write(queue, to, from, bytes, &status);
  throw_if(status);
}

void Device::read(void* to, const void* from, int64_t bytes) const {
  Status status;
  backend->read(queue, to, from, bytes, nullptr, nullptr, &status);
  throw_if(status);
}

void Device::run(Problem& p) const {
  static uint64_t sequence = 0;
  p.sequence = ++sequence;
  Status status;
  backend->run(queue, &p, &status);
  throw_if(status);
}

namespace {

int failed = 0, made = 0;

float bits_to_float(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
uint32_t float_to_bits(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  return bits;
}

double load(const unsigned char* from, DType t) {
  if (t == DType::float32) {
    float f;
    std::memcpy(&f, from, 4);
    return f;
  }
  if (t == DType::int32) {
    int32_t i;
    std::memcpy(&i, from, 4);
    return i;
  }
  if (t == DType::int64) {
    int64_t i;
    std::memcpy(&i, from, 8);
    return static_cast<double>(i);
  }
  if (t == DType::boolean) return *from;
  if (t == DType::int8) return static_cast<signed char>(*from);
  uint16_t bits;
  std::memcpy(&bits, from, 2);
  if (t == DType::bfloat16) return bits_to_float(static_cast<uint32_t>(bits) << 16);
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double size = exponent == 0    ? std::ldexp(mantissa, -24)
                      : exponent == 31 ? (mantissa ? NAN : INFINITY)
                                       : std::ldexp(mantissa + 1024, exponent - 25);
  return bits & 0x8000 ? -size : size;
}

// The distance between neighbours of `value` among the numbers of a 16-bit dtype.
double unit_of(DType t, double value) {
  const int digits = t == DType::float16 ? 11 : 8, least = t == DType::float16 ? -14 : -126;
  int exponent = least;
  if (value != 0) std::frexp(value, &exponent);  // [1/2, 1) 2^exponent
  return std::ldexp(1, std::max(exponent - 1, least) - (digits - 1));
}

void store(unsigned char* to, DType t, double value) {
  value = rounded(t, value);
  if (t == DType::float32) {
    const float f = static_cast<float>(value);
    std::memcpy(to, &f, 4);
  } else if (t == DType::int32) {
    const int32_t i = static_cast<int32_t>(value);
    std::memcpy(to, &i, 4);
  } else if (t == DType::int64) {
    const int64_t i = static_cast<int64_t>(value);
    std::memcpy(to, &i, 8);
  } else if (t == DType::boolean) {
    *to = value != 0;
  } else if (t == DType::int8) {
    *to = static_cast<unsigned char>(static_cast<signed char>(value));
  } else if (t == DType::bfloat16) {
    const uint16_t bits = static_cast<uint16_t>(float_to_bits(static_cast<float>(value)) >> 16);
    std::memcpy(to, &bits, 2);
  } else {
    const double size = std::fabs(value);
    int bits;
    if (std::isnan(value)) {
      bits = 0x7e00;
    } else if (std::isinf(value)) {
      bits = 0x7c00;
    } else if (size < std::ldexp(1, -14)) {
      bits = static_cast<int>(std::ldexp(size, 24));
    } else {
      int exponent;
      const double fraction = std::frexp(size, &exponent);
      bits = (exponent + 14) << 10 | (static_cast<int>(std::ldexp(fraction, 11)) & 1023);
    }
    const uint16_t stored = static_cast<uint16_t>(bits | (std::signbit(value) ? 0x8000 : 0));
    std::memcpy(to, &stored, 2);
  }
}

constexpr int64_t kGuard = 256;  // bytes after an output, which nothing may write to

}  // namespace

Array::Array(DType dtype, const Shape& shape, Layout layout) {
  view_ = seqmix::dense(dtype, shape.data(), static_cast<int>(shape.size()));
  const int rank = view_.rank;
  if (layout == Layout::swapped && rank >= 2) {
    view_.stride[rank - 2] = 1;
    view_.stride[rank - 1] = shape[static_cast<size_t>(rank - 2)];
  }
  if (layout == Layout::odd) {
    int64_t step = 1;
    for (int i = rank - 1; i >= 0; i--) {
      view_.stride[i] = step;
      step = step * std::max<int64_t>(shape[static_cast<size_t>(i)], 1) + 3;
    }
    offset_ = 1;
  }
  int64_t last = offset_;
  for (int i = 0; i < rank; i++) last += std::max<int64_t>(shape[static_cast<size_t>(i)] - 1, 0) * view_.stride[i];
  bytes_.assign(static_cast<size_t>((last + 1) * size_of(dtype)), 0xff);
  values_.assign(static_cast<size_t>(view_.size()), 0);
}

Array::Array(const View& described) : view_(described), described_(true) {
  int64_t bytes = kGuard;
  if (view_.size() > 0) {
    int64_t last = 0;
    for (int i = 0; i < view_.rank; i++) last += (view_.shape[i] - 1) * view_.stride[i];
    bytes += (last + 1) * size_of(view_.dtype);
  }
  bytes_.assign(static_cast<size_t>(bytes), 0);
  values_.assign(static_cast<size_t>(view_.size()), 0);
  memory_ = device.allocate(bytes);
  view_.data = memory_;
  Fill fill;
  fill.out = dense(DType::boolean, {bytes});
  fill.out.data = memory_;
  fill.byte = 0xff;
  device.run(fill);
}

Array::~Array() {
  if (memory_)
    device.backend->release(device.queue, memory_, std::max<int64_t>(1, static_cast<int64_t>(bytes_.size())));
}

Array::Array(Array&& other) noexcept { *this = std::move(other); }
Array& Array::operator=(Array&& other) noexcept {
  std::swap(view_, other.view_);
  std::swap(values_, other.values_);
  std::swap(bytes_, other.bytes_);
  std::swap(offset_, other.offset_);
  std::swap(memory_, other.memory_);
  std::swap(described_, other.described_);
  return *this;
}

int64_t Array::linear(const int64_t* index, size_t rank) const {
  int64_t at = 0;
  for (size_t i = 0; i < rank; i++) at = at * view_.shape[i] + index[i];
  return at;
}

int64_t Array::offset_of(int64_t at) const {
  int64_t offset = offset_;
  for (int i = view_.rank - 1; i >= 0; i--) {
    offset += at % view_.shape[i] * view_.stride[i];
    at /= view_.shape[i];
  }
  return offset;
}

const View& Array::upload() {
  const int64_t size = size_of(view_.dtype);
  for (size_t i = 0; i < values_.size(); i++)
    store(bytes_.data() + offset_of(static_cast<int64_t>(i)) * size, view_.dtype, values_[i]);
  if (!memory_) memory_ = device.allocate(static_cast<int64_t>(bytes_.size()));
  device.write(memory_, bytes_.data(), static_cast<int64_t>(bytes_.size()));
  view_.data = static_cast<unsigned char*>(memory_) + offset_ * size;
  return view_;
}

void Array::download() {
  device.read(bytes_.data(), memory_, static_cast<int64_t>(bytes_.size()));
  const int64_t size = size_of(view_.dtype);
  for (size_t i = 0; i < values_.size(); i++)
    values_[i] = load(bytes_.data() + offset_of(static_cast<int64_t>(i)) * size, view_.dtype);
  if (!described_) return;
  std::vector<unsigned char> rest = bytes_;
  for (size_t i = 0; i < values_.size(); i++)
    std::memset(rest.data() + offset_of(static_cast<int64_t>(i)) * size, 0xff, static_cast<size_t>(size));
  const bool kept = std::all_of(rest.begin(), rest.end(), [](unsigned char byte) { return byte == 0xff; });
  expect(std::string("what lies between and after the elements is kept, ") + device.backend->last_kernel(device.queue),
         kept);
}

std::mt19937& random() {
  static std::mt19937 engine(7);
  return engine;
}

double rounded(DType dtype, double value) {
  if (dtype == DType::float32) return static_cast<float>(value);
  if ((dtype != DType::float16 && dtype != DType::bfloat16) || !std::isfinite(value)) return value;
  const double unit = unit_of(dtype, value), result = std::nearbyint(value / unit) * unit;
  const double most = dtype == DType::float16 ? 65504 : std::ldexp(255, 120);
  return std::fabs(result) > most ? std::copysign(INFINITY, value) : result;
}

Array uniform(const Shape& shape, double from, double to, Layout layout, DType dtype) {
  Array a(dtype, shape, layout);
  std::uniform_real_distribution<double> distribution(from, to);
  for (double& v : a.values()) v = rounded(dtype, distribution(random()));
  a.upload();
  return a;
}

Array integers(DType dtype, const Shape& shape, int64_t from, int64_t to, Layout layout) {
  Array a(dtype, shape, layout);
  std::uniform_int_distribution<int64_t> distribution(from, to);
  for (double& v : a.values()) v = static_cast<double>(distribution(random()));
  a.upload();
  return a;
}

void expect(const std::string& what, bool condition) {
  made++;
  if (condition) return;
  failed++;
  std::printf("FAILED %s\n", what.c_str());
}

void expect_close(const std::string& what, Array& got, const std::vector<double>& want, double bound) {
  got.download();
  const View& v = got.view();
  const DType dtype = v.dtype;
  const bool narrow = dtype != DType::float32;
  // The roundings of many elements are a fraction of the worst one, those of a few need not be.
  const double most = want.size() < 100         ? (dtype == DType::float16 ? 0x1p-11 : 0x1p-8)
                      : dtype == DType::float16 ? 4e-4
                                                : 3e-3;
  const double whole = narrow ? std::max(bound, most) : bound;
  const size_t row = v.rank > 0 ? static_cast<size_t>(std::max<int64_t>(v.shape[v.rank - 1], 1)) : 1;
  double error = 0, size = 0;
  bool kinds = true;
  for (size_t i = 0; i < want.size(); i++) {
    const double g = got.values()[i], w = want[i];
    if (!std::isfinite(w) || !std::isfinite(g)) {
      kinds = kinds && (std::isnan(w) ? std::isnan(g) : g == w);
      continue;
    }
    error += (g - w) * (g - w);
    size += w * w;
  }
  // Numbers too small for the dtype become 0.
  const double lost = narrow ? unit_of(dtype, 0) / 2 : 0;
  const double room_for_lost = lost * std::sqrt(static_cast<double>(want.size()));
  const double relative = std::max(0.0, std::sqrt(error) - room_for_lost) / (size > 0 ? std::sqrt(size) : 1);
  const double mean = size / static_cast<double>(std::max<size_t>(want.size(), 1));
  size_t bad_rows = 0, bad_elements = 0;
  for (size_t first = 0; first < want.size(); first += row) {
    double row_error = 0, row_size = 0;
    for (size_t i = first; i < first + row; i++) {
      const double g = got.values()[i], w = want[i];
      if (!std::isfinite(w) || !std::isfinite(g)) continue;
      row_error += (g - w) * (g - w);
      row_size += w * w;
      const double room = 8 * bound * std::max(std::fabs(w), std::sqrt(mean));
      if (narrow && std::fabs(g - w) > unit_of(dtype, w) / 2 + room) bad_elements++;
    }
    const double count = static_cast<double>(row);
    if (std::sqrt(row_error / count) > lost + 8 * whole * std::sqrt(std::max(row_size / count, mean))) bad_rows++;
  }
  const bool good = kinds && relative <= whole && bad_rows == 0 && bad_elements == 0;
  if (!good)
    std::printf("  %s, %s: error %.3g, bound %.3g, %zu rows and %zu elements out of bounds%s\n", what.c_str(),
                name_of(dtype), relative, whole, bad_rows, bad_elements, kinds ? "" : ", not finite");
  expect(what, good);
}

void expect_equal(const std::string& what, Array& got, const std::vector<double>& want) {
  got.download();
  size_t wrong = 0, first = 0;
  for (size_t i = want.size(); i-- > 0;)
    if (!(got.values()[i] == want[i] || (std::isnan(got.values()[i]) && std::isnan(want[i])))) {
      wrong++;
      first = i;
    }
  if (wrong)
    std::printf("  %s: %zu of %zu differ, first at %zu: expected %.9g, got %.9g\n", what.c_str(), wrong, want.size(),
                first, want[first], got.values()[first]);
  expect(what, wrong == 0);
}

int failures() { return failed; }
int checks() { return made; }

double silu(double x) { return x / (1 + std::exp(-x)); }
double softplus(double x) { return x > 20 ? x : std::log1p(std::exp(x)); }

}  // namespace seqmix::test
