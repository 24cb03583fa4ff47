// silu, gelu, add and mul.
#include "cuda/launch/elementwise.h"

#include "core/problem/elementwise.h"
#include "cuda/kernels/any/elementwise.cuh"

namespace seqmix::cuda {

namespace {

constexpr int kThreads = 256;

// 16 bytes at a time.
bool goes_wide(const View& v) { return is_dense_vector(v) && aligned16(v.data); }

template <class F, class T>
void binary(Context& c, const Problem& problem) {
  const auto& p = static_cast<const Binary&>(problem);
  const int64_t n = p.out.size();
  if (n == 0) return;
  T* const out = p.out.as<T>();
  const T *const a = p.a.as<const T>(), *const b = p.b.as<const T>();
  if (goes_wide(p.out) && goes_wide(p.a) && goes_wide(p.b)) {
    map_dense<F><<<grid_for(c, ceil_div(n, kThreads * kWide<T>), 16), kThreads, 0, c.stream>>>(n, out, a, b);
    return;
  }
  const View* const views[] = {&p.out, &p.a, &p.b};
  map_strided_2<F><<<grid_for(c, ceil_div(n, kThreads), 16), kThreads, 0, c.stream>>>(nest_of(views), out, a, b);
}

// P: the problem's struct, which has x and out.
template <class F, class P, class T>
void unary(Context& c, const Problem& problem) {
  const auto& p = static_cast<const P&>(problem);
  const int64_t n = p.out.size();
  if (n == 0) return;
  T* const out = p.out.template as<T>();
  const T* const x = p.x.template as<const T>();
  if (goes_wide(p.out) && goes_wide(p.x)) {
    map_dense<F><<<grid_for(c, ceil_div(n, kThreads * kWide<T>), 16), kThreads, 0, c.stream>>>(n, out, x);
    return;
  }
  const View* const views[] = {&p.out, &p.x};
  map_strided_1<F><<<grid_for(c, ceil_div(n, kThreads), 16), kThreads, 0, c.stream>>>(nest_of(views), out, x);
}

constexpr Launcher adds[kFloatDtypes] = {binary<AddOf, float>, binary<AddOf, Half>, binary<AddOf, Brain>};
// By the activation of the first operand.
constexpr Launcher muls[4][kFloatDtypes] = {
    {binary<MulOf, float>, binary<MulOf, Half>, binary<MulOf, Brain>},
    {binary<GateOf<SiluOf>, float>, binary<GateOf<SiluOf>, Half>, binary<GateOf<SiluOf>, Brain>},
    {binary<GateOf<GeluOf>, float>, binary<GateOf<GeluOf>, Half>, binary<GateOf<GeluOf>, Brain>},
    {binary<GateOf<GeluTanhOf>, float>, binary<GateOf<GeluTanhOf>, Half>, binary<GateOf<GeluTanhOf>, Brain>}};
constexpr Launcher silus[kFloatDtypes] = {unary<SiluOf, Silu, float>, unary<SiluOf, Silu, Half>,
                                          unary<SiluOf, Silu, Brain>};
// By whether it is the approximation with tanh.
constexpr Launcher gelus[2][kFloatDtypes] = {
    {unary<GeluOf, Gelu, float>, unary<GeluOf, Gelu, Half>, unary<GeluOf, Gelu, Brain>},
    {unary<GeluTanhOf, Gelu, float>, unary<GeluTanhOf, Gelu, Half>, unary<GeluTanhOf, Gelu, Brain>}};

}  // namespace

void launch_add(Context& c, const Problem& p) {
  c.kernel = "cuda.any.add";
  adds[dtype_index(static_cast<const Binary&>(p).out.dtype)](c, p);
}

void launch_mul(Context& c, const Problem& problem) {
  const auto& p = static_cast<const Binary&>(problem);
  c.kernel = "cuda.any.mul";
  muls[static_cast<int>(p.activation)][dtype_index(p.out.dtype)](c, p);
}

void launch_gelu(Context& c, const Problem& problem) {
  const auto& p = static_cast<const Gelu&>(problem);
  c.kernel = "cuda.any.gelu";
  gelus[p.tanh][dtype_index(p.out.dtype)](c, p);
}

void launch_silu(Context& c, const Problem& p) {
  c.kernel = "cuda.any.silu";
  silus[dtype_index(static_cast<const Silu&>(p).out.dtype)](c, p);
}

}  // namespace seqmix::cuda
