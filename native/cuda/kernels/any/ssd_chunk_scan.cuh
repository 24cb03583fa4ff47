// ssdChunkScan token by token, in float32 whatever the dtypes:
//
//   h_t = e^{dt_t A} h_{t-1} + dt_t x_t B_t,   y_t = C_t·h_t + D x_t,   out = y silu(z)
//
// for each channel of each head. The plain form, for any dtype, stride and size, and the one that keeps a NaN where it
// belongs: the chunked form (kernels/sm80/ssd_chunk_scan.cuh) has its heads done again here where an output was not
// finite.
//
// A block of 128 threads takes 128/S channels of one head. S neighbouring lanes share a channel and keep R of its
// states each in registers. Time goes in tiles of T tokens. Of each tile the block lays down in shared memory, in
// float32,
//   dt, e^{dt A} (one number a token, as a factor and a small rest, so that slow decays do not lose their digits)
//   B, C: [T][S R + 4]
//   x: [T][channels + 1], and then y beside it, summed over a channel's lanes by shuffles
// then walks it two tokens at a time; last, D x and the gate are added as the tile is written out. States past N have
// B = C = 0; tokens past L have dt = 0, which leaves the state alone.
//
// More than 256 states are done 256 at a time, by one launch each, that add up their y in float32.
//
// Floor: four instructions a state and token, 128 a clock and multiprocessor.
#pragma once
#include "cuda/kernels/any/math.cuh"
#include "cuda/kernels/any/reduce.cuh"
#include "cuda/kernels/any/ssd_chunk_scan_args.cuh"
#include "cuda/kernels/any/vector.cuh"
#include "cuda/ptx/grid.cuh"

