// out[t] = act(bias + Σ_k weight[k] x[t - (w-1) + k]), a channel at a time; taps before the first token come from the
// initial states or are 0, and taps before the beginning of a token's sequence are 0.
//
// Three ways, by what lies side by side in memory, each with a thread to a run of tokens of one channel:
//   conv_channels: channels do. Lanes take neighbouring channels and walk 16 tokens, the last w-1 in registers.
//   conv_tokens: tokens do. Lanes take neighbouring runs of 4 tokens, read and written 16 bytes at a time if aligned.
//   conv_any: any width, any strides, one output a thread; its taps come from L1.
// Floor: x read once and out written once; 2w operations and a silu an element, so bytes bound it.
#pragma once
#include "cuda/kernels/any/math.cuh"
#include "cuda/kernels/any/reduce.cuh"
#include "cuda/kernels/any/vector.cuh"

namespace seqmix::cuda {

struct ConvArgs {
  const float *x, *weight, *bias, *initial;  // bias and initial may be null
  const int32_t* seq;                        // may be null
  float *out, *final;
  int64_t b, d, L;
  int w;
  int64_t x_b, x_d, x_t, out_b, out_d, out_t, weight_d, weight_k, bias_d;
  int64_t initial_b, initial_d, initial_t, seq_b, seq_t, final_b, final_d, final_t;
  bool silu;

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

// The W-1 inputs before token t that belong to the sequence of token t-1, oldest first; others are 0.
template <int W>
__device__ __forceinline__ void read_window(const ConvArgs& p, int64_t i, int64_t c, int64_t t, float (&window)[W]) {
  bool same = true;
#pragma unroll
  for (int k = 1; k < W; k++) {
    window[W - 1 - k] = same ? p.input(i, c, t - k) : 0.0f;
    same = same && !p.begins(i, t - k);
  }
}

// Moves on to an input of the next token: window[W-1] is it, and the sum over the window is the convolution.
template <int W>
__device__ __forceinline__ float convolve(float (&window)[W], const float (&weight)[W], float bias, float next,
                                          bool begins) {
  if (begins) {
#pragma unroll
    for (int k = 0; k < W - 1; k++) window[k] = 0;
  }
  window[W - 1] = next;
  float y = bias;
#pragma unroll
  for (int k = 0; k < W; k++) y = fmaf(weight[k], window[k], y);
#pragma unroll
  for (int k = 0; k < W - 1; k++) window[k] = window[k + 1];
  return y;
}

constexpr int kConvWalk = 16;
constexpr int kConvQuad = 4;

template <int W>
__global__ void __launch_bounds__(128) conv_channels(const __grid_constant__ ConvArgs p) {
  const int64_t runs = (p.L + kConvWalk - 1) / kConvWalk, items = p.b * runs * p.d;
  for (int64_t item = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; item < items;
       item += gridDim.x * int64_t{blockDim.x}) {
    const int64_t c = item % p.d, run = item / p.d % runs, i = item / p.d / runs;
    const int64_t t0 = run * kConvWalk;
    float weight[W], window[W];
#pragma unroll
    for (int k = 0; k < W; k++) weight[k] = p.weight[c * p.weight_d + k * p.weight_k];
    const float bias = p.bias_of(c);
    read_window<W>(p, i, c, t0, window);
    const float* const x = p.x + i * p.x_b + c * p.x_d;
    float* const out = p.out + i * p.out_b + c * p.out_d;
#pragma unroll 8
    for (int j = 0; j < kConvWalk; j++) {
      const int64_t t = t0 + j;
      if (t >= p.L) break;
      out[t * p.out_t] = p.activate(convolve<W>(window, weight, bias, x[t * p.x_t], p.begins(i, t)));
    }
  }
}

template <int W, int V>
__global__ void __launch_bounds__(128) conv_tokens(const __grid_constant__ ConvArgs p) {
  const int64_t runs = (p.L + kConvQuad - 1) / kConvQuad, items = p.b * p.d * runs;
  for (int64_t item = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; item < items;
       item += gridDim.x * int64_t{blockDim.x}) {
    const int64_t run = item % runs, c = item / runs % p.d, i = item / runs / p.d;
    const int64_t t0 = run * kConvQuad;
    float weight[W], window[W];
#pragma unroll
    for (int k = 0; k < W; k++) weight[k] = p.weight[c * p.weight_d + k * p.weight_k];
    const float bias = p.bias_of(c);
    read_window<W>(p, i, c, t0, window);
    const float* const x = p.x + i * p.x_b + c * p.x_d + t0 * p.x_t;
    float* const out = p.out + i * p.out_b + c * p.out_d + t0 * p.out_t;
    const bool whole = V == 4 && t0 + kConvQuad <= p.L;
    Floats<kConvQuad> in, y;
    if (whole) {
      in = load<kConvQuad>(x);
    } else {
#pragma unroll
      for (int j = 0; j < kConvQuad; j++) in.v[j] = t0 + j < p.L ? x[j * p.x_t] : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kConvQuad; j++)
      y.v[j] = p.activate(convolve<W>(window, weight, bias, in.v[j], t0 + j < p.L && p.begins(i, t0 + j)));
    if (whole) {
      store<kConvQuad>(out, y);
    } else {
#pragma unroll
      for (int j = 0; j < kConvQuad; j++)
        if (t0 + j < p.L) out[j * p.out_t] = y.v[j];
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
