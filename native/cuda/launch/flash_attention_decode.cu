#include "cuda/kernels/sm80/flash_attention_decode.cuh"
#include "cuda/launch/flash_attention.h"

namespace seqmix::cuda {

namespace {

template <class Shape, class OfHalf, class OfBrain>
constexpr AttentionKernel decode(int blocks) {
  static_assert(Shape::kShared + 1024 <= 99 * 1024 && Shape::kRings % 128 == 0);
  return {Shape::D,       Shape::kRows,
          Shape::kKeys,   Shape::kThreads,
          Shape::kShared, Shape::kQueryBytes,
          blocks,         {flash_attention_decode<Half, Shape, OfHalf>, flash_attention_decode<Brain, Shape, OfBrain>}};
}
template <class Shape>
constexpr AttentionKernel plain_decode() {
  return decode<Shape, Half, Brain>(1);  // which are enough to keep memory busy
}
template <class Shape>
constexpr AttentionKernel scaled_decode() {
  return decode<Shape, int8_t, int8_t>(2);
}

// Columns, warps, stages, bytes an element: the fastest on an H100, with many keys for each block, and with few, whose
// blocks are sooner under way with two stages. These leave room for rotated queries too.
constexpr AttentionKernel kLong[] = {
    plain_decode<DecodeShape<64, 4, 4, 2>>(),
    plain_decode<DecodeShape<128, 4, 3, 2>>(),
    plain_decode<DecodeShape<256, 2, 2, 2>>(),
};
constexpr AttentionKernel kShort[] = {
    plain_decode<DecodeShape<64, 4, 4, 2>>(),
    plain_decode<DecodeShape<128, 4, 2, 2>>(),
    plain_decode<DecodeShape<256, 2, 2, 2>>(),
};
constexpr AttentionKernel kScaled[] = {
    scaled_decode<DecodeShape<64, 4, 4, 1>>(),
    scaled_decode<DecodeShape<128, 4, 3, 1>>(),
    scaled_decode<DecodeShape<256, 2, 2, 1>>(),
};

const AttentionKernel& of(const AttentionKernel* k, int64_t columns) {
  while (k->columns < columns) k++;
  return *k;
}

}  // namespace

const AttentionKernel& attention_decode_kernel(int64_t columns, bool is_short) {
  return of(is_short ? kShort : kLong, columns);
}
const AttentionKernel& attention_scaled_kernel(int64_t columns) { return of(kScaled, columns); }

}  // namespace seqmix::cuda
