// h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t, y_t = C_t·h_t + D u_t, out = y silu(z), for up to 16 states and B and C that
// vary in time. A channel's tokens come one after the other, and few channels leave little else to do meanwhile: so
// some of a block's warps do nothing but walk along tokens, and others do everything else, some tiles ahead and behind.
//
// A block takes a number of channels of one row of the batch, all of one group of B and of C. Time goes in tiles of T
// tokens, in a ring of stages in shared memory:
//   delta (bias and softplus done), delta u: [channels][T + 4]; y may take delta's place
//   B, C: [states of B, of C][T + 4]
//   u, z as they came, four at a time, for the thread that brought them
//   resets: a bit a token where seqIdx changes
// Producer warps ask for a tile's data a tile ahead, into registers, and lay the tile down; when it has been walked
// they add D u, gate, and write. Memory is read and written four neighbours at a time, along whichever of tokens and
// channels is dense. Consumer warps: S lanes share a channel and keep R = 16/S of its states each in registers, with A
// beside them (multiplied by log2 e). Neighbouring lanes are of different channels: what two neighbours read of B or C
// is then the same, and their sixteen bytes take shared memory, which is what the walk waits for most, half as long. U
// tokens are one step: their exponentials and products with B, which need no state, are made one step ahead of their
// walk, so that what a token waits for is one fused multiply-add after another. y is summed over a lane's states in
// registers, over a channel's lanes by exchanging halves: each lane ends with U/S tokens. Two barriers a stage: `full`
// from producers to consumers, `walked` back. States past n have A = B = C = 0; tokens past L have Δ = 0, which leaves
// the state alone.
//
// Floor: sizeof(T) (3 bytes with a gate, 2 + ... without) an element, and 16 exponentials with four more for softplus
// and silu: 16 a clock and multiprocessor.
#pragma once
#include <type_traits>

#include "cuda/kernels/any/math.cuh"
#include "cuda/kernels/any/reduce.cuh"
#include "cuda/kernels/any/selective_scan_args.cuh"
#include "cuda/kernels/any/vector.cuh"
#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/grid.cuh"

namespace seqmix::cuda {

// S: lanes a channel; T: tokens a tile; U: tokens a step; ahead: whether a step's exponentials are made during the one
// before (for those that have a scheduler nearly to themselves; else other warps fill the gaps).
template <int S, int T, int U, bool kAhead, int kConsumers, int kProducers, int kStages, int kBlocks>
struct PipelineShape {
  static constexpr int lanes = S, states = kPipelineStates / S, tokens = T, step = U, stages = kStages,
                       blocks = kBlocks;
  static constexpr bool ahead = kAhead;
  static constexpr int consumers = kConsumers * 32, producers = kProducers * 32, threads = consumers + producers;
  static constexpr int channels = consumers / S;
  static constexpr int pitch = T + 4;              // of a row of tokens: neighbours are on other banks
  static constexpr int fours = channels * T / 4;   // of u, delta or z in a tile
  static constexpr int share = fours / producers;  // of a producer
  static constexpr int matrix_share =
      (T / 4 + kProducers - 1) / kProducers;  // a warp does four tokens of B and C at once
  static constexpr int matrix_floats = 2 * kPipelineStates * pitch + 16;
  static constexpr int stage_floats = 2 * channels * pitch + matrix_floats;
  static_assert(U % 4 == 0 && U % S == 0 && T % (2 * U) == 0 && T <= 64 && channels % 4 == 0);
  static_assert(fours % producers == 0 && producers % (T / 4) == 0 && producers % (channels / 4) == 0);
  static_assert(2 * kStages + 1 <= 16);  // barriers

  // Where a row of B (from 0 on) or of C (from 16 on) begins: eight neighbours are on other banks, and so are every
  // fourth.
  __device__ static constexpr int matrix_row(int row) { return row * pitch + row / 8 * 4; }

