// The verbs of simd (see scalar.h) for AVX-512 (F, BW, DQ, VL): sixteen floats, masks in mask registers.

constexpr int W = 16;
typedef __m512 vf;
typedef __mmask16 vm;

SEQMIX_VERB vf load(const float* p) { return _mm512_loadu_ps(p); }
SEQMIX_VERB void store(float* p, vf v) { _mm512_storeu_ps(p, v); }
SEQMIX_VERB vf set1(float x) { return _mm512_set1_ps(x); }
SEQMIX_VERB vm head(int64_t n) { return static_cast<vm>(_bzhi_u32(0xffffu, static_cast<unsigned>(n))); }
SEQMIX_VERB vf load_head(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(head(n), p); }
SEQMIX_VERB void store_head(float* p, vf v, int64_t n) { _mm512_mask_storeu_ps(p, head(n), v); }

SEQMIX_VERB vf widened(__m256i bits, const Half*) { return _mm512_cvtph_ps(bits); }
SEQMIX_VERB vf widened(__m256i bits, const Brain*) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
SEQMIX_VERB __m256i narrowed(vf v, const Half*) {
  return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SEQMIX_VERB __m256i narrowed(vf v, const Brain*) {
  const __m512i u = _mm512_castps_si512(v), high = _mm512_srli_epi32(u, 16);
  const __m512i bias = _mm512_add_epi32(_mm512_and_si512(high, _mm512_set1_epi32(1)), _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(u, bias), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40)));
}
SEQMIX_VERB vf load(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i_u*>(p))));
}
SEQMIX_VERB vf load_head(const int8_t* p, int64_t n) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(head(n), p)));
}
template <class T>
SEQMIX_VERB vf load(const T* p) {
  return widened(_mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(p)), p);
}
template <class T>
SEQMIX_VERB void store(T* p, vf v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(p), narrowed(v, p));
}
template <class T>
SEQMIX_VERB vf load_head(const T* p, int64_t n) {
  return widened(_mm256_maskz_loadu_epi16(head(n), p), p);
}
template <class T>
SEQMIX_VERB void store_head(T* p, vf v, int64_t n) {
  _mm256_mask_storeu_epi16(p, head(n), narrowed(v, p));
}

SEQMIX_VERB vf load_strided(const float* p, int64_t s) {
  return _mm512_setr_ps(p[0], p[s], p[2 * s], p[3 * s], p[4 * s], p[5 * s], p[6 * s], p[7 * s], p[8 * s], p[9 * s],
                        p[10 * s], p[11 * s], p[12 * s], p[13 * s], p[14 * s], p[15 * s]);
}

SEQMIX_VERB vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
SEQMIX_VERB vf fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }

SEQMIX_VERB vm less(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
SEQMIX_VERB vm equal(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
SEQMIX_VERB vm is_nan(vf a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
SEQMIX_VERB vm equal_ints(const int32_t* a, const int32_t* b) {
  return _mm512_cmpeq_epi32_mask(_mm512_loadu_si512(a), _mm512_loadu_si512(b));
}
SEQMIX_VERB vf select(vm m, vf yes, vf no) { return _mm512_mask_blend_ps(m, no, yes); }
SEQMIX_VERB unsigned bits_of(vm m) { return m; }
SEQMIX_VERB bool any(vm m) { return m != 0; }
SEQMIX_VERB vf max(vf a, vf b) { return _mm512_max_ps(a, b); }
SEQMIX_VERB vf min(vf a, vf b) { return _mm512_min_ps(a, b); }
SEQMIX_VERB vf abs(vf a) { return _mm512_abs_ps(a); }

SEQMIX_VERB vf round(vf x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
SEQMIX_VERB vf pow2(vf k) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(_mm512_add_ps(k, _mm512_set1_ps(12583039.0f))), 23));
}
SEQMIX_VERB vf scale(vf p, vf k) { return _mm512_scalef_ps(p, k); }

// A step is a sixteenth: the table has 2^0 to 2^(15/16), less what the step's own bits add, shifted into the exponent.
constexpr float kLarge = 786432.0f;  // 1.5 2^19
SEQMIX_VERB vf power(vf rounded) {
  const __m512i sixteenths =
      _mm512_setr_epi32(0x3f800000, 0x3f7daac3, 0x3f7b95c2, 0x3f79c3d3, 0x3f7837f0, 0x3f76f532, 0x3f75fed7, 0x3f75583f,
                        0x3f7504f3, 0x3f7508a4, 0x3f75672a, 0x3f76248c, 0x3f7744fd, 0x3f78ccdf, 0x3f7ac0c7, 0x3f7d257d);
  const __m512i step = _mm512_castps_si512(rounded);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_permutexvar_epi32(step, sixteenths), _mm512_slli_epi32(step, 19)));
}
SEQMIX_VERB vf growth(vf f) {  // within 8e-8
  const vf q = fma(set1(5.5456301976e-2f), f, set1(2.4023426669e-1f));
  return fma(q, f, set1(6.9314722852e-1f));
}

