#include "core/problem/selective_scan.h"

#include "binding/args.h"
#include "binding/ops/ops.h"
#include "core/problem/selective_state_update.h"

namespace seqmix::binding {

// (u, delta, A, B, C, D, z, deltaBias, initialState, seqIdx, deltaSoftplus, returnLastState)
Napi::Value selective_scan(const Napi::CallbackInfo& info) {
  Call call(info);
  SelectiveScan p;
  p.u = call.tensor(0, "u");
  p.delta = call.tensor(1, "delta");
  p.A = call.tensor(2, "A");
  p.B = call.tensor(3, "B");
  p.C = call.tensor(4, "C");
  p.D = call.optional(5, "D");
  p.z = call.optional(6, "z");
  p.delta_bias = call.optional(7, "deltaBias");
  p.initial_state = call.optional(8, "initialState");
  p.seq_idx = call.optional(9, "seqIdx");
  p.delta_softplus = call.flag(10);
  p.return_last_state = call.flag(11);
  p.validate();
  call.allocate(p.out);
  call.allocate(p.last_state);
  return call.run(p);
}

// (state, x, dt, A, B, C, D, z, dtBias, stateIndices, dtSoftplus)
Napi::Value selective_state_update(const Napi::CallbackInfo& info) {
  Call call(info);
  SelectiveStateUpdate p;
  p.state = call.tensor(0, "state");
  p.x = call.tensor(1, "x");
  p.dt = call.tensor(2, "dt");
  p.A = call.tensor(3, "A");
  p.B = call.tensor(4, "B");
  p.C = call.tensor(5, "C");
  p.D = call.optional(6, "D");
  p.z = call.optional(7, "z");
  p.dt_bias = call.optional(8, "dtBias");
  p.state_indices = call.optional(9, "stateIndices");
  p.dt_softplus = call.flag(10);
  p.validate();
  p.state.data = call.in_place(0, "state").data;  // only now, when nothing can be refused any more
  call.allocate(p.out);
  call.present_as(p.out_shape, p.out_rank);
  return call.run(p);
}

}  // namespace seqmix::binding
