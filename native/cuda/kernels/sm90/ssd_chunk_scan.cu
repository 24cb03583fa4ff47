// The state-space dual's chunked form (Dao and Gu, 2024) on Hopper, for one 16-bit dtype T. With a_i the sum of dt·A up
// to token i of a chunk of Q = 64, and S the state before it:
//
//   y_i = e^{a_i} C_i·S + Σ_{j ≤ i} (C_i·B_j) e^{a_i − a_j} dt_j x_j
//   S ← e^{a_Q} S + Σ_j e^{a_Q − a_j} dt_j x_j ⊗ B_j
//
// How the work is cut. A line is a batch row, HEADS heads of one group (which share C and B) and 64 channels of them,
// the whole sequence long. All lines' chunks, one line after another, are dealt out to the multiprocessors in equal
// runs, one block each, so that a run may begin and end within a line. A block does its run's pieces of lines last to
// first: what ends within a line comes first, what begins within one last. Where runs are at least a line long, a piece
// that ends within its line so begins at the line's beginning, and its state is handed to the next block, in float32,
// which needs it last: sums are the same as if no line were cut. Where runs are shorter, a first kernel makes what each
// piece that ends within its line adds to the state, and a second one turns that into the states after the pieces.
// Where a run's chunks all fit the ring and a line has few runs, one kernel does: a block first makes what its run adds
// to the state and hands that to the line's later blocks, each of which adds up what it needs; what came for that is
// still there for the rest. Blocks wait for none but earlier ones. Such a launch is short, and gains most by that.
//
// A block is a warpgroup of consumers for each head, and a warp for each that prepares: it makes the chunk's numbers
// from the step sizes, and the first of them has the copy engine bring the chunks of C, B and x into a ring of stages.
// A stage's `full` barrier counts the bytes and those warps, its `empty` barrier the consumers' warps that are done.
// A consumer holds Sᵀ (channels × states) in registers in float32, and a copy of it in T in shared memory, which C
// multiplies. C·Bᵀ gets its decays in registers and is, packed to T, the left operand of the product with x; xᵀ times
// its tokens' shares is, in registers too, the left operand of what the state takes in. Products run while the next
// one's operands are made. y leaves through shared memory and the copy engine.
//
// What should not count is multiplied by 0 in the products with x, so that a NaN would reach tokens before it and other
// sequences; and float16, or e^{a_i} of a head that grows, may overflow. Every piece therefore says whether all of its
// sums were finite, and the plain kernel (kernels/any) does those heads again where they were not.
//
// Shared memory: tiles of 64 rows of 128 bytes (C, B: 64 states of a token; x, y: 64 channels; S: 64 states of a
// channel), swizzled as the copy engine does it (128B).
//
// Floor: x, z, out once; a token and head 4·64·N + 2·64·(N + 64) operations on the tensor cores, some 900 cycles a
// chunk of a head; and about 800 instructions of each of a consumer's warps, which is what its time is made of: two
// consumers leave the chip's schedulers idle two thirds of the time.
#include "cuda/kernels/sm90/ssd_chunk_scan.h"

#include <cuda.h>

#include "cuda/kernels/any/math.cuh"
#include "cuda/kernels/any/ssd_chunk_scan_args.cuh"
#include "cuda/kernels/any/vector.cuh"
#include "cuda/kernels/sm90/pipeline.cuh"
#include "cuda/kernels/sm90/ssd_numbers.cuh"
#include "cuda/kernels/sm90/ssd_pieces.cuh"
#include "cuda/kernels/sm90/tensor_map.h"
#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/grid.cuh"
#include "cuda/ptx/tensor.cuh"
#include "cuda/ptx/wgmma_registers.cuh"