  template <class X>
  static constexpr int64_t shared_bytes() {
    return kStages * (sizeof(float) * stage_floats + 2 * fours * 4 * sizeof(X) + sizeof(uint64_t)) +
           2 * channels * sizeof(float);
  }
};

// Four neighbours as they lie in memory, in words.
template <class X>
struct alignas(4 * sizeof(X)) Four {
  uint32_t word[sizeof(X)];
};
template <class X>
__device__ __forceinline__ Floats<4> widen(const Four<X>& four) {
  if constexpr (sizeof(X) == sizeof(float)) {
    return __builtin_bit_cast(Floats<4>, four);
  } else {
    const float2 low = unpack<X>(four.word[0]), high = unpack<X>(four.word[1]);
    return {{low.x, low.y, high.x, high.y}};
  }
}
template <class X>
__device__ __forceinline__ Four<X> narrow_four(const Floats<4>& f) {
  if constexpr (sizeof(X) == sizeof(float))
    return __builtin_bit_cast(Four<X>, f);
  else
    return {{pack<X>(f.v[0], f.v[1]), pack<X>(f.v[2], f.v[3])}};
}
// `count` of the four are there, the others are 0.
template <class X>
__device__ __forceinline__ Four<X> read_four(const X* from, int64_t step, bool whole, int count) {
  if (whole && count == 4) return *reinterpret_cast<const Four<X>*>(from);
  using Bits = std::conditional_t<sizeof(X) == sizeof(float), uint32_t, uint16_t>;
  uint32_t bits[4];
#pragma unroll
  for (int j = 0; j < 4; j++) bits[j] = j < count ? reinterpret_cast<const Bits*>(from)[j * step] : 0;
  if constexpr (sizeof(X) == sizeof(float))
    return {{bits[0], bits[1], bits[2], bits[3]}};
  else
    return {{bits[0] | bits[1] << 16, bits[2] | bits[3] << 16}};
}
template <class X>
__device__ __forceinline__ void write_four(X* to, int64_t step, bool whole, int count, const Four<X>& four) {
  if (whole && count == 4) {
    *reinterpret_cast<Four<X>*>(to) = four;
    return;
  }
  using Bits = std::conditional_t<sizeof(X) == sizeof(float), uint32_t, uint16_t>;
  constexpr int kEach = sizeof(float) / sizeof(X);  // in a word
#pragma unroll
  for (int j = 0; j < 4; j++)
    if (j < count) reinterpret_cast<Bits*>(to)[j * step] = static_cast<Bits>(four.word[j / kEach] >> j % kEach * 16);
}

// Which channels, and where in shared memory a block's things are.
template <class X, class Shape>
struct PipelineBlock {
  int64_t b, c0;  // the row of the batch, the first channel
  int channels;   // of its own: the last block of a unit may have fewer
  int tiles;
  float* stages;
  Four<X>* raw;  // [stages][u, z][fours]
  uint64_t* resets;
  float *D, *bias;

