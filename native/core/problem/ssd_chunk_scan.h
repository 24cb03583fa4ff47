// ssdChunkScan: Mamba-2's scan, whose decay is one number a head. With dt' = dt + dtBias, through softplus when asked,
// then clamped to [dtMin, dtMax], for each head and each channel p of it:
//   h_t = exp(dt'_t A) h_{t-1} + dt'_t x_t B_t   (n states),   y_t = C_t·h_t + D x_t,   out = y silu(z)
// (Dao and Gu, Transformers are SSMs, 2024; mamba_ssm's mamba_chunk_scan_combined.)
#pragma once
#include "core/problem/problem.h"

namespace seqmix {

// Three ways to compute it: matrix products inside chunks and a state between them, the recurrence as it stands, or
// (C Bᵀ ∘ decays) x over the whole sequence, as attention does.
enum class SsdMode : uint32_t { automatic, chunked, recurrent, quadratic };

constexpr int64_t kSsdLeastChunk = 16, kSsdMostChunk = 256;

struct SsdChunkScan : Problem {
  View x;               // (b, L, h, p)
  View dt;              // (b, L, h), of x's dtype or float32
  View A;               // (h)
  View B, C;            // (b, L, g, n), head i uses group ⌊i·g/h⌋
  View D;               // (h, p) after validate(): a (h) has stride 0 over p; may be absent
  View z;               // (b, L, h, p), may be absent
  View dt_bias;         // (h), may be absent
  View initial_states;  // (b, h, p, n), may be absent
  View seq_idx;         // (b, L) int32, may be absent: the state is 0 again where it changes
  bool dt_softplus = false;
  double dt_min = 0, dt_max = 0;
  int64_t chunk_size = 0;  // tokens of a chunk; 0: what is fastest
  SsdMode mode = SsdMode::automatic;
  bool return_final_states = false;

  View out;           // (b, L, h, p), dense
  View final_states;  // (b, h, p, n), absent unless asked for

  SsdChunkScan() : Problem(Op::ssd_chunk_scan, sizeof(SsdChunkScan)) {}
  void validate();
};

}  // namespace seqmix
