// The state-space dual's chunked form (Dao and Gu, 2024) on the tensor cores of any GPU since Ampere, for one 16-bit
// dtype T. With a_i the sum of dt·A up to token i of a chunk, and S the state before the chunk:
//
//   y_i = e^{a_i} C_i·S + Σ_{j ≤ i} (C_i·B_j) e^{a_i − a_j} dt_j x_j
//   S ← e^{a_Q} S + Σ_j e^{a_Q − a_j} B_j ⊗ dt_j x_j
//
// A block of eight warps owns one batch row, HEADS heads of one group (which share C and B), 64 channels of them, and a
// segment of the sequence, which it walks in chunks of Q = 64 tokens. The state stays in registers in float32, a warp's
// share being some of the N rows, all channels; a copy in T, in shared memory, is what C multiplies. For the outputs a
// warp takes 16 tokens of one head: C·Bᵀ is made in registers, gets its decays there, and is at once the left operand
// of the product with x. Where shared memory has room for two stages, the chunk after is copied meanwhile.
//
// Where batch rows and heads are too few for the chip, the sequence is cut into segments: a first kernel makes what
// each segment adds to the state, and the main kernel's blocks fold the segments before theirs, in order.
//
// What should not count is multiplied by 0 in the products with x, so that a NaN would reach tokens before it and other
// sequences; and float16, or e^{a_i} of a head that grows, may overflow. Every block therefore says whether all of its
// sums were finite, and the plain kernel (kernels/any) does those heads again where they were not.
//
// Shared memory: rows of N (C, B) or 64 (x, S) elements in pieces of 16 bytes, piece c of row r at place c ^ (r % 8),
// so that eight rows of a matrix come from different banks.
//
// Floor: 2 tokens · heads · P (2N + Q/2) operations on the tensor cores, and x, z, out once.
#pragma once
#include "cuda/kernels/any/math.cuh"
#include "cuda/kernels/any/ssd_chunk_scan_args.cuh"
#include "cuda/kernels/any/vector.cuh"
#include "cuda/ptx/tensor.cuh"

