// The verbs of simd for any processor: four floats that the compiler lowers to whatever it was told there is (SSE2 on
// x86-64, NEON on arm64). Included inside the target's namespace; every header of simd defines the same names.
//
//   vf floats, vm a mask of them, W how many. + - * / are the compiler's.
//   max and min give their second argument when either is NaN.
//   *_head touch the first n elements only, 0 <= n <= W, and load 0 for the rest.
//   load and store of Half and Brain (float16.h) widen, and round to nearest even.

constexpr int W = 4;
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vm __attribute__((vector_size(16)));
typedef float vf_any __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t vm_any __attribute__((vector_size(16), aligned(4), may_alias));

SEQMIX_VERB vf load(const float* p) { return *reinterpret_cast<const vf_any*>(p); }
SEQMIX_VERB void store(float* p, vf v) { *reinterpret_cast<vf_any*>(p) = v; }
SEQMIX_VERB vf set1(float x) { return vf{x, x, x, x}; }
SEQMIX_VERB vf load_head(const float* p, int64_t n) {
  vf v{};
  for (int i = 0; i < W; i++)
    if (i < n) v[i] = p[i];
  return v;
}
SEQMIX_VERB void store_head(float* p, vf v, int64_t n) {
  for (int i = 0; i < W; i++)
    if (i < n) p[i] = v[i];
}

SEQMIX_VERB vf load(const int8_t* p) {
  return vf{static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]), static_cast<float>(p[3])};
}
SEQMIX_VERB vf load_head(const int8_t* p, int64_t n) {
  vf v{};
  for (int i = 0; i < W; i++)
    if (i < n) v[i] = static_cast<float>(p[i]);
  return v;
}
template <class T>
SEQMIX_VERB vf load(const T* p) {
  return vf{widen(p[0]), widen(p[1]), widen(p[2]), widen(p[3])};
}
template <class T>
SEQMIX_VERB void store(T* p, vf v) {
  for (int i = 0; i < W; i++) narrow(v[i], p + i);
}
template <class T>
SEQMIX_VERB vf load_head(const T* p, int64_t n) {
  vf v{};
  for (int i = 0; i < W; i++)
    if (i < n) v[i] = widen(p[i]);
  return v;
}
template <class T>
SEQMIX_VERB void store_head(T* p, vf v, int64_t n) {
  for (int i = 0; i < W; i++)
    if (i < n) narrow(v[i], p + i);
}

SEQMIX_VERB vf load_strided(const float* p, int64_t s) { return vf{p[0], p[s], p[2 * s], p[3 * s]}; }

// a b + c, c - a b: here in two roundings
SEQMIX_VERB vf fma(vf a, vf b, vf c) { return a * b + c; }
SEQMIX_VERB vf fnma(vf a, vf b, vf c) { return c - a * b; }

SEQMIX_VERB vm less(vf a, vf b) { return a < b; }
SEQMIX_VERB vm equal(vf a, vf b) { return a == b; }
SEQMIX_VERB vm is_nan(vf a) { return a != a; }
SEQMIX_VERB vm equal_ints(const int32_t* a, const int32_t* b) {
  return *reinterpret_cast<const vm_any*>(a) == *reinterpret_cast<const vm_any*>(b);
}
SEQMIX_VERB vf select(vm m, vf yes, vf no) { return m ? yes : no; }
SEQMIX_VERB unsigned bits_of(vm m) {
  unsigned b = 0;
  for (int i = 0; i < W; i++) b |= (static_cast<unsigned>(m[i]) & 1u) << i;
  return b;
}
SEQMIX_VERB bool any(vm m) { return bits_of(m) != 0; }
SEQMIX_VERB vf max(vf a, vf b) { return a > b ? a : b; }
SEQMIX_VERB vf min(vf a, vf b) { return a < b ? a : b; }
SEQMIX_VERB vf abs(vf a) { return reinterpret_cast<vf>(reinterpret_cast<vm>(a) & 0x7fffffff); }

// To the nearest integer, ties to even, for |x| < 2^22.
SEQMIX_VERB vf round(vf x) { return (x + 12582912.0f) - 12582912.0f; }
// 2^k for an integer -127 < k < 128.
SEQMIX_VERB vf pow2(vf k) { return reinterpret_cast<vf>(reinterpret_cast<vm>(k + 12583039.0f) << 23); }
// p 2^k for an integer |k| < 252: exact unless the result is subnormal or too large.
SEQMIX_VERB vf scale(vf p, vf k) {
  const vf half = round(k * 0.5f);
  return p * pow2(half) * pow2(k - half);
}

// 2^t for -126 <= t <= 128 as a product: t + kLarge rounds t to a step, here a whole number, and shows it in its low
// bits; power() of that is 2^step (infinity for 128), and with f, the rest of t, 1 + f growth(f) is 2^f. growth is a
// minimax fit with regard to what decays near 1 do to a long scan: within 4e-7, and less below 0.
constexpr float kLarge = 12583039.0f;  // 1.5 2^23, and the exponent's bias
SEQMIX_VERB vf power(vf rounded) { return reinterpret_cast<vf>(reinterpret_cast<vm>(rounded) << 23); }
SEQMIX_VERB vf growth(vf f) {
  vf q = fma(set1(1.3317277875e-3f), f, set1(9.6702411090e-3f));
  q = fma(q, f, set1(5.5506476796e-2f));
  q = fma(q, f, set1(2.4022270388e-1f));
  return fma(q, f, set1(6.9314692900e-1f));
}

SEQMIX_VERB float sum(vf v) { return (v[0] + v[2]) + (v[1] + v[3]); }
SEQMIX_VERB float highest(vf v) {
  const float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
  return a > b ? a : b;
}

// element i is the sum of the elements of r[i]
SEQMIX_VERB vf sums(const vf* r) {
  const vf a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5) + __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
  const vf b = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5) + __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
  return __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
}
SEQMIX_VERB void transpose(vf* r) {
  const vf a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5), b = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
  const vf c = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7), d = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
  r[0] = __builtin_shufflevector(a, b, 0, 1, 4, 5);
  r[1] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
  r[2] = __builtin_shufflevector(c, d, 0, 1, 4, 5);
  r[3] = __builtin_shufflevector(c, d, 2, 3, 6, 7);
}

// Whether the processor reads as fast from several streams as from one, without being told what comes next.
SEQMIX_VERB bool follows_streams() { return false; }
