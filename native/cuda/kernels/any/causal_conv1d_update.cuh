// Some more tokens of the convolution, from a state of the last inputs that is changed in place: a thread takes a
// channel of a row. The common case, one token of a state that shifts, up to four taps, reads all it needs at once and
// writes a state of as many tokens as the filter needs from registers; anything else goes token by token, all outputs
// from the old state, then the new state. (Of a ring, what the new tokens overwrite is too old to be a tap, since its
// length is at least w-1.) The state has a dtype of its own. Floor: a launch; a few bytes a channel.
#pragma once
#include "cuda/kernels/any/divide.cuh"
#include "cuda/kernels/any/math.cuh"
#include "cuda/kernels/any/reduce.cuh"
#include "cuda/kernels/any/vector.cuh"
#include "cuda/ptx/grid.cuh"

namespace seqmix::cuda {

template <class T>
struct ConvUpdateArgs {
  const T* x;
  T* out;
  const void* weight;
  void* state;
  Weights bias;                      // may be absent
  const int32_t *seqlens, *indices;  // may be null
  DType weight_dtype, state_dtype;
  bool silu;
  int w;
  int64_t b, d, s, slots, length;
  Divisor by_d;  // where b · d < 2^31
  int64_t x_b, x_d, x_t, out_b, out_d, out_t, weight_d, weight_k, state_b, state_d, state_t;
  int64_t seqlens_b, indices_b;
  uint64_t* index_error;
  uint64_t error;

  __device__ __forceinline__ float state_at(int64_t at) const { return float_at(state, state_dtype, at); }
};

template <class T>
__device__ __forceinline__ void conv_update_one(const ConvUpdateArgs<T>& p, int64_t i, int64_t c, int64_t state) {
  constexpr int W = 4;
  const int64_t newest = p.length - 1;
  Raw<1> past[W - 1] = {}, weight[W] = {}, bias{};
#pragma unroll
  for (int k = 0; k < W - 1; k++) {
    if (k > W - 1 - p.w) past[k] = load_raw<1>(p.state, p.state_dtype, state + (newest - (W - 2 - k)) * p.state_t);
  }
  const T x = p.x[i * p.x_b + c * p.x_d];
#pragma unroll
  for (int k = 0; k < W; k++) {
    if (k > W - 1 - p.w)
      weight[k] = load_raw<1>(p.weight, p.weight_dtype, c * p.weight_d + (k - (W - p.w)) * p.weight_k);
  }
  if (p.bias.data) bias = load_raw<1>(p.bias.data, p.bias.dtype, c * p.bias.stride);
  float y = p.bias.data ? widen(bias, p.bias.dtype).v[0] : 0.0f, v[W];
#pragma unroll
  for (int k = 0; k < W; k++) {
    v[k] = k < W - 1 ? widen(past[k < W - 1 ? k : 0], p.state_dtype).v[0] : widen(x);
    if (k > W - 1 - p.w) y = fmaf(widen(weight[k], p.weight_dtype).v[0], v[k], y);
  }
  p.out[i * p.out_b + c * p.out_d] = narrow<T>(p.silu ? silu(y) : y);
  for (int64_t k = 0; k < p.length - (p.w - 1); k++)  // older than any tap
    store_as(p.state, p.state_dtype, state + k * p.state_t,
             k < newest ? p.state_at(state + (k + 1) * p.state_t) : v[W - 1]);
#pragma unroll
  for (int k = 1; k < W; k++) {
    if (k > W - p.w) store_as(p.state, p.state_dtype, state + (newest - (W - 1 - k)) * p.state_t, v[k]);
  }
}

template <class T>
__device__ __forceinline__ void conv_update_many(const ConvUpdateArgs<T>& p, int64_t i, int64_t c, int64_t state) {
  const T* const x = p.x + i * p.x_b + c * p.x_d;
  // The place of the input of position t in a ring that the first new token continues at `start`.
  const int64_t start = p.seqlens ? p.seqlens[i * p.seqlens_b] : 0;
  const auto ring = [&](int64_t t) {
    const int64_t at = (start + t) % p.length;
    return at < 0 ? at + p.length : at;
  };
  const float bias = p.bias.data ? p.bias.at(c) : 0.0f;
  for (int64_t t = 0; t < p.s; t++) {
    float y = bias;
    for (int k = 0; k < p.w; k++) {
      const int64_t from = t - (p.w - 1) + k;
      const float v = from >= 0 ? widen(x[from * p.x_t])
                                : p.state_at(state + (p.seqlens ? ring(from) : p.length + from) * p.state_t);
      y = fmaf(float_at(p.weight, p.weight_dtype, c * p.weight_d + k * p.weight_k), v, y);
    }
    p.out[i * p.out_b + c * p.out_d + t * p.out_t] = narrow<T>(p.silu ? silu(y) : y);
  }
  if (p.length == 0) return;
  if (p.seqlens) {
    for (int64_t t = 0; t < p.s; t++)
      store_as(p.state, p.state_dtype, state + ring(t) * p.state_t, widen(x[t * p.x_t]));
  } else {
    for (int64_t k = 0; k < p.length; k++)
      store_as(p.state, p.state_dtype, state + k * p.state_t,
               k + p.s < p.length ? p.state_at(state + (k + p.s) * p.state_t) : widen(x[(k + p.s - p.length) * p.x_t]));
  }
}

template <class T>
__global__ void __launch_bounds__(128) conv_update(const __grid_constant__ ConvUpdateArgs<T> p) {
  const int64_t items = p.b * p.d;
  const bool small = items <= INT32_MAX, one = p.s == 1 && !p.seqlens && p.w <= 4;
  ptx::wait_for_earlier_kernels();
  ptx::let_next_kernel_begin();
  for (int64_t item = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; item < items;
       item += gridDim.x * int64_t{blockDim.x}) {
    const int64_t i = small ? p.by_d.quotient(static_cast<uint32_t>(item)) : item / p.d, c = item - i * p.d;
    const int64_t slot = p.indices ? p.indices[i * p.indices_b] : i;
    if (slot < 0 || slot >= p.slots) {
      if (slot >= 0) report_index_error(p.index_error, p.error);
      for (int64_t t = 0; t < p.s; t++) p.out[i * p.out_b + c * p.out_d + t * p.out_t] = narrow<T>(0);
      continue;
    }
    const int64_t state = slot * p.state_b + c * p.state_d;
    if (one)
      conv_update_one(p, i, c, state);
    else
      conv_update_many(p, i, c, state);
  }
}

}  // namespace seqmix::cuda