namespace seqmix::cuda {

constexpr int kSsdChunk = 64;
constexpr int kSsdChannels = 64;

// What follows from the step sizes of a chunk: four numbers a token and head, one a token, one a head.
template <int HEADS>
constexpr int kSsdNumbers = (HEADS * 4 + 1) * kSsdChunk + 4;

template <int N, int HEADS>
constexpr int ssd_shared_bytes(int stages) {
  const int chunk = 2 * kSsdChunk * N * 2 + HEADS * kSsdChunk * kSsdChannels * 2, state = HEADS * N * kSsdChannels * 2;
  return stages * (chunk + state + kSsdNumbers<HEADS> * 4) + HEADS * kSsdChannels * 4;
}

// The address of piece `piece` of row `row`.
template <int ROW>
__device__ __forceinline__ uint32_t piece_at(uint32_t base, int row, int piece) {
  return base + static_cast<uint32_t>(row * ROW * 2 + ((piece ^ (row & 7)) << 4));
}

// 64 tokens from t0 of one row of an operand, COLUMNS elements from `first` on, of which there are `count`; the rest
// are 0.
template <class T, int COLUMNS, int THREADS>
__device__ __noinline__ void copy_elements(uint32_t to, const T* from, int64_t step, int count, int tokens) {
  constexpr int kPieces = COLUMNS / 8;
#pragma unroll 1
  for (int i = threadIdx.x; i < kSsdChunk * kPieces; i += THREADS) {
    const int row = i / kPieces, piece = i % kPieces;
    uint4 raw{};
    T* const r = reinterpret_cast<T*>(&raw);
#pragma unroll
    for (int j = 0; j < 8; j++)
      if (row < tokens && piece * 8 + j < count) r[j] = from[row * step + piece * 8 + j];
    ptx::store_shared(piece_at<COLUMNS>(to, row, piece), raw);
  }
}
template <class T, int COLUMNS, int THREADS>
__device__ __forceinline__ void copy_tile(uint32_t to, const SsdTensor& operand, int64_t b, int64_t outer,
                                          int64_t first, int count, int64_t t0, int64_t end) {
  constexpr int kPieces = COLUMNS / 8, kStep = THREADS / kPieces;
  static_assert(THREADS % kPieces == 0 && kSsdChunk % kStep == 0);
  const T* from = static_cast<const T*>(operand.data) + b * operand.b + outer * operand.outer + first + t0 * operand.t;
  const int tokens = static_cast<int>(min(int64_t{kSsdChunk}, end - t0));
  if (!operand.pieces) return copy_elements<T, COLUMNS, THREADS>(to, from, operand.t, count, tokens);
  int row = threadIdx.x / kPieces;
  const int piece = threadIdx.x % kPieces;
  const T* source = from + row * operand.t + piece * 8;
#pragma unroll
  for (int i = 0; i < kSsdChunk / kStep; i++) {
    const bool in = row < tokens && piece * 8 < count;
    ptx::copy16(piece_at<COLUMNS>(to, row, piece), in ? source : from, in ? 16 : 0);
    row += kStep;
    source += kStep * operand.t;
  }
}

// Two elements by two factors. Of bfloat16 the factors are rounded too, to a single multiplication of pairs; float16,
// whose range is too small for them, goes by way of float32.
__device__ __forceinline__ uint32_t times(uint32_t pair, float2 by, Half) {
  const float2 v = unpack<Half>(pair);
  return pack<Half>(v.x * by.x, v.y * by.y);
}
__device__ __forceinline__ uint32_t times(uint32_t pair, float2 by, Brain) {
  __nv_bfloat162 a;
  memcpy(&a, &pair, 4);
  a = __hmul2(a, __floats2bfloat162_rn(by.x, by.y));
  memcpy(&pair, &a, 4);
  return pair;
}

// WARPS of the block's warps work on each head. For the outputs a warp takes 16 tokens and all 64 channels (of 4) or
// half of them (of 8); of the state N / WARPS rows.
template <class T, int N, int HEADS, int WARPS, bool STATES_ONLY, int BLOCKS = 1>
__global__ void __launch_bounds__(HEADS * WARPS * 32, BLOCKS)
    ssd_chunks(const __grid_constant__ SsdArgs p, int stages) {
  constexpr int Q = kSsdChunk, P = kSsdChannels, kThreads = HEADS * WARPS * 32;
  constexpr int kRows = N / WARPS / 16, kColumns = P / 8;              // a warp's share of the state, in blocks
  constexpr int kOut = WARPS == 4 ? P : P / 2, kOutBlocks = kOut / 8;  // channels of its outputs
  constexpr int kChunkBytes = 2 * Q * N * 2 + HEADS * Q * P * 2, kStateBytes = HEADS * N * P * 2;
  constexpr int kNumbers = kSsdNumbers<HEADS>;
  constexpr bool kScaled = std::is_same_v<T, Half>;  // float16 has too small a range for products with small steps
  static_assert(HEADS <= 4 && N % (WARPS * 16) == 0 && (WARPS == 4 || WARPS == 8));
  extern __shared__ __align__(1024) uint8_t memory[];
  const uint32_t base = ptx::shared_address(memory), states = base + stages * kChunkBytes;
  float* const all_numbers = reinterpret_cast<float*>(memory + stages * (kChunkBytes + kStateBytes));
  float* const skips = all_numbers + stages * kNumbers;  // D, by channel
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane >> 2, q = lane & 3;
  const int head = warp / WARPS, sub = warp % WARPS;
  // Strips further down do more: each scheduler (warps four apart) gets one of each kind, of this block or the next.
  const int turned = HEADS * WARPS == 4 ? blockIdx.x & 1 : WARPS == 8 ? sub >> 2 : head & 1;
  const int strip = turned ? 3 - (sub & 3) : sub & 3;
  const int out_first = WARPS == 4 ? 0 : (sub >> 2) * kOut;
  const int row_first = sub * kRows * 16;

  const int per_group = static_cast<int>(p.per_group), heads = static_cast<int>(p.heads);
  const int all_channels = static_cast<int>(p.P), all_states = static_cast<int>(p.N);
  const int tiles = (all_channels + P - 1) / P, sets = (per_group + HEADS - 1) / HEADS, groups = heads / per_group;
  int64_t item = blockIdx.x;
  const int segment = static_cast<int>(item % p.segments);
  item /= p.segments;
  const int tile = static_cast<int>(item % tiles);
  item /= tiles;
  const int set = static_cast<int>(item % sets);
  item /= sets;
  const int group = static_cast<int>(item % groups);
  const int64_t b = item / groups;
  const int in_group = set * HEADS + head;
  const bool real = in_group < per_group;  // a set may have a head too many
  const int h = group * per_group + (real ? in_group : 0);
  const int p0 = tile * P, channels = min(P, all_channels - p0);
  const bool full = channels == P && p.pairs;  // x, z and out go in pairs
  const int64_t begin = segment * p.segment_tokens, end = min(p.L, begin + p.segment_tokens);

  const auto copy_chunk = [&](int64_t t0, int stage) {
    const uint32_t at = base + stage * kChunkBytes;
    if (!STATES_ONLY) copy_tile<T, N, kThreads>(at, p.C, b, group, 0, all_states, t0, end);
    copy_tile<T, N, kThreads>(at + Q * N * 2, p.B, b, group, 0, all_states, t0, end);
#pragma unroll
    for (int i = 0; i < HEADS; i++)
      if (set * HEADS + i < per_group)
        copy_tile<T, P, kThreads>(at + 2 * Q * N * 2 + i * Q * P * 2, p.x, b, group * per_group + set * HEADS + i, p0,
                                  channels, t0, end);
    ptx::copy_commit();
  };
  if (begin < end) copy_chunk(begin, 0);

  // What follows from the step sizes of a chunk, made by the head's first warp, two tokens a lane, a chunk ahead.
  const float rate = p.A.at(h) * kLog2E, bias = p.dt_bias.data ? p.dt_bias.at(h) : 0.0f;
  float next[2] = {};
  int changed[2] = {};
  const auto read_steps = [&](int64_t t0) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int64_t t = t0 + 2 * lane + i;
      next[i] = 0;
      changed[i] = 0;
      if (t >= end) continue;
      next[i] = ssd_step(p, b, t, h, bias);
      changed[i] = ssd_begins(p, b, t);
    }
  };
  const auto put_numbers = [&](float* numbers) {
    // What a token leaves less of than any float holds, it leaves nothing of: sums stay small enough to be exact.
    const float power[2] = {ptx::max_nan(next[0] * rate, -160.0f), ptx::max_nan(next[1] * rate, -160.0f)};
    float sum = power[0] + power[1];
#pragma unroll
    for (int i = 1; i < 32; i <<= 1) {
      const float before = __shfl_up_sync(0xffffffffu, sum, i);
      if (lane >= i) sum += before;
    }
    const float total = __shfl_sync(0xffffffffu, sum, 31), earlier = __shfl_up_sync(0xffffffffu, sum, 1);
    const float first = lane ? earlier + power[0] : power[0];
    float scale = 1;  // of steps, shares and carries: brings the longest step to between 1 and 2
    if constexpr (kScaled) {
      float most = fmaxf(next[0], next[1]);
#pragma unroll
      for (int i = 16; i > 0; i >>= 1) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, i));
      most = fminf(fmaxf(most, 0x1p-40f), 0x1p40f);
      const uint32_t exponent = __float_as_uint(most) & 0x7f800000u;
      scale = __uint_as_float((254u << 23) - exponent);
      if (lane == 0) numbers[(4 * HEADS + 1) * Q + head] = __uint_as_float(exponent);
    }
    int count = 0, changes = 0, first_count = 0;
    if (p.seq) {
      count = changed[0] + changed[1];
#pragma unroll
      for (int i = 1; i < 32; i <<= 1) {
        const int before = __shfl_up_sync(0xffffffffu, count, i);
        if (lane >= i) count += before;
      }
      changes = __shfl_sync(0xffffffffu, count, 31);
      first_count = count - changed[1];
    }
    const int at = head * Q + 2 * lane;
    const auto put = [&](int which, float x, float y) {
      *reinterpret_cast<float2*>(numbers + which * HEADS * Q + at) = {x, y};
    };
    put(0, first, sum);
    const float steps[2] = {next[0] * scale, next[1] * scale};
    put(1, steps[0], steps[1]);
    put(2, first_count == changes ? steps[0] * ptx::ex2(total - first) : 0.0f,
        count == changes ? steps[1] * ptx::ex2(total - sum) : 0.0f);
    put(3, ptx::ex2(first) * scale, ptx::ex2(sum) * scale);
    if (head == 0) *reinterpret_cast<int2*>(numbers + 4 * HEADS * Q + 2 * lane) = {first_count, count};
  };
  if (sub == 0) {
    read_steps(begin);
    put_numbers(all_numbers);
    read_steps(begin + Q);
  }
  for (int i = threadIdx.x; i < HEADS * P; i += kThreads) {
    const int hd = set * HEADS + i / P, c = i % P;
    skips[i] = p.D.data && hd < per_group && c < channels
                   ? float_at(p.D.data, p.D.dtype, (group * per_group + hd) * p.D.stride + (p0 + c) * p.D_p)
                   : 0.0f;
  }

  float state[kRows][kColumns][4];
  const int pitch = tiles * P;
  const int64_t pair = b * heads + h, pairs = p.batch * heads;
  // This lane's place in a slot of segment_states; its other elements lie at fixed distances.
  const int64_t mine = int64_t{row_first + g} * pitch + p0 + 2 * q;
  const auto each_pair = [&](auto f) {
#pragma unroll
    for (int r = 0; r < kRows; r++)
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int c = 0; c < kColumns; c++)
          f(state[r][c][2 * i], state[r][c][2 * i + 1], (r * 16 + i * 8) * pitch + c * 8);
  };
  each_pair([](float& s0, float& s1, int) { s0 = s1 = 0; });
  if (!STATES_ONLY) {
    if (p.initial) {
      const int64_t from = b * p.initial_b + h * p.initial_h + p0 * p.initial_p;
#pragma unroll
      for (int r = 0; r < kRows; r++)
#pragma unroll
        for (int c = 0; c < kColumns; c++)
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const int n = row_first + r * 16 + g + (i >> 1) * 8, channel = c * 8 + 2 * q + (i & 1);
            if (n < all_states && channel < channels)
              state[r][c][i] = float_at(p.initial, p.initial_dtype, from + channel * p.initial_p + n * p.initial_n);
          }
    }
