#include "cuda/kernels/sm80/flash_attention.cuh"
#include "cuda/kernels/sm80/flash_attention_together.cuh"
#include "cuda/launch/flash_attention.h"

namespace seqmix::cuda {

namespace {

template <class Shape>
constexpr AttentionKernel tile() {
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

using Together = TogetherShape<256, 2, 8, 64>;
constexpr AttentionKernel kTogether = {
    Together::D,
    Together::kRows,
    Together::KEYS,
    Together::kThreads,
    Together::kShared,
    0,
    Together::BLOCKS,
    {flash_attention_together<Half, Together>, flash_attention_together<Brain, Together>},
    true};

constexpr bool fit(int bytes) {
  for (const AttentionKernel& k : kTiles)
    if (k.shared > bytes) return false;
  return true;
}
static_assert(fit(98 * 1024));  // and 1 KB: compute capability 8.6 and 8.9

}  // namespace

const AttentionKernel& attention_tile_kernel(int64_t columns) {
  const AttentionKernel* k = kTiles;
  while (k->columns < columns) k++;
  return *k;
}

const AttentionKernel* attention_together_kernel(int64_t columns, int device) {
  int bytes = 0;
  const bool known = cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess;
  return columns > 192 && known && kTogether.shared + 8 * 1024 <= bytes ? &kTogether : nullptr;
}

}  // namespace seqmix::cuda
