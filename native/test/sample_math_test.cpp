// core/sample_math.h: the arithmetic that every device must agree on to the bit.
#include "core/sample_math.h"

#include <cmath>
#include <limits>
#include <random>

#include "test/test.h"

namespace seqmix::test {
namespace {

using namespace seqmix::sampling;

__extension__ using Wide = unsigned __int128;

constexpr double kOne = 1099511627776.0;  // 2^40

TEST(sample_weight_is_exp_to_its_last_bit_or_two) {
  std::mt19937_64 g(1);
  std::uniform_real_distribution<double> draw(-28.5, 0);
  int64_t worst = 0;
  for (int i = 0; i < 300000; i++) {
    const double x = i < 2000 ? -i * 0.014 : i < 4000 ? -std::ldexp(1.0, -(i - 2000) / 40) : draw(g);
    const int64_t want = static_cast<int64_t>(std::floor(std::exp(static_cast<long double>(x)) * kOne));
    const int64_t off = std::abs(static_cast<int64_t>(weight(x)) - (x > -28.0 ? want : 0));
    if (off > worst) worst = off;
  }
  EXPECT(worst <= 1, "weight is off by " + std::to_string(worst) + " of 2^40");
  EXPECT(weight(0) == uint64_t{1} << 40, "exp(0)");
}

TEST(sample_weight_is_total) {
  const double inf = std::numeric_limits<double>::infinity();
  for (const double x : {-inf, std::numeric_limits<double>::quiet_NaN(), -1e300, -28.0, -28.000001})
    EXPECT(weight(x) == 0, "weight(" + std::to_string(x) + ")");
  EXPECT(weight(-27.72) == 1, "the least that counts");
  EXPECT(weight_of(-3e38f, 3e38f, 1e-300) == 0, "far below the largest");
  EXPECT(weight_of(3e38f, 3e38f, 1e-300) == uint64_t{1} << 40, "the largest");
  EXPECT(weight_of(-std::numeric_limits<float>::infinity(), 0, 1) == 0, "minus infinity");
}

TEST(sample_weight_never_falls_as_the_logit_rises) {
  double x = -28.5;
  uint64_t before = 0;
  for (int i = 0; i < 200000; i++) {
    const uint64_t w = weight(x);
    EXPECT(w >= before, "at " + std::to_string(x));
    before = w;
    x += 28.5 / 200000;
  }
}

TEST(sample_high_product_is_exact) {
  std::mt19937_64 g(2);
  for (int i = 0; i < 200000; i++) {
    const uint64_t a = i < 4 ? (i & 1 ? ~uint64_t{0} : 0) : g() >> (g() % 64),
                   b = i < 4 ? (i & 2 ? ~uint64_t{0} : 1) : g() >> (g() % 64);
    const uint64_t want = static_cast<uint64_t>(static_cast<Wide>(a) * b >> 64);
    EXPECT(high_product(a, b) == want, std::to_string(a) + " * " + std::to_string(b));
  }
}

TEST(sample_nucleus_is_exact) {
  std::mt19937_64 g(3);
  std::uniform_real_distribution<double> draw(0, 1);
  for (int i = 0; i < 100000; i++) {
    const double p = i == 0 ? 0 : i == 1 ? 1 : draw(g);
    const uint64_t sum = g() >> (2 + g() % 60);
    const Wide scaled = static_cast<Wide>(static_cast<uint64_t>(p * 4294967296.0)) * sum;
    const uint64_t want = static_cast<uint64_t>((scaled + 0xffffffffu) >> 32);
    EXPECT(nucleus(p, sum) == want, std::to_string(p) + " of " + std::to_string(sum));
    EXPECT(nucleus(p, sum) <= sum, "no more than there is");
  }
  EXPECT(nucleus(1, 12345) == 12345, "all");
}

TEST(sample_hash_spreads) {
  // Bits of draws with neighbouring seeds, steps and rows are even and unrelated.
  int bits[64] = {}, equal = 0;
  const int n = 20000;
  for (int i = 0; i < n; i++) {
    const uint64_t h =
        hash(static_cast<uint64_t>(i % 20), static_cast<uint64_t>(i / 20 % 50), static_cast<uint64_t>(i / 1000));
    const uint64_t next =
        hash(static_cast<uint64_t>(i % 20), static_cast<uint64_t>(i / 20 % 50) + 1, static_cast<uint64_t>(i / 1000));
    for (int b = 0; b < 64; b++) bits[b] += static_cast<int>(h >> b & 1);
    equal += __builtin_popcountll(~(h ^ next));
  }
  for (int b = 0; b < 64; b++) EXPECT(std::abs(bits[b] - n / 2) < 5 * std::sqrt(n / 4.0), "bit " + std::to_string(b));
  EXPECT(std::abs(equal - n * 32) < 5 * std::sqrt(n * 16.0), "neighbours agree in half of their bits");
}

TEST(sample_order_key_orders_as_argmax_does) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const float rising[] = {-inf, -3e38f, -1, -1e-45f, 0, 1e-45f, 1, 3e38f, inf, nan};
  for (size_t i = 1; i < sizeof rising / sizeof *rising; i++)
    EXPECT(order_key(rising[i - 1]) < order_key(rising[i]), std::to_string(rising[i]));
  EXPECT(order_key(-0.0f) == order_key(0.0f), "zeros are one");
  EXPECT(order_key(-nan) == order_key(nan), "NaNs are one");
}

}  // namespace
}  // namespace seqmix::test