  __device__ __forceinline__ PipelineBlock(const ScanArgs& p, float* shared) {
    const int64_t in_unit = (p.unit + Shape::channels - 1) / Shape::channels, units = p.d / p.unit;
    const int64_t block = blockIdx.x, unit = block / in_unit % units, first = block % in_unit * Shape::channels;
    b = block / (units * in_unit);
    c0 = unit * p.unit + first;
    channels = static_cast<int>(min(int64_t{Shape::channels}, p.unit - first));
    tiles = static_cast<int>((p.L + Shape::tokens - 1) / Shape::tokens);
    stages = shared;
    raw = reinterpret_cast<Four<X>*>(stages + Shape::stages * Shape::stage_floats);
    resets = reinterpret_cast<uint64_t*>(raw + Shape::stages * 2 * Shape::fours);
    D = reinterpret_cast<float*>(resets + Shape::stages);
    bias = D + Shape::channels;
  }
  __device__ __forceinline__ float* deltas(int stage) const { return stages + stage * Shape::stage_floats; }
  __device__ __forceinline__ float* inputs(int stage) const { return deltas(stage) + Shape::channels * Shape::pitch; }
  __device__ __forceinline__ float* matrices(int stage) const { return inputs(stage) + Shape::channels * Shape::pitch; }
  __device__ __forceinline__ Four<X>* u(int stage) const { return raw + stage * 2 * Shape::fours; }
  __device__ __forceinline__ Four<X>* z(int stage) const { return u(stage) + Shape::fours; }
};

// The barriers of a stage.
template <class Shape>
__device__ __forceinline__ void wait_full(int stage) {
  ptx::meet(1 + stage, Shape::threads);
}
template <class Shape>
__device__ __forceinline__ void arrive_full(int stage) {
  ptx::arrive(1 + stage, Shape::threads);
}
template <class Shape>
__device__ __forceinline__ void wait_walked(int stage) {
  ptx::meet(1 + Shape::stages + stage, Shape::threads);
}
template <class Shape>
__device__ __forceinline__ void arrive_walked(int stage) {
  ptx::arrive(1 + Shape::stages + stage, Shape::threads);
}

// Sums y[N] over the S lanes of a channel, 32/S apart; the first N/S elements become this lane's: of each pair of
// halves of the lanes, the upper keeps the later half. Returns which of the N is its first. `lane` is among the S.
template <int N, int S>
__device__ __forceinline__ int sum_lanes(float (&y)[N], int lane) {
  int first = 0;
#pragma unroll
  for (int level = 1; level < S; level *= 2) {
    const int mask = S / 2 / level, apart = mask * (32 / S), count = N / 2 / level;
    const bool upper = lane & mask;
#pragma unroll
    for (int j = 0; j < N / 2; j++) {
      if (j >= count) continue;
      const float other = __shfl_xor_sync(kFullWarp, upper ? y[j] : y[j + count], apart);
      y[j] = (upper ? y[j + count] : y[j]) + other;
    }
    first += upper ? count : 0;
  }
  return first;
}

// The part of a step's work that does not depend on the state.
template <class X, class Shape>
struct Step {
  using Decays = decltype(fast_decay<X>(0.0f, 0.0f));
  Decays decay[Shape::step][Shape::states];
  float input[Shape::step][Shape::states], C[Shape::step][Shape::states];
};
// What it is made of.
template <class Shape>
struct Line {
  Floats<4> delta[Shape::step / 4], input[Shape::step / 4];
  Floats<4> B[Shape::states][Shape::step / 4], C[Shape::states][Shape::step / 4];
};

template <class X, class Shape>
__device__ __forceinline__ void consume(const ScanArgs& p, const PipelineBlock<X, Shape>& block) {
  constexpr int S = Shape::lanes, R = Shape::states, T = Shape::tokens, U = Shape::step;
  constexpr int kPlaces = 32 / S;  // channels of a warp
  const int lane = static_cast<int>(threadIdx.x) % 32 / kPlaces;
  const int channel = static_cast<int>(threadIdx.x) / 32 * kPlaces + static_cast<int>(threadIdx.x) % kPlaces;
  const int64_t c = block.c0 + channel;
  float A[R], h[R];
#pragma unroll
  for (int r = 0; r < R; r++) {
    const int64_t state = r * S + lane;
    const bool in = channel < block.channels && state < p.n;
    A[r] = in ? float_at(p.A, p.A_dtype, c * p.A_d + state * p.A_n) * kLog2E : 0.0f;
    h[r] = 0;
    if (in && p.initial)
      h[r] = float_at(p.initial, p.initial_dtype, block.b * p.initial_b + c * p.initial_d + state * p.initial_n);
  }
  ptx::meet(0, Shape::threads);

  int stage = 0;
  for (int tile = 0; tile < block.tiles; tile++) {
    wait_full<Shape>(stage);
    float* const deltas = block.deltas(stage) + channel * Shape::pitch;
    const float* const inputs = block.inputs(stage) + channel * Shape::pitch;
    const float* const matrices = block.matrices(stage) + Shape::matrix_row(lane);

    const auto read = [&](Line<Shape>& line, int t) {
#pragma unroll
      for (int q = 0; q < U / 4; q++) {
        line.delta[q] = load<4>(deltas + t + q * 4);
        line.input[q] = load<4>(inputs + t + q * 4);
#pragma unroll
        for (int r = 0; r < R; r++) {
          line.B[r][q] = load<4>(matrices + Shape::matrix_row(r * S) + t + q * 4);
          line.C[r][q] = load<4>(matrices + Shape::matrix_row(kPipelineStates + r * S) + t + q * 4);
        }
      }
    };
    const auto prepare = [&](Step<X, Shape>& s, const Line<Shape>& line) {
#pragma unroll
      for (int j = 0; j < U; j++) {
#pragma unroll
        for (int r = 0; r < R; r++) {
          s.decay[j][r] = fast_decay<X>(line.delta[j / 4].v[j % 4], A[r]);
          s.input[j][r] = line.input[j / 4].v[j % 4] * line.B[r][j / 4].v[j % 4];
          s.C[j][r] = line.C[r][j / 4].v[j % 4];
        }
      }
    };
    const auto walk = [&](const Step<X, Shape>& s, float (&y)[U], uint64_t resets) {
#pragma unroll
      for (int j = 0; j < U; j++) {
        if (resets >> j & 1) {
#pragma unroll
          for (int r = 0; r < R; r++) h[r] = 0;
        }
#pragma unroll
        for (int r = 0; r < R; r++) {
          h[r] = s.decay[j][r].apply(h[r], s.input[j][r]);
          y[j] = r == 0 ? h[r] * s.C[j][r] : fmaf(h[r], s.C[j][r], y[j]);
        }
      }
    };
    const auto sum = [&](float (&y)[U], int t, bool write) {
      const int first = t + sum_lanes<U, S>(y, lane);
      Floats<U / S> mine;
#pragma unroll
      for (int j = 0; j < U / S; j++) mine.v[j] = y[j];
      if (write) *reinterpret_cast<Floats<U / S>*>(deltas + first) = mine;
    };

    const uint64_t resets = p.seq ? block.resets[stage] : 0;
    Line<Shape> line;
    Step<X, Shape> even;
    float y[U];
    if (resets || !Shape::ahead) {
#pragma unroll 1
      for (int t = 0; t < T; t += U) {
        read(line, t);
        prepare(even, line);
        if (resets)
          walk(even, y, resets >> t);
        else
          walk(even, y, 0);
        sum(y, t, true);
      }
    } else {
      // The loads of a step come before the stores of the one before it, which they could not overtake.
      Step<X, Shape> odd;
      read(line, 0);
      prepare(even, line);
#pragma unroll
      for (int j = 0; j < U; j++) y[j] = 0;
#pragma unroll 1
      for (int t = 0; t < T - 2 * U; t += 2 * U) {
        read(line, t + U);
        sum(y, t - U, t > 0);
        walk(even, y, 0);
        prepare(odd, line);
        read(line, t + 2 * U);
        sum(y, t, true);
        walk(odd, y, 0);
        prepare(even, line);
      }
      read(line, T - U);
      sum(y, T - 3 * U, T > 2 * U);
      walk(even, y, 0);
      prepare(odd, line);
      sum(y, T - 2 * U, true);
      walk(odd, y, 0);
      sum(y, T - U, true);
    }
    arrive_walked<Shape>(stage);
    stage = stage + 1 == Shape::stages ? 0 : stage + 1;
  }

  if (p.last && channel < block.channels) {
#pragma unroll
    for (int r = 0; r < R; r++) {
      const int64_t state = r * S + lane;
      if (state < p.n) p.last[block.b * p.last_b + c * p.last_d + state * p.last_n] = h[r];
    }
  }
}

// A producer's fours of u, delta, z and out: a channel and four tokens (by token), or a token and four channels; from
// the first on, every `step` channels (or tokens).
template <class X, class Shape, bool kByToken>
struct Part {
  int c, t;  // of the first
  int c_step, t_step;

