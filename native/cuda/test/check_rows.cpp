// softmax, argmax, topk, sample, rms_norm; embedding's good ids.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/problem/rows.h"
#include "core/sample_math.h"
#include "cuda/test/harness.h"

namespace seqmix::test {

namespace {

const Layout row_layouts[] = {Layout::dense, Layout::odd};

// A row's indices, best first.
std::vector<int64_t> ranked(const Array& x, int64_t row, int64_t n) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return sampling::order_key(static_cast<float>(x.at({row, a}))) >
           sampling::order_key(static_cast<float>(x.at({row, b})));
  });
  return order;
}

void check_softmax(int64_t rows, int64_t n, Layout layout, DType dtype) {
  Array x = uniform({rows, n}, -20, 20, layout, dtype);
  for (int64_t j = 0; j < n && rows > 1; j++) x.at({1, j}) = -INFINITY;
  x.upload();
  Softmax p;
  p.x = x.view();
  p.validate();
  Array out(p.out);
  p.out = out.view();
  device.run(p);
  std::vector<double> want;
  for (int64_t i = 0; i < rows; i++) {
    double most = -INFINITY, sum = 0;
    for (int64_t j = 0; j < n; j++) most = std::max(most, x.at({i, j}));
    for (int64_t j = 0; j < n; j++) sum += std::isinf(most) ? 0 : std::exp(x.at({i, j}) - most);
    for (int64_t j = 0; j < n; j++) want.push_back(sum == 0 ? 0 : std::exp(x.at({i, j}) - most) / sum);
  }
  expect_close("softmax " + std::to_string(n), out, want, 1e-6);
}

// Values with many equals, infinities and, in the second row, a NaN; every dtype holds them.
Array choices(int64_t rows, int64_t n, Layout layout, DType dtype) {
  Array x = uniform({rows, n}, -5, 5, layout, dtype);
  for (double& v : x.values()) v = std::round(v * 8) / 8;
  for (int64_t j = 0; j < n; j++) x.at({0, j}) = j % 3 ? 1.5 : 0.0;
  if (rows > 1) x.at({1, n / 2}) = NAN;
  if (rows > 2) x.at({2, n - 1}) = INFINITY;
  if (rows > 3)
    for (int64_t j = 0; j < n; j++) x.at({3, j}) = -INFINITY;
  x.upload();
  return x;
}

void check_argmax(int64_t rows, int64_t n, Layout layout, DType dtype) {
  Array x = choices(rows, n, layout, dtype);
  ArgMax p;
  p.x = x.view();
  p.validate();
  Array out(p.out);
  p.out = out.view();
  device.run(p);
  std::vector<double> want;
  for (int64_t i = 0; i < rows; i++) want.push_back(static_cast<double>(ranked(x, i, n)[0]));
  expect_equal("argmax " + std::to_string(n), out, want);
}

void check_topk(int64_t rows, int64_t n, int64_t k, Layout layout, DType dtype) {
  Array x = choices(rows, n, layout, dtype);
  TopK p;
  p.x = x.view();
  p.k = k;
  p.validate();
  Array values(p.values), indices(p.indices);
  p.values = values.view();
  p.indices = indices.view();
  device.run(p);
  std::vector<double> want_values, want_indices;
  for (int64_t i = 0; i < rows; i++) {
    const std::vector<int64_t> order = ranked(x, i, n);
    for (int64_t j = 0; j < k; j++) {
      want_indices.push_back(static_cast<double>(order[static_cast<size_t>(j)]));
      want_values.push_back(x.at({i, order[static_cast<size_t>(j)]}));
    }
  }
  const std::string what = "topk " + std::to_string(k) + " of " + std::to_string(n);
  expect_equal(what + ", indices", indices, want_indices);
  expect_equal(what + ", values", values, want_values);
}

double draw(const Array& x, int64_t row, int64_t n, const Sample& p) {
  const std::vector<int64_t> order = ranked(x, row, n);
  const float most = static_cast<float>(x.at({row, order[0]}));
  if (p.temperature == 0 || !std::isfinite(most)) return static_cast<double>(order[0]);
  size_t kept = static_cast<size_t>(p.top_k > 0 ? std::min(p.top_k, n) : n);
  const auto weight = [&](int64_t i) {
    return sampling::weight_of(static_cast<float>(x.at({row, i})), most, p.temperature);
  };
  if (p.top_p < 1) {
    uint64_t all = 0, sum = 0;
    for (size_t i = 0; i < kept; i++) all += weight(order[i]);
    const uint64_t wanted = sampling::nucleus(p.top_p, all);
    size_t count = 0;
    do sum += weight(order[count++]);
    while (sum < wanted);
    kept = count;
  }
  std::vector<int64_t> indices(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept));
  std::sort(indices.begin(), indices.end());
  uint64_t all = 0, sum = 0;
  for (const int64_t i : indices) all += weight(i);
  const uint64_t r = sampling::high_product(sampling::hash(p.seed, p.step, static_cast<uint64_t>(row)), all);
  for (const int64_t i : indices)
    if ((sum += weight(i)) > r) return static_cast<double>(i);
  return -1;
}

void check_sample(int64_t rows, int64_t n, Layout layout, DType dtype, const std::vector<double>& temperatures) {
  Array x = choices(rows, n, layout, dtype);
  for (const double temperature : temperatures)
    for (const int64_t top_k : {int64_t{0}, int64_t{1}, n / 2, n + 3})
      for (const double top_p : {0.0, 0.2, 0.9, 1.0}) {
        Sample p;
        p.logits = x.view();
        p.temperature = temperature;
        p.top_k = top_k;
        p.top_p = top_p;
        p.seed = 0x123456789abcdefull;
        p.step = static_cast<uint64_t>(n + top_k);
        p.validate();
        Array out(p.out);
        p.out = out.view();
        device.run(p);
        std::vector<double> want;
        for (int64_t i = 0; i < rows; i++) want.push_back(draw(x, i, n, p));
        expect_equal("sample of " + std::to_string(n) + ", T " + std::to_string(temperature) + ", topK " +
                         std::to_string(top_k) + ", topP " + std::to_string(top_p),
                     out, want);
      }
}

