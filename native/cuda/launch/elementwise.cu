// silu, gelu, softcap, add and mul.
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
    map_dense<<<grid_for(c, ceil_div(n, kThreads * kWide<T>), 16), kThreads, 0, c.stream>>>(F(), n, out, a, b);
    return;
  }
  const View* const views[] = {&p.out, &p.a, &p.b};
  map_strided_2<<<grid_for(c, ceil_div(n, kThreads), 16), kThreads, 0, c.stream>>>(F(), nest_of(views), out, a, b);
}

template <class F, class T>
void map_one(Context& c, F f, const View& from, const View& to) {
  const int64_t n = to.size();
  if (n == 0) return;
  T* const out = to.as<T>();
  const T* const x = from.as<const T>();
  if (goes_wide(to) && goes_wide(from)) {
    map_dense<<<grid_for(c, ceil_div(n, kThreads * kWide<T>), 16), kThreads, 0, c.stream>>>(f, n, out, x);
    return;
  }
  const View* const views[] = {&to, &from};
  map_strided_1<<<grid_for(c, ceil_div(n, kThreads), 16), kThreads, 0, c.stream>>>(f, nest_of(views), out, x);
}

template <class F>
void unary(Context& c, F f, const View& from, const View& to) {
  if (to.dtype == DType::float32)
    map_one<F, float>(c, f, from, to);
  else if (to.dtype == DType::float16)
    map_one<F, Half>(c, f, from, to);
  else
    map_one<F, Brain>(c, f, from, to);
}

constexpr Launcher adds[kFloatDtypes] = {binary<AddOf, float>, binary<AddOf, Half>, binary<AddOf, Brain>};
// By the activation of the first operand.
constexpr Launcher muls[4][kFloatDtypes] = {
    {binary<MulOf, float>, binary<MulOf, Half>, binary<MulOf, Brain>},
    {binary<GateOf<SiluOf>, float>, binary<GateOf<SiluOf>, Half>, binary<GateOf<SiluOf>, Brain>},
    {binary<GateOf<GeluOf>, float>, binary<GateOf<GeluOf>, Half>, binary<GateOf<GeluOf>, Brain>},
    {binary<GateOf<GeluTanhOf>, float>, binary<GateOf<GeluTanhOf>, Half>, binary<GateOf<GeluTanhOf>, Brain>}};

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

void launch_silu(Context& c, const Problem& problem) {
  const auto& p = static_cast<const Silu&>(problem);
  c.kernel = "cuda.any.silu";
  unary(c, SiluOf(), p.x, p.out);
}

void launch_gelu(Context& c, const Problem& problem) {
  const auto& p = static_cast<const Gelu&>(problem);
  c.kernel = "cuda.any.gelu";
  p.tanh ? unary(c, GeluTanhOf(), p.x, p.out) : unary(c, GeluOf(), p.x, p.out);
}

void launch_softcap(Context& c, const Problem& problem) {
  const auto& p = static_cast<const Softcap&>(problem);
  c.kernel = "cuda.any.softcap";
  unary(c, SoftcapOf{static_cast<float>(p.cap), static_cast<float>(1 / p.cap)}, p.x, p.out);
}

}  // namespace seqmix::cuda
