// The addon's entry: what lib/native.ts declares.
#include "binding/instance.h"
#include "binding/ops/ops.h"

namespace seqmix::binding {

namespace {
Napi::Object start(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Instance(env));
  define_devices(exports);
  define_tensors(exports);
  define_captures(exports);
  define<selective_scan>(exports, "selectiveScan");
  define<selective_state_update>(exports, "selectiveStateUpdate");
  define<ssd_chunk_scan>(exports, "ssdChunkScan");
  define<causal_conv1d>(exports, "causalConv1d");
  define<causal_conv1d_update>(exports, "causalConv1dUpdate");
  define<softmax>(exports, "softmax");
  define<argmax>(exports, "argmax");
  define<topk>(exports, "topk");
  define<sample>(exports, "sample");
  define<rms_norm>(exports, "rmsNorm");
  define<linear>(exports, "linear");
  define<embedding>(exports, "embedding");
  define<silu>(exports, "silu");
  define<add>(exports, "add");
  define<mul>(exports, "mul");
  define<flash_attention>(exports, "flashAttention");
  define<flash_attention_varlen>(exports, "flashAttentionVarlen");
  define<flash_attention_with_kv_cache>(exports, "flashAttentionWithKvCache");
  define<increment>(exports, "increment");
  define<gelu>(exports, "gelu");
  define<rotary>(exports, "rotary");
  define<softcap>(exports, "softcap");
  return exports;
}
}  // namespace

NODE_API_MODULE(seqmix, start)

}  // namespace seqmix::binding
