// out[t] = act(bias + Σ_k weight[k] x[t - (w-1) + k]), a channel at a time; taps before the first token come from the
// initial states or are 0, and taps before the beginning of a token's sequence are 0.
//
// Three ways, by what lies side by side in memory:
//   conv_channels: channels do. A thread takes V neighbouring channels and walks a run of tokens, eight loads in
//   flight, the last w-1 inputs in registers. Between two runs w-1 tokens are read twice (from L2).
//   conv_tokens: tokens do. A thread takes V neighbouring tokens of four channels; what precedes them is loaded too
//   (its neighbour's tokens: L1 has them).
//   conv_any: any width, any strides, one output a thread; its taps come from L1.
// V is 4, an access of 16 bytes, where all rows are aligned, else 1. Places are found with divisions of 32 bits where
// the numbers allow: those of 64 bits, three a thread, would cost more than the convolution.
// Floor: x read once and out written once, 8 bytes an element; w multiply-adds and a silu (ten instructions, two of
// them of the special-function unit) an element: under half of what the chip issues in the time of the bytes.
#pragma once
#include "cuda/kernels/any/math.cuh"
#include "cuda/kernels/any/reduce.cuh"
#include "cuda/kernels/any/vector.cuh"
#include "cuda/ptx/math.cuh"

namespace seqmix::cuda {

struct ConvArgs {
  const float *x, *weight, *bias, *initial;  // bias and initial may be null
  const int32_t* seq;                        // may be null
  float *out, *final;
  int64_t b, d, L;
  int w;
  int64_t x_b, x_d, x_t, out_b, out_d, out_t, weight_d, weight_k, bias_d;
  int64_t initial_b, initial_d, initial_t, seq_b, seq_t, final_b, final_d, final_t;
  bool silu, weight_quads;  // weight_quads: four taps of a channel are one aligned access
  int walk;                 // tokens a thread of conv_channels walks, a multiple of kConvBatch