struct Norm {
  bool weighted, residual;
  DType dtype = DType::float32, weight = DType::float32, residual_dtype = DType::float32;
  bool sum_in_float32 = false;
  int64_t groups = 1;
  enum Gate { ungated, before, after } gate = ungated;
};

void check_rms_norm(int64_t rows, int64_t n, Layout layout, const Norm& k) {
  Array x = uniform({rows, n}, -2, 2, layout, k.dtype), w = uniform({n}, -1, 1, layout, k.weight);
  Array r = uniform({rows, n}, -2, 2, Layout::dense, k.residual_dtype), z = uniform({rows, n}, -6, 6, layout, k.dtype);
  RmsNorm p;
  p.x = x.view();
  if (k.weighted) p.weight = w.view();
  if (k.residual) p.residual = r.view();
  if (k.gate != Norm::ungated) p.z = z.view();
  p.norm_before_gate = k.gate == Norm::after;
  p.sum_in_float32 = k.sum_in_float32;
  p.group = n / k.groups;
  p.validate();
  Array out(p.out);
  p.out = out.view();
  Array sum;
  if (k.residual) {
    sum = Array(p.sum);
    p.sum = sum.view();
  }
  device.run(p);
  std::vector<double> want, sums;
  for (int64_t i = 0; i < rows; i++)
    for (int64_t from = 0; from < n; from += p.group) {
      const size_t first = want.size();
      double squares = 0;
      const auto gate = [&](int64_t j) { return z.at({i, j}) / (1 + std::exp(-z.at({i, j}))); };
      for (int64_t j = from; j < from + p.group; j++) {
        sums.push_back(x.at({i, j}) + (k.residual ? r.at({i, j}) : 0));
        want.push_back(sums.back() * (k.gate == Norm::before ? gate(j) : 1));
        squares += want.back() * want.back();
      }
      for (int64_t j = from; j < from + p.group; j++)
        want[first + static_cast<size_t>(j - from)] *= (k.weighted ? w.at({j}) : 1) *
                                                       (k.gate == Norm::after ? gate(j) : 1) /
                                                       std::sqrt(squares / static_cast<double>(p.group) + p.eps);
    }
  const std::string what =
      "rms_norm " + std::to_string(n) + ", groups " + std::to_string(k.groups) + ", gate " + std::to_string(k.gate);
  expect_close(what, out, want, 1e-6);
  if (k.residual) expect_close(what + ", sum", sum, sums, 1e-7);
}

void check_rms_norm(int64_t n, Layout layout) {
  for (const DType dtype : kFloats)
    for (const DType weight : kFloats) {
      check_rms_norm(3, n, layout, {true, false, dtype, weight});
      check_rms_norm(3, n, layout, {true, true, dtype, weight, dtype, false});
      check_rms_norm(3, n, layout, {true, true, dtype, weight, dtype, true});
      check_rms_norm(3, n, layout, {false, true, dtype, weight, DType::float32, false});
    }
}

void check_gated_norm(int64_t n, Layout layout) {
  for (const DType dtype : kFloats)
    for (const Norm::Gate gate : {Norm::ungated, Norm::before, Norm::after})
      for (const int64_t groups : {1, 4}) {
        check_rms_norm(5, n, layout, {true, false, dtype, dtype, dtype, false, groups, gate});
        check_rms_norm(5, n, layout, {false, true, dtype, dtype, dtype, true, groups, gate});
      }
}

void check_embedding(int64_t n, Layout layout, DType type, DType from, DType to) {
  Array table = uniform({11, n}, -1, 1, layout, from), ids = integers(type, {9}, 0, 10);
  Embedding p;
  p.ids = ids.view();
  p.table = table.view();
  p.dtype = to;
  p.validate();
  Array out(p.out);
  p.out = out.view();
  device.run(p);
  std::vector<double> want;
  for (int64_t i = 0; i < 9; i++)
    for (int64_t j = 0; j < n; j++) want.push_back(rounded(to, table.at({static_cast<int64_t>(ids.at({i})), j})));
  expect_equal(std::string("embedding, ") + name_of(from) + " to " + name_of(to), out, want);
}

}  // namespace

void check_rows() {
  for (const Layout layout : row_layouts) {
    for (const int64_t n : {1, 31, 128, 1000, 5003, 40000}) {
      check_rms_norm(n, layout);
      for (const DType dtype : kFloats) {
        check_softmax(5, n, layout, dtype);
        check_argmax(5, n, layout, dtype);
        check_sample(5, n, layout, dtype, n < 10000 ? std::vector{0.0, 0.3, 1.0, 50.0} : std::vector{0.7});
        for (const int64_t k : {int64_t{0}, int64_t{1}, std::min<int64_t>(n, 50), n})
          check_topk(5, n, k, layout, dtype);
      }
    }
    for (const int64_t n : {4, 124, 256, 1536, 5012, 40000}) check_gated_norm(n, layout);
    for (const DType dtype : kFloats) {
      check_topk(2, 40000, 3000, layout, dtype);
      check_rms_norm(500, 768, layout, {true, true, dtype, dtype, dtype, false});
      for (const DType to : kFloats)
        for (const DType type : {DType::int32, DType::int64})
          for (const int64_t n : {7, 20, 64}) check_embedding(n, layout, type, dtype, to);
    }
  }
}

}  // namespace seqmix::test
