// The scalar functions that ops share, so that the scan and its one-token step agree to rounding.
#pragma once
#include <cstdint>

#include "cuda/ptx/float.cuh"

namespace seqmix::cuda {

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

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

}  // namespace seqmix::cuda
