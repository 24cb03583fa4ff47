// One token of the selective scan: h = exp(Δ A) h + Δ B x, in place; out = (C·h + D x) silu(z).
//
// selective_state_update_rows, where the states of a channel lie side by side and every row begins on 16 bytes:
//   G neighbouring lanes take a channel, four states each (Q times), in R rows of the batch at once: R Q loads of
//   16 bytes in flight a thread, A read once for R rows. Lane r of a channel looks after row r: it alone computes
//   softplus(Δ), D x and silu(z) and hands Δ and Δ x to the others; the R sums over lanes leave row r's in lane r.
//   The order of every sum depends on n alone, so that a row's bits are the same in any batch.
//   (Five blocks a multiprocessor: 640 threads with 64 bytes in flight each.)
//   An A that is one number a channel (Mamba-2) costs one exponential a channel and lane instead of one a state.
// selective_state_update: any n, any strides, one row at a time, V states at a time.
// Floor: the state read and written once and A read once: 8 + 4 bytes a state (A and a group's B and C come from the
// caches for a larger batch); about 25 instructions a state, half of what the chip issues in the time of the bytes.
#pragma once
#include "cuda/kernels/any/math.cuh"
#include "cuda/kernels/any/reduce.cuh"
#include "cuda/kernels/any/vector.cuh"