  __device__ __forceinline__ float input(int64_t i, int64_t c, int64_t t) const {
    if (t >= 0) return x[i * x_b + c * x_d + t * x_t];
    return initial ? initial[i * initial_b + c * initial_d + (t + w - 1) * initial_t] : 0.0f;
  }
  // A sequence begins at token t. (The first one of a row goes on from the initial states.)
  __device__ __forceinline__ bool begins(int64_t i, int64_t t) const {
    return seq && t > 0 && seq[i * seq_b + t * seq_t] != seq[i * seq_b + (t - 1) * seq_t];
  }
  __device__ __forceinline__ float activate(float y) const { return silu ? cuda::silu(y) : y; }
  __device__ __forceinline__ float bias_of(int64_t c) const { return bias ? bias[c * bias_d] : 0.0f; }
};

template <int W>
__device__ __forceinline__ void read_weights(const ConvArgs& p, int64_t c, float (&weight)[W]) {
  const float* const from = p.weight + c * p.weight_d;
  if (W == 4 && p.weight_quads) {
    const Floats<4> f = load<4>(from);
#pragma unroll
    for (int k = 0; k < W; k++) weight[k] = f.v[k];
  } else {
#pragma unroll
    for (int k = 0; k < W; k++) weight[k] = from[k * p.weight_k];
  }
}

// Bit q tells that a sequence begins at token t + q, for 0 < q < N. (Never at a row's first token.)
template <int N>
__device__ __forceinline__ uint32_t beginnings(const ConvArgs& p, int64_t i, int64_t t) {
  const int32_t* const seq = p.seq + i * p.seq_b;
  uint32_t bits = 0;
  int32_t before = 0;
#pragma unroll
  for (int q = 0; q < N; q++) {
    const int64_t at = max(int64_t{0}, min(t + q, p.L - 1));
    const int32_t id = seq[at * p.seq_t];
    if (q > 0 && id != before) bits |= 1u << q;
    before = id;
  }
  return bits;
}

// N outputs from their inputs and the W-1 before them; what lies before the beginning of a sequence becomes 0.
template <int W, int N>
__device__ __forceinline__ void convolve(float (&in)[W - 1 + N], const float (&weight)[W], float bias, uint32_t begins,
                                         float (&y)[N]) {
#pragma unroll
  for (int q = 1; q < W - 1 + N; q++) {
    if (begins >> q & 1) {
#pragma unroll
      for (int k = 1; k < W; k++)
        if (q - k >= 0) in[q - k] = 0;
    }
    const int j = q - (W - 1);
    if (j < 0) continue;
    float sum = bias;
#pragma unroll
    for (int k = 0; k < W; k++) sum = fmaf(weight[k], in[j + k], sum);
    y[j] = sum;
  }
}

// The same for C channels, with the activation. One branch for all of them: most often no sequence begins, which spares
// the selections.
template <int W, int N, int C>
__device__ __forceinline__ void outputs(float (&in)[C][W - 1 + N], const float (&weight)[C][W], const float (&bias)[C],
                                        uint32_t begins, bool silu, float (&y)[C][N]) {
  if (begins == 0) {
#pragma unroll
    for (int c = 0; c < C; c++) convolve<W, N>(in[c], weight[c], bias[c], 0, y[c]);
  } else {
#pragma unroll
    for (int c = 0; c < C; c++) convolve<W, N>(in[c], weight[c], bias[c], begins, y[c]);
  }
  if (!silu) return;
  // By the approximate exponential and division: each is right to a few units of the last place, and the exponential's
  // error, which grows with |y|, is in a term that is small where the result is not.
#pragma unroll
  for (int c = 0; c < C; c++) {
#pragma unroll
    for (int j = 0; j < N; j++) y[c][j] = __fdividef(y[c][j], 1.0f + ptx::ex2(-kLog2E * y[c][j]));
  }
}

// item = (third · seconds + second) · firsts + first
struct Place {
  int64_t first, second, third;
};
__device__ __forceinline__ Place place_of(int64_t item, int64_t items, int64_t firsts, int64_t seconds) {
  if (items <= INT32_MAX) {
    const uint32_t f = static_cast<uint32_t>(firsts), s = static_cast<uint32_t>(seconds);
    const uint32_t n = static_cast<uint32_t>(item), rest = n / f, third = rest / s;
    return {n - rest * f, rest - third * s, third};
  }
  const int64_t rest = item / firsts, third = rest / seconds;
  return {item - rest * firsts, rest - third * seconds, third};
}

constexpr int kConvBatch = 8;     // tokens loaded before the first is used
constexpr int kConvChannels = 4;  // of a thread of conv_tokens

template <int W, int V>
__global__ void __launch_bounds__(128) conv_channels(const __grid_constant__ ConvArgs p) {
  constexpr int N = kConvBatch;
  const int64_t runs = (p.L + p.walk - 1) / p.walk, blocks = p.d / V, items = p.b * runs * blocks;
  const int64_t item = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (item >= items) return;
  const auto [block, run, i] = place_of(item, items, blocks, runs);
  const int64_t c = block * V, t0 = run * p.walk, end = min(p.L, t0 + p.walk);
  const float* x = p.x + i * p.x_b + c * p.x_d + t0 * p.x_t;
  float* out = p.out + i * p.out_b + c * p.out_d + t0 * p.out_t;
  float weight[V][W], bias[V], in[V][W - 1 + N];
  if (t0 > 0 || !p.initial) {
#pragma unroll
    for (int q = 0; q < W - 1; q++) {
      const Floats<V> f = t0 > 0 ? load<V>(x + (q - (W - 1)) * p.x_t) : Floats<V>{};
#pragma unroll
      for (int v = 0; v < V; v++) in[v][q] = f.v[v];
    }
  } else {
#pragma unroll
    for (int q = 0; q < W - 1; q++) {
#pragma unroll
      for (int v = 0; v < V; v++) in[v][q] = p.input(i, c + v, q - (W - 1));
    }
  }
#pragma unroll
  for (int v = 0; v < V; v++) {
    read_weights<W>(p, c + v, weight[v]);
    bias[v] = p.bias_of(c + v);
  }
  for (int64_t t = t0; t < end; t += N) {
    const int left = static_cast<int>(min(end - t, int64_t{N}));
    const float* from = x;  // stays at the last token, so that no load hangs on a condition
#pragma unroll
    for (int j = 0; j < N; j++) {
      const Floats<V> f = load<V>(from);
      from += j + 1 < left ? p.x_t : 0;
#pragma unroll
      for (int v = 0; v < V; v++) in[v][W - 1 + j] = f.v[v];
    }
    const uint32_t begins = p.seq ? beginnings<W - 1 + N>(p, i, t - (W - 1)) : 0;
    float y[V][N], last[V][W - 1];
#pragma unroll
    for (int v = 0; v < V; v++) {
#pragma unroll
      for (int q = 0; q < W - 1; q++) last[v][q] = in[v][N + q];
    }
    outputs<W, N, V>(in, weight, bias, begins, p.silu, y);
#pragma unroll
    for (int v = 0; v < V; v++) {
#pragma unroll
      for (int q = 0; q < W - 1; q++) in[v][q] = last[v][q];
    }
#pragma unroll
    for (int j = 0; j < N; j++) {
      Floats<V> f;
#pragma unroll
      for (int v = 0; v < V; v++) f.v[v] = y[v][j];
      if (j < left) store<V>(out + j * p.out_t, f);
    }
    x += N * p.x_t;
    out += N * p.out_t;
  }
}

template <int W, int V>
__global__ void __launch_bounds__(128) conv_tokens(const __grid_constant__ ConvArgs p) {
  constexpr int U = kConvChannels;
  const int64_t runs = (p.L + V - 1) / V, groups = (p.d + U - 1) / U, items = p.b * groups * runs;
  const int64_t item = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (item >= items) return;
  const auto [run, group, i] = place_of(item, items, runs, groups);
  const int64_t t0 = run * V, c0 = group * U;
  const int last = static_cast<int>(min(int64_t{U}, p.d - c0)) - 1;  // channels beyond it are read as it, never written
  const bool whole = t0 + V <= p.L;
  const float* const x = p.x + i * p.x_b + c0 * p.x_d + t0;  // tokens lie side by side
  float* const out = p.out + i * p.out_b + c0 * p.out_d + t0;
  float weight[U][W], bias[U], in[U][W - 1 + V];
  if (whole && (t0 >= W - 1 || !p.initial)) {  // loads follow one another with no branch between them
#pragma unroll
    for (int u = 0; u < U; u++) {
      const float* const row = x + min(u, last) * p.x_d;
      const Floats<V> f = load<V>(row);
#pragma unroll
      for (int j = 0; j < V; j++) in[u][W - 1 + j] = f.v[j];
      if constexpr (V == 4) {
        const Floats<V> before = t0 > 0 ? load<V>(row - V) : Floats<V>{};
#pragma unroll
        for (int q = 0; q < W - 1; q++) in[u][q] = before.v[V + 1 - W + q];
      } else {
#pragma unroll
        for (int q = 0; q < W - 1; q++) in[u][q] = t0 + q >= W - 1 ? row[q - (W - 1)] : 0.0f;
      }
    }
  } else {
#pragma unroll
    for (int u = 0; u < U; u++) {
      const int64_t c = c0 + min(u, last);
#pragma unroll
      for (int q = 0; q < W - 1 + V; q++) {
        const int64_t t = t0 + q - (W - 1);
        in[u][q] = t < p.L ? p.input(i, c, t) : 0.0f;
      }
    }
  }
#pragma unroll
  for (int u = 0; u < U; u++) {
    read_weights<W>(p, c0 + min(u, last), weight[u]);
    bias[u] = p.bias_of(c0 + min(u, last));
  }
  const uint32_t begins = p.seq ? beginnings<W - 1 + V>(p, i, t0 - (W - 1)) : 0;
  float y[U][V];
  outputs<W, V, U>(in, weight, bias, begins, p.silu, y);
#pragma unroll
  for (int u = 0; u < U; u++) {
    if (u > last) break;
    float* const row = out + u * p.out_d;
    if (whole) {
      Floats<V> f;
#pragma unroll
      for (int j = 0; j < V; j++) f.v[j] = y[u][j];
      store<V>(row, f);
    } else {
#pragma unroll
      for (int j = 0; j < V; j++)
        if (t0 + j < p.L) row[j] = y[u][j];
    }
  }
}

static __global__ void __launch_bounds__(128)
    conv_any(const __grid_constant__ ConvArgs p, const __grid_constant__ bool by_channel) {
  const int64_t items = p.b * p.d * p.L;
  for (int64_t item = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; item < items;
       item += gridDim.x * int64_t{blockDim.x}) {
    const int64_t c = by_channel ? item % p.d : item / p.L % p.d;
    const int64_t t = by_channel ? item / p.d % p.L : item % p.L;
    const int64_t i = item / p.d / p.L;
    int64_t first = t - (p.w - 1);  // of the taps
    for (int64_t s = t; p.seq && s > first; s--)
      if (p.begins(i, s)) first = s;
    float y = p.bias_of(c);
    for (int k = 0; k < p.w; k++) {
      const int64_t from = t - (p.w - 1) + k;
      if (from >= first) y = fmaf(p.weight[c * p.weight_d + k * p.weight_k], p.input(i, c, from), y);
    }
    p.out[i * p.out_b + c * p.out_d + t * p.out_t] = p.activate(y);
  }
}

static __global__ void __launch_bounds__(128) conv_final_states(const __grid_constant__ ConvArgs p) {
  const int64_t kept = p.w - 1, items = p.b * p.d * kept;
  for (int64_t item = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; item < items;
       item += gridDim.x * int64_t{blockDim.x}) {
    const int64_t k = item % kept, c = item / kept % p.d, i = item / kept / p.d;
    p.final[i * p.final_b + c * p.final_d + k * p.final_t] = p.input(i, c, p.L - kept + k);
  }
}

struct ConvUpdateArgs {
  const float *x, *weight, *bias;  // bias may be null
  float *state, *out;
  const int32_t *seqlens, *indices;  // may be null
  int64_t b, d, s, slots, length;
  int w;
  int64_t x_b, x_d, x_t, out_b, out_d, out_t, weight_d, weight_k, bias_d, state_b, state_d, state_t;
  int64_t seqlens_b, indices_b;
  bool silu;
  uint64_t* index_error;
  uint64_t error;
};

// A thread takes a channel of a row: all outputs from the old state, then the new state. (Of a ring, what the new
// tokens overwrite is too old to be a tap, since its length is at least w-1.)
static __global__ void __launch_bounds__(128) conv_update(const __grid_constant__ ConvUpdateArgs p) {
  const int64_t items = p.b * p.d;
  for (int64_t item = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; item < items;
       item += gridDim.x * int64_t{blockDim.x}) {
    const int64_t c = item % p.d, i = item / p.d;
    const float* const x = p.x + i * p.x_b + c * p.x_d;
    float* const out = p.out + i * p.out_b + c * p.out_d;
    const int64_t slot = p.indices ? p.indices[i * p.indices_b] : i;
    if (slot < 0 || slot >= p.slots) {
      if (slot >= 0) report_index_error(p.index_error, p.error);
      for (int64_t t = 0; t < p.s; t++) out[t * p.out_t] = 0;
      continue;
    }
    float* const state = p.state + slot * p.state_b + c * p.state_d;
    // The place of the input of position t in a ring that the first new token continues at `start`.
    const int64_t start = p.seqlens ? p.seqlens[i * p.seqlens_b] : 0;
    const auto ring = [&](int64_t t) {
      const int64_t at = (start + t) % p.length;
      return at < 0 ? at + p.length : at;
    };
    const float* const weight = p.weight + c * p.weight_d;
    const float bias = p.bias ? p.bias[c * p.bias_d] : 0.0f;
    for (int64_t t = 0; t < p.s; t++) {
      float y = bias;
      for (int k = 0; k < p.w; k++) {
        const int64_t from = t - (p.w - 1) + k;
        const float v = from >= 0   ? x[from * p.x_t]
                        : p.seqlens ? state[ring(from) * p.state_t]
                                    : state[(p.length + from) * p.state_t];
        y = fmaf(weight[k * p.weight_k], v, y);
      }
      out[t * p.out_t] = p.silu ? silu(y) : y;
    }
    if (p.length == 0) continue;
    if (p.seqlens) {
      for (int64_t t = 0; t < p.s; t++) state[ring(t) * p.state_t] = x[t * p.x_t];
    } else {
      for (int64_t k = 0; k < p.length; k++)
        state[k * p.state_t] = k + p.s < p.length ? state[(k + p.s) * p.state_t] : x[(k + p.s - p.length) * p.x_t];
    }
  }
}

}  // namespace seqmix::cuda
