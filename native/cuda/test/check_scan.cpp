// selective_scan: every dtype, layout and kernel; NaN where it belongs and nowhere else.
#include <cmath>

#include "core/problem/selective_scan.h"
#include "cuda/test/harness.h"

namespace seqmix::test {

namespace {

// What the arithmetic loses. In 16 bits a decay is one float and its average error is felt as often as the state
// outlives a token, 1/(Δ|A|) times: up to 3e-8 and below 370, or 1e-9 and below 10000 (math.cuh).
double bound_of(DType dtype) { return dtype == DType::float32 ? 2e-6 : 1e-5; }

enum class Matrix { constant, shared, grouped };

double element(const Array& m, Matrix kind, int64_t groups, int64_t b, int64_t c, int64_t d, int64_t n, int64_t t) {
  if (kind == Matrix::constant) return m.at({c, n});
  if (kind == Matrix::shared) return m.at({b, n, t});
  return m.at({b, c * groups / d, n, t});
}

struct Case {
  int64_t b, d, n, L;
  Layout layout = Layout::dense, other = Layout::dense;  // of u and out; of delta, z and the rest
  DType dtype = DType::float32;
  DType weights = DType::float32;  // of A, D, bias, the initial state, constant B and C
  bool extras = true;              // D, z, bias, softplus, initial state, sequences
  Matrix B = Matrix::shared, C = Matrix::shared;
  int64_t groups_B = 1, groups_C = 1;
  double step = 1;    // size of delta
  bool nans = false;  // a few
};

Array matrix(const Case& k, Matrix kind, int64_t groups, Layout layout) {
  if (kind == Matrix::constant) return uniform({k.d, k.n}, -1, 1, layout, k.weights);
  if (kind == Matrix::shared) return uniform({k.b, k.n, k.L}, -1, 1, layout, k.dtype);
  return uniform({k.b, groups, k.n, k.L}, -1, 1, layout, k.dtype);
}

void check(const Case& k) {
  const int64_t b = k.b, d = k.d, n = k.n, L = k.L;
  Array u = uniform({b, d, L}, -1, 1, k.layout, k.dtype), z = uniform({b, d, L}, -3, 3, k.other, k.dtype);
  Array delta =
      k.extras ? uniform({b, d, L}, -2, 2, k.other, k.dtype) : uniform({b, d, L}, 0, k.step, k.other, k.dtype);
  Array A = uniform({d, n}, -4, -0.1, k.other, k.weights), D = uniform({d}, -1, 1, k.other, k.weights);
  Array bias = uniform({d}, -1, 1, Layout::dense, k.weights);
  Array B = matrix(k, k.B, k.groups_B, k.other), C = matrix(k, k.C, k.groups_C, k.layout);
  Array initial = uniform({b, d, n}, -1, 1, k.other, k.weights), seq = integers(DType::int32, {b, L}, 0, 0, k.other);
  for (int64_t i = 0; i < b; i++)
    for (int64_t t = 1, id = 0; t < L; t++) seq.at({i, t}) = static_cast<double>(id += random()() % 9 == 0);
  seq.upload();
  if (k.nans) {
    u.at({0, d / 2, L / 3}) = NAN;
    u.upload();
    delta.at({b - 1, d - 1, L / 2}) = NAN;
    delta.upload();
    z.at({0, 1, L - 1}) = NAN;
    z.upload();
    initial.at({0, 0, n - 1}) = NAN;
    initial.upload();
  }
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
  device.read(nullptr, nullptr, 0);  // until the op has run: only then has it named its kernel
  const std::string kernel = device.backend->last_kernel(device.queue);
  const std::string what = "selective_scan (" + std::to_string(b) + ", " + std::to_string(d) + ", " +
                           std::to_string(L) + ") n " + std::to_string(n) + " layouts " +
                           std::to_string(static_cast<int>(k.layout)) + std::to_string(static_cast<int>(k.other)) +
                           ", weights " + name_of(k.weights) + ", " + kernel;
  expect_close(what, out, want, bound_of(k.dtype));
  expect_close(what + ", last state", last, states, bound_of(k.dtype));
  const bool varies = k.B != Matrix::constant && k.C != Matrix::constant;
  expect(what + ", the kernel",
         kernel == (varies && n <= 16 ? "cuda.any.selective_scan.pipeline" : "cuda.any.selective_scan.plain"));
}

constexpr Layout kLayouts[] = {Layout::dense, Layout::swapped, Layout::odd};

void check_layouts(DType dtype, DType weights) {
  for (const Layout a : kLayouts)
    for (const Layout o : kLayouts)
      for (const int64_t n : {1, 4, 7, 16, 24, 64})
        for (const int64_t L : {1, 5, 37, 300})
          for (const bool extras : {false, true}) check({2, 19, n, L, a, o, dtype, weights, extras});
}

void check_matrices(DType dtype, DType weights, bool extras) {
  for (const int64_t n : {0, 3, 5, 16, 17, 33, 65, 128, 129, 300})
    for (const Matrix B : {Matrix::constant, Matrix::shared, Matrix::grouped})
      for (const Matrix C : {Matrix::constant, Matrix::grouped})
        check({2, 24, n, 20, Layout::dense, Layout::swapped, dtype, weights, extras, B, C, 4, 6});
  for (const Layout layout : kLayouts) {
    check({1, 16, 16, 9, layout, layout, dtype, weights, extras, Matrix::grouped, Matrix::grouped, 16, 1});
    check({2, 60, 16, 80, layout, layout, dtype, weights, extras, Matrix::grouped, Matrix::shared, 2, 1});
    check({3, 130, 300, 6, layout, layout, dtype, weights, extras});
  }
  check({1, 8, 16, 0, Layout::dense, Layout::dense, dtype, weights, extras});
}

// Enough channels for each cut of the kernels, whole blocks and not, and more than two rounds of every ring of stages.
void check_many_channels(DType dtype, DType weights, Layout layout) {
  for (const int64_t d : {1536, 5000, 8448, 12300, 40960}) check({1, d, 16, 101, layout, layout, dtype, weights});
  check({5, 2500, 11, 70, layout, layout, dtype, weights, false});
  check({6, 7000, 3, 75, layout, Layout::odd, dtype, weights});
  check({1, 40000, 8, 19, layout, layout, dtype, weights, true, Matrix::constant, Matrix::shared});
  check({2, 20000, 32, 19, layout, layout, dtype, weights, false, Matrix::shared, Matrix::constant});
}

void check_nans(DType dtype) {
  for (const Layout layout : kLayouts)
    for (const bool extras : {false, true})
      for (const Matrix B : {Matrix::constant, Matrix::shared}) {
        check({2, 40, 16, 150, layout, layout, dtype, dtype, extras, B, Matrix::shared, 1, 1, 1, true});
        check({2, 40, 5, 61, layout, layout, dtype, dtype, extras, B, Matrix::shared, 1, 1, 1, true});
        check({2, 4300, 16, 75, layout, layout, dtype, dtype, extras, B, Matrix::shared, 1, 1, 1, true});
      }
}

// One Δ throughout, so that its decay's rounding error is the same at each token and adds up.
void check_constant_step(DType dtype, bool constant) {
  const int64_t d = 32, L = 30000;
  Array u = uniform({1, d, L}, 0.5, 1, Layout::dense, dtype), delta(dtype, {1, d, L}), A = uniform({d, 1}, -1.5, -0.5);
  for (int64_t c = 0; c < d; c++)
    for (int64_t t = 0; t < L; t++) delta.at({0, c, t}) = rounded(dtype, 3e-4 * static_cast<double>(c + 1));
  Array ones = constant ? uniform({d, 1}, 1, 1) : uniform({1, 1, L}, 1, 1, Layout::dense, dtype);
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
  // 2^-23, what one float can be off, over the decays of the first channels.
  const double bound = dtype == DType::float32 ? 2e-6 : 1.5e-4;
  device.read(nullptr, nullptr, 0);  // until the op has run: only then has it named its kernel
  expect_close(std::string("selective_scan, one step size, ") + device.backend->last_kernel(device.queue), out, want,
               bound);
}

}  // namespace

void check_scan() {
  for (const DType dtype : kFloats) {
    const DType weights = dtype == DType::float32 ? DType::bfloat16 : DType::float32;
    check_layouts(dtype, dtype);
    check_layouts(dtype, weights);
    for (const bool extras : {false, true}) check_matrices(dtype, weights, extras);
    for (const Layout layout : kLayouts) check_many_channels(dtype, DType::float16, layout);
    check_nans(dtype);
    for (const bool constant : {false, true}) check_constant_step(dtype, constant);
    // Long, with slow decay: what a bias of the exponential would show in.
    check({1, 8, 16, 20000, Layout::dense, Layout::dense, dtype, weights, false, Matrix::shared, Matrix::shared, 1, 1,
           0.002});
    check({1, 200, 16, 700, Layout::swapped, Layout::swapped, dtype, weights});
  }
}

}  // namespace seqmix::test
