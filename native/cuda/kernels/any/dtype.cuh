// The floating-point dtypes on the device: kernels compute in float32, whatever they read and write.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "core/view.h"

namespace seqmix::cuda {

using Half = __half;
using Brain = __nv_bfloat16;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(Half x) { return __half2float(x); }
__device__ __forceinline__ float widen(Brain x) { return __bfloat162float(x); }

// Rounds to nearest even.
template <class T>
__device__ __forceinline__ T narrow(float x);
template <>
__device__ __forceinline__ float narrow<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ Half narrow<Half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ Brain narrow<Brain>(float x) {
  return __float2bfloat16_rn(x);
}

// A float of a dtype known at run time only.
__device__ __forceinline__ float float_at(const void* data, DType dtype, int64_t i) {
  if (dtype == DType::float32) return static_cast<const float*>(data)[i];
  if (dtype == DType::float16) return widen(static_cast<const Half*>(data)[i]);
  return widen(static_cast<const Brain*>(data)[i]);
}

// A vector of weights, one for each channel: few enough that a branch at each read, the same for a whole warp, costs
// nothing.
struct Weights {
  const void* data;  // null where there are none
  int64_t stride;
  DType dtype;

  __device__ __forceinline__ float at(int64_t i) const { return float_at(data, dtype, i * stride); }
};

// Of the view's dimension `dim`, the others at 0.
inline Weights weights_of(const View& v, int dim = 0) { return {v.present ? v.data : nullptr, v.stride[dim], v.dtype}; }

}  // namespace seqmix::cuda
