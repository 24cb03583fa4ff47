// ssd_chunk_scan: every dtype, cut and kernel; NaN where it belongs and nowhere else.
#include <algorithm>
#include <cmath>

#include "core/problem/ssd_chunk_scan.h"
#include "cuda/test/harness.h"

namespace seqmix::test {

namespace {

// What the arithmetic loses. Tensor cores multiply decays and states that are rounded to 16 bits; token by token
// everything is float32.
double bound_of(DType dtype, bool chunked) { return !chunked ? 1e-5 : dtype == DType::float16 ? 8e-4 : 4.5e-3; }

// How the rows of x, z, B and C lie: as a layout has them, or as parts of longer rows, on 16 bytes or not.
enum class Rows { dense, swapped, odd, parts, aligned_parts };

struct Case {
  int64_t b, L, h, p, n, groups = 1;
  DType dtype = DType::float32;
  DType weights = DType::float32;  // of A, D, bias and the initial states
  Rows rows = Rows::dense;
  bool extras = true;  // D, z, bias, softplus, limits, initial states, sequences
  SsdMode mode = SsdMode::automatic;
  bool wide_D = false;
  bool sequences = true;  // among the extras
  bool nans = false;      // a few
  double x = 1, B = 1, C = 1;
  double step_from = 1e-3, step_to = 0.2;  // dt, without extras
  double rate_from = -8, rate_to = -0.5;   // A
  bool float_steps = false;                // dt in float32
};

// A (b, L, outer, inner) operand.
class Operand {
 public:
  Operand(const Case& k, int64_t outer, int64_t inner, double size) {
    const bool part = k.rows == Rows::parts || k.rows == Rows::aligned_parts;
    first_ = !part ? 0 : k.rows == Rows::parts ? 3 : 8;
    const int64_t width = inner + (!part ? 0 : k.rows == Rows::parts ? 6 : 16);
    const Layout layout = k.rows == Rows::swapped ? Layout::swapped : k.rows == Rows::odd ? Layout::odd : Layout::dense;
    array_ = uniform({k.b, k.L, outer, width}, -size, size, layout, k.dtype);
    view_ = array_.view();
    view_.shape[3] = inner;
    view_.data = static_cast<char*>(view_.data) + first_ * view_.stride[3] * size_of(k.dtype);
  }
  double at(int64_t b, int64_t t, int64_t outer, int64_t inner) const {
    return array_.at({b, t, outer, first_ + inner});
  }
  void put(int64_t b, int64_t t, int64_t outer, int64_t inner, double v) {
    array_.at({b, t, outer, first_ + inner}) = v;
    array_.upload();
  }
  const View& view() const { return view_; }

