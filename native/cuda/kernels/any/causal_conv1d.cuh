// out[t] = act(bias + Σ_k weight[k] x[t - (w-1) + k]), a channel at a time; taps before the first token come from the
// initial states or are 0, and taps before the beginning of a token's sequence are 0. Computed in float32.
//
// Up to four taps, by what lies side by side in memory (a shorter filter leaves out the first multiplications):
//   conv_tokens: tokens do, and rows of x and out begin alike in their 16 bytes. Neighbouring lanes take neighbouring
//   vectors of 16 bytes of a channel, kConvVectors of them in flight a lane, and get the three tokens before theirs
//   from the lane before. A row that begins within 16 bytes goes from the 16 bytes on in which it begins.
//   conv_tokens_apart: tokens do, but x and out cannot both be aligned. A thread takes one token of four channels.
//   conv_channels: channels do. A thread takes V neighbouring channels, 16 bytes or one, and walks a run of tokens,
//   kConvBatch loads in flight, the last three inputs in registers. Between two runs three tokens are read twice (from
//   L2).
// conv_any: more taps, one output a thread; its taps come from L1.
// Places are found with multiplications where the numbers allow it, since divisions would cost more than the
// convolution. Floor: x read once and out written once; four multiply-adds and a silu (five instructions, two of them
// of the special-function unit) an element, and one or two to convert it: 40% of what the chip issues in the time of
// the bytes of 16 bits.
#pragma once
#include "cuda/kernels/any/divide.cuh"
#include "cuda/kernels/any/math.cuh"
#include "cuda/kernels/any/reduce.cuh"
#include "cuda/kernels/any/vector.cuh"
#include "cuda/ptx/grid.cuh"
#include "cuda/ptx/math.cuh"

namespace seqmix::cuda {

constexpr int kTaps = 4;          // of all kernels but conv_any
constexpr int kConvVectors = 4;   // of a lane of conv_tokens
constexpr int kConvChannels = 4;  // of a thread of conv_tokens_apart
constexpr int kConvBatch = 8;     // tokens that a thread of conv_channels loads before it uses the first

// item = (third · seconds + second) · firsts + first
struct Places {
  int64_t firsts, seconds, items;
  Divisor by_firsts, by_seconds;  // where items < 2^31

  Places() = default;
  Places(int64_t f, int64_t s, int64_t thirds) : firsts(f), seconds(s), items(f * s * thirds) {
    if (items > INT32_MAX || items == 0) return;
    by_firsts = Divisor(static_cast<uint32_t>(f));
    by_seconds = Divisor(static_cast<uint32_t>(s));
  }

  __device__ __forceinline__ void find(int64_t item, int64_t* first, int64_t* second, int64_t* third) const {
    if (items <= INT32_MAX) {
      const uint32_t n = static_cast<uint32_t>(item), rest = by_firsts.quotient(n), last = by_seconds.quotient(rest);
      *first = n - rest * by_firsts.value;
      *second = rest - last * by_seconds.value;
      *third = last;
    } else {
      const int64_t rest = item / firsts;
      *first = item - rest * firsts;
      *third = rest / seconds;
      *second = rest - *third * seconds;
    }
  }
};

template <class T>
struct ConvArgs {
  const T* x;
  T *out, *final;
  const void *weight, *initial;  // initial may be null
  const int32_t* seq;            // may be null
  Weights bias;                  // may be absent
  DType weight_dtype, initial_dtype;
  bool silu, weight_together;  // weight_together: four taps of a channel are one aligned access
  int w;
  int lanes;      // that share a channel in conv_tokens: a power of two up to 32
  int walk;       // tokens that a thread of conv_channels walks, a multiple of kConvBatch
  Places places;  // of conv_tokens: segment, channel, row; of conv_channels: channels, run, row; of
                  // conv_tokens_apart: token, channels, row
  int64_t b, d, L;
  int64_t x_b, x_d, x_t, out_b, out_d, out_t, weight_d, weight_k;
  int64_t initial_b, initial_d, initial_t, seq_b, seq_t, final_b, final_d, final_t;

