// Accesses to global memory whose width the compiler must not change. One instruction, one function.
#pragma once
#include <cstdint>

namespace seqmix::cuda::ptx {

// 16 bytes to an aligned address. (The compiler takes a struct apart, and often makes four stores of it, each of which
// leaves the sectors it touches partly written.)
__device__ __forceinline__ void store4(float* to, float a, float b, float c, float d) {
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "f"(a), "f"(b), "f"(c),
               "f"(d)
               : "memory");
}
__device__ __forceinline__ void store4(void* to, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(a), "r"(b), "r"(c),
               "r"(d)
               : "memory");
}

// A word by which a block tells others that what it, and those it has met, wrote before can be read.
__device__ __forceinline__ void store_release(int* to, int value) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(__cvta_generic_to_global(to)), "r"(value) : "memory");
}
__device__ __forceinline__ int load_acquire(const int* from) {
  int r;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(r) : "l"(__cvta_generic_to_global(from)) : "memory");
  return r;
}

}  // namespace seqmix::cuda::ptx
