// Flash attention for few queries on Hopper, where tensor copies bring in keys and values.
#pragma once
#include "core/problem/flash_attention.h"
#include "cuda/launch/flash_attention.h"

namespace seqmix::cuda {

// For so many rows of a sequence, of so many elements; null where there is none.
const AttentionKernel* hopper_decode_kernel(int64_t columns, int64_t rows);
// False where the driver refuses these keys and values: nothing was set off then.
bool launch_hopper_decode(Context&, const FlashAttention&, const AttentionKernel&, const AttentionArgs&,
                          unsigned blocks, int shared);

}  // namespace seqmix::cuda
