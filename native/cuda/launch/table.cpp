#include "cuda/launch/launch.h"

namespace seqmix::cuda {

Launcher launcher_of(Op op) {
  // in the order of Op
  static constexpr Launcher launchers[kOps] = {
      launch_copy,
      launch_fill,
      launch_silu,
      launch_add,
      launch_mul,
      launch_softmax,
      launch_argmax,
      launch_topk,
      launch_sample,
      launch_embedding,
      launch_linear,
      launch_rms_norm,
      launch_causal_conv1d,
      launch_causal_conv1d_update,
      launch_selective_scan,
      launch_selective_state_update,
      launch_ssd_chunk_scan,
      launch_increment,
      launch_flash_attention,
      launch_flash_attention,
      launch_flash_attention,
      launch_gelu,
      launch_rotary,
      launch_softcap,
  };
  return launchers[static_cast<int>(op)];
}

}  // namespace seqmix::cuda
