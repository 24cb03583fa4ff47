#include "cuda/kernels/sm80/flash_attention_decode.cuh"
#include "cuda/launch/flash_attention.h"

namespace seqmix::cuda {

namespace {

template <class Shape, class OfHalf, class OfBrain>
constexpr AttentionKernel decode(int blocks) {
  static_assert(Shape::kShared + 1024 <= 99 * 1024 && Shape::kRings % 16 == 0);
  return {Shape::D,       Shape::kRows,
          Shape::kKeys,   Shape::kThreads,
          Shape::kShared, Shape::kQueryBytes,
          blocks,         {flash_attention_decode<Half, Shape, OfHalf>, flash_attention_decode<Brain, Shape, OfBrain>}};
}
// Columns, warps, stages, which leave room for rotated queries too; a block is enough to keep memory busy.
template <int ROWS>
constexpr AttentionKernel kPlain[] = {
    decode<DecodeShape<ROWS, 64, 4, 4, 2>, Half, Brain>(1),
    decode<DecodeShape<ROWS, 128, 4, 3, 2>, Half, Brain>(1),
    decode<DecodeShape<ROWS, 256, 2, 2, 2>, Half, Brain>(1),
};
template <int ROWS>
constexpr AttentionKernel kScaled[] = {
    decode<DecodeShape<ROWS, 64, 4, 4, 1>, int8_t, int8_t>(2),
    decode<DecodeShape<ROWS, 128, 4, 3, 1>, int8_t, int8_t>(2),
    decode<DecodeShape<ROWS, 256, 2, 2, 1>, int8_t, int8_t>(2),
};

const AttentionKernel& of(const AttentionKernel* k, int64_t columns) {
  while (k->columns < columns) k++;
  return *k;
}

}  // namespace

const AttentionKernel& attention_decode_kernel(int64_t columns, int64_t rows) {
  return of(rows <= 8 ? kPlain<8> : kPlain<16>, columns);
}
const AttentionKernel& attention_scaled_kernel(int64_t columns, int64_t rows) {
  return of(rows <= 8 ? kScaled<8> : kScaled<16>, columns);
}

}  // namespace seqmix::cuda
