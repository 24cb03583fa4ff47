#include "core/problem/flash_attention.h"

#include "core/status.h"
#include "cuda/launch/launch.h"

namespace seqmix::cuda {

void launch_flash_attention(Context&, const Problem& problem) {
  throw Error(Code::unsupported, std::string(name_of(problem.op)) + ": expected a tensor on the CPU, got one on CUDA");
}

}  // namespace seqmix::cuda
