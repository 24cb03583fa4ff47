// Barriers by number, among some of a block's warps. One instruction, one function.
#pragma once
#include <cstdint>

namespace seqmix::cuda::ptx {

// Each barrier opens when `threads` threads have come to it, a whole warp at a time, and is then ready for the next
// round. What a thread wrote before it came is seen by those that waited.
__device__ __forceinline__ void meet(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
// The same, and whether any of them says yes.
__device__ __forceinline__ bool meet_any(int barrier, int threads, bool yes) {
  uint32_t any;
  asm volatile(
      "{\n"
      ".reg .pred p, q;\n"
      "setp.ne.u32 p, %3, 0;\n"
      "bar.red.or.pred q, %1, %2, p;\n"
      "selp.u32 %0, 1, 0, q;\n"
      "}"
      : "=r"(any)
      : "r"(barrier), "r"(threads), "r"(static_cast<uint32_t>(yes))
      : "memory");
  return any != 0;
}
// Comes without waiting.
__device__ __forceinline__ void arrive(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

}  // namespace seqmix::cuda::ptx
