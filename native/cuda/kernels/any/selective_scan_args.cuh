// What the selective scan's kernels are given. X is the op's activation dtype.
#pragma once
#include <cstdint>

#include "cuda/kernels/any/dtype.cuh"

namespace seqmix::cuda {

// What the pipeline holds of a channel.
constexpr int kPipelineStates = 16;

// One of u, delta, z, out: (b, d, L), of X. Strides count elements.
struct ScanTile {
  void* data;  // may be null: absent
  int64_t b, d, t;
  bool by_token;  // tokens lie side by side, not channels
  bool fours;     // four neighbours from a multiple of four on, along ScanArgs::by_token's dimension, are one access
};

// B or C: (b, groups, n, L) of X, or (d, n) of any float.
struct ScanMatrix {
  const void* data;
  int64_t b, g, n, t, d;  // strides; d where constant
  bool constant;
  DType dtype;
  bool by_token;
  bool fours;          // as above, along ScanArgs::matrices_by_token's dimension
  int64_t group_size;  // channels in a group
};

struct ScanArgs {
  ScanTile u, delta, z, out;
  ScanMatrix B, C;
  const void *A, *initial;  // initial may be null
  DType A_dtype, initial_dtype;
  Weights D, bias;
  const int32_t* seq;  // may be null
  float* last;         // may be null
  float* sums;         // y of the states so far, laid out as out is, where they take several launches; else null
  int64_t batch, d, n, L;
  int64_t A_d, A_n, initial_b, initial_d, initial_n, seq_b, seq_t, last_b, last_d, last_n;
  int64_t unit;                      // channels that share their groups: blocks do not reach across its multiples
  int64_t state;                     // the first state of this launch
  bool by_token, matrices_by_token;  // along which dimension to read u, delta and z and to write out; to read B and C
  bool softplus;
  bool adds;      // y continues what sums holds
  bool finishes;  // D u and the gate are for this launch
};

}  // namespace seqmix::cuda
