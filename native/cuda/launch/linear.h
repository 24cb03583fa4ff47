// The two ways in which a product is made; launch_linear chooses.
#pragma once
#include "cuda/kernels/any/linear_args.cuh"
#include "cuda/launch/launch.h"

namespace seqmix::cuda {

// On the tensor cores: x and the weights have one 16-bit dtype.
void launch_tensor_linear(Context&, const LinearArgs&);

// The parts that a cut `in` gave, in scratch memory, added up and finished.
void launch_add_parts(Context&, const LinearArgs&);

// Whether n rows begin on a multiple of `bytes`, as does what lies `stride` elements further.
inline bool rows_begin_on(int64_t bytes, const void* data, DType dtype, int64_t rows, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(bytes) == 0 &&
         (rows <= 1 || stride * size_of(dtype) % bytes == 0);
}

// Blocks of a kernel whose grid is a block a tile: a grid has room for 2^31 - 1, and the kernels loop for more.
inline unsigned grid_of_tiles(int64_t tiles) { return static_cast<unsigned>(std::min<int64_t>(tiles, INT32_MAX)); }

// Cuts `in` into at most `splits` parts, each but the last a multiple of `depth`.
inline void cut(LinearArgs& a, int64_t splits, int64_t depth) {
  a.part = ceil_div(ceil_div(a.in, splits), depth) * depth;
  a.splits = static_cast<int>(std::max<int64_t>(1, ceil_div(a.in, std::max<int64_t>(a.part, 1))));
}

}  // namespace seqmix::cuda