namespace seqmix::cuda {

namespace {

// What a kernel makes of its runs: all but the states that pieces begin with; the states that pieces add up to; or
// both, of runs that the ring holds, so that what came for the states is still there for the rest.
enum class Makes { all_but_states, states, both };

template <int N, int HEADS, Makes MAKES>
struct Plan {
  static constexpr bool kStatesOnly = MAKES == Makes::states;
  static constexpr int kTiles = N / 64;  // of C, of B, of S
  static constexpr int kStages = kStatesOnly ? 4 : 3;
  static constexpr int kB = kStatesOnly ? 0 : kTiles * kTile;  // where B begins in a stage, and x
  static constexpr int kX = kB + kTiles * kTile;
  static constexpr int kStage = kX + HEADS * kTile;
  static constexpr int kStates = kStages * kStage;
  static constexpr int kOut = kStates + (kStatesOnly ? 0 : HEADS * kTiles * kTile);
  static constexpr int kNumbers = kOut + (kStatesOnly ? 0 : HEADS * kTile);
  static constexpr int kChanges = kNumbers + kStages * HEADS * Numbers::count * 4;
  static constexpr int kSkips = kChanges + kStages * kChunk * 4;
  static constexpr int kBarriers = kSkips + HEADS * kChannels * 4;
  static constexpr int kBytes = 1024 + kBarriers + 16 * kStages;
  static constexpr int kThreads = (128 + 32) * HEADS;
  static_assert(kBytes <= 227 * 1024);
};

struct SsdMaps {
  CUtensorMap x, B, C, out;
};

// What a chunk does to the state, set off: e^{a_Q} of what was there, or nothing of it, and its tokens' shares.
template <class T, int N>
__device__ __forceinline__ void take_in(float (&state)[N / 8][4], uint32_t (&shared)[4][4], float decay, bool changed,
                                        uint32_t B) {
#pragma unroll
  for (int i = 0; i < N / 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) state[i][j] *= decay;
  if (changed) {
#pragma unroll
    for (int i = 0; i < N / 8; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) state[i][j] = 0;
    __syncwarp();  // a branch, and not as many selects for all chunks
  }
  const uint64_t B_down = ptx::descriptor_down_128b(B, kTile);
  ptx::hold(state);
  ptx::hold(shared);
  ptx::wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; k++) ptx::wgmma_down(state, shared[k], B_down + k * 128, T());
  ptx::wgmma_commit();
}

template <class T, int N, int HEADS, Makes MAKES>
__global__ void __launch_bounds__(Plan<N, HEADS, MAKES>::kThreads, 1)
    hopper_chunks(const __grid_constant__ SsdMaps maps, const __grid_constant__ SsdArgs p,
                  const __grid_constant__ SsdDeal deal) {
  using L = Plan<N, HEADS, MAKES>;
  constexpr bool kStatesOnly = MAKES == Makes::states, kBoth = MAKES == Makes::both;
  constexpr bool kScaled = std::is_same_v<T, Half>;  // float16 has too small a range for products with small steps
  constexpr int kFirstMeeting = 1;
  extern __shared__ uint8_t memory[];
  const uint32_t base = (ptx::shared_address(memory) + 1023) & ~1023u;
  uint8_t* const start = memory + (base - ptx::shared_address(memory));
  const uint32_t full = base + L::kBarriers, empty = full + 8 * L::kStages;
  float* const all_numbers = reinterpret_cast<float*>(start + L::kNumbers);
  int* const all_changes = reinterpret_cast<int*>(start + L::kChanges);
  // The same for all of a warp, and known to be: descriptors then are made by uniform instructions.
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  const int per_group = static_cast<int>(p.per_group);
  const int begin = static_cast<int>(blockIdx.x) * deal.run, end = begin + min(deal.run, deal.all - begin);
  // The pieces of the run, last first. Of the first kernel's only the last, where it ends within its line.
  const auto each_piece = [&](auto work) {
    if constexpr (kStatesOnly) {
      const Piece piece = piece_before(p, deal, HEADS, begin, end);
      if (piece.end < deal.chunks) work(piece);
    } else {
      for (int to = end; to > begin;) {
        const Piece piece = piece_before(p, deal, HEADS, begin, to);
        work(piece);
        to -= piece.end - piece.first;
      }
    }
  };

  if (threadIdx.x == 0) {
    ptx::tensor_prefetch(maps.x);
    ptx::tensor_prefetch(maps.B);
    if (!kStatesOnly) ptx::tensor_prefetch(maps.C);
    if (!kStatesOnly) ptx::tensor_prefetch(maps.out);
    for (int i = 0; i < L::kStages; i++) {
      ptx::barrier_init(full + 8 * i, 1 + HEADS);
      ptx::barrier_init(empty + 8 * i, 4 * HEADS);
    }
    ptx::barrier_fence();
  }
  __syncthreads();
  ptx::wait_for_earlier_kernels();

  if (warp >= 4 * HEADS) {
    const int own = warp - 4 * HEADS;
    Place<L::kStages> at;
    Preparer<T> prepare{p, lane, own == 0};
    each_piece([&](const Piece& piece) {
      const int set0 = piece.set * HEADS, heads = min(HEADS, per_group - set0), h0 = piece.group * per_group + set0;
      const int h = h0 + min(own, heads - 1);
      prepare.begin(h);
      prepare.read(piece.b, h, piece.first);
      prepare.ready();
      for (int c = piece.first; c < piece.end; c++, at.next()) {
        const uint32_t stage = base + at.stage * L::kStage, barrier = full + 8 * at.stage;
        float step[2];
        const int changed[2] = {prepare.changed[0], prepare.changed[1]};
        prepare.steps(step);
        if (c + 1 < piece.end) prepare.read(piece.b, h, c + 1);
        wait(empty + 8 * at.stage, at.parity ^ 1);
        if (own == 0 && lane == 0) {
          ptx::barrier_expect(barrier, static_cast<uint32_t>(L::kX + heads * kTile));
#pragma unroll
          for (int i = 0; i < L::kTiles; i++) {
            if (!kStatesOnly)
              ptx::tensor_copy(stage + i * kTile, maps.C, barrier, i * 64, piece.group, c * kChunk, piece.b);
            ptx::tensor_copy(stage + L::kB + i * kTile, maps.B, barrier, i * 64, piece.group, c * kChunk, piece.b);
          }
          for (int i = 0; i < heads; i++)
            ptx::tensor_copy(stage + L::kX + i * kTile, maps.x, barrier, piece.tile * kChannels, h0 + i, c * kChunk,
                             piece.b);
        }
        __syncwarp();
        prepare.put(all_numbers + (at.stage * HEADS + own) * Numbers::count, all_changes + at.stage * kChunk, step,
                    changed);
        __syncwarp();
        if (lane == 0) ptx::barrier_arrive(barrier);
      }
    });
  } else {
    const int head = warp / 4, strip = warp % 4, thread = threadIdx.x % 128, g = lane >> 2, q = lane & 3;
    const int row0 = strip * 16 + g, row1 = row0 + 8;
    const uint32_t states = base + L::kStates + head * L::kTiles * kTile, staged = base + L::kOut + head * kTile;
    float* const skips = reinterpret_cast<float*>(start + L::kSkips) + head * kChannels;
    const int64_t slot = int64_t{blockIdx.x} * HEADS + head;
    const auto numbers_at = [&](int stage) { return all_numbers + (stage * HEADS + head) * Numbers::count; };
    const auto part_of = [&](const Piece& piece) {
      return Part{piece.b, piece.group * per_group + piece.set * HEADS + head, piece.tile * kChannels,
                  static_cast<int>(min(int64_t{kChannels}, p.P - piece.tile * kChannels))};
    };
    // A set may have a head too many.
    const auto is_there = [&](const Piece& piece) { return piece.set * HEADS + head < per_group; };
    Place<L::kStages> at;

    if constexpr (MAKES != Makes::all_but_states) {
      const Piece piece = piece_before(p, deal, HEADS, begin, end);
      if (piece.end < deal.chunks && is_there(piece)) {
        float state[N / 8][4];
        if (kBoth && piece.first == 0) {
          read_initial<N>(p, part_of(piece), state);
        } else {
#pragma unroll
          for (int i = 0; i < N / 8; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) state[i][j] = 0;
        }
        float unit = 1;        // what float16's state is to be multiplied by
        float left = 0;        // log2 of what the piece leaves of the state before it
        bool forgets = false;  // or nothing, since the sequence changed
        uint32_t shared[4][4], next[4][4] = {};
        const auto share_out = [&](uint32_t (&to)[4][4]) {
          wait(full + 8 * at.stage, at.parity);
          share<T>(to, base + at.stage * L::kStage + L::kX + head * kTile, numbers_at(at.stage), strip);
        };
        share_out(shared);
#pragma unroll 1
        for (int c = piece.first; c < piece.end; c++) {
          const int stage = at.stage;
          const float* const numbers = numbers_at(stage);
          const float total = numbers[Numbers::sums + kChunk - 1], unscale = kScaled ? numbers[Numbers::unscale] : 1.0f;
          const bool changed = p.seq && all_changes[stage * kChunk + kChunk - 1];
          const float decay = kScaled ? ptx::ex2(total) * __fdividef(unit, unscale) : ptx::ex2(total);
          take_in<T, N>(state, shared, decay, changed, base + stage * L::kStage + L::kB);
          at.next();
          if (c + 1 < piece.end) share_out(next);
          ptx::wgmma_wait<0>();
          ptx::hold(shared);
          ptx::hold(state);
#pragma unroll
          for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) shared[i][j] = next[i][j];
          if (kScaled) unit = unscale;
          left += total;
          forgets = forgets || changed;
          if (!kBoth && lane == 0) ptx::barrier_arrive(empty + 8 * stage);
        }
        at = Place<L::kStages>();
        if (kScaled)
#pragma unroll
          for (int i = 0; i < N / 8; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) state[i][j] *= unit;
        const float decay = forgets ? 0.0f : ptx::ex2(left);
        if (kBoth) {
          hand_on<N>(deal, slot, state, decay);
        } else {
          write_state<N>(deal.states + slot * N * kChannels, state);
          if (thread == 0) deal.decays[slot] = forgets ? -1.0f : decay;
        }
      } else if (kStatesOnly) {
        for (int c = piece.first; c < piece.end && piece.end < deal.chunks; c++, at.next()) {
          wait(full + 8 * at.stage, at.parity);
          if (lane == 0) ptx::barrier_arrive(empty + 8 * at.stage);
        }
      }
    }

    if constexpr (!kStatesOnly)
      each_piece([&](const Piece& piece) {
        if (!is_there(piece)) {
          for (int c = piece.first; c < piece.end; c++, at.next()) {
            wait(full + 8 * at.stage, at.parity);
            if (lane == 0) ptx::barrier_arrive(empty + 8 * at.stage);
          }
          return;
        }
        const Part part = part_of(piece);
        float state[N / 8][4];
        if (p.D.data && thread < kChannels)
          skips[thread] = thread < part.channels
                              ? float_at(p.D.data, p.D.dtype, part.h * p.D.stride + (part.p0 + thread) * p.D_p)
                              : 0.0f;
        float unit = 1;
        if (piece.first == 0) {
          read_initial<N>(p, part, state);
        } else if (kBoth) {
          read_before<N>(deal, HEADS, head, piece.line * deal.chunks / deal.run, state);
          // Not sooner: what comes next takes turns with blocks that others wait for.
          ptx::let_next_kernel_begin();
        } else {
          if (deal.handed) handed_on(deal, slot - HEADS);
          read_state<N>(deal.states + (slot - HEADS) * N * kChannels, state);
        }
        // The state in T for the product with C.
        const auto publish = [&] {
#pragma unroll
          for (int c = 0; c < N / 8; c += 2) {
            const auto two = [&](int i, int j) {
              return kScaled ? pack<T>(state[i][j] * unit, state[i][j + 1] * unit)
                             : pack<T>(state[i][j], state[i][j + 1]);
            };
            ptx::store_matrices(states + place_of(strip * 16 + lane % 16, c + lane / 16), two(c, 0), two(c, 2),
                                two(c + 1, 0), two(c + 1, 2));
          }
        };
        publish();
        ptx::shared_written();
        ptx::meet(kFirstMeeting + head, 128);

        uint32_t lost[2] = {};  // pairs of T, NaN once an output of this thread's is not finite
#pragma unroll 1
        for (int c = piece.first; c < piece.end; c++, at.next()) {
          const uint32_t stage = base + at.stage * L::kStage, x = stage + L::kX + head * kTile;
          const float* const numbers = numbers_at(at.stage);
          const int* const changes = all_changes + at.stage * kChunk;
          wait(full + 8 * at.stage, at.parity);
          uint32_t weights[4][4], shared[4][4];
          const uint64_t C_tile = ptx::descriptor_128b(stage), B_tile = ptx::descriptor_128b(stage + L::kB);
          const auto depth = [](int k) { return static_cast<uint64_t>(k / 4 * (kTile / 16) + k % 4 * 2); };
          float m[8][4], y[8][4];
          ptx::wgmma_fence();
          ptx::wgmma_from_zero(m, C_tile, B_tile, T());
#pragma unroll
          for (int k = 1; k < N / 16; k++) ptx::wgmma(m, C_tile + depth(k), B_tile + depth(k), T());
          ptx::wgmma_commit();
          {
            float e[4][4];
            decays<0>(e, numbers, changes, p.seq, strip);
            ptx::wgmma_wait<0>();
            ptx::hold(m);
            weigh<T, 0>(weights, m, e);
            decays<1>(e, numbers, changes, p.seq, strip);
            weigh<T, 1>(weights, m, e);
            const uint64_t S_tile = ptx::descriptor_128b(states);
            ptx::wgmma_fence();
            ptx::wgmma_from_zero(y, C_tile, S_tile, T());
#pragma unroll
            for (int k = 1; k < N / 16; k++) ptx::wgmma(y, C_tile + depth(k), S_tile + depth(k), T());
            ptx::wgmma_commit();
          }
          const float total = numbers[Numbers::sums + kChunk - 1], unscale = kScaled ? numbers[Numbers::unscale] : 1.0f;
          const int changes_in_all = p.seq ? changes[kChunk - 1] : 0;
          const float decay = kScaled ? ptx::ex2(total) * __fdividef(unit, unscale) : ptx::ex2(total);
          share<T>(shared, x, numbers, strip);
          take_in<T, N>(state, shared, decay, changes_in_all, stage + L::kB);

          {
            const float carry0 = numbers[Numbers::carries + row0], carry1 = numbers[Numbers::carries + row1];
            ptx::wgmma_wait<1>();
            ptx::hold(y);
#pragma unroll
            for (int i = 0; i < 8; i++) {
              y[i][0] *= carry0;
              y[i][1] *= carry0;
              y[i][2] *= carry1;
              y[i][3] *= carry1;
            }
            if (changes_in_all) {
              const int changes0 = changes[row0], changes1 = changes[row1];
#pragma unroll
              for (int i = 0; i < 8; i++) {
                if (changes0) y[i][0] = y[i][1] = 0;
                if (changes1) y[i][2] = y[i][3] = 0;
              }
              __syncwarp();
            }
            const uint64_t x_tile = ptx::descriptor_down_128b(x, kTile);
            ptx::hold(y);
            ptx::hold(weights);
            ptx::wgmma_fence();
#pragma unroll
            for (int k = 0; k < 4; k++) ptx::wgmma_down(y, weights[k], x_tile + k * 128, T());
            ptx::wgmma_commit();
            if (thread == 0) ptx::stores_read();
            ptx::meet(kFirstMeeting + head, 128);  // C·S is done in all warps, and y of the chunk before is out
            ptx::wgmma_wait<1>();
            ptx::hold(shared);
            ptx::hold(state);
            if (kScaled) unit = unscale;
            publish();
            uint32_t own[4][4];
            if (p.D.data)
#pragma unroll
              for (int i = 0; i < 4; i++)
                ptx::load_matrices(own[i], x + place_of(strip * 16 + lane % 16, 2 * i + lane / 16));
            ptx::wgmma_wait<0>();
            ptx::hold(weights);
            ptx::hold(y);
            if (kScaled)
#pragma unroll
              for (int i = 0; i < 8; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) y[i][j] *= unscale;
            if (p.D.data)
#pragma unroll
              for (int i = 0; i < 8; i++) {
                const float2 skip = *reinterpret_cast<const float2*>(skips + i * 8 + 2 * q);
#pragma unroll
                for (int j = 0; j < 2; j++) {
                  const float2 v = unpack<T>(own[i / 2][i % 2 * 2 + j]);
                  y[i][2 * j] = fmaf(v.x, skip.x, y[i][2 * j]);
                  y[i][2 * j + 1] = fmaf(v.y, skip.y, y[i][2 * j + 1]);
                }
              }
            if (p.z.data)
#pragma unroll
              for (int i = 0; i < 2; i++) {
                const int64_t t = int64_t{c} * kChunk + (i ? row1 : row0);
                if (t >= p.L) continue;
                const T* const z =
                    static_cast<const T*>(p.z.data) + part.b * p.z.b + t * p.z.t + part.h * p.z.outer + part.p0 + 2 * q;
#pragma unroll
                for (int j = 0; j < 8; j++) {
                  if (2 * q + j * 8 >= part.channels) continue;
                  const float2 gate = unpack<T>(*reinterpret_cast<const uint32_t*>(z + j * 8));
                  y[j][2 * i] *= fast_silu(gate.x);
                  y[j][2 * i + 1] *= fast_silu(gate.y);
                }
              }
#pragma unroll
            for (int i = 0; i < 8; i += 2) {
              const uint32_t out[4] = {pack<T>(y[i][0], y[i][1]), pack<T>(y[i][2], y[i][3]),
                                       pack<T>(y[i + 1][0], y[i + 1][1]), pack<T>(y[i + 1][2], y[i + 1][3])};
#pragma unroll
              for (int j = 0; j < 4; j++) lost[j % 2] = lose<T>(out[j], lost[j % 2]);
              ptx::store_matrices(staged + place_of(strip * 16 + lane % 16, i + lane / 16), out[0], out[1], out[2],
                                  out[3]);
            }
          }
          if (lane == 0) ptx::barrier_arrive(empty + 8 * at.stage);
          ptx::shared_written();
          ptx::meet(kFirstMeeting + head, 128);
          if (thread == 0) {
            ptx::tensor_store(maps.out, staged, part.p0, part.h, c * kChunk, part.b);
            ptx::stores_commit();
          }
        }

        if (kScaled)
#pragma unroll
          for (int i = 0; i < N / 8; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) state[i][j] *= unit;
        if (!kBoth && piece.end < deal.chunks && deal.handed) hand_on<N>(deal, slot, state, 0);
        if (piece.end == deal.chunks && p.final) write_final<N>(p, part, state);
        float gone = 0;
#pragma unroll
        for (int i = 0; i < N / 8; i++)
#pragma unroll
          for (int j = 0; j < 4; j++) gone = fmaf(state[i][j], 0.0f, gone);
        const bool bad =
            ptx::meet_any(kFirstMeeting + head, 128, !(gone == 0) || ((lost[0] | lost[1]) & 0x7fff7fffu) != 0);
        if (thread == 0) {
          const int tiles = static_cast<int>((p.P + kChannels - 1) / kChannels);
          int* const flags = p.flags + ((int64_t{part.b} * p.heads + part.h) * tiles + piece.tile) * deal.parts;
          const int own = static_cast<int>(blockIdx.x) - piece.line * deal.chunks / deal.run;
          flags[own] = bad;
          if (piece.end == deal.chunks)
            for (int i = own + 1; i < deal.parts; i++) flags[i] = 0;
        }
      });
    if (!kStatesOnly && thread == 0) ptx::stores_read();
  }
}

}  // namespace

