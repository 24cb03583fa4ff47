// Barriers by number, among some of a block's warps. One instruction, one function.
#pragma once

namespace seqmix::cuda::ptx {

// Each barrier opens when `threads` threads have come to it, a whole warp at a time, and is then ready for the next
// round. What a thread wrote before it came is seen by those that waited.
__device__ __forceinline__ void barrier_wait(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
// Comes without waiting.
__device__ __forceinline__ void barrier_arrive(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

}  // namespace seqmix::cuda::ptx
