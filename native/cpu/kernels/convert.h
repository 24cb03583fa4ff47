// One value from one dtype to another, as elementwise.h's Copy says. Half and Brain are the bits of float16 and
// bfloat16, Truth those of bool; every conversion to them goes through one rounding.

struct Half {
  uint16_t bits;
};
struct Brain {
  uint16_t bits;
};
struct Truth {
  uint8_t bits;
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

// A float that rounds to any narrower format as the integer itself would: bits below its precision are kept as one.
SEQMIX_VERB float sticky(int64_t x) {
  const uint64_t u = x < 0 ? 0 - static_cast<uint64_t>(x) : static_cast<uint64_t>(x);
  if (u < (1u << 24)) return static_cast<float>(x);
  const int shift = 40 - __builtin_clzll(u);
  const uint64_t kept = u >> shift | ((u & ((uint64_t{1} << shift) - 1)) != 0);
  const float magnitude = static_cast<float>(kept) * static_cast<float>(uint64_t{1} << shift);
  return x < 0 ? -magnitude : magnitude;
}

template <class Int>
SEQMIX_VERB Int truncated(float x, float limit, Int lowest, Int highest_) {
  if (x != x) return 0;
  if (x >= limit) return highest_;
  if (x < -limit) return lowest;
  return static_cast<Int>(x);
}

// From<T>: the value as a float or an integer. To<T>: back.
SEQMIX_VERB float value(float x) { return x; }
SEQMIX_VERB float value(Half x) { return widen(x); }
SEQMIX_VERB float value(Brain x) { return widen(x); }
SEQMIX_VERB int64_t value(int32_t x) { return x; }
SEQMIX_VERB int64_t value(int64_t x) { return x; }
SEQMIX_VERB int64_t value(Truth x) { return x.bits != 0; }

SEQMIX_VERB void put(float& to, float x) { to = x; }
SEQMIX_VERB void put(float& to, int64_t x) { to = static_cast<float>(x); }
SEQMIX_VERB void put(Half& to, float x) { to = to_half(x); }
SEQMIX_VERB void put(Half& to, int64_t x) { to = to_half(sticky(x)); }
SEQMIX_VERB void put(Brain& to, float x) { to = to_brain(x); }
SEQMIX_VERB void put(Brain& to, int64_t x) { to = to_brain(sticky(x)); }
SEQMIX_VERB void put(int32_t& to, float x) { to = truncated<int32_t>(x, 0x1p31f, INT32_MIN, INT32_MAX); }
SEQMIX_VERB void put(int32_t& to, int64_t x) { to = static_cast<int32_t>(x); }
SEQMIX_VERB void put(int64_t& to, float x) { to = truncated<int64_t>(x, 0x1p63f, INT64_MIN, INT64_MAX); }
SEQMIX_VERB void put(int64_t& to, int64_t x) { to = x; }
SEQMIX_VERB void put(Truth& to, float x) { to = {static_cast<uint8_t>(x != 0)}; }
SEQMIX_VERB void put(Truth& to, int64_t x) { to = {static_cast<uint8_t>(x != 0)}; }
