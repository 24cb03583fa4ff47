// out[t] = act(bias + Σ_k weight[k] x[t - (w-1) + k]), a channel at a time; taps before the first token come from the
// initial states or are 0, and taps before the beginning of a token's sequence are 0. Computed in float32.
//
// Up to four taps, by what lies side by side in memory (a shorter filter leaves out the first multiplications):
//   conv_tokens: tokens do. Neighbouring lanes take neighbouring vectors of 16 bytes of a channel, two or four of them
//   in flight a lane, and get the three tokens before theirs from the lane before. A row of out that begins within 16
//   bytes goes from the 16 bytes on in which it begins; where x does not begin as out does, its elements are loaded
//   one by one into the same vectors, from L1.
//   conv_channels: channels do. A thread takes 4 bytes of neighbouring channels, or one channel, and a run of 8 or 16
//   tokens, all loads in flight; the warps of a block take runs one after another, so that the three tokens before a
//   run come from L1 but for the first.
// conv_any: more taps, one output a thread; its taps come from L1.
// Places are found with multiplications where the numbers allow it, since divisions would cost more than the
// convolution. Floor: x read once and out written once; four multiply-adds and a silu (five instructions, two of them
// of the special-function unit) an element, and one or two to convert it: 40% of what the chip issues in the time of
// the bytes of 16 bits. What a thread does before its first element costs as much as ten elements: a small problem is
// bound by that, and by whether all of its blocks find a place at once.
#pragma once
#include "cuda/kernels/any/divide.cuh"
#include "cuda/kernels/any/math.cuh"
#include "cuda/kernels/any/reduce.cuh"
#include "cuda/kernels/any/vector.cuh"
#include "cuda/ptx/grid.cuh"
#include "cuda/ptx/math.cuh"

