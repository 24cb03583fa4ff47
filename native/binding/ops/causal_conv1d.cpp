#include "core/problem/causal_conv1d.h"

#include "binding/args.h"
#include "binding/ops/ops.h"

namespace seqmix::binding {

// (x, weight, bias, initialStates, seqIdx, activation, returnFinalStates)
Napi::Value causal_conv1d(const Napi::CallbackInfo& info) {
  Call call(info);
  CausalConv1d p;
  p.x = call.tensor(0, "x");
  p.weight = call.tensor(1, "weight");
  p.bias = call.optional(2, "bias");
  p.initial_states = call.optional(3, "initialStates");
  p.seq_idx = call.optional(4, "seqIdx");
  p.activation = static_cast<Activation>(call.whole(5));
  p.return_final_states = call.flag(6);
  p.validate();
  call.allocate(p.out);
  call.allocate(p.final_states);
  return call.run(p);
}

// (x, convState, weight, bias, cacheSeqlens, stateIndices, activation)
Napi::Value causal_conv1d_update(const Napi::CallbackInfo& info) {
  Call call(info);
  CausalConv1dUpdate p;
  p.x = call.tensor(0, "x");
  p.conv_state = call.tensor(1, "convState");
  p.weight = call.tensor(2, "weight");
  p.bias = call.optional(3, "bias");
  p.cache_seqlens = call.optional(4, "cacheSeqlens");
  p.state_indices = call.optional(5, "stateIndices");
  p.activation = static_cast<Activation>(call.whole(6));
  p.validate();
  p.conv_state.data = call.in_place(1, "convState").data;  // only now, when nothing can be refused any more
  call.allocate(p.out);
  call.present_as(p.out.shape, p.out_rank);
  return call.run(p);
}

}  // namespace seqmix::binding