 private:
  Array array_;
  View view_;
  int64_t first_ = 0;
};

bool on_hopper() {
  DeviceInfo info;
  Status status;
  device.backend->device_info(0, &info, &status);
  return std::string(info.target).starts_with("sm_90");
}

// Hopper's kernel takes rows on 16 bytes.
std::string expected_kernel(const Case& k) {
  const bool chunked = k.dtype != DType::float32 && k.mode != SsdMode::recurrent && std::min({k.L, k.p, k.n}) >= 16 &&
                       k.n <= 256 && k.rows != Rows::swapped;
  const bool pieces =
      k.p % 8 == 0 && k.n % 8 == 0 && k.n <= 128 && (k.rows == Rows::dense || k.rows == Rows::aligned_parts);
  const char* const chip = pieces && on_hopper() ? "sm90" : "sm80";
  return chunked ? "cuda." + std::string(chip) + ".ssd_chunk_scan.chunked" : "cuda.any.ssd_chunk_scan.plain";
}

void check(const Case& k) {
  const int64_t b = k.b, L = k.L, h = k.h, P = k.p, n = k.n, members = h / k.groups;
  const DType step_type = k.float_steps ? DType::float32 : k.dtype;
  const Layout other = k.rows == Rows::odd ? Layout::odd : Layout::dense;
  Operand x(k, h, P, k.x), z(k, h, P, 3), B(k, k.groups, n, k.B), C(k, k.groups, n, k.C);
  Array dt = k.extras ? uniform({b, L, h}, -3, 0, other, step_type)
                      : uniform({b, L, h}, k.step_from, k.step_to, other, step_type);
  Array A = uniform({h}, k.rate_from, k.rate_to, other, k.weights), bias = uniform({h}, -2, 0.5, other, k.weights);
  Array D = k.wide_D ? uniform({h, P}, -1, 1, other, k.weights) : uniform({h}, -1, 1, other, k.weights);
  Array initial = uniform({b, h, P, n}, -1, 1, other, k.weights), seq = integers(DType::int32, {b, L}, 0, 0, other);
  for (int64_t i = 0; i < b; i++)
    for (int64_t t = 1, id = 0; t < L; t++) seq.at({i, t}) = static_cast<double>(id += random()() % 37 == 0);
  seq.upload();
  if (k.nans) {
    x.put(0, L / 3, 0, P / 2, NAN);
    x.put(b - 1, L - 1, h - 1, 0, NAN);
    B.put(b - 1, L / 2, 0, n / 2, NAN);
    z.put(0, L - 2, h - 1, P - 1, NAN);
    dt.at({0, L / 2, h - 1}) = NAN;
    dt.upload();
    initial.at({b - 1, h / 2, 0, n - 1}) = NAN;
    initial.upload();
  }
  const double low = 0.01, high = 0.8;
  SsdChunkScan p;
  p.x = x.view();
  p.dt = dt.view();
  p.A = A.view();
  p.B = B.view();
  p.C = C.view();
  p.dt_max = INFINITY;
  if (k.extras) {
    p.D = D.view();
    p.z = z.view();
    p.dt_bias = bias.view();
    p.initial_states = initial.view();
    if (k.sequences) p.seq_idx = seq.view();
    p.dt_softplus = true;
    p.dt_min = low;
    p.dt_max = high;
  }
  p.mode = k.mode;
  p.return_final_states = true;
  p.validate();
  Array out(p.out), last(p.final_states);
  p.out = out.view();
  p.final_states = last.view();
  device.run(p);

  std::vector<double> want(static_cast<size_t>(b * L * h * P)), states;
  for (int64_t i = 0; i < b; i++)
    for (int64_t head = 0; head < h; head++)
      for (int64_t c = 0; c < P; c++) {
        const int64_t group = head / members;
        std::vector<double> state(static_cast<size_t>(n), 0.0);
        for (int64_t s = 0; s < n && k.extras; s++) state[static_cast<size_t>(s)] = initial.at({i, head, c, s});
        for (int64_t t = 0; t < L; t++) {
          double step = dt.at({i, t, head}), y = 0;
          if (k.extras) {
            step = softplus(step + bias.at({head}));
            step = step < low ? low : step > high ? high : step;
          }
          const bool reset = k.extras && k.sequences && t > 0 && seq.at({i, t}) != seq.at({i, t - 1});
          const double decay = std::exp(step * A.at({head})), input = step * x.at(i, t, head, c);
          for (int64_t s = 0; s < n; s++) {
            double& v = state[static_cast<size_t>(s)];
            v = decay * (reset ? 0 : v) + input * B.at(i, t, group, s);
            y += v * C.at(i, t, group, s);
          }
          if (k.extras) {
            y += (k.wide_D ? D.at({head, c}) : D.at({head})) * x.at(i, t, head, c);
            y *= silu(z.at(i, t, head, c));
          }
          want[static_cast<size_t>(((i * L + t) * h + head) * P + c)] = y;
        }
        states.insert(states.end(), state.begin(), state.end());
      }
  device.read(nullptr, nullptr, 0);  // until the op has run: only then has it named its kernel
  const std::string kernel = device.backend->last_kernel(device.queue);
  const bool chunked = kernel.ends_with("chunked");
  const std::string what = "ssd_chunk_scan (" + std::to_string(b) + ", " + std::to_string(L) + ", " +
                           std::to_string(h) + ", " + std::to_string(P) + ") n " + std::to_string(n) + " groups " +
                           std::to_string(k.groups) + " rows " + std::to_string(static_cast<int>(k.rows)) +
                           (k.extras ? " extras" : "") + (k.nans ? " nans" : "") + ", weights " + name_of(k.weights) +
                           ", " + name_of(k.dtype) + ", " + kernel;
  expect_close(what, out, want, bound_of(k.dtype, chunked));
  expect_close(what + ", final states", last, states, bound_of(k.dtype, chunked));
  expect(what + ", the kernel", kernel == expected_kernel(k));
}

constexpr Rows kRows[] = {Rows::dense, Rows::swapped, Rows::odd, Rows::parts, Rows::aligned_parts};

void check_rows_and_sizes(DType dtype, DType weights) {
  for (const Rows rows : kRows)
    for (const bool extras : {false, true}) {
      for (const int64_t L : {1, 15, 16, 63, 64, 65, 200}) check({2, L, 3, 24, 20, 1, dtype, weights, rows, extras});
      check({1, 150, 4, 64, 64, 2, dtype, weights, rows, extras});
      check({1, 150, 5, 33, 50, 5, dtype, weights, rows, extras});
      check({2, 70, 2, 64, 128, 1, dtype, weights, rows, extras});
      check({1, 70, 3, 100, 130, 1, dtype, weights, rows, extras});
    }
}

void check_states(DType dtype, DType weights) {
  for (const int64_t n : {0, 1, 3, 16, 17, 64, 65, 100, 128, 129, 200, 256, 257, 300, 600})
    for (const bool extras : {false, true}) {
      check({2, 80, 2, 16, n, 1, dtype, weights, Rows::dense, extras});
      check({1, 5, 3, 40, n, 3, dtype, weights, Rows::dense, extras});
    }
  for (const int64_t P : {1, 2, 7, 8, 16, 31, 63, 64, 65, 128, 200})
    check({1, 90, 3, P, 32, 1, dtype, weights, Rows::dense, true, SsdMode::automatic, true});
}

void check_options(DType dtype, DType weights) {
  for (const SsdMode mode : {SsdMode::automatic, SsdMode::chunked, SsdMode::recurrent, SsdMode::quadratic})
    for (const bool wide_D : {false, true})
      for (const bool sequences : {false, true}) {
        Case k{2, 150, 7, 40, 70, 1, dtype, weights, Rows::dense, true, mode, wide_D, sequences};
        k.float_steps = wide_D;
        check(k);
      }
  check({2, 0, 3, 8, 16, 1, dtype, weights});
  // One sequence, cut into segments: with few heads, and in two kinds of kernel.
  for (const bool extras : {false, true}) {
    check({1, 3000, 2, 64, 128, 1, dtype, weights, Rows::dense, extras});
    check({1, 1000, 1, 16, 16, 1, dtype, weights, Rows::dense, extras});
    check({1, 1100, 1, 64, 256, 1, dtype, weights, Rows::dense, extras});
  }
  Case one{1, 2000, 1, 64, 64, 1, dtype, weights};
  one.sequences = false;
  check(one);
  check({3, 100, 24, 64, 64, 1, dtype, weights});
}

void check_nans(DType dtype) {
  for (const SsdMode mode : {SsdMode::automatic, SsdMode::recurrent})
    for (const bool sequences : {false, true}) {
      Case k{2, 200, 4, 24, 16, 2, dtype, dtype, Rows::dense, true, mode};
      k.nans = true;
      k.sequences = sequences;
      check(k);
      k.h = 5, k.groups = 1, k.p = 70, k.n = 128;
      check(k);
      k.b = 1, k.L = 1500, k.h = 2, k.p = 40, k.n = 64;
      check(k);
    }
}

void check_sizes_of_numbers(DType dtype) {
  Case small{1, 400, 2, 64, 64, 1, dtype};  // steps so short that their products are below float16's normal numbers
  small.extras = false;
  small.float_steps = true;
  small.step_from = 2e-6;
  small.step_to = 2e-5;
  check(small);
  Case large{1, 200, 2, 64, 64, 1, dtype};  // C·B is above what float16 holds
  large.extras = false;
  large.x = 1e-3;
  large.B = large.C = 300;
  large.step_to = 0.01;
  large.step_from = 0.001;
  check(large);
  Case steep{1, 200, 2, 64, 64, 1, dtype};  // whole chunks decay to nothing
  steep.extras = false;
  steep.step_to = 3000;
  steep.step_from = 1e-3;
  steep.x = 0.01;
  check(steep);
  Case mixed = steep;  // some tokens end what is before them
  mixed.step_to = 60;
  mixed.rate_from = mixed.rate_to = -0.25;
  check(mixed);
  if (dtype == DType::float16) return;
  Case grows{1, 150, 2, 64, 64, 1, dtype};
  grows.extras = false;
  grows.rate_from = 0.05;
  grows.rate_to = 1;
  check(grows);
}

}  // namespace

void check_ssd() {
  for (const DType dtype : kFloats) {
    const DType weights = dtype == DType::float32 ? DType::bfloat16 : DType::float32;
    check_rows_and_sizes(dtype, weights);
    check_states(dtype, dtype);
    check_options(dtype, weights);
    check_nans(dtype);
    check_sizes_of_numbers(dtype);
  }
}

}  // namespace seqmix::test
