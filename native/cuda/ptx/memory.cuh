// Accesses to global memory whose width the compiler must not change. One instruction, one function.
#pragma once

namespace seqmix::cuda::ptx {

// 16 bytes to an aligned address. (The compiler takes a struct apart, and often makes four stores of it, each of which
// leaves the sectors it touches partly written.)
__device__ __forceinline__ void store4(float* to, float a, float b, float c, float d) {
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "f"(a), "f"(b), "f"(c),
               "f"(d)
               : "memory");
}

}  // namespace seqmix::cuda::ptx
