// One token of the selective scan: h = exp(Δ A) h + Δ B x, in place; out = (C·h + D x) silu(z).
//
// G neighbouring lanes (1 to 32, four states each where there are enough) take a channel of a row of the batch: they
// read its states, write them back, and add up C·h by shuffles. V states at a time: four where all rows are aligned.
// Floor: the state read and written once and A read once: 8 + 4 bytes a state (A comes from L2 for a larger batch).
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
  int lanes;  // a channel: a power of two up to 32
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
    const int64_t p = in ? channel % a.p : 0, h = in ? channel / a.p % a.h : 0, b = in ? channel / a.p / a.h : 0;
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

}  // namespace seqmix::cuda
