#include "core/problem/increment.h"

#include "cuda/kernels/any/increment.cuh"
#include "cuda/launch/launch.h"

namespace seqmix::cuda {

void launch_increment(Context& c, const Problem& problem) {
  const auto& p = static_cast<const Increment&>(problem);
  c.kernel = "cuda.any.increment";
  constexpr int kThreads = 256;
  const int64_t n = p.out.size();
  if (n == 0) return;
  const View* const views[] = {&p.out};
  const unsigned grid = grid_for(c, ceil_div(n, kThreads), 16);
  if (p.out.dtype == DType::int64)
    increment<<<grid, kThreads, 0, c.stream>>>(nest_of(views), p.out.as<uint64_t>(), static_cast<uint64_t>(p.by));
  else
    increment<<<grid, kThreads, 0, c.stream>>>(nest_of(views), p.out.as<uint32_t>(), static_cast<uint32_t>(p.by));
}

}  // namespace seqmix::cuda
