// causalConv1d: out[t] = act(bias + Σ_k weight[k] x[t - (w-1) + k]) for each channel on its own. What lies before the
// first token comes from initialStates, or is 0; with seqIdx, which changes
// where another sequence begins, taps of another sequence count as 0.
#pragma once
#include "core/problem/problem.h"

namespace seqmix {

struct CausalConv1d : Problem {
  View x;               // (b, d, L)
  View weight;          // (d, w)
  View bias;            // (d), may be absent
  View initial_states;  // (b, d, w-1), oldest first, may be absent
  View seq_idx;         // (b, L) int32, may be absent
  Activation activation = Activation::none;
  bool return_final_states = false;

  View out;           // (b, d, L), in x's memory order
  View final_states;  // (b, d, w-1): the last inputs; absent unless asked for

  CausalConv1d() : Problem(Op::causal_conv1d, sizeof(CausalConv1d)) {}
  void validate();
};

// causalConv1dUpdate: s more tokens of it, from a state of the last inputs that is changed in place. The state shifts
// left; with cacheSeqlens it is a ring instead, in which position p is at p modulo its length.
struct CausalConv1dUpdate : Problem {
  View x;              // (b, d, s) after validate()
  View conv_state;     // (slots, d, length), length ≥ w-1
  View weight;         // (d, w)
  View bias;           // (d), may be absent
  View cache_seqlens;  // (b) int32, may be absent: tokens before these
  View state_indices;  // (b) int32, may be absent: row b's slot; negative: out is 0 and no state is touched
  Activation activation = Activation::none;

  View out;          // (b, d, s)
  int out_rank = 3;  // 2 when x came as (b, d)

  CausalConv1dUpdate() : Problem(Op::causal_conv1d_update, sizeof(CausalConv1dUpdate)) {}
  void validate();
};

}  // namespace seqmix
