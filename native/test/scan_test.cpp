// selective_scan and selective_state_update against float64 loops.
#include <memory>

#include "core/problem/selective_scan.h"
#include "core/problem/selective_state_update.h"
#include "test/cpu.h"

namespace seqmix::test {
namespace {

double softplus(double x) { return x > 20 ? x : std::log1p(std::exp(x)); }
double silu(double x) { return x / (1 + std::exp(-x)); }

struct ScanCase {
  int64_t b = 1, d = 8, L = 37, n = 16, groups_b = 1, groups_c = 1;  // 0 groups: constant
  Layout u{}, delta{}, z{}, states{};
  bool softplus = true, skip = true, gate = true, bias = true, initial = false, packed = false, ungrouped = false;
  double rate = 0.5;  // |A| up to this times 16
  double delta_low = -3, delta_high = 1;
  DType dtype = DType::float32, weights = DType::float32, state = DType::float32;
};

void check_scan(const std::string& name, const ScanCase& s) {
  const int64_t b = s.b, d = s.d, L = s.L, n = s.n;
  const Array u = numbers(s.dtype, {b, d, L}, -1, 1, s.u);
  const Array delta = numbers(s.dtype, {b, d, L}, s.delta_low, s.delta_high, s.delta);
  const Array A = numbers(s.weights, {d, n}, -16 * s.rate, -0.01);
  const auto matrix = [&](int64_t groups) {
    if (groups == 0) return numbers(s.weights, {d, n});
    if (s.ungrouped) return numbers(s.dtype, {b, n, L}, -1, 1, s.states);
    Layout l;
    if (!s.states.order.empty()) l.order = {0, 3, 1, 2};
    return numbers(s.dtype, {b, groups, n, L}, -1, 1, l);
  };
  const Array B = matrix(s.groups_b), C = matrix(s.groups_c), D = numbers(s.weights, {d});
  const Array z = numbers(s.dtype, {b, d, L}, -4, 4, s.z);
  const Array bias = numbers(s.weights, {d}, -1, 0), initial = numbers(s.state, {b, d, n});
  Array seq(DType::int32, {b, L});
  for (int64_t i = 0; i < b; i++)
    for (int64_t t = 0, k = 0; t < L; t++) seq.i32(i * L + t) = static_cast<int32_t>(k += pick(0, 9) == 0);

  SelectiveScan p;
  p.u = u.view;
  p.delta = delta.view;
  p.A = A.view;
  p.B = B.view;
  p.C = C.view;
  if (s.skip) p.D = D.view;
  if (s.gate) p.z = z.view;
  if (s.bias) p.delta_bias = bias.view;
  if (s.initial) p.initial_state = initial.view;
  if (s.packed) p.seq_idx = seq.view;
  p.delta_softplus = s.softplus;
  p.return_last_state = true;
  p.validate();
  Array out(s.dtype, {b, d, L}, {s.u.order, 0}), last(DType::float32, {b, d, n});
  p.out = out.view;
  p.last_state = last.view;

  std::vector<double> want(b * d * L), want_last(b * d * n);
  for (int64_t i = 0; i < b; i++)
    for (int64_t c = 0; c < d; c++) {
      std::vector<double> h(n, 0.0);
      if (s.initial)
        for (int64_t j = 0; j < n; j++) h[j] = initial.at((i * d + c) * n + j);
      for (int64_t t = 0; t < L; t++) {
        const int64_t at = (i * d + c) * L + t;
        if (s.packed && t > 0 && seq.i32(i * L + t) != seq.i32(i * L + t - 1)) h.assign(n, 0.0);
        double dt = delta.at(at) + (s.bias ? bias.at(c) : 0.0);
        if (s.softplus) dt = softplus(dt);
        double y = s.skip ? D.at(c) * u.at(at) : 0.0;
        for (int64_t j = 0; j < n; j++) {
          const auto element = [&](const Array& m, int64_t groups) {
            if (groups == 0) return m.at(c * n + j);
            return m.at(((i * groups + c * groups / d) * n + j) * L + t);
          };
          h[j] = std::exp(dt * A.at(c * n + j)) * h[j] + dt * element(B, s.groups_b) * u.at(at);
          y += element(C, s.groups_c) * h[j];
        }
        want[at] = s.gate ? y * silu(z.at(at)) : y;
      }
      for (int64_t j = 0; j < n; j++) want_last[(i * d + c) * n + j] = h[j];
    }
  run_everywhere(name, p, {&out, &last}, [&](const std::string& where, const Outcome&) {
    expect_close(where + " out", out, want);
    expect_close(where + " last state", last, want_last);
  });
}

const Layout kChannelsLast{{0, 2, 1}, 0};
const Layout kChannelsLastWide{{0, 2, 1}, 5};

TEST(scan_layouts) {
  check_scan("rows", {});
  check_scan("channels last", {.d = 20, .u = kChannelsLast, .delta = kChannelsLast, .z = kChannelsLast});
  check_scan("mixed", {.d = 20, .L = 130, .u = kChannelsLast, .z = kChannelsLastWide});
  check_scan("mixed the other way", {.d = 33, .L = 65, .delta = kChannelsLastWide, .z = {{}, 3}});
  check_scan("strided",
             {.d = 18, .L = 19, .u = {{1, 2, 0}, 0}, .delta = {{1, 2, 0}, 0}, .z = {{2, 1, 0}, 0}, .initial = true});
  check_scan("states side by side",
             {.d = 48, .L = 100, .u = kChannelsLast, .states = {{0, 2, 1}, 3}, .ungrouped = true});
}

TEST(scan_shapes) {
  for (const int64_t d : {1, 3, 15, 16, 17, 40})
    for (const int64_t L : {0, 1, 2, 15, 64, 129})
      check_scan("d " + std::to_string(d) + " L " + std::to_string(L), {.b = 2, .d = d, .L = L, .initial = d % 2 == 0});
  for (const int64_t n : {1, 2, 3, 4, 5, 8, 12, 17, 31, 64, 300})
    check_scan("n " + std::to_string(n), {.d = 5, .L = 70, .n = n, .initial = true});
  check_scan("nothing", {.b = 0});
}

TEST(scan_options) {
  check_scan("bare",
             {.softplus = false, .skip = false, .gate = false, .bias = false, .delta_low = 0.001, .delta_high = 0.1});
  check_scan("packed", {.b = 2, .d = 24, .L = 150, .initial = true, .packed = true});
  check_scan("groups", {.b = 2, .d = 24, .n = 4, .groups_b = 2, .groups_c = 2});
  check_scan("different groups", {.b = 2, .d = 24, .n = 4, .groups_b = 6, .groups_c = 4});
  check_scan("constant B", {.d = 19, .groups_b = 0});
  check_scan("constant C", {.d = 21, .groups_b = 3, .groups_c = 0, .packed = true});
  check_scan("constant both", {.d = 19, .n = 5, .groups_b = 0, .groups_c = 0});
  check_scan("extreme", {.L = 90, .rate = 4, .delta_low = -60, .delta_high = 60});
  check_scan("long", {.d = 3, .L = 3000, .rate = 0.0625, .delta_low = -8, .delta_high = -5});
}

TEST(scan_dtypes) {
  for (const DType dtype : kFloats)
    for (const DType weights : kFloats)
      for (const DType state : {DType::float32, weights}) {
        const std::string name =
            std::string(name_of(dtype)) + ", weights " + name_of(weights) + ", state " + name_of(state);
        const ScanCase s{.d = 21, .L = 70, .initial = true, .dtype = dtype, .weights = weights, .state = state};
        check_scan(name, s);
        ScanCase last = s;
        last.u = last.delta = last.z = kChannelsLast;
        check_scan(name + ", channels last", last);
      }
  for (const DType dtype : {DType::float16, DType::bfloat16}) {
    const std::string name = name_of(dtype);
    check_scan(name + " mixed", {.d = 33, .L = 65, .delta = kChannelsLastWide, .z = {{}, 3}, .dtype = dtype});
    check_scan(name + " strided", {.d = 18, .L = 19, .u = {{1, 2, 0}, 0}, .z = {{2, 1, 0}, 0}, .dtype = dtype});
    check_scan(name + " states side by side",
               {.d = 48, .L = 100, .u = kChannelsLast, .states = {{0, 2, 1}, 3}, .ungrouped = true, .dtype = dtype});
    check_scan(name + " groups", {.b = 2, .d = 24, .n = 5, .groups_b = 6, .groups_c = 4, .dtype = dtype});
    check_scan(name + " constant", {.d = 19, .n = 5, .groups_b = 0, .groups_c = 0, .dtype = dtype, .weights = dtype});
    check_scan(name + " packed", {.b = 2, .d = 24, .L = 150, .initial = true, .packed = true, .dtype = dtype});
    check_scan(name + " long", {.d = 40, .L = 2100, .dtype = dtype});
    for (const int64_t L : {0, 1, 15, 17}) check_scan(name + " short", {.d = 5, .L = L, .n = 3, .dtype = dtype});
  }
}

TEST(scan_growing) {
  // exp(Δ A) above 1, up to infinity: what float64 gives, as far as float32 holds it.
  Array u = floats({1, 4, 3}, 1, 2), delta = floats({1, 4, 3}, 1, 1), A = floats({4, 1}, 1, 1),
        B = floats({1, 1, 3}, 1, 1);
  const float rates[] = {10, 80, 87, 200};
  for (int i = 0; i < 4; i++) A.f(i) = rates[i];
  SelectiveScan p;
  p.u = u.view;
  p.delta = delta.view;
  p.A = A.view;
  p.B = p.C = B.view;
  p.validate();
  Array out(DType::float32, {1, 4, 3});
  p.out = out.view;
  run_everywhere("growing", p, {&out}, [&](const std::string& where, const Outcome&) {
    for (int c = 0; c < 4; c++) {
      double h = 0;
      for (int t = 0; t < 3; t++) {
        h = std::exp(static_cast<double>(rates[c])) * h + u.f(c * 3 + t);
        const float got = out.f(c * 3 + t), want = static_cast<float>(h);
        EXPECT(std::isinf(want) ? got == want : std::fabs(got - want) <= 2e-5 * std::fabs(want),
               where + ": " + std::to_string(got) + " for " + std::to_string(want));
      }
    }
  });
}

struct UpdateCase {
  int64_t b = 2, h = 24, p = 1, n = 16, groups = 1, slots = 0;
  bool heads = false, tied = false, softplus = true, optional = true;
  Layout state{};
  DType dtype = DType::float32, weights = DType::float32, state_dtype = DType::float32;
  double highest = -0.1;  // of A
};

void check_update(const std::string& name, const UpdateCase& s) {
  const int64_t b = s.b, h = s.h, P = s.p, n = s.n, slots = s.slots ? s.slots : b;
  Array state =
      numbers(s.state_dtype, s.heads ? std::vector<int64_t>{slots, h, P, n} : std::vector<int64_t>{slots, h, n}, -1, 1,
              s.state);
  const auto per_channel = [&](double low, double high) {
    return numbers(s.dtype, s.heads ? std::vector<int64_t>{b, h, P} : std::vector<int64_t>{b, h}, low, high);
  };
  const Array x = per_channel(-1, 1), z = per_channel(-3, 3);
  const Array dt = s.tied ? numbers(s.dtype, {b, h}, -3, 1) : per_channel(-3, 1);
  const Array A =
      s.tied ? numbers(s.weights, {h}, -8, s.highest)
             : numbers(s.weights, s.heads ? std::vector<int64_t>{h, P, n} : std::vector<int64_t>{h, n}, -8, s.highest);
  const std::vector<int64_t> each = s.tied    ? std::vector<int64_t>{h}
                                    : s.heads ? std::vector<int64_t>{h, P}
                                              : std::vector<int64_t>{h};
  const Array D = numbers(s.weights, each), bias = numbers(s.weights, each);
  const Array B =
      numbers(s.dtype, s.groups == 1 && !s.heads ? std::vector<int64_t>{b, n} : std::vector<int64_t>{b, s.groups, n});
  const Array C = numbers(s.dtype, {b, s.groups, n});
  Array indices(DType::int32, {b});
  for (int64_t i = 0; i < b; i++) indices.i32(i) = static_cast<int32_t>(i == 1 ? -1 : i == 2 ? slots : slots - 1 - i);

  SelectiveStateUpdate p;
  p.state = state.view;
  p.x = x.view;
  p.dt = dt.view;
  p.A = A.view;
  p.B = B.view;
  p.C = C.view;
  if (s.optional) {
    p.z = z.view;
    p.D = D.view;
    p.dt_bias = bias.view;
  }
  if (s.slots) p.state_indices = indices.view;
  p.dt_softplus = s.softplus;
  p.sequence = 5;
  p.validate();
  Array out(s.dtype, {b, h, P});
  p.out = out.view;

  std::vector<double> want(b * h * P), states = state.values();
  for (int64_t i = 0; i < b; i++) {
    const int64_t slot = s.slots ? indices.i32(i) : i;
    if (slot < 0 || slot >= slots) continue;
    for (int64_t c = 0; c < h * P; c++) {
      const int64_t head = c / P, at = i * h * P + c;
      double delta = s.tied ? dt.at(i * h + head) : dt.at(at);
      if (s.optional) delta += s.tied ? bias.at(head) : bias.at(c);
      if (s.softplus) delta = softplus(delta);
      double y = s.optional ? (s.tied ? D.at(head) : D.at(c)) * x.at(at) : 0;
      for (int64_t j = 0; j < n; j++) {
        const double a = s.tied ? A.at(head) : A.at(c * n + j);
        double& value = states[(slot * h * P + c) * n + j];
        const int64_t from = (i * s.groups + head * s.groups / h) * n + j;
        value = std::exp(delta * a) * value + delta * x.at(at) * B.at(from);
        y += C.at(from) * value;
      }
      want[at] = s.optional ? y * silu(z.at(at)) : y;
    }
  }
  run_everywhere(name, p, {&out},
                 [&](const std::string& where, const Outcome& outcome) {
                   expect_close(where + " out", out, want);
                   expect_close(where + " state", state, states);
                   EXPECT(outcome.index_error == (s.slots && b > 2 ? index_error(p) : 0), where + ": index error");
                 },
                 {&state});
}

TEST(state_update) {
  check_update("mamba", {});
  check_update("wide", {.b = 1, .h = 300});
  for (const int64_t n : {1, 5, 17, 64, 300}) check_update("n " + std::to_string(n), {.n = n});
  check_update("bare", {.softplus = true, .optional = false});
  check_update("groups", {.h = 24, .groups = 3});
  check_update("slots", {.b = 4, .slots = 7});
  check_update("strided", {.h = 40, .state = {{2, 1, 0}, 0}});
  check_update("heads", {.h = 4, .p = 70, .n = 32, .groups = 2, .heads = true});
  check_update("tied heads", {.b = 3, .h = 4, .p = 8, .n = 20, .slots = 5, .heads = true, .tied = true});
  check_update("none", {.b = 0});
  check_update("no states", {.n = 0});
  check_update("growing", {.highest = 0.5});
  check_update("tied and growing", {.h = 9, .p = 8, .n = 20, .heads = true, .tied = true, .highest = 2});
}

TEST(state_update_dtypes) {
  for (const DType dtype : kFloats)
    for (const DType state : kFloats)
      for (const DType weights : {DType::float32, dtype, DType::bfloat16}) {
        const std::string name =
            std::string(name_of(dtype)) + ", state " + name_of(state) + ", weights " + name_of(weights);
        check_update(name, {.h = 70, .dtype = dtype, .weights = weights, .state_dtype = state});
        check_update(name + ", heads", {.h = 4,
                                        .p = 11,
                                        .n = 37,
                                        .groups = 2,
                                        .heads = true,
                                        .dtype = dtype,
                                        .weights = weights,
                                        .state_dtype = state});
        check_update(name + ", tied", {.b = 3,
                                       .h = 4,
                                       .p = 8,
                                       .n = 20,
                                       .slots = 5,
                                       .heads = true,
                                       .tied = true,
                                       .dtype = dtype,
                                       .weights = weights,
                                       .state_dtype = state});
        check_update(name + ", strided",
                     {.h = 40, .state = {{2, 1, 0}, 0}, .dtype = dtype, .weights = weights, .state_dtype = state});
      }
}

}  // namespace
}  // namespace seqmix::test
