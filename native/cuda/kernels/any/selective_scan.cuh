// h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t, y_t = C_t·h_t + D u_t, out = y silu(z): for each channel of each row of the
// batch, one token after the other. The general form, for any number of states and for B and C that are constant in
// time (selective_scan_pipeline.cuh has the one that most models need).
//
// A block of 128 threads takes 128/S channels of one row of the batch, all of one group of B and of C. S neighbouring
// lanes share a channel and keep R of its states each, in registers, with A beside them (multiplied by log2 e). Time
// goes in tiles of T tokens. Of each tile the block lays down in shared memory, in float32,
//   delta (bias and softplus done), u, z: [T][channels + 1]: read along whichever of tokens and channels is dense in
//     global memory, and walked along tokens; the padding keeps either way free of most bank conflicts
//   B, C: [T][S R + 4], shared by the block's channels, or [channels][S R + 4] where they are constant in time
// then walks it, two or four tokens at a time: y is summed over a lane's states in registers, over the S lanes by
// shuffles, and takes delta's place; last, D u and the gate are added as the tile is written out along out's dense
// dimension. States past n have A = B = C = 0; tokens past L have Δ = 0, which leaves the state alone.
//
// S is 1 where there are enough channels to fill the chip, up to 8 where there are few. More than 128 states are done
// 128 at a time, by one launch each, that add up their y in float32.
//
// Floor: sizeof(X) (4 bytes with a gate, 3 without) an element (B and C come from L2 for all but the first block), and
// 14 issue slots a state (the exponential is 11 of them), 30 an element besides: 128 a clock and multiprocessor.
#pragma once
#include "cuda/kernels/any/math.cuh"
#include "cuda/kernels/any/reduce.cuh"
#include "cuda/kernels/any/selective_scan_args.cuh"
#include "cuda/kernels/any/vector.cuh"

namespace seqmix::cuda {

constexpr int kScanThreads = 128;

template <int S, int R>
struct ScanShape {
  static constexpr int channels = kScanThreads / S;
  static constexpr int states = S * R;
  static constexpr int line = states + 4;  // of B and C
  static constexpr int by_channels = 2048 / channels, by_states = 2048 / states;
  static constexpr int tokens = by_channels < by_states ? by_channels : by_states;
  static constexpr int per_thread = tokens * channels / kScanThreads;
  static constexpr int vector = R < 4 ? R : 4;   // states a lane reads at a time
  static constexpr int step = R < 16 ? 4 : 2;    // tokens a lane has in hand: enough independent work either way
  static constexpr int blocks = S == 8 ? 3 : 4;  // a multiprocessor: what leaves the registers they need
};

template <int S, int R>
constexpr int64_t scan_shared_bytes(bool constant) {
  using Shape = ScanShape<S, R>;
  const int64_t lines = constant && Shape::channels > Shape::tokens ? Shape::channels : Shape::tokens;
  return sizeof(float) *
         (2 * lines * Shape::line + 3 * Shape::tokens * (Shape::channels + 1) + Shape::tokens + 2 * Shape::channels);
}

// A thread's elements of a tile: the first, and the step from each to the next, along tokens or along channels. Lanes
// take what lies side by side in global memory.
template <class Shape>
struct Share {
  int t, c, t_step, c_step;

