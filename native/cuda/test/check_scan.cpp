// selective_scan.
#include <cmath>

#include "core/problem/selective_scan.h"
#include "cuda/test/harness.h"

namespace seqmix::test {

namespace {

constexpr double kBound = 2e-6;

enum class Matrix { constant, shared, grouped };

Array matrix(Matrix kind, int64_t b, int64_t d, int64_t n, int64_t L, int64_t groups, Layout layout) {
  if (kind == Matrix::constant) return uniform({d, n}, -1, 1, layout);
  if (kind == Matrix::shared) return uniform({b, n, L}, -1, 1, layout);
  return uniform({b, groups, n, L}, -1, 1, layout);
}

double element(const Array& m, Matrix kind, int64_t groups, int64_t b, int64_t c, int64_t d, int64_t n, int64_t t) {
  if (kind == Matrix::constant) return m.at({c, n});
  if (kind == Matrix::shared) return m.at({b, n, t});
  return m.at({b, c * groups / d, n, t});
}

struct Case {
  int64_t b, d, n, L;
  Layout layout = Layout::dense, other = Layout::dense;  // of u and out; of delta, z and the rest
  Matrix B = Matrix::shared, C = Matrix::shared;
  int64_t groups_B = 1, groups_C = 1;
  bool extras = true;  // D, z, bias, softplus, initial state, sequences
  double step = 1;     // size of delta
};

void check(const Case& k) {
  const int64_t b = k.b, d = k.d, n = k.n, L = k.L;
  Array u = uniform({b, d, L}, -1, 1, k.layout), z = uniform({b, d, L}, -3, 3, k.other);
  Array delta = k.extras ? uniform({b, d, L}, -2, 2, k.other) : uniform({b, d, L}, 0, k.step, k.other);
  Array A = uniform({d, n}, -4, -0.1, k.other), D = uniform({d}, -1, 1, k.other), bias = uniform({d}, -1, 1);
  Array B = matrix(k.B, b, d, n, L, k.groups_B, k.other), C = matrix(k.C, b, d, n, L, k.groups_C, k.layout);
  Array initial = uniform({b, d, n}, -1, 1, k.other), seq = integers(DType::int32, {b, L}, 0, 0, k.other);
  for (int64_t i = 0; i < b; i++)
    for (int64_t t = 1, id = 0; t < L; t++) seq.at({i, t}) = static_cast<double>(id += random()() % 9 == 0);
  seq.upload();
  SelectiveScan p;
  p.u = u.view();
  p.delta = delta.view();
  p.A = A.view();
  p.B = B.view();
  p.C = C.view();
  if (k.extras) {
    p.D = D.view();
    p.z = z.view();
    p.delta_bias = bias.view();
    p.initial_state = initial.view();
    p.seq_idx = seq.view();
    p.delta_softplus = true;
  }
  p.return_last_state = true;
  p.validate();
  Array out(p.out), last(p.last_state);
  p.out = out.view();
  p.last_state = last.view();
  device.run(p);

  std::vector<double> want, states;
  for (int64_t i = 0; i < b; i++)
    for (int64_t c = 0; c < d; c++) {
      std::vector<double> h(static_cast<size_t>(n), 0.0);
      for (int64_t s = 0; s < n && k.extras; s++) h[static_cast<size_t>(s)] = initial.at({i, c, s});
      for (int64_t t = 0; t < L; t++) {
        double dt = delta.at({i, c, t}) + (k.extras ? bias.at({c}) : 0), y = 0;
        if (k.extras) dt = softplus(dt);
        const bool reset = k.extras && t > 0 && seq.at({i, t}) != seq.at({i, t - 1});
        for (int64_t s = 0; s < n; s++) {
          double& state = h[static_cast<size_t>(s)];
          if (reset) state = 0;
          state =
              std::exp(dt * A.at({c, s})) * state + dt * element(B, k.B, k.groups_B, i, c, d, s, t) * u.at({i, c, t});
          y += state * element(C, k.C, k.groups_C, i, c, d, s, t);
        }
        if (k.extras) y = (y + D.at({c}) * u.at({i, c, t})) * silu(z.at({i, c, t}));
        want.push_back(y);
      }
      states.insert(states.end(), h.begin(), h.end());
    }
  const std::string what = "selective_scan (" + std::to_string(b) + ", " + std::to_string(d) + ", " +
                           std::to_string(L) + ") n " + std::to_string(n) + " layouts " +
                           std::to_string(static_cast<int>(k.layout)) + std::to_string(static_cast<int>(k.other));
  expect_close(what, out, want, kBound);
  expect_close(what + ", last state", last, states, kBound);
}

void check_scans() {
  const Layout layouts[] = {Layout::dense, Layout::swapped, Layout::odd};
  for (const Layout a : layouts)
    for (const Layout o : layouts)
      for (const int64_t n : {1, 4, 7, 16, 24, 64})
        for (const int64_t L : {1, 5, 37}) {
          check({2, 19, n, L, a, o});
          check({2, 19, n, L, a, o, Matrix::shared, Matrix::shared, 1, 1, false});
        }
  for (const bool extras : {false, true}) {
    for (const int64_t n : {0, 3, 5, 16, 17, 33, 65, 128, 129, 300})
      for (const Matrix B : {Matrix::constant, Matrix::shared, Matrix::grouped})
        for (const Matrix C : {Matrix::constant, Matrix::grouped})
          check({2, 24, n, 20, Layout::dense, Layout::swapped, B, C, 4, 6, extras});
    check({1, 8, 16, 0, Layout::dense, Layout::dense, Matrix::shared, Matrix::shared, 1, 1, extras});
    check({1, 16, 16, 9, Layout::dense, Layout::dense, Matrix::grouped, Matrix::grouped, 16, 1, extras});
    check({1, 200, 16, 700, Layout::swapped, Layout::swapped, Matrix::shared, Matrix::shared, 1, 1, extras});
    // Enough channels for each number of lanes, down to one.
    for (const int64_t d : {5000, 10000, 20000, 40000})
      check({1, d, 16, 19, Layout::swapped, Layout::dense, Matrix::shared, Matrix::shared, 1, 1, extras});
    check({1, 40000, 3, 19, Layout::dense, Layout::dense, Matrix::shared, Matrix::shared, 1, 1, extras});
    check({1, 40000, 8, 19, Layout::dense, Layout::dense, Matrix::constant, Matrix::shared, 1, 1, extras});
    check({2, 20000, 32, 19, Layout::dense, Layout::swapped, Matrix::shared, Matrix::constant, 1, 1, extras});
    check({3, 20000, 64, 9, Layout::dense, Layout::swapped, Matrix::shared, Matrix::shared, 1, 1, extras});
  }
  // Long, with slow decay: what a bias of the exponential would show in.
  check({1, 8, 16, 20000, Layout::dense, Layout::dense, Matrix::shared, Matrix::shared, 1, 1, false, 0.002});
}

void check_constant_step() {
  // One Δ throughout, so that its decay's rounding error is the same at each token and adds up.
  const int64_t d = 32, L = 30000;
  Array u = uniform({1, d, L}, 0.5, 1), delta(DType::float32, {1, d, L}), A = uniform({d, 1}, -1.5, -0.5);
  for (int64_t c = 0; c < d; c++)
    for (int64_t t = 0; t < L; t++) delta.at({0, c, t}) = static_cast<float>(3e-4 * static_cast<double>(c + 1));
  Array ones = uniform({d, 1}, 1, 1);
  SelectiveScan p;
  p.u = u.view();
  p.delta = delta.upload();
  p.A = A.view();
  p.B = ones.view();
  p.C = ones.view();
  p.validate();
  Array out(p.out);
  p.out = out.view();
  device.run(p);
  std::vector<double> want;
  for (int64_t c = 0; c < d; c++) {
    double h = 0;
    for (int64_t t = 0; t < L; t++) {
      const double dt = delta.at({0, c, t});
      h = std::exp(dt * A.at({c, 0})) * h + dt * u.at({0, c, t});
      want.push_back(h);
    }
  }
  expect_close("selective_scan, one step size", out, want, kBound);
}

}  // namespace

void check_scan() {
  check_scans();
  check_constant_step();
}

}  // namespace seqmix::test
