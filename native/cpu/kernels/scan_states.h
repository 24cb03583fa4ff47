// The loop of selective_scan: states of W channels through some tokens of a tile. h = 2^(Δ a) h + Δu B, y += C h, where
// a is A log2 e, so that a decay is one exponential of base two: power() and growth() of simd.
//
// A state's h stays in a register or the first-level cache; a token's states of B and C lie side by side and are
// broadcast. The decay of a state is begun two states before it is used and finished one before: each is a chain of a
// dozen dependent operations, and a processor looks only so far ahead for others. Floor: 15 vector operations for W
// states with AVX2, 14 with AVX-512.

// A step of a state is h = 2^t h + x b, in three parts. NaN stays.
//
// Near and Far, for t <= 0, never round 2^t itself, since near t = 0 such a rounding, repeated over thousands of steps,
// is what accuracy would be lost to: with g = 2^step h, exact where the step is 0, it is (g + x b) + g (2^f - 1). Near
// is for t >= kFar only: power() ends there. Free, for any t, gives infinity where float32 ends, and not the NaN of a
// difference of two.
constexpr float kFar = -125.0f;

struct Begun {
  vf power, rest;
};
struct Decay {
  vf power, growth;
};

struct Near {
  SEQMIX_VERB static Begun begin(vf t) {
    const vf rounded = t + set1(kLarge);
    return {power(rounded), t - (rounded - set1(kLarge))};
  }
  SEQMIX_VERB static Decay finish(Begun d) { return {d.power, growth(d.rest) * d.rest}; }
  SEQMIX_VERB static vf step(Decay d, vf h, vf x, vf b) {
    const vf g = d.power * h;
    return fma(g, d.growth, fma(x, b, g));
  }
};
struct Far : Near {
  SEQMIX_VERB static Begun begin(vf t) { return Near::begin(max(set1(kFar), t)); }
};
struct Free {
  SEQMIX_VERB static Begun begin(vf t) { return Near::begin(max(set1(-125.0f), min(set1(125.0f), t * set1(0.5f)))); }
  SEQMIX_VERB static Decay finish(Begun d) {
    const vf root = fma(growth(d.rest), d.rest, set1(1.0f)) * d.power;
    return {root, root};
  }
  SEQMIX_VERB static vf step(Decay d, vf h, vf x, vf b) { return fma(h * d.power, d.growth, x * b); }
};

template <class Step>
SEQMIX_VERB vf stepped(vf t, vf h, vf x, vf b) {
  return Step::step(Step::finish(Step::begin(t)), h, x, b);
}

// Where B or C of a token's states lie: numbers for all channels, or (constant B or C) a vector a state.
struct Rows {
  const float* at;
  int64_t stride;
  SEQMIX_VERB const float* from(int64_t t, int64_t j) const { return at + t * stride + j; }
  SEQMIX_VERB static vf get(const float* p, int64_t s) { return set1(p[s]); }
};
struct Columns {
  const float* at;
  static constexpr int64_t stride = 0;
  SEQMIX_VERB const float* from(int64_t, int64_t j) const { return at + j * W; }
  SEQMIX_VERB static vf get(const float* p, int64_t s) { return load(p + s * W); }
};

// Lines of memory to be brought in meanwhile, one of each operand with a token: `at` and so many bytes on.
constexpr int kOperands = 4;
struct Ahead {
  const char* at[kOperands];
  const int64_t* lines[kOperands];
};

// W channels' states [j, ...) through tokens [t0, t1): a and h are (states, W), the others (tokens, W).
struct Stretch {
  const float *a, *delta, *du;
  float *h, *y;
  int64_t j, t0, t1;
  const Ahead* ahead;  // null: nothing
};

template <class Step, int S, class B, class C>
static __attribute__((noinline)) void scan_states(const Stretch& at, B b, C c) {
  const float *delta = at.delta + at.t0 * W, *du = at.du + at.t0 * W;
  const float *bt = b.from(at.t0, at.j), *ct = c.from(at.t0, at.j);
  float* out = at.y + at.t0 * W;
  vf h[S], a[S];
#pragma GCC unroll 8
  for (int s = 0; s < S; s++) {
    h[s] = load(at.h + (at.j + s) * W);
    a[s] = load(at.a + (at.j + s) * W);
  }
  vf d = load(delta);
  Decay ready = Step::finish(Step::begin(d * a[0]));
  Begun begun = Step::begin(d * a[1]);
  for (int64_t t = at.t0; t < at.t1; t++, delta += W, du += W, out += W, bt += b.stride, ct += c.stride) {
    if (at.ahead)
      for (int i = 0; i < kOperands; i++) __builtin_prefetch(at.ahead->at[i] + at.ahead->lines[i][t]);
    const vf x = load(du);
    vf y = at.j ? load(out) : set1(0);
#pragma GCC unroll 8
    for (int s = 0; s < S; s++) {
      if (s == S - 2) d = load(delta + W);  // the next token's; behind the last is memory that may be read
      h[s] = Step::step(ready, h[s], x, B::get(bt, s));
      y = fma(h[s], C::get(ct, s), y);
      ready = Step::finish(begun);
      begun = Step::begin(d * a[(s + 2) % S]);
    }
    store(out, y);
  }
#pragma GCC unroll 8
  for (int s = 0; s < S; s++) store(at.h + (at.j + s) * W, h[s]);
}
