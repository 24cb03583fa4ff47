// The 16-bit floats, one at a time: Half and Brain are the bits of float16 and bfloat16. Included before a target's
// verbs, which load and store vectors of them. Widening is exact; narrowing rounds to nearest even, once, and keeps
// NaN.

struct Half {
  uint16_t bits;
};
struct Brain {
  uint16_t bits;
};

SEQMIX_VERB uint32_t float_bits(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  return u;
}
SEQMIX_VERB float bits_float(uint32_t u) {
  float x;
  __builtin_memcpy(&x, &u, 4);
  return x;
}

SEQMIX_VERB float widen(Brain x) { return bits_float(static_cast<uint32_t>(x.bits) << 16); }
SEQMIX_VERB float widen(Half x) {
#if defined(__F16C__)
  return _cvtsh_ss(x.bits);
#else
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
  if (rest > 0x7c00) return bits_float(sign | rest << 13 | 0x7fc00000u);  // a quiet NaN
  if (rest == 0x7c00) return bits_float(sign | 0x7f800000u);
  // the exponents differ by 112, by which a product also makes subnormals right
  return bits_float(float_bits(bits_float(rest << 13) * 0x1p112f) | sign);
#endif
}

SEQMIX_VERB Brain to_brain(float x) {
  const uint32_t u = float_bits(x);
  if ((u & 0x7fffffff) > 0x7f800000) return {static_cast<uint16_t>(u >> 16 | 0x40)};
  return {static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
SEQMIX_VERB Half to_half(float x) {
#if defined(__F16C__)
  return {static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))};
#else
  const uint32_t u = float_bits(x), sign = u >> 16 & 0x8000, rest = u & 0x7fffffff;
  if (rest > 0x7f800000) return {static_cast<uint16_t>(sign | 0x7e00 | (rest >> 13 & 0x3ff))};
  if (rest >= 0x477ff000) return {static_cast<uint16_t>(sign | 0x7c00)};  // 65520 and more round to infinity
  if (rest < 0x38800000) {
    // subnormal: the sum with 2^-1 leaves a multiple of 2^-24, rounded to even, in the low bits
    const float moved = bits_float(rest) + 0.5f;
    return {static_cast<uint16_t>(sign | (float_bits(moved) - 0x3f000000u))};
  }
  return {static_cast<uint16_t>(sign | (rest - 0x38000000u + 0xfff + (rest >> 13 & 1)) >> 13)};
#endif
}

SEQMIX_VERB float widen(float x) { return x; }
SEQMIX_VERB void narrow(float x, float* to) { *to = x; }
SEQMIX_VERB void narrow(float x, Half* to) { *to = to_half(x); }
SEQMIX_VERB void narrow(float x, Brain* to) { *to = to_brain(x); }
