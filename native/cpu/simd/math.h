// What the kernels need of mathematics, written in simd's verbs, so that every target computes the same formulas. The
// polynomials are minimax fits of our own; their errors are those before rounding.

SEQMIX_VERB constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
SEQMIX_VERB constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
SEQMIX_VERB int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// e^r - 1 for |r| <= ln2/2: r + r² q(r) (relative error 3e-9).
SEQMIX_VERB vf expm1_near(vf r) {
  vf q = set1(1.3814613210e-3f);
  q = fma(q, r, set1(8.3687099109e-3f));
  q = fma(q, r, set1(4.1668387369e-2f));
  q = fma(q, r, set1(1.6666520689e-1f));
  q = fma(q, r, set1(4.9999993452e-1f));
  return fma(q * r, r, r);
}

// e^x, as e^r 2^k. 0 below -104, infinity above 88.73, subnormals on the way, NaN stays.
SEQMIX_VERB vf exp(vf x) {
  x = max(set1(-110.0f), min(set1(89.5f), x));
  const vf k = round(x * set1(1.44269504f));
  vf r = fnma(k, set1(0.693359375f), x);  // ln2 in two parts, the first exact in a product with k
  r = fnma(k, set1(-2.12194440e-4f), r);
  return scale(expm1_near(r) + set1(1.0f), k);
}

// e^x for -87.3 <= x <= 88.73: 2^-126 at the one end, infinity from about 88.6 on; NaN stays. Relative error 3e-7. What
// a step leaves of x comes from ln 2 in two parts, the first short enough for its product to be exact: x log2 e is too
// large to be rounded, as it is where a processor has no fused multiply-add.
//
// N vectors go side by side, one step of all after the other: it is a chain of some forty cycles, and a processor does
// not look far enough ahead to find the next vector's by itself.
template <int N>
SEQMIX_VERB void exp_normal(vf* x) {
  vf rounded[N], f[N];
#pragma GCC unroll 8
  for (int i = 0; i < N; i++) rounded[i] = fma(x[i], set1(1.44269504f), set1(kLarge));
#pragma GCC unroll 8
  for (int i = 0; i < N; i++) {
    const vf step = rounded[i] - set1(kLarge);
    f[i] = fma(step, set1(2.1219444e-4f), fma(step, set1(-0.693359375f), x[i])) * set1(1.44269504f);
  }
#pragma GCC unroll 8
  for (int i = 0; i < N; i++) f[i] = fma(growth(f[i]), f[i], set1(1.0f));
#pragma GCC unroll 8
  for (int i = 0; i < N; i++) x[i] = f[i] * power(rounded[i]);
}
SEQMIX_VERB vf exp_normal(vf x) {
  exp_normal<1>(&x);
  return x;
}

// 2^t for t <= 0, 0 below 2^-127 (whose exponent is that of 0, and where power() is 0); NaN stays. In two halves of
// about equal length, for loops in which the second half of one runs beside the first of the next: `step` is t in the
// steps that power() takes. A target with instructions for it has functions of its own (avx512.h), which come before
// these.
template <class V>
SEQMIX_VERB void exp2_begin(V t, V& step, V& rest) {
  const V x = max(set1(-127.0f), t);
  step = x + set1(kLarge);
  rest = x - (step - set1(kLarge));
}
template <class V>
SEQMIX_VERB V exp2_end(V step, V rest) {
  return fma(growth(rest), rest, set1(1.0f)) * power(step);
}

// log(1 + e) for 0 <= e <= 1, without loss for small e (relative error 4e-8).
SEQMIX_VERB vf log1p_unit(vf e) {
  const vf e2 = e * e;
  vf q = fma(fma(set1(5.3648225192e-3f), e, set1(-3.0065785868e-2f)), e2,
             fma(set1(7.9204526481e-2f), e, set1(-1.3753801689e-1f)));
  q = fma(q, e2, fma(set1(1.9153654691e-1f), e, set1(-2.4857163619e-1f)));
  q = fma(q, e2, fma(set1(3.3321322614e-1f), e, set1(-4.9999647963e-1f)));
  return fma(q, e2, e);
}

// x > 20 ? x : log1p(e^x), as max(x, 0) + log1p(e^-|x|): the same within rounding (above 20 the sum is x), and e^-|x|
// cannot overflow. Where it is subnormal, as it hardly ever is, exp knows better.
constexpr float kTiny = -87.3f;
SEQMIX_VERB vf softplus_of(vf x, vf e) { return max(set1(0.0f), x) + log1p_unit(e); }
SEQMIX_VERB vf softplus(vf x) {
  const vf y = set1(0.0f) - abs(x);
  const vm tiny = less(y, set1(kTiny));
  vf e = exp_normal(max(set1(kTiny), y));
  if (any(tiny)) e = select(tiny, exp(y), e);
  return softplus_of(x, e);
}

