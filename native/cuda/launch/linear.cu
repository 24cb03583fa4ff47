#include "core/problem/rows.h"
#include "cuda/kernels/any/linear.cuh"
#include "cuda/launch/launch.h"

namespace seqmix::cuda {

namespace {

constexpr int64_t kVectorRows = 8;   // up to here the weights' bytes are the cost, and a warp a feature reads them once
constexpr int64_t kLeastPart = 256;  // of `in`, for a block
constexpr int64_t kMostSplits = 16;

template <int BM, int BN, int TM, int TN>
void launch_tiles(Context& c, LinearArgs& a, bool by_four) {
  const int64_t tiles = ceil_div(a.rows, BM) * ceil_div(a.features, BN);
  const int64_t wanted = 2 * c.multiprocessors / tiles;
  const int64_t splits = std::clamp<int64_t>(std::min(wanted, a.in / kLeastPart), 1, kMostSplits);
  a.part = ceil_div(ceil_div(a.in, splits), kDepth) * kDepth;
  a.splits = static_cast<int>(std::max<int64_t>(1, ceil_div(a.in, std::max<int64_t>(a.part, 1))));
  if (a.splits > 1) a.partial = c.scratch<float>(a.splits * a.rows * a.features);
  const auto kernel = by_four ? matrix_tile<BM, BN, TM, TN, 4> : matrix_tile<BM, BN, TM, TN, 1>;
  // A block a tile: a grid has room for 2^31 - 1, and the loop in the kernel for more.
  const unsigned grid = static_cast<unsigned>(std::min<int64_t>(tiles * a.splits, INT32_MAX));
  kernel<<<grid, kLinearThreads, 0, c.stream>>>(a);
  if (a.splits > 1) add_parts<<<grid_for(c, ceil_div(a.rows * a.features, 256), 8), 256, 0, c.stream>>>(a);
}

template <int R>
void launch_vector(Context& c, const LinearArgs& a, bool by_four) {
  const auto kernel = by_four ? vector_rows<R, 4> : vector_rows<R, 1>;
  kernel<<<grid_for(c, ceil_div(a.features, kVectorThreads / 32), 32), kVectorThreads, 0, c.stream>>>(a);
}

}  // namespace

void launch_linear(Context& c, const Problem& problem) {
  const auto& p = static_cast<const Linear&>(problem);
  LinearArgs a{};
  a.x = p.x.as<const float>();
  a.weight = p.weight.as<const float>();
  a.bias = p.bias.present ? p.bias.as<const float>() : nullptr;
  a.residual = p.residual.present ? p.residual.as<const float>() : nullptr;
  a.out = p.out.as<float>();
  a.rows = p.out.shape[0];
  a.features = p.out.shape[1];
  a.in = p.x.shape[1];
  a.x_stride = p.x.stride[0];
  a.weight_stride = p.weight.stride[0];
  a.bias_stride = p.bias.stride[0];
  a.residual_stride = p.residual.stride[0];
  a.out_stride = p.out.stride[0];
  a.silu = p.activation == Activation::silu;
  a.splits = 1;
  const bool by_four = a.in % 4 == 0 && rows_aligned16(p.x) && rows_aligned16(p.weight);
  const bool vector = a.rows <= kVectorRows;
  c.kernel = vector ? "cuda.any.linear.vector" : "cuda.any.linear.matrix";
  if (a.rows == 0 || a.features == 0) return;
  if (vector) {
    if (a.rows == 1) return launch_vector<1>(c, a, by_four);
    if (a.rows == 2) return launch_vector<2>(c, a, by_four);
    if (a.rows <= 4) return launch_vector<4>(c, a, by_four);
    return launch_vector<8>(c, a, by_four);
  }
  // The large tile reuses more of what it reads; the small one fills the chip sooner.
  if (ceil_div(a.rows, 128) * ceil_div(a.features, 128) >= c.multiprocessors)
    launch_tiles<128, 128, 8, 8>(c, a, by_four);
  else
    launch_tiles<64, 64, 4, 4>(c, a, by_four);
}

}  // namespace seqmix::cuda
