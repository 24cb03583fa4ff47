// linear on the tensor cores. Few rows: the kernel that reads the weights as fast as memory gives them. More, on
// Hopper, where the copy engine can read both operands: the tile that should be done soonest. Else: mma.sync.
#include "cuda/kernels/sm80/linear_few.cuh"
#include "cuda/kernels/sm80/linear_tile.cuh"
#include "cuda/kernels/sm90/linear.h"
#include "cuda/launch/linear.h"

namespace seqmix::cuda {

namespace {

using FewKernel = void (*)(LinearArgs);
using TileKernel = void (*)(LinearArgs, Grain);

constexpr int64_t kFewRows = 16;
constexpr int64_t kLeastPart = 256;  // of `in`, for a block
constexpr int64_t kMostSplits = 16;
constexpr int kMostFewSplits = 8;

// Half, Brain.
template <int MT, int NT>
constexpr FewKernel kFew[] = {linear_few<Half, MT, NT>, linear_few<Brain, MT, NT>};

struct Tile {
  int64_t rows, features;
  int threads, bytes;
  TileKernel kernel[2];
};
template <int BM, int BN, int WM, int WN>
constexpr Tile tile() {
  return {BM,
          BN,
          BM / WM * (BN / WN) * 32,
          (BM + BN) * 64 * kTileStages,
          {linear_tile<Half, BM, BN, WM, WN>, linear_tile<Brain, BM, BN, WM, WN>}};
}
constexpr Tile kLarge = tile<128, 128, 64, 32>(), kSmall = tile<64, 64, 32, 32>();

int place(const LinearArgs& a) { return a.x_dtype == DType::bfloat16; }

// Bytes that can be read at once from any row.
int grain_of(const void* data, DType dtype, int64_t rows, int64_t stride) {
  for (const int bytes : {16, 4})
    if (rows_begin_on(bytes, data, dtype, rows, stride)) return bytes;
  return 2;
}

bool is_hopper(const Context& c) {
  int major = 0;
  return cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, c.device) == cudaSuccess && major == 9;
}

void launch_few(Context& c, LinearArgs a, bool clusters) {
  c.kernel = "cuda.sm80.linear.few";
  const int64_t n = ceil_div(a.features, 16);
  // Blocks of 32 features read x half as often, where there are enough of them to fill the chip all the same.
  const bool broad = a.rows > 8 && n >= 4 * c.multiprocessors;
  const int warps = n >= c.multiprocessors ? 4 : kMostFewWarps;
  const int64_t blocks = ceil_div(a.features, broad ? 32 : 16);
  // Parts of `in`, while a warp has more of it than it can have under way at once, and the chip has room for two and a
  // half blocks a multiprocessor.
  int splits = 1;
  while (clusters && splits < kMostFewSplits && a.in > int64_t{warps} * splits * 32 * 4 &&
         blocks * splits * 4 <= 5 * c.multiprocessors)
    splits *= 2;
  a.splits = splits;
  a.part = ceil_div(ceil_div(a.in, splits), 32) * 32;
  const FewKernel kernel = (broad ? kFew<2, 2> : a.rows > 8 ? kFew<1, 2> : kFew<1, 1>)[place(a)];
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(splits), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks * splits));
  config.blockDim = dim3(static_cast<unsigned>(warps * 32));
  config.stream = c.stream;
  config.attrs = &cluster;
  config.numAttrs = splits > 1 ? 1 : 0;
  (void)cudaLaunchKernelEx(&config, kernel, a);
}

// What a tile costs one of Hopper's multiprocessors, in nanoseconds, fitted to timings on an H200, which it meets
// within some 10% on average: what it picks of them was at most 17% slower than the best. A step is 64 elements of
// `in`.
struct HopperCost {
  HopperTile tile;
  int64_t step;
};
constexpr HopperCost kHopperCosts[] = {{HopperTile::r64_f64, 220},   {HopperTile::r64_f96, 270},
                                       {HopperTile::r128_f96, 335},  {HopperTile::r128_f128, 365},
                                       {HopperTile::r128_f160, 450}, {HopperTile::r128_f192, 505},
                                       {HopperTile::r128_f256, 695}};
