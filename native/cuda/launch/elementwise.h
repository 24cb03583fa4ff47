// What the launchers of elementwise ops share.
#pragma once
#include "cuda/launch/launch.h"

namespace seqmix::cuda {

// One dense run of elements.
inline bool is_dense_vector(const View& v) {
  return v.rank == 0 || (v.rank == 1 && (v.stride[0] == 1 || v.shape[0] == 1));
}

}  // namespace seqmix::cuda