#pragma unroll 1
    for (int k = 0; k < segment; k++) {
      const int64_t at = k * pairs + pair;
      const float decay = p.segment_decays[at];
      const float* const from = p.segment_states + at * N * pitch + mine;
      each_pair([&](float& s0, float& s1, int offset) {
        const float2 added = *reinterpret_cast<const float2*>(from + offset);
        s0 = decay < 0 ? added.x : fmaf(s0, decay, added.x);
        s1 = decay < 0 ? added.y : fmaf(s1, decay, added.y);
      });
    }
  }
  // The state in T for the products of the other warps: eight rows' pieces lie in different banks.
  const uint32_t publish_at = piece_at<P>(states + head * N * P * 2, row_first + g, 0) + q * 4;
  const auto publish = [&](int stage) {
#pragma unroll
    for (int r = 0; r < kRows; r++)
#pragma unroll
      for (int c = 0; c < kColumns; c++)
#pragma unroll
        for (int i = 0; i < 2; i++)
          ptx::store_shared((publish_at ^ c << 4) + stage * kStateBytes + (r * 16 + i * 8) * P * 2,
                            pack<T>(state[r][c][2 * i], state[r][c][2 * i + 1]));
  };

  float left = 0;        // log2 of what the segment leaves of the state before it
  bool forgets = false;  // or nothing, since the sequence changed
  float lost = 0;        // NaN once a sum of this thread's is not finite
  int stage = 0;
  for (int64_t t0 = begin; t0 < end; t0 += Q) {
    if (!STATES_ONLY) publish(stage);
    ptx::copy_wait<0>();
    __syncthreads();
    // Now everything of this chunk is there, and with two stages nobody reads the other one any more.
    if (stages == 2 && t0 + Q < end) copy_chunk(t0 + Q, stage ^ 1);

    const float* const numbers = all_numbers + stage * kNumbers;
    const float* const sums = numbers + head * Q;     // a_i / ln 2
    const float* const steps = sums + HEADS * Q;      // dt_j
    const float* const shares = steps + HEADS * Q;    // dt_j e^{a_Q − a_j}: what token j adds to the state
    const float* const carries = shares + HEADS * Q;  // e^{a_i}: what is left of the state before the chunk
    const int* const changes = reinterpret_cast<const int*>(numbers + 4 * HEADS * Q);  // of the sequence, up to i
    const uint32_t at = base + stage * kChunkBytes, Cs = at, Bs = at + Q * N * 2,
                   xs = Bs + Q * N * 2 + head * Q * P * 2;
    const float total = sums[Q - 1], unscale = kScaled ? numbers[(4 * HEADS + 1) * Q + head] : 1.0f;
    const int changes_in_all = p.seq ? changes[Q - 1] : 0;
    if (!STATES_ONLY) {
      const int row0 = strip * 16 + g, row1 = row0 + 8;
      // Where this lane's rows begin; the pieces after lie at the same place but for these bits.
      const uint32_t c_at = piece_at<N>(Cs, strip * 16 + (lane & 15), lane >> 4);
      const uint32_t b_at = piece_at<N>(Bs, (lane & 7) + ((lane >> 4) << 3), (lane >> 3) & 1);
      const uint32_t s_at =
          piece_at<P>(states + stage * kStateBytes + head * N * P * 2, lane & 15, (out_first >> 3) + (lane >> 4));
      const uint32_t x_at = piece_at<P>(xs, lane & 15, (out_first >> 3) + (lane >> 4));
      float products[Q / 8][4] = {}, y[kOutBlocks][4] = {};
#pragma unroll 1
      for (int k = 0; k < N / 16; k++) {
        uint32_t c_part[4], s_part[kOutBlocks / 2][4], b_part[Q / 16][4];
        ptx::load_matrices(c_part, c_at ^ k << 5);
#pragma unroll
        for (int j = 0; j < Q / 16; j++)
          if (j <= strip) ptx::load_matrices(b_part[j], (b_at ^ k << 5) + j * 16 * N * 2);
#pragma unroll
        for (int c = 0; c < kOutBlocks / 2; c++)
          ptx::load_matrices_transposed(s_part[c], (s_at ^ c << 5) + k * 16 * P * 2);
#pragma unroll
        for (int j = 0; j < Q / 16; j++) {
          if (j > strip) continue;
          ptx::mma(products[2 * j], c_part, b_part[j][0], b_part[j][1], T());
          ptx::mma(products[2 * j + 1], c_part, b_part[j][2], b_part[j][3], T());
        }
#pragma unroll
        for (int c = 0; c < kOutBlocks / 2; c++) {
          ptx::mma(y[2 * c], c_part, s_part[c][0], s_part[c][1], T());
          ptx::mma(y[2 * c + 1], c_part, s_part[c][2], s_part[c][3], T());
        }
      }
      const float a0 = sums[row0], a1 = sums[row1], carry0 = carries[row0], carry1 = carries[row1];
      const int changes0 = p.seq ? changes[row0] : 0, changes1 = p.seq ? changes[row1] : 0;
#pragma unroll
      for (int c = 0; c < kOutBlocks; c++) {
        y[c][0] *= carry0;
        y[c][1] *= carry0;
        y[c][2] *= carry1;
        y[c][3] *= carry1;
      }
      if (changes0)
#pragma unroll
        for (int c = 0; c < kOutBlocks; c++) y[c][0] = y[c][1] = 0;
      if (changes1)
#pragma unroll
        for (int c = 0; c < kOutBlocks; c++) y[c][2] = y[c][3] = 0;
#pragma unroll
      for (int j = 0; j < Q / 16; j++) {
        if (j > strip) continue;
        uint32_t m_part[4], x_part[kOutBlocks / 2][4];
#pragma unroll
        for (int c = 0; c < kOutBlocks / 2; c++)
          ptx::load_matrices_transposed(x_part[c], (x_at ^ c << 5) + j * 16 * P * 2);
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float (&m)[4] = products[2 * j + half];
          const int column = j * 16 + half * 8 + 2 * q;
          const float2 a = *reinterpret_cast<const float2*>(sums + column);
          const float2 dt = *reinterpret_cast<const float2*>(steps + column);
          m[0] *= ptx::ex2(a0 - a.x) * dt.x;
          m[1] *= ptx::ex2(a0 - a.y) * dt.y;
          m[2] *= ptx::ex2(a1 - a.x) * dt.x;
          m[3] *= ptx::ex2(a1 - a.y) * dt.y;
          if (j == strip) {  // what comes after the token does not count
            if (column > row0) m[0] = 0;
            if (column + 1 > row0) m[1] = 0;
            if (column > row1) m[2] = 0;
            if (column + 1 > row1) m[3] = 0;
          }
          if (p.seq) {  // nor does another sequence
            const int2 change = *reinterpret_cast<const int2*>(changes + column);
            if (change.x != changes0) m[0] = 0;
            if (change.y != changes0) m[1] = 0;
            if (change.x != changes1) m[2] = 0;
            if (change.y != changes1) m[3] = 0;
          }
          m_part[2 * half] = pack<T>(m[0], m[1]);
          m_part[2 * half + 1] = pack<T>(m[2], m[3]);
        }
#pragma unroll
        for (int c = 0; c < kOutBlocks / 2; c++) {
          ptx::mma(y[2 * c], m_part, x_part[c][0], x_part[c][1], T());
          ptx::mma(y[2 * c + 1], m_part, x_part[c][2], x_part[c][3], T());
        }
      }
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int row = i ? row1 : row0, first = out_first + 2 * q;
        const int64_t t = t0 + row;
        if (t >= end || !real) continue;
        const T* const z = static_cast<const T*>(p.z.data) + b * p.z.b + t * p.z.t + h * p.z.outer + p0 + first;
        T* const to = static_cast<T*>(p.out.data) + b * p.out.b + t * p.out.t + h * p.out.outer + p0 + first;
        const uint32_t x = piece_at<P>(xs, row, out_first >> 3) + q * 4;
        const float* const D = skips + head * P + first;
#pragma unroll
        for (int c = 0; c < kOutBlocks; c++) {
          const float2 own = unpack<T>(ptx::load_shared(x ^ c << 4)),
                       skip = *reinterpret_cast<const float2*>(D + c * 8);
          lost = fmaf(y[c][2 * i], 0.0f, fmaf(y[c][2 * i + 1], 0.0f, lost));
          float v0 = fmaf(y[c][2 * i], unscale, skip.x * own.x), v1 = fmaf(y[c][2 * i + 1], unscale, skip.y * own.y);
          if (full) {
            if (p.z.data) {
              const float2 gate = unpack<T>(*reinterpret_cast<const uint32_t*>(z + c * 8));
              v0 *= fast_silu(gate.x);
              v1 *= fast_silu(gate.y);
            }
            *reinterpret_cast<uint32_t*>(to + c * 8) = pack<T>(v0, v1);
            continue;
          }
          if (first + c * 8 < channels) to[c * 8] = narrow<T>(p.z.data ? v0 * fast_silu(widen(z[c * 8])) : v0);
          if (first + c * 8 + 1 < channels)
            to[c * 8 + 1] = narrow<T>(p.z.data ? v1 * fast_silu(widen(z[c * 8 + 1])) : v1);
        }
      }
    }
    if (sub == 0 && stages == 2 && t0 + Q < end) {
      put_numbers(all_numbers + (stage ^ 1) * kNumbers);
      read_steps(t0 + 2 * Q);
    }

    // the state after the chunk
    if (changes_in_all) {
      each_pair([](float& s0, float& s1, int) { s0 = s1 = 0; });
    } else {
      const float decay = kScaled ? __fdividef(ptx::ex2(total), unscale) : ptx::ex2(total);
      each_pair([&](float& s0, float& s1, int) { s0 *= decay, s1 *= decay; });
    }
    const uint32_t x_at = piece_at<P>(xs, lane & 15, lane >> 4);
    const uint32_t b_at = piece_at<N>(Bs, (lane & 7) + ((lane >> 4) << 3), (row_first >> 3) + ((lane >> 3) & 1));
