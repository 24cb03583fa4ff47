#include "core/problem/rotary.h"

#include "binding/args.h"
#include "binding/ops/ops.h"

namespace seqmix::binding {

// (x, cos, sin, positions, interleaved)
Napi::Value rotary(const Napi::CallbackInfo& info) {
  Call call(info);
  Rotary p;
  p.x = call.tensor(0, "x");
  p.cos = call.tensor(1, "cos");
  p.sin = call.tensor(2, "sin");
  p.positions = call.optional(3, "positions");
  p.interleaved = call.flag(4);
  p.validate();
  call.allocate(p.out);
  return call.run(p);
}

}  // namespace seqmix::binding