  __device__ __forceinline__ explicit Part(int me) {
    constexpr int kAlong = kByToken ? Shape::tokens / 4 : Shape::channels / 4, kStep = Shape::producers / kAlong;
    c = kByToken ? me / kAlong : me % kAlong * 4;
    t = kByToken ? me % kAlong * 4 : me / kAlong;
    c_step = kByToken ? kStep : 0;
    t_step = kByToken ? 0 : kStep;
  }
  // How many of the i-th four are there, in a tile with so many tokens and channels.
  __device__ __forceinline__ int count(int i, int tokens, int channels) const {
    const int along = kByToken ? tokens - t : channels - c;
    const bool in = kByToken ? c + i * c_step < channels : t + i * t_step < tokens;
    return in ? max(0, min(4, along)) : 0;
  }
  // Where the i-th four lies in rows of tokens.
  __device__ __forceinline__ int place(int i) const { return (c + i * c_step) * Shape::pitch + t + i * t_step; }
};

// One of u, delta, z and out, as a producer walks along it.
template <class X>
struct Stream {
  X* next;                     // the first four of a tile
  int64_t step, within, tile;  // to the next four; from element to element; to the next tile
  bool fours;

  template <class Shape, bool kByToken>
  __device__ __forceinline__ Stream(const ScanTile& x, const Part<X, Shape, kByToken>& part, int64_t b, int64_t c0) {
    next = static_cast<X*>(x.data) + b * x.b + (c0 + part.c) * x.d + part.t * x.t;
    step = kByToken ? part.c_step * x.d : part.t_step * x.t;
    within = kByToken ? x.t : x.d;
    tile = Shape::tokens * x.t;
    fours = x.fours;
  }
  // kAll: all of the four are there, as one access.
  template <bool kAll>
  __device__ __forceinline__ Four<X> read(int i, int count) const {
    return read_four(next + i * step, within, kAll || fours, kAll ? 4 : count);
  }
  template <bool kAll>
  __device__ __forceinline__ void write(int i, int count, const Floats<4>& v) const {
    write_four(next + i * step, within, kAll || fours, kAll ? 4 : count, narrow_four<X>(v));
  }
};

// A producer's fours of B or of C: four tokens of a state (by token), or four states of a token. A warp takes of both
// matrices, at a time, four states and sixteen tokens, or sixteen states and four tokens.
template <class X, class Shape>
struct MatrixPart {
  static constexpr int kWarps = Shape::producers / 32, kCount = Shape::matrix_share;
  bool by_token, fours;
  int lane, warp, states;
  const X* next;  // the next tile
  int64_t n_step, t_step, offset[kCount];
  int place[kCount];  // in shared memory

