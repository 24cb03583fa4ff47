// What Hopper's chunks of ssdChunkScan (ssd_chunk_scan.cu) do to numbers: what follows from a chunk's step sizes, made
// by one warp a head; and the left operands of products, which a consumer's warps make in registers.
#pragma once
#include "cuda/kernels/any/math.cuh"
#include "cuda/kernels/any/ssd_chunk_scan_args.cuh"
#include "cuda/kernels/any/vector.cuh"
#include "cuda/ptx/tensor.cuh"

namespace seqmix::cuda {

constexpr int kChunk = 64;
constexpr int kTile = 64 * 128;  // bytes: 64 rows of 128, swizzled

// What follows from the step sizes of a chunk, in floats.
struct Numbers {
  static constexpr int sums = 0;              // a_i / ln 2
  static constexpr int columns = kChunk;      // the same less log2(dt_i): e^{a_i − a_j} dt_j is 2^(sum_i − column_j)
  static constexpr int carries = 2 * kChunk;  // e^{a_i}: what is left of the state before the chunk
  static constexpr int shares = 3 * kChunk;   // dt_j e^{a_Q − a_j}: what token j adds to the state
  static constexpr int unscale = 4 * kChunk;
  static constexpr int count = 4 * kChunk + 4;
};

// Where eight elements lie, the chunk'th of a row, in tiles one after another.
__device__ __forceinline__ uint32_t place_of(int row, int chunk) {
  return static_cast<uint32_t>((chunk >> 3) * kTile + row * 128 + ((chunk & 7 ^ row & 7) << 4));
}

// Two elements by two factors: of bfloat16 the factors are its own and what they are short of, so that there is one
// rounding.
__device__ __forceinline__ uint32_t times(uint32_t pair, uint2 by) {
  __nv_bfloat162 a, most, rest;
  memcpy(&a, &pair, 4);
  memcpy(&most, &by.x, 4);
  memcpy(&rest, &by.y, 4);
  a = __hfma2(a, most, __hmul2(a, rest));
  memcpy(&pair, &a, 4);
  return pair;
}
__device__ __forceinline__ uint32_t times(uint32_t pair, float2 by) {
  const float2 v = unpack<Half>(pair);
  return pack<Half>(v.x * by.x, v.y * by.y);
}

// Zeros while all were finite.
template <class T>
__device__ __forceinline__ uint32_t lose(uint32_t pair, uint32_t lost) {
  if constexpr (std::is_same_v<T, Half>) {
    __half2 v, sum;
    memcpy(&v, &pair, 4);
    memcpy(&sum, &lost, 4);
    sum = __hfma2(v, __float2half2_rn(0.0f), sum);
    memcpy(&lost, &sum, 4);
  } else {
    __nv_bfloat162 v, sum;
    memcpy(&v, &pair, 4);
    memcpy(&sum, &lost, 4);
    sum = __hfma2(v, __float2bfloat162_rn(0.0f), sum);
    memcpy(&lost, &sum, 4);
  }
  return lost;
}

// The numbers of the chunks of one head, by one warp, two tokens a lane.
template <class T>
struct Preparer {
  const SsdArgs& p;
  const int lane;
  const bool first_head;
  Raw<1> raw_rate = {}, raw_bias = {};
  float rate = 0, bias = 0;
  Raw<1> next[2] = {};
  bool there[2] = {};
  int changed[2] = {};

  __device__ __forceinline__ void begin(int h) {
    raw_rate = load_raw<1>(p.A.data, p.A.dtype, h * p.A.stride);
    if (p.dt_bias.data) raw_bias = load_raw<1>(p.dt_bias.data, p.dt_bias.dtype, h * p.dt_bias.stride);
  }

  // Once what `begin` and `read` read is under way.
  __device__ __forceinline__ void ready() {
    rate = widen(raw_rate, p.A.dtype).v[0] * kLog2E;
    bias = p.dt_bias.data ? widen(raw_bias, p.dt_bias.dtype).v[0] : 0.0f;
  }

