// One value from one dtype to another, as elementwise.h's Copy says. Truth is the bits of bool; every conversion to a
// 16-bit float (simd/float16.h) goes through one rounding.

struct Truth {
  uint8_t bits;
};

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
SEQMIX_VERB int64_t value(int8_t x) { return x; }
SEQMIX_VERB int64_t value(int32_t x) { return x; }
SEQMIX_VERB int64_t value(int64_t x) { return x; }
SEQMIX_VERB int64_t value(Truth x) { return x.bits != 0; }

SEQMIX_VERB void put(float& to, float x) { to = x; }
SEQMIX_VERB void put(float& to, int64_t x) { to = static_cast<float>(x); }
SEQMIX_VERB void put(Half& to, float x) { to = to_half(x); }
SEQMIX_VERB void put(Half& to, int64_t x) { to = to_half(sticky(x)); }
SEQMIX_VERB void put(Brain& to, float x) { to = to_brain(x); }
SEQMIX_VERB void put(Brain& to, int64_t x) { to = to_brain(sticky(x)); }
SEQMIX_VERB void put(int8_t& to, float x) { to = truncated<int8_t>(x, 0x1p7f, INT8_MIN, INT8_MAX); }
SEQMIX_VERB void put(int8_t& to, int64_t x) { to = static_cast<int8_t>(x); }
SEQMIX_VERB void put(int32_t& to, float x) { to = truncated<int32_t>(x, 0x1p31f, INT32_MIN, INT32_MAX); }
SEQMIX_VERB void put(int32_t& to, int64_t x) { to = static_cast<int32_t>(x); }
SEQMIX_VERB void put(int64_t& to, float x) { to = truncated<int64_t>(x, 0x1p63f, INT64_MIN, INT64_MAX); }
SEQMIX_VERB void put(int64_t& to, int64_t x) { to = x; }
SEQMIX_VERB void put(Truth& to, float x) { to = {static_cast<uint8_t>(x != 0)}; }
SEQMIX_VERB void put(Truth& to, int64_t x) { to = {static_cast<uint8_t>(x != 0)}; }
