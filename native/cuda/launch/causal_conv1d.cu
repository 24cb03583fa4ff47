#include "cuda/kernels/any/causal_conv1d.cuh"

#include "core/problem/causal_conv1d.h"
#include "cuda/launch/launch.h"

namespace seqmix::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int64_t kBlocks = 64;  // a multiprocessor

// V elements of T along `dense` are one aligned access wherever a multiple of V along it begins.
template <class T>
bool vectors_aligned(const View& v, int dense, int V) {
  if (v.stride[dense] != 1 || reinterpret_cast<uintptr_t>(v.data) % (V * sizeof(T)) != 0) return false;
  for (int i = 0; i < v.rank; i++)
    if (i != dense && v.shape[i] > 1 && v.stride[i] % V != 0) return false;
  return true;
}

// Every row of x begins as far from 16 bytes as out's.
template <class T>
bool rows_alike(const View& x, const View& out) {
  if (reinterpret_cast<uintptr_t>(x.data) % 16 != reinterpret_cast<uintptr_t>(out.data) % 16) return false;
  for (int i = 0; i < 2; i++)
    if (x.shape[i] > 1 && (x.stride[i] - out.stride[i]) % kWide<T> != 0) return false;
  return true;
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
  a.weights_together = a.w == kTaps && a.weight_k == 1 && a.weight_d == kTaps && aligned16(a.weight);
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

// By whether all is plain: four taps, no initial states, one sequence a row.
template <class T>
using Kernels = void (*[2])(ConvArgs<T>);

template <class T>
void along_tokens(const Context& c, ConvArgs<T> a, const CausalConv1d& p, bool plain) {
  constexpr int V = kWide<T>;
  constexpr Kernels<T> alike = {conv_tokens<T, false, false>, conv_tokens<T, true, false>},
                       apart = {conv_tokens<T, false, true>, conv_tokens<T, true, true>};
  const int64_t before = vectors_aligned<T>(p.out, 2, V) ? 0 : V - 1;  // a row may begin with a part of a vector
  const int64_t vectors = ceil_div(a.L + before, V), of_lane = plain ? kConvVectors<true> : kConvVectors<false>;
  while (a.lanes_log < 5 && of_lane << a.lanes_log < vectors) a.lanes_log++;
  a.places = Places(ceil_div(vectors, of_lane << a.lanes_log), a.d, a.b);
  a.bias_together = p.bias.present && together(p.bias, 1);
  const int64_t blocks = ceil_div(a.places.items << a.lanes_log, kThreads);
  set_off(c, (rows_alike<T>(p.x, p.out) ? alike : apart)[plain], static_cast<unsigned>(blocks), kThreads, a);
}

template <class T, int V>
void in_runs(const Context& c, ConvArgs<T> a, const View& bias, bool plain) {
  constexpr Kernels<T> kernels = {conv_channels<T, V, false>, conv_channels<T, V, true>};
  constexpr int kBytes = V * sizeof(T);
  const int run = plain ? kConvRun<kBytes, true> : kConvRun<kBytes, false>;
  while (a.lanes_log < 5 && V << a.lanes_log < a.d) a.lanes_log++;
  a.places = Places(ceil_div(a.d, V << a.lanes_log), ceil_div(a.L, (kThreads >> a.lanes_log) * run), a.b);
  a.bias_together = bias.present && together(bias, V);
  set_off(c, kernels[plain], static_cast<unsigned>(a.places.items), kThreads, a);
}

template <class T>
void along_channels(const Context& c, const ConvArgs<T>& a, const CausalConv1d& p, bool plain) {
  constexpr int V = 4 / sizeof(T);
  if (a.d % V == 0 && vectors_aligned<T>(p.x, 1, V) && vectors_aligned<T>(p.out, 1, V))
    in_runs<T, V>(c, a, p.bias, plain);
  else
    in_runs<T, 1>(c, a, p.bias, plain);
}

template <class T>
void convolve(Context& c, const Problem& problem) {
  const auto& p = static_cast<const CausalConv1d&>(problem);
  const ConvArgs<T> a = args_of<T>(p);
  const bool plain = a.w == kTaps && !a.initial && !a.seq;
  const bool by_token = a.x_t == 1 && (a.x_d != 1 || a.d == 1);
  // What neither kernel takes: tokens side by side in x alone, where x repeats what it has.
  const bool any = a.w > kTaps || (by_token && a.out_t != 1);
  c.kernel = any        ? "cuda.any.causal_conv1d.any"
             : by_token ? "cuda.any.causal_conv1d.bdl"
                        : "cuda.any.causal_conv1d.bld";
  const int64_t size = a.b * a.d * a.L;
  if (size > 0) {
    if (any)
      set_off(c, conv_any<T>, grid_for(c, ceil_div(size, kThreads), kBlocks), kThreads, a, !by_token);
    else if (by_token)
      along_tokens(c, a, p, plain);
    else
      along_channels(c, a, p, plain);
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