namespace seqmix::cuda {

struct StateUpdateArgs {
  float* state;
  const float *x, *dt, *z, *A, *B, *C, *D, *bias;  // z, D and bias may be null
  const int32_t* indices;                          // may be null
  float* out;
  int64_t b, h, p, n, slots, groups_B, groups_C;
  int64_t state_b, state_h, state_p, state_n, x_b, x_h, x_p, dt_b, dt_h, dt_p, z_b, z_h, z_p, out_b, out_h, out_p;
  int64_t A_h, A_p, A_n, B_b, B_g, B_n, C_b, C_g, C_n, D_h, D_p, bias_h, bias_p, indices_b;
  int lanes;             // a channel: a power of two up to 32
  int heads_B, heads_C;  // of a group; for selective_state_update_rows
  bool softplus;
  uint64_t* index_error;
  uint64_t error;
};

// V elements from index i on of an array whose elements lie `stride` apart: 1, or 0 for a single one, where V is 4.
template <int V>
__device__ __forceinline__ Floats<V> load_states(const float* from, int64_t i, int64_t stride) {
  if constexpr (V == 1) {
    return load<1>(from + i * stride);
  } else {
    if (stride == 1) return load<V>(from + i);
    Floats<V> f;
#pragma unroll
    for (int j = 0; j < V; j++) f.v[j] = from[0];
    return f;
  }
}

template <int V>
__global__ void __launch_bounds__(128) selective_state_update(const __grid_constant__ StateUpdateArgs a) {
  const int64_t channels = a.b * a.h * a.p, step = gridDim.x * int64_t{blockDim.x} / a.lanes;
  const int lane = static_cast<int>(threadIdx.x) % a.lanes;
  const int64_t first = (blockIdx.x * int64_t{blockDim.x} + threadIdx.x) / a.lanes;
  // All lanes of a warp go round together, for the shuffles.
  const int64_t warp_first = (blockIdx.x * int64_t{blockDim.x} + threadIdx.x / 32 * 32) / a.lanes;
  for (int64_t ahead = 0; warp_first + ahead < channels; ahead += step) {
    const int64_t channel = first + ahead;
    const bool in = channel < channels;
    int64_t p = 0, h = 0, b = 0;
    if (in && channels <= INT32_MAX) {
      const uint32_t c = static_cast<uint32_t>(channel), ph = static_cast<uint32_t>(a.p),
                     hs = static_cast<uint32_t>(a.h);
      const uint32_t rest = c / ph, row = rest / hs;
      p = c - rest * ph;
      h = rest - row * hs;
      b = row;
    } else if (in) {
      p = channel % a.p;
      h = channel / a.p % a.h;
      b = channel / a.p / a.h;
    }
    const int64_t slot = a.indices ? a.indices[b * a.indices_b] : b;
    const bool good = in && slot >= 0 && slot < a.slots;
    if (in && slot >= a.slots) report_index_error(a.index_error, a.error);
    float y = 0, x = 0;
    if (good) {
      float delta = a.dt[b * a.dt_b + h * a.dt_h + p * a.dt_p];
      if (a.bias) delta += a.bias[h * a.bias_h + p * a.bias_p];
      if (a.softplus) delta = softplus(delta);
      x = a.x[b * a.x_b + h * a.x_h + p * a.x_p];
      const float input = delta * x;
      float* const state = a.state + slot * a.state_b + h * a.state_h + p * a.state_p;
      const float* const A = a.A + h * a.A_h + p * a.A_p;
      const float* const B = a.B + b * a.B_b + h * a.groups_B / a.h * a.B_g;
      const float* const C = a.C + b * a.C_b + h * a.groups_C / a.h * a.C_g;
      for (int64_t i = lane * V; i < a.n; i += a.lanes * V) {
        const Floats<V> Av = load_states<V>(A, i, a.A_n), Bv = load_states<V>(B, i, a.B_n),
                        Cv = load_states<V>(C, i, a.C_n);
        Floats<V> s = load<V>(state + i * a.state_n);
#pragma unroll
        for (int j = 0; j < V; j++) {
          s.v[j] = decay(delta, Av.v[j] * kLog2E).apply(s.v[j], input * Bv.v[j]);
          y = fmaf(s.v[j], Cv.v[j], y);
        }
        store<V>(state + i * a.state_n, s);
      }
    }
    for (int i = 1; i < a.lanes; i <<= 1) y += __shfl_xor_sync(kFullWarp, y, i);
    if (!in || lane != 0) continue;
    if (good) {
      if (a.D) y = fmaf(a.D[h * a.D_h + p * a.D_p], x, y);
      if (a.z) y *= silu(a.z[b * a.z_b + h * a.z_h + p * a.z_p]);
    }
    a.out[b * a.out_b + h * a.out_h + p * a.out_p] = y;
  }
}

// Row r's sum over a channel's lanes, to every lane l with l % R == r. The same order of additions for every R.
template <int G, int R>
__device__ __forceinline__ float sum_rows(const float (&y)[R]) {
  const unsigned lane = threadIdx.x;
  float v[R];
#pragma unroll
  for (int r = 0; r < R; r++) v[r] = y[r];
  if constexpr (G >= 4) {
    if constexpr (R == 4) {  // halves are exchanged: each lane goes on with the two rows it will need
      const bool upper = lane & 2;
      float kept[2];
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const float given = upper ? v[r] : v[r + 2], own = upper ? v[r + 2] : v[r];
        kept[r] = own + __shfl_xor_sync(kFullWarp, given, 2);
      }
      v[0] = kept[0];
      v[1] = kept[1];
    } else {
#pragma unroll
      for (int r = 0; r < R; r++) v[r] += __shfl_xor_sync(kFullWarp, v[r], 2);
    }
  }
  if constexpr (R >= 2) {
    const bool upper = lane & 1;
    const float given = upper ? v[0] : v[1], own = upper ? v[1] : v[0];
    v[0] = own + __shfl_xor_sync(kFullWarp, given, 1);
  } else {
    v[0] += __shfl_xor_sync(kFullWarp, v[0], 1);
  }
#pragma unroll
  for (int i = 4; i < G; i <<= 1) v[0] += __shfl_xor_sync(kFullWarp, v[0], i);
  return v[0];
}