  __device__ __forceinline__ MatrixPart(const ScanArgs& p, const PipelineBlock<X, Shape>& block, int me)
      : by_token(p.matrices_by_token), fours(p.B.fours && p.C.fours), lane(me % 32), warp(me / 32) {
    const bool of_C = by_token ? lane / 16 : lane / 4 % 2;
    const ScanMatrix& m = of_C ? p.C : p.B;
    states = static_cast<int>(p.n);
    n_step = m.n;
    t_step = m.t;
    next = static_cast<const X*>(m.data) + block.b * m.b + block.c0 / m.group_size * m.g;
#pragma unroll
    for (int i = 0; i < kCount; i++) {
      offset[i] = state(i) * n_step + token(i) * t_step;
      place[i] = Shape::matrix_row((of_C ? kPipelineStates : 0) + state(i)) + token(i);
    }
  }
  __device__ __forceinline__ int unit(int i) const { return warp + i * kWarps; }
  __device__ __forceinline__ bool in(int i) const {
    return Shape::tokens / 4 % kWarps == 0 || unit(i) < Shape::tokens / 4;
  }
  __device__ __forceinline__ int state(int i) const { return by_token ? lane / 4 % 4 * 4 + unit(i) % 4 : lane % 4 * 4; }
  __device__ __forceinline__ int token(int i) const {
    return by_token ? unit(i) / 4 * 16 + lane % 4 * 4 : unit(i) * 4 + lane / 8;
  }
  template <bool kAll>
  __device__ __forceinline__ Four<X> read(int i, int tokens) const {
    if (!in(i)) return {};
    if (kAll) return *reinterpret_cast<const Four<X>*>(next + offset[i]);
    const int along = by_token ? tokens - token(i) : states - state(i);
    const int across = by_token ? states - state(i) : tokens - token(i);
    return read_four(next + offset[i], by_token ? t_step : n_step, fours, across > 0 ? max(0, min(4, along)) : 0);
  }
  __device__ __forceinline__ void lay_down(const Four<X> (&fours)[kCount], float* matrices) const {
    if (by_token) {  // one branch for all of them
#pragma unroll
      for (int i = 0; i < kCount; i++)
        if (in(i)) *reinterpret_cast<Floats<4>*>(matrices + place[i]) = widen(fours[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kCount; i++) {
        if (!in(i)) continue;
        const Floats<4> v = widen(fours[i]);
#pragma unroll
        for (int j = 0; j < 4; j++) matrices[place[i] + j * Shape::pitch] = v.v[j];
      }
    }
  }
};

template <class X, class Shape, bool kByToken>
__device__ __forceinline__ void produce(const ScanArgs& p, const PipelineBlock<X, Shape>& block) {
  constexpr int T = Shape::tokens, kPitch = Shape::pitch, kShare = Shape::share;
  const int me = static_cast<int>(threadIdx.x) - Shape::consumers, lane = me % 32, warp = me / 32;
  const Part<X, Shape, kByToken> part(me);
  Stream<X> u_stream(p.u, part, block.b, block.c0), delta_stream(p.delta, part, block.b, block.c0);
  Stream<X> z_stream(p.z, part, block.b, block.c0), out_stream(p.out, part, block.b, block.c0);
  MatrixPart<X, Shape> matrices(p, block, me);
  // Every four of every whole tile is one access.
  const bool all = p.u.fours && p.delta.fours && (p.z.fours || !p.z.data) && p.out.fours && matrices.fours &&
                   block.channels == Shape::channels && p.n == kPipelineStates;
  const int whole_tiles = all ? static_cast<int>(p.L / T) : 0;
  // f(whether all of the tile's fours are there, its tokens)
  const auto with_tile = [&](int tile, auto f) {
    if (tile < whole_tiles)
      f(std::true_type{}, T);
    else
      f(std::false_type{}, static_cast<int>(max(int64_t{0}, min(int64_t{T}, p.L - int64_t{tile} * T))));
  };

  Four<X> u[kShare], delta[kShare], z[kShare], matrix[Shape::matrix_share];
  int32_t seq[2] = {}, before[2] = {};
  const auto ask = [&](int tile) {
    with_tile(tile, [&](auto is_whole, int tokens) {
      constexpr bool kAll = decltype(is_whole)::value;
#pragma unroll
      for (int i = 0; i < kShare; i++) {
        const int count = part.count(i, tokens, block.channels);
        delta[i] = delta_stream.template read<kAll>(i, count);
        u[i] = u_stream.template read<kAll>(i, count);
        if (p.z.data) z[i] = z_stream.template read<kAll>(i, count);
      }
#pragma unroll
      for (int i = 0; i < Shape::matrix_share; i++) matrix[i] = matrices.template read<kAll>(i, tokens);
    });
    delta_stream.next += delta_stream.tile;
    u_stream.next += u_stream.tile;
    z_stream.next += z_stream.tile;
    matrices.next += T * matrices.t_step;
    if (p.seq && warp == 0) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int64_t t = int64_t{tile} * T + i * 32 + lane;
        const bool in = t > 0 && t < p.L;
        const int32_t* const from = p.seq + block.b * p.seq_b + t * p.seq_t;
        seq[i] = in ? from[0] : 0;
        before[i] = in ? from[-p.seq_t] : 0;
      }
    }
  };

