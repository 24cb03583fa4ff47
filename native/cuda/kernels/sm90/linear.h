// The product of two 16-bit matrices on Hopper's warpgroup instructions.
#pragma once
#include "cuda/launch/launch.h"

namespace seqmix::cuda {

struct LinearArgs;

// Rows by features of a block's tile.
enum class HopperTile { r64_f64, r64_f96, r128_f96, r128_f128, r128_f160, r128_f192, r128_f256, count };
struct HopperShape {
  int64_t rows, features;
  int blocks;  // on a multiprocessor at a time
};
HopperShape shape_of(HopperTile);

constexpr int64_t kHopperDepth = 64;
constexpr int kMostHopperSplits = 8;

// Whether tensor copies can read both operands, which have one 16-bit dtype.
bool hopper_can(const LinearArgs&);
// splits: 1 … kMostHopperSplits parts of `in`, each a block of a cluster. False where the operands are more than it can
// do, or the driver refuses them: nothing was set off then.
bool launch_hopper(Context&, const LinearArgs&, HopperTile, int splits);

}  // namespace seqmix::cuda