  __device__ __forceinline__ explicit Share(bool by_token) {
    const int i = static_cast<int>(threadIdx.x);
    t = by_token ? i % Shape::tokens : i / Shape::channels;
    c = by_token ? i / Shape::tokens : i % Shape::channels;
    t_step = by_token ? 0 : kScanThreads / Shape::channels;
    c_step = by_token ? kScanThreads / Shape::tokens : 0;
  }
};

// Eight elements (or all, if fewer) are asked for before the first is used. What lies outside the tile is 0.
template <class X, class Shape, class F>
__device__ __forceinline__ void read_tile(const ScanTile& x, int64_t b, int64_t c0, int64_t c1, int64_t t0, int64_t t1,
                                          float* tile, F f) {
  constexpr int kBatch = Shape::per_thread < 8 ? Shape::per_thread : 8;
  const Share<Shape> share(x.by_token);
  const X* from = static_cast<const X*>(x.data) + b * x.b + (c0 + share.c) * x.d + (t0 + share.t) * x.t;
  const int64_t step = share.c_step * x.d + share.t_step * x.t;
  const int channels = static_cast<int>(c1 - c0), tokens = static_cast<int>(min(int64_t{Shape::tokens}, t1 - t0));
  int t = share.t, c = share.c;
#pragma unroll 1
  for (int i = 0; i < Shape::per_thread; i += kBatch) {
    float v[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; j++)
      v[j] = c + j * share.c_step < channels && t + j * share.t_step < tokens ? widen(from[j * step]) : 0.0f;
#pragma unroll
    for (int j = 0; j < kBatch; j++) {
      const int to_t = t + j * share.t_step, to_c = c + j * share.c_step;
      tile[to_t * (Shape::channels + 1) + to_c] = to_c < channels && to_t < tokens ? f(v[j], to_c) : 0.0f;
    }
    from += kBatch * step;
    t += kBatch * share.t_step;
    c += kBatch * share.c_step;
  }
}

// T tokens of B or C, or, where constant, the block's channels: `at` reads an element.
template <class Shape, class F>
__device__ __forceinline__ void read_lines(const ScanMatrix& m, const ScanArgs& p, int count, int64_t there,
                                           int64_t step, float* lines, F at) {
  for (int i = threadIdx.x; i < count * Shape::states; i += kScanThreads) {
    const int line = m.by_token ? i % count : i / Shape::states, s = m.by_token ? i / count : i % Shape::states;
    const int64_t state = p.state + s;
    lines[line * Shape::line + s] = line < there && state < p.n ? at(line * step + state * m.n) : 0.0f;
  }
}
template <class X, class Shape>
__device__ __forceinline__ void read_tokens(const ScanMatrix& m, const ScanArgs& p, int64_t b, int64_t c0, int64_t t0,
                                            float* lines) {
  const X* const from = static_cast<const X*>(m.data) + b * m.b + c0 / m.group_size * m.g + t0 * m.t;
  read_lines<Shape>(m, p, Shape::tokens, p.L - t0, m.t, lines, [&](int64_t i) { return widen(from[i]); });
}
template <class Shape>
__device__ __forceinline__ void read_channels(const ScanMatrix& m, const ScanArgs& p, int64_t c0, int64_t c1,
                                              float* lines) {
  read_lines<Shape>(m, p, Shape::channels, c1 - c0, m.d, lines,
                    [&](int64_t i) { return float_at(m.data, m.dtype, c0 * m.d + i); });
}

// Which of its channel's states a lane's element r is: vectors of neighbouring lanes lie side by side.
template <int S, int R>
__device__ __forceinline__ int state_of(int lane, int r) {
  constexpr int V = ScanShape<S, R>::vector;
  return r / V * (S * V) + lane * V + r % V;
}

template <class X, int S, int R>
__global__ void __launch_bounds__(kScanThreads, ScanShape<S, R>::blocks)
    selective_scan(const __grid_constant__ ScanArgs p) {
  using Shape = ScanShape<S, R>;
  constexpr int V = Shape::vector, T = Shape::tokens, kChannels = Shape::channels, kPitch = kChannels + 1,
                kStep = Shape::step;
  extern __shared__ __align__(16) float shared[];
  const bool constant = p.B.constant || p.C.constant;
  const int lines = constant && kChannels > T ? kChannels : T;
  float* const Bs = shared;
  float* const Cs = Bs + lines * Shape::line;
  float* const us = Cs + lines * Shape::line;
  float* const ds = us + T * kPitch;  // delta, then y
  float* const zs = ds + T * kPitch;
  float* const Ds = zs + T * kPitch;
  float* const biases = Ds + kChannels;
  int* const resets = reinterpret_cast<int*>(biases + kChannels);

  const int lane = threadIdx.x % S, channel = threadIdx.x / S;
  const int64_t units = p.d / p.unit, in_unit = (p.unit + kChannels - 1) / kChannels;
  const int64_t tasks = p.batch * units * in_unit;
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const int64_t b = task / (units * in_unit), unit = task / in_unit % units;
    const int64_t c0 = unit * p.unit + task % in_unit * kChannels;
    const int64_t c1 = min((unit + 1) * p.unit, c0 + kChannels), c = c0 + channel;

    __syncthreads();  // the task before may still be read
    for (int i = threadIdx.x; i < kChannels; i += kScanThreads) {
      Ds[i] = p.D.data && c0 + i < c1 ? p.D.at(c0 + i) : 0.0f;
      biases[i] = p.bias.data && c0 + i < c1 ? p.bias.at(c0 + i) : 0.0f;
    }
    if (p.B.constant) read_channels<Shape>(p.B, p, c0, c1, Bs);
    if (p.C.constant) read_channels<Shape>(p.C, p, c0, c1, Cs);
    float h[R], A[R];
#pragma unroll
    for (int r = 0; r < R; r++) {
      const int64_t state = p.state + state_of<S, R>(lane, r);
      const bool in = c < c1 && state < p.n;
      A[r] = in ? float_at(p.A, p.A_dtype, c * p.A_d + state * p.A_n) * kLog2E : 0.0f;
      h[r] = 0;
      if (in && p.initial)
        h[r] = float_at(p.initial, p.initial_dtype, b * p.initial_b + c * p.initial_d + state * p.initial_n);
    }

    for (int64_t t0 = 0; t0 < p.L; t0 += T) {
      __syncthreads();  // the tile before may still be read
      const auto as_is = [](float v, int) { return v; };
      read_tile<X, Shape>(p.u, b, c0, c1, t0, p.L, us, as_is);
      if (p.z.data && p.finishes) read_tile<X, Shape>(p.z, b, c0, c1, t0, p.L, zs, as_is);
      read_tile<X, Shape>(p.delta, b, c0, c1, t0, p.L, ds, [&](float v, int k) {
        v += biases[k];
        return p.softplus ? softplus(v) : v;
      });
      if (!p.B.constant) read_tokens<X, Shape>(p.B, p, b, c0, t0, Bs);
      if (!p.C.constant) read_tokens<X, Shape>(p.C, p, b, c0, t0, Cs);
      if (p.seq)
        for (int t = threadIdx.x; t < T; t += kScanThreads) {
          const int32_t* const at = p.seq + b * p.seq_b + (t0 + t) * p.seq_t;
          resets[t] = t0 + t > 0 && t0 + t < p.L && at[0] != at[-p.seq_t];
        }
      __syncthreads();

      // A line of B or C is a token's or, where constant, the channel's.
      const float* const B = Bs + (p.B.constant ? channel * Shape::line : 0) + lane * V;
      const float* const C = Cs + (p.C.constant ? channel * Shape::line : 0) + lane * V;
      const int B_t = p.B.constant ? 0 : Shape::line, C_t = p.C.constant ? 0 : Shape::line;
      const int end = static_cast<int>(min(static_cast<int64_t>(T), p.L - t0));
      for (int t = 0; t < end; t += kStep) {  // T is a multiple of kStep; past the end Δ is 0
        float y[kStep];
#pragma unroll
        for (int j = 0; j < kStep; j++) {
          const float delta = ds[(t + j) * kPitch + channel], input = delta * us[(t + j) * kPitch + channel];
          if (p.seq && resets[t + j]) {
#pragma unroll
            for (int r = 0; r < R; r++) h[r] = 0;
          }
          y[j] = 0;
#pragma unroll
          for (int r = 0; r < R; r += V) {
            const Floats<V> Bv = load<V>(B + (t + j) * B_t + r * S), Cv = load<V>(C + (t + j) * C_t + r * S);
#pragma unroll
            for (int q = 0; q < V; q++) {
              h[r + q] = decay(delta, A[r + q]).apply(h[r + q], input * Bv.v[q]);
              y[j] = fmaf(h[r + q], Cv.v[q], y[j]);
            }
          }
#pragma unroll
          for (int i = 1; i < S; i <<= 1) y[j] += __shfl_xor_sync(kFullWarp, y[j], i);
        }
        __syncwarp();  // all lanes of the channel have read their deltas
        if (lane == 0) {
#pragma unroll
          for (int j = 0; j < kStep; j++) ds[(t + j) * kPitch + channel] = y[j];
        }
      }
      __syncthreads();

      const Share<Shape> share(p.out.by_token);
      X* const out = static_cast<X*>(p.out.data);
      int64_t to = b * p.out.b + (c0 + share.c) * p.out.d + (t0 + share.t) * p.out.t;
      const int64_t out_step = share.c_step * p.out.d + share.t_step * p.out.t;
#pragma unroll 4
      for (int i = 0; i < Shape::per_thread; i++, to += out_step) {
        const int t = share.t + i * share.t_step, k = share.c + i * share.c_step;
        if (c0 + k >= c1 || t0 + t >= p.L) continue;
        const int at = t * kPitch + k;
        float y = ds[at];
        if (p.adds) y += p.sums[to];
        if (!p.finishes) {
          p.sums[to] = y;
          continue;
        }
        y = fmaf(Ds[k], us[at], y);
        if (p.z.data) y *= silu(zs[at]);
        out[to] = narrow<X>(y);
      }
    }

    if (p.last && c < c1) {
#pragma unroll
      for (int r = 0; r < R; r++) {
        const int64_t state = p.state + state_of<S, R>(lane, r);
        if (state < p.n) p.last[b * p.last_b + c * p.last_d + state * p.last_n] = h[r];
      }
    }
  }
}

}  // namespace seqmix::cuda
