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
};

void check_scan(const std::string& name, const ScanCase& s) {
  const int64_t b = s.b, d = s.d, L = s.L, n = s.n;
  const Array u = floats({b, d, L}, -1, 1, s.u), delta = floats({b, d, L}, s.delta_low, s.delta_high, s.delta);
  const Array A = floats({d, n}, -16 * s.rate, -0.01);
  const auto matrix = [&](int64_t groups) {
    if (groups == 0) return floats({d, n});
    if (s.ungrouped) return floats({b, n, L}, -1, 1, s.states);
    Layout l;
    if (!s.states.order.empty()) l.order = {0, 3, 1, 2};
    return floats({b, groups, n, L}, -1, 1, l);
  };
  const Array B = matrix(s.groups_b), C = matrix(s.groups_c), D = floats({d}), z = floats({b, d, L}, -4, 4, s.z);
  const Array bias = floats({d}, -1, 0), initial = floats({b, d, n});
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
  Array out(DType::float32, {b, d, L}, {s.u.order, 0}), last(DType::float32, {b, d, n});
  p.out = out.view;
  p.last_state = last.view;

  std::vector<double> want(b * d * L), want_last(b * d * n);
  for (int64_t i = 0; i < b; i++)
    for (int64_t c = 0; c < d; c++) {
      std::vector<double> h(n, 0.0);
      if (s.initial)
        for (int64_t j = 0; j < n; j++) h[j] = initial.f((i * d + c) * n + j);
      for (int64_t t = 0; t < L; t++) {
        const int64_t at = (i * d + c) * L + t;
        if (s.packed && t > 0 && seq.i32(i * L + t) != seq.i32(i * L + t - 1)) h.assign(n, 0.0);
        double dt = delta.f(at) + (s.bias ? static_cast<double>(bias.f(c)) : 0.0);
        if (s.softplus) dt = softplus(dt);
        double y = s.skip ? static_cast<double>(D.f(c)) * u.f(at) : 0.0;
        for (int64_t j = 0; j < n; j++) {
          const auto element = [&](const Array& m, int64_t groups) {
            if (groups == 0) return static_cast<double>(m.f(c * n + j));
            return static_cast<double>(m.f(((i * groups + c * groups / d) * n + j) * L + t));
          };
          h[j] = std::exp(dt * A.f(c * n + j)) * h[j] + dt * element(B, s.groups_b) * u.f(at);
          y += element(C, s.groups_c) * h[j];
        }
        want[at] = s.gate ? y * silu(z.f(at)) : y;
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
};

void check_update(const std::string& name, const UpdateCase& s) {
  const int64_t b = s.b, h = s.h, P = s.p, n = s.n, slots = s.slots ? s.slots : b;
  Array state =
      floats(s.heads ? std::vector<int64_t>{slots, h, P, n} : std::vector<int64_t>{slots, h, n}, -1, 1, s.state);
  const auto per_channel = [&](double low, double high) {
    return floats(s.heads ? std::vector<int64_t>{b, h, P} : std::vector<int64_t>{b, h}, low, high);
  };
  const Array x = per_channel(-1, 1), z = per_channel(-3, 3);
  const Array dt = s.tied ? floats({b, h}, -3, 1) : per_channel(-3, 1);
  const Array A = s.tied ? floats({h}, -8, -0.1)
                         : floats(s.heads ? std::vector<int64_t>{h, P, n} : std::vector<int64_t>{h, n}, -8, -0.1);
  const Array D = s.tied ? floats({h}) : floats(s.heads ? std::vector<int64_t>{h, P} : std::vector<int64_t>{h});
  const Array bias = s.tied ? floats({h}) : floats(s.heads ? std::vector<int64_t>{h, P} : std::vector<int64_t>{h});
  const Array B = s.groups == 1 && !s.heads ? floats({b, n}) : floats({b, s.groups, n});
  const Array C = floats({b, s.groups, n});
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
  Array out(DType::float32, {b, h, P});
  p.out = out.view;

  std::vector<double> want(b * h * P), states = state.values();
  for (int64_t i = 0; i < b; i++) {
    const int64_t slot = s.slots ? indices.i32(i) : i;
    if (slot < 0 || slot >= slots) continue;
    for (int64_t c = 0; c < h * P; c++) {
      const int64_t head = c / P, at = i * h * P + c;
      double delta = s.tied ? dt.f(i * h + head) : dt.f(at);
      if (s.optional) delta += s.tied ? bias.f(head) : bias.f(c);
      if (s.softplus) delta = softplus(delta);
      double y = s.optional ? static_cast<double>(s.tied ? D.f(head) : D.f(c)) * x.f(at) : 0;
      for (int64_t j = 0; j < n; j++) {
        const double a = s.tied ? A.f(head) : A.f(c * n + j);
        double& value = states[(slot * h * P + c) * n + j];
        const int64_t from = (i * s.groups + head * s.groups / h) * n + j;
        value = std::exp(delta * a) * value + delta * x.f(at) * B.f(from);
        y += C.f(from) * value;
      }
      want[at] = s.optional ? y * silu(z.f(at)) : y;
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
}

}  // namespace
}  // namespace seqmix::test
