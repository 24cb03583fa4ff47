// CUDA's failures as Errors. A fault (an illegal address, a launch that died) ends the device for this process: CUDA
// answers every later call with the same error. So the first one is remembered, with the op it struck, and is what
// every later call on that device, from any thread, is told.
#pragma once
#include <cuda_runtime.h>

#include "core/status.h"

namespace seqmix::cuda {

// Throws ERR_CUDA (or ERR_OUT_OF_MEMORY) when `error` is one. `doing` is the op last set off, or what was tried.
void check(int device, cudaError_t error, const char* doing);

// Throws the device's fault, if it has had one.
void expect_alive(int device);

// Makes the device this thread's. Others on it may have chosen another; where nothing changes it costs little.
void choose(int device);

// cudaErrorNoDevice (no CUDA-capable device is detected)
std::string describe(cudaError_t error);

}  // namespace seqmix::cuda
