// ssdChunkScan's chunked form on Hopper's warpgroup instructions.
#pragma once
#include "cuda/launch/launch.h"

namespace seqmix::cuda {

struct SsdArgs;

// False where it cannot take these operands, which have one 16-bit dtype, or the driver refuses them: nothing was set
// off then. Else `args` has been told of the flags that say which heads the plain form has to do again.
bool launch_hopper_chunks(Context&, SsdArgs& args);

}  // namespace seqmix::cuda