  // Step sizes as they lie in memory: under way while the chunk before is prepared.
  __device__ __forceinline__ void read(int64_t b, int h, int chunk) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int64_t t = int64_t{chunk} * kChunk + 2 * lane + i;
      there[i] = t < p.L;
      if (there[i]) next[i] = load_raw<1>(p.dt, p.dt_dtype, b * p.dt_b + t * p.dt_t + h * p.dt_h);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) changed[i] = there[i] && ssd_begins(p, b, int64_t{chunk} * kChunk + 2 * lane + i);
  }

  __device__ __forceinline__ void steps(float (&step)[2]) const {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float v = widen(next[i], p.dt_dtype).v[0] + bias;
      if (p.softplus) v = fast_softplus<T>(v);
      v = v < p.dt_low ? p.dt_low : v > p.dt_high ? p.dt_high : v;
      step[i] = there[i] ? v : 0.0f;
    }
  }

  __device__ __forceinline__ void put(float* numbers, int* changes, const float (&step)[2],
                                      const int (&changed)[2]) const {
    // What a token leaves less of than any float holds, it leaves nothing of: sums stay small enough to be exact.
    const float power[2] = {ptx::max_nan(step[0] * rate, -160.0f), ptx::max_nan(step[1] * rate, -160.0f)};
    float sum = power[0] + power[1];
#pragma unroll
    for (int i = 1; i < 32; i <<= 1) {
      const float before = __shfl_up_sync(0xffffffffu, sum, i);
      if (lane >= i) sum += before;
    }
    const float total = __shfl_sync(0xffffffffu, sum, 31), earlier = __shfl_up_sync(0xffffffffu, sum, 1);
    const float first = lane ? earlier + power[0] : power[0];
    float scale = 1;  // of steps, shares and carries: brings float16's longest step to between 1 and 2
    if constexpr (std::is_same_v<T, Half>) {
      float most = fmaxf(step[0], step[1]);
#pragma unroll
      for (int i = 16; i > 0; i >>= 1) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, i));
      most = fminf(fmaxf(most, 0x1p-40f), 0x1p40f);
      const uint32_t exponent = __float_as_uint(most) & 0x7f800000u;
      scale = __uint_as_float((254u << 23) - exponent);
      if (lane == 0) numbers[Numbers::unscale] = __uint_as_float(exponent);
    }
    int count = 0, last = 0, first_count = 0;
    if (p.seq) {
      count = changed[0] + changed[1];
#pragma unroll
      for (int i = 1; i < 32; i <<= 1) {
        const int before = __shfl_up_sync(0xffffffffu, count, i);
        if (lane >= i) count += before;
      }
      last = __shfl_sync(0xffffffffu, count, 31);
      first_count = count - changed[1];
    }
    const float scaled[2] = {step[0] * scale, step[1] * scale};
    const auto two = [&](int which, float x, float y) {
      *reinterpret_cast<float2*>(numbers + which + 2 * lane) = {x, y};
    };
    two(Numbers::sums, first, sum);
    two(Numbers::columns, first - ptx::lg2(scaled[0]), sum - ptx::lg2(scaled[1]));
    two(Numbers::carries, ptx::ex2(first) * scale, ptx::ex2(sum) * scale);
    const float shares[2] = {first_count == last ? scaled[0] * ptx::ex2(total - first) : 0.0f,
                             count == last ? scaled[1] * ptx::ex2(total - sum) : 0.0f};
    if constexpr (std::is_same_v<T, Half>)
      two(Numbers::shares, shares[0], shares[1]);
    else {
      const uint32_t most = pack<T>(shares[0], shares[1]);
      const float2 of = unpack<T>(most);
      reinterpret_cast<uint2*>(numbers + Numbers::shares)[lane] = {most, pack<T>(shares[0] - of.x, shares[1] - of.y)};
    }
    if (p.seq && first_head) *reinterpret_cast<int2*>(changes + 2 * lane) = {first_count, count};
  }
};

