// Memory of the CPU's tensors and of what kernels write in passing, one cache for the process. Blocks that were given
// back are kept for the next of their size: fresh memory from the system costs a page fault every 4 KiB, which for a
// bandwidth-bound op is as much time as its work, and aligned allocation by the C library is slow for small ones.
#pragma once
#include <cstdint>

namespace seqmix::cpu {

// 64-byte aligned, or null when the system has none. release() wants the same number of bytes. Any thread.
void* allocate_memory(int64_t bytes);
int64_t machine_memory();  // bytes in all; no block can be larger
void release_memory(void* memory, int64_t bytes);

}  // namespace seqmix::cpu
