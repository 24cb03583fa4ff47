#include "cuda/kernels/any/causal_conv1d.cuh"

#include "core/problem/causal_conv1d.h"
#include "cuda/launch/launch.h"

namespace seqmix::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int64_t kBlocks = 64;  // a multiprocessor

// V elements along `dense` begin on 16 bytes wherever a multiple of V along it does.
template <class T>
bool vectors_aligned(const View& v, int dense) {
  if (v.stride[dense] != 1 || !aligned16(v.data)) return false;
  for (int i = 0; i < v.rank; i++)
    if (i != dense && v.shape[i] > 1 && v.stride[i] % kWide<T> != 0) return false;
  return true;
}

// Tokens side by side, and every row of x as far from 16 bytes as out's.
template <class T>
bool rows_alike(const View& x, const View& out) {
  if (x.stride[2] != 1 || out.stride[2] != 1) return false;
  if (reinterpret_cast<uintptr_t>(x.data) % 16 != reinterpret_cast<uintptr_t>(out.data) % 16) return false;
  for (int i = 0; i < 2; i++)
    if (x.shape[i] > 1 && (x.stride[i] - out.stride[i]) % kWide<T> != 0) return false;
  return true;
}

// Tokens a thread walks: the more, the fewer are read twice, as long as there are threads for the chip to choose from.
int walk_of(const Context& c, int64_t b, int64_t blocks, int64_t L) {
  int walk = 8 * kConvBatch;
  while (walk > kConvBatch && b * blocks * ceil_div(L, walk) < c.multiprocessors * int64_t{4096}) walk /= 2;
  return walk;
}

template <class T>
ConvArgs<T> args_of(const CausalConv1d& p) {
  ConvArgs<T> a{};
  a.x = p.x.as<const T>();
  a.weight = p.weight.data;
  a.weight_dtype = p.weight.dtype;
  a.bias = weights_of(p.bias);
  a.initial = p.initial_states.present ? p.initial_states.data : nullptr;
  a.initial_dtype = p.initial_states.dtype;
  a.seq = p.seq_idx.present ? p.seq_idx.as<const int32_t>() : nullptr;
  a.out = p.out.as<T>();
  a.b = p.x.shape[0];
  a.d = p.x.shape[1];
  a.L = p.x.shape[2];
  a.w = static_cast<int>(p.weight.shape[1]);
  a.x_b = p.x.stride[0];
  a.x_d = p.x.stride[1];
  a.x_t = p.x.stride[2];
  a.out_b = p.out.stride[0];
  a.out_d = p.out.stride[1];
  a.out_t = p.out.stride[2];
  a.weight_d = p.weight.stride[0];
  a.weight_k = p.weight.stride[1];
  a.weight_together = a.w == kTaps && a.weight_k == 1 && rows_aligned(p.weight, kTaps);
  a.initial_b = p.initial_states.stride[0];
  a.initial_d = p.initial_states.stride[1];
  a.initial_t = p.initial_states.stride[2];
  a.seq_b = p.seq_idx.stride[0];
  a.seq_t = p.seq_idx.stride[1];
  a.silu = p.activation == Activation::silu;
  if (p.final_states.present) {
    a.final = p.final_states.as<T>();
    a.final_b = p.final_states.stride[0];
    a.final_d = p.final_states.stride[1];
    a.final_t = p.final_states.stride[2];
  }
  return a;
}

// A kernel whose threads have a piece of the work each.
template <class T>
void all_at_once(const Context& c, void (*kernel)(ConvArgs<T>), const ConvArgs<T>& a, int lanes = 1) {
  set_off(c, kernel, static_cast<unsigned>(ceil_div(a.places.items * lanes, kThreads)), kThreads, a);
}

template <class T>
void convolve(Context& c, const Problem& problem) {
  const auto& p = static_cast<const CausalConv1d&>(problem);
  constexpr int V = kWide<T>;
  ConvArgs<T> a = args_of<T>(p);
  const bool short_filter = a.w <= kTaps;
  const bool by_token = a.x_t == 1 && (a.x_d != 1 || a.d == 1);
  c.kernel = !short_filter ? "cuda.any.causal_conv1d.any"
             : by_token    ? "cuda.any.causal_conv1d.bdl"
                           : "cuda.any.causal_conv1d.bld";
  const int64_t size = a.b * a.d * a.L;
  if (size > 0) {
    if (!short_filter) {
      set_off(c, conv_any<T>, grid_for(c, ceil_div(size, kThreads), kBlocks), kThreads, a, !by_token);
    } else if (by_token && rows_alike<T>(p.x, p.out)) {
      const int64_t before = vectors_aligned<T>(p.x, 2) ? 0 : V - 1;  // a row may begin with a part of a vector
      const int64_t vectors = ceil_div(a.L + before, V);
      a.lanes = 1;
      while (a.lanes < 32 && a.lanes * kConvVectors < vectors) a.lanes *= 2;
      a.places = Places(ceil_div(vectors, int64_t{kConvVectors} * a.lanes), a.d, a.b);
      all_at_once(c, conv_tokens<T>, a, a.lanes);
    } else if (by_token) {
      a.places = Places(a.L, ceil_div(a.d, kConvChannels), a.b);
      all_at_once(c, conv_tokens_apart<T>, a);
    } else {
      const bool wide = a.d % V == 0 && vectors_aligned<T>(p.x, 1) && vectors_aligned<T>(p.out, 1);
      const int64_t blocks = wide ? a.d / V : a.d;
      a.walk = walk_of(c, a.b, blocks, a.L);
      a.places = Places(blocks, ceil_div(a.L, a.walk), a.b);
      all_at_once(c, wide ? conv_channels<T, V> : conv_channels<T, 1>, a);
    }
  }
  const int64_t kept = a.final ? a.b * a.d * (a.w - 1) : 0;
  if (kept > 0) set_off(c, conv_final_states<T>, grid_for(c, ceil_div(kept, kThreads), kBlocks), kThreads, a);
}

constexpr Launcher by_dtype[kFloatDtypes] = {convolve<float>, convolve<Half>, convolve<Brain>};

}  // namespace

void launch_causal_conv1d(Context& c, const Problem& p) {
  by_dtype[dtype_index(static_cast<const CausalConv1d&>(p).x.dtype)](c, p);
}

}  // namespace seqmix::cuda