// What half of a warp's 16 rows of C·Bᵀ, columns 32 half and on, are multiplied by, e^{a_i − a_j} dt_j or 0: row
// 16 strip + lane/4 and eight below.
template <int HALF>
__device__ __forceinline__ void decays(float (&e)[4][4], const float* numbers, const int* changes, bool sequences,
                                       int strip) {
  const int g = threadIdx.x % 32 >> 2, q = threadIdx.x & 3, row = strip * 16 + g;
  const float a0 = numbers[Numbers::sums + row], a1 = numbers[Numbers::sums + row + 8];
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const int k = 2 * HALF + j / 2, column = (4 * HALF + j) * 8 + 2 * q;
    const float2 a = *reinterpret_cast<const float2*>(numbers + Numbers::columns + column);
    if (k > strip) {  // all of it comes after the tokens
      e[j][0] = e[j][1] = e[j][2] = e[j][3] = 0;
      continue;
    }
    e[j][0] = ptx::ex2(a0 - a.x);
    e[j][1] = ptx::ex2(a0 - a.y);
    e[j][2] = ptx::ex2(a1 - a.x);
    e[j][3] = ptx::ex2(a1 - a.y);
    if (k == strip) {  // what comes after the token does not count
      const int within = j % 2 * 8 + 2 * q;
      if (within > g) e[j][0] = 0;
      if (within + 1 > g) e[j][1] = 0;
      if (within > g + 8) e[j][2] = 0;
      if (within + 1 > g + 8) e[j][3] = 0;
    }
  }
  if (!sequences) return;
  const int changes0 = changes[row], changes1 = changes[row + 8];
#pragma unroll
  for (int j = 0; j < 4; j++) {  // nor does another sequence
    const int2 change = *reinterpret_cast<const int2*>(changes + (4 * HALF + j) * 8 + 2 * q);
    if (change.x != changes0) e[j][0] = 0;
    if (change.y != changes0) e[j][1] = 0;
    if (change.x != changes1) e[j][2] = 0;
    if (change.y != changes1) e[j][3] = 0;
  }
}

// That half times these, as left operands.
template <class T, int HALF>
__device__ __forceinline__ void weigh(uint32_t (&left)[4][4], const float (&m)[8][4], const float (&e)[4][4]) {
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const float (&v)[4] = m[4 * HALF + j];
    left[2 * HALF + j / 2][j % 2 * 2] = pack<T>(v[0] * e[j][0], v[1] * e[j][1]);
    left[2 * HALF + j / 2][j % 2 * 2 + 1] = pack<T>(v[2] * e[j][2], v[3] * e[j][3]);
  }
}

// xᵀ of a warp's 16 channels times the tokens' shares, as left operands.
template <class T>
__device__ __forceinline__ void share(uint32_t (&left)[4][4], uint32_t x, const float* numbers, int warp) {
  const int lane = threadIdx.x % 32, q = lane & 3;
  const uint32_t at = x + place_of((lane & 7) + ((lane >> 4) << 3), 2 * warp + (lane >> 3 & 1));
#pragma unroll
  for (int k = 0; k < 4; k++) {
    ptx::load_matrices_transposed(left[k], at + k * 16 * 128);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      if constexpr (std::is_same_v<T, Half>) {
        const float2 by = *reinterpret_cast<const float2*>(numbers + Numbers::shares + k * 16 + i * 8 + 2 * q);
        left[k][2 * i] = times(left[k][2 * i], by);
        left[k][2 * i + 1] = times(left[k][2 * i + 1], by);
      } else {
        const uint2 by = reinterpret_cast<const uint2*>(numbers + Numbers::shares)[k * 8 + i * 4 + q];
        left[k][2 * i] = times(left[k][2 * i], by);
        left[k][2 * i + 1] = times(left[k][2 * i + 1], by);
      }
    }
  }
}

}  // namespace seqmix::cuda
