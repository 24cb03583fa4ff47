// The ops on rows against float64 loops.
#include <algorithm>
#include <numeric>

#include "core/problem/rows.h"
#include "core/sample_math.h"
#include "test/cpu.h"

namespace seqmix::test {
namespace {

constexpr double kInfinity = INFINITY;

struct Norm {
  DType x, residual, weight;
  bool sum_in_float32;
  int64_t groups = 1;
  enum { ungated, before, after } gate = ungated;
};

void check_rms_norm(int64_t n, bool residual, bool weighted, const Norm& norm) {
  const int64_t rows = 5, group = n / norm.groups;
  const Array x = numbers(norm.x, {rows, n}, -3, 3, {{}, 2}), r = numbers(norm.residual, {rows, n});
  const Array z = numbers(norm.x, {rows, n}, -6, 6, {{}, 3}), weight = numbers(norm.weight, {n});
  RmsNorm p;
  p.x = x.view;
  if (residual) p.residual = r.view;
  if (weighted) p.weight = weight.view;
  if (norm.gate != Norm::ungated) p.z = z.view;
  p.norm_before_gate = norm.gate == Norm::after;
  p.sum_in_float32 = norm.sum_in_float32;
  if (norm.groups > 1) p.group = group;
  p.validate();
  Array out(norm.x, {rows, n}), sum(residual ? p.sum.dtype : DType::float32, {rows, n});
  p.out = out.view;
  if (residual) p.sum = sum.view;
  std::vector<double> want(rows * n), want_sum(rows * n);
  const auto gate = [&](int64_t i) { return z.at(i) / (1 + std::exp(-z.at(i))); };
  for (int64_t from = 0; from < rows * n; from += group) {
    double squares = 0;
    for (int64_t i = from; i < from + group; i++) {
      // in one float32 rounding; that of the second output comes after what is normed
      const double v = rounded(DType::float32, x.at(i) + (residual ? r.at(i) : 0));
      want[i] = norm.gate == Norm::before ? v * gate(i) : v;
      want_sum[i] = rounded(sum.view.dtype, v);
      squares += want[i] * want[i];
    }
    for (int64_t i = from; i < from + group; i++)
      want[i] *= (weighted ? weight.at(i % n) : 1) / std::sqrt(squares / group + static_cast<double>(p.eps)) *
                 (norm.gate == Norm::after ? gate(i) : 1);
  }
  const std::string name = std::to_string(n) + " of " + name_of(norm.x) + " and " + name_of(norm.residual) + ", gate " +
                           std::to_string(norm.gate) + ", groups " + std::to_string(norm.groups);
  run_everywhere("rms_norm " + name, p, {&out, &sum}, [&](const std::string& where, const Outcome&) {
    if (norm.x == DType::float32)
      expect_close(where, out, want, norm.gate == Norm::ungated ? 2e-7 : 4e-7);
    else
      expect_close(where, out, want);
    if (residual) expect_close(where + " sum", sum, want_sum, 0);
  });
}

TEST(rms_norm) {
  for (const int64_t n : {1, 7, 16, 100, 768, 9001})
    for (const bool residual : {false, true})
      for (const bool weighted : {false, true})
        check_rms_norm(n, residual, weighted, {DType::float32, DType::float32, DType::float32, false});
  for (const DType x : kFloats)
    for (const DType weight : kFloats)
      for (const int64_t n : {7, 40, 300}) {
        check_rms_norm(n, false, true, {x, x, weight, false});
        for (const DType residual : {x, DType::float32})
          for (const bool wide : {false, true}) check_rms_norm(n, true, true, {x, residual, weight, wide});
      }
}

TEST(gated_rms_norm) {
  for (const auto gate : {Norm::ungated, Norm::before, Norm::after})
    for (const DType x : kFloats)
      for (const int64_t groups : {1, 3})
        for (const int64_t n : {3, 21, 48, 300, 6003})
          for (const bool residual : {false, true})
            check_rms_norm(n, residual, n != 48, {x, DType::float32, x, false, groups, gate});
}

TEST(softmax) {
  for (const DType dtype : kFloats)
    for (const int64_t n : {1, 5, 16, 33, 1000, 70000}) {
      Array x = numbers(dtype, {3, n}, -20, 20, {{}, 3});
      for (int64_t i = 0; i < n; i += 3) x.set(i, -INFINITY);
      for (int64_t i = 0; i < n; i++) x.set(n + i, -INFINITY);
      Softmax p;
      p.x = x.view;
      p.validate();
      Array out(dtype, {3, n});
      p.out = out.view;
      std::vector<double> want(3 * n);
      for (int64_t r = 0; r < 3; r++) {
        double highest = -kInfinity, sum = 0;
        for (int64_t i = 0; i < n; i++) highest = std::max(highest, x.at(r * n + i));
        if (highest == -kInfinity) continue;
        for (int64_t i = 0; i < n; i++) sum += std::exp(x.at(r * n + i) - highest);
        for (int64_t i = 0; i < n; i++) want[r * n + i] = std::exp(x.at(r * n + i) - highest) / sum;
      }
      run_everywhere(std::string("softmax of ") + name_of(dtype), p, {&out},
                     [&](const std::string& where, const Outcome&) {
                       if (dtype == DType::float32)
                         expect_close(where, out, want, 2e-7);
                       else
                         expect_close(where, out, want);
                     });
    }
  for (const DType dtype : kFloats) {
    Array x = numbers(dtype, {2, 40});
    x.set(7, NAN);
    for (int64_t i = 40; i < 80; i++) x.set(i, i == 45 ? NAN : -INFINITY);
    Softmax p;
    p.x = x.view;
    p.validate();
    Array out(dtype, {2, 40});
    p.out = out.view;
    run_everywhere("softmax of NaN", p, {&out}, [&](const std::string& where, const Outcome&) {
      for (int64_t i = 0; i < 80; i++) EXPECT(std::isnan(out.at(i)), where);
    });
  }
}

// Values with many ties, infinities, zeros of both signs and NaN.
float awkward() {
  switch (pick(0, 11)) {
    case 0:
      return 0.0f;
    case 1:
      return -0.0f;
    case 2:
      return INFINITY;
    case 3:
      return -INFINITY;
    case 4:
      return pick(0, 9) ? 3.0f : NAN;
    default:
      return static_cast<float>(pick(-4, 4));
  }
}

std::vector<int64_t> descending(const Array& x, int64_t row, int64_t n) {
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return sampling::order_key(static_cast<float>(x.at(row * n + a))) >
           sampling::order_key(static_cast<float>(x.at(row * n + b)));
  });
  return order;
}