  // Token t ≥ -(w-1) of a channel; before that, 0.
  __device__ __forceinline__ float input(int64_t i, int64_t c, int64_t t) const {
    if (t >= 0) return widen(x[i * x_b + c * x_d + t * x_t]);
    if (!initial || t < 1 - w) return 0;
    return float_at(initial, initial_dtype, i * initial_b + c * initial_d + (t + w - 1) * initial_t);
  }
  // A sequence begins at token t. (The first one of a row goes on from the initial states.)
  __device__ __forceinline__ bool begins(int64_t i, int64_t t) const {
    return seq && t > 0 && seq[i * seq_b + t * seq_t] != seq[i * seq_b + (t - 1) * seq_t];
  }
  // Bit q tells that a sequence begins at token t + q, for 0 ≤ q < N.
  template <int N>
  __device__ __forceinline__ uint32_t beginnings(int64_t i, int64_t t) const {
    if (!seq) return 0;
    const int32_t* const ids = seq + i * seq_b;
    const auto id = [&](int64_t at) { return ids[max(int64_t{0}, min(at, L - 1)) * seq_t]; };
    int32_t before = id(t - 1);
    uint32_t bits = 0;
#pragma unroll
    for (int q = 0; q < N; q++) {
      const int32_t here = id(t + q);
      if (here != before) bits |= 1u << q;
      before = here;
    }
    return bits;
  }
};

// A channel's filter: the taps at the end of four, so that the newest is the last.
struct Filter {
  float tap[kTaps], bias;

