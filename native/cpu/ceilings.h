// What this machine reaches with nothing in the way, so that a benchmark can say which share of it a kernel gets.
#pragma once
#include "core/status.h"

namespace seqmix::cpu {

// "read" and "copy" in bytes a second (a copy counts both ways), "fma" in float32 operations a second (a multiply-add
// counts two), with the threads of the pool. Takes about a quarter of a second. The queues must be idle.
double ceiling(int device, const char* name, Status* status);

}  // namespace seqmix::cpu