template <int G, int Q, int R>
__global__ void __launch_bounds__(128, 5) selective_state_update_rows(const __grid_constant__ StateUpdateArgs a) {
  static_assert(R <= G && G >= 2 && R <= 4);
  const uint32_t channels = static_cast<uint32_t>(a.h * a.p), item = blockIdx.x * blockDim.x + threadIdx.x;
  const int lane = static_cast<int>(threadIdx.x % G), n = static_cast<int>(a.n);
  const bool in = item / G < channels;
  const uint32_t channel = in ? item / G : 0, heads_p = static_cast<uint32_t>(a.p);
  const uint32_t h32 = heads_p == 1 ? channel : channel / heads_p;
  const int64_t h = h32, p = channel - h32 * heads_p;
  const int64_t group_B = a.groups_B == 1 ? 0 : h32 / static_cast<uint32_t>(a.heads_B);
  const int64_t group_C = a.groups_C == 1 ? 0 : h32 / static_cast<uint32_t>(a.heads_C);
  float* const state = a.state + h * a.state_h + p * a.state_p + lane * 4;
  const float* const A = a.A + h * a.A_h + p * a.A_p + (a.A_n ? lane * 4 : 0);
  const float* const B = a.B + group_B * a.B_g + lane * 4;
  const float* const C = a.C + group_C * a.C_g + lane * 4;
  bool active[Q];
#pragma unroll
  for (int q = 0; q < Q; q++) active[q] = in && (q * G + lane) * 4 < n;

  for (int64_t row0 = int64_t{blockIdx.y} * R; row0 < a.b; row0 += int64_t{gridDim.y} * R) {
    const int64_t own = row0 + lane % R;
    const bool has = in && own < a.b;
    int slot = -1;
    if (has) {
      slot = a.indices ? a.indices[own * a.indices_b] : static_cast<int>(own);
      if (slot >= a.slots) {
        report_index_error(a.index_error, a.error);
        slot = -1;
      }
    }
    // All loads are set off before the first is used.
    float dt = 0, x = 0, bias = 0, z = 0, D = 0;
    if (slot >= 0) {
      dt = a.dt[own * a.dt_b + h * a.dt_h + p * a.dt_p];
      x = a.x[own * a.x_b + h * a.x_h + p * a.x_p];
      if (a.bias) bias = a.bias[h * a.bias_h + p * a.bias_p];
      if (a.z) z = a.z[own * a.z_b + h * a.z_h + p * a.z_p];
      if (a.D) D = a.D[h * a.D_h + p * a.D_p];
    }
    int slots[R];
    Floats<4> s[R][Q], Av[Q], Bv[R][Q], Cv[R][Q];
#pragma unroll
    for (int r = 0; r < R; r++) {
      slots[r] = __shfl_sync(kFullWarp, slot, r, G);
#pragma unroll
      for (int q = 0; q < Q; q++)
        s[r][q] = slots[r] >= 0 && active[q] ? load<4>(state + slots[r] * a.state_b + q * (G * 4)) : Floats<4>{};
    }
#pragma unroll
    for (int q = 0; q < Q; q++) {
      Av[q] = {};
      if (active[q] && a.A_n) Av[q] = load<4>(A + q * (G * 4));
    }
    if (a.A_n == 0 && in) Av[0].v[0] = A[0];
#pragma unroll
    for (int r = 0; r < R; r++) {
#pragma unroll
      for (int q = 0; q < Q; q++) {
        const bool wanted = slots[r] >= 0 && active[q];
        Bv[r][q] = wanted ? load<4>(B + (row0 + r) * a.B_b + q * (G * 4)) : Floats<4>{};
        Cv[r][q] = wanted ? load<4>(C + (row0 + r) * a.C_b + q * (G * 4)) : Floats<4>{};
      }
    }
    float delta = dt + bias;
    if (a.softplus) delta = softplus(delta);
    const float input = delta * x;
    float y[R];
#pragma unroll
    for (int r = 0; r < R; r++) {
      const float step = __shfl_sync(kFullWarp, delta, r, G), from = __shfl_sync(kFullWarp, input, r, G);
      y[r] = 0;
      if (a.A_n == 0) {
        const Decay d = decay(step, Av[0].v[0] * kLog2E);
#pragma unroll
        for (int q = 0; q < Q; q++) {
#pragma unroll
          for (int j = 0; j < 4; j++) s[r][q].v[j] = d.apply(s[r][q].v[j], from * Bv[r][q].v[j]);
        }
      } else {
#pragma unroll
        for (int q = 0; q < Q; q++) {
#pragma unroll
          for (int j = 0; j < 4; j++)
            s[r][q].v[j] = decay(step, Av[q].v[j] * kLog2E).apply(s[r][q].v[j], from * Bv[r][q].v[j]);
        }
      }
#pragma unroll
      for (int q = 0; q < Q; q++) {
        if (slots[r] >= 0 && active[q]) store<4>(state + slots[r] * a.state_b + q * (G * 4), s[r][q]);
        if (!active[q]) continue;  // not even a NaN, of an infinite step, from lanes without states
#pragma unroll
        for (int j = 0; j < 4; j++) y[r] = fmaf(s[r][q].v[j], Cv[r][q].v[j], y[r]);
      }
    }
    float sum = sum_rows<G, R>(y);
    if (lane >= R || !has) continue;
    if (a.D) sum = fmaf(D, x, sum);
    if (a.z) sum *= silu(z);
    a.out[own * a.out_b + h * a.out_h + p * a.out_p] = slot >= 0 ? sum : 0.0f;
  }
}

}  // namespace seqmix::cuda
