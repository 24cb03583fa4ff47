// selectiveScan: h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t, y_t = C_t·h_t + D u_t, out = y silu(z), with
// Δ = delta + deltaBias, through softplus when asked. (Gu and Dao, Mamba, 2023; mamba_ssm's selective_scan_fn.)
#pragma once
#include "core/problem/problem.h"

namespace seqmix {

struct SelectiveScan : Problem {
  View u, delta;       // (b, d, L)
  View A;              // (d, n)
  View B, C;           // (b, g, n, L) after validate(); a constant (d, n) keeps its two dimensions
  View D, delta_bias;  // (d), may be absent
  View z;              // (b, d, L), may be absent
  View initial_state;  // (b, d, n), may be absent
  View seq_idx;        // (b, L) int32, may be absent: the state is 0 again where it changes
  bool delta_softplus = false;
  bool return_last_state = false;

  View out;         // (b, d, L), in u's memory order
  View last_state;  // (b, d, n), absent unless asked for

  SelectiveScan() : Problem(Op::selective_scan, sizeof(SelectiveScan)) {}
  void validate();
};

}  // namespace seqmix
