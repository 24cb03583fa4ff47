// The scalar functions that ops share, so that the scan and its one-token step agree to rounding.
#pragma once
#include <cstdint>

#include "cuda/kernels/any/dtype.cuh"
#include "cuda/ptx/float.cuh"
#include "cuda/ptx/math.cuh"

namespace seqmix::cuda {

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

// x Φ(x)
__device__ __forceinline__ float gelu(float x) {
  const float y = x * normcdff(x);
  return x == -INFINITY ? -0.0f : y;
}
// x (1 + tanh(u / 2)) / 2 = x / (1 + e^-u), u = √(8/π) (x + 0.044715 x³)
__device__ __forceinline__ float gelu_tanh(float x) {
  const float u = x * fmaf(x * x, 0.0713548163f, 1.5957691216f);
  return x == -INFINITY ? -0.0f : x / (1.0f + expf(-u));
}

__device__ __forceinline__ float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

constexpr float kLog2E = 1.4426950408889634f;

// exp(delta a), given a log2(e), as scale (1 + rest): a state near its steady value feels an error of the decay
// 1/(delta |a|) times over, and `rest` keeps the digits that 1 + rest would round away. The instruction ex2.approx is
// not used, since its error near 0 need not average out.
//   2^x = 2^k 2^f, |f| ≤ 1/2, 2^f - 1 = f q(f), q of degree 4 (relative error of 2^f below 1e-7, of 2^f - 1 below 3e-7)
// Below 2^-126 the result is 0, above 2^127 it is infinite; NaN stays NaN.
struct Decay {
  float scale, rest;

  __device__ __forceinline__ float apply(float state, float input) const {
    return fmaf(fmaf(rest, state, state), scale, input);
  }
};

__device__ __forceinline__ Decay decay(float delta, float a_log2e) {
  const float x = ptx::max_nan(ptx::min_nan(delta * a_log2e, 128.0f), -127.0f);
  const float magic = 12582912.0f + 127.0f;  // 1.5 · 2^23: the sum's low bits are round(x) + 127
  const float shifted = __fadd_rn(x, magic);
  const float f = __fsub_rn(x, __fsub_rn(shifted, magic));
  float q = 0x1.5bb9f6p-10f;
  q = fmaf(q, f, 0x1.3cea86p-7f);
  q = fmaf(q, f, 0x1.c6b754p-5f);
  q = fmaf(q, f, 0x1.ebf9bcp-3f);
  q = fmaf(q, f, 0x1.62e42ap-1f);
  return {__uint_as_float(__float_as_uint(shifted) << 23), q * f};
}

// The same, cheaper, in the form that T's tolerance allows: fast_decay<T>(delta, a).apply(state, input).

// For 16 bits one number is enough: ex2.approx is within 2^-23. But a state that decays slowly outlives many tokens and
// sums up what all of their decays are off by, 1/(Δ|a|) times the average. On an H200 that average is 5e-9 to 8e-9,
// low, where |Δ a log2 e| is 2^-14 to 2^-8 (up to 3e-8 from there to 1, where fewer tokens count). Asked for 2^(x +
// 8e-9), it is within 1e-9 below 2^-9 and 2.2e-9 below 2^-8. At 0 that asks for a number whose nearest float is 1.
struct ShortDecay {
  float scale;

  __device__ __forceinline__ float apply(float state, float input) const { return fmaf(scale, state, input); }
};

// For float32 the special-function unit does 2^(k/8), which is exact where it matters, at 0, and a cubic the rest:
// |f| ≤ 1/16, relative error of 2^f - 1 below 1e-6. Infinite above 2^127, 0 below 2^-126, NaN stays NaN.
__device__ __forceinline__ Decay eighths_decay(float delta, float a_log2e) {
  const float x = ptx::max_nan(delta * a_log2e, -127.0f);
  const float magic = 1572864.0f;  // 1.5 · 2^20: the sum is a multiple of 1/8
  const float k = __fsub_rn(__fadd_rn(x, magic), magic), f = __fsub_rn(x, k);
  // ln 2, ln² 2 / 2 with three quarters of f's fourth power's share, ln³ 2 / 6
  return {ptx::ex2(k), f * fmaf(f, fmaf(f, 0.0555041087f, 0.240254685f), 0.693147181f)};
}

template <class T>
__device__ __forceinline__ auto fast_decay(float delta, float a_log2e) {
  if constexpr (sizeof(T) == sizeof(float))
    return eighths_decay(delta, a_log2e);
  else
    return ShortDecay{ptx::ex2(fmaf(delta, a_log2e, 8e-9f))};
}

// softplus and silu to a few units of 2^-22, for what is rounded to T afterwards.
template <class T>
__device__ __forceinline__ float fast_softplus(float x) {
  if constexpr (sizeof(T) == sizeof(float)) return softplus(x);
  constexpr float kLn2 = 0.693147181f;
  const float e = ptx::ex2(x * kLog2E);
  const float series = e * fmaf(e, fmaf(e, fmaf(e, -0.25f, 0.333333333f), -0.5f), 1.0f);  // of log(1 + e)
  const float y = e < 0.0625f ? series : ptx::lg2(1.0f + e) * kLn2;
  return x > 20.0f ? x : y;
}
__device__ __forceinline__ float fast_silu(float x) { return x * ptx::rcp(1.0f + ptx::ex2(x * -kLog2E)); }

}  // namespace seqmix::cuda
