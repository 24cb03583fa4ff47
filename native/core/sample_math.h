// The draw of `sample`, to the bit: every device must pick the same token from the same logits. So weights are integers
// (their sums do not depend on order), the exponential is spelled out in double precision operations that IEEE 754
// fixes (compile with contraction off: -ffp-contract=off, --fmad=false, or the fma written out as here), and randomness
// is a hash of (seed, step, row).
//
//   w_i = floor(exp((l_i - max l) / temperature) · 2^40), for the kept logits; S = Σ w_i
//   r   = floor(U S), U = hash / 2^64; the token is the first, in index order, whose running sum exceeds r
//
// topK keeps the K largest logits; topP then keeps the shortest prefix, in descending order, whose sum is at least
// floor(topP · 2^32) · S_K / 2^32 (at least one). Ties go to the lower index in both. A row with a NaN or a +∞, or
// temperature 0, gives its argmax.
#pragma once
#include <cstdint>

#include "core/view.h"

namespace seqmix::sampling {

#if defined(__CUDA_ARCH__)
SEQMIX_HD SEQMIX_INLINE double fma_(double a, double b, double c) { return __fma_rn(a, b, c); }
SEQMIX_HD SEQMIX_INLINE double mul_(double a, double b) { return __dmul_rn(a, b); }
SEQMIX_HD SEQMIX_INLINE double sub_(double a, double b) { return __dsub_rn(a, b); }
SEQMIX_HD SEQMIX_INLINE double div_(double a, double b) { return __ddiv_rn(a, b); }
#else
SEQMIX_HD SEQMIX_INLINE double fma_(double a, double b, double c) { return __builtin_fma(a, b, c); }
SEQMIX_HD SEQMIX_INLINE double mul_(double a, double b) { return a * b; }
SEQMIX_HD SEQMIX_INLINE double sub_(double a, double b) { return a - b; }
SEQMIX_HD SEQMIX_INLINE double div_(double a, double b) { return a / b; }
#endif

constexpr int kWeightBits = 40;

// floor(exp(x) · 2^40) for x ≤ 0: exp(x) = 2^k exp(r), |r| ≤ ln2/2, by a polynomial of degree 11.
SEQMIX_HD SEQMIX_INLINE uint64_t weight(double x) {
  if (!(x > -28.0)) return 0;                                                                  // below 2^-40
  const double k = sub_(fma_(x, 1.4426950408889634, 6755399441055744.0), 6755399441055744.0);  // rounds to nearest
  double r = fma_(k, -6.93147180369123816490e-01, x);
  r = fma_(k, -1.90821492927058770002e-10, r);
  double p = 2.505210838544172e-08;
  p = fma_(p, r, 2.755731922398589e-07);
  p = fma_(p, r, 2.755731922398589e-06);
  p = fma_(p, r, 2.48015873015873e-05);
  p = fma_(p, r, 1.984126984126984e-04);
  p = fma_(p, r, 1.3888888888888889e-03);
  p = fma_(p, r, 8.333333333333333e-03);
  p = fma_(p, r, 4.1666666666666664e-02);
  p = fma_(p, r, 1.6666666666666666e-01);
  p = fma_(p, r, 0.5);
  p = fma_(p, r, 1.0);
  p = fma_(p, r, 1.0);
  // p · 2^(40 + k), with k ≥ -41: exact, then cut to an integer
  const int shift = kWeightBits + static_cast<int>(k);
  const double scale = shift >= 0 ? static_cast<double>(1ull << shift) : 0.5;
  return static_cast<uint64_t>(mul_(p, scale));
}

SEQMIX_HD SEQMIX_INLINE uint64_t weight_of(float logit, float max, double temperature) {
  return weight(div_(sub_(static_cast<double>(logit), static_cast<double>(max)), temperature));
}

SEQMIX_HD SEQMIX_INLINE uint64_t splitmix64(uint64_t z) {
  z += 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// The step of a draw: `step`, or what the counter holds now, if there is one. An int32 is widened with its sign, as a
// number from JavaScript is.
SEQMIX_HD SEQMIX_INLINE uint64_t step_of(uint64_t step, const void* counter, bool wide) {
  if (!counter) return step;
  return wide ? *static_cast<const uint64_t*>(counter)
              : static_cast<uint64_t>(static_cast<int64_t>(*static_cast<const int32_t*>(counter)));
}

SEQMIX_HD SEQMIX_INLINE uint64_t hash(uint64_t seed, uint64_t step, uint64_t row) {
  const uint64_t z = splitmix64(seed + 0x9E3779B97F4A7C15ull * (step + 1));
  return splitmix64(z ^ (row * 0xD1342543DE82EF95ull));
}

// floor(a b / 2^64)
SEQMIX_HD SEQMIX_INLINE uint64_t high_product(uint64_t a, uint64_t b) {
  const uint64_t a0 = a & 0xffffffffu, a1 = a >> 32, b0 = b & 0xffffffffu, b1 = b >> 32;
  const uint64_t low = a0 * b0, mid = a1 * b0 + (low >> 32), mid2 = a0 * b1 + (mid & 0xffffffffu);
  return a1 * b1 + (mid >> 32) + (mid2 >> 32);
}

// The weight that the topP prefix must reach, of a sum S < 2^62: ceil(floor(topP · 2^32) · S / 2^32).
SEQMIX_HD SEQMIX_INLINE uint64_t nucleus(double top_p, uint64_t sum) {
  const uint64_t p = static_cast<uint64_t>(mul_(top_p, 4294967296.0));
  const uint64_t high = sum >> 32, low = sum & 0xffffffffu;
  const uint64_t tail = p * low;  // < 2^64, since p ≤ 2^32 and low < 2^32
  return p * high + (tail >> 32) + ((tail & 0xffffffffu) != 0);
}

// A logit as an integer that orders like argmax: larger is better, NaN is best, −0 = +0.
SEQMIX_HD SEQMIX_INLINE uint32_t order_key(float x) {
  if (x != x) return 0xffffffffu;
  if (x == 0) x = 0;
  union {
    float f;
    uint32_t u;
  } bits;
  bits.f = x;
  return bits.u & 0x80000000u ? ~bits.u : bits.u | 0x80000000u;
}

}  // namespace seqmix::sampling
