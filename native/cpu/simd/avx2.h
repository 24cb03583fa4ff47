// The verbs of simd (see scalar.h) for AVX2 with FMA and F16C: eight floats.

constexpr int W = 8;
typedef __m256 vf;
typedef __m256 vm;  // lanes of all ones or all zeros

SEQMIX_VERB vf load(const float* p) { return _mm256_loadu_ps(p); }
SEQMIX_VERB void store(float* p, vf v) { _mm256_storeu_ps(p, v); }
SEQMIX_VERB vf set1(float x) { return _mm256_set1_ps(x); }
SEQMIX_VERB __m256i head(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
SEQMIX_VERB vf load_head(const float* p, int64_t n) { return _mm256_maskload_ps(p, head(n)); }
SEQMIX_VERB void store_head(float* p, vf v, int64_t n) { _mm256_maskstore_ps(p, head(n), v); }

SEQMIX_VERB vf widened(__m128i bits, const Half*) { return _mm256_cvtph_ps(bits); }
SEQMIX_VERB vf widened(__m128i bits, const Brain*) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
SEQMIX_VERB __m128i narrowed(vf v, const Half*) {
  return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SEQMIX_VERB __m128i narrowed(vf v, const Brain*) {
  const __m256i u = _mm256_castps_si256(v), high = _mm256_srli_epi32(u, 16);
  const __m256i bias = _mm256_add_epi32(_mm256_and_si256(high, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(u, bias), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i r = _mm256_blendv_epi8(rounded, _mm256_or_si256(high, _mm256_set1_epi32(0x40)), nan);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08));
}
SEQMIX_VERB vf load(const int8_t* p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadu_si64(p))); }
SEQMIX_VERB vf load_head(const int8_t* p, int64_t n) {
  int8_t buffer[W] = {};
  __builtin_memcpy(buffer, p, static_cast<std::size_t>(n));
  return load(buffer);
}
template <class T>
SEQMIX_VERB vf load(const T* p) {
  return widened(_mm_loadu_si128(reinterpret_cast<const __m128i_u*>(p)), p);
}
template <class T>
SEQMIX_VERB void store(T* p, vf v) {
  _mm_storeu_si128(reinterpret_cast<__m128i_u*>(p), narrowed(v, p));
}
template <class T>
SEQMIX_VERB vf load_head(const T* p, int64_t n) {
  T buffer[W] = {};
  __builtin_memcpy(buffer, p, static_cast<std::size_t>(n) * sizeof(T));
  return load(buffer);
}
template <class T>
SEQMIX_VERB void store_head(T* p, vf v, int64_t n) {
  T buffer[W];
  store(buffer, v);
  __builtin_memcpy(p, buffer, static_cast<std::size_t>(n) * sizeof(T));
}

SEQMIX_VERB vf load_strided(const float* p, int64_t s) {
  return _mm256_setr_ps(p[0], p[s], p[2 * s], p[3 * s], p[4 * s], p[5 * s], p[6 * s], p[7 * s]);
}

SEQMIX_VERB vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
SEQMIX_VERB vf fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }

SEQMIX_VERB vm less(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
SEQMIX_VERB vm equal(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
SEQMIX_VERB vm is_nan(vf a) { return _mm256_cmp_ps(a, a, _CMP_UNORD_Q); }
SEQMIX_VERB vm equal_ints(const int32_t* a, const int32_t* b) {
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(a)),
                                                _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(b))));
}
SEQMIX_VERB vf select(vm m, vf yes, vf no) { return _mm256_blendv_ps(no, yes, m); }
SEQMIX_VERB unsigned bits_of(vm m) { return static_cast<unsigned>(_mm256_movemask_ps(m)); }
SEQMIX_VERB bool any(vm m) { return bits_of(m) != 0; }
SEQMIX_VERB vf max(vf a, vf b) { return _mm256_max_ps(a, b); }
SEQMIX_VERB vf min(vf a, vf b) { return _mm256_min_ps(a, b); }
SEQMIX_VERB vf abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }

SEQMIX_VERB vf round(vf x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
SEQMIX_VERB vf pow2(vf k) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(_mm256_add_ps(k, _mm256_set1_ps(12583039.0f))), 23));
}
SEQMIX_VERB vf scale(vf p, vf k) {
  const vf half = round(k * set1(0.5f));
  return p * pow2(half) * pow2(k - half);
}

// A step is an eighth: the table has 2^0 to 2^(7/8), less what the step's own bits add, shifted into the exponent.
constexpr float kLarge = 1572864.0f;  // 1.5 2^20
SEQMIX_VERB vf power(vf rounded) {
  const __m256i eighths =
      _mm256_setr_epi32(0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7);
  const __m256i step = _mm256_castps_si256(rounded);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_permutevar8x32_epi32(eighths, step), _mm256_slli_epi32(step, 20)));
}
SEQMIX_VERB vf growth(vf f) {  // within 6e-7
  const vf q = fma(set1(5.5412987359e-2f), f, set1(2.4025753947e-1f));
  return fma(q, f, set1(6.9314755685e-1f));
}

SEQMIX_VERB float sum(vf v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
SEQMIX_VERB float highest(vf v) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

SEQMIX_VERB vf sums(const vf* r) {
  vf a[4], b[2];
  for (int i = 0; i < 4; i++)
    a[i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]) + _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  for (int i = 0; i < 2; i++)
    b[i] = _mm256_shuffle_ps(a[2 * i], a[2 * i + 1], 0x44) + _mm256_shuffle_ps(a[2 * i], a[2 * i + 1], 0xee);
  return _mm256_permute2f128_ps(b[0], b[1], 0x20) + _mm256_permute2f128_ps(b[0], b[1], 0x31);
}

SEQMIX_VERB void transpose(vf* r) {
  vf a[8];
  for (int i = 0; i < 8; i += 4) {
    const vf p = _mm256_unpacklo_ps(r[i], r[i + 1]), q = _mm256_unpacklo_ps(r[i + 2], r[i + 3]);
    const vf s = _mm256_unpackhi_ps(r[i], r[i + 1]), t = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
    a[i] = _mm256_shuffle_ps(p, q, 0x44);
    a[i + 1] = _mm256_shuffle_ps(p, q, 0xee);
    a[i + 2] = _mm256_shuffle_ps(s, t, 0x44);
    a[i + 3] = _mm256_shuffle_ps(s, t, 0xee);
  }
  for (int i = 0; i < 4; i++) {
    r[i] = _mm256_permute2f128_ps(a[i], a[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(a[i], a[i + 4], 0x31);
  }
}

SEQMIX_VERB bool follows_streams() { return false; }
