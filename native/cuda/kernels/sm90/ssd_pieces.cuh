// How Hopper's chunks of ssdChunkScan (ssd_chunk_scan.cu) are dealt out, and the states that pieces begin with and
// leave.
#pragma once
#include "cuda/kernels/any/ssd_chunk_scan_args.cuh"
#include "cuda/kernels/sm90/pipeline.cuh"
#include "cuda/ptx/grid.cuh"
#include "cuda/ptx/memory.cuh"

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
  int* handed;    // (block, head, warp): that `states` is there, 0 before; null where a first kernel makes them
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

// A warp hands on its part of a state, which the same warp of another block will read, with what the run leaves of the
// state before it, in a word that is never 0.
template <int N>
__device__ __forceinline__ void hand_on(const SsdDeal& deal, int64_t slot, const float (&state)[N / 8][4],
                                        float decay) {
  write_state<N>(deal.states + slot * N * kChannels, state);
  __syncwarp();
  if (threadIdx.x % 32 == 0)
    ptx::store_release(deal.handed + slot * 4 + threadIdx.x % 128 / 32, (__float_as_int(decay) & 0x7fffffff) + 1);
}
// Waits until it is there. Blocks wait for none but those before them, which began before them.
__device__ __forceinline__ float handed_on(const SsdDeal& deal, int64_t slot) {
  const int* const at = deal.handed + slot * 4 + threadIdx.x % 128 / 32;
  int word = ptx::load_acquire(at);
  const long long since = clock64();
  while (word == 0) {
    word = ptx::load_acquire(at);
    if (clock64() - since > kStuck) __trap();
  }
  return __int_as_float(word - 1);
}

constexpr int kMostBefore = 32;  // runs that a run looks back to, and so lanes

// The state before a run that begins within its line: what the line's runs before it, from block `first` on, add to
// the state, each times what those between leave of it. A run whose share is nothing is not read, nor any before it.
template <int N>
__device__ __forceinline__ void read_before(const SsdDeal& deal, int heads, int head, int first,
                                            float (&state)[N / 8][4]) {
  constexpr int kHalf = N / 16, kAtOnce = 4;
  const int lane = threadIdx.x % 32, before = static_cast<int>(blockIdx.x) - first;
  float product = 0;  // of the decays of the runs that are at most this lane's number + 1 before
  if (lane < before) product = handed_on(deal, (int64_t{blockIdx.x} - 1 - lane) * heads + head);
  __syncwarp();
#pragma unroll
  for (int i = 1; i < 32; i <<= 1) {
    const float other = __shfl_up_sync(0xffffffffu, product, i);
    if (lane >= i) product *= other;
  }
  float weight = __shfl_up_sync(0xffffffffu, product, 1);
  if (lane == 0) weight = 1;
  const int count = __ffs(static_cast<int>(__ballot_sync(0xffffffffu, lane >= before || weight == 0))) - 1;
#pragma unroll
  for (int c = 0; c < N / 8; c++)
#pragma unroll
    for (int i = 0; i < 4; i++) state[c][i] = 0;
#pragma unroll
  for (int half = 0; half < 2; half++) {
#pragma unroll 1
    for (int k0 = 0; k0 < count; k0 += kAtOnce) {
      float4 v[kAtOnce][kHalf];
#pragma unroll
      for (int k = 0; k < kAtOnce; k++) {
        const int64_t slot = (int64_t{blockIdx.x} - 1 - min(k0 + k, count - 1)) * heads + head;
        const float4* const from = reinterpret_cast<const float4*>(deal.states + slot * N * kChannels);
#pragma unroll
        for (int c = 0; c < kHalf; c++) v[k][c] = __ldcg(from + (half * kHalf + c) * 128 + threadIdx.x % 128);
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; k++) {
        const float by = __shfl_sync(0xffffffffu, weight, (k0 + k) & 31);
        if (k0 + k >= count) break;
#pragma unroll
        for (int c = 0; c < kHalf; c++) {
          float (&to)[4] = state[half * kHalf + c];
          to[0] = fmaf(by, v[k][c].x, to[0]);
          to[1] = fmaf(by, v[k][c].y, to[1]);
          to[2] = fmaf(by, v[k][c].z, to[2]);
          to[3] = fmaf(by, v[k][c].w, to[3]);
        }
      }
    }
  }
}

// Turns what each piece adds to the state into the state after it, piece by piece: 128 threads do N / 8 · 4 elements of
// one head of a line each.
template <int N, int HEADS>
__global__ void __launch_bounds__(128)
    fold_pieces(const __grid_constant__ SsdArgs p, const __grid_constant__ SsdDeal deal) {
  constexpr int kAtOnce = 8;
  ptx::wait_for_earlier_kernels();
  const int c = static_cast<int>(blockIdx.x) % (N / 8), rest = static_cast<int>(blockIdx.x) / (N / 8);
  const int head = rest % HEADS, line = rest / HEADS, from = line * deal.chunks;
  const int first = from / deal.run, last = (from + deal.chunks - 1) / deal.run;  // the block that ends the line
  const Piece piece = piece_before(p, deal, HEADS, from, from + deal.chunks);
  const int in_group = piece.set * HEADS + head, per_group = static_cast<int>(p.per_group);
  if (in_group >= per_group || first == last) return;
  const Part part{piece.b, piece.group * per_group + in_group, piece.tile * kChannels,
                  static_cast<int>(min(int64_t{kChannels}, p.P - piece.tile * kChannels))};
  float state[4];
  read_initial(p, part, c, state);
  float4* const at = reinterpret_cast<float4*>(deal.states) + c * 128 + threadIdx.x;
  for (int i0 = first; i0 < last; i0 += kAtOnce) {
    float4 added[kAtOnce];
    float decay[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      if (i0 + i >= last) break;
      const int64_t slot = int64_t{i0 + i} * HEADS + head;
      added[i] = at[slot * (N * kChannels / 4)];
      decay[i] = deal.decays[slot];
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      if (i0 + i >= last) break;
      const float v[4] = {added[i].x, added[i].y, added[i].z, added[i].w};
#pragma unroll
      for (int j = 0; j < 4; j++) state[j] = decay[i] < 0 ? v[j] : fmaf(state[j], decay[i], v[j]);
      at[(int64_t{i0 + i} * HEADS + head) * (N * kChannels / 4)] = {state[0], state[1], state[2], state[3]};
    }
  }
}

}  // namespace seqmix::cuda