TEST(choices) {
  for (const DType dtype : kFloats)
    for (const int64_t n : {1, 2, 15, 16, 17, 100, 5000})
      for (const bool rough : {true, false}) {
        const int64_t rows = 7, bytes = size_of(dtype);
        Array x(dtype, {rows, n}, {{}, 1});
        x.fill([&] { return rough ? awkward() : uniform(-5, 5); });
        const auto element = [&](const Array& a, int64_t i) { return a.view.as<char>() + a.offset(i) * bytes; };
        for (const int64_t k : {int64_t{0}, int64_t{1}, std::min<int64_t>(n, 40), n}) {
          TopK p;
          p.x = x.view;
          p.k = k;
          p.validate();
          Array values(dtype, {rows, k}), indices(DType::int32, {rows, k});
          p.values = values.view;
          p.indices = indices.view;
          const auto check = [&](const std::string& where, const Outcome&) {
            for (int64_t r = 0; r < rows; r++) {
              const std::vector<int64_t> order = descending(x, r, n);
              for (int64_t i = 0; i < k; i++) {
                EXPECT(indices.i32(r * k + i) == order[i], where + ": index");
                EXPECT(std::memcmp(element(values, r * k + i), element(x, r * n + order[i]), bytes) == 0,
                       where + ": value");
              }
            }
          };
          run_everywhere("topk " + std::to_string(n) + " of " + name_of(dtype), p, {&values, &indices}, check);
        }
        ArgMax p;
        p.x = x.view;
        p.validate();
        Array out(DType::int32, {rows});
        p.out = out.view;
        run_everywhere("argmax " + std::to_string(n) + " of " + name_of(dtype), p, {&out},
                       [&](const std::string& where, const Outcome&) {
                         for (int64_t r = 0; r < rows; r++) EXPECT(out.i32(r) == descending(x, r, n)[0], where);
                       });
      }
}

