// The tensor cores' kernels of flash attention by dtype and head dim; launch_flash_attention chooses.
#pragma once
#include "cuda/kernels/any/flash_attention_args.cuh"
#include "cuda/launch/launch.h"

namespace seqmix::cuda {

struct AttentionKernel {
  int columns;                       // elements of a row, at most
  int rows, keys;                    // of a tile
  int threads, shared, more_shared;  // bytes; more where queries have been rotated
  int blocks;                        // wanted on a multiprocessor at a time
  void (*kernel[2])(AttentionArgs);  // float16, bfloat16
  bool loops = false;                // whether a block does one task after another where there are fewer blocks
};

constexpr int64_t kMostTensorColumns = 256;

// For many queries, for few, and for keys of int8; columns: the more of d and dv, at most 256. Rows: queries times
// heads of a group, of a sequence.
const AttentionKernel& attention_tile_kernel(int64_t columns);
// For many queries that meet many keys; null where there is none, or the device has not enough shared memory.
const AttentionKernel* attention_together_kernel(int64_t columns, int device);
const AttentionKernel& attention_decode_kernel(int64_t columns, int64_t rows);
const AttentionKernel& attention_scaled_kernel(int64_t columns, int64_t rows);

}  // namespace seqmix::cuda
