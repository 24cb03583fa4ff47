#include "core/problem/ssd_chunk_scan.h"

#include "binding/args.h"
#include "binding/ops/ops.h"

namespace seqmix::binding {

// (x, dt, A, B, C, D, z, dtBias, initialStates, seqIdx, dtSoftplus, dtMin, dtMax, chunkSize, mode, returnFinalStates)
Napi::Value ssd_chunk_scan(const Napi::CallbackInfo& info) {
  Call call(info);
  SsdChunkScan p;
  p.x = call.tensor(0, "x");
  p.dt = call.tensor(1, "dt");
  p.A = call.tensor(2, "A");
  p.B = call.tensor(3, "B");
  p.C = call.tensor(4, "C");
  p.D = call.optional(5, "D");
  p.z = call.optional(6, "z");
  p.dt_bias = call.optional(7, "dtBias");
  p.initial_states = call.optional(8, "initialStates");
  p.seq_idx = call.optional(9, "seqIdx");
  p.dt_softplus = call.flag(10);
  p.dt_min = call.number(11);
  p.dt_max = call.number(12);
  p.chunk_size = call.whole(13);
  p.mode = static_cast<SsdMode>(call.whole(14));
  p.return_final_states = call.flag(15);
  p.validate();
  call.allocate(p.out);
  call.allocate(p.final_states);
  return call.run(p);
}

}  // namespace seqmix::binding