// core/sample_math.h, by sorting.
int64_t draw(const Sample& p, const Array& x, int64_t row, int64_t n) {
  std::vector<int64_t> order = descending(x, row, n);
  const auto logit = [&](int64_t i) { return static_cast<float>(x.at(row * n + i)); };
  const float highest = logit(order[0]);
  if (p.temperature == 0 || std::isnan(highest) || std::isinf(highest)) return order[0];
  const auto weight = [&](int64_t i) { return sampling::weight_of(logit(i), highest, p.temperature); };
  if (p.top_k > 0 && p.top_k < n) order.resize(p.top_k);
  uint64_t total = 0;
  for (const int64_t i : order) total += weight(i);
  const uint64_t wanted = sampling::nucleus(p.top_p, total);
  size_t kept = 0;
  uint64_t sum = 0;
  while (kept < order.size() && (kept == 0 || sum < wanted)) sum += weight(order[kept++]);
  order.resize(kept);
  std::sort(order.begin(), order.end());
  const uint64_t r = sampling::high_product(sampling::hash(p.seed, p.step, row), sum);
  uint64_t running = 0;
  for (const int64_t i : order)
    if ((running += weight(i)) > r) return i;
  return -1;
}

TEST(sample) {
  for (const int64_t n : {1, 2, 37, 1000})
    for (const double temperature : {0.0, 0.3, 1.0, 5.0})
      for (const int64_t top_k : {0, 1, 5, 900})
        for (const double top_p : {0.0, 0.1, 0.7, 0.999, 1.0})
          for (const bool ties : {false, true}) {
            const int64_t rows = 9;
            Array x(kFloats[top_k == 1 ? 0 : pick(0, 2)], {rows, n});
            x.fill([&] { return ties ? pick(-2, 2) * 0.5 : uniform(-6, 6); });
            if (n > 30) {
              x.set(3 * n + 20, NAN);
              x.set(4 * n + 20, INFINITY);
              for (int64_t i = 0; i < n; i++) x.set(5 * n + i, -INFINITY);
              for (int64_t i = 0; i < n; i += 2) x.set(6 * n + i, -INFINITY);
            }
            Sample p;
            p.logits = x.view;
            p.temperature = temperature;
            p.top_k = top_k;
            p.top_p = top_p;
            p.seed = static_cast<uint64_t>(pick(0, 1 << 30)) << 32;
            p.step = static_cast<uint64_t>(pick(0, 100));
            p.validate();
            Array out(DType::int32, {rows});
            p.out = out.view;
            run_everywhere("sample " + std::to_string(n), p, {&out}, [&](const std::string& where, const Outcome&) {
              for (int64_t r = 0; r < rows; r++) {
                const int64_t want = draw(p, x, r, n);
                EXPECT(out.i32(r) == want, where + " row " + std::to_string(r) + ": " + std::to_string(out.i32(r)) +
                                               " for " + std::to_string(want));
              }
            });
          }
}

void check_embedding(DType type, DType table_type, DType out_type, bool bad) {
  const Array table = numbers(table_type, {10, 37}, -1, 1, {{}, 4});
  const std::vector<int64_t> wanted = {
      3, 9, 0, bad ? 10 : 1, 3, bad ? -1 : 2, bad ? int64_t{1} << (type == DType::int64 ? 33 : 30) : 4};
  Array ids(type, {7});
  for (size_t i = 0; i < wanted.size(); i++)
    if (type == DType::int32)
      ids.i32(static_cast<int64_t>(i)) = static_cast<int32_t>(wanted[i]);
    else
      static_cast<int64_t*>(ids.view.data)[i] = wanted[i];
  Embedding p;
  p.ids = ids.view;
  p.table = table.view;
  p.dtype = out_type;
  p.sequence = 77;
  p.validate();
  Array out(out_type, {7, 37});
  p.out = out.view;
  std::vector<double> want(7 * 37);
  for (int64_t i = 0; i < 7; i++)
    for (int64_t j = 0; j < 37; j++)
      want[i * 37 + j] = wanted[i] >= 0 && wanted[i] < 10 ? rounded(out_type, table.at(wanted[i] * 37 + j)) : 0.0;
  run_everywhere("embedding", p, {&out}, [&](const std::string& where, const Outcome& outcome) {
    expect_close(where, out, want, 0);
    EXPECT(outcome.index_error == (bad ? index_error(p) : 0), where + ": index error");
  });
}

TEST(embedding) {
  for (const DType type : {DType::int32, DType::int64})
    for (const DType table : kFloats)
      for (const DType out : kFloats)
        for (const bool bad : {false, true}) check_embedding(type, table, out, bad);
}

}  // namespace
}  // namespace seqmix::test
