#include "core/problem/problem.h"

namespace seqmix {

const char* name_of(Op op) {
  static const char* const names[kOps] = {
      "copy",
      "fill",
      "silu",
      "add",
      "mul",
      "softmax",
      "argmax",
      "topk",
      "sample",
      "embedding",
      "linear",
      "rmsNorm",
      "causalConv1d",
      "causalConv1dUpdate",
      "selectiveScan",
      "selectiveStateUpdate",
      "ssdChunkScan",
      "increment",
      "flashAttention",
      "flashAttentionVarlen",
      "flashAttentionWithKvCache",
      "gelu",
      "rotary",
      "softcap",
  };
  return static_cast<int>(op) < kOps ? names[static_cast<int>(op)] : "unknown op";
}

}  // namespace seqmix
