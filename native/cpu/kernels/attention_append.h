// New keys and values on their way into a cache, in place: rotated, then rounded to the cache's dtype, or quantised
// (see core/problem/flash_attention.h). A key of one head at a time. Floor: the bytes.

// The largest magnitude of n elements; NaN or infinity where one is.
SEQMIX_VERB float attn_magnitude(const float* x, int64_t n) {
  float a = 0;
  for (int64_t i = 0; i < n; i++) {
    const float m = __builtin_fabsf(x[i]);
    if (!(m <= a)) a = m;
    if (m != m) return m;
  }
  return a;
}

inline void attn_quantise(const float* x, int64_t n, int8_t* to, float* scale) {
  const float a = attn_magnitude(x, n), inverse = 127.0f / a;
  const bool plain = inverse > 0 && inverse <= 3.4028234664e38f;
  *scale = plain ? a / 127.0f : a <= 1 ? 0.0f : __builtin_nanf("");
  for (int64_t i = 0; i < n; i++) to[i] = plain ? static_cast<int8_t>(__builtin_rintf(x[i] * inverse)) : 0;
}

inline void attn_put(const View& cache, int64_t at, const View& scale, int64_t scale_at, const float* x, int64_t n) {
  if (cache.dtype == DType::int8) return attn_quantise(x, n, pointer<int8_t>(cache) + at, floats(scale) + scale_at);
  with_float(cache.dtype, [&](auto kind) {
    using T = decltype(kind);
    for (int64_t c = 0; c < n; c += W) store_some(pointer<T>(cache) + at + c, load(x + c), least(W, n - c));
  });
}

static void attn_append(Context& context, const FlashAttention& p, const AttnSequence* sequences) {
  const int64_t heads = p.k.shape[2], d = p.k.shape[3], dv = p.v.shape[3];
  int64_t longest = 0;
  for (int64_t r = 0; r < p.sequences; r++)
    if (sequences[r].live) longest = most(longest, sequences[r].fresh);
  parallel_ranges(context, p.sequences * longest, grain_of(heads * (d + dv) * 2), [&](int64_t begin, int64_t end, int) {
    float row[kMostHeadDim + W];
    for (int64_t item = begin; item < end; item++) {
      const AttnSequence& s = sequences[item / longest];
      const int64_t t = item % longest, j = s.used + t;
      if (!s.live || t >= s.fresh) continue;
      for (int64_t h = 0; h < heads; h++) {
        const auto from = [&](const View& v) {
          return s.q_row * v.stride[0] + (s.fresh_0 + t) * v.stride[1] + h * v.stride[2];
        };
        const auto to = [&](const View& v) { return v.present ? attn_key(s, v, j) + h * v.stride[2] : 0; };
        copy_row(p.new_k, from(p.new_k), 1, d, row);
        if (p.rotary_cos.present) attn_rotate(p, j, row);
        attn_put(p.k, to(p.k), p.k_scale, to(p.k_scale), row, d);
        copy_row(p.new_v, from(p.new_v), 1, dv, row);
        attn_put(p.v, to(p.v), p.v_scale, to(p.v_scale), row, dv);
      }
    }
  });
}