  const auto lay_down = [&](int stage, int tile) {
    float *const deltas = block.deltas(stage), *const inputs = block.inputs(stage);
    with_tile(tile, [&](auto is_whole, int tokens) {
#pragma unroll
      for (int i = 0; i < kShare; i++) {
        const int c = part.c + i * part.c_step, to = part.place(i);
        Floats<4> d = widen(delta[i]), input = widen(u[i]);
#pragma unroll
        for (int j = 0; j < 4; j++) d.v[j] += block.bias[kByToken ? c : c + j];
        if (p.softplus) {  // one branch, so that the four go side by side
#pragma unroll
          for (int j = 0; j < 4; j++) d.v[j] = fast_softplus<X>(d.v[j]);
        }
        if constexpr (!decltype(is_whole)::value) {
          const int count = part.count(i, tokens, block.channels);
#pragma unroll
          for (int j = 0; j < 4; j++) d.v[j] = j < count ? d.v[j] : 0.0f;
        }
#pragma unroll
        for (int j = 0; j < 4; j++) input.v[j] *= d.v[j];
        if constexpr (kByToken) {
          *reinterpret_cast<Floats<4>*>(deltas + to) = d;
          *reinterpret_cast<Floats<4>*>(inputs + to) = input;
        } else {
#pragma unroll
          for (int j = 0; j < 4; j++) {
            deltas[to + j * kPitch] = d.v[j];
            inputs[to + j * kPitch] = input.v[j];
          }
        }
        block.u(stage)[me + i * Shape::producers] = u[i];
        if (p.z.data) block.z(stage)[me + i * Shape::producers] = z[i];
      }
    });
    matrices.lay_down(matrix, block.matrices(stage));
    if (p.seq && warp == 0) {
      const uint64_t low = __ballot_sync(kFullWarp, seq[0] != before[0]);
      const uint64_t high = T > 32 ? __ballot_sync(kFullWarp, seq[1] != before[1]) : 0;
      if (lane == 0) block.resets[stage] = low | high << 32;
    }
  };

