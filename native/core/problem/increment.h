// increment: a counter that lives on the device.
#pragma once
#include "core/problem/problem.h"

namespace seqmix {

// out += by, element by element, in place; past the largest number it wraps around.
struct Increment : Problem {
  View out;  // int32 or int64, any strides; the caller collapses it after validate()
  int64_t by = 1;
  Increment() : Problem(Op::increment, sizeof(Increment)) {}
  void validate();
};

}  // namespace seqmix
