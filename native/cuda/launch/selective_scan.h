// The ways in which a scan is made; launch_selective_scan chooses.
#pragma once
#include "cuda/kernels/any/selective_scan_args.cuh"
#include "cuda/launch/launch.h"

namespace seqmix::cuda {

// Up to 16 states, with B and C that vary in time. False where the grid has no room for it: nothing was set off.
bool launch_scan_pipeline(Context&, ScanArgs, DType);

}  // namespace seqmix::cuda
