#include "cuda/kernels/any/causal_conv1d_update.cuh"

#include "core/problem/causal_conv1d.h"
#include "cuda/launch/launch.h"

namespace seqmix::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int64_t kBlocks = 64;  // a multiprocessor

template <class T>
void update(Context& c, const Problem& problem) {
  const auto& p = static_cast<const CausalConv1dUpdate&>(problem);
  ConvUpdateArgs<T> a{};
  a.x = p.x.as<const T>();
  a.out = p.out.as<T>();
  a.weight = p.weight.data;
  a.weight_dtype = p.weight.dtype;
  a.bias = weights_of(p.bias);
  a.state = p.conv_state.data;
  a.state_dtype = p.conv_state.dtype;
  a.seqlens = p.cache_seqlens.present ? p.cache_seqlens.as<const int32_t>() : nullptr;
  a.indices = p.state_indices.present ? p.state_indices.as<const int32_t>() : nullptr;
  a.b = p.x.shape[0];
  a.d = p.x.shape[1];
  a.s = p.x.shape[2];
  a.slots = p.conv_state.shape[0];
  a.length = p.conv_state.shape[2];
  a.w = static_cast<int>(p.weight.shape[1]);
  a.x_b = p.x.stride[0];
  a.x_d = p.x.stride[1];
  a.x_t = p.x.stride[2];
  a.out_b = p.out.stride[0];
  a.out_d = p.out.stride[1];
  a.out_t = p.out.stride[2];
  a.weight_d = p.weight.stride[0];
  a.weight_k = p.weight.stride[1];
  a.state_b = p.conv_state.stride[0];
  a.state_d = p.conv_state.stride[1];
  a.state_t = p.conv_state.stride[2];
  a.seqlens_b = p.cache_seqlens.stride[0];
  a.indices_b = p.state_indices.stride[0];
  a.silu = p.activation == Activation::silu;
  a.index_error = c.index_error;
  a.error = index_error(p);
  const int64_t items = a.b * a.d;
  if (items == 0) return;
  if (items <= INT32_MAX) a.by_d = Divisor(static_cast<uint32_t>(a.d));
  set_off(c, conv_update<T>, grid_for(c, ceil_div(items, kThreads), kBlocks), kThreads, a);
}

constexpr Launcher by_dtype[kFloatDtypes] = {update<float>, update<Half>, update<Brain>};

}  // namespace

void launch_causal_conv1d_update(Context& c, const Problem& p) {
  c.kernel = "cuda.any.causal_conv1d_update";
  by_dtype[dtype_index(static_cast<const CausalConv1dUpdate&>(p).x.dtype)](c, p);
}

}  // namespace seqmix::cuda