// x / (1 + e^-x); where e^-x is infinite, -0. N vectors side by side, as with exp_normal.
template <int N>
SEQMIX_VERB void silu(vf* x) {
  vf e[N];
#pragma GCC unroll 8
  for (int i = 0; i < N; i++) e[i] = max(set1(-87.3f), min(set1(88.73f), set1(0.0f) - x[i]));
  exp_normal<N>(e);
#pragma GCC unroll 8
  for (int i = 0; i < N; i++) x[i] = x[i] / (set1(1.0f) + e[i]);
}
SEQMIX_VERB vf silu(vf x) {
  silu<1>(&x);
  return x;
}

// x Φ(x) = max(x, 0) - |x| Q(|x|), Q(y) = erfc(y / √2) / 2 = e^(-y²/2) t P(t) with t = 1 / (1 + 0.35 y) (relative error
// 3.2e-8), so that what is small keeps its size. Beyond 13.2 Q is below float32.
SEQMIX_VERB vf gelu(vf x) {
  const vf y = min(set1(13.2f), abs(x)), t = set1(1.0f) / fma(set1(0.35f), y, set1(1.0f));
  vf p = set1(-2.9115730741e-2f);
  p = fma(p, t, set1(1.4382100837e-1f));
  p = fma(p, t, set1(-2.5539450403e-1f));
  p = fma(p, t, set1(1.5879840265e-1f));
  p = fma(p, t, set1(-2.2843209350e-2f));
  p = fma(p, t, set1(1.0539143404e-1f));
  p = fma(p, t, set1(1.1986342165e-1f));
  p = fma(p, t, set1(1.3985749638e-1f));
  p = fma(p, t, set1(1.3962166508e-1f));
  const vf square = y * y, rest = fma(y, y, set1(0.0f) - square);
  const vf e = exp_normal(square * set1(-0.5f));
  const vf q = p * t * fma(e * rest, set1(-0.5f), e);
  return max(set1(0.0f), x) - y * q;
}

// x (1 + tanh(u / 2)) / 2 = x / (1 + e^-u), u = √(8/π) (x + 0.044715 x³)
SEQMIX_VERB vf gelu_tanh(vf x) {
  x = max(set1(-30.0f), x);  // below, the result is 0; and no infinity meets another
  const vf u = x * fma(x * x, set1(0.0713548163f), set1(1.5957691216f));
  return x / (set1(1.0f) + exp_normal(max(set1(-87.3f), min(set1(88.73f), set1(0.0f) - u))));
}

// From e^2|x| - 1, which keeps what is near 0.
SEQMIX_VERB vf tanh(vf x) {
  const vf y = min(set1(40.0f), abs(x + x));
  const vf k = round(y * set1(1.44269504f));
  vf r = fnma(k, set1(0.693359375f), y);
  r = fnma(k, set1(-2.12194440e-4f), r);
  const vf e = fma(pow2(k), expm1_near(r), pow2(k) - set1(1.0f)), t = e / (e + set1(2.0f));
  return select(less(x, set1(0.0f)), set1(0.0f) - t, t);
}

template <class T>
SEQMIX_VERB vf load_strided(const T* p, int64_t s) {
  T buffer[W];
  for (int i = 0; i < W; i++) buffer[i] = p[i * s];
  return load(buffer);
}

// The loads and stores of a vector whose elements lie `stride` apart; n of them, the others 0. Whole vectors go without
// a mask, which some processors are slow with.
template <class T>
SEQMIX_VERB vf gather(const T* p, int64_t stride, int64_t n) {
  if (stride == 1) return n == W ? load(p) : load_head(p, n);
  if (n == W) return load_strided(p, stride);
  T buffer[W] = {};
  for (int64_t i = 0; i < n; i++) buffer[i] = p[i * stride];
  return load(buffer);
}
template <class T>
SEQMIX_VERB void scatter(T* p, int64_t stride, vf v, int64_t n) {
  if (stride == 1) return n == W ? store(p, v) : store_head(p, v, n);
  T buffer[W];
  store(buffer, v);
  for (int64_t i = 0; i < n; i++) p[i * stride] = buffer[i];
}