#pragma unroll 1
    for (int j = 0; j < Q / 16; j++) {
      uint32_t b_part[kRows][4], x_part[kColumns / 2][4];
#pragma unroll
      for (int r = 0; r < kRows; r++) ptx::load_matrices_transposed(b_part[r], (b_at ^ r << 5) + j * 16 * N * 2);
#pragma unroll
      for (int c = 0; c < kColumns / 2; c++) ptx::load_matrices_transposed(x_part[c], (x_at ^ c << 5) + j * 16 * P * 2);
      const float2 low = *reinterpret_cast<const float2*>(shares + j * 16 + 2 * q);
      const float2 high = *reinterpret_cast<const float2*>(shares + j * 16 + 8 + 2 * q);
#pragma unroll
      for (int r = 0; r < kRows; r++)
#pragma unroll
        for (int i = 0; i < 4; i++) b_part[r][i] = times(b_part[r][i], i < 2 ? low : high, T());
#pragma unroll
      for (int c = 0; c < kColumns / 2; c++)
#pragma unroll
        for (int r = 0; r < kRows; r++) {
          ptx::mma(state[r][2 * c], b_part[r], x_part[c][0], x_part[c][1], T());
          ptx::mma(state[r][2 * c + 1], b_part[r], x_part[c][2], x_part[c][3], T());
        }
    }
    if constexpr (kScaled) each_pair([&](float& s0, float& s1, int) { s0 *= unscale, s1 *= unscale; });
    left += total;
    forgets = forgets || changes_in_all;
    if (stages == 2) {
      stage ^= 1;
      continue;
    }
    __syncthreads();
    if (t0 + Q < end) {
      copy_chunk(t0 + Q, 0);
      if (sub == 0) {
        put_numbers(all_numbers);
        read_steps(t0 + 2 * Q);
      }
    }
  }

  if (!STATES_ONLY) {
    if (real) each_pair([&](float& s0, float& s1, int) { lost = fmaf(s0, 0.0f, fmaf(s1, 0.0f, lost)); });
    const int bad = __syncthreads_or(!(lost == 0));
    if (threadIdx.x == 0) p.flags[blockIdx.x] = bad;
  }
  if (!real) return;
  if (STATES_ONLY) {
    const int64_t at = segment * pairs + pair;
    float* const to = p.segment_states + at * N * pitch + mine;
    each_pair([&](float& s0, float& s1, int offset) { *reinterpret_cast<float2*>(to + offset) = {s0, s1}; });
    if (sub == 0 && lane == 0 && tile == 0) p.segment_decays[at] = forgets ? -1.0f : ptx::ex2(left);
    return;
  }
  if (!p.final || segment != p.segments - 1) return;
  float* const to = p.final + (pair * all_channels + p0) * all_states;
#pragma unroll
  for (int r = 0; r < kRows; r++)
#pragma unroll
    for (int c = 0; c < kColumns; c++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int n = row_first + r * 16 + g + (i >> 1) * 8, channel = c * 8 + 2 * q + (i & 1);
        if (n < all_states && channel < channels) to[channel * all_states + n] = state[r][c][i];
      }
}

}  // namespace seqmix::cuda
