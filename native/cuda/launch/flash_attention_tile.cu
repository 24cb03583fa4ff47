#include "cuda/kernels/sm80/flash_attention.cuh"
#include "cuda/launch/flash_attention.h"

namespace seqmix::cuda {

namespace {

template <class Shape>
constexpr AttentionKernel tile() {
  static_assert(Shape::kShared + 1024 <= 99 * 1024);
  return {Shape::D,       Shape::kRows,
          Shape::KEYS,    Shape::kThreads,
          Shape::kShared, 0,
          Shape::BLOCKS,  {flash_attention_tile<Half, Shape>, flash_attention_tile<Brain, Shape>}};
}

// Columns, 16 rows a warp times, warps, keys of a tile, stages, blocks a multiprocessor: the fastest on an H100.
constexpr AttentionKernel kTiles[] = {
    tile<AttentionShape<64, 2, 4, 128, 2, 2>>(), tile<AttentionShape<96, 2, 4, 64, 2, 2>>(),
    tile<AttentionShape<128, 2, 4, 64, 2, 2>>(), tile<AttentionShape<192, 1, 4, 64, 1, 2>>(),
    tile<AttentionShape<256, 1, 4, 64, 1, 2>>(),
};

}  // namespace

const AttentionKernel& attention_tile_kernel(int64_t columns) {
  const AttentionKernel* k = kTiles;
  while (k->columns < columns) k++;
  return *k;
}

}  // namespace seqmix::cuda