namespace seqmix::cuda {

constexpr int kSsdThreads = 128;

template <int S, int R>
struct SsdShape {
  static constexpr int channels = kSsdThreads / S;
  static constexpr int states = S * R;
  static constexpr int tokens = states > 128 ? 16 : 32;
  static constexpr int line = states + 4, pitch = channels + 1;
  static constexpr int64_t shared_bytes = sizeof(float) * tokens * (2 * line + 2 * pitch + 4);
};

// Count tokens of one row of an operand, `width` elements of each from `first` on; what is past `elements` or `tokens`
// is 0.
template <class X>
__device__ __forceinline__ void ssd_read(const SsdTensor& x, int64_t b, int64_t outer, int64_t first, int64_t elements,
                                         int64_t t0, int tokens, int count, int width, int pitch, float* to) {
  const X* const from = static_cast<const X*>(x.data) + b * x.b + outer * x.outer + first * x.inner + t0 * x.t;
#pragma unroll 4
  for (int i = threadIdx.x; i < count * width; i += kSsdThreads) {
    const int t = i / width, e = i % width;  // width is a power of two
    to[t * pitch + e] = t < tokens && e < elements ? widen(from[t * x.t + e * x.inner]) : 0.0f;
  }
}
__device__ __forceinline__ void ssd_read(const SsdTensor& x, DType dtype, int64_t b, int64_t outer, int64_t first,
                                         int64_t elements, int64_t t0, int tokens, int count, int width, int pitch,
                                         float* to) {
  if (dtype == DType::float32)
    ssd_read<float>(x, b, outer, first, elements, t0, tokens, count, width, pitch, to);
  else if (dtype == DType::float16)
    ssd_read<Half>(x, b, outer, first, elements, t0, tokens, count, width, pitch, to);
  else
    ssd_read<Brain>(x, b, outer, first, elements, t0, tokens, count, width, pitch, to);
}

// Whether the chunked form left this head to be done again.
__device__ __forceinline__ bool ssd_is_due(const SsdArgs& p, int64_t b, int64_t h) {
  if (p.flags_of_heads == 0) return true;
  const int64_t sets = (p.per_group + p.heads_of_set - 1) / p.heads_of_set;
  const int64_t set = (b * (p.heads / p.per_group) + h / p.per_group) * sets + h % p.per_group / p.heads_of_set;
  int due = 0;
  for (int64_t i = 0; i < p.flags_of_heads; i++) due |= p.flags[set * p.flags_of_heads + i];
  return due != 0;
}

template <int S, int R>
__global__ void __launch_bounds__(kSsdThreads, 2) ssd_plain(const __grid_constant__ SsdArgs p) {
  using Shape = SsdShape<S, R>;
  constexpr int V = 4, T = Shape::tokens, kChannels = Shape::channels, kPitch = Shape::pitch, kStep = 2;
  static_assert(R % V == 0);
  extern __shared__ __align__(16) float shared[];
  float* const Bs = shared;
  float* const Cs = Bs + T * Shape::line;
  float* const steps = Cs + T * Shape::line;
  float* const scales = steps + T;
  float* const rests = scales + T;
  int* const kinds = reinterpret_cast<int*>(rests + T);  // 1: a sequence begins; 2: the scale goes twice
  float* const xs = rests + 2 * T;
  float* const ys = xs + T * kPitch;

  const int lane = threadIdx.x % S, channel = threadIdx.x / S;
  const int64_t tiles = (p.P + kChannels - 1) / kChannels, tasks = p.batch * p.heads * tiles;
  const bool finishes = p.state + Shape::states >= p.N;
  ptx::wait_for_earlier_kernels();
  if (blockIdx.x == 0 && p.handed)
    for (int i = threadIdx.x; i < p.handed_count; i += kSsdThreads) p.handed[i] = 0;
  bool some = true;  // of the next 128 tasks, one a thread
  int64_t next = 0;
  for (int64_t task = blockIdx.x, count = 0; task < tasks; task += gridDim.x, count++) {
    if (count == next) {
      const int64_t mine = task + threadIdx.x * int64_t{gridDim.x};
      const bool due = mine < tasks && ssd_is_due(p, mine / tiles / p.heads, mine / tiles % p.heads);
      some = __syncthreads_or(due);
      next += kSsdThreads;
    }
    if (!some) {
      task += (next - 1 - count) * gridDim.x;
      count = next - 1;
      continue;
    }
    const int64_t c0 = task % tiles * kChannels, h = task / tiles % p.heads, b = task / tiles / p.heads;
    const int64_t c = c0 + channel, group = h / p.per_group;
    if (!ssd_is_due(p, b, h)) continue;
    const float rate = p.A.at(h) * kLog2E, bias = p.dt_bias.data ? p.dt_bias.at(h) : 0.0f;

    float state[R];
#pragma unroll
    for (int r = 0; r < R; r++) {
      const int64_t n = p.state + r / V * (S * V) + lane * V + r % V;
      state[r] = 0;
      if (p.initial && c < p.P && n < p.N)
        state[r] =
            float_at(p.initial, p.initial_dtype, b * p.initial_b + h * p.initial_h + c * p.initial_p + n * p.initial_n);
    }

    for (int64_t t0 = 0; t0 < p.L; t0 += T) {
      const int tokens = static_cast<int>(min(int64_t{T}, p.L - t0));
      __syncthreads();  // the tile before may still be read
      ssd_read(p.B, p.dtype, b, group, p.state, p.N - p.state, t0, tokens, T, Shape::states, Shape::line, Bs);
      ssd_read(p.C, p.dtype, b, group, p.state, p.N - p.state, t0, tokens, T, Shape::states, Shape::line, Cs);
      ssd_read(p.x, p.dtype, b, h, c0, p.P - c0, t0, tokens, T, kChannels, kPitch, xs);
      if (threadIdx.x < T) {
        const int t = threadIdx.x;
        const float step = t < tokens ? ssd_step(p, b, t0 + t, h, bias) : 0.0f, power = step * rate;
        // A step that grows by more than float32 holds: its root is applied twice, and a state of 0 stays 0.
        const bool steep = power > 127.0f;
        const Decay d = decay(step, rate);
        steps[t] = step;
        scales[t] = steep ? ptx::ex2(fminf(power * 0.5f, 127.0f)) : d.scale;
        rests[t] = steep ? 0.0f : d.rest;
        kinds[t] = (t < tokens && ssd_begins(p, b, t0 + t) ? 1 : 0) + (steep ? 2 : 0);
      }
      __syncthreads();

#pragma unroll 1
      for (int t = 0; t < tokens; t += kStep) {  // T is a multiple of kStep; past the end dt is 0
        float y[kStep];
#pragma unroll
        for (int j = 0; j < kStep; j++) {
          const Decay d{scales[t + j], rests[t + j]};
          const float input = steps[t + j] * xs[(t + j) * kPitch + channel];
          const int kind = kinds[t + j];
          if (kind) {
#pragma unroll
            for (int r = 0; r < R; r++) state[r] = kind & 1 ? 0.0f : state[r] * d.scale;
          }
          const float* const B = Bs + (t + j) * Shape::line + lane * V;
          const float* const C = Cs + (t + j) * Shape::line + lane * V;
          y[j] = 0;
#pragma unroll
          for (int r = 0; r < R; r += V) {
            const Floats<V> Bv = load<V>(B + r * S), Cv = load<V>(C + r * S);
#pragma unroll
            for (int q = 0; q < V; q++) {
              state[r + q] = d.apply(state[r + q], input * Bv.v[q]);
              y[j] = fmaf(state[r + q], Cv.v[q], y[j]);
            }
          }
        }
#pragma unroll
        for (int i = 1; i < S; i <<= 1)
#pragma unroll
          for (int j = 0; j < kStep; j++) y[j] += __shfl_xor_sync(kFullWarp, y[j], i);
        if (lane == 0) {
#pragma unroll
          for (int j = 0; j < kStep; j++) ys[(t + j) * kPitch + channel] = y[j];
        }
      }
      __syncthreads();

      for (int i = threadIdx.x; i < tokens * kChannels; i += kSsdThreads) {
        const int t = i / kChannels, e = i % kChannels;
        if (c0 + e >= p.P) continue;
        const int64_t to = b * p.out.b + (t0 + t) * p.out.t + h * p.out.outer + (c0 + e) * p.out.inner;
        float y = ys[t * kPitch + e];
        if (p.state > 0) y += p.sums[to];
        if (!finishes) {
          p.sums[to] = y;
          continue;
        }
        if (p.D.data) y = fmaf(float_at(p.D.data, p.D.dtype, h * p.D.stride + (c0 + e) * p.D_p), xs[t * kPitch + e], y);
        if (p.z.data)
          y *= silu(float_at(p.z.data, p.dtype, b * p.z.b + (t0 + t) * p.z.t + h * p.z.outer + (c0 + e) * p.z.inner));
        store_as(p.out.data, p.dtype, to, y);
      }
    }

    if (p.final && c < p.P) {
      float* const to = p.final + ((b * p.heads + h) * p.P + c) * p.N;
#pragma unroll
      for (int r = 0; r < R; r++) {
        const int64_t n = p.state + r / V * (S * V) + lane * V + r % V;
        if (n < p.N) to[n] = state[r];
      }
    }
    __syncthreads();  // before the next task's flags and tiles
  }
}

}  // namespace seqmix::cuda