namespace seqmix::cuda {

constexpr int kTaps = 4;  // of all kernels but conv_any

// Tokens of a thread of conv_channels.
template <int kBytes, bool Plain>
constexpr int kConvRun = Plain && kBytes == 4 ? 8 : 16;

// Vectors of a lane of conv_tokens: fewer where that leaves registers for many more threads.
template <bool Plain>
constexpr int kConvVectors = Plain ? 2 : 4;

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
  bool silu;
  bool weights_together, bias_together;  // what a thread reads of them is a whole number of aligned accesses
  int w;
  int lanes_log;  // of the lanes that share a channel in conv_tokens: a power of two up to 32
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

// The filters of V neighbouring channels as they lie in memory.
template <int V>
struct RawFilters {
  Raw<V * kTaps> taps;
  Raw<V> bias;
};

template <int V, class T>
__device__ __forceinline__ RawFilters<V> read_filters(const ConvArgs<T>& p, int64_t c) {
  RawFilters<V> raw{};
  const bool words = p.weight_dtype == DType::float32;
  if (p.weights_together) {
    raw.taps = load_raw<V * kTaps>(p.weight, p.weight_dtype, c * kTaps);
  } else {
#pragma unroll
    for (int v = 0; v < V; v++) {
      Raw<1> one[kTaps] = {};
#pragma unroll
      for (int k = 0; k < kTaps; k++) {
        const int64_t from = k - (kTaps - p.w);
        if (from >= 0) one[k] = load_raw<1>(p.weight, p.weight_dtype, (c + v) * p.weight_d + from * p.weight_k);
      }
#pragma unroll
      for (int k = 0; k < kTaps; k++) {
        if (words)
          raw.taps.w[v * kTaps + k] = one[k].w[0];
        else if (k % 2 == 0)
          raw.taps.w[(v * kTaps + k) / 2] = one[k].w[0] | one[k + 1].w[0] << 16;
      }
    }
  }
  if (p.bias_together) {
    raw.bias = load_raw<V>(p.bias.data, p.bias.dtype, c);
  } else if (p.bias.data) {
#pragma unroll
    for (int v = 0; v < V; v++) {
      const uint32_t one = load_raw<1>(p.bias.data, p.bias.dtype, (c + v) * p.bias.stride).w[0];
      if (p.bias.dtype == DType::float32)
        raw.bias.w[v] = one;
      else
        raw.bias.w[v / 2] |= one << v % 2 * 16;
    }
  }
  return raw;
}

template <int V, class T>
__device__ __forceinline__ void widen_filters(const ConvArgs<T>& p, const RawFilters<V>& raw, Filter (&filter)[V]) {
  const Floats<V * kTaps> taps = widen(raw.taps, p.weight_dtype);
  Floats<V> bias{};
  if (p.bias.data) bias = widen(raw.bias, p.bias.dtype);
#pragma unroll
  for (int v = 0; v < V; v++) {
#pragma unroll
    for (int k = 0; k < kTaps; k++) filter[v].tap[k] = taps.v[v * kTaps + k];
    filter[v].bias = bias.v[v];
  }
}

// By the approximate exponential and reciprocal: each is right to a few units of the last place, and the exponential's
// error, which grows with |y|, is in a term that is small where the result is not.
template <int V>
__device__ __forceinline__ void activate(bool silu, Floats<V>& y) {
  if (!silu) return;
#pragma unroll
  for (int j = 0; j < V; j++) y.v[j] = fast_silu(y.v[j]);
}

// V elements that begin anywhere.
template <int V, class T>
__device__ __forceinline__ Packed<T, V> gather(const T* from) {
  Packed<T, V> packed{};
#pragma unroll
  for (int v = 0; v < V; v++) put<V>(packed, v, from[v]);
  return packed;
}

// Plain: four taps, no initial states, one sequence a row. Apart: rows of x and out do not begin alike in 16 bytes.
template <class T, bool Plain, bool Apart>
__global__ void __launch_bounds__(128) conv_tokens(const __grid_constant__ ConvArgs<T> p) {
  constexpr int V = kWide<T>, J = kConvVectors<Plain>, H = kTaps - 1;  // H: tokens from before a vector
  constexpr int W = kTaps * sizeof(T) / 4, W0 = W / 4;  // the words of four tokens, and the first of them with one of H
  const int last = (1 << p.lanes_log) - 1, lane = static_cast<int>(threadIdx.x) & last, w = Plain ? kTaps : p.w;
  const int64_t number = (blockIdx.x * int64_t{blockDim.x} + threadIdx.x) >> p.lanes_log;
  const bool in = number < p.places.items;  // lanes with nothing to do do another's work, for the shuffles
  int64_t segment, c, i;
  p.places.find(in ? number : 0, &segment, &c, &i);
  T* const row = p.out + i * p.out_b + c * p.out_d;
  const int phase = static_cast<int>(reinterpret_cast<uintptr_t>(row) / sizeof(T) % V), step = V << p.lanes_log;
  const int64_t t0 = segment * J * step + lane * V - phase;
  const T* const x = p.x + i * p.x_b + c * p.x_d + t0;  // tokens lie side by side
  T* const out = row + t0;
  const int begin = static_cast<int>(max(-t0, int64_t{0}));  // the row, from x on
  const int end = static_cast<int>(min(p.L - t0, int64_t{1} << 30));
  const auto whole = [&](int at) { return at >= begin && at + V <= end; };
  ptx::wait_for_earlier_kernels();
  Packed<T, V> f[J];
#pragma unroll
  for (int j = 0; j < J; j++) {
    const int at = j * step;
    f[j] = {};
    if (whole(at)) f[j] = Apart ? gather<V>(x + at) : load_packed<V>(x + at);
  }
  const RawFilters<1> raw = read_filters<1>(p, c);
  Packed<T, kTaps> near{};  // the first lane reads what precedes its vector
  if (lane == 0 && segment > 0 && end > 0) near = Apart ? gather<kTaps>(x - kTaps) : load_packed<kTaps>(x - kTaps);
  ptx::let_next_kernel_begin();
  Filter filter[1];
  widen_filters(p, raw, filter);
  if (begin > 0 || (J - 1) * step + V > end) {  // vectors that are not all within the row
#pragma unroll
    for (int j = 0; j < J; j++) {
      const int at = j * step;
      if (at >= end || whole(at)) continue;
#pragma unroll
      for (int v = 0; v < V; v++)
        if (at + v >= begin && at + v < end) put<V>(f[j], v, x[at + v]);
    }
  }
  const int lane_before = (static_cast<int>(threadIdx.x) & 31 & ~last) | ((lane - 1) & last);
#pragma unroll
  for (int j = 0; j < J; j++) {
    const int at = j * step;
    const int64_t t = t0 + at;
    Packed<T, kTaps> before{};
#pragma unroll
    for (int k = W0; k < W; k++) {
      // The last lane hands the first one what precedes its vector: the end of the vectors before.
      constexpr int end_of = sizeof(f[0].words) / 4 - W;
      const uint32_t given =
          j > 0 && lane == last ? f[j > 0 ? j - 1 : 0].words.w[end_of + k] : f[j].words.w[end_of + k];
      const uint32_t got = __shfl_sync(kFullWarp, given, lane_before);
      before.words.w[k] = j == 0 && lane == 0 ? near.words.w[k] : got;
    }
    float taps[H + V];
    const Floats<kTaps> earlier = widen(before);
    const Floats<V> now = widen(f[j]);
#pragma unroll
    for (int q = 0; q < H; q++) taps[q] = earlier.v[kTaps - H + q];
#pragma unroll
    for (int v = 0; v < V; v++) taps[H + v] = now.v[v];
    if (!Plain && j < 2 && t < H && p.initial) {
#pragma unroll
      for (int q = 0; q < H + V; q++)
        if (t - H + q < 0) taps[q] = p.input(i, c, t - H + q);
    }
    const uint32_t begins = Plain ? 0 : p.template beginnings<V + H - 1>(i, t - H + 1);
    Floats<V> y;
    if (begins == 0) {  // most often: no selections
#pragma unroll
      for (int v = 0; v < V; v++) y.v[v] = filter[0].apply(w, taps[v], taps[v + 1], taps[v + 2], taps[v + 3]);
    } else {
#pragma unroll
      for (int v = 0; v < V; v++) {  // from the tap on at which the token's sequence begins
        const bool here = begins >> (v + 2) & 1, one_before = begins >> (v + 1) & 1, two_before = begins >> v & 1;
        y.v[v] = filter[0].apply(w, here || one_before || two_before ? 0.0f : taps[v],
                                 here || one_before ? 0.0f : taps[v + 1], here ? 0.0f : taps[v + 2], taps[v + 3]);
      }
    }
    activate(p.silu, y);
    if (!in) continue;
    if (whole(at)) {
      store<V>(out + at, y);
    } else {
#pragma unroll
      for (int v = 0; v < V; v++)
        if (at + v >= begin && at + v < end) out[at + v] = narrow<T>(y.v[v]);
    }
  }
}

template <class T, int V, bool Plain>
__global__ void __launch_bounds__(128, Plain ? 1 : 6) conv_channels(const __grid_constant__ ConvArgs<T> p) {
  constexpr int N = kConvRun<V * sizeof(T), Plain>, H = kTaps - 1;
  int64_t group, runs, i;
  p.places.find(blockIdx.x, &group, &runs, &i);
  const int lane = static_cast<int>(threadIdx.x) & ((1 << p.lanes_log) - 1);
  const int run = static_cast<int>(threadIdx.x) >> p.lanes_log;
  const int64_t c = ((group << p.lanes_log) + lane) * V, t0 = (runs * (128 >> p.lanes_log) + run) * N;
  const T* x = p.x + i * p.x_b + c * p.x_d + t0 * p.x_t;
  T* out = p.out + i * p.out_b + c * p.out_d + t0 * p.out_t;
  ptx::wait_for_earlier_kernels();
  if (c >= p.d || t0 >= p.L) return;
  Packed<T, V> raw_past[H] = {}, batch[N] = {};
  const bool whole = t0 + N <= p.L;
  const int left = static_cast<int>(min(p.L - t0, int64_t{N}));
  if (t0 > 0) {  // a run is longer than a filter
#pragma unroll
    for (int q = 0; q < H; q++) raw_past[q] = load_packed<V>(x + (q - H) * p.x_t);
  }
  if (whole) {
#pragma unroll
    for (int j = 0; j < N; j++) {
      batch[j] = load_packed<V>(x);
      x += p.x_t;
    }
  } else {
#pragma unroll
    for (int j = 0; j < N; j++) {
      if (j < left) batch[j] = load_packed<V>(x);
      x += p.x_t;
    }
  }
  const RawFilters<V> raw = read_filters<V>(p, c);
  if (Plain) ptx::let_next_kernel_begin();
  Filter filter[V];
  widen_filters(p, raw, filter);
  Floats<V> past[H];  // the three tokens before, oldest first
#pragma unroll
  for (int q = 0; q < H; q++) past[q] = widen(raw_past[q]);
  uint32_t begins = 0;
  if constexpr (!Plain) {
    if (t0 == 0 && p.initial) {
#pragma unroll
      for (int q = 0; q < H; q++) {
#pragma unroll
        for (int v = 0; v < V; v++) past[q].v[v] = p.input(i, c + v, q - H);
      }
    }
    begins = p.template beginnings<N + H - 1>(i, t0 - (H - 1));
#pragma unroll
    for (int q = 0; q < H - 1; q++) {
      if (begins >> q & 1) {
#pragma unroll
        for (int k = 0; k <= q; k++) past[k] = {};
      }
    }
    begins >>= H - 1;
  }
  const auto token = [&](int j) {
    const Floats<V> now = widen(batch[j]);
    Floats<V> y;
#pragma unroll
    for (int v = 0; v < V; v++)
      y.v[v] = filter[v].apply(Plain ? kTaps : p.w, past[0].v[v], past[1].v[v], past[2].v[v], now.v[v]);
    activate(p.silu, y);
    past[0] = past[1];
    past[1] = past[2];
    past[2] = now;
    if (!Plain && j == N - 1) ptx::let_next_kernel_begin();
    store<V>(out, y);
    out += p.out_t;
  };
  if (whole && begins == 0) {
#pragma unroll
    for (int j = 0; j < N; j++) token(j);
  } else {
#pragma unroll
    for (int j = 0; j < N; j++) {
      if (j >= left) break;
      if (begins >> j & 1) {
#pragma unroll
        for (int q = 0; q < H; q++) past[q] = {};
      }
      token(j);
    }
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