constexpr int64_t kFinished = 13;               // elements of the result, in a nanosecond
constexpr int64_t kMeeting = 400, kAdded = 14;  // of a cluster that adds up its parts: for each block; elements, again

// Clusters that surely run at the same time: the others would begin when these have ended. A cluster needs a place
// within one of the chip's eight or so groups of multiprocessors, some of which lack a few. A pair always has one; of
// more blocks, even unlucky groups have room for three quarters of the chip.
int64_t room_for(int64_t multiprocessors, const HopperShape& shape, int splits) {
  return (splits <= 2 ? multiprocessors : multiprocessors * 3 / 4) * shape.blocks / splits;
}

bool launch_hopper(Context& c, const LinearArgs& a) {
  const int64_t steps = ceil_div(a.in, kHopperDepth);
  HopperTile tile{};
  int splits = 0;
  int64_t least = INT64_MAX;
  for (const HopperCost& cost : kHopperCosts) {
    const HopperShape shape = shape_of(cost.tile);
    if (a.rows <= 64 && shape.rows > 64) continue;
    const int64_t tiles = ceil_div(a.rows, shape.rows) * ceil_div(a.features, shape.features);
    const int64_t elements = shape.rows * shape.features;
    for (int s = 1; s <= std::min<int64_t>(kMostHopperSplits, steps); s++) {
      if (s > 1 && tiles > room_for(c.multiprocessors, shape, s)) break;
      // Two blocks on a multiprocessor share it: without parts that is counted as one after the other, with parts as
      // both at the same time, each slower.
      const int64_t rounds = s > 1 ? 1 : ceil_div(tiles, c.multiprocessors);
      const int64_t step = s > 1 && tiles * s > c.multiprocessors ? cost.step * 8 / 5 : cost.step;
      const int64_t each = ceil_div(steps, s) * step + elements / kFinished;
      const int64_t time = rounds * each + (s > 1 ? s * kMeeting + elements / kAdded : 0);
      if (time >= least) continue;
      least = time;
      tile = cost.tile;
      splits = s;
    }
  }
  return launch_hopper(c, a, tile, splits);
}

void launch_tile(Context& c, LinearArgs a) {
  c.kernel = "cuda.sm80.linear.tile";
  const auto tiles_of = [&](const Tile& t) { return ceil_div(a.rows, t.rows) * ceil_div(a.features, t.features); };
  const Tile& t = tiles_of(kLarge) >= c.multiprocessors ? kLarge : kSmall;
  const int64_t tiles = tiles_of(t);
  cut(a, std::clamp<int64_t>(std::min(2 * c.multiprocessors / tiles, a.in / kLeastPart), 1, kMostSplits), kTileDepth);
  if (a.splits > 1) a.partial = c.scratch<float>(a.splits * a.rows * a.features);
  const TileKernel kernel = t.kernel[place(a)];
  if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, t.bytes) != cudaSuccess) return;
  const Grain grain{grain_of(a.x, a.x_dtype, a.rows, a.x_stride),
                    grain_of(a.weight, a.weight_dtype, a.features, a.weight_stride)};
  kernel<<<grid_of_tiles(tiles * a.splits), t.threads, static_cast<size_t>(t.bytes), c.stream>>>(a, grain);
  if (a.splits > 1) launch_add_parts(c, a);
}

}  // namespace

void launch_tensor_linear(Context& c, const LinearArgs& a) {
  const bool aligned = a.in % 8 == 0 && rows_begin_on(16, a.x, a.x_dtype, a.rows, a.x_stride) &&
                       rows_begin_on(16, a.weight, a.weight_dtype, a.features, a.weight_stride);
  const bool hopper = is_hopper(c);
  if (aligned && a.rows <= kFewRows) return launch_few(c, a, hopper);
  if (hopper && hopper_can(a)) {
    c.kernel = "cuda.sm90.linear.tile";
    if (launch_hopper(c, a)) return;
  }
  launch_tile(c, a);
}

}  // namespace seqmix::cuda
