// The ops as native functions: positional arguments, tensors as externals. Each one's order is beside its definition.
#pragma once
#include <napi.h>

namespace seqmix::binding {

Napi::Value selective_scan(const Napi::CallbackInfo& info);
Napi::Value selective_state_update(const Napi::CallbackInfo& info);
Napi::Value ssd_chunk_scan(const Napi::CallbackInfo& info);
Napi::Value causal_conv1d(const Napi::CallbackInfo& info);
Napi::Value causal_conv1d_update(const Napi::CallbackInfo& info);
Napi::Value softmax(const Napi::CallbackInfo& info);
Napi::Value argmax(const Napi::CallbackInfo& info);
Napi::Value topk(const Napi::CallbackInfo& info);
Napi::Value sample(const Napi::CallbackInfo& info);
Napi::Value rms_norm(const Napi::CallbackInfo& info);
Napi::Value linear(const Napi::CallbackInfo& info);
Napi::Value embedding(const Napi::CallbackInfo& info);
Napi::Value silu(const Napi::CallbackInfo& info);
Napi::Value gelu(const Napi::CallbackInfo& info);
Napi::Value softcap(const Napi::CallbackInfo& info);
Napi::Value rotary(const Napi::CallbackInfo& info);
Napi::Value add(const Napi::CallbackInfo& info);
Napi::Value mul(const Napi::CallbackInfo& info);
Napi::Value flash_attention(const Napi::CallbackInfo& info);
Napi::Value flash_attention_varlen(const Napi::CallbackInfo& info);
Napi::Value flash_attention_with_kv_cache(const Napi::CallbackInfo& info);
Napi::Value increment(const Napi::CallbackInfo& info);

}  // namespace seqmix::binding
