// What the kernels need of mathematics, written in simd's verbs, so that every target computes the same formulas. The
// polynomials are minimax fits of our own; their errors are those before rounding.

SEQMIX_VERB int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
SEQMIX_VERB int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
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

// log(1 + e) for 0 <= e <= 1, without loss for small e: 2 atanh(s), s = e / (2 + e), by its series in s² up to 1/9
// (relative error 5e-10).
SEQMIX_VERB vf log1p_unit(vf e) {
  const vf s = e / (e + set1(2.0f)), v = s * s;
  vf q = set1(1.4012231990e-1f);
  q = fma(q, v, set1(1.3999570062e-1f));
  q = fma(q, v, set1(2.0010849555e-1f));
  q = fma(q, v, set1(3.3333206566e-1f));
  const vf twice = s + s;
  return fma(twice * v, q, twice);
}

// x > 20 ? x : log1p(e^x), as max(x, 0) + log1p(e^-|x|): the same within rounding, and e^-|x| cannot overflow.
SEQMIX_VERB vf softplus(vf x) {
  const vf tail = log1p_unit(exp(set1(0.0f) - abs(x)));
  return select(less(set1(20.0f), x), x, max(set1(0.0f), x) + tail);
}

// x / (1 + e^-x); where e^-x is infinite, -0.
SEQMIX_VERB vf silu(vf x) { return x / (set1(1.0f) + exp(set1(0.0f) - x)); }

template <class T>
SEQMIX_VERB vf load_strided(const T* p, int64_t s) {
  T buffer[W];
  for (int i = 0; i < W; i++) buffer[i] = p[i * s];
  return load(buffer);
}

// The loads and stores of a vector whose elements lie `stride` apart; n of them, the others 0.
template <class T>
SEQMIX_VERB vf gather(const T* p, int64_t stride, int64_t n) {
  if (stride == 1) return load_head(p, n);
  if (n == W) return load_strided(p, stride);
  T buffer[W] = {};
  for (int64_t i = 0; i < n; i++) buffer[i] = p[i * stride];
  return load(buffer);
}
template <class T>
SEQMIX_VERB void scatter(T* p, int64_t stride, vf v, int64_t n) {
  if (stride == 1) return store_head(p, v, n);
  T buffer[W];
  store(buffer, v);
  for (int64_t i = 0; i < n; i++) p[i * stride] = buffer[i];
}
