#include "core/problem/increment.h"

#include "binding/args.h"
#include "binding/ops/ops.h"
#include "core/layout.h"

namespace seqmix::binding {

// (t, by): changes t and returns nothing; by as a BigInt
Napi::Value increment(const Napi::CallbackInfo& info) {
  Call call(info);
  Increment p;
  p.out = call.tensor(0, "t");
  bool lossless;
  p.by = info[1].As<Napi::BigInt>().Int64Value(&lossless);
  p.validate();
  p.out.data = call.in_place(0, "t").data;
  if (p.out.size() == 0) return info.Env().Undefined();
  View* const views[] = {&p.out};
  collapse(views, 1);
  return call.run(p);
}

}  // namespace seqmix::binding