// math.h's, in a whole number and a fraction, for which there are instructions. What is below 2^-126 becomes 0: an
// Intel takes a hundred times as long to multiply with what is subnormal.
SEQMIX_VERB void exp2_begin(vf t, vf& whole, vf& fraction) {
  whole = t;  // of which scalef takes the floor
  fraction = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
SEQMIX_VERB vf exp2_end(vf whole, vf fraction) {  // within 9e-8
  vf q = fma(set1(1.8671302120e-3f), fraction, set1(9.0170299625e-3f));
  q = fma(q, fraction, set1(5.5799913425e-2f));
  q = fma(q, fraction, set1(2.4016445004e-1f));
  q = fma(q, fraction, set1(6.9315131182e-1f));
  q = fma(q, fraction, set1(1.0f));
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(whole, set1(-126.0f), _CMP_NLT_UQ), q, whole);
}

SEQMIX_VERB float sum(vf v) {
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
SEQMIX_VERB float highest(vf v) {
  const __m256 h = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

SEQMIX_VERB vf sums(const vf* r) {
  vf a[8], b[4], c[2];
  for (int i = 0; i < 8; i++)
    a[i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]) + _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  for (int i = 0; i < 4; i++)
    b[i] = _mm512_shuffle_ps(a[2 * i], a[2 * i + 1], 0x44) + _mm512_shuffle_ps(a[2 * i], a[2 * i + 1], 0xee);
  for (int i = 0; i < 2; i++)
    c[i] = _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0x88) + _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0xdd);
  return _mm512_shuffle_f32x4(c[0], c[1], 0x88) + _mm512_shuffle_f32x4(c[0], c[1], 0xdd);
}

SEQMIX_VERB void transpose(vf* r) {
  vf a[16];
  // within each 128-bit part: four rows by four columns
  for (int i = 0; i < 16; i += 4) {
    const vf p = _mm512_unpacklo_ps(r[i], r[i + 1]), q = _mm512_unpacklo_ps(r[i + 2], r[i + 3]);
    const vf s = _mm512_unpackhi_ps(r[i], r[i + 1]), t = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
    a[i] = _mm512_shuffle_ps(p, q, 0x44);
    a[i + 1] = _mm512_shuffle_ps(p, q, 0xee);
    a[i + 2] = _mm512_shuffle_ps(s, t, 0x44);
    a[i + 3] = _mm512_shuffle_ps(s, t, 0xee);
  }
  // then the parts among themselves
  for (int i = 0; i < 4; i++) {
    const vf p = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88), q = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88);
    const vf s = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd), t = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xdd);
    r[i] = _mm512_shuffle_f32x4(p, q, 0x88);
    r[i + 8] = _mm512_shuffle_f32x4(p, q, 0xdd);
    r[i + 4] = _mm512_shuffle_f32x4(s, t, 0x88);
    r[i + 12] = _mm512_shuffle_f32x4(s, t, 0xdd);
  }
}

// Intel's do (measured on Sapphire Rapids), AMD's do not (Zen 4).
SEQMIX_VERB bool follows_streams() { return __builtin_cpu_is("intel"); }
