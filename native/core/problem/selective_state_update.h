// selectiveStateUpdate: one token of the selective scan; the state is changed in place. Mamba's form has a state
// (b, d, n) and is seen here as d heads of one channel; Mamba-2's has (b, h, p, n).
#pragma once
#include "core/problem/problem.h"

namespace seqmix {

struct SelectiveStateUpdate : Problem {
  // After validate(), in both forms:
  View state;          // (slots, h, p, n)
  View x, dt, z;       // (b, h, p); z may be absent; a per-head dt has stride 0 over p
  View A;              // (h, p, n); a per-head A has strides 0
  View B, C;           // (b, g, n), head i uses group ⌊i·g/h⌋
  View D, dt_bias;     // (h, p), may be absent
  View state_indices;  // (b) int32, may be absent: row b's slot; negative: out is 0 and no state is touched
  bool dt_softplus = false;

  View out;  // (b, h, p); the caller's shape is out_shape

  int64_t out_shape[3] = {};
  int out_rank = 0;

  SelectiveStateUpdate() : Problem(Op::selective_state_update, sizeof(SelectiveStateUpdate)) {}
  void validate();
};

}  // namespace seqmix
