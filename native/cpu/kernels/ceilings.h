// Loops that measure the machine (cpu/ceilings.h): nothing but what is measured, and results that are used.

constexpr int kFmaChains =
    12;  // independent, to cover the latency of two units; they and two operands fit 16 registers

// kFmaChains multiply-adds of vectors a round, all in registers. Returns how many operations that were.
static double fma_loop(int64_t rounds, float* sink) {
  vf chain[kFmaChains];
  for (int i = 0; i < kFmaChains; i++) chain[i] = set1(static_cast<float>(i));
  const vf a = set1(0.999f), b = set1(0.001f);
  for (int64_t r = 0; r < rounds; r++)
    for (int i = 0; i < kFmaChains; i++) chain[i] = fma(chain[i], a, b);
  vf all = chain[0];
  for (int i = 1; i < kFmaChains; i++) all = all + chain[i];
  *sink = sum(all);
  return 2.0 * W * kFmaChains * static_cast<double>(rounds);
}

// Adds up count floats, a multiple of 256, as fast as they come from memory.
static float read_loop(const float* from, int64_t count) {
  constexpr int kChains = 8;
  vf chain[kChains];
  for (int i = 0; i < kChains; i++) chain[i] = set1(0.0f);
  for (int64_t at = 0; at < count; at += kChains * W)
    for (int i = 0; i < kChains; i++) chain[i] = chain[i] + load(from + at + i * W);
  vf all = chain[0];
  for (int i = 1; i < kChains; i++) all = all + chain[i];
  return sum(all);
}
