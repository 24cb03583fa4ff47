// Floating-point instructions that CUDA C++ has no name for. One instruction, one function.
#pragma once

namespace seqmix::cuda::ptx {

// max and min that hand a NaN on (fmaxf and fminf drop it).
__device__ __forceinline__ float max_nan(float a, float b) {
  float r;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
__device__ __forceinline__ float min_nan(float a, float b) {
  float r;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}

}  // namespace seqmix::cuda::ptx
