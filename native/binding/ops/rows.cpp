// The ops that work on each row by itself. Shapes are checked first, as the caller gave them; then the views are seen
// as rows.
#include "core/problem/rows.h"

#include "binding/args.h"
#include "binding/ops/ops.h"

namespace seqmix::binding {

// (x)
Napi::Value softmax(const Napi::CallbackInfo& info) {
  Call call(info);
  Softmax p;
  p.x = call.tensor(0, "x");
  p.validate();
  call.allocate(p.out);
  call.rows(p.x);
  call.rows(p.out);
  return call.run(p);
}

// (x)
Napi::Value argmax(const Napi::CallbackInfo& info) {
  Call call(info);
  ArgMax p;
  p.x = call.tensor(0, "x");
  p.validate();
  call.allocate(p.out);
  call.rows(p.x);
  call.vector(p.out);
  return call.run(p);
}

// (x, k)
Napi::Value topk(const Napi::CallbackInfo& info) {
  Call call(info);
  TopK p;
  p.x = call.tensor(0, "x");
  p.k = call.whole(1);
  p.validate();
  call.allocate(p.values);
  call.allocate(p.indices);
  call.rows(p.x);
  call.rows(p.values);
  call.rows(p.indices);
  return call.run(p);
}

// (logits, temperature, topK, topP, seed, step, counter), seed and step as BigInt; counter a tensor, or undefined
Napi::Value sample(const Napi::CallbackInfo& info) {
  Call call(info);
  Sample p;
  bool lossless;
  p.logits = call.tensor(0, "logits");
  p.temperature = call.number(1);
  p.top_k = call.whole(2);
  p.top_p = call.number(3);
  p.seed = info[4].As<Napi::BigInt>().Uint64Value(&lossless);
  p.step = info[5].As<Napi::BigInt>().Uint64Value(&lossless);
  p.counter = call.optional(6, "step");
  p.validate();
  call.allocate(p.out);
  call.rows(p.logits);
  call.vector(p.out);
  return call.run(p);
}

// (x, weight, residual, z, eps, groupSize, residualInFp32, normBeforeGate): groupSize 0 for all of a row
Napi::Value rms_norm(const Napi::CallbackInfo& info) {
  Call call(info);
  RmsNorm p;
  p.x = call.tensor(0, "x");
  p.weight = call.optional(1, "weight");
  p.residual = call.optional(2, "residual");
  p.z = call.optional(3, "z");
  p.eps = static_cast<float>(call.number(4));
  p.group = call.whole(5);
  p.sum_in_float32 = call.flag(6);
  p.norm_before_gate = call.flag(7);
  p.validate();
  call.allocate(p.out);
  call.allocate(p.sum);
  call.rows(p.x);
  call.rows(p.residual);
  call.rows(p.z);
  call.unit_last_stride(p.weight);
  call.rows(p.out);
  call.rows(p.sum);
  return call.run(p);
}

// (x, weight, bias, residual, activation)
Napi::Value linear(const Napi::CallbackInfo& info) {
  Call call(info);
  Linear p;
  p.x = call.tensor(0, "x");
  p.weight = call.tensor(1, "weight");
  p.bias = call.optional(2, "bias");
  p.residual = call.optional(3, "residual");
  p.activation = static_cast<Activation>(call.whole(4));
  p.validate();
  call.allocate(p.out);
  call.rows(p.x);
  call.unit_last_stride(p.weight);
  call.unit_last_stride(p.bias);
  call.rows(p.residual);
  call.rows(p.out);
  return call.run(p);
}

// (ids, table, dtype): dtype -1 for the table's
Napi::Value embedding(const Napi::CallbackInfo& info) {
  Call call(info);
  Embedding p;
  p.ids = call.tensor(0, "ids");
  p.table = call.tensor(1, "table");
  const int64_t dtype = call.whole(2);
  p.dtype = dtype < 0 ? p.table.dtype : static_cast<DType>(dtype);
  p.validate();
  call.allocate(p.out);
  call.vector(p.ids);
  call.unit_last_stride(p.table);
  call.rows(p.out);
  return call.run(p);
}

}  // namespace seqmix::binding
