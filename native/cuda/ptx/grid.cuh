// A kernel that is set off while the one before it still runs (programmatic dependent launch). One instruction, one
// function; on what comes before Hopper, where kernels are set off one after another, they do nothing.
#pragma once

namespace seqmix::cuda::ptx {

// Until every kernel before this one has ended and what it wrote can be seen. Every thread of such a kernel calls it
// before it reads or writes memory, so that the end of a kernel means the end of all those before it.
__device__ __forceinline__ void wait_for_earlier_kernels() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The same, once `worked_out`, which is not negative, is there. (The assembler takes the instruction ahead of all that
// need not come first, so that a place in memory would be worked out after the wait; it is not taken ahead of what says
// whether there is to be one.)
__device__ __forceinline__ void wait_for_earlier_kernels_after(int worked_out) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("{ .reg .pred there; setp.ge.s32 there, %0, 0; @there griddepcontrol.wait; }" ::"r"(worked_out)
               : "memory");
#endif
}

// A kernel's arguments lie in memory that is new for each launch, and the first look at each line of it takes a while.
// The block's threads look at all of them here, while the kernel waits for the ones before it anyhow.
template <class A>
__device__ __forceinline__ void look_at_arguments(const A& arguments) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  constexpr int kLine = 64, kLines = static_cast<int>((sizeof(A) + kLine - 1) / kLine);
  const char* const bytes = reinterpret_cast<const char*>(&arguments);
  for (int line = threadIdx.x / 32; line < kLines; line += blockDim.x / 32)
    asm volatile("" ::"r"(*reinterpret_cast<const int*>(bytes + line * kLine)) : "memory");
#endif
}

// The next kernel's blocks may come as soon as all blocks of this one have called it, or ended.
__device__ __forceinline__ void let_next_kernel_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace seqmix::cuda::ptx
