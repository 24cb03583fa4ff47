// What ssdChunkScan's kernels are given.
#pragma once
#include <cstdint>

#include "cuda/kernels/any/math.cuh"

namespace seqmix::cuda {

// A (b, L, outer, inner) operand of the op's dtype: x, z and out by head and channel, B and C by group and state.
struct SsdTensor {
  void* data;  // may be null: absent
  int64_t b, t, outer, inner;
  bool pieces;  // eight neighbours from a multiple of eight on are one access, and the rows have no part of one
};

struct SsdArgs {
  SsdTensor x, B, C, z, out;
  DType dtype;
  const void* dt;
  DType dt_dtype;
  int64_t dt_b, dt_t, dt_h;
  Weights A, D, dt_bias;
  int64_t D_p;          // D's stride over channels
  const void* initial;  // (b, head, channel, state), may be null
  DType initial_dtype;
  int64_t initial_b, initial_h, initial_p, initial_n;
  const int32_t* seq;  // may be null
  int64_t seq_b, seq_t;
  float* final;  // (b, head, P, N), dense; may be null
  int64_t L, batch;
  int64_t heads, P, N, per_group;  // per_group: heads that share B and C
  float dt_low, dt_high;
  bool softplus;
  // Of the chunked form: how it is cut, and one flag a block that tells that an output was not finite.
  float* segment_states;  // (segment, batch, head, N, P, both rounded up): what segments add to the state
  float* segment_decays;  // (segment, batch, head): what is left of the state before it, negative for nothing
  int* flags;             // (batch, group, set of heads, tile of channels, segment)
  int segments;
  int64_t segment_tokens;  // a multiple of the chunk
  bool pairs;              // rows of z and out begin on 4 bytes
  // Of the plain form.
  int64_t state;           // the first state of this launch
  float* sums;             // y of the states so far, laid out as out is, where they take several launches; else null
  int64_t flags_of_heads;  // flags that a set of heads has; 0: every head is to be done
  int heads_of_set;
  int* handed;       // words of the chunked form's, to be left 0
  int handed_count;  // of them
};

// dt as the recurrence takes it: bias, softplus, clamp. NaN stays.
__device__ __forceinline__ float ssd_step(const SsdArgs& p, int64_t b, int64_t t, int64_t h, float bias) {
  float v = float_at(p.dt, p.dt_dtype, b * p.dt_b + t * p.dt_t + h * p.dt_h) + bias;
  if (p.softplus) v = softplus(v);
  return v < p.dt_low ? p.dt_low : v > p.dt_high ? p.dt_high : v;
}

// A sequence begins with token t that was not there before.
__device__ __forceinline__ bool ssd_begins(const SsdArgs& p, int64_t b, int64_t t) {
  if (!p.seq || t == 0) return false;
  const int32_t* const at = p.seq + b * p.seq_b + t * p.seq_t;
  return at[0] != at[-p.seq_t];
}

}  // namespace seqmix::cuda
