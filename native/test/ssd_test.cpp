// ssd_chunk_scan in each of its forms against a float64 loop.
#include <string>

#include "core/problem/ssd_chunk_scan.h"
#include "test/cpu.h"

namespace seqmix::test {
namespace {

struct SsdCase {
  int64_t b = 1, L = 70, h = 2, p = 16, n = 16, groups = 1, chunk = 0;
  Layout x{}, states{};
  bool softplus = true, skip = true, wide_skip = false, gate = true, bias = true, initial = true, packed = false;
  double rate = -8, dt_low = -3, dt_high = 1;  // A is between rate and rate / 64
  DType dtype = DType::float32, dt = DType::float32, weights = DType::float32;
};

double softplus(double x) { return x > 20 ? x : std::log1p(std::exp(x)); }
double silu(double x) { return x / (1 + std::exp(-x)); }

void check_ssd(const std::string& name, const SsdCase& s) {
  const int64_t b = s.b, L = s.L, h = s.h, P = s.p, n = s.n, g = s.groups;
  const Array x = numbers(s.dtype, {b, L, h, P}, -1, 1, s.x), z = numbers(s.dtype, {b, L, h, P}, -4, 4, s.x);
  const Array dt = numbers(s.dt, {b, L, h}, s.dt_low, s.dt_high);
  const Array A = numbers(s.weights, {h}, std::fmin(s.rate, s.rate / 64), std::fmax(s.rate, s.rate / 64));
  const Array bias = numbers(s.weights, {h}, -1, 0);
  const Array B = numbers(s.dtype, {b, L, g, n}, -1, 1, s.states), C = numbers(s.dtype, {b, L, g, n}, -1, 1, s.states);
  const Array D = numbers(s.weights, s.wide_skip ? std::vector<int64_t>{h, P} : std::vector<int64_t>{h});
  const Array initial = numbers(s.weights, {b, h, P, n});
  Array seq(DType::int32, {b, L});
  for (int64_t i = 0; i < b; i++)
    for (int64_t t = 0, k = 0; t < L; t++) seq.i32(i * L + t) = static_cast<int32_t>(k += pick(0, 30) == 0);

  std::vector<double> want(b * L * h * P), states(b * h * P * n);
  for (int64_t i = 0; i < b * h; i++) {
    const int64_t row = i / h, head = i % h, group = head * g / h;
    for (int64_t c = 0; c < P; c++) {
      double* const state = states.data() + (i * P + c) * n;
      for (int64_t j = 0; j < n; j++) state[j] = s.initial ? initial.at((i * P + c) * n + j) : 0;
      for (int64_t t = 0; t < L; t++) {
        if (s.packed && t > 0 && seq.i32(row * L + t) != seq.i32(row * L + t - 1)) std::fill_n(state, n, 0.0);
        double delta = dt.at((row * L + t) * h + head) + (s.bias ? bias.at(head) : 0.0);
        if (s.softplus) delta = softplus(delta);
        delta = std::fmin(std::fmax(delta, 0.001), 2.0);
        const int64_t at = ((row * L + t) * h + head) * P + c;
        double y = s.skip ? x.at(at) * D.at(s.wide_skip ? head * P + c : head) : 0;
        for (int64_t j = 0; j < n; j++) {
          const int64_t from = ((row * L + t) * g + group) * n + j;
          state[j] = std::exp(delta * A.at(head)) * state[j] + delta * x.at(at) * B.at(from);
          y += C.at(from) * state[j];
        }
        want[at] = s.gate ? y * silu(z.at(at)) : y;
      }
    }
  }

  for (const SsdMode mode : {SsdMode::automatic, SsdMode::chunked, SsdMode::recurrent, SsdMode::quadratic}) {
    SsdChunkScan p;
    p.x = x.view;
    p.dt = dt.view;
    p.A = A.view;
    p.B = B.view;
    p.C = C.view;
    if (s.skip) p.D = D.view;
    if (s.gate) p.z = z.view;
    if (s.bias) p.dt_bias = bias.view;
    if (s.initial) p.initial_states = initial.view;
    if (s.packed) p.seq_idx = seq.view;
    p.dt_softplus = s.softplus;
    p.dt_min = 0.001;
    p.dt_max = 2;
    p.chunk_size = s.chunk;
    p.mode = mode;
    p.return_final_states = true;
    p.validate();
    Array out(s.dtype, {b, L, h, P}), final_(DType::float32, {b, h, P, n});
    p.out = out.view;
    p.final_states = final_.view;
    const std::string what = name + ", mode " + std::to_string(static_cast<int>(mode));
    run_everywhere(what, p, {&out, &final_}, [&](const std::string& where, const Outcome&) {
      expect_close(where + " out", out, want);
      expect_close(where + " final states", final_, states);
    });
  }
}

TEST(ssd_shapes) {
  for (const int64_t L : {0, 1, 5, 64, 65, 130, 300}) check_ssd("L " + std::to_string(L), {.L = L, .p = 9});
  for (const int64_t P : {1, 7, 8, 16, 17, 32, 33, 64, 100}) check_ssd("p " + std::to_string(P), {.p = P, .n = 5});
  for (const int64_t n : {0, 1, 3, 8, 15, 31, 128, 300}) check_ssd("n " + std::to_string(n), {.p = 10, .n = n});
  for (const int64_t q : {16, 17, 63, 100, 256})
    check_ssd("chunks of " + std::to_string(q), {.L = 270, .p = 8, .chunk = q});
  check_ssd("groups", {.b = 2, .h = 12, .p = 8, .groups = 4});
  check_ssd("many heads", {.b = 2, .h = 30, .p = 8});
  check_ssd("nothing", {.b = 0});
}

TEST(ssd_layouts) {
  for (const DType dtype : kFloats) {
    check_ssd("wide rows", {.b = 2, .x = {{}, 5}, .states = {{}, 3}, .dtype = dtype});
    check_ssd("turned", {.b = 2, .x = {{3, 2, 0, 1}, 0}, .states = {{0, 2, 3, 1}, 0}, .dtype = dtype});
  }
}

TEST(ssd_options) {
  check_ssd("bare", {.softplus = false,
                     .skip = false,
                     .gate = false,
                     .bias = false,
                     .initial = false,
                     .dt_low = 0.001,
                     .dt_high = 0.1});
  check_ssd("packed", {.b = 2, .L = 300, .packed = true});
  check_ssd("packed, from nothing", {.b = 2, .L = 300, .initial = false, .packed = true});
  check_ssd("skip by channels", {.p = 19, .wide_skip = true});
  check_ssd("growing", {.L = 150, .rate = 0.5});
  check_ssd("growing over more than a block", {.L = 300, .rate = 0.2});
  check_ssd("growing, from nothing", {.L = 300, .initial = false, .rate = 0.2});
  check_ssd("steep", {.L = 150, .rate = -2000});
  check_ssd("long", {.L = 3000, .p = 4, .rate = -1, .dt_low = -8, .dt_high = -5});
}

TEST(ssd_dtypes) {
  for (const DType dtype : kFloats)
    for (const DType dt : {DType::float32, dtype})
      for (const DType weights : kFloats)
        check_ssd(std::string(name_of(dtype)) + ", weights " + name_of(weights),
                  {.p = 20, .wide_skip = true, .dtype = dtype, .dt = dt, .weights = weights});
}

}  // namespace
}  // namespace seqmix::test
