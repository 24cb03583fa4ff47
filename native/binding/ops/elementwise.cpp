#include "core/problem/elementwise.h"

#include "binding/args.h"
#include "binding/ops/ops.h"
#include "core/layout.h"

namespace seqmix::binding {

// (x)
Napi::Value silu(const Napi::CallbackInfo& info) {
  Call call(info);
  Silu p;
  p.x = call.tensor(0, "x");
  p.validate();
  call.allocate(p.out);
  View* const views[] = {&p.out, &p.x};
  collapse(views, 2);
  return call.run(p);
}

// (x, tanh)
Napi::Value gelu(const Napi::CallbackInfo& info) {
  Call call(info);
  Gelu p;
  p.x = call.tensor(0, "x");
  p.tanh = call.flag(1);
  p.validate();
  call.allocate(p.out);
  View* const views[] = {&p.out, &p.x};
  collapse(views, 2);
  return call.run(p);
}

// (x, cap)
Napi::Value softcap(const Napi::CallbackInfo& info) {
  Call call(info);
  Softcap p;
  p.x = call.tensor(0, "x");
  p.cap = call.number(1);
  p.validate();
  call.allocate(p.out);
  View* const views[] = {&p.out, &p.x};
  collapse(views, 2);
  return call.run(p);
}

namespace {
Napi::Value binary(const Napi::CallbackInfo& info, Op op) {
  Call call(info);
  Binary p(op);
  if (op == Op::mul) p.activation = static_cast<Activation>(call.whole(2));
  p.a = call.tensor(0, "a");
  p.b = call.tensor(1, "b");
  p.validate();
  call.allocate(p.out);
  View* const views[] = {&p.out, &p.a, &p.b};
  collapse(views, 3);
  return call.run(p);
}
}  // namespace

// (a, b)
Napi::Value add(const Napi::CallbackInfo& info) { return binary(info, Op::add); }
// (a, b, activation)
Napi::Value mul(const Napi::CallbackInfo& info) { return binary(info, Op::mul); }

}  // namespace seqmix::binding
