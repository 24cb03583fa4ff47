// What this GPU reaches with nothing in the way, so that a benchmark can say which share of it a kernel gets.
#pragma once
#include "core/status.h"

namespace seqmix::cuda {

// In units a second: "read" and "copy" (bytes; a copy counts both ways), "fma" (float32 operations, two for each
// multiply-add), "bf16" (the same of the tensor cores), "ex2" (exponentials). Blocks for some 100 ms.
double ceiling(int device, const char* name, Status* status);

}  // namespace seqmix::cuda
