// causal_conv1d and causal_conv1d_update.
#include "core/problem/causal_conv1d.h"

#include "cuda/kernels/any/causal_conv1d.cuh"
#include "cuda/launch/launch.h"

namespace seqmix::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int64_t kBlocks = 64;  // a multiprocessor

using ConvKernel = void (*)(ConvArgs);

// By width and whether accesses are of 16 bytes; null where there is none.
constexpr ConvKernel channels_kernels[][2] = {{},
                                              {},
                                              {conv_channels<2, 1>, conv_channels<2, 4>},
                                              {conv_channels<3, 1>, conv_channels<3, 4>},
                                              {conv_channels<4, 1>, conv_channels<4, 4>}};
constexpr ConvKernel tokens_kernels[][2] = {{},
                                            {},
                                            {conv_tokens<2, 1>, conv_tokens<2, 4>},
                                            {conv_tokens<3, 1>, conv_tokens<3, 4>},
                                            {conv_tokens<4, 1>, conv_tokens<4, 4>}};

// Four elements along `dense` begin on 16 bytes wherever a multiple of four along it does.
bool quads_aligned(const View& v, int dense) {
  if (v.stride[dense] != 1 || !aligned16(v.data)) return false;
  for (int i = 0; i < v.rank; i++)
    if (i != dense && v.shape[i] > 1 && v.stride[i] % 4 != 0) return false;
  return true;
}

// Tokens a thread walks: the more, the fewer are read twice, as long as there are threads for the chip to choose from.
int walk_of(const Context& c, int64_t b, int64_t blocks, int64_t L) {
  int walk = 8 * kConvBatch;
  while (walk > kConvBatch && b * blocks * ceil_div(L, walk) < c.multiprocessors * int64_t{4096}) walk /= 2;
  return walk;
}

ConvArgs args_of(const CausalConv1d& p) {
  ConvArgs a{};
  a.x = p.x.as<const float>();
  a.weight = p.weight.as<const float>();
  a.bias = p.bias.present ? p.bias.as<const float>() : nullptr;
  a.initial = p.initial_states.present ? p.initial_states.as<const float>() : nullptr;
  a.seq = p.seq_idx.present ? p.seq_idx.as<const int32_t>() : nullptr;
  a.out = p.out.as<float>();
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
  a.weight_quads = a.weight_k == 1 && rows_aligned16(p.weight);
  a.bias_d = p.bias.stride[0];
  a.initial_b = p.initial_states.stride[0];
  a.initial_d = p.initial_states.stride[1];
  a.initial_t = p.initial_states.stride[2];
  a.seq_b = p.seq_idx.stride[0];
  a.seq_t = p.seq_idx.stride[1];
  a.silu = p.activation == Activation::silu;
  if (p.final_states.present) {
    a.final = p.final_states.as<float>();
    a.final_b = p.final_states.stride[0];
    a.final_d = p.final_states.stride[1];
    a.final_t = p.final_states.stride[2];
  }
  return a;
}

}  // namespace

void launch_causal_conv1d(Context& c, const Problem& problem) {
  const auto& p = static_cast<const CausalConv1d&>(problem);
  ConvArgs a = args_of(p);
  const bool templated = a.w >= 2 && a.w <= 4;
  const bool by_token = a.x_t == 1 && (a.x_d != 1 || a.d == 1);
  c.kernel = !templated ? "cuda.any.causal_conv1d.any"
             : by_token ? "cuda.any.causal_conv1d.bdl"
                        : "cuda.any.causal_conv1d.bld";
  const int64_t size = a.b * a.d * a.L;
  if (size > 0) {
    // As many blocks as there is work for: a thread has one piece of it.
    const auto grid = [](int64_t items) { return static_cast<unsigned>(ceil_div(items, kThreads)); };
    if (!templated) {
      conv_any<<<grid_for(c, ceil_div(size, kThreads), kBlocks), kThreads, 0, c.stream>>>(a, !by_token);
    } else if (by_token) {
      const bool quads = quads_aligned(p.x, 2) && quads_aligned(p.out, 2);
      const int64_t items = a.b * ceil_div(a.d, kConvChannels) * ceil_div(a.L, quads ? 4 : 1);
      tokens_kernels[a.w][quads]<<<grid(items), kThreads, 0, c.stream>>>(a);
    } else {
      const bool quads = a.d % 4 == 0 && quads_aligned(p.x, 1) && quads_aligned(p.out, 1);
      const int64_t blocks = quads ? a.d / 4 : a.d;
      a.walk = walk_of(c, a.b, blocks, a.L);
      channels_kernels[a.w][quads]<<<grid(a.b * blocks * ceil_div(a.L, a.walk)), kThreads, 0, c.stream>>>(a);
    }
  }
  const int64_t kept = a.final ? a.b * a.d * (a.w - 1) : 0;
  if (kept > 0) conv_final_states<<<grid_for(c, ceil_div(kept, kThreads), kBlocks), kThreads, 0, c.stream>>>(a);
}

void launch_causal_conv1d_update(Context& c, const Problem& problem) {
  const auto& p = static_cast<const CausalConv1dUpdate&>(problem);
  c.kernel = "cuda.any.causal_conv1d_update";
  ConvUpdateArgs a{};
  a.x = p.x.as<const float>();
  a.weight = p.weight.as<const float>();
  a.bias = p.bias.present ? p.bias.as<const float>() : nullptr;
  a.state = p.conv_state.as<float>();
  a.out = p.out.as<float>();
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
  a.bias_d = p.bias.stride[0];
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
  conv_update<<<grid_for(c, ceil_div(items, kThreads), kBlocks), kThreads, 0, c.stream>>>(a);
}

}  // namespace seqmix::cuda