  const auto finish = [&](int stage, int tile) {
    float* const ys = block.deltas(stage);
    with_tile(tile, [&](auto is_whole, int tokens) {
#pragma unroll
      for (int i = 0; i < kShare; i++) {
        const int c = part.c + i * part.c_step, from = part.place(i);
        Floats<4> y;
        if constexpr (kByToken) {
          y = load<4>(ys + from);
        } else {
#pragma unroll
          for (int j = 0; j < 4; j++) y.v[j] = ys[from + j * kPitch];
        }
        const Floats<4> us = widen(block.u(stage)[me + i * Shape::producers]);
#pragma unroll
        for (int j = 0; j < 4; j++) y.v[j] = fmaf(block.D[kByToken ? c : c + j], us.v[j], y.v[j]);
        if (p.z.data) {
          const Floats<4> zs = widen(block.z(stage)[me + i * Shape::producers]);
#pragma unroll
          for (int j = 0; j < 4; j++) y.v[j] *= fast_silu(zs.v[j]);
        }
        out_stream.template write<decltype(is_whole)::value>(i, part.count(i, tokens, block.channels), y);
      }
    });
    out_stream.next += out_stream.tile;
  };

  ask(0);
  ptx::meet(0, Shape::threads);
  int stage = 0;
  for (int tile = 0; tile < block.tiles + Shape::stages; tile++) {
    if (tile >= Shape::stages && tile - Shape::stages < block.tiles) {
      wait_walked<Shape>(stage);
      finish(stage, tile - Shape::stages);
    }
    if (tile < block.tiles) {
      lay_down(stage, tile);
      arrive_full<Shape>(stage);
      ask(tile + 1);  // past the end none of it is there
      // No sooner: what comes next would take turns with this for most of its time.
      if (tile + 1 == block.tiles) ptx::let_next_kernel_begin();
    }
    stage = stage + 1 == Shape::stages ? 0 : stage + 1;
  }
}

template <class X, class Shape>
__global__ void __launch_bounds__(Shape::threads, Shape::blocks)
    selective_scan_pipeline(const __grid_constant__ ScanArgs p) {
  extern __shared__ __align__(16) float shared[];
  const PipelineBlock<X, Shape> block(p, shared);
  ptx::look_at_arguments(p);
  ptx::wait_for_earlier_kernels();
  for (int i = threadIdx.x; i < Shape::channels; i += Shape::threads) {
    block.D[i] = p.D.data && i < block.channels ? p.D.at(block.c0 + i) : 0.0f;
    block.bias[i] = p.bias.data && i < block.channels ? p.bias.at(block.c0 + i) : 0.0f;
  }
  if (threadIdx.x < Shape::consumers)
    consume(p, block);
  else if (p.by_token)
    produce<X, Shape, true>(p, block);
  else
    produce<X, Shape, false>(p, block);
}

}  // namespace seqmix::cuda