  __device__ __forceinline__ float apply(int w, float a, float b, float c, float d) const {
    float sum = bias;
    if (w > 3) sum = fmaf(tap[0], a, sum);
    if (w > 2) sum = fmaf(tap[1], b, sum);
    if (w > 1) sum = fmaf(tap[2], c, sum);
    return fmaf(tap[3], d, sum);
  }
};

// As it lies in memory.
struct RawFilter {
  Raw<kTaps> taps;
  Raw<1> bias;
};

template <class T>
__device__ __forceinline__ RawFilter read_filter(const ConvArgs<T>& p, int64_t c) {
  RawFilter raw{};
  if (p.weight_together) {
    raw.taps = load_raw<kTaps>(p.weight, p.weight_dtype, c * p.weight_d);
  } else {
    Raw<1> one[kTaps] = {};
#pragma unroll
    for (int k = 0; k < kTaps; k++) {
      const int64_t from = k - (kTaps - p.w);
      if (from >= 0) one[k] = load_raw<1>(p.weight, p.weight_dtype, c * p.weight_d + from * p.weight_k);
    }
    const bool words = p.weight_dtype == DType::float32;
#pragma unroll
    for (int k = 0; k < kTaps; k++)
      raw.taps.w[k] = words ? one[k].w[0] : k < 2 ? one[2 * k].w[0] | one[2 * k + 1].w[0] << 16 : 0;
  }
  if (p.bias.data) raw.bias = load_raw<1>(p.bias.data, p.bias.dtype, c * p.bias.stride);
  return raw;
}

template <class T>
__device__ __forceinline__ Filter filter_of(const ConvArgs<T>& p, const RawFilter& raw) {
  const Floats<kTaps> taps = widen(raw.taps, p.weight_dtype);
  Filter filter;
#pragma unroll
  for (int k = 0; k < kTaps; k++) filter.tap[k] = taps.v[k];
  filter.bias = p.bias.data ? widen(raw.bias, p.bias.dtype).v[0] : 0.0f;
  return filter;
}

// By the approximate exponential and division: each is right to a few units of the last place, and the exponential's
// error, which grows with |y|, is in a term that is small where the result is not.
template <int V>
__device__ __forceinline__ void activate(bool silu, Floats<V>& y) {
  if (!silu) return;
#pragma unroll
  for (int j = 0; j < V; j++) y.v[j] = __fdividef(y.v[j], 1.0f + ptx::ex2(-kLog2E * y.v[j]));
}

template <class T>
__global__ void __launch_bounds__(128) conv_tokens(const __grid_constant__ ConvArgs<T> p) {
  constexpr int V = kWide<T>, J = kConvVectors, H = kTaps - 1;  // H: tokens from before a vector
  const int last = p.lanes - 1, lane = static_cast<int>(threadIdx.x) & last;
  const int64_t number = (blockIdx.x * int64_t{blockDim.x} + threadIdx.x) / static_cast<uint32_t>(p.lanes);
  const bool in = number < p.places.items;  // lanes with nothing to do do another's work, for the shuffles
  int64_t segment, c, i;
  p.places.find(in ? number : 0, &segment, &c, &i);
  const T* const x = p.x + i * p.x_b + c * p.x_d;  // tokens lie side by side
  T* const out = p.out + i * p.out_b + c * p.out_d;
  const int phase = static_cast<int>(reinterpret_cast<uintptr_t>(x) / sizeof(T) % V);
  const int64_t step = int64_t{p.lanes} * V, t0 = segment * J * step + lane * V - phase;
  ptx::wait_for_earlier_kernels();
  Packed<T, V> f[J];
#pragma unroll
  for (int j = 0; j < J; j++) {
    const int64_t t = t0 + j * step;
    f[j] = t >= 0 && t + V <= p.L ? load_packed<V>(x + t) : Packed<T, V>{};
  }
  const RawFilter raw = read_filter(p, c);
  T near[H] = {};  // the first lane reads what precedes its vector
  if (lane == 0 && t0 >= H && t0 < p.L) {
#pragma unroll
    for (int q = 0; q < H; q++) near[q] = x[t0 - H + q];
  }
  ptx::let_next_kernel_begin();
  const Filter filter = filter_of(p, raw);
  if (t0 < 0 || t0 + (J - 1) * step + V > p.L) {  // vectors that are not all within the row
#pragma unroll
    for (int j = 0; j < J; j++) {
      const int64_t t = t0 + j * step;
      if (t >= p.L || (t >= 0 && t + V <= p.L)) continue;
#pragma unroll
      for (int v = 0; v < V; v++)
        if (t + v >= 0 && t + v < p.L) put<V>(f[j], v, x[t + v]);
    }
  }
  const int lane_before = (static_cast<int>(threadIdx.x) & 31 & ~last) | ((lane - 1) & last);
#pragma unroll
  for (int j = 0; j < J; j++) {
    const int64_t t = t0 + j * step;
    const Floats<V> now = widen(f[j]);
    const Floats<V> earlier = widen(f[j > 0 ? j - 1 : 0]);
    float taps[H + V];
#pragma unroll
    for (int q = 0; q < H; q++) {
      // The last lane hands the first one what precedes its vector: the end of the vectors before.
      const float given = j > 0 && lane == last ? earlier.v[V - H + q] : now.v[V - H + q];
      const float got = __shfl_sync(kFullWarp, given, lane_before);
      taps[q] = j == 0 && lane == 0 ? widen(near[q]) : got;
    }
#pragma unroll
    for (int v = 0; v < V; v++) taps[H + v] = now.v[v];
    if (j < 2 && t < H && p.initial) {
#pragma unroll
      for (int q = 0; q < H + V; q++)
        if (t - H + q < 0) taps[q] = p.input(i, c, t - H + q);
    }
    const uint32_t begins = p.template beginnings<V + H - 1>(i, t - H + 1);
    Floats<V> y;
    if (begins == 0) {  // most often: no selections
#pragma unroll
      for (int v = 0; v < V; v++) y.v[v] = filter.apply(p.w, taps[v], taps[v + 1], taps[v + 2], taps[v + 3]);
    } else {
#pragma unroll
      for (int v = 0; v < V; v++) {  // from the tap on at which the token's sequence begins
        const bool at = begins >> (v + 2) & 1, one_before = begins >> (v + 1) & 1, two_before = begins >> v & 1;
        y.v[v] = filter.apply(p.w, at || one_before || two_before ? 0.0f : taps[v],
                              at || one_before ? 0.0f : taps[v + 1], at ? 0.0f : taps[v + 2], taps[v + 3]);
      }
    }
    activate(p.silu, y);
    if (!in) continue;
    if (t >= 0 && t + V <= p.L) {
      store<V>(out + t, y);
    } else {
#pragma unroll
      for (int v = 0; v < V; v++)
        if (t + v >= 0 && t + v < p.L) out[t + v] = narrow<T>(y.v[v]);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(128) conv_tokens_apart(const __grid_constant__ ConvArgs<T> p) {
  constexpr int U = kConvChannels;
  const int64_t item = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  int64_t t = 0, group = 0, i = 0;
  p.places.find(item < p.places.items ? item : 0, &t, &group, &i);
  ptx::wait_for_earlier_kernels();
  ptx::let_next_kernel_begin();
  if (item >= p.places.items) return;
  const int64_t c0 = group * U;
  float in[U][kTaps];
#pragma unroll
  for (int u = 0; u < U; u++) {  // a channel beyond the last is read as the last, and never written
#pragma unroll
    for (int k = 0; k < kTaps; k++) in[u][k] = p.input(i, min(c0 + u, p.d - 1), t - (kTaps - 1) + k);
  }
  const uint32_t begins = p.template beginnings<kTaps - 1>(i, t - (kTaps - 2));
#pragma unroll
  for (int u = 0; u < U; u++) {
    const int64_t c = c0 + u;
    if (c >= p.d) break;
#pragma unroll
    for (int k = 0; k < kTaps - 1; k++)
      if (begins >> k) in[u][k] = 0;
    Floats<1> y{{filter_of(p, read_filter(p, c)).apply(p.w, in[u][0], in[u][1], in[u][2], in[u][3])}};
    activate(p.silu, y);
    p.out[i * p.out_b + c * p.out_d + t * p.out_t] = narrow<T>(y.v[0]);
  }
}

template <class T, int V>
__global__ void __launch_bounds__(128, V == 8 ? 4 : 5) conv_channels(const __grid_constant__ ConvArgs<T> p) {
  constexpr int N = kConvBatch, H = kTaps - 1;
  const int64_t item = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  int64_t block = 0, run = 0, i = 0;
  p.places.find(item < p.places.items ? item : 0, &block, &run, &i);
  ptx::wait_for_earlier_kernels();
  ptx::let_next_kernel_begin();
  if (item >= p.places.items) return;
  const int64_t c = block * V, t0 = run * p.walk, end = min(p.L, t0 + p.walk);
  const T* x = p.x + i * p.x_b + c * p.x_d + t0 * p.x_t;
  T* out = p.out + i * p.out_b + c * p.out_d + t0 * p.out_t;
  Floats<V> past[H];  // the three tokens before, oldest first
  Packed<T, V> batch[N];
  if (t0 > 0) {  // a run is longer than a filter
#pragma unroll
    for (int q = 0; q < H; q++) past[q] = load<V>(x + (q - H) * p.x_t);
  } else {
#pragma unroll
    for (int q = 0; q < H; q++) {
#pragma unroll
      for (int v = 0; v < V; v++) past[q].v[v] = p.initial ? p.input(i, c + v, q - H) : 0.0f;
    }
  }
  const auto read = [&](int64_t t) {
    const int left = static_cast<int>(min(end - t, int64_t{N}));
    const T* from = x;  // stays at the last token, so that no load hangs on a condition
#pragma unroll
    for (int j = 0; j < N; j++) {
      batch[j] = load_packed<V>(from);
      from += j + 1 < left ? p.x_t : 0;
    }
  };
  read(t0);
  RawFilter raw[V];
  Filter filter[V];
#pragma unroll
  for (int v = 0; v < V; v++) raw[v] = read_filter(p, c + v);
#pragma unroll
  for (int v = 0; v < V; v++) filter[v] = filter_of(p, raw[v]);
  const uint32_t early = p.template beginnings<H - 1>(i, t0 - (H - 1));
#pragma unroll
  for (int q = 0; q < H - 1; q++)
    if (early >> q) past[q] = {};
  for (int64_t t = t0; t < end; t += N) {
    if (t > t0) read(t);
    const uint32_t begins = p.template beginnings<N>(i, t);
#pragma unroll
    for (int j = 0; j < N; j++) {
      if (begins >> j & 1) {
#pragma unroll
        for (int q = 0; q < H; q++) past[q] = {};
      }
      const Floats<V> now = widen(batch[j]);
      Floats<V> y;
#pragma unroll
      for (int v = 0; v < V; v++) y.v[v] = filter[v].apply(p.w, past[0].v[v], past[1].v[v], past[2].v[v], now.v[v]);
      activate(p.silu, y);
      if (t + j < end) store<V>(out + j * p.out_t, y);
      past[0] = past[1];
      past[1] = past[2];
      past[2] = now;
    }
    x += N * p.x_t;
    out += N * p.out_t;
  }
}

template <class T>
__global__ void __launch_bounds__(128)
    conv_any(const __grid_constant__ ConvArgs<T> p, const __grid_constant__ bool by_channel) {
  ptx::wait_for_earlier_kernels();
  ptx::let_next_kernel_begin();
  const int64_t items = p.b * p.d * p.L;
  for (int64_t item = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; item < items;
       item += gridDim.x * int64_t{blockDim.x}) {
    const int64_t c = by_channel ? item % p.d : item / p.L % p.d;
    const int64_t t = by_channel ? item / p.d % p.L : item % p.L;
    const int64_t i = item / p.d / p.L;
    int64_t first = t - (p.w - 1);  // of the taps
    for (int64_t s = t; p.seq && s > first; s--)
      if (p.begins(i, s)) first = s;
    float y = p.bias.data ? p.bias.at(c) : 0.0f;
    for (int k = 0; k < p.w; k++) {
      const int64_t from = t - (p.w - 1) + k;
      if (from >= first)
        y = fmaf(float_at(p.weight, p.weight_dtype, c * p.weight_d + k * p.weight_k), p.input(i, c, from), y);
    }
    p.out[i * p.out_b + c * p.out_d + t * p.out_t] = narrow<T>(p.silu ? silu(y) : y);
  }
}

template <class T>
__global__ void __launch_bounds__(128) conv_final_states(const __grid_constant__ ConvArgs<T> p) {
  ptx::wait_for_earlier_kernels();
  ptx::let_next_kernel_begin();
  const int64_t kept = p.w - 1, items = p.b * p.d * kept;
  for (int64_t item = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; item < items;
       item += gridDim.x * int64_t{blockDim.x}) {
    const int64_t k = item % kept, c = item / kept % p.d, i = item / kept / p.d;
    p.final[i * p.final_b + c * p.final_d + k * p.final_t] = narrow<T>(p.input(i, c, p.L - kept + k));
  }
}

}  // namespace seqmix::cuda
