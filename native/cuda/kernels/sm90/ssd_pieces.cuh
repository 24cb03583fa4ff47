// How Hopper's chunks of ssdChunkScan (ssd_chunk_scan.cu) are dealt out, and the states that pieces begin with and
// leave.
#pragma once
#include "cuda/kernels/any/ssd_chunk_scan_args.cuh"

namespace seqmix::cuda {

constexpr int kChannels = 64;

// How lines are dealt out.
struct SsdDeal {
  int all;        // chunks of all lines
  int run;        // chunks of a block
  int chunks;     // of a line
  int parts;      // pieces a line may have, as flags count them
  float* states;  // (block, head, N · 64): of the piece that ends within its line
  float* decays;  // (block, head): what such a piece leaves of the state before it, negative for nothing
  int* handed;    // (block, head): that `states` is there, all of the state; null where a first kernel makes them
};

struct Piece {
  int line, first, end;  // chunks of the line
  int b, group, set, tile;
};

// The piece of a run that ends with the chunk before `end`, all lines' chunks counted through.
__device__ __forceinline__ Piece piece_before(const SsdArgs& p, const SsdDeal& deal, int heads, int begin, int end) {
  Piece piece;
  piece.line = (end - 1) / deal.chunks;
  const int from = piece.line * deal.chunks;
  piece.first = max(begin, from) - from;
  piece.end = end - from;
  const int tiles = static_cast<int>((p.P + kChannels - 1) / kChannels), per_group = static_cast<int>(p.per_group);
  const int sets = (per_group + heads - 1) / heads, groups = static_cast<int>(p.heads) / per_group;
  int rest = piece.line / tiles;
  piece.tile = piece.line - rest * tiles;
  piece.set = rest % sets;
  rest /= sets;
  piece.group = rest % groups;
  piece.b = rest / groups;
  return piece;
}

// What a consumer knows of its piece.
struct Part {
  int b, h, p0, channels;
};

// Four elements of the state before the first token: channels and states as the tensor cores leave them, eight states
// from 8 c on.
__device__ __forceinline__ void read_initial(const SsdArgs& p, const Part& part, int c, float (&state)[4]) {
  const int lane = threadIdx.x % 32, row = threadIdx.x % 128 / 32 * 16 + (lane >> 2);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int channel = row + (i >> 1) * 8, n = c * 8 + 2 * (lane & 3) + (i & 1);
    state[i] = 0;
    if (p.initial && n < p.N && channel < part.channels)
      state[i] = float_at(p.initial, p.initial_dtype,
                          int64_t{part.b} * p.initial_b + int64_t{part.h} * p.initial_h +
                              (part.p0 + channel) * p.initial_p + n * p.initial_n);
  }
}
template <int N>
__device__ __forceinline__ void read_initial(const SsdArgs& p, const Part& part, float (&state)[N / 8][4]) {
#pragma unroll
  for (int c = 0; c < N / 8; c++) read_initial(p, part, c, state[c]);
}
template <int N>
__device__ __forceinline__ void write_final(const SsdArgs& p, const Part& part, const float (&state)[N / 8][4]) {
  const int lane = threadIdx.x % 32, row = threadIdx.x % 128 / 32 * 16 + (lane >> 2);
  float* const to = p.final + ((int64_t{part.b} * p.heads + part.h) * p.P + part.p0) * p.N;
#pragma unroll
  for (int c = 0; c < N / 8; c++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int channel = row + (i >> 1) * 8, n = c * 8 + 2 * (lane & 3) + (i & 1);
      if (n < p.N && channel < part.channels) to[channel * p.N + n] = state[c][i];
    }
}

// States between blocks lie as the registers have them, four a thread side by side.
template <int N>
__device__ __forceinline__ void write_state(float* to, const float (&state)[N / 8][4]) {
#pragma unroll
  for (int c = 0; c < N / 8; c++)
    reinterpret_cast<float4*>(to)[c * 128 + threadIdx.x % 128] = {state[c][0], state[c][1], state[c][2], state[c][3]};
}
template <int N>
__device__ __forceinline__ void read_state(const float* from, float (&state)[N / 8][4]) {
#pragma unroll
  for (int c = 0; c < N / 8; c++) {
    const float4 v = __ldcg(reinterpret_cast<const float4*>(from) + c * 128 + threadIdx.x % 128);
    state[c][0] = v.x, state[c][1] = v.y, state[c][2] = v.z, state[c][3] = v.w;
  }
}

}  // namespace seqmix::cuda