namespace {

using Kernel = void (*)(SsdMaps, SsdArgs, SsdDeal);
struct Step {
  int threads, bytes;
  Kernel kernel[2];  // Half, Brain
};
using Fold = void (*)(SsdArgs, SsdDeal);
struct Choice {
  int states, heads;
  Step chunks, states_only, both;
  int at_once;  // chunks of a run that `both` takes
  Fold fold;
};

template <int N, int HEADS, Makes MAKES>
constexpr Step step() {
  using L = Plan<N, HEADS, MAKES>;
  return {L::kThreads, L::kBytes, {hopper_chunks<Half, N, HEADS, MAKES>, hopper_chunks<Brain, N, HEADS, MAKES>}};
}
template <int N, int HEADS>
constexpr Choice choice() {
  return {N,
          HEADS,
          step<N, HEADS, Makes::all_but_states>(),
          step<N, HEADS, Makes::states>(),
          step<N, HEADS, Makes::both>(),
          Plan<N, HEADS, Makes::both>::kStages,
          fold_pieces<N, HEADS>};
}
constexpr Choice kChoices[] = {choice<64, 2>(), choice<128, 2>()};

// Boxes of 64 tokens by 64 elements.
bool describe(CUtensorMap& map, DType dtype, const SsdTensor& x, int64_t inner, int64_t outer, int64_t L, int64_t b) {
  const cuuint64_t shape[] = {static_cast<cuuint64_t>(inner), static_cast<cuuint64_t>(outer),
                              static_cast<cuuint64_t>(L), static_cast<cuuint64_t>(b)};
  // Of one row any stride will do.
  const auto stride = [&](int64_t count, int64_t elements) {
    return static_cast<cuuint64_t>(count > 1 ? elements * 2 : 16);
  };
  const cuuint64_t strides[] = {stride(outer, x.outer), stride(L, x.t), stride(b, x.b)};
  for (const cuuint64_t s : strides)
    if (s % 16 != 0 || s >= cuuint64_t{1} << 40) return false;
  const cuuint32_t boxes[] = {64, 1, kChunk, 1}, steps[] = {1, 1, 1, 1};
  return tensor_map_encoder()(
             &map, dtype == DType::float16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4,
             x.data, shape, strides, boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace

bool launch_hopper_chunks(Context& c, SsdArgs& args) {
  SsdArgs a = args;
  constexpr int64_t kMost = INT32_MAX - 255;
  const int64_t groups = a.heads / a.per_group;
  if (a.N > 128 || !a.pairs || !tensor_map_encoder() || std::max({a.L, a.batch, a.heads, a.P}) > kMost) return false;
  for (const SsdTensor& operand : {a.x, a.B, a.C, a.out})
    if (!operand.pieces) return false;
  SsdMaps maps;
  if (!describe(maps.x, a.dtype, a.x, a.P, a.heads, a.L, a.batch) ||
      !describe(maps.B, a.dtype, a.B, a.N, groups, a.L, a.batch) ||
      !describe(maps.C, a.dtype, a.C, a.N, groups, a.L, a.batch) ||
      !describe(maps.out, a.dtype, a.out, a.P, a.heads, a.L, a.batch))
    return false;

  const Choice* k = kChoices;
  while (k->states < a.N) k++;
  if (!c.handed || c.multiprocessors * k->heads * 4 > kHanded) return false;
  const int64_t chunks = ceil_div(a.L, kChunk), tiles = ceil_div(a.P, kChannels);
  const int64_t lines = a.batch * groups * ceil_div(a.per_group, k->heads) * tiles;
  if (lines > kMost / chunks) return false;
  const int of = a.dtype == DType::bfloat16;
  for (const Step& step : {k->chunks, k->states_only, k->both})
    if (cudaFuncSetAttribute(step.kernel[of], cudaFuncAttributeMaxDynamicSharedMemorySize, step.bytes) != cudaSuccess)
      return false;

  SsdDeal deal{};
  deal.chunks = static_cast<int>(chunks);
  deal.all = static_cast<int>(lines * chunks);
  deal.run = static_cast<int>(ceil_div(deal.all, c.multiprocessors));
  // Where the multiprocessors suffice, no run goes on into the next line: the last of a line has chunks of no tokens.
  const int64_t longer = ceil_div(chunks, deal.run) * deal.run;
  if (deal.run < chunks && lines * longer / deal.run <= c.multiprocessors) {
    deal.chunks = static_cast<int>(longer);
    deal.all = static_cast<int>(lines * longer);
  }
  const int64_t blocks = ceil_div(deal.all, deal.run);
  deal.parts = (deal.chunks + deal.run - 2) / deal.run + 1;
  a.flags_of_heads = tiles * deal.parts;
  a.heads_of_set = 1;
  a.flags = c.scratch<int>(a.batch * a.heads * a.flags_of_heads);
  c.kernel = "cuda.sm90.ssd_chunk_scan.chunked";
  const bool cut = deal.run % deal.chunks != 0;  // lines are
  const bool at_once = cut && deal.run <= k->at_once && deal.parts <= kMostBefore;
  if (cut) deal.states = c.scratch<float>(blocks * k->heads * k->states * kChannels);
  const auto chunks_of = [&](const Step& step) {
    set_off_with(c, step.kernel[of], dim3(static_cast<unsigned>(blocks)), static_cast<unsigned>(step.threads),
                 static_cast<size_t>(step.bytes), maps, a, deal);
  };
  if (at_once || deal.run > deal.chunks) {
    a.handed = deal.handed = c.handed;
    a.handed_count = static_cast<int>(blocks * k->heads * 4);
  } else if (cut) {
    deal.decays = c.scratch<float>(blocks * k->heads);
    chunks_of(k->states_only);
    set_off(c, k->fold, dim3(static_cast<unsigned>(lines * k->heads * (k->states / 8))), 128, a, deal);
  }
  chunks_of(at_once ? k->both : k->chunks);
  args = a;
  return true;
}

}  // namespace seqmix::cuda
