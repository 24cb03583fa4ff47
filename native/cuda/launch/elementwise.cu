// silu, add and mul.
#include "cuda/launch/elementwise.h"

#include "core/problem/elementwise.h"
#include "cuda/kernels/any/elementwise.cuh"

namespace seqmix::cuda {

namespace {

constexpr int kThreads = 256;

bool goes_by_four(const View& v) { return is_dense_vector(v) && aligned16(v.data); }

template <class F>
void launch_binary(Context& c, const Problem& problem, const char* name) {
  const auto& p = static_cast<const Binary&>(problem);
  c.kernel = name;
  const int64_t n = p.out.size();
  if (n == 0) return;
  float* const out = p.out.as<float>();
  const float *const a = p.a.as<const float>(), *const b = p.b.as<const float>();
  if (goes_by_four(p.out) && goes_by_four(p.a) && goes_by_four(p.b)) {
    map_dense<F><<<grid_for(c, ceil_div(n, kThreads * 4), 16), kThreads, 0, c.stream>>>(n, out, a, b);
    return;
  }
  const View* const views[] = {&p.out, &p.a, &p.b};
  map_strided_2<F><<<grid_for(c, ceil_div(n, kThreads), 16), kThreads, 0, c.stream>>>(nest_of(views), out, a, b);
}

}  // namespace

void launch_add(Context& c, const Problem& p) { launch_binary<AddOf>(c, p, "cuda.any.add"); }
void launch_mul(Context& c, const Problem& p) { launch_binary<MulOf>(c, p, "cuda.any.mul"); }

void launch_silu(Context& c, const Problem& problem) {
  const auto& p = static_cast<const Silu&>(problem);
  c.kernel = "cuda.any.silu";
  const int64_t n = p.out.size();
  if (n == 0) return;
  float* const out = p.out.as<float>();
  const float* const x = p.x.as<const float>();
  if (goes_by_four(p.out) && goes_by_four(p.x)) {
    map_dense<SiluOf><<<grid_for(c, ceil_div(n, kThreads * 4), 16), kThreads, 0, c.stream>>>(n, out, x);
    return;
  }
  const View* const views[] = {&p.out, &p.x};
  map_strided_1<SiluOf><<<grid_for(c, ceil_div(n, kThreads), 16), kThreads, 0, c.stream>>>(nest_of(views), out, x);
}

}  // namespace seqmix::cuda
