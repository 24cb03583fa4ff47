// Where a thread is in a ring of stages, and waiting for a barrier.
#pragma once
#include "cuda/ptx/hopper.cuh"

namespace seqmix::cuda {

template <int STAGES>
struct Place {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void next() {
    if (++stage == STAGES) {
      stage = 0;
      parity ^= 1;
    }
  }
};

constexpr long long kStuck = 1LL << 33;  // cycles, several seconds: a mistake in a kernel ends it, and does not hang

__device__ __forceinline__ void wait(uint32_t barrier, uint32_t parity) {
  if (ptx::barrier_try(barrier, parity)) return;
  const long long since = clock64();
  while (!ptx::barrier_try(barrier, parity))
    if (clock64() - since > kStuck) __trap();
}

}  // namespace seqmix::cuda
